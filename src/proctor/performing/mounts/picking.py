"""fspick(2): a context in which the options of a file system are collected that is mounted, and its reconfiguration.

What is picked is kept by its number alone (:mod:`proctor.performing.mounts.remounting`).  A descriptor on the mount, or the kernel's own
context of it, would keep the mount or its file system busy after the caller has closed its own, which the kernel does not tell.
So the caller has a context as of fsopen(2), of that kind of file system, which takes the same options; and when they are to be
put into effect the mount is looked for, where it is by then.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import answer, deny
from proctor.performing.executing.requests import Request
from proctor.performing.executing.steps import Result, Steps
from proctor.performing.families import mount
from proctor.performing.mounts import mount_words, remounting
from proctor.performing.paths import pins
from proctor.performing.trouble import Powerless, Said
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.mounts.contexts import Context
    from proctor.performing.task import Task, Work

#: include/uapi/linux/mount.h: FSPICK_*, and struct statmount with what is asked for.
CLOEXEC, _NOFOLLOW, _NO_AUTOMOUNT, _EMPTY = 1, 2, 4, 8
_FLAGS: Final = CLOEXEC | _NOFOLLOW | _NO_AUTOMOUNT | _EMPTY
_REQUEST: Final = struct.Struct("=IIQQ")
_POINT, _KIND = 0x10, 0x20
_POINT_AT, _KIND_AT, _TEXTS = 108, 36, 512
_ROOM: Final = _TEXTS + 4096 + 64


class Picked(NamedTuple):
    """A mount, by its number and its kind of file system."""

    number: int
    kind: bytes


class _Telling(NamedTuple):
    request: Request
    picked: Result
    told: Result
    text: int


@cache
def _telling(pick: bool) -> _Telling:
    """As the caller: what is said of a mount.

    Holes: a mnt_id_req.  Sent, if it is picked before, as fspick(2) would: something on it."""
    steps = Steps()
    request, empty, text = steps.hole(_REQUEST.size), steps.bytes(b""), steps.scratch(_ROOM)
    flags = CLOEXEC | _NO_AUTOMOUNT | _EMPTY
    picked = steps.call("fspick", steps.sent(), empty, flags) if pick else None
    told = steps.call("statmount", request, text, _ROOM, 0)
    part = steps.want(text)
    return _Telling(steps.freeze(), picked or told, told, part)


def _text(said: bytes, at: int) -> bytes:
    """One of the texts in a struct statmount."""
    (offset,) = struct.unpack_from("=I", said, at)
    return said[_TEXTS + offset :].partition(b"\0")[0]


def pick(task: Task) -> Generator[Any, Any, Picked | None]:
    """What fspick(2) is called for, in the order of fs/fsopen.c; None if it is nothing of ours.

    :raises Said: as the kernel would."""
    flags = task.call.registers[2] & 0xFFFFFFFF
    if flags & ~_FLAGS or not task.who.effective >> mount.CAP_SYS_ADMIN & 1:
        return None  # and the kernel says so
    if not mount.elsewhere(task) or not task.owned():
        return None
    dirfd, path = pins.signed(task.call.registers[0]), task.call.args["path"]
    if not path and flags & _EMPTY:
        target = yield from task.itself(dirfd)
    else:
        follow = pins.O_NOFOLLOW if flags & _NOFOLLOW else 0
        target = yield from task.pin(task.start(dirfd, path), path, follow, 0)
    number = yield from remounting.number(task, target.fd)
    if remounting.mounts(task).writable(task.session.container, number) is None:
        return None
    task.permit(target.named.path, target.named.status, "path")
    telling = _telling(True)
    wanted = _REQUEST.pack(_REQUEST.size, 0, number, _KIND)
    reply = yield from task.session.ask(telling.request, wanted, fds=(target.fd,))
    failed = reply.error(telling.picked) or reply.error(telling.told)
    if failed:
        raise Said(failed)
    return Picked(number, _text(reply.parts[telling.text], _KIND_AT))


def reconfigure(task: Task, context: Context) -> Work:
    """Give what was picked the options that were taken, as ``vfs_cmd_reconfigure`` of fs/fsopen.c."""
    if not context.picked or context.failed:
        return deny(errno.EBUSY)
    context.failed = True  # FS_CONTEXT_FAILED, unless it comes out well
    verdict = yield from _reconfigured(task, context)
    if verdict == answer(0):
        context.failed = False
        context.options.clear()
    return verdict


def _reconfigured(task: Task, context: Context) -> Work:
    from proctor.performing.mounts import mounter

    mount.may(task)
    writable = remounting.mounts(task).writable(context.container, context.picked)
    fd = yield from _found(task, context.picked)
    if writable is None or fd < 0:
        return deny(errno.EPERM, "what was picked is not mounted where the caller is")
    given = list(context.options)
    if not writable:
        if not mount_words.reads_only(mount_words.RDONLY, given):
            return deny(errno.EACCES, "its source was opened for reading only")
        given.append((b"ro", None))  # to ext4 no word is "rw"
    try:
        failed, said = yield from mounter.reconfigure(task, fd, given)
    except Powerless:
        return deny(errno.EPERM, "that needs the host's root, which the monitor is not")
    return deny(failed, said) if failed else answer(0)


def _found(task: Task, number: int) -> Generator[Any, Any, int]:
    """A mount, pinned where it is now; -1 if the caller cannot name it."""
    telling = _telling(False)
    reply = yield from task.session.ask(
        telling.request, _REQUEST.pack(_REQUEST.size, 0, number, _POINT)
    )
    if reply.error(telling.told):
        return -1
    path = _text(reply.parts[telling.text], _POINT_AT)
    if not path.startswith(b"/"):
        return -1
    try:
        target = yield from task.pin(task.start(pins.AT_FDCWD, path), path, pins.O_NOFOLLOW, 0)
    except (Said, OSError):
        return -1
    return target.fd if (yield from remounting.number(task, target.fd)) == number else -1
