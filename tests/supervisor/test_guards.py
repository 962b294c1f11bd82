"""Looks that are taken again: what each is for, by the one schedule in which it matters.

Chance (the simulation's preemptive machines) comes to these too seldom.  Each schedule is played with the
guard, where all is well, and without it, where it is not: else it would show nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import proctor
from proctor.supervisor import listeners as serving
from proctor.supervisor.jobs import Served
from proctor.supervisor.poller import POLLHUP
from proctor.supervisor.ports import INSIST
from proctor.supervisor.pyengine import PyEngine
from tests.support.stops import at_line

from .test_halfway import Listener, World

CLOSED = (0, -38, 0)


# A listener that is given up while one of its calls is decided ------------------------------------------


class _Blind(Served):
    """Nobody looks whether it was given up."""

    given_up = property(lambda self: False, lambda self, value: None)  # type: ignore[assignment]


def _passes(call: proctor.Call) -> None:
    """Says nothing: the next handler is asked."""


def _waits(call: proctor.Call) -> proctor.Later:
    """An answer that takes a while."""
    return proctor.Later(0, lambda: proctor.answer(1), lambda: cancelled.append(call.id))


cancelled: list[int] = []


def given_up_meanwhile(then: Callable[[proctor.Call], Any]) -> tuple[dict[int, Any], list[str]]:
    """A handler is asked, the listener is given back meanwhile, and then the handler says something: what
    was answered, and who was asked after that."""
    listener, asked = Listener(900, 1), []
    cancelled.clear()

    def first(call: proctor.Call) -> Any:
        supervisor.detach(listener)
        return then(call)

    def second(call: proctor.Call) -> proctor.Verdict:
        asked.append("second")
        return proctor.answer(2)

    handlers = [proctor.Handler(["getppid"], each) for each in (first, second)]
    with proctor.Supervisor(handlers, world=World(listener)) as supervisor:
        supervisor.add(listener)
        supervisor.step(0)
        return dict(listener.sent), asked


@pytest.mark.parametrize("then", [_passes, _waits])
def test_nobody_decides_for_a_listener_that_was_given_up(then: Any) -> None:
    sent, asked = given_up_meanwhile(then)
    assert sent == {1: CLOSED}
    assert not asked
    assert cancelled == ([1] if then is _waits else [])


@pytest.mark.parametrize("then", [_passes, _waits])
def test_without_that_look_somebody_would(then: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "Served", _Blind)
    sent, asked = given_up_meanwhile(then)
    assert asked or sent != {1: CLOSED}


# A listener that ends while it is removed ---------------------------------------------------------------


class _Poller:
    """Says of some that they hung up; what is registered is registered once."""

    def __init__(self) -> None:
        self.registered: list[int] = []
        self.hung: list[int] = []

    def register(self, fd: int) -> None:
        assert fd not in self.registered
        self.registered.append(fd)

    def unregister(self, fd: int) -> None:
        self.registered.remove(fd)

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        hung, self.hung = self.hung, []
        return [(fd, POLLHUP) for fd in hung]

    def ready(self, fd: int) -> bool:
        return False

    def wake(self) -> None: ...
    def look(self, seconds: float | None) -> None: ...
    def ring(self) -> None: ...
    def close(self) -> None: ...


def remove_without_looking_again(self: Any, listener: Any, late: Any = None) -> None:
    """What :meth:`PyEngine.remove` would be if nobody else ran."""
    fd = listener.fileno()
    served = self._served.get(fd)
    if served is not None:
        served.late = late or served.late
        del self._served[fd]
        self._poller.unregister(fd)


def ends_while_it_is_removed() -> list[int]:
    """Between the look at a listener that is removed and its removal its end is seen by another thread: the
    descriptors that are watched then."""
    poller = _Poller()
    engine, listener, ended = PyEngine(poller), Listener(7), []
    engine.add(listener, {}, lambda notification: CLOSED, lambda: ended.append(7))

    def end() -> None:
        poller.hung.append(7)
        token = engine.lead(INSIST, lambda work: None)
        engine.serve(token, 0.0, 1)
        engine.resign(token)
        assert ended == [7]

    text = "del self" if PyEngine.remove is remove_without_looking_again else "with self._lock"
    with at_line(PyEngine.remove, text, end):
        engine.remove(listener)
    return poller.registered


def test_what_has_ended_is_not_removed_again() -> None:
    assert ends_while_it_is_removed() == []


def test_without_that_look_it_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PyEngine, "remove", remove_without_looking_again)
    with pytest.raises(KeyError):
        ends_while_it_is_removed()
