"""A command below a supervisor: where the kernel has no second listener (EBUSY), its calls are asked about
by the one above (:mod:`proctor.process.below`), and decided here.

What is decided without a listener (denied by a constant, killed) is in a filter of the command's own, as
ever; what notifies is let through to the filter above, and comes from there.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import deny
from proctor.errors import LaunchError, ProctorError, TargetFdLimit
from proctor.filter.actions import ALLOW, NOTIFY
from proctor.filter.rules import Filter
from proctor.kernel import abi, raw, scm
from proctor.kernel.notification import Notification
from proctor.kernel.threads import quiet_thread
from proctor.process import asking
from proctor.process.below import wanted
from proctor.process.child import Process, spawn_served
from proctor.process.run import DECIDING, Supervision, checked_filter, checked_handlers, filter_for
from proctor.process.standing import children, standing
from proctor.supervisor.container import Container

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.plan import StrOrBytes
    from proctor.kernel.target import Target
    from proctor.process.performing import LazyPerformer
    from proctor.supervisor.deciding import Performer
    from proctor.supervisor.handlers import Handler
    from proctor.supervisor.ports import Later

#: Seconds in which the one above answers a registration.
_PATIENCE: Final = 30.0
#: Times that one is asked which dies.
_TRIES: Final = 5
#: Seconds between looks for processes of the subtree that have come to be our children.
_LOOK: Final = 1.0


def above(environ: Mapping[str, str] = os.environ) -> int:
    """The descriptor that leads to the supervisor above, as the environment has it.

    :raises ProctorError: it says none, or that was closed on the way."""
    text = environ.get(asking.VARIABLE, "")
    if not text.isascii() or not text.isdigit():
        raise ProctorError(f"no supervisor above takes others in ({asking.VARIABLE} is not set)")
    try:
        with socket.socket(fileno=os.dup(int(text))) as sock:
            if (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
                return int(text)
    except OSError:
        pass
    raise ProctorError(
        f"the way to the supervisor above, descriptor {text} ({asking.VARIABLE}), was closed by a program in "
        "between: it has to pass it on"
    )


class Asked:
    """One call that the one above asks about: a
    :class:`~proctor.supervisor.ports.ListenerPort`."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)
        self._lock = threading.Lock()

    def __del__(self) -> None:
        self._sock.close()

    def fileno(self) -> int:
        """As :class:`~proctor.supervisor.ports.ListenerPort`, also below: it is none of the kernel's."""
        return -1

    def recv(self, into: memoryview | None = None, slot: int = -1) -> Notification | None:
        """It was received."""
        return None

    def _ask(self, what: int, value: int = 0, flags: int = 0, fds: Sequence[int] = ()) -> Any:
        """What comes back: a value and an errno; None if nobody waits for the answer any more."""
        try:
            scm.send(self._sock, asking.SAID.pack(what, value, 0, flags), fds)
            data = self._sock.recv(asking.REPLY.size)
        except OSError:
            return None
        return asking.REPLY.unpack(data) if len(data) == asking.REPLY.size else None

    def id_valid(self, id: int) -> bool:
        """Asked of the one above."""
        if not self._lock.acquire(blocking=False):
            return True  # somebody is just asking, and will hear of it
        try:
            reply = self._ask(asking.VALID)
        finally:
            self._lock.release()
        return reply is not None and bool(reply[0])

    def may_perform(self) -> bool:
        """Whether those further below let it; it takes as long as they do."""
        with self._lock:
            return self._ask(asking.PERFORM) is not None

    def addfd(
        self,
        id: int,
        srcfd: int,
        *,
        at: int | None = None,
        cloexec: bool = False,
        send: bool = False,
    ) -> int | None:
        """Through the one above; with ``send`` the number is not known here, and 0."""
        flags = asking.CLOEXEC * cloexec | asking.SEND * send
        with self._lock:
            reply = self._ask(asking.ADDFD, -1 if at is None else at, flags, [srcfd])
        if reply is None or (reply[0] < 0 and not reply[1]):
            return None
        if reply[1]:
            raise TargetFdLimit(reply[1], os.strerror(reply[1]))
        return int(reply[0])

    def send(self, id: int, value: int, error: int, flags: int) -> bool:
        """Through the one above."""
        with self._lock:
            try:
                scm.send(self._sock, asking.SAID.pack(asking.ANSWER, value, error, flags))
            except OSError:
                return False
        return True

    def close(self) -> None:
        """It closes with the last who has it."""


