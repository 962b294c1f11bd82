"""The lender: the executor that has a right of the host's, for one step at a time.

The kernel has already agreed to everything but the right itself, in the caller's own identity; what is
left is one call on one pinned thing.  The lender stays in the monitor's namespaces with the monitor's
real and saved ids, so that no container can signal or trace it.  It has the ids by which files are
owned and judged (fsuid, fsgid, groups), the umask, the label and the cgroups of the caller, so that what
it makes is owned as the caller would own it and subject to the same rules for devices.

Rights that no family lends are not in its bounding set.  Between two calls its effective set has what
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
from proctor.performing.steps import DIE, SKIPPED, Place, Reply, Request, Result, Steps
from proctor.performing.task import Session
from proctor.performing.trouble import Trouble

if TYPE_CHECKING:
    from proctor.performing.task import Task

_CAP_DAC_OVERRIDE, _CAP_FSETID, _CAP_SETGID, _CAP_SETUID, _CAP_MKNOD = 1, 4, 6, 7, 27
_LAST_CAP: Final = 63
#: What it has between two calls: enough to be owned by somebody else.
_BASE: Final = 1 << _CAP_SETUID | 1 << _CAP_SETGID
#: What families lend: the right to make nodes; with a caller's CAP_FSETID set-group-id bits stay, and
#: CAP_DAC_OVERRIDE stands for one that it has over its own user namespace.
_LENT: Final = 1 << _CAP_MKNOD | 1 << _CAP_FSETID | 1 << _CAP_DAC_OVERRIDE
_OUTSIDER: Final = 0xFFFFFFFE  # a uid that no container is given
_NO_ID: Final = 0xFFFFFFFF
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9


class Powerless(Exception):
    """The monitor itself has not got the right."""


def lender_steps(who: Who, own: Own, capable: int, mother: int, idle: float) -> Start:
    """Become a lender for callers with this label and these cgroups.

    :raises Powerless: nothing could be lent."""
    if not capable >> _CAP_MKNOD & 1 or capable & _BASE != _BASE:
        raise Powerless
    made = Becoming(idle)
    words = "dropping capabilities"
    try:
        label = made.label_file() if who.label != own.who.label else None
        if who.joins:
            made.join_cgroups(own.to_join(who.cgroups))
        made.keep_capabilities()
        for number in range(_LAST_CAP + 1):
            if not (_BASE | _LENT) >> number & 1:
                # bad: this kernel has no such capability, or it is dropped already
                made.steps.call("prctl", _PR_CAPBSET_READ, number, 0, 0, 0, want=1, bad=1)
                made.step(words, "prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
        if label is not None:
            made.take_label(label, who.label)
        made.capabilities(_BASE, _permitted(own), words)
        return made.settle(mother)
    except BaseException:
        made.drop()
        raise


def _permitted(own: Own) -> int:
    return (_BASE | _LENT) & own.who.permitted


class _Node(NamedTuple):
    request: Request
    foreign: Result | None
    made: Result
    retried: Result
    left: int


class _Somebody(NamedTuple):
    """By whom files are owned and judged."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@lru_cache(256)
