"""System calls that Python's :mod:`os` does not have (or not since 3.11), through libc.

Every function raises :class:`OSError` with the kernel's errno.  Used by the performers and, for
:func:`mount_of`, by the monitor; nothing here is imported before the first call is performed.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final, NamedTuple

_libc: Final = ctypes.CDLL(None, use_errno=True)
_syscall: Final = _libc.syscall
_syscall.restype = ctypes.c_long

# Not in Python's os: include/uapi/linux/{openat2.h,fcntl.h,magic.h,stat.h,capability.h,prctl.h}.
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10
RESOLVE_CACHED: Final = 0x20
RESOLVE_SCOPED: Final = RESOLVE_BENEATH | RESOLVE_IN_ROOT
O_TMPFILE_BIT: Final = os.O_TMPFILE & ~os.O_DIRECTORY  # __O_TMPFILE
AT_FDCWD: Final = -100
PROC_SUPER_MAGIC: Final = 0x9FA0
PROC_ROOT_INO: Final = 1

CAP_DAC_OVERRIDE: Final = 1
CAP_FSETID: Final = 4
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAP_SYS_CHROOT: Final = 18
CAP_SYS_ADMIN: Final = 21
CAP_MKNOD: Final = 27

NS_GET_USERNS: Final = 0xB701  # include/uapi/linux/nsfs.h
NS_GET_PARENT: Final = 0xB702

_SYS_OPENAT2: Final = 437  # the same number on every architecture (since Linux 5.6)

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_SECBIT_KEEP_CAPS = 1 << 4

_HOW = struct.Struct("=QQQ")
_STATFS_TYPE = struct.Struct("@l")
_new_buffer = ctypes.create_string_buffer  # one per call: the monitor has threads
_STATX_INO = 0x100
_STATX_MNT_ID = 0x1000  # Linux 5.8
_AT_EMPTY_PATH = 0x1000
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_NO_AUTOMOUNT = 0x800


def error(number: int) -> OSError:
    """An errno as an exception."""
    return OSError(number, os.strerror(number))


def _fail(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)


def openat2(dirfd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    """openat2(2) with exactly these fields (O_CLOEXEC is the caller's business); a descriptor."""
    how = _HOW.pack(flags, mode, resolve)
    fd: int = _syscall(
        _SYS_OPENAT2, dirfd, ctypes.c_char_p(path), ctypes.c_char_p(how), ctypes.c_size_t(24)
    )
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd


def filesystem(fd: int) -> int:
    """``f_type`` of the file system a descriptor is on (``os.fstatvfs`` does not have it)."""
    buffer = _new_buffer(256)
    if _libc.fstatfs(fd, buffer) != 0:
        raise _fail("fstatfs")
    kind: int = _STATFS_TYPE.unpack_from(buffer, 0)[0]
    return kind & 0xFFFFFFFF


class Place(NamedTuple):
    """Which directory on which mount; comparable while somebody keeps it open."""

    mount: int
    device: tuple[int, int]
    inode: int


def place(dirfd: int, path: bytes = b"", follow: bool = True) -> Place:
    """Where ``path`` (relative to ``dirfd``; empty: ``dirfd`` itself) is.  Since Linux 5.8."""
    flags = _AT_NO_AUTOMOUNT | (0 if path else _AT_EMPTY_PATH)
    flags |= 0 if follow else _AT_SYMLINK_NOFOLLOW
    buffer = _new_buffer(256)
    if _libc.statx(dirfd, path, flags, _STATX_INO | _STATX_MNT_ID, buffer) != 0:
        raise _fail("statx")
    inode = struct.unpack_from("=Q", buffer, 32)[0]
    major, minor, mount = struct.unpack_from("=IIQ", buffer, 136)
    return Place(mount, (major, minor), inode)


def setns(fd: int, kind: int = 0) -> None:
    """setns(2); ``os.setns`` exists since Python 3.12 only."""
    if _libc.setns(fd, kind) != 0:
        raise _fail("setns")


def setfsuid(uid: int) -> None:
    """setfsuid(2), verified: the call itself never says that it failed."""
    _libc.setfsuid(ctypes.c_uint(uid))
    if current_fsuid() != uid:
        raise PermissionError(1, "setfsuid was refused")


def current_fsuid() -> int:
    """The fsuid of this process, as its user namespace numbers it."""
    value: int = _libc.setfsuid(ctypes.c_uint(0xFFFFFFFF))
    return value & 0xFFFFFFFF


def setfsgid(gid: int) -> None:
    """setfsgid(2), verified."""
    _libc.setfsgid(ctypes.c_uint(gid))
    if _libc.setfsgid(ctypes.c_uint(0xFFFFFFFF)) & 0xFFFFFFFF != gid:
        raise PermissionError(1, "setfsgid was refused")


def capget() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of this process as masks."""
    header = struct.pack("=Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    if _libc.capget(header, data) != 0:
        raise _fail("capget")
    low = struct.unpack_from("=III", data, 0)
    high = struct.unpack_from("=III", data, 12)
    effective, permitted, inheritable = (a | b << 32 for a, b in zip(low, high, strict=True))
    return effective, permitted, inheritable


def capset(effective: int, permitted: int, inheritable: int = 0) -> None:
    """capset(2) for this process."""
    header = struct.pack("=Ii", 0x20080522, 0)
    low, high = [], []
    for mask in (effective, permitted, inheritable):
        low.append(mask & 0xFFFFFFFF)
        high.append(mask >> 32)
    if _libc.capset(header, struct.pack("=6I", *low, *high)) != 0:
        raise _fail("capset")


def _prctl(option: int, argument: int, what: str) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero) != 0:
        raise _fail(what)


def keep_capabilities() -> None:
    """From here on changing ids does not change capabilities (needs CAP_SETPCAP)."""
    _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP | _SECBIT_KEEP_CAPS, "PR_SET_SECUREBITS")


def die_with_parent(parent: int) -> None:
    """Ask for SIGKILL when the parent dies.  The kernel forgets it when credentials change, so this
    comes after that."""
    _prctl(_PR_SET_PDEATHSIG, 9, "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        os._exit(0)


def hide() -> None:
    """Not dumpable: nobody without CAP_SYS_PTRACE over the *monitor's* user namespace can attach."""
    _prctl(_PR_SET_DUMPABLE, 0, "PR_SET_DUMPABLE")


def name_process(name: bytes) -> None:
    """What ``ps`` shows (15 bytes)."""
    _libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0)
