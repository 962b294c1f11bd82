"""The lender: the executor that has a right of the host's, for one step at a time.

The kernel has already agreed to everything but the right itself, in the caller's own identity; what is
left is one call on one pinned thing.  The lender stays in the monitor's namespaces with the monitor's
real and saved ids, so that no container can signal or trace it.  It has the ids by which files are
owned and judged (fsuid, fsgid, groups), the umask, the label and the cgroups of the caller, so that what
it makes is owned as the caller would own it and subject to the same rules for devices.

Rights that its family does not lend are not in its bounding set.  Between two calls its effective set has what
is needed to change ids alone; a right is put into it for one system call and taken out again, and the
reply says what is left.  If anything of that comes out otherwise, the process ends at once (DIE).
"""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Generator
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from proctor.call.path.located import file_id
from proctor.performing.executors import Start, Wait
from proctor.performing.identity import Becoming, Own, Who
from proctor.performing.pins import room
from proctor.performing.session import Session
from proctor.performing.steps import DIE, SKIPPED, Place, Reply, Request, Result, Steps
from proctor.performing.trouble import Powerless, Trouble

if TYPE_CHECKING:
    from proctor.performing.processes import Executor
    from proctor.performing.task import Task

_CAP_SETGID, _CAP_SETUID = 6, 7
_LAST_CAP: Final = 63
#: What it has between two calls: enough to be owned by somebody else.
_BASE: Final = 1 << _CAP_SETUID | 1 << _CAP_SETGID
_NO_ID: Final = 0xFFFFFFFF
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9


