"""Where a mount comes from: a block device or an image, opened as the caller."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from proctor.performing.given import would
from proctor.performing.paths import acting, pins
from proctor.performing.trouble import Said
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.families.mount import Options
    from proctor.performing.paths.finding import Pin
    from proctor.performing.task import Task


class Source(NamedTuple):
    """Where it comes from, opened as the caller."""

    fd: int
    shown: bytes
    image: bool
    read_only: bool
    #: Whether the rules for devices of the caller's cgroups are about it.
    joins: bool


def opened(
    task: Task, options: Options, source: bytes, read_only: bool, served: bool = False
) -> Generator[Any, Any, Source]:
    """Where it comes from, pinned and opened as the caller.

    :param served: whether it is for a FUSE server, and for no device of the host's.
    :raises Said: it is nothing, or nothing that may be mounted."""
    pin = yield from task.pin(task.start(pins.AT_FDCWD, source), source, 0, 0)
    task.permit(pin.named.path, pin.named.status, "source")
    status = pin.named.status
    device = ":".join(map(str, status.rdev))
    image = stat.S_ISREG(status.mode)
    if options.images:
        # not everywhere where policies are checked
        from proctor.performing.loop_devices import loops

        loop = loops.device(status)
        if loop is not None:
            fd = yield from loops.open_bound(task, loop, os.O_RDONLY if read_only else os.O_RDWR)
            if fd >= 0:
                return Source(task.hold(fd), b"/dev/loop%d" % loop, False, read_only, joins=False)
    if stat.S_ISBLK(status.mode):
        if not options.allows(status.rdev):
            raise Said(
                errno.EPERM,
                f"the block device {device} is not among the rule's devices {would(devices=[device])}",
            )
    elif not image:
        raise Said(errno.ENOTBLK)
    elif not options.images:
        raise Said(errno.ENOTBLK, "it is a file; images = true would mount it")
    task.refuse_device(status)
    fd, failed = yield from reopened(task, pin, os.O_RDONLY if read_only else os.O_RDWR)
    if image and failed in (errno.EACCES, errno.EROFS):
        read_only = True  # as mount -o loop does
        fd, failed = yield from reopened(task, pin, os.O_RDONLY)
    if failed:
        raise Said(failed, f"the caller cannot open {device if not image else 'the image'} itself")
    if image and not served:
        from proctor.performing.loop_devices import backing  # as loops

        yield from backing.see(task, pin.named, fd)
    if image:
        return Source(fd, pin.named.path, True, read_only, joins=False)
    return Source(fd, shown(source, status.rdev), False, read_only, joins=True)


def reopened(task: Task, pin: Pin, flags: int) -> Generator[Any, Any, tuple[int, int]]:
    """(descriptor, errno) of what is pinned, opened as the caller; the task closes it."""
    act = acting.reopening()
    how = pins.HOW.pack(flags | os.O_CLOEXEC, 0, 0)
    reply = yield from task.session.ask(act.request, how, fds=(pin.fd,), table=True)
    failed = reply.error(act.fd)
    return (-1, failed) if failed else (task.hold_copy(reply.take(act.fd)), 0)


def shown(source: bytes, device: tuple[int, int]) -> bytes:
    """What /proc/mounts will say, which the kernel also looks up: the host's name of a device, preferably
    the caller's; empty if there is none.  It is in the file system of /dev itself, where nobody else puts another one in its
    place: /dev/shm is everybody's."""
    if source.startswith(b"/dev/") and b".." not in source and _is_named(source, device):
        return source
    try:
        link = os.readlink(b"/sys/dev/block/%d:%d" % device)
    except OSError:
        return b""
    name = b"/dev/" + link.rpartition(b"/")[2].replace(b"!", b"/")
    return name if _is_named(name, device) else b""


def _is_named(name: bytes, device: tuple[int, int]) -> bool:
    """Whether this name in /dev is a device's."""
    try:
        found = os.lstat(name)
        return (
            stat.S_ISBLK(found.st_mode)
            and found.st_rdev == os.makedev(*device)
            and found.st_dev == os.stat("/dev").st_dev
        )
    except OSError:
        return False
