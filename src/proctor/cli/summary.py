"""A table of what was intercepted, performed and refused, and the time it took."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, TextIO

from proctor.call.verdict import Deny, LetRun

if TYPE_CHECKING:
    from proctor.supervisor.jobs import Outcome


class Summary:
    """An observer that counts; :meth:`print` shows the table."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[tuple[str, str], list[float]] = {}

    def __call__(self, outcome: Outcome) -> None:
        key = (outcome.call.name, _what(outcome))
        with self._lock:
            self._times.setdefault(key, []).append(outcome.answered - outcome.received)

    def print(self, file: TextIO | None = None) -> None:
        """Write the table to ``file``, standard error by default."""
        file = file or sys.stderr
        print(
            f"{'call':<16} {'what':<16} {'calls':>7} {'median µs':>10} {'total ms':>9}", file=file
        )
        with self._lock:
            for (name, what), times in sorted(self._times.items()):
                times.sort()
                median = times[len(times) // 2] * 1e6
                print(
                    f"{name:<16} {what:<16} {len(times):>7} {median:>10.1f} {sum(times) * 1e3:>9.2f}",
                    file=file,
                )
        file.flush()


def _what(outcome: Outcome) -> str:
    if not outcome.delivered:
        return "caller gone"
    if isinstance(outcome.verdict, Deny):
        return f"refused {str(outcome.verdict).removeprefix('deny ')}"
    if outcome.performed:
        return "performed"
    return "let run" if isinstance(outcome.verdict, LetRun) else "answered"
