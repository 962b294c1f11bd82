"""Verdicts: what is answered to one notified call.

Frozen values from well-named constructors.  The first four are always safe, since they use our
own copy of what was read:

* :func:`deny` — the call fails with an errno;
* :func:`answer` — the call returns a value;
* :func:`hand_over` — the call returns a new descriptor of the target;
* :func:`perform` — the call is performed on the caller's behalf, and its outcome is the answer;
* :func:`let_run` — the kernel runs the call, as if we had not been there.  The kernel reads
  registers and memory *again*, so this is refused for a call whose memory was looked at (C110);
* :func:`let_run_unsafe` — the same, after looking, said in words.

A fifth kind, "let it run with these arguments" (kernels to come), will be one more constructor:
handlers return verdicts and never look inside them.
"""

from __future__ import annotations

import errno as _errno
import operator
import os
from collections.abc import Callable, Iterable
from typing import Final, Union

from proctor.given import MOST_NUMBER, several
from proctor.kernel.abi import MAX_ERRNO, SECCOMP_USER_NOTIF_FLAG_CONTINUE
from proctor.records import NamedTuple

#: (value, error, flags) as SECCOMP_IOCTL_NOTIF_SEND takes them; error is zero or negative.
Wire = tuple[int, int, int]

#: One piece of the caller's memory: its address, and what is put there.
Write = tuple[int, bytes]
#: Most bytes that one verdict may write.
WRITE_MAX: Final = 64 << 20

#: What "let it run" is in the kernel's terms.
RUN: Final[Wire] = (0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE)


class Stated(str):
    """The reason of somebody who was asked, a rule or ``allow`` of :func:`perform`; others tell of a performed call's
    what the kernel said."""

    __slots__ = ()


class Deny(NamedTuple):
    """The call fails with ``errno`` (1..4095).  Make it with :func:`deny`.

    >>> proctor.deny(errno.EPERM) == proctor.Deny(errno.EPERM)
    True
    """

    errno: int
    reason: str = ""

    @property
    def wire(self) -> Wire:
        """The bytes' meaning: value 0, negative errno.

        :raises ValueError: there is none, so that the call would succeed."""
        if not self.errno:
            raise ValueError(f"{self!r} has no errno; deny() would have said so")
        return (0, -self.errno, 0)

    def __str__(self) -> str:
        return f"deny {_errno.errorcode.get(self.errno, self.errno)}"


class Answer(NamedTuple):
    """The call returns ``value``, after ``writes``.  Make it with :func:`answer`.

    >>> proctor.answer(7) == proctor.Answer(7)
    True
    """

    value: int
    reason: str = ""
    writes: tuple[Write, ...] = ()

    @property
    def wire(self) -> Wire:
        """The bytes' meaning: the value, no error."""
        return (self.value, 0, 0)

    def __str__(self) -> str:
        return f"answer {self.value}{_written(self.writes)}"


class HandOver(NamedTuple):
    """The call returns a new descriptor of the target.  Make it with :func:`hand_over`.

    >>> proctor.hand_over(5, at=0) == proctor.HandOver(5, at=0)
    True
    """

    fd: int
    at: int | None = None
    cloexec: bool = False
    close: bool = True
    reason: str = ""
    writes: tuple[Write, ...] = ()

    def __str__(self) -> str:
        at = f" at {self.at}" if self.at is not None else ""
        return f"hand over fd {self.fd}{at}{_written(self.writes)}"


class LetRun(NamedTuple):
    """The kernel runs the call.  Make it with :func:`let_run` or :func:`let_run_unsafe`.

    >>> proctor.let_run_unsafe("only a trace") == proctor.LetRun(True, "only a trace")
    True
    """

    unsafe: bool = False
    reason: str = ""

    @property
    def wire(self) -> Wire:
        """The bytes' meaning: SECCOMP_USER_NOTIF_FLAG_CONTINUE."""
        return RUN

    def __str__(self) -> str:
        return "let run (unsafe)" if self.unsafe else "let run"


#: What :func:`perform` asks for each path of a call: (name of the argument, path of what is pinned).
Allow = Callable[[str, bytes], Union[bool, Deny, None]]


