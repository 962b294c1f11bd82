"""What a monitor holds to have calls performed: :class:`Performers`."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from proctor.call.verdict import Deny, Perform, Verdict, deny
from proctor.errors import (
    CallerInvisible,
    CallGone,
    CallOver,
    MemoryUnreadable,
    NotPermitted,
    Unsupported,
)
from proctor.performing import registry, scarce
from proctor.performing.conversation import Conversation
from proctor.performing.executors import Executors, Start
from proctor.performing.identity import Own, Who, caller_steps, who
from proctor.performing.task import Session, Task
from proctor.performing.trouble import Again, CannotJoin, Refused, Said, TooMany, Trouble

if TYPE_CHECKING:
    from types import TracebackType

    from proctor.call.call import Call
    from proctor.call.caller import Caller
    from proctor.call.verdict import Allow
    from proctor.performing.executors import Wait
    from proctor.performing.steps import Reply

_TRIES: Final = 5
_GONE: Final = "the caller is gone"


class Performers:
    """Performs calls on their callers' behalf, in processes of their own; thread-safe.

    ::

        with Performers() as performers:
            verdict = performers.perform(call)

    or ``Supervisor(..., performer=performers)``: then whoever made it closes it.

    An executor has the caller's namespaces, root, ids, groups, capabilities, umask, cgroups and label;
    ``open`` happens there and nowhere else, so it can never do more than the caller could.  A device
    node is checked there by the kernel and made, as the last step, with CAP_MKNOD, which the monitor
    must have over the host.

    :param nested: whether CAP_MKNOD in a user namespace that the target made for itself is enough to
        make a device node.  "deny" (default) wants the caller in a user namespace that was given by
        :meth:`adopt` or by its container (``owner_userns``); if none was: in the monitor's own or one
        that the monitor's user made directly below it.
    :param owner_userns: inode numbers of ``/proc/PID/ns/user`` of targets, as :meth:`adopt` takes.
    :param o_path: O_PATH descriptors cannot be handed over (C064).  "deny": EOPNOTSUPP, for what
        would have succeeded.  "run": the kernel runs the call itself, by the caller's own rights; a
        path rule can then be raced, but an O_PATH descriptor neither reads nor writes.  Better than
        both is a filter condition that keeps such calls from being notified.
    :param cgroup: "join": executors are members of their caller's cgroups, so that its device rules
        hold and its limits count; where that is impossible, devices are denied (EPERM).  "ignore".
    :param limit: how many calls of one container are performed at the same time; more are denied with
        ENOMEM.  A target can have that many opens blocked in FIFOs.
    :param idle: seconds of silence after which an executor ends.
    :param deadline: seconds that performing may take; None: as long as the caller waits, as the
        kernel would.  Then EPERM.
    :param on_trouble: is told, in a sentence, when an executor failed (not: when a call did).

    Each of ``nested``, ``o_path``, ``cgroup`` and ``limit`` can be given for one container, too, in its
    ``performing`` options.

    Not as in the kernel: see docs/policy.md, and :data:`proctor.performing.untaken.UNTAKEN` for what of a
    caller an executor cannot take on.
    """

    def __init__(
        self,
        *,
        nested: Literal["deny", "allow"] = "deny",
        owner_userns: Iterable[int] = (),
        o_path: Literal["deny", "run"] = "deny",
        cgroup: Literal["join", "ignore"] = "join",
        limit: int = 64,
        idle: float = 3.0,
        deadline: float | None = None,
        on_trouble: Callable[[str], object] | None = None,
    ) -> None:
        for name, value, words in (
            ("nested", nested, ("deny", "allow")),
            ("o_path", o_path, ("deny", "run")),
            ("cgroup", cgroup, ("join", "ignore")),
        ):
            if value not in words:
                raise ValueError(f"{name}={value!r}: it is one of {', '.join(map(repr, words))}")
        if limit < 1 or idle <= 0 or (deadline is not None and deadline <= 0):
            raise ValueError("limit, idle and deadline are more than 0")
        self.deadline = deadline
        self.owners: frozenset[int] = frozenset(owner_userns)
        self.executors = Executors(idle=idle)
        self._options: dict[str, Any] = {
            "nested": nested,
            "o_path": o_path,
            "cgroup": cgroup,
            "limit": limit,
        }
        self._on_trouble = on_trouble
        self._own: Own | None = None
        self._lock = threading.Lock()

    def start(self) -> Performers:
        """Start the executors' mother now rather than at the first call; returns self.

        :raises Trouble: it cannot be started.
        """
        self.executors.mother.start()
        return self

    def close(self) -> None:
        """End every executor; what is being performed is denied.  What does not end, since a file
        system holds it, is told.  Idempotent."""
        left = self.executors.close()
        if left and self._on_trouble is not None:
            self._on_trouble(
                f"{left} executors wait for a file system that does not answer, and end when it does"
            )

    def __enter__(self) -> Performers:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def adopt(self, pid: int) -> None:
        """Take the user namespace of ``pid`` (a target's first process) for a target's own: CAP_MKNOD
        there is enough (see ``nested``).

        :raises OSError: there is no such process.
        """
        with self._lock:
            self.owners = self.owners | {os.stat(f"/proc/{pid}/ns/user").st_ino}

    def __call__(self, call: Call, verdict: Perform) -> Verdict:
        """What ``performer=`` of a supervisor takes: carry ``perform(allow=...)`` out."""
        begun = self.begin(call, verdict)
        return begun.wait() if isinstance(begun, Conversation) else begun

    def perform(self, call: Call, allow: Allow | None = None) -> Verdict:
        """Perform a call; what the kernel says is the verdict.

        :param allow: is asked as :func:`proctor.perform` says, before anything is opened, truncated
            or made.  What has no path that the caller's root shows (pipes, deleted or covered files,
            files outside of the root) is shown as text that does not begin with ``/``.
        :returns: ``hand_over``, ``answer(0)`` or ``deny``.  Trouble of our own is ``deny(EPERM)``
            with the reason; nothing is raised but what ``allow`` raises.
        """
        return self(call, Perform(allow))

    def begin(self, call: Call, wish: Perform) -> Verdict | Conversation:
        """Carry ``perform(allow=...)`` out as far as executors answer at once: the verdict, or a
        conversation to go on with."""

        def translate(failed: BaseException) -> Verdict:
            return self._translate(call, failed)

        if not call.tid:
            return self.trouble(call, "the caller is in a pid namespace that is not to be seen")
        if call.name not in registry.SUPPORTED:
            return deny(errno.ENOSYS, f"nothing here performs {call.name}")
        try:
            caller = call.caller
            work = self._work(call, caller, wish)
            conversation = Conversation(work, caller, _nothing, translate, self.deadline)
        except Exception as failed:
            return translate(failed)
        verdict = conversation.begin()
        return conversation if verdict is None else verdict

    def _work(self, call: Call, caller: Caller, wish: Perform) -> Generator[Wait, Reply, Verdict]:
        own, key = self.own(), caller.key
        options = {**self._options, **_performing(call)}
        wanted = own.to_join(key.cgroups) if options["cgroup"] == "join" else []
        devices = None not in wanted
        session: Session | None = None
        try:
            for _ in range(_TRIES):
                one = who(key, bool(wanted) and devices)
                if session is None:
                    session = self._session(call, caller, one, own, options["limit"])
                task = Task(
                    call,
                    caller,
                    one,
                    own,
                    session,
                    wish=wish,
                    devices=devices,
                    owned=lambda one=one: self._owned(call, caller, one, own, options["nested"]),  # type: ignore[misc]
                    o_path=options["o_path"],
                )
                try:
                    return (yield from registry.perform(task))
                except Again:
                    pass
                except CannotJoin:
                    session.close()
                    session, devices = None, False
                finally:
                    task.close()
        finally:
            if session is not None:
                session.close()
        raise Trouble("executors end in the middle of the call")

    def _session(self, call: Call, caller: Caller, one: Who, own: Own, limit: int) -> Session:
        def become(capable: int, mother: int) -> Start:
            return caller_steps(caller, one, own, capable, self.executors.idle).settle(mother)

        container: Hashable = getattr(call, "container", None)
        key = (one, container)
        return Session(self.executors, key, container, become, caller.check, limit)

    def own(self) -> Own:
        """What the monitor has itself; taken once."""
        own = self._own
        if own is None:
            own = self._own = Own()
        return own

    def _owned(self, call: Call, caller: Caller, one: Who, own: Own, nested: str) -> bool:
        container = getattr(call, "container", None)
        owners = self.owners | (container.owner_userns if container is not None else frozenset())
        if nested == "allow" or one.namespace("user") in owners:
            return True
        if owners:
            return False
        above = caller.userns_origin()
        return above is not None and above == (own.who.namespace("user"), os.geteuid())

    def trouble(self, call: Call, why: str) -> Deny:
        """Our own failure: EPERM, and whoever watches is told."""
        if self._on_trouble is not None:
            self._on_trouble(f"{call.name} of thread {call.tid} was not performed: {why}")
        return deny(errno.EPERM, f"not performed: {why}")

    def _translate(self, call: Call, failed: BaseException) -> Verdict:
        """What is answered for what was raised on the way."""
        if isinstance(failed, Refused):
            return failed.verdict
        if isinstance(failed, Said):
            return deny(failed.errno, failed.reason)
        if isinstance(failed, (CallGone, CallOver)):
            return deny(errno.EINTR, _GONE)
        if isinstance(failed, MemoryUnreadable):
            return deny(failed.errno or errno.EFAULT, str(failed))
        if isinstance(failed, TooMany):
            self.trouble(call, str(failed))
            return deny(errno.ENOMEM, str(failed))
        if isinstance(failed, (Trouble, CallerInvisible, NotPermitted, Unsupported)):
            return self.trouble(call, str(failed))
        if isinstance(failed, OSError):  # out of descriptors, of processes...
            return self.trouble(call, scarce.why(failed))
        if isinstance(failed, ImportError):  # modules are loaded when first used
            return self.trouble(call, f"the monitor cannot load its own code: {failed}")
        raise failed


def _performing(call: Call) -> Mapping[str, Any]:
    """What the call's container says about performing."""
    container = getattr(call, "container", None)
    options: Mapping[str, Any] = container.performing if container is not None else {}
    return options


def _nothing() -> None:
    """Nothing is to be done at the end of a conversation that is not done by its work."""
