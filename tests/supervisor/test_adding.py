"""Listeners that are given back, or whose number goes to another one, while they are being added; and what
is forgotten of them afterwards."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import proctor
from proctor.kernel.journal import Journal
from proctor.kernel.launch import launch
from proctor.observe.events import ContainerAdded
from proctor.supervisor.container import Container
from proctor.supervisor.world import KernelWorld

ANSWER = proctor.Handler(("getppid",), lambda call: proctor.answer(7))


@pytest.fixture
def listening(caller: str) -> Iterator[Callable[[], tuple[proctor.Listener, int]]]:
    """Targets that call getppid: their listeners, and where they print what they saw."""
    made = []
    program = proctor.filter_for([ANSWER])
    assert program is not None

    def go() -> tuple[proctor.Listener, int]:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        target = launch([caller, "call", "110"], program=program.compile().code, fds=((writer, 1),))
        os.close(writer)
        listener = proctor.Listener(target.take_listener())
        made.append((target, reader, listener))
        return listener, reader

    yield go
    for target, reader, listener in made:
        target.kill()
        target.close()
        os.close(reader)
        listener.close()


def meanwhile(action: Callable[[], object]) -> Callable[[object], None]:
    """An observer that does something in the middle of the first listener's adding."""
    left = [action]

    def observe(event: object) -> None:
        while left:
            left.pop()()

    observe.events = (ContainerAdded,)  # type: ignore[attr-defined]
    return observe


def test_what_was_given_back_stays_open_though_all_is_closed_in_the_middle_of_its_adding(
    make_world: Callable[..., KernelWorld],
    listening: Callable[[], tuple[proctor.Listener, int]],
) -> None:
    listener, reader = listening()

    def end() -> None:
        supervisor.detach(listener)
        supervisor.close()

    supervisor = proctor.Supervisor([ANSWER], world=make_world(), observers=[meanwhile(end)])
    with pytest.raises(RuntimeError, match="closed"):
        supervisor.add(listener)
    assert "seccomp" in os.readlink(f"/proc/self/fd/{listener.fileno()}")
    with proctor.Supervisor([ANSWER], world=make_world()).start() as other:  # it is whole, too
        other.add(listener)
        assert os.read(reader, 64) == b"110 = 7\n"


class Shortly:
    """A performer that opens something for a call, whose listener its owner takes back and closes meanwhile."""

    def __init__(self, listener: proctor.Listener) -> None:
        self.listener = listener
        self.reader, self.opened = os.pipe2(os.O_CLOEXEC)
        self.supervisor: proctor.Supervisor | None = None

    def __call__(self, call: proctor.Call, verdict: proctor.Perform) -> proctor.Verdict:
        raise AssertionError("it was asked on the short way")

    def ordinary(self, *_: object) -> Callable[[proctor.Call, proctor.Perform], proctor.Verdict]:
        return self._open

    def _open(self, call: proctor.Call, verdict: proctor.Perform) -> proctor.Verdict:
        assert self.supervisor is not None
        self.supervisor.detach(self.listener)
        self.listener.close()
        return proctor.hand_over(self.opened, close=True)


def test_what_was_opened_for_a_listener_that_its_owner_closed_is_closed(
    make_world: Callable[..., KernelWorld],
    listening: Callable[[], tuple[proctor.Listener, int]],
) -> None:
    """Nobody else is given it, and nothing waits for the call any more."""
    listener, reader = listening()
    performer = Shortly(listener)
    handler = proctor.Handler(("getppid",), lambda call: proctor.perform())
    with proctor.Supervisor([handler], performer=performer, world=make_world()) as supervisor:
        performer.supervisor = supervisor
        supervisor.add(listener)
        supervisor.start()
        assert os.read(reader, 64) == b"110 = -38\n"
        assert os.read(performer.reader, 1) == b""  # the end: nobody has it open
    os.close(performer.reader)


