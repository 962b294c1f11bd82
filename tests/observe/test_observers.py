"""Who is told what; trouble is one line, counted by its place."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import proctor
from proctor.observe.events import (
    ContainerAdded,
    ContainerEnded,
    Dropped,
    Event,
    Outcome,
    Trouble,
)
from proctor.observe.observers import Observers
from proctor.supervisor.carry import check
from proctor.testing import FakeTarget
from proctor.testing.target import FakeCall
from tests.support.stalling import World, stalling


def observers(*given: Any) -> Observers:
    return Observers(given, threading.Lock())


class Wants:
    """An observer that says what it wants, and keeps it."""

    def __init__(self, *events: type, **more: Any) -> None:
        self.events = events
        self.seen: list[Any] = []
        self.__dict__.update(more)

    def __call__(self, event: Event) -> None:
        self.seen.append(event)


def test_each_is_told_what_it_wants_and_a_function_everything() -> None:
    trouble, lost, everything = Wants(Trouble), Wants(Dropped), Wants(Trouble, Dropped)
    seen: list[Any] = []
    told = observers(trouble, lost, everything, seen.append)
    told.tell(Dropped("a place", 3))
    told.trouble("somebody")
    assert [type(event) for event in seen] == [Dropped, Trouble]
    assert everything.seen == seen
    assert trouble.seen == seen[1:]
    assert lost.seen == seen[:1]


@pytest.mark.parametrize("wrong", [None, "log", 3, Wants(int)])
def test_what_cannot_observe_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"observes nothing|is no event"):
        proctor.Supervisor(observers=[wrong])


def mistaken(number: int) -> None:
    if number:
        raise ValueError("first")
    raise KeyError("second")


def fail(told: Observers, number: int) -> None:
    try:
        mistaken(number)
    except Exception as error:
        told.trouble("handler mistaken", error, near=mistaken, then="answered: deny EPERM")


def test_trouble_is_one_line_that_says_where_and_is_counted_by_place() -> None:
    heard = Wants(Trouble, Dropped)
    told = observers(heard)
    for number in (1, 0, 1, 1):
        fail(told, number)
    first = mistaken.__code__.co_firstlineno + 2
    assert [event.text for event in heard.seen[:2]] == [
        f"handler mistaken (test_observers.py:{first}): ValueError: first; answered: deny EPERM",
        f"handler mistaken (test_observers.py:{first + 1}): KeyError: 'second'; answered: deny EPERM",
    ]
    assert [event.times for event in heard.seen] == [1, 1, 2, 3]
    assert "in mistaken" in heard.seen[0].traceback()


def test_what_is_wrong_with_what_somebody_returned_is_said_of_their_file() -> None:
    def returns(call: FakeCall) -> Any:
        return 5

    heard = Wants(Trouble)
    told = observers(heard)
    call = FakeTarget().call("mkdir", path="/x")
    try:
        check(returns(call), call, "returns")
    except TypeError as error:
        assert error.__traceback__ is not None
        elsewhere = error.with_traceback(error.__traceback__.tb_next)  # it was not called from here
        told.trouble("handler returns", elsewhere, near=returns)
    (event,) = heard.seen
    line = returns.__code__.co_firstlineno
    assert event.text.startswith(
        f"handler returns (test_observers.py:{line}): TypeError: returns returned 5"
    )


def test_a_traceback_is_a_page_however_deep_it_went_and_whatever_was_said() -> None:
    def deeper(number: int) -> None:
        if not number:
            raise ValueError("the last\n" + "x" * 100_000)
        eval(
            "deeper(number - 1)", {"deeper": deeper, "number": number}
        )  # two by two: Python folds one that repeats

    heard = Wants(Trouble, Dropped)
    told = observers(heard)
    try:
        deeper(200)
    except ValueError as error:
        told.trouble("deep", error)
    lines = heard.seen[0].traceback().splitlines()
    assert lines[0].startswith("Traceback")
    assert len(lines) <= 81
    assert sum("lines are left out" in line for line in lines) == 1
    assert lines[-2] == "ValueError: the last"
    assert lines[-1].startswith("xxxx")
    assert max(map(len, lines)) < 1100


def test_words_of_an_exception_are_bounded_and_may_fail() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    heard = Wants(Trouble, Dropped)
    told = observers(heard)
    told.trouble("a", Silent())
    told.trouble("b", ValueError("x" * 10_000))
    assert heard.seen[0].text == "a: Silent"
    assert len(heard.seen[1].text) < 600


def test_places_are_bounded() -> None:
    heard = Wants(Trouble, Dropped)
    told = observers(heard)
    for number in range(3000):
        told.trouble(f"code that makes code, {'x' * number}")
    assert 1000 <= len({event.place for event in heard.seen}) <= 1001
    assert heard.seen[-1].times > 1000


def test_threads_and_processes_make_no_place_of_its_own() -> None:
    """A target has as many as it likes; then there would be none left for others."""
    heard = Wants(Trouble, Dropped)
    told = observers(heard)
    for number in range(3000):
        told.trouble(f"mount of thread {number} was not performed: no more processes")
    told.trouble("something else")
    assert [event.times for event in heard.seen[-2:]] == [3000, 1]
    assert heard.seen[-2].text == "mount of thread 2999 was not performed: no more processes"


def test_worth_telling_is_the_first_the_tenth_the_hundredth() -> None:
    assert [n for n in range(1, 2001) if Trouble("", times=n).worth_telling] == [1, 10, 100, 1000]


def test_an_observer_that_fails_is_trouble_for_the_others() -> None:
    def bad(event: Event) -> None:
        raise ValueError("observer bug")

    heard = Wants(Trouble, Dropped)
    told = observers(bad, heard)
    told.tell(ContainerAdded(None))  # type: ignore[arg-type]
    (event,) = heard.seen
    assert "bad" in event.text
    assert "observer bug" in event.text


def test_text_is_made_for_those_verdicts_of_which_it_is_wanted() -> None:
    only = Wants(Outcome, wants_text=lambda call, verdict: verdict == proctor.deny(errno.EPERM))
    every = Wants(Outcome, wants_text=True)
    none = Wants(Outcome)
    refuse, run = proctor.deny(errno.EPERM), proctor.let_run()
    assert [observers(only).looks(None, verdict) for verdict in (refuse, run)] == [True, False]
    assert [observers(only, every).looks(None, verdict) for verdict in (refuse, run)] == [
        True,
        True,
    ]
    assert not observers(none).looks(None, refuse)
    assert not observers().looks(None, refuse)


def test_facts_are_taken_if_wanted() -> None:
    heard = Wants(Outcome, wants_facts=True)
    target = FakeTarget()
    call = target.call("mkdir", "x", 0o755)
    text, facts = observers(heard).look(call, proctor.let_run(), read=True)
    assert text == ""
    assert json.loads(f"{{{facts}}}")["args"] == {"path": "x", "mode": "0755"}


def test_life_of_a_container(spawned: Callable[..., list[Any]]) -> None:
    seen = spawned()
    kinds = [type(event) for event in seen]
    assert kinds[0] is ContainerAdded
    assert kinds.count(ContainerEnded) == 1
    assert seen[kinds.index(ContainerEnded)].how == "ended"


@pytest.fixture
def spawned() -> Callable[..., list[Any]]:
    """Everything that is told while a command runs."""

    def go() -> list[Any]:
        seen: list[Any] = []

        @proctor.on("mkdir", "mkdirat")
        def refuse(call: proctor.Call) -> proctor.Verdict:
            return proctor.deny(errno.EROFS)

        with proctor.spawn(["mkdir", "x"], [refuse], observers=[seen.append], stderr=-3) as process:
            process.wait()
            assert process.wait_all(30)
        assert os.path.lexists("x") is False
        return seen

    return go


def test_calls_of_which_nobody_wants_to_know_are_not_told() -> None:
    picky = Wants(Outcome, wants=lambda verdict: verdict.reason == "told")
    every = Wants(Outcome)
    untold, told = proctor.deny(errno.EPERM), proctor.deny(errno.EPERM, "told")
    assert [observers(picky).wants(verdict) for verdict in (untold, told)] == [False, True]
    assert observers(picky, every).wants(untold)

    def refuse(call: proctor.Call) -> proctor.Verdict:
        return told if call.path == b"/tell" else untold

    for stalls in (False, True):
        picky.seen.clear()
        handler = proctor.Handler(("rmdir",), stalling(refuse) if stalls else refuse)
        counters = proctor.Counters()
        with proctor.spawn(
            [sys.executable, "-ISc", RMDIR], [handler], observers=[picky, counters], world=World()
        ) as process:
            process.wait()
            assert process.wait_all(30)
        assert [outcome.verdict for outcome in picky.seen] == [told]
        assert counters.table() == {("", "rmdir", "deny EPERM"): 4}


RMDIR = """
import os
import sys
for path in "/a", "/b", "/tell", "/c":
    try: os.rmdir(path)
    except PermissionError: pass