class Perform(NamedTuple):
    """The call is performed on the caller's behalf.  Make it with :func:`perform`.

    >>> proctor.perform() == proctor.Perform()
    True
    """

    allow: Allow | None = None
    reason: str = ""
    #: Of the call's family, as :mod:`proctor.families` makes them; None: its own defaults.
    options: object = None

    def refusal(self, argument: str, path: bytes) -> Deny | None:
        """What ``allow`` has against a pinned path, as a verdict; None if nothing.

        :raises TypeError: it said neither True, False, None nor a denial."""
        if self.allow is None:
            return None
        said = self.allow(argument, path)
        if said is True:
            return None
        if isinstance(said, Deny):
            if not said.reason or isinstance(said.reason, Stated):
                return said
            return said._replace(reason=Stated(said.reason))
        if said is None or said is False:
            return Deny(_errno.EACCES, f"{argument} was not allowed")
        raise TypeError(
            f"allow({argument!r}, {path!r}) is {said!r}: True, False or deny() is wanted"
        )

    def __str__(self) -> str:
        return "perform"


Verdict = Union[Deny, Answer, HandOver, LetRun, Perform]
_LET_RUN: Final = LetRun()
_PERFORM: Final = Perform()
#: The plain denials, made once: values are frozen, and handlers are called often.
_DENIALS: Final = {number: Deny(number) for number in range(1, 134)}


def _is_errno(number: int) -> bool:
    # Windows, where there is nothing but fake targets, has greater ones (ECONNREFUSED is 10061).
    return 1 <= number <= MAX_ERRNO or number in _errno.errorcode


def deny(errno: int, reason: str = "") -> Deny:
    """The call fails with ``errno``.

    >>> str(proctor.deny(errno.EROFS, "rooms are not made here"))
    'deny EROFS'

    :param errno: 1..4095, positive as in the :mod:`errno` module; the sign the kernel wants is
        our business (C054, C055).
    :param reason: for logs and audit; the target does not see it.
    :raises ValueError: for a number the kernel could not carry as an errno.
    """
    if not reason and type(errno) is int and errno in _DENIALS:
        return _DENIALS[errno]
    if not isinstance(errno, int) or isinstance(errno, bool) or not _is_errno(errno):
        raise ValueError(
            f"deny({errno!r}): an errno is a whole number from 1 to {MAX_ERRNO}, as in errno.EPERM"
        )
    return Deny(int(errno), reason)


def answer(value: int, reason: str = "", *, writes: Iterable[Write] = ()) -> Answer:
    """The call returns ``value``, after what it fills was written to the caller's memory.

    ::

        @proctor.on("getrandom")
        def known(call):
            data = b"not so random"[: call.buflen]
            return proctor.answer(len(data), writes=call.fill("buf", data))

        target = FakeTarget()
        assert target.run(known, target.call("getrandom", bytes(5))).value == 5

    :param value: 0 .. 2**63-1, or below -4095.  -4095..-1 would be an errno to libc (C053): use
        :func:`deny`.
    :param writes: pairs of an address and what is put there, in order; :meth:`proctor.Call.fill`
        makes them, for each kind of argument as the kernel fills it.  They are carried out while the
        caller waits, before it is answered, and only where it could write itself: at the first
        byte where it could not, the call fails with EFAULT instead, what was written before staying
        written, as with the kernel's own ``copy_to_user``.
    :raises ValueError: for a value that does not fit, or that libc would read as an errno; for
        writes that are none, or more than 64 MiB.
    """
    if not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"answer({value!r}): a return value is a signed 64-bit number")
    if -MAX_ERRNO <= value < 0:
        raise ValueError(f"answer({value}): libc would take this for an errno; use deny({-value})")
    return Answer(int(value), reason, _writes(writes))


def hand_over(
    fd: int,
    *,
    at: int | None = None,
    cloexec: bool = False,
    close: bool = True,
    reason: str = "",
    writes: Iterable[Write] = (),
) -> HandOver:
    """The call returns a new descriptor of the target that refers to the same file as ``fd``.

    ::

        @proctor.on("openat")
        def ours(call):
            fd = os.memfd_create("ours")
            os.pwrite(fd, b"ours", 0)
            return proctor.hand_over(fd)

        target = FakeTarget()
        assert target.run(ours, target.call("openat", -100, "/etc/motd")).content == b"ours"

    :param fd: a descriptor of the monitor.  Not an ``O_PATH`` one: the kernel refuses those (C064).
    :param at: number it gets in the target, replacing what is there (dup2); lowest free if None.
    :param cloexec: whether it closes when the target execs.
    :param close: True (default) gives ``fd`` away: it is closed exactly once, on every path, also
        when the caller is gone; False leaves it to the giver, who keeps it open until the verdict
        was carried out.
    :param writes: as for :func:`answer`: what accept(2) fills, say.  They are carried out first; where
        they cannot be, nothing is handed over.
    :raises ValueError: for numbers that cannot be descriptors, and as :func:`answer` for writes.

    Since Linux 5.14 (``SECCOMP_ADDFD_FLAG_SEND``); the file offset is shared (C071).
    """
    if not isinstance(fd, int) or isinstance(fd, bool) or not 0 <= fd <= MOST_NUMBER:
        raise ValueError(f"hand_over({fd!r}): not a file descriptor")
    if at is not None and (type(at) is not int or not 0 <= at < 1 << 32):
        raise ValueError(f"hand_over(at={at!r}): not a descriptor number")
    return HandOver(fd, at, cloexec, close, reason, _writes(writes))


