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
from typing import Any, Final, Generic, TypeVar

from proctor.kernel.threads import quiet_thread

#: What may wait for its writing.
LINES: Final = 10_000
BYTES: Final = 16 << 20
#: What is written at once.
_BATCH: Final = 512
#: Seconds that the thread lets lines gather before it writes: to wake it for each of them costs whoever
#: puts it more than the line, and the interpreter is the same for both.
_GATHER: Final = 0.02

Item = TypeVar("Item")


class Writer(Generic[Item]):
    """Gives items, in order, to ``write`` on a thread of its own, which starts with the first of them.

    ::

        writer = Writer(lambda lines: os.write(2, "".join(lines).encode()), "standard error")
        writer.put("line\\n")
        writer.close(patience=1.0)

    :param write: called with a list of items; it may take its time, and answers for its errors.
    :param place: where they go, in words.
    :param ready: waits at most so many seconds until ``write`` would not be stuck, and says whether:
        asked where no thread could be had to write what is left in the end.

    :ivar on_dropped: called on that thread, each with how many items found no room since the last
        time: an observer that writes by this has supervisors tell :class:`Dropped` so.
    """

    def __init__(
        self,
        write: Callable[[list[Item]], object],
        place: str,
        ready: Callable[[float], bool] | None = None,
    ) -> None:
        self.place = place
        self.on_dropped: list[Callable[[int], object]] = []
        self._write = write
        self._ready = ready
        self._lock = threading.Lock()
        self._change = threading.Condition(self._lock)
        self._hurried = False
        #: Items, with their bytes and lines.
        self._queue: list[tuple[Item, int, int]] = []
        #: Lines that are gathered elsewhere, and whether some are.
        self._gathered: Any = None
        self._hinted = False
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
        with self._lock:
            self._fetch()
            taken = self._put(item, size, 1)
            started = self._thread is not None
        if taken and not started:
            self._start()
        return taken

    def _put(self, item: Item, size: int, lines: int) -> bool:
        """The same (the lock is held)."""
        if self._closed or self._lines >= LINES or self._bytes + size > BYTES:
            self._lost += lines
            return False
        self._bytes += size
        self._lines += lines
        self._queue.append((item, size, lines))
        if len(self._queue) == 1:
            self._change.notify_all()
        return True

    def gathered(self) -> Any:
        """``_core.Gathered``: lines that are made in the core, and wait there until others come, or it
        is time to write.  Where items are lines."""
        if self._gathered is None:
            from proctor.kernel import _core

            mine = weakref.ref(self)

            def hint() -> None:
                writer = mine()
                if writer is not None:
                    writer._hint()

            self._gathered = _core.Gathered(hint)
        return self._gathered

    def _hint(self) -> None:
        """Some are gathered, or many."""
        with self._lock:
            if self._hinted:
                self._fetch()
            self._hinted = True
            self._change.notify_all()
            started = self._thread is not None
        if not started:
            self._start()

    def _fetch(self) -> None:
        """Take what is gathered, before anything else is (the lock is held)."""
        if self._gathered is not None:
            self._hinted = False
            text, lines = self._gathered.take()
            if lines:
                self._put(text, len(text), lines)

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
                while not (self._queue or self._hinted):
                    if self._closed:
                        return
                    self._change.wait()
                if not (self._hurried or self._closed or len(self._queue) >= _BATCH):
                    self._change.wait(_GATHER)
                self._fetch()
            self._write_some()

    def _write_some(self) -> None:
        with self._change:
            batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
            lost, self._lost = self._lost, 0
        try:
            if batch:
                self._write([item for item, _, _ in batch])
            for tell in self.on_dropped if lost else ():
                tell(lost)
        except Exception:
            pass  # whoever writes answers for it; the thread goes on
        with self._change:
            self._lines -= sum(lines for _, _, lines in batch)
            self._bytes -= sum(size for _, size, _ in batch)
            self._change.notify_all()

    def flush(self, patience: float, most: float = 0.0) -> bool:
        """Wait until everything is written; whether it is.

        :param patience: seconds to wait while nothing gets written.
        :param most: seconds to wait in any case; as ``patience`` if that is more.
        """
        with self._lock:
            self._fetch()
        if self._lines and self._thread is None:
            self._start()
        now = time.monotonic()
        end = now + max(patience, most)
        with self._change:
            self._hurried = True
            self._change.notify_all()
        try:
            return self._flushed(now, end, patience)
        finally:
            self._hurried = False

    def _flushed(self, now: float, end: float, patience: float) -> bool:
        while self._lines and self._thread is None:  # no thread to be had: we are the last to do it
            if self._ready is None or not self._ready(max(0.0, end - time.monotonic())):
                return False
            self._write_some()
        with self._change:
            if self._thread is threading.current_thread():
                return False  # whoever writes closes what says things: a handler of logging
            until = min(end, now + patience)
            left = self._lines
            while self._lines:
                now = time.monotonic()
                if self._lines != left:
                    left, until = self._lines, min(end, now + patience)
                if now >= until or not self._change.wait(until - now):
                    return not self._lines
        return True

    def close(self, patience: float, most: float = 0.0) -> bool:
        """Write what waits, as :meth:`flush`, and take nothing more.  Idempotent.  A thread that is
        stuck in a write ends with the process."""
        done = self.flush(patience, most)
        with self._change:
            self._closed = True
            self._change.notify_all()
        return done

    def _after_fork(self) -> None:
        """In a child of fork(2), where the thread does not exist: what waits is our parent's to
        write."""
        self._lock = threading.Lock()
        self._change = threading.Condition(self._lock)
        self._thread = None
        self._fetch()
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
