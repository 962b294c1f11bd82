"""What waits for a worker is bounded by the callers alive, whatever a target does."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import proctor
from proctor.kernel.launch import launch
from proctor.kernel.notification import Notification
from proctor.observe.events import Outcome
from proctor.supervisor.backlog import EVERY, MANY, Backlog
from proctor.supervisor.driver import Driver
from proctor.supervisor.jobs import Job
from proctor.supervisor.poller import POLLHUP, POLLIN
from proctor.supervisor.ports import SERVE
from proctor.supervisor.pyengine import PyEngine
from proctor.supervisor.world import KernelWorld
from tests.support.stalling import Poller

from .conftest import lines

#: Beyond the callers alive.
CONSTANT = MANY + 3 * EVERY


class Stuck:
    """A handler that is stuck in its first call, while others wait; everybody's outcomes.

    :param kill: who calls is killed, as soon as its call is received.
    """

    def __init__(self, patch: pytest.MonkeyPatch, kill: bool = True) -> None:
        self.release = threading.Event()
        self.entered = threading.Event()
        self.received: set[int] = set()
        self.living = threading.Semaphore(0)
        self.enough = threading.Event()
        self.wanted = 0
        self.outcomes: list[tuple[str, bool]] = []
        self.lock = threading.Lock()
        self.most = 0
        self.process: proctor.Process | None = None
        self._kill = kill
        real = Backlog.wait

        def wait(backlog: Backlog, job: Job) -> None:
            real(backlog, job)
            self.receive(job.call)

        patch.setattr(Backlog, "wait", wait)

    def receive(self, call: proctor.Call) -> None:
        """A call was received, and has a handler or waits."""
        if call.id in self.received:
            return
        self.received.add(call.id)
        if call.nr != 110:
            self.living.release()
        elif self._kill:
            os.kill(call.tid, signal.SIGKILL)

    def stuck(self, call: proctor.Call) -> proctor.Verdict:
        """The handler."""
        self.receive(call)
        self.look()
        self.entered.set()
        self.release.wait(60)
        return proctor.answer(5)

    def look(self) -> None:
        """How much is remembered now?"""
        if self.process is not None:
            self.most = max(self.most, Driver(self.process.supervisor).remembered)

    def observe(self, outcome: Outcome) -> None:
        """Of every call."""
        with self.lock:
            self.outcomes.append((outcome.decided_by, outcome.delivered))
            if len(self.outcomes) == self.wanted:
                self.enough.set()
            self.look()


@pytest.mark.parametrize("performed", [False, True])
def test_calls_of_the_dead_do_not_pile_up(
    start: Callable[..., proctor.Process], monkeypatch: pytest.MonkeyPatch, performed: bool
) -> None:
    """All threads are stuck, nobody set a deadline, and a target forks, calls and dies."""
    stuck, count = Stuck(monkeypatch), 2000

    def performer(call: proctor.Call, verdict: object) -> proctor.Verdict:
        return stuck.stuck(call)

    handler = proctor.Handler(
        ("getppid",), (lambda call: proctor.perform()) if performed else stuck.stuck
    )
    process = start(
        "churn", str(count), "110",
        handlers=[handler], performer=performer,
        observers=[proctor.outcomes(stuck.observe)], world={"workers": 1},
    )  # fmt: skip
    stuck.process = process
    try:
        assert lines(process) == ["ok"]
        assert len(stuck.received) == count
        assert stuck.entered.is_set()
        assert stuck.most <= CONSTANT + 1
        # its end is noticed, and then all that only waited is forgotten at once
        assert process.wait_all(30)
    finally:
        stuck.release.set()
    process.close()
    assert len(stuck.outcomes) == count
    assert not any(delivered for _, delivered in stuck.outcomes)
    assert sum(who == "gone" for who, _ in stuck.outcomes) >= count - 2


def test_calls_made_again_and_again_do_not_pile_up(
    start: Callable[..., proctor.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread, whose call a signal cancels and restarts as long as its handler is stuck."""
    stuck = Stuck(monkeypatch, kill=False)
    stuck.wanted = 1500
    process = start(
        "alarm", "100", "call", "110",
        handlers=[proctor.Handler(("getppid",), stuck.stuck)],
        observers=[proctor.outcomes(stuck.observe)], wait_killable=False, world={"workers": 2},
    )  # fmt: skip
    stuck.process = process
    try:
        assert stuck.enough.wait(60), "nothing of all that waits was forgotten"
        assert stuck.most <= CONSTANT + 1
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        stuck.release.set()
    assert process.wait_all(30)
    process.close()
    assert not any(delivered for _, delivered in stuck.outcomes)


