"""Small rules about paths that the kernel has and a performer needs, too."""

from __future__ import annotations

import errno
import os
import stat

from proctor.emulate import raw


def split(path: bytes) -> tuple[bytes, bytes, bytes]:
    """(directory, last component, trailing slashes) as the kernel's path walk splits; the last
    component is empty for ``/`` and for the empty path."""
    bare = path.rstrip(b"/")
    slashes = path[len(bare) :]
    if not bare:
        return (b"/", b"", b"") if path else (b"", b"", b"")
    cut = bare.rfind(b"/") + 1
    return bare[:cut] or b".", bare[cut:], slashes


def _sysctl(name: str, proc: int) -> int:
    try:
        fd = os.open(f"sys/fs/{name}", os.O_RDONLY, dir_fd=proc)
    except OSError:
        return 2  # readable by root only; the strict reading is the safe one
    try:
        return int(os.read(fd, 16))
    finally:
        os.close(fd)


#: (protected_fifos, protected_regular); read once, before the performer leaves the host's view.
protected: list[int] = [0, 0]


def read_protected(proc: int) -> None:
    """Remember fs.protected_fifos and fs.protected_regular, which hold for existing files only."""
    protected[:] = _sysctl("protected_fifos", proc), _sysctl("protected_regular", proc)


def may_create_in_sticky(directory: os.stat_result, found: os.stat_result) -> None:
    """fs/namei.c of the same name: O_CREAT on what exists in a sticky directory of others.

    The kernel does this check only when it walks to the file itself, which a pinned open does not.
    """
    fifo = stat.S_ISFIFO(found.st_mode)
    if not (fifo or stat.S_ISREG(found.st_mode)) or not directory.st_mode & stat.S_ISVTX:
        return
    level = protected[0] if fifo else protected[1]
    if not level or found.st_uid in (directory.st_uid, raw.current_fsuid()):
        return
    if directory.st_mode & 0o002 or (directory.st_mode & 0o020 and level >= 2):
        raise raw.error(errno.EACCES)