def _node(
    theirs: _Somebody,
    ours: _Somebody,
    permitted: int,
    extra: int,
    looks: bool,
    mother: int,
    size: int,
) -> _Node:
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
    header = steps.bytes(struct.pack("=Ii", 0x20080522, 0))

    def caps(effective: int) -> Place:
        low = 0xFFFFFFFF
        words = (effective & low, permitted & low, 0, effective >> 32, permitted >> 32, 0)
        return steps.bytes(struct.pack("=6I", *words))

    def ids(numbers: tuple[int, ...]) -> Place:
        return steps.bytes(struct.pack(f"={len(numbers)}I", *numbers))

    right, dac = (1 << _CAP_MKNOD | extra) & permitted, 1 << _CAP_DAC_OVERRIDE & permitted
    look, lent, more, base = caps(_BASE | dac), caps(right), caps(right | dac), caps(_BASE)
    their_groups, our_groups = ids(theirs.groups), ids(ours.groups)
    left = steps.scratch(24)
    directory = steps.sent()

    def become(kind: str, number: int) -> None:
        steps.call(f"setfs{kind}", number, bad=0)
        steps.call(f"setfs{kind}", _NO_ID, want=number, bad=DIE)

    def live() -> None:
        """Changed ids forget the death signal."""
        steps.call("prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0, bad=DIE)
        steps.call("getppid", want=mother, bad=DIE)

    steps.call("umask", umask)
    steps.call("setgroups", len(theirs.groups), their_groups, bad=DIE)
    become("gid", theirs.gid)
    foreign = None
    if looks:
        steps.call("setfsuid", _OUTSIDER, bad=0)
        # bad: the monitor is in a user namespace itself, and will be told EPERM
        outside = steps.call("setfsuid", _NO_ID, want=_OUTSIDER)
        steps.call("capset", header, look, bad=DIE)
        foreign = steps.call("mknodat", directory, name, kind, device, want=-errno.EOVERFLOW, bad=0)
        steps.jump(outside, bad=True)
    become("uid", theirs.uid)
    steps.call("capset", header, lent, bad=DIE)
    live()
    made = steps.call("mknodat", directory, name, mode, device, want=-errno.EACCES)
    steps.call("capset", header, more, bad=DIE)
    retried = steps.call("mknodat", directory, name, mode, device, bad=0)
    steps.jump(made, bad=True)
    if foreign is not None:
        steps.jump(foreign, good=True)
    steps.call("capset", header, base, bad=DIE)
    become("uid", ours.uid)
    become("gid", ours.gid)
    steps.call("setgroups", len(ours.groups), our_groups, bad=DIE)
    live()
    steps.call("capget", header, left, bad=DIE)
    part = steps.want(left)
    return _Node(steps.freeze(), foreign, made, retried, part)


def make_node(
    task: Task, directory: int, name: bytes, mode: int, device: int
) -> Generator[Wait, Reply, int]:
    """Make a device node with CAP_MKNOD: 0, an errno, or EOVERFLOW if it could never be opened.

    :raises Powerless: the monitor has not got that right.
    :raises Trouble: it was not performed."""
    who, own = task.who, task.own
    executors = task.session.executors

    def become(capable: int, mother: int) -> Start:
        return lender_steps(who, own, capable, mother, executors.idle)

    key = ("lender", who.label, who.cgroups if who.joins else None)
    session = Session(executors, key, task.session.container, become, task.call, task.session.limit)
    try:
        made = yield from _try(task, session, directory, name, mode, device, looks=True)
        if made == errno.EOVERFLOW and _is_idmapped(
            task, directory
        ):  # by the mount, not by its owner
            made = yield from _try(task, session, directory, name, mode, device, looks=False)
        return made
    finally:
        session.close()


def _try(
    task: Task,
    session: Session,
    directory: int,
    name: bytes,
    mode: int,
    device: int,
    *,
    looks: bool,
) -> Generator[Wait, Reply, int]:
    who, own = task.who, task.own.who
    node = _node(
        _Somebody(who.uids[3], who.gids[3], who.groups),
        _Somebody(own.uids[3], own.gids[3], own.groups),
        _permitted(task.own),
        who.effective & 1 << _CAP_FSETID,
        looks,
        session.executors.mother.pid,
        room(len(name)),
    )
    reply = yield from session.ask(
        node.request, task.umask, mode, stat.S_IFMT(mode), device, name, fds=(directory,)
    )
    low, _, _, high, _, _ = struct.unpack("=6I", reply.parts[node.left])
    if low | high << 32 != _BASE:
        session.fail()
        raise Trouble("the lender kept a right that was lent for one call")
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
