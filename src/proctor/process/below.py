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

import _socket as socket  # its wrapper takes two milliseconds to load
import errno
import fcntl
import json
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import deny
from proctor.errors import ProctorError
from proctor.filter.actions import ALLOW, LOG
from proctor.kernel import scm
from proctor.kernel.pidfd import has_ended, number_of
from proctor.process import asking
from proctor.process.inner import GONE, Inner, Question, Rank
from proctor.process.standing import Standing, lineage
from proctor.supervisor.ports import Later
from proctor.syscalls import tables

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Verdict
    from proctor.filter.rules import Filter

#: Most supervisors that are served at a time, and most calls that one can want.
_MOST: Final = 64
_MOST_CALLS: Final = 2048
#: Registrations that are looked at before callers have their turn.
_AT_ONCE: Final = 8
_CREDENTIALS: Final = struct.Struct("=iII")
_ROOM: Final = socket.CMSG_SPACE(4 * 8) + socket.CMSG_SPACE(_CREDENTIALS.size)
#: The lowest number under which a target inherits the socket, if there is room.
_NUMBER: Final = 100


class Memory:
    """Who is told of those below, so that the next monitor knows it; this one forgets."""

    def marked(self, marks: Mapping[int, frozenset[str]]) -> None:
        """From now on whoever has so many filters, and no supervisor above, gets ENOSYS for these calls."""

    def took_in(self, inner: Inner) -> None:
        """It is asked."""

    def buried(self, inner: Inner) -> None:
        """It is gone."""


