"""What came after the oldest kernel that proctor runs on, and the running one may not have: tried out, once each, since
distributors port back.

Where the kernel lacks something a caller is told so as the kernel would tell it, also where an executor could do it by
other means: by what they get programs find out which kernel they are on.
"""

from __future__ import annotations

import errno
import os
from functools import cache, lru_cache
from typing import Final

from proctor.kernel import raw
from proctor.performing import families
from proctor.performing.paths import pins
from proctor.syscalls import tables
from proctor.syscalls.architectures import native

_NOBODYS: Final = (1 << 31) - 1  # a number that no descriptor has
_CREATE_EXCL: Final = 8
_STATX: Final = 256


def lacks(call: str) -> bool:
    """Whether the kernel has not got a call that is performed."""
    return call in families.LATER and not has(call)


@cache
def has(call: str) -> bool:
    """Whether there is a call at all: one whose arguments are all wrong does nothing but say so."""
    return _said(call, *[-1] * 6) != errno.ENOSYS


@cache
def creates_exclusively() -> bool:
    """Whether fsconfig(2) knows FSCONFIG_CMD_CREATE_EXCL (Linux 6.6): it looks at the command before the descriptor."""
    return _said("fsconfig", _NOBODYS, _CREATE_EXCL, 0, 0, 0) != errno.EOPNOTSUPP


@lru_cache(64)
def of_itself(statx: bool, fd: bool, null: bool, flags: int) -> int:
    """What statx(2), or newfstatat(2), says with AT_EMPTY_PATH among these flags and no path: an errno, or 0.  NULL is a path
    of no length since Linux 6.11, and that of the working directory, and flags do not matter, since later.

    :param fd: of a descriptor, or else of the working directory.
    :param null: whether the path is NULL."""
    root = os.open("/", pins.O_PATH)
    try:
        where = root if fd else pins.AT_FDCWD
        path, room = None if null else b"\0", bytearray(_STATX)
        if statx:
            return _said("statx", where, path, flags, 0, room)
        return _said("newfstatat", where, path, room, flags)
    finally:
        os.close(root)


def _said(call: str, *arguments: int | bytes | bytearray | None) -> int:
    """The errno that a call gets here; 0 for none."""
    try:
        raw.call(tables.number(call, native()), *arguments)
    except OSError as error:
        return error.errno or 0
    return 0
