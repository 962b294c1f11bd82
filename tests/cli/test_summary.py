"""The table at the end: exact counts within bounds, however often and whatever a target calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from proctor.call.verdict import deny, let_run
from proctor.cli.summary import Summary


def outcome(name: str, microseconds: float, **changes: Any) -> Any:
    found = {
        "call": SimpleNamespace(name=name),
        "verdict": let_run(),
        "delivered": True,
        "performed": False,
        "received": 0.0,
        "answered": microseconds / 1e6,
    }
    return SimpleNamespace(**(found | changes))


def table(summary: Summary) -> list[list[str]]:
    return [line.split() for line in summary.text().splitlines()[1:]]


def test_counts_and_totals_are_exact() -> None:
    summary = Summary()
    for microseconds in (1, 2, 9):
        summary(outcome("getppid", microseconds))
    summary(outcome("mkdir", 5, verdict=deny(1)))
    assert table(summary) == [
        ["getppid", "let", "run", "3", "2.0", "0.01"],
        ["mkdir", "refused", "EPERM", "1", "5.0", "0.01"],
    ]


def test_what_is_kept_does_not_grow_with_the_calls() -> None:
    summary = Summary()
    for number in range(20000):
        summary(outcome("getppid", number % 100))
    ((line),) = summary._table.values()
    assert len(line.times) < 2100
    ((_, _, _, count, median, _),) = table(summary)
    assert count == "20000"
    assert 40 <= float(median) <= 60


def test_made_up_numbers_share_a_line() -> None:
    summary = Summary()
    for number in range(5000):
        summary(outcome(f"syscall_{number:#x}", 1))
    assert len(summary._table) <= 1001
    assert sum(line.count for line in summary._table.values()) == 5000
