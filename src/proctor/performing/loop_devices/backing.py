"""Whether a file may be what a loop device of the host's reads from.

LOOP_CONFIGURE asks the file's file system, by fsync and getattr, before the device counts as bound (``loop_configure`` of
drivers/block/loop.c).  Until that answers, the device is the one that LOOP_CTL_GET_FREE gives everybody on the machine, and whoever
opens it waits for the lock that is held meanwhile; and once it is bound, sync(2) of anybody waits for what is written there.  So
no file is bound of a file system that somebody serves (FUSE, NFS), who could let all others wait for ever.

An overlay asks what it lies on.  Where the host mounted it, that is the host's; one that belongs to a container's user
namespace may lie on a FUSE file system of the container's own.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from proctor.performing.executing.single import Single
from proctor.performing.executing.steps import Steps
from proctor.performing.mounts.mounters import ask
from proctor.performing.trouble import Said

if TYPE_CHECKING:
    from proctor.performing.paths.pins import Named
    from proctor.performing.task import Task

#: include/uapi/linux/nsfs.h, include/uapi/linux/fs.h
_NS_GET_PARENT: Final = 0xB702
_FITHAW: Final = 0xC0045878


@cache
def _owner() -> Single:
    """Whether a superblock is of a user namespace, or of one below: for all others ``ioctl_fsthaw`` of fs/ioctl.c says EPERM,
    and for its own that it is not frozen, as no overlay can be.  Sent: the user namespace, the file."""
    steps = Steps()
    steps.last = True
    userns, file = steps.sent(), steps.sent()
    steps.call("setns", userns, 0)
    thawed = steps.call("ioctl", file, _FITHAW, 0)
    return Single(steps.freeze(), thawed)


def see(task: Task, named: Named, file: int) -> Generator[Any, Any, None]:
    """See that a file may be bound.

    :param named: what it was pinned as.
    :param file: the same, as the caller opened it.
    :raises Said: it is on a file system that somebody serves."""
    if named.slow:
        raise Said(
            errno.EPERM,
            "the image is on a file system that somebody serves, who could let the host's device hang",
        )
    if named.stacked and (yield from _belongs(task, file)):
        raise Said(
            errno.EPERM,
            "the image is on an overlay of the container's own, below which somebody could let the host's device hang",
        )


def _belongs(task: Task, file: int) -> Generator[Any, Any, bool]:
    """Whether the file system belongs to the container's user namespace, the outermost below ours, or to one within."""
    asking = _owner()
    outermost = _below_ours(task.caller.namespace_fd("user"))
    try:
        reply = yield from ask(task, False, asking.request, (outermost, file))
    finally:
        os.close(outermost)
    reply.close()
    return bool(reply.error(asking.made) != errno.EPERM)


def _below_ours(namespace: int) -> int:
    """The user namespace directly below ours that one is, or is below; the asker's to close."""
    ours, at = os.stat("/proc/self/ns/user").st_ino, os.dup(namespace)
    while True:
        try:
            above = fcntl.ioctl(at, _NS_GET_PARENT)
        except PermissionError:  # beyond ours
            return at
        except BaseException:
            os.close(at)
            raise
        if os.fstat(above).st_ino == ours:
            os.close(above)
            return at
        os.close(at)
        at = above
