"""Device programs of a container's own cgroups: which of them are the container's, what is attached there, and descriptors of that.

Who attaches programs asks first what is attached (runc, crun and libvirt do), and has the kernel open those by their ids,
to put others in their place.  Ids are the machine's; here they are those of the container's cgroups alone.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections import deque
from collections.abc import Generator, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import Answer, HandOver, answer, deny
from proctor.performing.entitled import has_user, lacking
from proctor.performing.executing.lent import Lent
from proctor.performing.executing.single import Hole, Shape, Single
from proctor.performing.executing.steps import Steps
from proctor.performing.paths import pins
from proctor.performing.trouble import Powerless, Refused
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.identities.lender import Lender
    from proctor.performing.task import Task, Work

QUERY, FD_BY_ID = 16, 13
_CAP_NET_ADMIN, _CAP_SYS_ADMIN, _CAP_BPF = 12, 21, 39
#: What the kernel wants for loading, attaching and asking; and for opening a program by its id (kernel/bpf/syscall.c).
RIGHTS: Final = 1 << _CAP_BPF | 1 << _CAP_NET_ADMIN
_RIGHT_TO_OPEN: Final = 1 << _CAP_SYS_ADMIN
CGROUP_DEVICE: Final = 6
_EFFECTIVE: Final = 1
#: ``query`` of union bpf_attr (include/uapi/linux/bpf.h).
_QUERIED: Final = struct.Struct("=IIIIQI4xQQQQ")
QUERY_ATTR: Final = _QUERIED.size
_FLAGS_AT, _COUNT_AT, _REVISION_AT = 12, 24, 56
#: BPF_CGROUP_MAX_PROGS of include/linux/bpf-cgroup.h.
_MOST: Final = 64
FD_ATTR: Final = 16
_CGROUP2: Final = 0x63677270
#: That are looked at, of a container that may make as many as it likes.
_MOST_CGROUPS: Final = 4096
PLAIN: Final = (
    "what is loaded and attached are plain device programs, without types, tokens or positions"
)
_DIRECTORY: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)


def missing(task: Task) -> str:
    """Why the caller is lent nothing, as a clause; empty if it is."""
    why = lacking(task, _CAP_BPF, "CAP_BPF")
    return why and lacking(task, _CAP_SYS_ADMIN, "CAP_SYS_ADMIN")


def lender_for(task: Task, rights: int) -> Lender:
    """:raises Refused: the caller may not be lent the rights."""
    from proctor.performing.identities.lender import Lender

    if why := missing(task):
        raise Refused(deny(errno.EPERM, why))
    try:
        return Lender(task, rights)
    except Powerless:
        named = "CAP_SYS_ADMIN" if rights == _RIGHT_TO_OPEN else "CAP_BPF and CAP_NET_ADMIN"
        raise Refused(deny(errno.EPERM, f"the monitor has no {named} itself")) from None


# Which cgroups ------------------------------------------------------------------------------------


def taken(task: Task, number: int) -> int:
    """:raises Refused: the caller has no such descriptor."""
    fd = task.taken(pins.signed(number))
    if fd is None:
        raise Refused(deny(errno.EBADF))
    return fd


def group(task: Task, number: int) -> int:
    """A cgroup of version 2 that the caller has open.

    :raises Refused: it is none."""
    from proctor.kernel.raw import filesystem_type

    fd = taken(task, number)
    if filesystem_type(fd) != _CGROUP2 or not stat.S_ISDIR(os.fstat(fd).st_mode):
        raise Refused(deny(errno.EBADF, "it is no cgroup of version 2"))
    if os.readlink(f"/proc/self/fd/{fd}").endswith(" (deleted)"):
        raise Refused(deny(errno.ENOENT))
    return fd


class _Own(NamedTuple):
    """The container's cgroups."""

    base: bytes
    #: What is above them.
    higher: list[bytes]
    task: Task

    def opened(self) -> Iterator[tuple[bytes, int]]:
        """Each, the highest first, and a descriptor of it for as long as it is looked at.  The container may remove others
        meanwhile."""
        left, many = deque([self.base]), 1
        while left:
            place = left.popleft()
            try:
                cgroup = os.open(place, _DIRECTORY)
            except FileNotFoundError:
                continue
            try:
                yield place, cgroup
                with os.scandir(cgroup) as entries:
                    for entry in entries:
                        if many == _MOST_CGROUPS:
                            break
                        if entry.is_dir(follow_symlinks=False):
                            left.append(place + b"/" + os.fsencode(entry.name))
                            many += 1
            except FileNotFoundError:
                pass  # removed by now
            finally:
                os.close(cgroup)

    def has(self, status: os.stat_result) -> bool:
        return has_user(self.task, status.st_uid)


def _own(task: Task) -> _Own:
    """From the caller's upwards those that belong to an id of its user namespace, and all below.

    :raises Refused: there are none."""
    from proctor.performing.identities.cgroups import directories

    places = directories(task.cgroups, b"")
    own = [at for at, place in enumerate(places) if has_user(task, os.stat(place).st_uid)]
    if not own or own != list(range(len(own))):
        raise Refused(_not_theirs())
    return _Own(places[own[-1]], places[own[-1] + 1 :], task)


