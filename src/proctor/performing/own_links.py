"""A caller's own directory of procfs, in which the kernel lets it in where it keeps others out.

Every process may follow its own links there that lead to objects, search ``fd`` and ``fdinfo``, and read these, also
one that gave rights up and is therefore not dumpable: its directory is root's then, and an executor that is what the
caller is may do nothing of that (``__ptrace_may_access`` of kernel/ptrace.c lets a thread group alone, and so do
``proc_fd_permission`` and ``proc_fdinfo_permission`` of fs/proc/fd.c).  The monitor does it, from the pinned
directory, once that is seen to be the caller's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from proctor.call.path.procfs import is_procfs, numbers_in
from proctor.kernel.raw import openat2
from proctor.performing.filestat import PROC_ROOT_INO
from proctor.performing.pins import NO_XDEV, O_DIRECTORY, O_NOFOLLOW, PIN
from proctor.performing.trouble import Said
from proctor.performing.wanted import O_CLOEXEC, O_LARGEFILE, O_NOCTTY

if TYPE_CHECKING:
    from proctor.call.caller import Caller
    from proctor.performing.filestat import Status

#: In the directory of a process or of a thread; all others need more.
_THERE: Final = (b"cwd", b"root", b"exe")
_CLOSED: Final = (b"fd", b"fdinfo", b"map_files")
#: Flags of open(2) with which a directory is read, and nothing else.
_READING: Final = (
    O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_LARGEFILE | getattr(os, "O_NONBLOCK", 0)
)


def _name_of(fd: int) -> bytes:
    return os.readlink(b"/proc/self/fd/%d" % fd)


def may_follow(here: int, name: bytes) -> bool:
    """Whether a process may follow this link in a directory of its own.

    :param here: a directory on procfs, in a process's part."""
    inside = _name_of(here).rpartition(b"/")[2]
    if inside == b"fd":
        return name.isdigit()
    return inside == b"ns" or (inside.isdigit() and name in _THERE)


def is_callers(root: int, top: Status, caller: Caller) -> bool:
    """Whether a process's directory is that of the caller's.

    :param root: the root of its procfs.
    :param top: the directory, which is held by what is below it."""
    return _is_callers(root, top.inode, os.makedev(*top.device), caller)


def _is_callers(root: int, inode: int, device: int, caller: Caller) -> bool:
    numbers = numbers_in(root, caller)
    if numbers is None:
        return False
    try:
        own = os.stat(b"%d" % numbers[0], dir_fd=root)
    except OSError:
        return False
    caller.check()
    return own.st_ino == inode and own.st_dev == device


def is_closed(here: int, caller: Caller) -> bool:
    """Whether it is a directory of the caller's own that others may not search, nor read: ``fd``, ``fdinfo`` or
    ``map_files`` of its process or of a thread of that."""
    text = _name_of(here)
    if text.rpartition(b"/")[2] not in _CLOSED or not is_procfs(here):
        return False
    above = [os.dup(here)]
    try:
        for _ in range(4):  # N/task/N/fd
            above.append(openat2(above[-1], b"..", PIN | O_DIRECTORY, NO_XDEV))
            if os.fstat(above[-1]).st_ino == PROC_ROOT_INO:
                below = _name_of(above[-1]).rstrip(b"/")
                names = text.removeprefix(below).split(b"/")[1:-1]
                top = os.fstat(above[-2])
                known = text.startswith(below) and [len(names), *names[1:2]] in ([1], [3, b"task"])
                return known and _is_callers(above[-1], top.st_ino, top.st_dev, caller)
    except OSError:
        pass
    finally:
        for fd in above:
            os.close(fd)
    return False


def enter(here: int, name: bytes, caller: Caller) -> int:
    """A name in such a directory, not followed: an O_PATH descriptor, the asker's to close.

    :raises Said: what the kernel says."""
    return open_link(here, name, caller, follow=False, directory=False)


def read(here: int, flags: int, caller: Caller) -> int | None:
    """Such a directory, opened to be read: a descriptor, the asker's to close; None if it is none, or something else
    is wanted than to read it.

    :raises Said: what the kernel says."""
    if flags & ~_READING or not is_closed(here, caller):
        return None
    try:
        fd = openat2(here, b".", flags | O_CLOEXEC, 0)
    except OSError as error:
        raise Said(error.errno or 0) from None
    return _still(fd, caller)


def open_link(here: int, name: bytes, caller: Caller, *, follow: bool, directory: bool) -> int:
    """What a link leads to, or the link itself: an O_PATH descriptor, the asker's to close.

    :raises Said: what the kernel says."""
    flags = PIN | (0 if follow else O_NOFOLLOW) | (O_DIRECTORY if follow and directory else 0)
    try:
        fd = os.open(name, flags, dir_fd=here)
    except OSError as error:
        raise Said(error.errno or 0) from None
    return _still(fd, caller)


def _still(fd: int, caller: Caller) -> int:
    try:
        caller.check()
    except BaseException:
        os.close(fd)
        raise
    return fd