"""


def test_who_cannot_say_what_it_wants_is_told() -> None:
    heard = Wants(Trouble, Dropped)

    def broken(verdict: Any) -> bool:
        raise ValueError("no idea")

    told = observers(Wants(Outcome, wants=broken), heard)
    assert told.wants(proctor.deny(errno.EPERM))
    assert "no idea" in heard.seen[0].text


def test_the_end_is_told_after_the_last_outcome() -> None:
    """The answer wakes the caller, which can end sooner than we have told of it."""
    seen: list[str] = []
    release = threading.Event()

    def watch(event: Event) -> None:
        if isinstance(event, Outcome):
            release.wait(30)
        seen.append(type(event).__name__)

    handler = proctor.Handler(("rmdir",), lambda call: proctor.deny(errno.EPERM))
    with proctor.spawn(["rmdir", "/a"], [handler], observers=[watch], stderr=-3) as process:
        try:
            process.wait()
            while process.supervisor.listeners:
                os.sched_yield()
            assert not process.wait_all(0)
            assert seen == ["ContainerAdded"]
        finally:
            release.set()
        assert process.wait_all(30)
    assert seen == ["ContainerAdded", "Outcome", "ContainerEnded"]


def test_who_waits_for_the_end_waits_until_it_is_told() -> None:
    """Whoever answers the last call also tells the end: nobody goes on before that was told."""
    answered, ending, told = threading.Event(), threading.Event(), threading.Event()
    seen: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, Outcome):
            answered.wait(30)
        if isinstance(event, ContainerEnded):
            ending.set()
            told.wait(30)
        seen.append(type(event).__name__)

    handler = proctor.Handler(("rmdir",), lambda call: proctor.deny(errno.EPERM))
    with proctor.spawn(["rmdir", "/a"], [handler], observers=[watch], stderr=-3) as process:
        try:
            process.wait()
            while process.supervisor.listeners:
                os.sched_yield()
            answered.set()
            assert ending.wait(30)
            assert not process.wait_all(0.1)
        finally:
            answered.set()
            told.set()
        assert process.wait_all(30)
        assert seen == ["ContainerAdded", "Outcome", "ContainerEnded"]
