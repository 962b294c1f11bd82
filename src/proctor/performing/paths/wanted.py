"""What opening asks for: flags as openat2(2) takes them, and the call's own in that form."""

from __future__ import annotations

import os
from typing import Final

from proctor.performing.paths.pins import HOW, O_DIRECTORY, O_NOFOLLOW, O_PATH
from proctor.records import NamedTuple
from proctor.syscalls.architectures import native


def _flag(name: str) -> int:
    value: int = getattr(os, name, 0)  # elsewhere than on Linux nothing is opened
    return value


O_CREAT, O_EXCL, O_TRUNC = os.O_CREAT, os.O_EXCL, os.O_TRUNC
O_CLOEXEC, O_NOCTTY = _flag("O_CLOEXEC"), _flag("O_NOCTTY")
ACCESS: Final = _flag("O_ACCMODE") or 3
TMPFILE: Final = _flag("O_TMPFILE") & ~O_DIRECTORY  # __O_TMPFILE
O_NOATIME: Final = _flag("O_NOATIME")
O_FASYNC: Final = 0o20000
#: The kernel's: a libc of 64 bits says 0 (OpenFlag of :mod:`proctor.syscalls.flags`, which is long to read).
O_LARGEFILE: Final = 0o400000 if native() in ("aarch64", "arm") else 0o100000
#: VALID_OPEN_FLAGS of include/linux/fcntl.h: open and openat ignore all others, openat2 does not.
VALID: Final = (
    ACCESS | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | os.O_APPEND | _flag("O_NONBLOCK")
    | _flag("O_SYNC") | _flag("O_DSYNC") | O_FASYNC | _flag("O_DIRECT") | O_LARGEFILE | O_DIRECTORY
    | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | O_PATH | TMPFILE
)  # fmt: skip
#: What makes or truncates what is opened.
MAKING: Final = O_CREAT | O_TRUNC | TMPFILE
#: What does something besides opening, or opens something else.
UNUSUAL: Final = MAKING | O_PATH | O_FASYNC | _flag("O_DIRECT")
SYNC: Final = _flag("O_SYNC") | _flag("O_DSYNC")
#: What is left beside O_PATH.
WITH_O_PATH: Final = O_DIRECTORY | O_NOFOLLOW | O_PATH | O_CLOEXEC


def access(flags: int) -> int:
    """What access(2) is to be asked for flags of open(2) (ACC_MODE of fs/internal.h; O_TRUNC wants to write)."""
    return (os.R_OK, os.W_OK, os.R_OK | os.W_OK, os.R_OK | os.W_OK)[flags & ACCESS] | (
        os.W_OK if flags & O_TRUNC else 0
    )


class Wanted(NamedTuple):
    """What one call asks for, as openat2(2) would."""

    start: int | None
    path: bytes
    flags: int
    mode: int
    resolve: int
    #: Whether it is opened without O_LARGEFILE, as by a program of 32 bits (compat_sys_openat of fs/open.c).
    small: bool = False

    def how(self, flags: int | None = None, resolve: int | None = None) -> bytes:
        """As a struct open_how; with other flags and resolve bits, if these are given."""
        kept = self.flags if flags is None else flags
        mode = self.mode if kept & (O_CREAT | TMPFILE) or flags is None else 0
        return HOW.pack(kept | O_CLOEXEC, mode, self.resolve if resolve is None else resolve)
