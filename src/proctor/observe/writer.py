"""Writing for those who must not wait: a thread that does, and a queue with bounds before it.

Who answers callers never writes.  A terminal may be stopped, a pipe unread, a file system slow; and
a target that shares one of them has it in its hand.  So whoever has something to say puts it into a
:class:`Writer`, one for each place that can be stuck by itself, since a log must not end because the
target stopped its terminal.  What finds no room is dropped, counted, and told when the place takes
lines again.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from proctor.kernel.threads import quiet_thread

#: What may wait for its writing.
LINES: Final = 10_000
BYTES: Final = 16 << 20
#: What is written at once.
_BATCH: Final = 256

Item = TypeVar("Item")


class Writer(Generic[Item]):
    """Gives items, in order, to ``write`` on a thread of its own, which starts with the first of them.

    ::

        writer = Writer(lambda lines: os.write(2, "".join(lines).encode()), "standard error")
        writer.put("line\\n")
        writer.close(patience=1.0)

    :param write: called with a list of items; it may take its time, and answers for its errors.
    :param place: where they go, in words.
    :param dropped: called on that thread with how many were dropped before the items that follow,
        since the last time.
    """

    def __init__(
        self,
        write: Callable[[list[Item]], object],
        place: str,
        dropped: Callable[[int], object] | None = None,
    ) -> None:
        self.place = place
        self._write = write
        self._on_dropped = dropped
        self._change = threading.Condition(threading.Lock())
        self._queue: list[tuple[Item, int]] = []
        self._bytes = 0
        self._lines = 0
        self._lost = 0
        self._thread: threading.Thread | None = None
        self._closed = False
        _know(self)

    def put(self, item: Item, size: int = 0) -> bool:
        """Have it written; False if it was dropped.  It never waits for the place.

        :param size: how many bytes it holds, about; of a text it is known.
        """
        if not size and isinstance(item, str):
            size = len(item)
        with self._change:
            if self._closed or self._lines >= LINES or self._bytes + size > BYTES:
                self._lost += 1
                return False
            self._bytes += size
            self._lines += 1
            self._queue.append((item, size))
            if len(self._queue) == 1:
                self._change.notify_all()
            started = self._thread is not None
        if not started:
            self._start()
        return True

    def _start(self) -> None:
        with self._change:
            if self._thread is not None:
                return
            try:
                self._thread = quiet_thread(self._run, "proctor-writer")
            except RuntimeError:
                pass  # no more threads for us now: what waits is not lost, the next one tries again

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._queue:
                    if self._closed:
                        return
                    self._change.wait()
                batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
                lost, self._lost = self._lost, 0
            try:
                self._write([item for item, _ in batch])
                if lost and self._on_dropped is not None:
                    self._on_dropped(lost)
            except Exception:
                pass  # whoever writes answers for it; the thread goes on
            with self._change:
                self._lines -= len(batch)
                self._bytes -= sum(size for _, size in batch)
                self._change.notify_all()

    def flush(self, patience: float) -> bool:
        """Wait until everything is written, ``patience`` seconds at most; whether it is."""
        if self._lines and self._thread is None:
            self._start()
        until = time.monotonic() + patience
        with self._change:
            if self._thread is threading.current_thread():
                return False  # whoever writes closes what says things: a handler of logging
            while self._lines:
                left = until - time.monotonic()
                if left <= 0 or self._thread is None:
                    return False
                self._change.wait(left)
        return True

    def close(self, patience: float) -> bool:
        """Take nothing more, and write what waits, within ``patience`` seconds; whether that was
        done.  Idempotent.  A thread that is stuck in a write ends with the process."""
        done = self.flush(patience)
        with self._change:
            self._closed = True
            self._change.notify_all()
        return done

    @property
    def dropped(self) -> int:
        """How many were dropped and not told of yet."""
        return self._lost

    def _after_fork(self) -> None:
        """In a child of fork(2), where the thread does not exist: what waits is our parent's to
        write."""
        self._change = threading.Condition(threading.Lock())
        self._thread = None
        self._queue, self._lines, self._bytes, self._lost = [], 0, 0, 0


_writers: weakref.WeakSet[Writer[object]] | None = None


def _know(writer: Writer[Item]) -> None:
    global _writers  # noqa: PLW0603 - the hook is registered once
    if _writers is None:
        _writers = weakref.WeakSet()
        if hasattr(os, "register_at_fork"):  # not where there are fakes alone
            os.register_at_fork(after_in_child=_in_child)
    _writers.add(writer)  # type: ignore[arg-type]


def _in_child() -> None:
    for writer in list(_writers or ()):
        writer._after_fork()
