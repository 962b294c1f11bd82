"""Trouble for the logger ``proctor``, by a writer: a handler of :mod:`logging` may wait for anything."""

from __future__ import annotations

from proctor.observe.events import Dropped, Trouble
from proctor.observe.writer import Writer


def log(event: Trouble | Dropped) -> None:
    """An observer: the first of each kind of trouble with its traceback, then the tenth..."""
    if isinstance(event, Dropped):
        _writer.put(f"{event.lines} lines for {event.place} were dropped: nobody took those before")
    elif event.worth_telling:
        text = event.text if event.times == 1 else f"{event.text} ({event.times} times so far)"
        page = event.traceback() if event.times == 1 else ""
        _writer.put(f"{text}\n{page}" if page else text)


def flush(patience: float) -> bool:
    """Wait until all is logged, ``patience`` seconds at most; whether it is."""
    return _writer.flush(patience)


def _write(lines: list[str]) -> None:
    """On the writer's thread.  The module is loaded there, since nobody should pay for what never
    happens."""
    import logging

    for line in lines:
        try:
            logging.getLogger("proctor").error("%s", line)
        except Exception:
            pass  # a log handler of somebody's


_writer = Writer(_write, "the logger")
_writer.on_dropped.append(lambda lines: log(Dropped(_writer.place, lines)))
