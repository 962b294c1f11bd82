"""Monitors that die, and those that come after them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

import proctor
from proctor.kernel.journal import RECEIVING, Journal
from proctor.kernel.launch import launch
from proctor.kernel.notification import Notification
from proctor.observe.events import TakenOver
from proctor.supervisor.container import Container
from proctor.supervisor.world import KernelWorld
from tests.supervisor.test_container import X86_64, Port
from tests.support.stalling import await_threads

pytestmark = pytest.mark.timeout(120)

#: A monitor for one listener, with its journal; what it does with calls is its third argument.
MONITOR = """
import os, signal, sys
import proctor
from proctor.kernel.journal import RECEIVING, Journal
from proctor.supervisor.world import KernelWorld

listener, journal, way, native = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]

seen = []

def say(word):
    os.write(1, word.encode() + b"\\n")

def decide(call):
    if way == "stuck" or way == "once" and seen:
        say("call")
        signal.pause()
    seen.append(call.id)
    if way in ("perform", "shortly", "harmless"):
        return proctor.perform()
    return proctor.answer(call.registers[0])

def performer(call, verdict):
    say("begun" if call.begun else "performing")
    signal.pause()

class Shortly:
    # What it does is done on the short way.

    def __call__(self, call, verdict):
        return performer(call, verdict)

    def ordinary(self, name, listener, begins):
        def way(call, verdict):
            begins(call)
            return performer(call, verdict)
        return way

class Harmless:
    # What it does may be done again.

    def __call__(self, call, verdict):
        return performer(call, verdict)

    def is_harmless_again(self, call):
        return call.registers[0] == 0

performers = {"shortly": Shortly(), "harmless": Harmless()}
world = KernelWorld(native=native == "native")
handler = proctor.Handler(("getppid",), decide)
supervisor = proctor.Supervisor([handler], performer=performers.get(way, performer), world=world)
supervisor.add(proctor.Listener(listener), journal=Journal(journal))
supervisor.start()
say("ready")
signal.pause()
"""


class Stage:
    """A target, and what a keeper has of it."""

    def __init__(self, caller: str, engine: str, *script: str) -> None:
        program = proctor.filter_for([proctor.Handler(("getppid",), lambda call: None)])
        assert program is not None
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.engine = engine
        self.target = launch([caller, *script], program=program.compile().code, fds=((writer, 1),))
        os.close(writer)
        self.out = open(reader)  # noqa: SIM115 - closed at the end
        self.listener = self.target.take_listener()
        self.journal = Journal.create(256)
        self.monitors: list[subprocess.Popen[str]] = []

    def monitor(self, way: str) -> subprocess.Popen[str]:
        """One more monitor; the last one must be dead."""
        fds = (self.listener, self.journal.fileno())
        made = subprocess.Popen(
            [sys.executable, "-c", MONITOR, *map(str, fds), way, self.engine],
            pass_fds=fds, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.monitors.append(made)
        return made

    def hear(self, word: str) -> None:
        """Wait for a word of the monitor's."""
        said = self.monitors[-1].stdout
        assert said is not None
        for line in said:
            if line.strip() == word:
                return
        raise AssertionError(f"the monitor ended and did not say {word}")

    def kill(self) -> None:
        """The monitor dies."""
        last = self.monitors[-1]
        last.send_signal(signal.SIGKILL)
        last.wait(30)
        assert last.stdout is not None
        last.stdout.close()

    def close(self) -> None:
        """All goes."""
        for each in self.monitors:
            each.kill()
            each.wait(30)
            assert each.stdout is not None
            each.stdout.close()
        self.target.kill()
        self.target.close()
        self.out.close()
        self.journal.close()
        if self.listener >= 0:
            os.close(self.listener)


@pytest.fixture(params=["native", "python"])
def stage(request: pytest.FixtureRequest, caller: str) -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def go(*script: str) -> Stage:
        made.append(Stage(caller, request.param, *script))
        return made[-1]

    yield go
    for each in made:
        each.close()


