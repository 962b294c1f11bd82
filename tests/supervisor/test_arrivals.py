"""Calls that somebody else receives, and that are decided by whoever receives: as a listener's own are."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import proctor
from proctor.kernel.notification import Notification
from proctor.supervisor.container import Container
from tests.support.stalling import await_threads

X86_64 = 0xC000003E
GETPPID = 110


class Port:
    """Where calls come from: a pipe with a byte for each; and their answers."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe2(os.O_CLOEXEC)
        self.answers: dict[int, int] = {}
        self.changed = threading.Condition()
        #: Threads that received.
        self.received: list[int] = []

    def ask(self, number: int) -> None:
        os.write(self.writing, bytes([number]))

    def id_valid(self, id: int) -> bool:
        return True

    def send(self, id: int, value: int, error: int, flags: int) -> bool:
        with self.changed:
            assert id not in self.answers, "one answer each"
            self.answers[id] = error or value
            self.changed.notify_all()
        return True

    def until(self, true: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(true, 60)

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


class Begun:
    """Nobody comes after us."""

    def performs(self, notification: object) -> None: ...

    def begun(self, notification: object) -> bool:
        return False

    def left(self, notification: object) -> None: ...

    def clear(self, notification: object) -> None: ...


@pytest.fixture
def ports() -> Iterator[list[Port]]:
    made = [Port(), Port()]
    yield made
    for each in made:
        each.close()


def serve(supervisor: proctor.Supervisor, port: Any, container: Container) -> None:
    """Have what is asked there decided, one call after the other."""

    def receive() -> Any:
        supervisor.unwatch(port.reading)
        (number,) = os.read(port.reading, 1)
        port.received.append(threading.get_ident())
        supervisor.submit_from(port.reading, receive)
        call = Notification(number, 1000 + number, GETPPID, X86_64)
        return None if number == 255 else (call, port, container, Begun())

    supervisor.submit_from(port.reading, receive)


def test_whoever_receives_decides(
    make_world: Callable[..., Any], ports: list[Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There and then, unless its caller's last call is at it still; what is nothing to be decided is not."""
    port = ports[0]
    handler = proctor.Handler(["getppid"], lambda call: proctor.answer(call.id))
    supervisor = proctor.Supervisor(world=make_world())
    watched: list[Callable[[], Any]] = []
    with monkeypatch.context() as patch:
        engine = type(supervisor._engine)
        patch.setattr(engine, "watch", lambda self, fd, callback: watched.append(callback))
        serve(supervisor, port, Container(handlers=[handler]))
        for number in (1, 2, 255, 3):
            port.ask(number)
            watched.pop()()
            assert number == 255 or port.answers.pop(number) == number
        port.ask(4)
        supervisor.close()
        watched.pop()()
    assert port.answers == {}, "what is received at the end is left as it is"
    await_threads()


def test_one_that_stalls_holds_up_nobody(make_world: Callable[..., Any], ports: list[Port]) -> None:
    """Another thread receives from then on; its own deadline answers it, and it comes to nothing afterwards."""
    release = threading.Event()

    def decide(call: proctor.Call) -> proctor.Verdict:
        if call.id == 7:
            release.wait(60)
        return proctor.answer(call.id)

    stalls, other = ports
    slow = proctor.Handler(["getppid"], decide, deadline=0.3)
    quick = proctor.Handler(["getppid"], decide)
    world = make_world()
    with proctor.Supervisor(world=world, on_deadline=proctor.deny(errno.ETIME)) as supervisor:
        serve(supervisor, stalls, Container(handlers=[slow]))
        serve(supervisor, other, Container(handlers=[quick]))
        supervisor.start()
        try:
            stalls.ask(7)
            stalls.until(lambda: 7 in stalls.answers)
            assert stalls.answers == {7: -errno.ETIME} and not release.is_set()
            for number in (1, 2, 3):
                other.ask(number)
            other.until(lambda: len(other.answers) == 3)
            stalls.ask(8)
            stalls.until(lambda: 8 in stalls.answers)
            assert stalls.answers[8] == 8, "its container's next goes on"
        finally:
            release.set()
    assert stalls.answers[7] == -errno.ETIME
    await_threads()


class Performer:
    """Has a short way for calls that are ordinary, and a long one for all."""

    def __init__(self) -> None:
        self.ways: list[str] = []

    def __call__(self, call: proctor.Call, wish: object) -> proctor.Verdict:
        self.ways.append("long")
        return proctor.answer(1)

    def ordinary(self, name: str, listener: object = None, begins: object = None) -> Any:
        assert listener is None, "it would answer by itself"

        def way(call: proctor.Call, wish: object) -> proctor.Verdict | None:
            self.ways.append("short")
            return None if call.id == 2 else proctor.answer(7)

        return way


def test_what_is_performed_goes_the_short_way(
    make_world: Callable[..., Any], ports: list[Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it waits for its turn, since its number is known for stalling; and the long one where that says nothing, or where
    others received it: either begins after that was written down."""
    port, performer, begun = ports[0], Performer(), Begun()
    began: list[int] = []
    monkeypatch.setattr(begun, "performs", lambda each: began.append(len(performer.ways)))
    handler = proctor.Handler(["getppid"], lambda call: proctor.perform())
    container = Container(handlers=[handler])
    supervisor = proctor.Supervisor(world=make_world(), performer=performer)  # type: ignore[arg-type]
    watched: list[Callable[[], Any]] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            type(supervisor._engine), "watch", lambda self, fd, each: watched.append(each)
        )
        for number in (1, 2):
            call = Notification(number, 1000, GETPPID, X86_64)
            given: Any = (call, port, container, begun)
            supervisor.submit_from(port.reading, lambda given=given: given)  # type: ignore[misc]
            watched.pop()()
    assert port.answers == {1: 7, 2: 1} and performer.ways == ["short", "short", "long"]
    supervisor.submit(Notification(3, 1000, GETPPID, X86_64), port, container, begun)  # type: ignore[arg-type]
    supervisor.step(0.0)
    assert performer.ways[3:] == ["long"] and began == [0, 1, 3]
    supervisor._decider.backlog.share(container).slow[X86_64, GETPPID] = 8
    with monkeypatch.context() as patch:
        patch.setattr(
            type(supervisor._engine), "watch", lambda self, fd, each: watched.append(each)
        )
        last: Any = (Notification(4, 1000, GETPPID, X86_64), port, container, begun)
        supervisor.submit_from(port.reading, lambda: last)
        watched.pop()()
    assert performer.ways[4:] == [], "it waits"
    supervisor.step(0.0)
    assert performer.ways[4:] == ["short"] and port.answers[4] == 7
    supervisor.close()
    await_threads()


def test_one_that_stalls_while_it_is_received_has_its_deadline(
    make_world: Callable[..., Any], ports: list[Port]
) -> None:
    """Whoever took over knew of no call yet: it is decided as what was received elsewhere, and answered in time."""
    receiving, arrives, release = threading.Event(), threading.Event(), threading.Event()

    def decide(call: proctor.Call) -> proctor.Verdict:
        if call.id == 7:
            release.wait(60)
        return proctor.answer(call.id)

    late, other = ports
    world = make_world()
    with proctor.Supervisor(world=world, on_deadline=proctor.deny(errno.ETIME)) as supervisor:
        slow = Container(handlers=[proctor.Handler(["getppid"], decide, deadline=0.3)])
        serve(supervisor, other, Container(handlers=[proctor.Handler(["getppid"], decide)]))

        def receive() -> Any:
            supervisor.unwatch(late.reading)
            (number,) = os.read(late.reading, 1)
            receiving.set()
            assert arrives.wait(60)
            return Notification(number, 1007, GETPPID, X86_64), late, slow, Begun()

        supervisor.submit_from(late.reading, receive)
        supervisor.start()
        try:
            late.ask(7)
            assert receiving.wait(60)
            other.ask(1)
            other.until(lambda: 1 in other.answers)  # by another thread: the first is at it still
            arrives.set()
            late.until(lambda: 7 in late.answers)
            assert late.answers == {7: -errno.ETIME} and not release.is_set()
        finally:
            arrives.set()
            release.set()
    assert late.answers == {7: -errno.ETIME}
    await_threads()
