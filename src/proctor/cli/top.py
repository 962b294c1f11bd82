"""``proctor top``: what an agent's containers do, as it goes on."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from proctor.cli.asking import ask
from proctor.errors import ProctorError
from proctor.words import printable

if TYPE_CHECKING:
    from rich.table import Table

#: Calls and containers that are shown.
_MOST: Final = 15


class Rates:
    """How many calls a second, by policy, call and verdict: from one answer of an agent to the next."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str, str], int] = {}
        self._at: tuple[int, float] | None = None

    def since(self, answer: dict[str, Any]) -> dict[tuple[str, str, str], float]:
        """Those that came since the last one, in a second; since the monitor began, if it is another."""
        counts = {(x["policy"], x["call"], x["verdict"]): x["count"] for x in answer["calls"]}
        monitor, now = int(answer["monitor"]), float(answer["time"])
        known = self._at is not None and self._at[0] == monitor
        before = self._before if known else {}
        took = now - self._at[1] if known and self._at is not None else 0.0
        self._before, self._at = counts, (monitor, now)
        if took <= 0:
            return {}
        more = {key: count - before.get(key, 0) for key, count in counts.items()}
        return {key: count / took for key, count in more.items() if count > 0}


def top(options: argparse.Namespace) -> int:
    """Show it until Ctrl-C, or so many times; without a terminal, as JSON lines."""
    if options.json or not sys.stdout.isatty():
        return _as_json(options)
    try:
        from rich.console import Group
        from rich.live import Live
    except ImportError as problem:
        raise ProctorError(
            f"{problem.name} is not installed, which top needs on a terminal: "
            "pip install 'proctor[agent]'; or --json"
        ) from None
    for number in (signal.SIGINT, signal.SIGTERM):  # the terminal is to be given back
        signal.signal(number, signal.default_int_handler)
    try:
        with Live(screen=True, auto_refresh=False) as live:
            for answer, rates in _answers(options, options.times):
                live.update(Group(*tables_of(answer, rates)), refresh=True)
    except KeyboardInterrupt:
        pass
    return 0


def _as_json(options: argparse.Namespace) -> int:
    try:
        for answer, rates in _answers(
            options, 1 if options.times is None and not options.json else options.times
        ):
            found = [
                {"policy": policy, "call": call, "verdict": verdict, "rate": round(rate, 3)}
                for (policy, call, verdict), rate in rates.items()
            ]
            print(json.dumps({**answer, "rates": found}), flush=True)
    except KeyboardInterrupt:
        pass
    return 0


def _answers(
    options: argparse.Namespace, left: int | None
) -> Iterator[tuple[dict[str, Any], dict[tuple[str, str, str], float]]]:
    """What the agent says, and rates since it did so before: so many times, or for ever."""
    rates = Rates()
    while left is None or left > 0:
        answer = ask(options, do="top")
        yield answer, rates.since(answer)
        left = None if left is None else left - 1
        if left != 0:
            time.sleep(options.every)


def tables_of(answer: dict[str, Any], rates: dict[tuple[str, str, str], float]) -> list[Table]:
    """Calls by how often they come, containers by what they take."""
    from rich.table import Table

    calls = Table(title=f"{sum(rates.values()):.1f} calls/s", expand=True)
    for name in ("policy", "call", "verdict"):
        calls.add_column(name)
    calls.add_column("calls/s", justify="right")
    for key, rate in sorted(rates.items(), key=lambda each: -each[1])[:_MOST]:
        calls.add_row(*map(_plain, key), f"{rate:.1f}")
    rows = answer["containers"]
    containers = Table(title=f"{len(rows)} container{'s' if len(rows) != 1 else ''}", expand=True)
    for name in ("container", "policy"):
        containers.add_column(name)
    for name in ("waiting", "threads", "refused", "listeners"):
        containers.add_column(name, justify="right")
    rows = sorted(rows, key=lambda row: (-row["waiting"], -row["threads"], -row["refused"]))
    for row in rows[:_MOST]:
        policy = _plain(row["labels"].get("policy") or "(none)")
        numbers = [str(row[name]) for name in ("waiting", "threads", "refused", "listeners")]
        containers.add_row(_plain(row["container"]), policy, *numbers)
    return [calls, containers]


def _plain(text: str) -> Any:
    """A text of somebody's: no mark-up, no control characters."""
    from rich.text import Text

    return Text(printable(text))