def at_and_above(task: Task, target: int) -> list[int]:
    """A cgroup that belongs to the container first if it is the topmost of those; then, of what is above it, those that are the
    topmost, or the host's.  What is between is the container's own.

    :raises Refused: it does not belong to the container."""
    own, wanted = _own(task), os.fstat(target)
    for place, cgroup in own.opened():
        if os.fstat(cgroup).st_ino == wanted.st_ino and own.has(wanted):
            held = [task.hold(os.open(each, _DIRECTORY)) for each in (own.base, *own.higher)]
            return [target, *held[1:]] if place == own.base else held
    raise Refused(_not_theirs())


def _not_theirs() -> Any:
    return deny(errno.EPERM, "the cgroup is not one that was given to the container")


# What is attached ---------------------------------------------------------------------------------


class Attached(NamedTuple):
    """To one cgroup: how, how many, and their ids."""

    flags: int
    total: int
    revision: int
    ids: tuple[int, ...]


def ask(lender: Lender, cgroup: int) -> Generator[Any, Any, tuple[int, Attached]]:
    """The kernel's errno, or 0, and what is attached to a cgroup."""
    asking = _querying(lender.permitted)
    made = _QUERIED.pack(0, CGROUP_DEVICE, 0, 0, 0, _MOST, 0, 0, 0, 0)
    reply = yield from lender.ask(asking, made, fds=(cgroup,))
    reply.close()
    told = _QUERIED.unpack(reply.parts[asking.found])
    flags, total, revision = told[3], told[5], told[9]
    ids = struct.unpack(f"={_MOST}I", reply.parts[asking.found + 1])[: min(total, _MOST)]
    return reply.error(asking.made), Attached(flags, total, revision, ids)


def query(task: Task, attr: bytes, size: int) -> Work:
    """BPF_PROG_QUERY, in the order of ``bpf_prog_query`` and ``__cgroup_bpf_query`` (kernel/bpf/syscall.c, cgroup.c)."""
    target, _, how, _, ids, room, *others, _ = _QUERIED.unpack(attr)
    with lender_for(task, RIGHTS) as lender:
        if how & ~_EFFECTIVE or any(others):
            return deny(errno.EINVAL, PLAIN)
        cgroup = group(task, target)
        at_and_above(task, cgroup)
        if how:
            return deny(errno.EPERM, "programs of cgroups above are not told")
        failed, there = yield from ask(lender, cgroup)
    if failed:
        return deny(failed)
    at = task.call.words[1]
    writes = [
        (at + _FLAGS_AT, struct.pack("=I", there.flags)),
        (at + _COUNT_AT, struct.pack("=I", there.total)),
    ]
    if size >= QUERY_ATTR:
        writes.append((at + _REVISION_AT, struct.pack("=Q", there.revision)))
    if not room or not ids or not there.total:
        return answer(0, writes=writes)
    told = there.ids[:room]
    writes.append((ids, struct.pack(f"={len(told)}I", *told)))
    return Answer(-errno.ENOSPC if room < there.total else 0, writes=tuple(writes))


def by_id(task: Task, attr: bytes) -> Work:
    """BPF_PROG_GET_FD_BY_ID: of what is attached to a cgroup of the container's; others are not there.

    Whoever has a program can take it off: what is attached to the topmost of those cgroups may be the host's, which
    gave it away so, and is not had."""
    number, *others = struct.unpack("=4I", attr)
    if any(others):
        return deny(errno.EINVAL, PLAIN)
    if why := lacking(task, _CAP_SYS_ADMIN, "CAP_SYS_ADMIN"):
        return deny(errno.EPERM, why)
    own = _own(task)
    with lender_for(task, _RIGHT_TO_OPEN) as opener, lender_for(task, RIGHTS) as lender:
        opening = _OPENING(opener.permitted)
        reply = yield from opener.ask(opening, attr)
        try:
            if failed := reply.error(opening.made):
                return deny(failed)
            for place, cgroup in own.opened():  # while it is held, its id is no other one's
                if place == own.base or not own.has(os.fstat(cgroup)):
                    continue
                failed, there = yield from ask(lender, cgroup)
                if not failed and number in there.ids:
                    if not task.has_room():
                        return deny(errno.EMFILE)
                    return HandOver(reply.take(opening.made), cloexec=True)
            return deny(
                errno.ENOENT, "no cgroup below what was given to the container has such a program"
            )
        finally:
            reply.close()


# Requests -----------------------------------------------------------------------------------------


#: A program by its id.
_OPENING: Final = Shape("bpf", FD_BY_ID, Hole(FD_ATTR), FD_ATTR, gives=True, right=_RIGHT_TO_OPEN)


@lru_cache(256)
def _querying(permitted: int) -> Single:
    """How programs are attached to a cgroup, how many, and their ids.  Hole: the attributes.  Sent: the cgroup."""
    steps = Steps()
    attr = steps.hole(QUERY_ATTR)
    with Lent(steps, permitted, RIGHTS) as lent:
        ids = steps.scratch(4 * _MOST)
        steps.put(attr, 0, steps.sent(), 4)
        steps.put(attr, 16, ids)
        made = steps.call("bpf", QUERY, attr, QUERY_ATTR, bad=0)
    found = steps.want(attr)
    steps.want(ids)
    return Single(steps.freeze(), made, lent.left, found)
