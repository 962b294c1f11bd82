"""Logs that take the place of standard streams (:mod:`proctor.performing.families.streams`)."""

from __future__ import annotations

import errno
import os
import stat
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proctor.performing.families.streams import Options

_APPENDING: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
#: Logs of before whose numbers are remembered: a program that is silent for longer stays with its own.
_MOST: Final = 1024

#: Which file it is: device and inode.
File = tuple[int, int]


class Logs:
    """The logs of one monitor; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}
        self._before: dict[str, dict[File, None]] = {}

    def due(self, options: Options, file: File, inherited: int) -> int | None:
        """A descriptor of the log, the asker's to close, if it is to be put in the place of a file; None if
        that is to stay.

        :param inherited: which of the monitor's descriptors was inherited.
        :raises OSError: the log cannot be opened."""
        with self._lock:
            fd = self._current(options)
            now = _file(os.fstat(fd))
            if file == now:
                return None
            before = self._before.setdefault(options.file, {})
            if file not in before:
                try:
                    if _file(os.fstat(inherited)) != file:
                        return None
                except OSError:  # the monitor has nothing there
                    return None
            return os.dup(fd)

    def _current(self, options: Options) -> int:
        """The log that the name leads to, or a new one."""
        path = options.file
        fd = self._open.get(path)
        if fd is not None:
            mine = os.fstat(fd)
            if self._is_there(path, mine) and not 0 < options.size <= mine.st_size:
                return fd
            if self._is_there(path, mine):
                _shift(path, options.keep)
            before = self._before.setdefault(path, {})
            before[_file(mine)] = None
            if len(before) > _MOST:
                del before[next(iter(before))]
            del self._open[path]
            os.close(fd)
        fd = os.open(path, _APPENDING, 0o600)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "a log is a regular file", path)
        self._open[path] = fd
        # one of before that has its number by chance, or its name again
        self._before.setdefault(path, {}).pop(_file(os.fstat(fd)), None)
        return fd

    @staticmethod
    def _is_there(path: str, mine: os.stat_result) -> bool:
        try:
            return _file(os.stat(path, follow_symlinks=False)) == _file(mine)
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let go of them.  Idempotent."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])


def _file(found: os.stat_result) -> File:
    return found.st_dev, found.st_ino


def _shift(path: str, keep: int) -> None:
    """FILE becomes FILE.1, that FILE.2, and the last one goes."""
    if not keep:
        os.unlink(path)
        return
    for number in range(keep - 1, 0, -1):
        try:
            os.replace(f"{path}.{number}", f"{path}.{number + 1}")
        except FileNotFoundError:
            pass
    os.replace(path, f"{path}.1")
