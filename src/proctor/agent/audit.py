"""Where the agent's log goes: a file, which somebody else may rotate; or the journal."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Final

from proctor.observe.lines import Lines, open_log
from proctor.observe.writer import Writer


class LogFile(Lines):
    """Lines that are appended to a file, made for its owner alone if it is not there.

    Before each piece it is looked whether the path still leads to the file (logrotate(8), without
    ``copytruncate``); else it is opened anew.

    :param broken: see :class:`~proctor.observe.lines.Lines`.
    :raises OSError: it cannot be opened.
    """

    def __init__(self, path: str, broken: Callable[[OSError], object]) -> None:
        self._path = path
        self._file = open_log(path)
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
            made = open_log(self._path)
        except OSError:
            return  # its directory is gone: what we have open is better than nothing
        os.dup2(made, self._file, inheritable=False)
        os.close(made)


#: Where systemd-journald takes records (its native protocol: systemd.io/JOURNAL_NATIVE_PROTOCOL).
_JOURNAL: Final = "/run/systemd/journal/socket"
#: Most bytes of one record; longer ones take more than a datagram.
_LONGEST: Final = 128 << 10


class Journal(Writer[str]):
    """Lines that go to systemd's journal, a record each, whose MESSAGE is the line.

    :param broken: called once, with why nothing can be written any more.
    :raises OSError: there is no journal.
    """

    def __init__(self, broken: Callable[[OSError], object], path: str = _JOURNAL) -> None:
        super().__init__(self._write_records, "--log journal")
        self._broken = broken
        self._over = False
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._sock.connect(path)
        except OSError:
            self._sock.close()
            raise

    def _write_records(self, lines: list[str]) -> None:
        for line in "".join(lines).splitlines():
            if self._over:
                return
            text = line.encode("utf-8", "backslashreplace")[:_LONGEST]
            try:
                self._sock.send(b"PRIORITY=6\nSYSLOG_IDENTIFIER=proctor\nMESSAGE=" + text + b"\n")
            except OSError as problem:
                self._over = True
                self._broken(problem)
