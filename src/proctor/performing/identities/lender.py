"""The lender: the executor that has a right of the host's, for one step at a time.

The kernel has already agreed to everything but the right itself, in the caller's own identity; what is
left is one call on one pinned thing.  The lender stays in the monitor's namespaces with the monitor's
real, effective and saved ids, so that no container can signal or trace it (one that passes descriptors has its caller's real
uid, for which the kernel counts them: to be signalled by its user, as executors are, and no more).  It has the ids by which files are
owned and judged (fsuid, fsgid, groups), the umask, the label and the cgroups of the callers that it works for,
so that what it makes is owned as they would own it and subject to the same rules for devices.

Rights that its family does not lend are not in its bounding set.  Between two calls its effective set is
empty; a right is put into it for one system call and taken out again, and the
reply says what is left.  If anything of that comes out otherwise, the process ends at once (DIE).
"""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Generator, Hashable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from proctor.call.path.located import file_id
from proctor.kernel.raw import is_hidden
from proctor.performing.entitled import foreign
from proctor.performing.executing.beginning import Start
from proctor.performing.executing.lent import Lent
from proctor.performing.executing.requests import SKIPPED, Reply, Request
from proctor.performing.executing.single import NUMBER, SENT, Hole, Shape, Single
from proctor.performing.executing.steps import Result, Steps
from proctor.performing.executing.workers import Wait
from proctor.performing.identities.identity import Becoming
from proctor.performing.identities.who import MANY, Key, Own, Who
from proctor.performing.paths.pins import room
from proctor.performing.trouble import Powerless, Trouble
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.executing.processes import Executor
    from proctor.performing.task import Task

_CAP_SETGID, _CAP_SETUID = 6, 7
_LAST_CAP: Final = 63
#: What it takes to be born with the ids of others.
_BIRTH: Final = 1 << _CAP_SETUID | 1 << _CAP_SETGID
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_SAME: Final = 0xFFFFFFFF  # of setresuid(2): as it is
#: Of what capget(2) gives, the effective set.
_EFFECTIVE: Final = struct.Struct("=I8xI8x")
_NOTHING: Final = 0, 0
KEPT: Final = "the lender kept a right that was lent for one call"