class Delegated(Supervision):
    """Makes the supervisor of a command below another one.

    :param way: the inherited descriptor.
    :param calls: what the one above is to ask about.
    :raises ProctorError: it does not want to, and why.
    """

    def __init__(
        self,
        handlers: tuple[Handler, ...],
        options: dict[str, Any],
        way: int,
        calls: Iterable[str],
    ) -> None:
        super().__init__(handlers, options)
        self._container = Container(quotas=self._quotas, logging=self._logging)
        self._target: Target | None = None
        self._sock = _register(way, json.dumps({"calls": sorted(calls)}).encode())
        here = standing(os.getpid())
        #: How many filters processes of the subtree have at least.
        self._least = asking.MARKS + (0 if here is None else here.filters)

    def performer(self, ours: LazyPerformer) -> Performer:
        """Performs what those further below let be performed."""

        def perform(call: Call, verdict: Perform) -> Verdict | Later:
            port: Any = call._listener
            if not port.may_perform():
                return deny(4, "it was answered above, or further below")  # nobody hears this
            return ours(call, verdict)

        return perform

    def take(self, target: Target) -> None:
        """Decide what is asked from now on."""
        self._target = target
        if self._ours is not None and any(handler.performs for handler in self._handlers):
            self._ours.start_early()

    def begin(self, argv: Sequence[StrOrBytes]) -> None:
        """Ask for our orphans, by whom we are known, and begin."""
        raw.adopt_orphans()
        super().begin(argv)
        try:
            quiet_thread(self._receive, "proctor-below")
        except RuntimeError:
            raise LaunchError("thread", 11, "cannot start a thread to supervise") from None

    def _receive(self) -> None:
        supervisor = self.supervising()
        while True:
            try:
                message = scm.receive(self._sock, abi.SECCOMP_NOTIF.size)
            except OSError:
                return
            if not message.data:
                return  # the one above is gone
            if len(message.fds) != 1 or len(message.data) != abi.SECCOMP_NOTIF.size:
                message.close()
                continue
            id, pid, flags, nr, arch, ip, a, b, c, d, e, f = abi.SECCOMP_NOTIF.unpack(message.data)
            note = Notification(id, pid, nr, arch, (a, b, c, d, e, f), ip, flags)
            try:
                supervisor.submit(note, Asked(message.fds[0]), self._container)
            except RuntimeError:
                return  # it is closed, and whoever asks hears that we hang up

    def wait(self, timeout: float | None) -> bool:
        """Until nobody of the subtree is left, who all come to be our children."""
        until = None if timeout is None else time.monotonic() + timeout
        nobody = False
        while True:
            left, ended = self._left()
            if not left:
                # the children of whoever ended came to be ours after it was seen whom we have
                if nobody and not ended:
                    return True
                nobody = not ended
                continue
            nobody = False
            try:
                patience = _LOOK if until is None else min(_LOOK, until - time.monotonic())
                if patience <= 0:
                    return False
                poll = select.poll()
                for pidfd in left:
                    poll.register(pidfd, select.POLLIN)
                poll.poll(patience * 1000)
            finally:
                for pidfd in left:
                    os.close(pidfd)

    def _left(self) -> tuple[list[int], bool]:
        """pidfds of those that run, and whether some do no longer, who are reaped."""
        assert self._target is not None
        found: list[int] = []
        ended = False
        for pid in children():
            here = standing(pid)
            if here is not None and here.filters < self._least:
                continue
            try:
                if pid == self._target.pid:
                    over = self._target.poll() is not None
                elif here is None or here.zombie:
                    over = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
                else:
                    over = False
                if not over and here is not None:
                    found.append(os.pidfd_open(pid))
            except (ChildProcessError, ProcessLookupError):
                over = True
            ended |= over
        return found, ended

    def close(self) -> None:
        """See there; what still runs then gets ENOSYS for what was asked about here."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        super().close()


def _register(way: int, data: bytes) -> socket.socket:
    """Register; the connection on which it is asked.

    :raises ProctorError: the one above does not want to, and why."""
    word: dict[str, Any] = {}
    for _ in range(_TRIES):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_PATIENCE)
        try:
            with theirs, socket.socket(fileno=os.dup(way)) as sock:
                scm.send(sock, data, [theirs.fileno()])
            said = scm.receive(ours).data
        except OSError as problem:
            ours.close()
            raise ProctorError(f"the supervisor above does not answer: {problem}") from None
        word = json.loads(said or b"{}")
        if "served" in word:
            ours.settimeout(None)
            return ours
        ours.close()
        if said:
            break  # if not, a monitor died that had just received it, and the next one may be there
    raise ProctorError(
        f"the supervisor above does not take this one in: {word.get('error', 'it is gone')}"
    )


def spawn_below(
    argv: Sequence[StrOrBytes], handlers: Iterable[Handler] = (), **options: Any
) -> Process:
    """As :func:`proctor.spawn`, below another supervisor.

    :raises ProctorError: there is none that takes others in, or it does not take this one.
    """
    way = above()
    os.set_inheritable(way, False)
    given = dict(options)
    given.pop("delegate", None)
    handlers = checked_handlers(handlers)
    base = checked_filter(given.pop("filter", None))
    filter = filter_for(handlers) if base is None else base
    deciding = {name: given.pop(name) for name in DECIDING & given.keys()}
    made = Delegated(handlers, deciding, way, () if filter is None else wanted(filter))
    made.supervisor = made()
    given["pass_fds"] = [*given.get("pass_fds", ()), way]
    given |= {"listen": False, "marks": asking.MARKS}
    program = None if filter is None else _quiet(filter).compile().code
    return spawn_served(argv, program, made, given)


def _quiet(filter: Filter) -> Filter:
    """The same, with what notifies let through to the filter above."""
    rules = [
        rule._replace(action=ALLOW) if rule.action == NOTIFY else rule for rule in filter.rules
    ]
    default = ALLOW if filter.default == NOTIFY else filter.default
    return Filter(rules, default, filter.arches, filter.foreign, filter.x32, strict=False)
