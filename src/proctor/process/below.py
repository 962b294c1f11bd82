"""Supervisors below this one: a ``proctor run`` in a tree that is supervised already, where the kernel has
no second listener (EBUSY).

It registers over a socket that the tree inherits (:mod:`proctor.process.asking`), and from then on has its
say about the calls of its own subtree that this one would let run, or perform.  It decides in its own
process, with its own rights, and answers through us; nothing that it says reaches a caller outside its
subtree.

A subtree is known by two things that its processes cannot change: whose descendants they are, as long as
the supervisor lives, which is their subreaper; and how many filters they have, which is many more than it
has itself.  Whoever has those filters and no living supervisor above gets ENOSYS for what that wanted, as
if it had had a listener.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import Answer, HandOver, Perform, deny
from proctor.errors import ProctorError, TargetFdLimit
from proctor.filter.actions import ALLOW, LOG
from proctor.kernel import abi, scm
from proctor.process import asking
from proctor.process.standing import Standing, lineage, standing
from proctor.supervisor.ports import Later
from proctor.syscalls import tables

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Verdict
    from proctor.filter.rules import Filter
    from proctor.supervisor.supervisor import Supervisor

#: Most supervisors that are served at a time, and most calls that one can want.
_MOST: Final = 64
_MOST_CALLS: Final = 2048
#: Registrations that are looked at before callers have their turn.
_AT_ONCE: Final = 8
#: Seconds until a supervisor that is asked too much is asked again.
_PAUSE: Final = 0.005
_CREDENTIALS: Final = struct.Struct("=iII")
_ROOM: Final = socket.CMSG_SPACE(4 * 8) + socket.CMSG_SPACE(_CREDENTIALS.size)
#: The lowest number under which a target inherits the socket, if there is room.
_NUMBER: Final = 100
_GONE: Final = "the supervisor below that had a say about it is gone"


class _Inner:
    """One that registered."""

    def __init__(self, pid: int, sock: socket.socket, calls: frozenset[str], depth: int) -> None:
        here = standing(pid)
        if here is None:
            raise ProctorError("it is gone")
        self.pid = pid
        self.sock = sock
        self.calls = calls
        #: Filters of its own, and how many of its kind are above and with it.
        self.filters = here.filters
        self.depth = depth
        #: Where its pid namespace's numbers are among those of a process.
        self.level = len(here.numbers) - 1
        self._pidfd = os.pidfd_open(pid)

    @property
    def alive(self) -> bool:
        """Whether it may still be asked."""
        poll = select.poll()  # which only one thread may use at a time
        poll.register(self._pidfd, select.POLLIN)
        poll.register(self.sock, 0)
        return not poll.poll(0)

    def close(self) -> None:
        self.sock.close()
        os.close(self._pidfd)


class Below:
    """Has those below asked: the ``below`` of a :class:`~proctor.supervisor.supervisor.Supervisor`.

    :param filter: of the tree: a call that it lets run unseen nobody can be asked about.
    """

    def __init__(self, filter: Filter) -> None:
        self._filter = filter
        self._supervisor: Supervisor | None = None
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        me = standing(os.getpid())
        #: Filters that every process of the tree has.
        self._base = 1 + (0 if me is None else me.filters)
        self._inners: tuple[_Inner, ...] = ()
        #: What those wanted that are gone, by the filters that their processes have at least.
        self._left: dict[int, frozenset[str]] = {}
        self._wanted: frozenset[str] = frozenset()

    # The tree's side --------------------------------------------------------------------------
    def attach(self, supervisor: Supervisor) -> None:
        """Listen, by a supervisor that is about to start."""
        self._supervisor = supervisor
        supervisor.watch(self._ours.fileno(), self._knocked)
        supervisor.on_close(self.close)

    def pass_on(self, options: dict[str, Any]) -> None:
        """Have a command that is launched with these options inherit the way to us."""
        try:
            number = fcntl.fcntl(self._theirs, fcntl.F_DUPFD_CLOEXEC, _NUMBER)
        except OSError:
            number = fcntl.fcntl(self._theirs, fcntl.F_DUPFD_CLOEXEC, 3)
        self._theirs.close()
        self._theirs = socket.socket(fileno=number)
        env = os.environb if options.get("env") is None else options["env"]
        made = {os.fsencode(key): os.fsencode(value) for key, value in env.items()}
        made[asking.VARIABLE.encode()] = b"%d" % number
        options["env"] = made
        options["pass_fds"] = [*options.get("pass_fds", ()), number]

    def launched(self) -> None:
        """It did."""
        self._theirs.close()

    def close(self) -> None:
        """Serve nobody below any more; idempotent."""
        for each in (self._ours, self._theirs):
            each.close()
        for inner in self._inners:
            inner.close()
        self._inners = ()

    # Registering ------------------------------------------------------------------------------
    def _knocked(self) -> None:
        """On the thread that receives."""
        supervisor = self._supervisor
        try:
            for _ in range(_AT_ONCE):
                data, ancillary, _, _ = self._ours.recvmsg(
                    asking.LONGEST, _ROOM, socket.MSG_CMSG_CLOEXEC
                )
                pid, fds = _came(ancillary)
                try:
                    if not data and pid <= 0:
                        return  # nobody of the tree has the other end any more
                    self._register(data, pid, fds)
                finally:
                    for fd in fds:
                        os.close(fd)
        except BlockingIOError:
            pass
        except OSError:
            return  # it was closed
        assert supervisor is not None
        supervisor.unwatch(self._ours.fileno())
        supervisor.watch(self._ours.fileno(), self._knocked)

    def _register(self, data: bytes, pid: int, fds: list[int]) -> None:
        """Take one in, or tell it why not; what is taken of the descriptors is taken out of the list."""
        if len(fds) != 1:
            return  # nobody to be told
        try:
            sock = socket.socket(fileno=fds.pop())
        except OSError:
            return  # it is none
        sock.setblocking(False)
        word: dict[str, Any] = {"served": True}
        try:
            self._take_in(data, pid, sock)
        except (ProctorError, OSError) as problem:
            word = {"error": str(problem)}
        try:
            scm.send(sock, json.dumps(word).encode())
        except OSError:
            pass  # it is gone, or none of those that register
        if "error" in word:
            sock.close()

    def _take_in(self, data: bytes, pid: int, sock: socket.socket) -> None:
        calls = _calls(data)
        line = lineage(pid)
        if line is None or pid != line[0].tgid:
            raise ProctorError("it cannot be looked at")
        chain = self._chain(line)
        if chain is None:
            raise ProctorError(_GONE)
        if not line[0].heads:
            raise ProctorError(
                "programs that it starts may have more rights than it has: it needs no_new_privs, or "
                "CAP_SYS_ADMIN"
            )
        unseen = [name for name in sorted(calls) if not self._sees(name)]
        if unseen:
            raise ProctorError(
                f"the one above does not see {', '.join(unseen)}: start that with --delegate "
                f"{','.join(unseen)}, and without a rule that lets it run"
            )
        self._inners = tuple(inner for inner in self._inners if not self._buried(inner))
        if len(self._inners) >= _MOST:
            raise ProctorError(f"{_MOST} are below already")
        self._inners += (_Inner(pid, sock, calls, len(chain) + 1),)
        first = not self._wanted
        self._wanted |= calls
        if first and self._supervisor is not None:
            self._supervisor.reroute()

    def _buried(self, inner: _Inner) -> bool:
        """Whether it is gone; what it wanted is kept."""
        if inner.alive:
            return False
        least = inner.filters + asking.MARKS
        self._left[least] = self._left.get(least, frozenset()) | inner.calls
        inner.close()
        return True

    def _sees(self, name: str) -> bool:
        """Whether none of the call runs without our being asked."""
        if not tables.exists(name):
            return True  # it is never made
        for arch, bodies in self._filter.bodies().items():
            number = tables.numbers(arch).get(name)
            if number is not None and _may_run(bodies.get(number, ()), self._filter.default):
                return False
        return self._filter.foreign not in (ALLOW, LOG)

    # Asking -----------------------------------------------------------------------------------
    @property
    def active(self) -> bool:
        """As :class:`~proctor.supervisor.ports.Below`."""
        return bool(self._wanted)

    def __call__(self, call: Call, verdict: Verdict) -> Verdict | Later | None:
        """See there."""
        name = call.name
        if name not in self._wanted:
            return None
        line = lineage(call.tid)
        if line is None:
            return deny(errno.ENOSYS, _GONE)  # or the caller is, which then does not matter
        chain = self._chain(line)
        if chain is None:
            return self._orphaned(name, line[0].filters)
        inners = [inner for inner in chain if name in inner.calls]
        if not inners:
            return None
        return Question(call, line[0], inners, verdict, lambda: verdict).ask()

    def _orphaned(self, name: str, filters: int) -> Verdict | None:
        """What a process gets that has the marks of one that is not above it any more."""
        wanted = any(name in calls for least, calls in self._left.items() if filters >= least)
        if wanted or any(
            name in inner.calls and filters >= inner.filters + asking.MARKS
            for inner in self._inners
        ):
            return deny(errno.ENOSYS, _GONE)
        return None

    def _chain(self, line: Sequence[Standing]) -> list[_Inner] | None:
        """Those above a thread, the outermost first; None if one is missing."""
        known = {inner.pid: inner for inner in self._inners}
        chain: list[_Inner] = []
        filters = line[0].filters
        for each in line[1:]:
            inner = known.get(each.tgid)
            # its executors, and what its handlers start, are no part of its subtree
            if inner is not None and filters >= inner.filters + asking.MARKS and inner.alive:
                chain.insert(0, inner)
        if chain:
            whole = len(chain) == chain[-1].depth and filters < chain[-1].filters + 2 * asking.MARKS
        else:
            whole = filters < self._base + asking.MARKS
        return chain if whole else None


class Question:
    """One call, asked about below.

    :param caller: who made it.
    :param inners: who is to be asked, in order.
    :param verdict: what was decided here.
    :param then: what comes of it where they all let it run.
    :param before: the question that waits for this one.
    """

    def __init__(
        self,
        call: Call,
        caller: Standing,
        inners: Sequence[_Inner],
        verdict: Verdict,
        then: Callable[[], Verdict | Later],
        before: Question | None = None,
    ) -> None:
        self._call = call
        self._caller = caller
        self._inner, *self._others = inners
        self._verdict = verdict
        self._then = then
        self._before = before
        self._sock, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.setblocking(False)

    def ask(self) -> Verdict | Later:
        """Ask; the answer, if it is known at once."""
        call, note = self._call, self._call._notification
        number = self._caller.numbers[self._inner.level]
        data = abi.SECCOMP_NOTIF.pack(
            call.id, number, note.flags, note.nr, note.arch & 0xFFFFFFFF, note.ip, *note.args
        )
        try:
            scm.send(self._inner.sock, data, [self._theirs.fileno()])
        except OSError as problem:
            if problem.errno in (errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS):
                return self._later(self.ask, _PAUSE)
            return self._over(deny(errno.ENOSYS, _GONE))
        self._theirs.close()
        return self._later(self._heard)

    def _later(self, resume: Callable[[], Verdict | Later], wait: float | None = None) -> Later:
        return Later(self._sock.fileno(), resume, self.close, wait)

    def _heard(self) -> Verdict | Later:
        """Something came."""
        try:
            message = scm.receive(self._sock, asking.SAID.size)
        except BlockingIOError:
            return self._later(self._heard)
        except OSError:
            return self._over(deny(errno.ENOSYS, _GONE))
        fds = list(message.fds)
        try:
            if len(message.data) != asking.SAID.size:
                return self._over(deny(errno.ENOSYS, _GONE))
            what, value, error, flags = asking.SAID.unpack(message.data)
            return self._said(what, value, error, flags, fds)
        except OSError:
            return self._over(deny(errno.ENOSYS, _GONE))  # it does not take the reply
        finally:
            for fd in fds:
                os.close(fd)

    def _said(
        self, what: int, value: int, error: int, flags: int, fds: list[int]
    ) -> Verdict | Later:
        listener, id = self._call._listener, self._call.id
        who = f"process {self._inner.pid}, below"
        if what == asking.ANSWER and flags & abi.SECCOMP_USER_NOTIF_FLAG_CONTINUE:
            return self._goes_on()
        if what == asking.ANSWER:
            if error:
                return self._over(deny(-error if -4096 < error < 0 else errno.EPERM, who))
            return self._over(Answer(value, reason=who))
        if what == asking.PERFORM:
            if isinstance(self._verdict, Perform):
                return self._goes_on()  # whoever is outermost performs
            if self._others:
                rest = Question(
                    self._call, self._caller, self._others, self._verdict, self._may_perform, self
                )
                return rest.ask()
            return self._may_perform()
        if what == asking.ADDFD and len(fds) == 1:
            at = value if value >= 0 else None
            if flags & asking.SEND:
                self._reply(0)
                return self._over(HandOver(fds.pop(), at, bool(flags & asking.CLOEXEC), reason=who))
            try:
                number = listener.addfd(id, fds[0], at=at, cloexec=bool(flags & asking.CLOEXEC))
            except (TargetFdLimit, OSError) as problem:
                self._reply(-1, problem.errno or errno.EIO)
            else:
                self._reply(-1 if number is None else number)
            return self._later(self._heard)
        if what != asking.VALID:
            return self._over(deny(errno.ENOSYS, f"{who}, says what is nothing"))
        self._reply(int(listener.id_valid(id)))
        return self._later(self._heard)

    def _goes_on(self) -> Verdict | Later:
        """It may, as far as this one is concerned."""
        self._sock.close()
        if not self._others:
            return self._then()
        rest = Question(
            self._call, self._caller, self._others, self._verdict, self._then, self._before
        )
        return rest.ask()

    def _may_perform(self) -> Later:
        self._reply(1)
        return self._later(self._heard)

    def _reply(self, value: int, error: int = 0) -> None:
        scm.send(self._sock, asking.REPLY.pack(value, error))

    def _over(self, verdict: Verdict) -> Verdict:
        self.close()
        return verdict

    def close(self) -> None:
        """Nobody waits for what comes of it, nor of the one that waits for it."""
        self._sock.close()
        self._theirs.close()
        if self._before is not None:
            self._before.close()


def _came(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, list[int]]:
    """Process id of the sender, 0 if it is not known, and descriptors."""
    pid = 0
    fds: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += struct.unpack(f"={len(content) // 4}i", content[: len(content) // 4 * 4])
        elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
    return pid, fds


def _calls(data: bytes) -> frozenset[str]:
    """What a registration is about.

    :raises ProctorError: it is none."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        said = None
    calls = said.get("calls") if isinstance(said, dict) else None
    if not isinstance(calls, list) or len(calls) > _MOST_CALLS:
        raise ProctorError("what was sent is no registration")
    return frozenset(name for name in calls if isinstance(name, str))


def _may_run(clauses: Sequence[Any], default: Any) -> bool:
    """Whether a filter can let a call run, by its clauses in order."""
    for clause in clauses:
        if clause.action in (ALLOW, LOG):
            return True
        if not clause.tests:
            return False
    return default in (ALLOW, LOG)


def wanted(filter: Filter) -> frozenset[str]:
    """The calls that a filter may notify.

    :raises ProctorError: it notifies calls of architectures that it has no rules for."""
    from proctor.filter.actions import NOTIFY

    if NOTIFY in (filter.foreign, filter.x32):
        raise ProctorError("calls of other architectures cannot be asked about from below")
    found: set[str] = set()
    for arch, bodies in filter.bodies().items():
        if filter.default == NOTIFY:
            found |= tables.numbers(arch).keys()
        for number, clauses in bodies.items():
            name = tables.name(number, arch)
            if name is not None and any(clause.action == NOTIFY for clause in clauses):
                found.add(name)
    return frozenset(found)
