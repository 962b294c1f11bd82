"""A caller's own directory of procfs, in which the kernel lets it in where it keeps others out.

Every process may follow its own links there that lead to objects, search ``fd`` and ``fdinfo``, and read these, also
one that gave rights up and is therefore not dumpable: its directory is root's then, and an executor that is what the
caller is may do nothing of that (``__ptrace_may_access`` of kernel/ptrace.c lets a thread group alone, and so do
``proc_fd_permission`` and ``proc_fdinfo_permission`` of fs/proc/fd.c).  The monitor does it, from the pinned
directory, once that is seen to be the caller's.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from proctor.call.identity import Status
from proctor.call.path.procfs import is_procfs, numbers_in
from proctor.errors import SCARCE, ProctorError
from proctor.kernel.raw import openat2
from proctor.performing.filestat import PROC_ROOT_INO, ST_NOSYMFOLLOW
from proctor.performing.pins import AT_FDCWD, NO_XDEV, O_DIRECTORY, O_NOFOLLOW, PIN
from proctor.performing.trouble import Said
from proctor.performing.wanted import O_CLOEXEC, O_LARGEFILE, O_NOCTTY
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.caller import Caller

#: In the directory of a process or of a thread; all others need more.
_THERE: Final = (b"cwd", b"root", b"exe")
_CLOSED: Final = (b"fd", b"fdinfo", b"map_files")
#: Flags of open(2) with which a directory is read, and nothing else.
_READING: Final = (
    O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_LARGEFILE | getattr(os, "O_NONBLOCK", 0)
)


class Place(NamedTuple):
    """Where in the directory of the caller's own process a directory of procfs is."""

    #: The path by which the monitor has that directory, or the one of a thread in it.
    directory: bytes
    #: What it is in there; empty for that directory itself.
    name: bytes

    @property
    def closed(self) -> bool:
        """Whether others may not search it, nor read it."""
        return self.name in _CLOSED

    def leads(self, name: bytes) -> bool:
        """Whether a link of this name leads to an object, and its process may follow it."""
        if self.name == b"fd":
            return name.isdigit()
        return name in _THERE if not self.name else self.name == b"ns" and b"." not in name


def place(here: int, caller: Caller) -> Place | None:
    """Where a directory is; None if not in the caller's own part of a procfs.

    It is by number: what is mounted over a part of a procfs, which whoever may mount can do at any time, is never
    looked at, and inode numbers there come round again."""
    if not is_procfs(here):
        return None
    above = [os.dup(here)]
    try:
        for _ in range(4):  # N/task/N/fd
            above.append(openat2(above[-1], b"..", PIN | O_DIRECTORY, NO_XDEV))
            if os.fstat(above[-1]).st_ino == PROC_ROOT_INO:
                top, *names = [_name_of(fd) for fd in reversed(above[:-1])]
                numbers = numbers_in(above[-1], caller)
                thread = None
                if names[:1] == [b"task"] and names[1:]:
                    thread, names = names[1], names[2:]
                if numbers is None or top != b"%d" % numbers[0] or names[1:]:
                    return None
                if thread is not None and not thread.isdigit():
                    return None  # it is dead
                directory = _directory(caller, numbers, None if thread is None else int(thread))
                return None if directory is None else Place(directory, b"".join(names))
    except OSError as error:
        if isinstance(error, ProctorError) or error.errno in SCARCE:
            raise
    finally:
        for fd in above:
            os.close(fd)
    return None


def _name_of(fd: int) -> bytes:
    return os.readlink(b"/proc/self/fd/%d" % fd).rpartition(b"/")[2]


def is_closed(here: int, caller: Caller) -> bool:
    """Whether it is a directory of the caller's own that others may not search, nor read: ``fd``, ``fdinfo`` or
    ``map_files`` of its process or of a thread of that."""
    there = place(here, caller)
    return there is not None and there.closed


def enter(here: int, name: bytes, caller: Caller) -> int:
    """A name in a directory of the caller's own, not followed: an O_PATH descriptor, the asker's to close.

    :raises Said: what the kernel says."""
    return _opened(here, name, PIN | O_NOFOLLOW, 0, caller)


def read(here: int, flags: int, caller: Caller) -> int | None:
    """Such a directory, opened to be read: a descriptor, the asker's to close; None if it is none, or something else
    is wanted than to read it.

    :raises Said: what the kernel says."""
    if flags & ~_READING or not is_closed(here, caller):
        return None
    return _opened(here, b".", flags | O_CLOEXEC, 0, caller)


def follow(here: int, there: Place, name: bytes, caller: Caller, *, directory: bool) -> int:
    """What a link there leads to: an O_PATH descriptor, the asker's to close.

    It is the monitor's own procfs in which it is followed: over what is in the caller's another's link may be mounted.

    :raises Said: what the kernel says; EACCES where something is mounted over it."""
    if os.fstatvfs(here).f_flag & ST_NOSYMFOLLOW:
        raise Said(errno.ELOOP)
    try:
        os.close(_opened(here, name, PIN | O_NOFOLLOW, NO_XDEV, caller))
    except Said as said:
        raise Said(errno.EACCES if said.errno == errno.EXDEV else said.errno) from None
    path = b"/".join(filter(None, [there.directory, there.name, name]))
    return _opened(AT_FDCWD, path, PIN | (O_DIRECTORY if directory else 0), 0, caller)


def _directory(caller: Caller, numbers: tuple[int, int], thread: int | None) -> bytes | None:
    """The path by which the monitor has a directory of the caller's process or of one of its threads; None if that is
    gone.

    :param numbers: what the caller has in another procfs.
    :param thread: the thread's number there; None for the process."""
    process = b"/proc/%d" % caller.tgid
    if thread is None:
        return process
    if thread == numbers[1]:
        return b"%s/task/%d" % (process, caller.tid)
    level = max(
        i for i, both in enumerate(zip(caller.nstgid, caller.nspid, strict=True)) if both == numbers
    )
    for tid in os.listdir(process + b"/task"):
        one = b"%s/task/%s" % (process, tid)
        try:
            with open(one + b"/status", "rb") as file:
                seen = Status(file.read()).numbers("NSpid")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if seen is not None and seen[level : level + 1] == (thread,):
            return one
    return None


def _opened(directory: int, name: bytes, flags: int, resolve: int, caller: Caller) -> int:
    try:
        fd = openat2(directory, name, flags, resolve)
    except OSError as error:
        if error.errno in SCARCE:
            raise
        raise Said(error.errno or 0) from None
    return _still(fd, caller)


def _still(fd: int, caller: Caller) -> int:
    try:
        caller.check()
    except BaseException:
        os.close(fd)
        raise
    return fd
