"""Everything proctor raises, in one tree.

::

    ProctorError
    ├── Unsupported        (OSError ENOSYS)   this kernel or machine lacks a feature
    ├── NestedListener     (OSError EBUSY)    a listener already sits above us
    ├── NotPermitted       (PermissionError)  the kernel refuses us the operation itself
    ├── LaunchError        (OSError)          a target could not be started: step and errno
    ├── CallError          everything about one notified call
    │   ├── CallGone       (ProcessLookupError)  the caller is gone or was interrupted
    │   │   └── ListenerClosed (ValueError)   its listener was closed here
    │   ├── CallOver       (RuntimeError)     a Call was used after its handler returned
    │   ├── AlreadyAnswered (RuntimeError)    a second verdict for one call
    │   ├── NotReceived    (RuntimeError)     an answer before the notification was received
    │   ├── CallerInvisible (LookupError)     the caller has no pid in our pid namespace
    │   ├── MemoryUnreadable (OSError)        the caller's memory could not be read
    │   ├── MemoryUnwritable (OSError)        nor written to
    │   ├── NotResolved    (OSError)          a path could not be followed, with the monitor's rights
    │   ├── TargetFdLimit  (OSError)          the target cannot take another descriptor
    │   └── RacyVerdict    (ValueError)       "let it run" after its memory was looked at
    ├── FilterError        (ValueError)       a rule, program or profile that cannot be
    └── PolicyError        (ValueError)       a policy or handler file that cannot be

Each class derives from the builtin it resembles; those that are :class:`OSError` carry
``errno`` and ``strerror``.  Where known, an error carries ``pid`` (thread id of the caller), ``syscall``
(name) and ``notif_id``.  Messages end in what to do.

"The caller is gone" (ENOENT from RECV, SEND, ADDFD or ID_VALID) is an ordinary event: the
library's own loops never let :class:`CallGone` out; only code that asks a dead call for more
sees it.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import Any, Final, Self

#: Errors of a look at something that say nothing of it: we are out of descriptors or memory.
SCARCE: Final = (_errno.EMFILE, _errno.ENFILE, _errno.ENOMEM)


class ProctorError(Exception):
    """Root of everything proctor raises on purpose.

    >>> issubclass(proctor.CallGone, proctor.ProctorError)
    True
    """

    #: Thread id of the caller, as the monitor sees it; None if no call is involved.
    pid: int | None = None
    #: System call name; None if no call is involved.
    syscall: str | None = None
    #: Notification id; None if no call is involved.
    notif_id: int | None = None

    def about(
        self, *, pid: int | None = None, syscall: str | None = None, notif_id: int | None = None
    ) -> Self:
        """Attach which call this is about, and return self."""
        self.pid = pid if pid is not None else self.pid
        self.syscall = syscall if syscall is not None else self.syscall
        self.notif_id = notif_id if notif_id is not None else self.notif_id
        return self

    def __str__(self) -> str:
        text = self.args[-1] if self.args and isinstance(self.args[-1], str) else super().__str__()
        where = []
        if self.syscall is not None:
            where.append(self.syscall)
        if self.pid is not None:
            where.append(f"pid {self.pid}")
        if self.notif_id is not None:
            where.append(f"id {self.notif_id:#x}")
        return f"{text} [{', '.join(where)}]" if where else text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(cls: type[ProctorError], args: tuple[Any, ...], state: dict[str, Any]) -> ProctorError:
    """Unpickle without running the subclass's own constructor."""
    made = cls.__new__(cls, *args)
    if isinstance(made, OSError):
        OSError.__init__(made, *args)  # errno and strerror are no entries of its dictionary
    made.args = args
    made.__dict__.update(state)
    return made


class Unsupported(ProctorError, OSError):
    """A feature is missing here: which, since which kernel it exists, what that changes.

    >>> proctor.Unsupported("a pidfd of one thread", "6.9", "its process is pinned instead").since
    '6.9'
    """

    def __init__(self, feature: str, since: str, consequence: str) -> None:
        super().__init__(
            _errno.ENOSYS,
            f"{feature} is not available here (Linux {since} has it): {consequence}",
        )
        self.feature = feature
        self.since = since


class NestedListener(ProctorError, OSError):
    """EBUSY: a filter above this process already has a listener (C018).

    >>> proctor.NestedListener().errno == errno.EBUSY
    True
    """

    def __init__(self) -> None:
        super().__init__(
            _errno.EBUSY,
            "another seccomp listener already sits above this process, and the kernel allows one "
            "per chain of filters: this happens inside a supervised container, under WSL, or under "
            "another supervisor; `proctor doctor` says whose it is, as far as can be told, and what helps",
        )


class NotPermitted(ProctorError, PermissionError):
    """The kernel refuses the operation for lack of privilege: (errno, message).

    >>> FakeTarget(dumpable=False).call("getpid").caller.root()
    Traceback (most recent call last):
    NotPermitted: ...
    """