def test_the_living_are_not_forgotten(
    start: Callable[..., proctor.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers that live and wait get their turn, though many of the dead were in their way."""
    stuck, count = Stuck(monkeypatch), 1000
    process = start(
        "fork", "thread", "20", "111", "churn", str(count // 2), "110",
        handlers=[proctor.Handler(("getppid", "getpgrp"), stuck.stuck)],
        observers=[proctor.outcomes(stuck.observe)], world={"workers": 1},
    )  # fmt: skip
    stuck.process = process
    try:
        for _ in range(40):
            assert stuck.living.acquire(timeout=30)
    finally:
        stuck.release.set()
    said = lines(process)
    assert said.count("5") == 40
    assert said.count("ok") == 2
    process.close()
    assert sum(delivered for _, delivered in stuck.outcomes) >= 40


@pytest.mark.root
def test_a_new_thread_does_not_wait_for_the_dead_one_whose_number_it_has(
    start: Callable[..., proctor.Process],
) -> None:
    if os.geteuid() != 0:
        pytest.skip("choosing thread ids takes root")
    release = threading.Event()

    def glance(call: proctor.Call) -> None:
        if call.registers[0] == 0:
            os.kill(call.tid, signal.SIGKILL)

    def slow(call: proctor.Call) -> proctor.Verdict:
        if call.registers[0] == 0:
            release.wait(60)
        return proctor.answer(7)

    process = start(
        "again", "110",
        handlers=[
            proctor.Handler(("getppid",), glance),
            proctor.Handler(("getppid",), slow),
        ],
        world={"workers": 2},
    )  # fmt: skip
    try:
        assert lines(process) == ["110 = 7"]
    finally:
        release.set()


def test_when_a_thread_was_born(make_world: Callable[..., Any]) -> None:
    world = make_world()
    before = world.clock()
    born = threading.Event()
    done = threading.Event()
    numbers: list[int] = []

    def live() -> None:
        numbers.append(threading.get_native_id())
        born.set()
        done.wait(30)

    while world.clock() - before < 0.03:
        os.sched_yield()  # times of birth are told in ticks
    thread = threading.Thread(target=live)
    thread.start()
    assert born.wait(30)
    try:
        assert world.born_since(numbers[0], before)
        assert not world.born_since(numbers[0], world.clock())
        assert not world.born_since(os.getpid(), before)
        assert not world.born_since(1 << 29, before), "nobody has that number"
    finally:
        done.set()
        thread.join()


# A listener that is given back while its calls are routed --------------------------------------------


def _pending(pid: int, count: int) -> None:
    """Until so many threads of a process are in call 110, which the kernel announces to nobody."""
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        waiting = 0
        for task in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{task}/syscall") as file:
                    waiting += file.read().startswith("110 ")
            except OSError:
                pass
        if waiting == count:
            return
        os.sched_yield()
    raise AssertionError(f"{waiting} of {count} threads are waiting")


def test_what_is_routed_while_its_listener_is_given_back_is_over(
    caller: str, make_world: Callable[..., KernelWorld]
) -> None:
    """Neither this call, which was to be decided on a worker, nor those that were received with it
    are decided any more; all are answered, and observed."""
    outcomes: list[tuple[str, bool]] = []
    decided: list[int] = []

    def first(call: proctor.Call) -> None:
        supervisor.detach(listener)

    def second(call: proctor.Call) -> proctor.Verdict:
        decided.append(call.tid)
        return proctor.answer(6)

    handlers = [
        proctor.Handler(("getppid",), first, label="first"),
        proctor.Handler(("getppid",), second, label="second"),
    ]
    program = proctor.filter_for(handlers)
    assert program is not None
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with launch(
        [caller, "thread", "4", "110"], program=program.compile().code, fds=((writer, 1),)
    ) as target:
        os.close(writer)
        listener = proctor.Listener(target.take_listener())
        supervisor = proctor.Supervisor(
            handlers,
            close_verdict=proctor.deny(errno.ESHUTDOWN),
            observers=[
                proctor.outcomes(
                    lambda outcome: outcomes.append((outcome.decided_by, outcome.delivered))
                )
            ],
            world=make_world(),
        )
        with supervisor:
            supervisor.add(listener)
            _pending(target.pid, 4)
            assert supervisor.step(10) in (
                0,
                4,
            )  # 0: on a busy machine it is taken for stalled, and another thread goes on
            with open(reader) as file:
                assert file.read().splitlines() == [f"-{errno.ESHUTDOWN}"] * 4
        assert target.wait(30) == 0
    assert outcomes == [("close", True)] * 4
    assert not decided
    listener.close()


def test_nobody_is_told_the_end_of_what_was_given_back() -> None:
    """detach() may come between an engine's look at a listener that ended and its word about that."""
    ended: list[str] = []

    class Listener:
        closed = False

        def fileno(self) -> int:
            return 5

        def close(self) -> None:
            self.closed = True

    class Poller:
        def register(self, fd: int) -> None: ...

        def unregister(self, fd: int) -> None:
            if supervisor.listeners:  # the engine, which just saw the end: now another thread runs
                supervisor.detach(listener)

        def wait(self, timeout: float | None) -> list[tuple[int, int]]:
            return [(5, POLLHUP)]

        def ready(self, fd: int) -> bool:
            return False

        def wake(self) -> None: ...
        def look(self, seconds: float | None, rung: int) -> None: ...

        def rung(self) -> int:
            return 0

        def ring(self) -> None: ...
        def close(self) -> None: ...

    class World(KernelWorld):
        def engine(self) -> PyEngine:
            return PyEngine(Poller())

    listener: Any = Listener()
    with proctor.Supervisor(world=World()) as supervisor:
        supervisor.add(listener, on_end=lambda: ended.append("told"))
        supervisor.step(0)
        assert supervisor.listeners == 0
    assert not ended
    assert not listener.closed


@pytest.mark.parametrize("bits", [POLLIN, POLLHUP])
def test_an_event_is_not_taken_for_another_listener_that_has_the_number_now(bits: int) -> None:
    """Between the end of a wait and the look at what it found, another thread may close a listener
    and add the next one."""
    ended: list[str] = []

    class Listener:
        def fileno(self) -> int:
            return 5

        def recv(self) -> None:
            raise AssertionError("nothing is there to be received: this would wait for ever")

    class Poller:
        def register(self, fd: int) -> None: ...
        def unregister(self, fd: int) -> None: ...

        def wait(self, timeout: float | None) -> list[tuple[int, int]]:
            engine.remove(old)
            engine.add(new, {}, lambda _: None, lambda: ended.append("new"))
            return [(5, bits)]

        def ready(self, fd: int) -> bool:
            return False

        def wake(self) -> None: ...
        def look(self, seconds: float | None, rung: int) -> None: ...

        def rung(self) -> int:
            return 0

        def ring(self) -> None: ...
        def close(self) -> None: ...

    engine = PyEngine(Poller())
    old: Any = Listener()
    new: Any = Listener()
    engine.add(old, {}, lambda _: None, lambda: ended.append("old"))
    assert engine.serve(engine.lead(SERVE, lambda: None), 0, 1) == 0
    assert not ended


def test_a_call_that_is_routed_late_is_not_taken_for_another_threads() -> None:
    """Its caller died between its reception and now, and its number is somebody else's already."""
    outcomes: list[tuple[int, str]] = []
    entered, release, told = threading.Event(), threading.Event(), threading.Event()

    def observe(outcome: Outcome) -> None:
        outcomes.append((outcome.call.id, outcome.decided_by))
        told.set()

    class Listener:
        def __init__(self) -> None:
            self.waiting = [Notification(number, 10, 110, 0xC000003E) for number in (1, 2)]

        def fileno(self) -> int:
            return 5

        def recv(self) -> Notification:
            return self.waiting.pop(0)

        def id_valid(self, id: int) -> bool:
            return False

        def send(self, id: int, value: int, error: int, flags: int) -> bool:
            return False

        def close(self) -> None: ...

    class World(KernelWorld):
        def engine(self) -> PyEngine:
            return PyEngine(Poller(listener))

        def born_since(self, tid: int, when: float) -> bool:
            return True

    def slow(call: proctor.Call) -> proctor.Verdict:
        entered.set()
        release.wait(30)
        return proctor.answer(call.id)

    listener: Any = Listener()
    with proctor.Supervisor(
        [proctor.Handler(("getppid",), slow, label="slow")],
        world=World(),
        observers=[proctor.outcomes(observe)],
    ) as supervisor:
        supervisor.add(listener)
        supervisor.start()
        assert entered.wait(30)
        assert told.wait(30)
        assert outcomes == [(2, "gone")]
        release.set()
