"""Links in a caller's own directory of procfs that lead to objects.

The kernel lets every process follow its own, also one that gave rights up and is therefore not dumpable: its
directory is root's then, and an executor that is what the caller is may not follow them (``__ptrace_may_access`` of
kernel/ptrace.c lets a thread group alone, and so does ``proc_fd_permission`` of fs/proc/fd.c).  Those are followed by
the monitor, from the pinned directory, once it is seen to be the caller's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from proctor.call.path.procfs import numbers_in
from proctor.performing.pins import O_DIRECTORY, O_NOFOLLOW, PIN
from proctor.performing.trouble import Said

if TYPE_CHECKING:
    from proctor.call.caller import Caller
    from proctor.performing.filestat import Status

#: In the directory of a process or of a thread; all others need more.
_THERE: Final = (b"cwd", b"root", b"exe")


def may_follow(here: int, name: bytes) -> bool:
    """Whether a process may follow this link in a directory of its own.

    :param here: a directory on procfs, in a process's part."""
    inside = os.readlink(b"/proc/self/fd/%d" % here).rpartition(b"/")[2]
    if inside == b"fd":
        return name.isdigit()
    return inside == b"ns" or (inside.isdigit() and name in _THERE)


def is_callers(root: int, top: Status, caller: Caller) -> bool:
    """Whether a process's directory is that of the caller's.

    :param root: the root of its procfs.
    :param top: the directory, which is held by what is below it."""
    numbers = numbers_in(root, caller)
    if numbers is None:
        return False
    try:
        own = os.stat(b"%d" % numbers[0], dir_fd=root)
    except OSError:
        return False
    caller.check()
    return own.st_ino == top.inode and own.st_dev == os.makedev(*top.device)


def open_link(here: int, name: bytes, caller: Caller, *, follow: bool, directory: bool) -> int:
    """What a link leads to, or the link itself: an O_PATH descriptor, the asker's to close.

    :raises Said: what the kernel says."""
    flags = PIN | (0 if follow else O_NOFOLLOW) | (O_DIRECTORY if follow and directory else 0)
    try:
        fd = os.open(name, flags, dir_fd=here)
    except OSError as error:
        raise Said(error.errno or 0) from None
    try:
        caller.check()
    except BaseException:
        os.close(fd)
        raise
    return fd