class Somebody(NamedTuple):
    """By whom files are owned and judged, and for whom is counted what its real user has."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    #: None: the monitor's own.
    real: int | None = None

    @classmethod
    def of(cls, who: Who) -> Somebody:
        """Who acts on files for this identity."""
        return cls(who.uids[3], who.gids[3], who.groups)


class LenderKey:
    """Which lenders are alike.  One is looked for with every call that wants a right lent.

    :ivar lasting: whether one is kept for its next call."""

    __slots__ = ("_hash", "_same", "lasting")

    def __init__(self, lent: int, label: bytes, cgroups: bytes | None, theirs: Somebody) -> None:
        self._same = lent, label, cgroups, theirs
        self._hash = hash(self._same)
        self.lasting = len(theirs.groups) <= MANY

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self._same == other._same if isinstance(other, LenderKey) else NotImplemented


def lender_steps(
    who: Who, theirs: Somebody, own: Own, lent: int, capable: int, mother: int
) -> Start:
    """Become a lender for callers with this label and these cgroups, with our ids for all but files.

    :param theirs: the ids for those.
    :param lent: the rights that it can lend, as far as the monitor has them.
    """
    if capable & _BIRTH != _BIRTH:
        raise Powerless
    words = "dropping capabilities"
    ours = Somebody.of(own.who)
    with Becoming() as made:
        label = made.label_file() if who.label != own.who.label else None
        if who.joins:
            made.join_cgroups(own.to_join(who.cgroups))
        made.keep_capabilities()
        uids = None if theirs.real is None else (theirs.real, _SAME, _SAME)
        made.ids(
            None if theirs.groups == ours.groups else list(theirs.groups),
            None, None if theirs.gid == ours.gid else theirs.gid,
            uids, None if theirs.uid == ours.uid and uids is None else theirs.uid,
        )  # fmt: skip
        for number in range(_LAST_CAP + 1):
            if not lent >> number & 1:
                # bad: this kernel has no such capability, or it is dropped already
                made.steps.call("prctl", _PR_CAPBSET_READ, number, 0, 0, 0, want=1, bad=1)
                made.step(words, "prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
        if label is not None:
            made.take_label(label, who.label)
        made.capabilities(0, lent & own.who.permitted, words)
        return made.settle(mother)


def key_of(who: Who, lent: int, theirs: Somebody) -> Hashable:
    """Whose executor a lender is."""
    return _key(lent, who.label, who.cgroups if who.joins else None, theirs)


@lru_cache(256)
def _key(lent: int, label: bytes, cgroups: bytes | None, theirs: Somebody) -> LenderKey:
    """One for all that are equal, mostly: that is found faster."""
    return LenderKey(lent, label, cgroups, theirs)


def whose(key: Key, lent: int) -> Hashable:
    """As :func:`key_of`, of who acts on files as whoever is known by ``key``."""
    found = key.lenders.get(lent)
    if found is None:
        found = key.lenders[lent] = key_of(key.who, lent, Somebody.of(key.who))
    return found


def kept_a_right(reply: Reply, left: int) -> bool:
    """Whether something is left of a loan."""
    return _EFFECTIVE.unpack(reply.parts[left]) != _NOTHING


class Lending(Protocol):
    """A request that ends with a loan given back."""

    @property
    def request(self) -> Request:
        """It."""

    @property
    def left(self) -> int:
        """Of the loan."""


class Lender:
    """The lender for one call: a session with it, which is given back at the end of a ``with`` block.

    :param lent: the rights that this family lends.
    :param somebody: as whom it acts on files; the caller by default.
    :raises Powerless: the monitor has not got the first of them.
    """

    def __init__(
        self, task: Task, needed: int, lent: int = 0, somebody: Somebody | None = None
    ) -> None:
        who, own = task.who, task.own
        theirs = Somebody.of(who) if somebody is None else somebody
        lent |= needed
        if needed & ~own.who.permitted:
            raise Powerless

        def become(capable: int, mother: int) -> Start:
            return lender_steps(who, theirs, own, lent, capable, mother)

        self._session = task.session.another(key_of(who, lent, theirs), become)
        #: What it can lend.
        self.permitted = lent & own.who.permitted

    def __enter__(self) -> Lender:
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lender back."""
        self._session.close()

    def ask(
        self, lending: Lending, *values: bytes | int, fds: tuple[int, ...] = (), table: bool = False
    ) -> Generator[Wait, Reply, Reply]:
        """Have a request made that ends with :class:`Lent`.

        :raises Trouble: it was not performed, or a right was kept."""
        reply = yield from self._session.ask(lending.request, *values, fds=fds, table=table)
        if kept_a_right(reply, lending.left):
            reply.close()
            self._session.fail()
            raise Trouble(KEPT)
        return reply

    def take(self) -> Executor:
        """The lender, which is now the taker's to release or discard."""
        return self._session.take()

    def made(
        self, lending: Single, *values: bytes | int, fds: tuple[int, ...] = (), table: bool = False
    ) -> Generator[Wait, Reply, int]:
        """The same as :meth:`Single.ask <proctor.performing.executing.single.Single.ask>`."""
        reply = yield from self.ask(lending, *values, fds=fds, table=table)
        reply.close()
        return reply.error(lending.made)


# Sockets ------------------------------------------------------------------------------------------


@cache
def _with(right: int, what: str, numbers: int) -> Shape:
    return Shape(what, SENT, *[NUMBER] * numbers, Hole(256), NUMBER, right=1 << right)


def with_right(
    task: Task, right: int, what: str, fd: int, *values: bytes | int
) -> Generator[Wait, Reply, int]:
    """Make a call whose arguments are a socket, numbers, and bytes with their length: 0, or an errno.

    :param right: the capability, by its number.
    :raises Powerless: the monitor has not got it.
    :raises Trouble: it was not performed."""
    with Lender(task, 1 << right) as lender:
        lent = _with(right, what, len(values) - 2)(lender.permitted)
        return (yield from lender.made(lent, *values, fds=(fd,)))


# Device nodes -------------------------------------------------------------------------------------

_CAP_DAC_OVERRIDE, _CAP_FSETID, _CAP_MKNOD = 1, 4, 27
#: What is lent for nodes.
NODES: Final = 1 << _CAP_MKNOD | 1 << _CAP_FSETID | 1 << _CAP_DAC_OVERRIDE
_OUTSIDER: Final = 0xFFFFFFFE  # a uid that no container is given


