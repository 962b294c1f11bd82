"""Lines for a descriptor that may be stuck, or broken: a terminal, a pipe, a file."""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable
from typing import Final

from proctor.observe.writer import Writer

#: What is written at once where others write too: a pipe takes as much, and no more, in one piece
#: (PIPE_BUF, pipe(7)).
_PIECE: Final = 4096


def open_log(path: str) -> int:
    """Opens a file to append lines to, made for its owner alone if it is not there; the caller's.

    :raises OSError: it cannot be opened; of a FIFO (fifo(7)) also that nobody reads it: to wait for a reader is to wait for
        ever, and what is to be logged is supervised by whoever waits.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as problem:
        if problem.errno == errno.ENXIO and _is_fifo(path):
            raise OSError(errno.ENXIO, "nobody reads from this FIFO") from None
        raise
    os.set_blocking(fd, True)
    return fd


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


class Lines(Writer[str]):
    """A writer of lines, with their ends, for one descriptor, which stays its owner's.

    :param broken: called once, on the writer's thread, with why nothing can be written any more
        (a full disk, a pipe without a reader); what comes then goes nowhere.
    """

    def __init__(
        self, fd: int, place: str, broken: Callable[[OSError], object] | None = None
    ) -> None:
        super().__init__(self._write_lines, place, self._is_ready)
        self._fd = fd
        self._broken = broken
        self._over = False
        try:
            file = stat.S_ISREG(os.fstat(fd).st_mode)
        except OSError:
            file = False
        self._piece = None if file else _PIECE

    def _is_ready(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def _write_lines(self, lines: list[str]) -> None:
        if self._piece is None:
            self._write_piece(_encoded("".join(lines)))
            return
        piece: list[bytes] = []
        size = 0
        most = self._piece
        single = (  # what was gathered are many in one
            line
            for each in lines
            for line in (each.splitlines(True) if len(each) > most else (each,))
        )
        for data in map(_encoded, single):
            if piece and size + len(data) > self._piece:
                self._write_piece(b"".join(piece))
                piece, size = [], 0
            piece.append(data)
            size += len(data)
        self._write_piece(b"".join(piece))

    def _write_piece(self, data: bytes) -> None:
        left = memoryview(data)
        while left and not self._over:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:  # somebody who shares it made it so
                select.select((), (self._fd,), ())
            except OSError as problem:
                if problem.errno == errno.EINTR:
                    continue
                self._over = True
                if self._broken is not None:
                    self._broken(problem)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