def test_calls_that_a_dead_monitor_had_received_are_answered_by_the_next(
    stage: Callable[..., Stage], make_world: Callable[..., KernelWorld]
) -> None:
    """All of them, also those that waited for a worker, or had a handler that was stuck."""
    at = stage("thread", "12", "110")
    at.monitor("stuck")
    at.hear("call")
    while sum(1 for _ in at.journal.pending()) < 12:
        os.sched_yield()
    at.kill()
    told: list[object] = []

    def observe(event: object) -> None:
        told.append(event)

    observe.events = (TakenOver,)  # type: ignore[attr-defined]
    container = Container("web")
    answer = proctor.Handler(("getppid",), lambda call: proctor.answer(call.registers[0]))
    with proctor.Supervisor([answer], world=make_world(), observers=[observe]) as supervisor:
        listener, at.listener = proctor.Listener(at.listener), -1
        supervisor.add(listener, container, journal=at.journal)
        supervisor.start()
        assert at.out.read().splitlines() == [str(n) for n in range(12)]
        assert at.target.wait(30) == 0
    assert told == [TakenOver(container, 12)]
    assert not list(at.journal.pending())


def test_monitors_that_die_again_and_again_lose_no_call(stage: Callable[..., Stage]) -> None:
    """A call in flight at any time; each is answered once, by whoever is there."""
    at = stage("fork", "fork", "loop", "6000", "110")
    for _ in range(6):
        at.monitor("answer")
        at.hear("ready")
        at.kill()
    at.monitor("answer")
    assert at.out.read().splitlines() == ["ok"] * 4


@pytest.mark.parametrize("way", ["perform", "shortly"])
def test_what_had_begun_to_be_performed_is_not_performed_again(
    stage: Callable[..., Stage], way: str
) -> None:
    at = stage("call", "110", "call", "110")
    at.monitor(way)
    at.hear("performing")
    assert [each.performing for each in at.journal.pending()] == [True]
    at.kill()
    at.monitor("perform")
    assert at.out.readline() == f"110 = -{errno.EINTR}\n"
    at.hear("performing")  # the second call, for the first time
    at.kill()
    at.monitor("answer")  # who knows better answers
    assert at.out.readline() == "110 = 0\n"


def test_what_does_no_harm_is_performed_again(stage: Callable[..., Stage]) -> None:
    """By whom says that it does none; and not where he says that it does."""
    at = stage("call", "110", "call", "110", "1")
    for word in ("performing", "begun", "begun"):
        at.monitor("harmless")
        at.hear(word)
        at.kill()
    at.monitor("once")  # the second call may come before its end
    assert at.out.readline() == "110 = 0\n"
    at.kill()
    at.monitor("harmless")
    at.hear("performing")
    at.kill()
    at.monitor("harmless")
    assert at.out.readline() == f"110 = -{errno.EINTR}\n"


@pytest.mark.parametrize("next", ["stuck", "perform"])
def test_what_was_just_being_received_has_waited_since_it_was_found(
    stage: Callable[..., Stage], next: str
) -> None:
    """Not since its slot had another call, for the monitor after the next one either."""
    at = stage("call", "110")
    at.monitor("stuck")
    at.hear("call")
    at.kill()
    (pending,) = at.journal.pending()
    at.journal.received(pending.slot, 1.0)  # that was another call
    at.journal.mark(pending.slot, RECEIVING)  # as if it had died before it wrote the time down
    found = time.monotonic()
    at.monitor(next)
    at.hear("call" if next == "stuck" else "performing")
    at.kill()
    (pending,) = at.journal.pending()
    assert pending.received is not None and pending.received >= found
    assert pending.performing is (next == "perform")