class Below:
    """Has those below asked: ``below`` of a :class:`~proctor.supervisor.container.Container`.

    What comes from there is looked at by whoever calls :meth:`knocked`, one thread at a time; calls are
    asked about by any.

    :param sees: whether none of the calls of a name runs without our being asked: nobody could be asked about it.
    :param base: filters that every process of the tree has.
    :param marks: those of :meth:`Memory.marked`, of an earlier monitor.
    :param inners: who registered with that.
    :param full: says why no more are taken in, of us and of others together; "" if they are.
    """

    def __init__(
        self,
        sees: Callable[[str], bool],
        base: int,
        memory: Memory | None = None,
        marks: Mapping[int, frozenset[str]] | None = None,
        inners: Iterable[Inner] = (),
        full: Callable[[], str] = str,
    ) -> None:
        self._sees = sees
        self._base = base
        self._memory = Memory() if memory is None else memory
        self._inners = tuple(inners)
        self._full = full
        #: Connections that are over.
        self._over: list[int] = []
        #: What those of so many marks and filters wanted, also if they are gone.
        self._marks = dict(marks or {})
        self._wanted: frozenset[str] = frozenset().union(*self._marks.values())
        #: Called when calls are to be asked about that were not.
        self.on_first: Callable[[], object] = int
        for inner in self._inners:
            _tell(
                inner.sock, {"served": True}
            )  # whoever took it in may have died before it said so

    def close(self) -> list[int]:
        """Ask nobody any more; idempotent.

        :returns: as :meth:`knocked`."""
        for inner in self._inners:
            self._over.append(inner.let_go())
        self._inners = ()
        return self._took_over()

    def _took_over(self) -> list[int]:
        over, self._over = self._over, []
        return over

    # Registering ------------------------------------------------------------------------------
    def knocked(self, sock: socket.socket, most: int = _AT_ONCE) -> list[int] | None:
        """See to registrations that wait there, ours to receive from.

        :returns: what came along and is nothing that we know, and connections that are over, for
            :data:`~proctor.kernel.closing.closers`;
            None where nobody of the tree has the other end any more, and there is nothing to close."""
        for _ in range(most):
            try:
                data, ancillary, _, _ = sock.recvmsg(
                    asking.LONGEST, _ROOM, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                break
            except OSError:
                return self._took_over() or None  # it was closed
            pid, fds = _came(ancillary)
            if not data and pid <= 0 and not fds:
                return self._took_over() or None
            if len(fds) == 1 and (made := _connection(fds[0])) is not None:
                self._register(data, pid, made)
            else:
                self._over += fds  # nobody to be told
        return self._took_over()

    def _register(self, data: bytes, pid: int, sock: socket.socket) -> None:
        """Take one in, or tell it why not."""
        try:
            self._take_in(data, pid, sock)
        except (ProctorError, OSError) as problem:
            _tell(sock, {"error": str(problem)})
            self._over.append(sock.detach())
        else:
            _tell(sock, {"served": True})

    def _take_in(self, data: bytes, pid: int, sock: socket.socket) -> None:
        calls = _calls(data)
        pidfd = scm.peer(sock)
        try:
            rank = self._rank(pid, pidfd, calls)
            self._bury()
            if len(self._inners) >= _MOST:
                raise ProctorError(f"{_MOST} are below already")
            if why := self._full():
                raise ProctorError(why)
            self._mark(rank.filters + asking.MARKS, calls)
            inner = Inner(rank, sock, pidfd)
        except BaseException:
            os.close(pidfd)
            raise
        self._memory.took_in(inner)
        self._inners += (inner,)
        first = not self._wanted
        self._wanted |= calls
        if first:
            self.on_first()

    def _rank(self, pid: int, pidfd: int, calls: frozenset[str]) -> Rank:
        """Of whoever sent a registration, which is who made the connection that it sent, too: one is said by
        the sender, and may be another's if he has rights over its pid namespace, the other by the kernel, and
        may be inherited.

        :raises ProctorError: it is not taken in, and why."""
        line = lineage(pid)
        if line is None or pid != line[0].tgid or number_of(pidfd) != pid or has_ended(pidfd):
            raise ProctorError("it cannot be looked at")
        chain = self._chain(line)
        if chain is None:
            raise ProctorError(GONE)
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
        return Rank(pid, calls, line[0].filters, len(chain) + 1, len(line[0].numbers) - 1)

    def _mark(self, least: int, calls: frozenset[str]) -> None:
        marks = self._marks
        if calls <= marks.get(least, frozenset()):
            return
        if (
            len(marks) >= _MOST and least not in marks
        ):  # too many kinds of marks: one for all of them
            marks = {min(*marks, least): frozenset().union(*marks.values())}
            least = min(marks)
        marks = {**marks, least: marks.get(least, frozenset()) | calls}
        self._memory.marked(marks)
        self._marks = marks

    @property
    def count(self) -> int:
        """Those that are below, and those that are gone and not buried."""
        return len(self._inners)

    def bury(self) -> list[int]:
        """Let go of those that are gone.

        :returns: as :meth:`knocked`."""
        self._bury()
        return self._took_over()

    def _bury(self) -> None:
        self._inners = tuple(inner for inner in self._inners if not self._buried(inner))

    def _buried(self, inner: Inner) -> bool:
        """Whether it is gone."""
        if inner.alive:
            return False
        self._memory.buried(inner)
        self._over.append(inner.let_go())
        return True

    # Asking -----------------------------------------------------------------------------------
    @property
    def active(self) -> bool:
        return bool(self._wanted)

    def __call__(
        self, call: Call, verdict: Verdict, begins: Callable[[], object]
    ) -> Verdict | Later | None:
        """See there."""
        name = call.name
        if name not in self._wanted:
            return None
        line = lineage(call.tid)
        if line is None:
            return deny(errno.ENOSYS, GONE)  # or the caller is, which then does not matter
        chain = self._chain(line)
        if chain is None:
            return self._orphaned(name, line[0].filters)
        inners = [inner for inner in chain if name in inner.calls]
        if not inners:
            return None
        return Question(call, line[0], inners, verdict, begins, lambda: verdict).ask()

    def _orphaned(self, name: str, filters: int) -> Verdict | None:
        """What a process gets that has the marks of one that is not above it any more."""
        if any(name in calls and filters >= least for least, calls in self._marks.items()):
            return deny(errno.ENOSYS, GONE)
        return None

    def _chain(self, line: Sequence[Standing]) -> list[Inner] | None:
        """Those above a thread, the outermost first; None if one is missing."""
        known = {inner.pid: inner for inner in self._inners}
        chain: list[Inner] = []
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


def sees(filter: Filter, name: str) -> bool:
    """Whether a filter lets none of the call run unseen."""
    if not tables.exists(name):
        return True  # it is never made
    for arch, bodies in filter.bodies().items():
        number = tables.numbers(arch).get(name)
        if number is not None and _may_run(bodies.get(number, ()), filter.default):
            return False
    return filter.foreign not in (ALLOW, LOG)


def pass_on(options: dict[str, Any], theirs: socket.socket) -> int:
    """Have a command that is launched with these options inherit the way up, which is ours until it is: it moves to
    another number, which is returned."""
    try:
        number = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, _NUMBER)
    except OSError:
        number = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 3)
    theirs.close()
    env = os.environb if options.get("env") is None else options["env"]
    made = {os.fsencode(key): os.fsencode(value) for key, value in env.items()}
    made[asking.VARIABLE.encode()] = b"%d" % number
    options["env"] = made
    options["pass_fds"] = [*options.get("pass_fds", ()), number]
    return number


def _connection(fd: int) -> socket.socket | None:
    """What a registration came with, of which the descriptor is from now on; None if it is something else."""
    try:
        made = socket.socket(fileno=fd)
    except OSError:
        return None
    if (made.family, made.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        return made
    made.detach()
    return None


def _tell(sock: socket.socket, word: dict[str, Any]) -> None:
    try:
        scm.send(sock, json.dumps(word).encode(), flags=socket.MSG_DONTWAIT)
    except OSError:
        pass  # it is gone, or none of those that register


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
    return frozenset(name for name in calls if isinstance(name, str) and tables.exists(name))


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