@pytest.mark.parametrize("quick", [True, False])
def test_the_short_way_is_asked_where_somebody_is_told(
    make_world: Callable[..., KernelWorld],
    listening: Callable[[], tuple[proctor.Listener, int]],
    quick: bool,
) -> None:
    """And a monitor that dies there has begun; not where the short way leaves it."""
    listener, reader = listening()
    journal = proctor.Journal.create(16)
    states: list[list[bool]] = []
    told: list[tuple[proctor.Verdict, bool, bool]] = []

    def look(value: int) -> proctor.Verdict:
        states.append([each.performing for each in journal.pending()])
        return proctor.answer(value)

    class Quickly:
        def __call__(self, call: proctor.Call, wish: proctor.Perform) -> proctor.Verdict:
            return look(5)

        def ordinary(self, name: str, listener: object, begins: Callable[..., object]) -> Any:
            return lambda call, wish: look(6) if quick else states.append([])

    def decide(call: proctor.Call) -> proctor.Verdict:
        look(0)
        return proctor.perform()

    def observe(outcome: proctor.Outcome) -> None:
        told.append((outcome.verdict, outcome.performed, outcome.received > 0))

    handler = proctor.Handler(("getppid",), decide)
    with proctor.Supervisor(
        [handler], performer=Quickly(), observers=[observe], world=make_world()
    ) as supervisor:
        supervisor.add(listener, journal=journal)
        supervisor.start()
        value = 6 if quick else 5
        assert os.read(reader, 64) == b"110 = %d\n" % value
    assert told == [(proctor.answer(value), True, True)]
    assert states == ([[False], [True]] if quick else [[False], [], [True]])
    journal.close()


def test_what_was_not_given_back_is_closed_with_all_in_the_middle_of_its_adding(
    make_world: Callable[..., KernelWorld],
    listening: Callable[[], tuple[proctor.Listener, int]],
) -> None:
    listener, reader = listening()

    def end() -> None:
        supervisor.close()

    supervisor = proctor.Supervisor([ANSWER], world=make_world(), observers=[meanwhile(end)])
    with pytest.raises(RuntimeError, match="closed"):
        supervisor.add(listener)
    assert repr(listener) == "<Listener closed>"
    assert os.read(reader, 64) == b"110 = -38\n"  # nobody listens


def test_a_number_that_is_another_listeners_by_now_stays_that_ones(
    make_world: Callable[..., KernelWorld],
    listening: Callable[[], tuple[proctor.Listener, int]],
) -> None:
    """The first is given back and closed in the middle of its adding, which fails; meanwhile the second
    got its number, and is served under it."""
    first, _ = listening()
    second, reader = listening()
    number = first.fileno()

    def exchange() -> None:
        nonlocal second
        supervisor.detach(first)
        first.close()
        os.dup2(second.fileno(), number, inheritable=False)
        second.close()
        second = proctor.Listener(number)
        supervisor.add(second)

    with proctor.Supervisor(
        [ANSWER], world=make_world(), observers=[meanwhile(exchange)]
    ).start() as supervisor:
        with pytest.raises((ValueError, OSError)):
            supervisor.add(first)
        assert supervisor.listeners == 1
        assert os.read(reader, 64) == b"110 = 7\n"


def test_a_journal_is_let_go_with_its_listener(
    make_world: Callable[..., KernelWorld],
    listening: Callable[[], tuple[proctor.Listener, int]],
) -> None:
    """Its memory and its descriptor do not wait for a collector, which may not run for long."""
    listener, reader = listening()
    journal = Journal.create(16)
    known = weakref.ref(journal)
    gc.collect()
    gc.disable()
    try:
        with proctor.Supervisor([ANSWER], world=make_world()).start() as supervisor:
            supervisor.add(listener, Container("web"), journal=journal)
            assert os.read(reader, 64) == b"110 = 7\n"
            assert supervisor.wait(30)
            del journal
            assert known() is None
    finally:
        gc.enable()