def test_callers_that_did_not_wait_are_forgotten(
    stage: Callable[..., Stage], make_world: Callable[..., KernelWorld]
) -> None:
    at = stage("wait", "call", "110")
    at.monitor("answer")
    at.hear("ready")
    at.kill()
    # as if it had died before it wrote down that it had answered
    stale = Journal(os.dup(at.journal.fileno()))
    slot, place = stale.place()
    assert place is not None
    place[12:] = b"\1" * 68
    stale.received(slot, 0.0)
    assert len(list(at.journal.pending())) == 1
    asked = threading.Event()
    handler = proctor.Handler(("getppid",), lambda call: asked.set())
    with proctor.Supervisor([handler], world=make_world()) as supervisor:
        listener, at.listener = proctor.Listener(at.listener), -1
        supervisor.add(listener, journal=at.journal)
    assert not asked.is_set()
    assert not list(at.journal.pending())
    stale.close()


def test_a_journal_is_empty_while_nothing_is_in_flight(
    stage: Callable[..., Stage], make_world: Callable[..., KernelWorld]
) -> None:
    """On every way to an answer, of both engines."""
    at = stage("loop", "500", "110")

    def choose(call: proctor.Call) -> proctor.Verdict | None:
        return None if call.registers[0] % 2 else proctor.answer(call.registers[0])

    def slow(call: proctor.Call) -> proctor.Verdict:
        return proctor.answer(call.registers[0])

    handlers = [
        proctor.Handler(("getppid",), choose),
        proctor.Handler(("getppid",), slow),
    ]
    with proctor.Supervisor(handlers, world=make_world()) as supervisor:
        listener, at.listener = proctor.Listener(at.listener), -1
        supervisor.add(listener, journal=at.journal)
        supervisor.start()
        assert at.out.read() == "ok\n"
    assert not list(at.journal.pending())
    assert at.journal.lost == 0


def ends(supervisor: proctor.Supervisor) -> None:
    """What its process does that has handed over: those who stand by, and wait for work, end with it."""
    supervisor._engine.close()
    supervisor._world.shutdown()
    await_threads()


def test_who_is_just_about_to_perform_when_all_is_left_does_not(
    make_world: Callable[..., KernelWorld],
) -> None:
    """It had looked whether it may, and says that it begins when nobody waits for it any more."""
    about, gone, over = (threading.Event() for _ in range(3))
    performed: list[int] = []

    class Begun:
        said = False

        def performs(self, notification: object) -> None:
            about.set()
            assert gone.wait(30)
            self.said = True

        def begun(self, notification: object) -> bool:
            return self.said

        def left(self, notification: object) -> None:
            self.said = False
            over.set()

        def clear(self, notification: object) -> None:
            raise AssertionError("it was answered")

    def perform(call: proctor.Call, wish: proctor.Perform) -> proctor.Verdict:
        performed.append(call.id)
        over.set()
        return proctor.answer(0)

    port: Any = Port()
    begun: Any = Begun()
    supervisor = proctor.Supervisor(
        default=proctor.perform(), performer=perform, world=make_world()
    ).start()
    supervisor.submit(Notification(1, 7, 110, X86_64), port, Container(), begun)
    assert about.wait(30)
    assert supervisor.hand_over(0.0) == 0
    gone.set()
    assert over.wait(30)
    assert not (performed or begun.said or port.sent)
    ends(supervisor)


def test_what_an_earlier_monitor_had_begun_is_not_waited_for(
    make_world: Callable[..., KernelWorld],
) -> None:
    """Nobody performs it: the next monitor says so as well as we."""
    entered, release = threading.Event(), threading.Event()

    class Begun:
        def begun(self, notification: object) -> bool:
            return True

        def clear(self, notification: object) -> None: ...

    def slow(call: proctor.Call) -> proctor.Verdict:
        entered.set()
        release.wait(30)
        return proctor.answer(0)

    port, begun = cast("Any", Port()), cast("Any", Begun())
    supervisor = proctor.Supervisor(
        [proctor.Handler(("getppid",), slow)], world=make_world()
    ).start()
    call = proctor.Call(Notification(1, 7, 110, X86_64), port)
    call.begun = True
    supervisor.submit(call, port, Container(), begun)
    try:
        assert entered.wait(30)
        assert supervisor.hand_over(0.0) == 0
    finally:
        release.set()
    ends(supervisor)
