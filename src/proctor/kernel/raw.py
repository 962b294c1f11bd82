"""System calls that Python does not have, by their numbers on this machine.

The numbers are those the core was compiled with, so that nothing here needs a table.  Every function
raises :class:`OSError` with the kernel's errno and leaves it at that.
"""

from __future__ import annotations

import errno
import os
import struct
from array import array

from proctor.kernel import _core

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_GRND_NONBLOCK = 1  # include/uapi/linux/random.h
_MOST_OF_MASK = 1 << 16  # of a kernel for half a million processors
_KCMP_FILE, _KCMP_FILES = 0, 2  # include/uapi/linux/kcmp.h


def seccomp(operation: int, flags: int, argument: int | bytes | bytearray | None = None) -> int:
    """seccomp(2).  ``argument``: None is NULL, an int is that address, a buffer is its address, and
    a writable one may be filled by the kernel."""
    return _core.syscall(_core.SYS_seccomp, operation, flags, argument)


def call(number: int, *arguments: int | bytes | bytearray | None) -> int:
    """Any system call, by its number; arguments as of :func:`seccomp`."""
    return _core.syscall(number, *arguments)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2), since Linux 5.6: a duplicate of the other process's descriptor, CLOEXEC."""
    return _core.syscall(_core.SYS_pidfd_getfd, pidfd, fd, 0)


def kcmp_files(one: int, other: int) -> bool:
    """Whether two threads, by their numbers, share their descriptor table (kcmp(2))."""
    return _core.syscall(_core.SYS_kcmp, one, other, _KCMP_FILES, 0, 0) == 0


def kcmp_file(pid: int, number: int, fd: int) -> bool:
    """Whether a process's descriptor, by its number, is the same open file as one of ours (kcmp(2))."""
    return _core.syscall(_core.SYS_kcmp, os.getpid(), pid, _KCMP_FILE, fd, number) == 0


def die_with_parent(number: int) -> None:
    """Have this process sent a signal when the thread that is its parent ends (prctl(2),
    PR_SET_PDEATHSIG).  Ask afterwards whether it still is the parent."""
    _core.syscall(_core.SYS_prctl, _PR_SET_PDEATHSIG, number, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parents end (prctl(2), PR_SET_CHILD_SUBREAPER, Linux 3.4);
    they are ours to wait for then."""
    _core.syscall(_core.SYS_prctl, _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def process_vm_readv(pid: int, address: int, size: int) -> bytes:
    """process_vm_readv(2) of one piece: up to ``size`` bytes."""
    into = array("B", bytes(size))
    here = struct.pack("@PN", into.buffer_info()[0], size)
    there = struct.pack("@PN", address, size)
    got = _core.syscall(_core.SYS_process_vm_readv, pid, here, 1, there, 1, 0)
    return into[:got].tobytes()


def is_users(address: int, size: int) -> bool:
    """Whether so many bytes from an address on can be a program's, on this kernel: ``access_ok``, which getrandom(2) asks before it
    fills anything, and also where there is nothing to fill."""
    try:
        for each in (address, address + size):
            _core.syscall(_core.SYS_getrandom, each, 0, _GRND_NONBLOCK)
    except OSError as error:
        if error.errno == errno.EFAULT:
            return False
    return not (address + size) >> 64


def mask_size() -> int:
    """How many bytes sched_getaffinity(2) fills at most, ``cpumask_size``: for as many processors as the kernel was built for, or
    as it can have, by how it was built."""
    return _core.syscall(_core.SYS_sched_getaffinity, 0, _MOST_OF_MASK, bytearray(_MOST_OF_MASK))


_HOW = struct.Struct("=3Q")  # struct open_how
_STATX_INO_MNT_ID, _STATX_MODE_IDS = 0x1100, 0x1B
_ITSELF = 0x1000 | 0x800 | 0x4000  # AT_EMPTY_PATH, AT_NO_AUTOMOUNT, AT_STATX_DONT_SYNC
# struct statx: inode; major, minor and mount, behind the times
_STATX = struct.Struct("=32xQ96xIIQ")
_STATX_OWNED = struct.Struct("=20xIIH")


def openat2(dirfd: int, path: bytes, flags: int, resolve: int) -> int:
    """openat2(2), since Linux 5.6: a descriptor; O_CLOEXEC is the asker's business."""
    how = _HOW.pack(flags, 0, resolve)
    return _core.syscall(_core.SYS_openat2, dirfd, path + b"\0", how, _HOW.size)


def is_hidden(fd: int) -> bool:
    """Whether the file system of a descriptor tells us nothing: a FUSE one of another user namespace tells its own
    users alone (``fuse_allow_current_process`` of fs/fuse/dir.c).  It is not asked."""
    try:
        _statx(fd, _STATX_INO_MNT_ID)
    except PermissionError:
        return True
    return False


def file_identity(fd: int) -> tuple[int, int, int]:
    """(device, inode, mount) of what a descriptor refers to: statx(2), which tells mounts since Linux
    5.8.  The mount's number can be somebody else's once it is gone.

    It is what the kernel knows: no file system is asked.  Of one that is hidden from us fdinfo has the inode
    (Linux 5.14; before, PermissionError)."""
    try:
        found, number = _statx(fd, _STATX_INO_MNT_ID), 0
    except PermissionError:
        found = _statx(fd, 0)
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            _, known, text = file.read().partition(b"\nino:\t")
        if not known:
            raise
        number = int(text.split(b"\n")[0])
    inode, major, minor, mount = _STATX.unpack_from(found)
    return os.makedev(major, minor), number or inode, mount


def remembered(fd: int) -> tuple[int, int, int]:
    """(mode, user id, group id) of what a descriptor refers to, as the kernel remembers them: nobody is asked or waited
    for, and the server of a network or FUSE file system may know better.

    :raises PermissionError: that is hidden from us (:func:`is_hidden`)."""
    uid, gid, mode = _STATX_OWNED.unpack_from(_statx(fd, _STATX_MODE_IDS))
    return mode, uid, gid


def _statx(fd: int, mask: int) -> bytearray:
    found = bytearray(256)
    _core.syscall(_core.SYS_statx, fd, b"\0", _ITSELF, mask, found)
    return found


def file_identity_at(dirfd: int, name: bytes) -> tuple[int, int, int]:
    """The same of what a name in a directory leads to."""
    fd = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        return file_identity(fd)
    finally:
        os.close(fd)


# The first field: a long, but an unsigned int on s390x (arch/s390/include/uapi/asm/statfs.h).
_STATFS_TYPE = struct.Struct("@I" if os.uname().machine == "s390x" else "@l")


def filesystem_type(fd: int) -> int:
    """``f_type`` of fstatfs(2): which kind of file system a descriptor is on (statfs(2) has a list).

    Its mount says so, as far as it can be asked: a file system may not answer."""
    if (known := _core.kind_of(fd)) != 0:
        return known
    status = bytearray(512)  # struct statfs has 120 bytes or fewer
    _core.syscall(_core.SYS_fstatfs, fd, status)
    kind: int = _STATFS_TYPE.unpack_from(status)[0]
    return kind
