"""What statx(2) and fstatfs(2) say of a thing: asked of an executor, and read from its reply."""

from __future__ import annotations

import os
import stat
import struct
import sys
from typing import Final

from proctor.performing.executing.steps import Argument, Place, Result, Steps
from proctor.records import NamedTuple

_AT_EMPTY_PATH, _AT_NO_AUTOMOUNT = 0x1000, 0x800
_STATX: Final = 0x17FF  # STATX_BASIC_STATS and STATX_MNT_ID (Linux 5.8)
UNIQUE: Final = 0x4000  # STATX_MNT_ID_UNIQUE (Linux 6.8)
STATX_SIZE: Final = 256
STATFS_SIZE: Final = 96  # what matters of it
PROC_SUPER_MAGIC: Final = 0x9FA0
PROC_ROOT_INO: Final = 1
_CGROUPS: Final = (0x63677270, 0x27E0EB)  # of version 2 and of version 1
#: File systems that open and close regular files and directories without asking anybody: ext4, xfs,
#: btrfs, tmpfs, ramfs, f2fs, overlayfs (if what it lies on does), squashfs, erofs, isofs, bcachefs, zfs.
#: Of include/uapi/linux/magic.h and their own headers.
LOCAL: Final = (
    0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0x858458F6, 0xF2F52010,
    0x794C7630, 0x73717368, 0xE0F5E1E2, 0x9660, 0xCA451A4E, 0x2FC12FC1,
)  # fmt: skip
_LOCAL: Final = frozenset(LOCAL)
_OVERLAY: Final = 0x794C7630
#: Those that lie on no other one, for the core: there, names are looked up and changed without asking anybody either.
ALONE: Final = struct.pack(f"={len(LOCAL) - 1}I", *[kind for kind in LOCAL if kind != _OVERLAY])
_FILES: Final = (stat.S_IFREG, stat.S_IFDIR)
#: And those of the kernel itself, whose files it closes at once: also sysfs, devpts, pipefs and sockfs.
PROMPT: Final = frozenset(
    (*LOCAL, PROC_SUPER_MAGIC, *_CGROUPS, 0x62656572, 0x1CD1, 0x50495045, 0x534F434B)
)
#: Those that are never of a user namespace, whoever mounts them (no FS_USERNS_MOUNT, so that ``sget_fc`` of fs/super.c
#: gives them no other owner): ext4, xfs, btrfs.
_HOSTS: Final = LOCAL[:3]
#: The same, for the core.
HOSTS: Final = struct.pack("=3I", *_HOSTS)
_S390: Final = hasattr(os, "uname") and os.uname().machine == "s390x"
ST_NODEV, ST_NOSYMFOLLOW = 0x0004, 0x2000


_OF_STATX: Final = struct.Struct("=20xIIH2xQQ80xIIIIQ")


class Status(NamedTuple):
    """What statx(2) says of a thing."""

    mode: int
    uid: int
    gid: int
    rdev: tuple[int, int]
    device: tuple[int, int]
    inode: int
    mount: int
    #: In bytes.
    size: int

    @property
    def place(self) -> tuple[tuple[int, int], int, int]:
        """Equal for the same thing on the same mount, as long as somebody keeps it open."""
        return self.device, self.inode, self.mount

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_device(self) -> bool:
        """Whether it is a device node."""
        return stat.S_ISCHR(self.mode) or stat.S_ISBLK(self.mode)


def same_place(one: bytes, other: bytes) -> bool:
    """Whether two of these have the same :attr:`Status.place`."""
    return one[32:40] == other[32:40] and one[136:152] == other[136:152]


def status_of(data: bytes) -> Status:
    """From a struct statx (include/uapi/linux/stat.h)."""
    uid, gid, mode, inode, size, rmajor, rminor, major, minor, mount = _OF_STATX.unpack_from(data)
    return Status(mode, uid, gid, (rmajor, rminor), (major, minor), inode, mount, size)


class System(NamedTuple):
    """What fstatfs(2) says of a file system."""

    proc: bool
    cgroup: bool
    #: ST_* bits of the mount: include/linux/statfs.h.
    flags: int
    #: Whether close(2) may wait there for somebody who does not answer.
    slow: bool
    #: Whether it belongs to the host, and to no user namespace; not of all that do it is known.
    hosts: bool
    #: Whether it lies on others: an overlay.
    stacked: bool


#: Where in a struct statfs the low half of ``f_type`` is.
KIND_AT: Final = 4 if sys.byteorder == "big" and struct.calcsize("@l") == 8 and not _S390 else 0


def kind_of(data: bytes) -> int:
    """``f_type`` of a struct statfs."""
    kind: int = struct.unpack_from("=I" if _S390 else "@l", data)[0]
    return kind & 0xFFFFFFFF


def system_of(data: bytes) -> System:
    """From a struct statfs (include/uapi/asm-generic/statfs.h; s390 has one of its own)."""
    kind = kind_of(data)
    if _S390:
        (flags,) = struct.unpack_from("=I", data, 64)
    else:
        size = struct.calcsize("@l")
        (flags,) = struct.unpack_from("@l", data, 9 * size + 8)
    return System(
        kind == PROC_SUPER_MAGIC,
        kind in _CGROUPS,
        flags,
        kind not in PROMPT,
        kind in _HOSTS,
        kind == _OVERLAY,
    )


def is_plain(system: bytes, status: bytes) -> bool:
    """Whether it is a regular file or a directory, on a file system that asks nobody."""
    (mode,) = struct.unpack_from("=H", status, 28)
    return stat.S_IFMT(mode) in _FILES and kind_of(system) in _LOCAL


def statx(steps: Steps, fd: Argument, place: Place, empty: Place, more: int = 0) -> Result:
    """Have statx(2) of a descriptor in ``place``.

    :param more: STATX_* bits besides the usual ones; :data:`UNIQUE` has the kernel tell another number of the mount, where
        it has one."""
    return steps.call("statx", fd, empty, _AT_EMPTY_PATH | _AT_NO_AUTOMOUNT, _STATX | more, place)
