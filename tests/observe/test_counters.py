"""Counts by container, call and verdict, the same on every path that a call can take."""

from __future__ import annotations

import errno
import sys
from types import SimpleNamespace
from typing import Any

import pytest

import proctor
from proctor.call.verdict import answer, deny, hand_over, let_run, perform
from proctor.observe import counters as module
from proctor.observe.counters import Counters, what
from proctor.observe.events import Outcome
from proctor.supervisor.container import Container

PROGRAM = """
import os
for path in "/deny", "/answer", "/deny", "/run", "/answer", "/deny", "/other":
    try: os.rmdir(path)
    except OSError: pass
"""


def decide(call: proctor.Call) -> proctor.Verdict | None:
    return {
        0: deny(errno.EROFS), 1: answer(0), 2: deny(errno.EROFS), 3: let_run(),
        4: answer(7), 5: deny(errno.EXDEV), 6: None,
    }[next_number()]  # fmt: skip


next_number: Any = None


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("besides", [False, True])
def test_every_path_counts_the_same(short: bool, besides: bool) -> None:
    """Alone the counters are kept on the shortest path, beside another observer they are told."""
    global next_number  # noqa: PLW0603 - of one run
    next_number = iter(range(7)).__next__
    counters, seen = Counters(), []
    passing = [] if short else [proctor.Handler(("rmdir",), lambda call: None)]
    observers: list[Any] = [counters]
    if besides:
        observers.append(proctor.outcomes(seen.append))
    with proctor.spawn(
        [sys.executable, "-ISc", PROGRAM],
        [*passing, proctor.Handler(("rmdir",), decide)],
        observers=observers,
    ) as process:
        process.wait()
        assert process.wait_all(30)
    assert counters.table() == {
        ("", "rmdir", "deny EROFS"): 2,
        ("", "rmdir", "answer"): 2,
        ("", "rmdir", "let run"): 2,
        ("", "rmdir", "deny EXDEV"): 1,
    }
    assert len(seen) == (7 if besides else 0)


def test_two_counters_count_both() -> None:
    one, other = Counters(), Counters(lambda container: "all")
    handler = proctor.Handler(("rmdir",), lambda call: deny(errno.EROFS))
    with proctor.spawn(["rmdir", "/a"], [handler], observers=[one, other], stderr=-3) as process:
        process.wait()
        assert process.wait_all(30)
    assert one.table() == {("", "rmdir", "deny EROFS"): 1}
    assert other.table() == {("all", "rmdir", "deny EROFS"): 1}


def outcome(verdict: Any, performed: bool = False) -> Outcome:
    call: Any = SimpleNamespace(name="open")
    return Outcome(call, verdict, "f", True, 0.0, 0.0, Container("c"), performed)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (outcome(deny(errno.EPERM)), "deny EPERM"),
        (outcome(deny(4000)), "deny 4000"),
        (outcome(answer(12)), "answer"),
        (outcome(hand_over(3)), "hand over"),
        (outcome(let_run("why")), "let run"),
        (outcome(perform()), "perform"),
        (outcome(answer(0), performed=True), "perform"),
        (outcome(hand_over(3), performed=True), "perform"),
        (outcome(deny(errno.EACCES), performed=True), "perform EACCES"),
    ],
)
def test_words_say_nothing_that_a_target_chooses(made: Outcome, text: str) -> None:
    assert what(made) == text


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 10)
    counters = Counters()
    for number in range(50):
        counters(outcome(deny(errno.EPERM))._replace(container=Container(str(number))))
    table = counters.table()
    assert len(table) == 11
    assert table["(others)", "", ""] == 40
    assert sum(table.values()) == 50


def test_what_is_over_is_forgotten() -> None:
    counters = Counters()
    counters(outcome(answer(0)))
    counters(outcome(answer(0))._replace(container=Container("d")))
    assert counters.forget("c") == {("c", "open", "answer"): 1}
    assert counters.table() == {("d", "open", "answer"): 1}
    assert counters.forget("c") == {}
