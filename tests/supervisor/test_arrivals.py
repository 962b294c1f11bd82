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
    elsewhere = supervisor.elsewhere(port, container, Begun())

    def receive() -> Any:
        supervisor.unwatch(port.reading)
        (number,) = os.read(port.reading, 1)
        port.received.append(threading.get_ident())
        supervisor.receive_from(port.reading, receive)
        call = Notification(number, 1000 + number, GETPPID, X86_64)
        return None if number == 255 else (call, elsewhere)

    supervisor.receive_from(port.reading, receive)


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
    """Also where its number is known for stalling; and the long one where that says nothing, or where others received it: either
    begins after that was written down."""
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
        elsewhere = supervisor.elsewhere(port, container, begun)  # type: ignore[arg-type]
        for number in (1, 2):
            given: Any = (Notification(number, 1000, GETPPID, X86_64), elsewhere)
            supervisor.receive_from(port.reading, lambda given=given: given)  # type: ignore[misc]
            watched.pop()()
    assert port.answers == {1: 7, 2: 1} and performer.ways == ["short", "short", "long"]
    supervisor.submit(Notification(3, 1000, GETPPID, X86_64), port, container, begun)  # type: ignore[arg-type]
    supervisor.step(0.0)
    assert performer.ways[3:] == ["long"] and began == [0, 1, 2, 3]
    supervisor._decider.backlog.share(container).slow[X86_64, GETPPID] = 8
    with monkeypatch.context() as patch:
        patch.setattr(
            type(supervisor._engine), "watch", lambda self, fd, each: watched.append(each)
        )
        last: Any = (Notification(4, 1000, GETPPID, X86_64), elsewhere)
        supervisor.receive_from(port.reading, lambda: last)
        watched.pop()()
    assert performer.ways[4:] == ["short"] and port.answers[4] == 7
    supervisor.close()
    await_threads()


def once(supervisor: proctor.Supervisor, port: Port, elsewhere: Any, number: int) -> None:
    """Have one call decided there, which waits for nothing."""

    def receive() -> Any:
        supervisor.unwatch(port.reading)
        os.read(port.reading, 1)
        return Notification(number, 1000, GETPPID, X86_64), elsewhere

    supervisor.receive_from(port.reading, receive)
    port.ask(number)
    supervisor.step(10)


def test_others_decide_what_comes_once_they_are_a_containers(
    make_world: Callable[..., Any], ports: list[Port]
) -> None:
    port = ports[0]
    container = Container(handlers=[proctor.Handler(["getppid"], lambda call: proctor.answer(1))])
    with proctor.Supervisor(world=make_world()) as supervisor:
        elsewhere = supervisor.elsewhere(port, container, Begun())  # type: ignore[arg-type]
        once(supervisor, port, elsewhere, 1)
        container.handlers = (proctor.Handler(["getppid"], lambda call: proctor.answer(2)),)
        once(supervisor, port, elsewhere, 2)
    assert port.answers == {1: 1, 2: 2}
    await_threads()


def test_a_fault_of_ours_is_answered(
    make_world: Callable[..., Any], ports: list[Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks would wait for ever."""
    port = ports[0]
    container = Container(handlers=[proctor.Handler(["getppid"], lambda call: proctor.answer(1))])
    with proctor.Supervisor(world=make_world()) as supervisor:
        elsewhere = supervisor.elsewhere(port, container, Begun())  # type: ignore[arg-type]

        def fails() -> Any:
            raise RuntimeError("a fault")

        with monkeypatch.context() as patch:
            patch.setattr(elsewhere, "_handlers", fails)
            with pytest.raises(RuntimeError, match="a fault"):
                once(supervisor, port, elsewhere, 1)
        once(supervisor, port, elsewhere, 2)
    assert port.answers == {1: -errno.EPERM, 2: 1}
    await_threads()


def test_what_is_refused_again_and_again_is_counted_without_being_looked_at(
    make_world: Callable[..., Any], ports: list[Port]
) -> None:
    """By whoever counts what is like what he was told of, as with listeners that are served here."""
    port = ports[0]
    told: list[Any] = []
    cell = [0, 0.0]

    class Refusals:
        events = (proctor.Outcome,)
        wants_text = False

        def wants(self, verdict: object) -> bool:
            return isinstance(verdict, proctor.Deny)

        def cell(self, outcome: object) -> list[Any]:
            return cell

        def __call__(self, outcome: Any) -> None:
            told.append(outcome.call.id)

    class Refuses(proctor.Handler):
        def constant(self, call: proctor.Call) -> proctor.Verdict:
            return refused

    refused = proctor.deny(errno.EXDEV)
    container = Container(handlers=[Refuses(["getppid"], lambda call: refused)])
    with proctor.Supervisor(world=make_world(), observers=[Refusals()]) as supervisor:
        elsewhere = supervisor.elsewhere(port, container, Begun())  # type: ignore[arg-type]
        for number in (1, 2, 3):
            once(supervisor, port, elsewhere, number)
    assert port.answers == dict.fromkeys((1, 2, 3), -errno.EXDEV)
    assert told == [1] and cell[0] == 2 and cell[1] > 0
    await_threads()


def test_a_port_is_closed_once_no_call_needs_it(
    make_world: Callable[..., Any], ports: list[Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number could be another listener's by then; what comes later is left as it is."""
    deciding, release, closed = threading.Event(), threading.Event(), threading.Event()
    port, other = ports

    def decide(call: proctor.Call) -> proctor.Verdict:
        deciding.set()
        release.wait(60)
        return proctor.answer(call.id)

    monkeypatch.setattr(port, "close", closed.set)
    container = Container(handlers=[proctor.Handler(["getppid"], decide)])
    with proctor.Supervisor(world=make_world()) as supervisor:
        serve(supervisor, other, Container(handlers=[proctor.Handler(["getppid"], decide)]))
        elsewhere = supervisor.elsewhere(port, container, Begun())  # type: ignore[arg-type]
        call = Notification(1, 1000, GETPPID, X86_64)

        def receive() -> Any:
            supervisor.unwatch(port.reading)
            return call, elsewhere

        supervisor.receive_from(port.reading, receive)
        supervisor.start()
        port.ask(1)
        assert deciding.wait(60)
        elsewhere.close()
        assert not closed.is_set()
        release.set()
        assert closed.wait(60) and port.answers == {1: 1}
        elsewhere.close()
        with pytest.raises(RuntimeError, match="nothing comes from there"):
            elsewhere.submit(call)
        supervisor.receive_from(port.reading, receive)  # it is readable still
        other.ask(2)
        other.until(lambda: 2 in other.answers)
    assert port.answers == {1: 1}
    monkeypatch.undo()
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
            return Notification(number, 1007, GETPPID, X86_64), elsewhere

        elsewhere = supervisor.elsewhere(late, slow, Begun())  # type: ignore[arg-type]
        supervisor.receive_from(late.reading, receive)
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
