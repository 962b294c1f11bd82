"""What mount(2) is asked for: its flags and its options, as the kernel reads them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from proctor.call import passwords
from proctor.performing.trouble import Said

#: MS_* of include/uapi/linux/mount.h.
RDONLY, NOSUID, _NODEV, _NOEXEC, _SYNCHRONOUS, REMOUNT, _MANDLOCK, _DIRSYNC, _NOSYMFOLLOW = (
    1, 2, 4, 8, 16, 32, 64, 128, 256,
)  # fmt: skip
_NOATIME, _NODIRATIME, BIND, _MOVE, _STRICTATIME, _LAZYTIME, NOUSER = (
    1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 24, 1 << 25, 1 << 31,
)  # fmt: skip
_PROPAGATION: Final = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20
_MAGIC, _MAGIC_MASK = 0xC0ED0000, 0xFFFF0000
#: Flags that are the superblock's, as fsconfig(2) calls them.
_SUPERBLOCK: Final = (
    (RDONLY, b"ro"), (_SYNCHRONOUS, b"sync"), (_DIRSYNC, b"dirsync"), (_LAZYTIME, b"lazytime"),
    (_MANDLOCK, b"mand"),
)  # fmt: skip
#: Those that a remount sets or takes away (MS_RMT_MASK).
_REMOUNTED: Final = (
    (RDONLY, b"ro", b"rw"), (_SYNCHRONOUS, b"sync", b"async"), (_LAZYTIME, b"lazytime", b"nolazytime"),
    (_MANDLOCK, b"mand", b"nomand"),
)  # fmt: skip
#: Those of a mount: MOUNT_ATTR_*.  Times are decided before the mount's flags are locked.
_TIMES: Final = ((_NOATIME, 0x10), (_STRICTATIME, 0x20), (_NODIRATIME, 0x80))
_OTHERS: Final = ((RDONLY, 0x1), (NOSUID, 0x2), (_NOEXEC, 0x8), (_NOSYMFOLLOW, 0x200000))
#: Options that name another device by its number or a descriptor.
_NAMING: Final = frozenset((b"device", b"fd", b"journal_dev", b"logdev", b"rtdev"))
#: What keeps a broken image from being more than that: what it says itself is not asked.
_CAREFUL: Final = {
    "ext2": (b"errors", b"remount-ro"),
    "ext3": (b"errors", b"remount-ro"),
    "ext4": (b"errors", b"remount-ro"),
}

#: (name, value) of an option; no value for those that are flags.
Option = tuple[bytes, bytes | None]


def flags_of(register: int) -> int:
    """mount(2)'s flags, without the magic number that they may have."""
    flags = register & 0xFFFFFFFF
    return flags & ~_MAGIC_MASK if flags & _MAGIC_MASK == _MAGIC else flags


def is_new(register: int) -> bool:
    """Whether mount(2)'s flags ask for a mount of a file system, not of something that is mounted."""
    return not flags_of(register) & (REMOUNT | BIND | _MOVE | _PROPAGATION)


def options_in(data: bytes) -> list[Option]:
    """Those of a mount, as ``generic_parse_monolithic`` of fs/fs_context.c takes them apart.

    :raises Said: one of them must not be."""
    found: list[Option] = []
    for word in data.partition(b"\0")[0].split(b","):
        key, equals, value = word.partition(b"=")
        if key:  # "=value" is passed over
            found.append(option(key, value if equals else None))
            if key == b"source":
                raise Said(errno.EINVAL, "the source is said already")
    return found


def option(key: bytes, value: bytes | None) -> Option:
    """One option.

    :raises Said: it must not be."""
    shown = passwords.shown(key, value)
    if key in _NAMING or (value is not None and b"/" in value and key != b"source"):
        raise Said(errno.EPERM, f"option {shown}: what it names would be looked up on the host")
    if key.endswith(b"errors") and value == b"panic":
        raise Said(errno.EPERM, f"option {shown}: the host would stop at a broken image")
    return key, value


def reads_only(flags: int, given: Sequence[Option]) -> bool:
    """Whether a superblock is to be read-only: of ``ro`` and ``rw`` the last one counts, whatever value it has
    (``vfs_parse_sb_flag`` of fs/fs_context.c), and MS_RDONLY is before all of them."""
    said = [key == b"ro" for key, _ in given if key in (b"ro", b"rw")]
    return said[-1] if said else bool(flags & RDONLY)


def careful(name: str, given: Sequence[Option]) -> tuple[Option, ...]:
    """The same, and what a file system should be told if it is told nothing else."""
    more = _CAREFUL.get(name)
    lacks = more is not None and more[0] not in [key for key, _ in given]
    return (*given, more) if more is not None and lacks else tuple(given)


def superblock(flags: int) -> list[Option]:
    """Options of a new superblock for flags."""
    return [(word, None) for flag, word in _SUPERBLOCK if flags & flag]


def remounted(flags: int) -> list[Option]:
    """Options of one that is there already, which has all of them or their contraries."""
    return [(word if flags & flag else other, None) for flag, word, other in _REMOUNTED]


def times(flags: int) -> int:
    """MOUNT_ATTR_* of a mount that is not made yet."""
    table = _TIMES[:1] if flags & _NOATIME else _TIMES[1:2] if flags & _STRICTATIME else ()
    return _attributes(flags, (*table, _TIMES[2]))


def others(flags: int) -> int:
    """Those that can be said of one that is there."""
    return _attributes(flags, _OTHERS)


def _attributes(flags: int, table: Sequence[tuple[int, int]]) -> int:
    return sum(attribute for flag, attribute in table if flags & flag)