class LaunchError(ProctorError, OSError):
    """A target could not be started.  ``step`` names the step that failed, ``errno`` says why.

    ::

        try:
            proctor.run(["/no/such/command"])
        except proctor.LaunchError as problem:
            assert (problem.step, problem.errno) == ("execve", errno.ENOENT)
    """

    def __init__(self, step: str, number: int, detail: str, more: str = "") -> None:
        super().__init__(number, f"{detail}: {os.strerror(number)}{more}")
        self.step = step
        self.detail = detail


class CallError(ProctorError):
    """Something about one notified call.

    >>> str(proctor.CallError("no answer").about(pid=4711, syscall="mkdir"))
    'no answer [mkdir, pid 4711]'
    """


class CallGone(CallError, ProcessLookupError):
    """The caller died or was interrupted; the notification exists no more.

    >>> target = FakeTarget()
    >>> call = target.call("mkdir", "/srv", 0o755)
    >>> target.die()
    >>> call.path
    Traceback (most recent call last):
    CallGone: ...
    """

    def __init__(self, message: str = "the caller is gone; nothing is left to answer") -> None:
        super().__init__(_errno.ENOENT, message)


class ListenerClosed(CallGone, ValueError):
    """The listener was closed here.  To whoever is still at one of its calls, that caller is gone.

    >>> raise ListenerClosed
    Traceback (most recent call last):
    ListenerClosed: ...
    """

    def __init__(self, message: str = "this listener is closed") -> None:
        super().__init__(message)


class CallOver(CallError, RuntimeError):
    """A Call was used after its verdict was given.

    >>> target = FakeTarget()
    >>> call = target.call("mkdir", "/srv", 0o755)
    >>> outcome = target.run(lambda call: proctor.deny(errno.EROFS), call)
    >>> call.path
    Traceback (most recent call last):
    CallOver: ...
    """


class AlreadyAnswered(CallError, RuntimeError):
    """A second verdict was given for one call: EINPROGRESS of
    SECCOMP_IOCTL_NOTIF_SEND and ADDFD (seccomp_unotify(2)).

    >>> issubclass(proctor.AlreadyAnswered, proctor.CallError)
    True
    """


class NotReceived(CallError, RuntimeError):
    """An answer for a call that is still queued: SEND or ADDFD before RECV
    (EINPROGRESS as well, seccomp_unotify(2)).

    >>> issubclass(proctor.NotReceived, proctor.CallError)
    True
    """


class CallerInvisible(CallError, LookupError):
    """The caller has no number in our pid namespace (pid 0): it can be answered, not looked at.

    >>> FakeTarget(tid=0).call("getpid").caller.uids
    Traceback (most recent call last):
    CallerInvisible: ...
    """


class _MemoryError(CallError, OSError):
    def __init__(self, number: int, message: str, address: int = 0) -> None:
        super().__init__(number, message)
        self.address = address


class MemoryUnreadable(_MemoryError):
    """The caller's memory could not be read; ``errno`` is what the call itself would get (EFAULT),
    or EPERM when the kernel does not let us look (a non-dumpable target).

    >>> FakeTarget().call("mkdir", 8, 0o755).path
    Traceback (most recent call last):
    MemoryUnreadable: ...
    """


class MemoryUnwritable(_MemoryError):
    """The caller's memory could not be written to: EFAULT where the caller could not either, EPERM
    when the kernel does not let us.

    >>> proctor.Memory(os.getpid()).write(8, b"x")
    Traceback (most recent call last):
    MemoryUnwritable: ...
    """


class NotResolved(CallError, OSError):
    """A path of the caller's could not be followed for naming; ``errno`` is what the *monitor* met.

    >>> FakeTarget().call("mkdir", "/no/where/new", 0o755).resolve()
    Traceback (most recent call last):
    NotResolved: ...

    That is for logs.  The caller's own way may end elsewhere, at a directory that it may not search,
    and one that is given the monitor's errno learns what exists where it may not look: perform() the
    call, or answer with an errno of your own."""


class TargetFdLimit(CallError, OSError):
    """The target cannot take another descriptor (its RLIMIT_NOFILE): EMFILE, or EBADF for a
    chosen number beyond the limit (C068).

    >>> issubclass(proctor.TargetFdLimit, OSError)
    True
    """


class RacyVerdict(CallError, ValueError):
    """``let_run()`` for a call whose memory was looked at (C110).

    >>> target = FakeTarget()
    >>> call = target.call("mkdir", "/srv", 0o755)
    >>> type(target.run(lambda call: proctor.let_run(call.path.decode()), call).error)
    <class 'proctor.errors.RacyVerdict'>
    """


class FilterError(ProctorError, ValueError):
    """A rule, condition, program or profile that cannot be.

    >>> proctor.Filter([proctor.Rule(("mkdri",), proctor.actions.NOTIFY)])
    Traceback (most recent call last):
    FilterError: ...
    """


class PolicyError(ProctorError, ValueError):
    """A policy or handler file that cannot be; the message has file, line and key where known.

    >>> from proctor.policy import loads
    >>> loads("[[rule]]")
    Traceback (most recent call last):
    PolicyError: ...
    """
