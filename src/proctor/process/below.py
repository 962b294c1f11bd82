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
import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import deny
from proctor.errors import ProctorError
from proctor.filter.actions import ALLOW, LOG
from proctor.kernel import scm
from proctor.process import asking
from proctor.process.inner import GONE, Inner, Question
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
_CREDENTIALS: Final = struct.Struct("=iII")
_ROOM: Final = socket.CMSG_SPACE(4 * 8) + socket.CMSG_SPACE(_CREDENTIALS.size)
#: The lowest number under which a target inherits the socket, if there is room.
_NUMBER: Final = 100


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
        self._inners: tuple[Inner, ...] = ()
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
            sock = socket.socket(fileno=fds[0])
        except OSError:
            return  # it is none, and stays the caller's
        fds.clear()
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
        self._inners = tuple(inner for inner in self._inners if not self._buried(inner))
        if len(self._inners) >= _MOST:
            raise ProctorError(f"{_MOST} are below already")
        self._inners += (Inner(pid, sock, calls, len(chain) + 1),)
        first = not self._wanted
        self._wanted |= calls
        if first and self._supervisor is not None:
            self._supervisor.reroute()

    def _buried(self, inner: Inner) -> bool:
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
            return deny(errno.ENOSYS, GONE)  # or the caller is, which then does not matter
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