def lender_steps(who: Who, own: Own, lent: int, capable: int, mother: int) -> Start:
    """Become a lender for callers with this label and these cgroups, with our groups and ids.

    :param lent: the rights that it can lend, as far as the monitor has them.
    """
    if capable & _BASE != _BASE:
        raise Powerless
    made = Becoming()
    words = "dropping capabilities"
    try:
        label = made.label_file() if who.label != own.who.label else None
        if who.joins:
            made.join_cgroups(own.to_join(who.cgroups))
        made.keep_capabilities()
        made.ids(list(own.who.groups), None, None, None, None)
        for number in range(_LAST_CAP + 1):
            if not (_BASE | lent) >> number & 1:
                # bad: this kernel has no such capability, or it is dropped already
                made.steps.call("prctl", _PR_CAPBSET_READ, number, 0, 0, 0, want=1, bad=1)
                made.step(words, "prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
        if label is not None:
            made.take_label(label, who.label)
        made.capabilities(_BASE, (_BASE | lent) & own.who.permitted, words)
        return made.settle(mother)
    except BaseException:
        made.drop()
        raise


class Somebody(NamedTuple):
    """By whom files are owned and judged."""

    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def of(cls, who: Who) -> Somebody:
        """Who acts on files for this identity."""
        return cls(who.uids[3], who.gids[3], who.groups)


class Terms(NamedTuple):
    """Who lends, to whom, at most what."""

    theirs: Somebody
    ours: Somebody
    #: Capabilities that a lender has permitted.
    permitted: int
    mother: int


class Loan:
    """The steps before and after what is done with a lent right.

    ::

        loan = Loan(steps, terms)
        lent = loan.capabilities(right)
        ...                                 # all other bytes and scratch space of the request
        loan.take_groups(); loan.take_user(); loan.have(lent)
        steps.call(...)
        loan.give_back()
    """

    def __init__(self, steps: Steps, terms: Terms) -> None:
        self._steps = steps
        self._terms = terms
        self._header = steps.bytes(struct.pack("=Ii", 0x20080522, 0))
        self._base = self.capabilities(_BASE)
        self._groups = [
            steps.bytes(struct.pack(f"={len(each.groups)}I", *each.groups))
            for each in (terms.theirs, terms.ours)
        ]
        self._taken: list[str] = []
        #: Whether ids changed since it was seen that it dies with the mother.
        self._changed = False
        self.left = 0

    def capabilities(self, effective: int) -> Place:
        """An effective set, for :meth:`have`; what the lender has not got itself is left out."""
        low, permitted = 0xFFFFFFFF, self._terms.permitted
        effective &= permitted
        words = (effective & low, permitted & low, 0, effective >> 32, permitted >> 32, 0)
        return self._steps.bytes(struct.pack("=6I", *words))

    def _become(self, kind: str, number: int) -> None:
        self._steps.call(f"setfs{kind}", number, bad=0)
        self._steps.call(f"setfs{kind}", _NO_ID, want=number, bad=DIE)
        self._changed = True

    def _swap_groups(self, to: int) -> None:
        """Have these; what is there already is left alone."""
        groups = [each.groups for each in (self._terms.theirs, self._terms.ours)]
        if groups[0] != groups[1]:
            self._steps.call("setgroups", len(groups[to]), self._groups[to], bad=DIE)

    def take_groups(self) -> None:
        """Have the borrower's groups."""
        self._taken.append("gid")
        self._swap_groups(0)
        self._become("gid", self._terms.theirs.gid)

    def take_user(self) -> None:
        """Have the borrower's user id."""
        self._taken.append("uid")
        self._become("uid", self._terms.theirs.uid)

    def have(self, capabilities: Place) -> Result:
        """Have these rights, from here on."""
        self._stay_mortal()
        return self._steps.call("capset", self._header, capabilities, bad=DIE)

    def _stay_mortal(self) -> None:
        """Still die with the mother: changed ids forget that, changed rights do not (``commit_creds`` of
        kernel/cred.c)."""
        if self._changed:
            self._steps.call("prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0, bad=DIE)
            self._steps.call("getppid", want=self._terms.mother, bad=DIE)
        self._changed = False

    def give_back(self) -> None:
        """The right is taken back, and the lender itself again; the reply says what is left."""
        steps, ours = self._steps, self._terms.ours
        steps.call("capset", self._header, self._base, bad=DIE)
        if "uid" in self._taken:
            self._become("uid", ours.uid)
        if "gid" in self._taken:
            self._become("gid", ours.gid)
            self._swap_groups(1)
        left = steps.scratch(24)
        self._stay_mortal()
        steps.call("capget", self._header, left, bad=DIE)
        self.left = steps.want(left)


class Lender:
    """The lender for one call: a session with it.

    :param lent: the rights that this family lends.
    :raises Powerless: the monitor has not got the first of them.
    """

    def __init__(self, task: Task, needed: int, lent: int = 0) -> None:
        who, own = task.who, task.own
        lent |= needed
        if needed & ~own.who.permitted:
            raise Powerless
        executors = task.session.executors
        executors.mother.start()  # its number is among the terms

        def become(capable: int, mother: int) -> Start:
            return lender_steps(who, own, lent, capable, mother)

        key = ("lender", lent, who.label, who.cgroups if who.joins else None)
        self._session = Session(
            executors, key, task.session.container, become, task.call, task.session.limit
        )
        self.terms = Terms(
            Somebody.of(who),
            Somebody.of(own.who),
            (_BASE | lent) & own.who.permitted,
            executors.mother.pid,
        )

    def ask(
        self,
        request: Request,
        left: int,
        *values: bytes | int,
        fds: tuple[int, ...],
        table: bool = False,
    ) -> Generator[Wait, Reply, Reply]:
        """Have a request made that ends with :meth:`Loan.give_back`.

        :param left: of the loan.
        :raises Trouble: it was not performed, or a right was kept."""
        reply = yield from self._session.ask(request, *values, fds=fds, table=table)
        low, _, _, high, _, _ = struct.unpack("=6I", reply.parts[left])
        if low | high << 32 != _BASE:
            reply.close()
            self._session.fail()
            raise Trouble("the lender kept a right that was lent for one call")
        return reply

    def take(self) -> Executor:
        """The lender, which is now the taker's to release or discard."""
        return self._session.take()

    def close(self) -> None:
        """Give the lender back."""
        self._session.close()


# Device nodes -------------------------------------------------------------------------------------

_CAP_DAC_OVERRIDE, _CAP_FSETID, _CAP_MKNOD = 1, 4, 27
_OUTSIDER: Final = 0xFFFFFFFE  # a uid that no container is given


class _Node(NamedTuple):
    request: Request
    foreign: Result | None
    made: Result
    retried: Result
    left: int


@lru_cache(256)
def _node(terms: Terms, extra: int, looks: bool, size: int) -> _Node:
    """mknodat(2) of one name in a pinned directory, as somebody else, with CAP_MKNOD.

    Holes: umask, mode, its type alone, device, name.  Sent: the directory.

    :param looks: whether it is seen first that a node would work.  Whether a file system belongs to a
        user namespace, so that devices there cannot be opened, the kernel shows nowhere; but it says
        EOVERFLOW to whoever has no number there, before it looks at rights (``may_create`` in
        fs/namei.c).  Without CAP_MKNOD the attempt ends in EPERM everywhere else.
    """
    steps = Steps()
    umask, mode, kind, device = (steps.number() for _ in range(4))
    name = steps.hole(size)
    loan = Loan(steps, terms)
    right, dac = 1 << _CAP_MKNOD | extra, 1 << _CAP_DAC_OVERRIDE
    look, lent, more = map(loan.capabilities, (_BASE | dac, right, right | dac))
    directory = steps.sent()
    steps.call("umask", umask)
    foreign = None
    if looks:
        loan.have(look)
    loan.take_groups()
    if looks:
        steps.call("setfsuid", _OUTSIDER, bad=0)  # as take_user() notes, which changes it again
        # bad: the monitor is in a user namespace itself, and will be told EPERM
        outside = steps.call("setfsuid", _NO_ID, want=_OUTSIDER)
        foreign = steps.call("mknodat", directory, name, kind, device, want=-errno.EOVERFLOW, bad=0)
        steps.jump(outside, bad=True)
    loan.take_user()
    loan.have(lent)
    made = steps.call("mknodat", directory, name, mode, device, want=-errno.EACCES)
    loan.have(more)
    retried = steps.call("mknodat", directory, name, mode, device, bad=0)
    steps.jump(made, bad=True)
    if foreign is not None:
        steps.jump(foreign, good=True)
    loan.give_back()
    return _Node(steps.freeze(), foreign, made, retried, loan.left)


def make_node(
    task: Task, directory: int, name: bytes, mode: int, device: int
) -> Generator[Wait, Reply, int]:
    """Make a device node with CAP_MKNOD: 0, an errno, or EOVERFLOW if it could never be opened.

    With a caller's CAP_FSETID set-group-id bits stay, and CAP_DAC_OVERRIDE stands for one that it has
    over its own user namespace.

    :raises Powerless: the monitor has not got that right.
    :raises Trouble: it was not performed."""
    lender = Lender(task, 1 << _CAP_MKNOD, 1 << _CAP_FSETID | 1 << _CAP_DAC_OVERRIDE)
    try:
        made = yield from _try(task, lender, directory, name, mode, device, looks=True)
        if made == errno.EOVERFLOW and _is_idmapped(
            task, directory
        ):  # by the mount, not by its owner
            made = yield from _try(task, lender, directory, name, mode, device, looks=False)
        return made
    finally:
        lender.close()


def _try(
    task: Task,
    lender: Lender,
    directory: int,
    name: bytes,
    mode: int,
    device: int,
    *,
    looks: bool,
) -> Generator[Wait, Reply, int]:
    extra = task.who.effective & 1 << _CAP_FSETID
    node = _node(lender.terms, extra, looks, room(len(name)))
    values = (task.umask, mode, stat.S_IFMT(mode), device, name)
    reply = yield from lender.ask(node.request, node.left, *values, fds=(directory,))
    if node.foreign is not None and reply.error(node.foreign) == errno.EOVERFLOW:
        return errno.EOVERFLOW
    return reply.error(node.retried if reply.results[node.retried.step] != SKIPPED else node.made)


def _is_idmapped(task: Task, directory: int) -> bool:
    """Whether the mount that ``directory`` is on maps ids, as the caller's mountinfo says."""
    mount = b"%d " % file_id(directory).mount
    for line in task.caller.mountinfo.split(b"\n"):
        if line.startswith(mount):
            return b"idmapped" in line.split(b" - ")[0].split()[5].split(b",")
    return False
