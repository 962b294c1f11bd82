"""A table of what was intercepted, performed and refused, and the time it took."""

from __future__ import annotations

import threading
from typing import Final

from proctor.call.verdict import Deny, LetRun
from proctor.observe.events import Outcome

#: What is kept has bounds, since a target decides how often it calls, and what.
_SAMPLES: Final = 1024
_LINES: Final = 1000
_OTHERS: Final = ("(others)", "")


class _Line:
    """One line of the table: exact counts, and an even choice of the times for the median."""

    __slots__ = ("count", "every", "times", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.every = 1
        self.times: list[float] = []

    def add(self, seconds: float) -> None:
        self.total += seconds
        if self.count % self.every == 0:
            self.times.append(seconds)
            if len(self.times) >= 2 * _SAMPLES:
                self.times = self.times[::2]
                self.every *= 2
        self.count += 1


class Summary:
    """An observer that counts; :meth:`text` is the table."""

    events = (Outcome,)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._table: dict[tuple[str, str], _Line] = {}

    def __call__(self, outcome: Outcome) -> None:
        key = (outcome.call.name, _what(outcome))
        with self._lock:
            line = self._table.get(key)
            if line is None:
                if len(self._table) >= _LINES:
                    key = _OTHERS
                line = self._table.setdefault(key, _Line())
            line.add(outcome.answered - outcome.received)

    def text(self) -> str:
        """The table, in lines."""
        lines = [f"{'call':<16} {'what':<16} {'calls':>7} {'median µs':>10} {'total ms':>9}"]
        with self._lock:
            for (name, what), line in sorted(self._table.items()):
                median = sorted(line.times)[len(line.times) // 2] * 1e6
                lines.append(
                    f"{name:<16} {what:<16} {line.count:>7} {median:>10.1f} {line.total * 1e3:>9.2f}"
                )
        return "".join(f"{line}\n" for line in lines)


def _what(outcome: Outcome) -> str:
    if not outcome.delivered:
        return "caller gone"
    if isinstance(outcome.verdict, Deny):
        return f"refused {str(outcome.verdict).removeprefix('deny ')}"
    if outcome.performed:
        return "performed"
    return "let run" if isinstance(outcome.verdict, LetRun) else "answered"
