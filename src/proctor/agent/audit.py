"""The agent's log file, which somebody else may rotate: moved away, it is made anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from proctor.observe.lines import Lines

_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class LogFile(Lines):
    """Lines that are appended to a file, made for its owner alone if it is not there.

    Before each piece it is looked whether the path still leads to the file (logrotate(8), without
    ``copytruncate``); else it is opened anew.

    :param broken: see :class:`~proctor.observe.lines.Lines`.
    :raises OSError: it cannot be opened.
    """

    def __init__(self, path: str, broken: Callable[[OSError], object]) -> None:
        self._path = path
        self._file = os.open(path, _FLAGS, 0o600)
        super().__init__(self._file, f"--log {path}", broken)

    def _write_lines(self, lines: list[str]) -> None:
        try:
            there = os.stat(self._path)
            moved = not os.path.samestat(there, os.fstat(self._file))
        except OSError:
            moved = True
        if moved:
            self._reopen()
        super()._write_lines(lines)

    def _reopen(self) -> None:
        try:
            made = os.open(self._path, _FLAGS, 0o600)
        except OSError:
            return  # its directory is gone: what we have open is better than nothing
        os.dup2(made, self._file, inheritable=False)
        os.close(made)
