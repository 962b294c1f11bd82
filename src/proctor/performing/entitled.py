"""Who may be lent a right of the host's, and upon what."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from proctor.call.identity import IdRange, parse_id_map
from proctor.performing.trouble import Said

if TYPE_CHECKING:
    from proctor.kernel.standing import Standing
    from proctor.performing.paths.filestat import Status
    from proctor.performing.task import Task

Ranges = tuple[IdRange, ...]
#: What an id is shown as that has no number: DEFAULT_OVERFLOWUID of include/linux/highuid.h.
_NOBODY: Final = 65534


def lacking(task: Task, number: int, name: str, tid: int | None = None) -> str:
    """Why a capability of the host's is not lent; empty if it may be.

    :param tid: whom it would be used upon."""
    if not task.who.effective >> number & 1:
        return f"the caller has no {name} in its user namespace"
    namespace = task.who.namespace("user")
    if namespace == task.own.who.namespace("user"):
        return f"the kernel refuses it to the caller, who has {name}"
    if not task.owned():
        return (
            f"the caller is in a user namespace of its own making, where {name} comes for free "
            '(nested = "allow" would let it)'
        )
    try:
        if tid is not None and os.stat(f"/proc/{tid}/ns/user").st_ino != namespace:
            return "the thread is in another user namespace than the caller"
    except OSError:
        raise Said(errno.ESRCH) from None
    return ""


@lru_cache(64)
def _parsed(users: bytes, groups: bytes) -> tuple[Ranges, Ranges]:
    return parse_id_map(users), parse_id_map(groups)


def id_maps(task: Task) -> tuple[Ranges, Ranges]:
    """Which user and group ids the caller's user namespace has; ``outside`` is as ours counts."""
    return maps_of(task.standing)


def maps_of(standing: Standing) -> tuple[Ranges, Ranges]:
    """The same of somebody who is known."""
    return _parsed(*standing.id_maps())


def root_of(standing: Standing) -> int | None:
    """The user who is root in somebody's user namespace; None if nobody is."""
    return next((each.outside for each in maps_of(standing)[0] if not each.inside), None)


@lru_cache(64)
def _packed(users: bytes, groups: bytes) -> tuple[bytes, bytes]:
    packed = [
        b"".join(struct.pack("=2I", each.outside, each.length) for each in ranges)
        for ranges in _parsed(users, groups)
    ]
    return packed[0], packed[1]


def numbers_of(standing: Standing) -> tuple[bytes, bytes]:
    """Users and groups that have a number in its user namespace, for :func:`proctor.kernel._core.lend_for`."""
    return _packed(*standing.id_maps())


def has_user(task: Task, uid: int) -> bool:
    """Whether a user has a number in the caller's user namespace."""
    return _among(uid, id_maps(task)[0])


def owners(standing: Standing, fd: int, status: Status | None = None) -> Sequence[int]:
    """(uid, gid) of what is pinned, as we count; fewer where they have no number in the caller's user namespace.

    :param status: of what we may not see (FUSE), by the caller's executor, which counts as the caller does."""
    from proctor.kernel.raw import remembered  # families are known where nothing of Linux is

    maps = maps_of(standing)
    try:
        _, *found = remembered(fd)
        return [number for number, among in zip(found, maps, strict=True) if _among(number, among)]
    except PermissionError:
        if status is None:
            raise
        return [
            number - each.inside + each.outside
            for number, among in zip((status.uid, status.gid), maps, strict=True)
            for each in among
            if number != _NOBODY and 0 <= number - each.inside < each.length
        ]


def foreign(standing: Standing, fd: int, status: Status | None = None) -> str:
    """Why a right is not lent upon an inode: root of a user namespace has rights over what has both its owners there
    (``privileged_wrt_inode_uidgid`` in kernel/capability.c); empty if it may be."""
    if len(owners(standing, fd, status)) == 2:
        return ""
    return "it belongs to somebody who has no number in the caller's user namespace"


def _among(number: int, ranges: Ranges) -> bool:
    return any(0 <= number - each.outside < each.length for each in ranges)