class Node(NamedTuple):
    """Make a node."""

    request: Request
    made: Result
    retried: Result
    left: int

    def error(self, reply: Reply) -> int:
        """The errno that came of it; 0 if it was made."""
        retried = reply.results[self.retried.step] != SKIPPED
        return reply.error(self.retried if retried else self.made)


@lru_cache(256)
def _node(permitted: int, right: int, more: int, size: int) -> Node:
    """mknodat(2) of one name in a pinned directory, with a right lent; with more where that is not enough.

    Holes: umask, mode, device, name.  Sent: the directory."""
    steps = Steps()
    umask, mode, device = (steps.number() for _ in range(3))
    name = steps.hole(size)
    lent = Lent(steps, permitted, right)
    rights = lent.capabilities(right), lent.capabilities(right | more)
    directory = steps.sent()
    steps.call("umask", umask)
    made, retried = (
        (lent.have(each), steps.call("mknodat", directory, name, mode, device, want=want, bad=0))[1]
        for each, want in zip(rights, (-errno.EACCES, None), strict=True)
    )
    steps.jump(made, bad=True)
    lent.give_back()
    return Node(steps.freeze(), made, retried, lent.left)


def node(own: Own, size: int) -> Node:
    """What :func:`make_node` asks, but for modes with set-group-ID."""
    return _node(NODES & own.who.permitted, 1 << _CAP_MKNOD, 1 << _CAP_DAC_OVERRIDE, size)


def make_node(
    task: Task, directory: int, name: bytes, mode: int, device: int
) -> Generator[Wait, Reply, int]:
    """Make a device node with CAP_MKNOD: 0, or an errno.

    CAP_DAC_OVERRIDE stands for one that the caller has over its own user namespace, and so does CAP_FSETID, with which a
    set-group-ID bit stays, if the directory's owners have numbers there (``in_group_or_capable`` of fs/attr.c).

    :raises Powerless: the monitor has not got that right.
    :raises Trouble: it was not performed."""
    right = 1 << _CAP_MKNOD
    if mode & stat.S_ISGID and not foreign(task.standing, directory):
        right |= task.who.effective & 1 << _CAP_FSETID
    lender = Lender(task, 1 << _CAP_MKNOD, NODES)
    return (yield from _try(task, lender, right, directory, name, mode, device))


def works(task: Task, directory: int, name: bytes, mode: int) -> Generator[Wait, Reply, bool]:
    """Whether a node would work in this directory.

    Whether a file system belongs to a user namespace, so that devices there cannot be opened, the kernel shows
    nowhere; but it says EOVERFLOW to whoever has no number there, before it looks at rights (``may_create`` in
    fs/namei.c).  Without CAP_MKNOD the attempt ends in EPERM everywhere else.

    :raises Powerless, Trouble: as :func:`make_node`."""
    if not task.own.initial:
        return True  # then making it ends in EPERM as well
    if is_hidden(directory):
        return False  # FUSE of a user namespace, where the lender is nobody
    nobody = Somebody.of(task.who)._replace(uid=_OUTSIDER)
    lender = Lender(task, 1 << _CAP_DAC_OVERRIDE, somebody=nobody)
    kind = stat.S_IFMT(mode)
    failed = yield from _try(task, lender, 1 << _CAP_DAC_OVERRIDE, directory, name, kind, 0x103)
    # an id-mapped mount says so as well, whoever owns the file system
    return failed != errno.EOVERFLOW or _is_idmapped(task, directory)


def _try(
    task: Task, lender: Lender, right: int, directory: int, name: bytes, mode: int, device: int
) -> Generator[Wait, Reply, int]:
    with lender:
        node = _node(lender.permitted, right, 1 << _CAP_DAC_OVERRIDE, room(len(name)))
        reply = yield from lender.ask(node, task.umask, mode, device, name, fds=(directory,))
        return node.error(reply)


def _is_idmapped(task: Task, directory: int) -> bool:
    """Whether the mount that ``directory`` is on maps ids, as the caller's mountinfo says."""
    mount = b"%d " % file_id(directory).mount
    for line in task.caller.mountinfo.split(b"\n"):
        if line.startswith(mount):
            return b"idmapped" in line.split(b" ", 6)[5].split(b",")
    return False