def _writes(given: Iterable[Write]) -> tuple[Write, ...]:
    if not given:
        return ()
    made: list[Write] = []
    total = 0
    for each in several("writes", given, "pairs of an address and bytes"):
        try:
            address, data = each
            made.append((operator.index(address), bytes(memoryview(data))))
        except (TypeError, ValueError):
            raise ValueError(f"writes has {each!r}: an address and bytes are wanted") from None
        if not 0 <= made[-1][0] < 1 << 64:
            raise ValueError(f"writes has {address!r}: that is no address")
        total += len(made[-1][1])
    if total > WRITE_MAX:
        raise ValueError(f"writes has {total} bytes; {WRITE_MAX} is the most")
    return tuple(made)


def _written(writes: tuple[Write, ...]) -> str:
    size = sum(len(data) for _, data in writes)
    return f", {size} bytes written" if writes else ""


def perform(allow: Allow | None = None, reason: str = "", *, options: object = None) -> Perform:
    """The call is performed on the caller's behalf: in its namespaces, with its rights plus the one
    it lacks, by a performer (:mod:`proctor.performing`); whatever comes out is the answer.

    ::

        def below_srv(argument, path):
            return path.startswith(b"/srv/") or proctor.deny(errno.EROFS, f"{argument} is elsewhere")

        target = FakeTarget({"/srv/a": b"", "/etc/passwd": b""})
        for path, error in (("/srv/a", 0), ("/etc/passwd", errno.EROFS)):
            call = target.call("openat", -100, path)
            assert target.run(lambda call: proctor.perform(below_srv), call).errno == error

    :param allow: is asked, for each path of the call (rename and link have two), with the name of the
        argument and the path of what the performer has *pinned* for it, as seen from the caller's
        root, before anything is opened, made or changed.  True goes on; False or None refuses with
        EACCES, a :func:`deny` with its own errno.  No race: the performer then uses what it pinned.
        Where it has allowed what a path led to before, it may be asked before that is pinned anew; its word is taken if
        the path leads to the very same, and else it is asked again, about what was found.

    :param options: of the call's family; :mod:`proctor.families` and policies make them.

    A call that has no performer is denied with ENOSYS, and the log says so.

    :raises TypeError: ``allow`` cannot be called.
    """
    if allow is None and not reason and options is None:
        return _PERFORM
    if allow is not None and not callable(allow):
        raise TypeError(
            f"perform(allow={allow!r}): it is called with an argument's name and a path"
        )
    return Perform(allow, reason, options)


def let_run(reason: str = "") -> LetRun:
    """The kernel runs the call with the registers and memory it finds *then*.

    >>> target = FakeTarget()
    >>> target.run(lambda call: proctor.let_run(), target.call("getpid")).ran
    True

    Refused (:class:`~proctor.RacyVerdict`) for a call whose memory was looked at: a thread of the
    target can swap what was read before the kernel reads it again (C110).
    """
    return LetRun(False, reason) if reason else _LET_RUN


def let_run_unsafe(why: str) -> LetRun:
    """The kernel runs the call although its memory was looked at.

    ::

        target = FakeTarget()
        call = target.call("mkdir", "/srv", 0o755)
        assert target.run(lambda call: proctor.let_run_unsafe(f"seen: {call.path}"), call).ran

    A race the target can win: never a security decision, fine for tracing, tests, and where
    another layer holds the line.

    :param why: the reason it is acceptable here, for whoever reads the policy and the log.
    :raises ValueError: without a reason.
    """
    if not isinstance(why, str) or not why.strip():
        raise ValueError(
            "let_run_unsafe() wants the reason why the race is acceptable here, in words"
        )
    return LetRun(True, why)


def close_unused(verdict: object, close: Callable[[int], object] = os.close) -> None:
    """Close the descriptor of a hand-over that will not be carried out (it was given to us).

    :param close: close(2), or what stands for it where descriptors are not the machine's.
    """
    if isinstance(verdict, HandOver) and verdict.close:
        try:
            close(verdict.fd)
        except OSError:
            pass  # the giver closed it against the contract; closing again could hit another file
