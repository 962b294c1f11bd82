"""A container keeps no more threads than its quota says, wherever whoever receives was left."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import proctor
from proctor.supervisor.backlog import Backlog
from proctor.supervisor.container import Quotas
from proctor.supervisor.deciding import Decider
from proctor.supervisor.driver import Driver
from proctor.supervisor.jobs import Job, Served
from proctor.supervisor.world_port import Still
from tests.supervisor.conftest import lines
from tests.support.stalling import await_threads, stall

GETPPID = "110"
CALLERS = 8

Start = Callable[..., proctor.Process]


def _is_overtaken(decider: Decider, job: Job) -> None:
    """Wait until another thread receives than this, and knows at what this one is."""
    stall()
    while not (job.known or job.key in decider.calls.taken):
        os.sched_yield()


def _quota(process: proctor.Process, workers: int) -> None:
    for served in process.supervisor._listeners.served.values():
        served.share.limit(Quotas(workers))


def _held_after_all(process: proctor.Process) -> int:
    process.close()
    await_threads()
    return Driver(process.supervisor).held


def handler(function: Callable[[proctor.Call], proctor.Verdict]) -> proctor.Handler:
    return proctor.Handler(("getppid",), function)


def test_who_is_overtaken_before_it_asks_for_a_thread_gets_none_beyond_the_quota(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call keeps the only thread there is until all others have asked."""
    order, hold_back, begins = Decider._order, Decider._hold_back, Decider.begins
    made: list[proctor.Process] = []
    ready, asked = threading.Event(), threading.Event()
    asking, at_work, most = [0], [0], [0]
    lock = threading.Lock()

    def slowly(self: Decider, job: Job) -> bool:
        _is_overtaken(self, job)
        return order(self, job)

    def one() -> None:
        with lock:
            asking[0] += 1
            if asking[0] == CALLERS - 1:
                asked.set()

    def counted(self: Decider, job: Job) -> bool:
        held = hold_back(self, job)
        one()
        return held

    def at_once(self: Decider, *what: Any) -> bool:
        """The short way; where it may not begin, it asks as others do."""
        may_begin = begins(self, *what)
        if may_begin:
            one()
        return may_begin

    def wait(call: proctor.Call) -> proctor.Verdict:
        ready.wait()
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        asked.wait()
        with lock:
            at_work[0] -= 1
        return proctor.answer(call.registers[0])

    monkeypatch.setattr(Decider, "_order", slowly)
    monkeypatch.setattr(Decider, "_hold_back", counted)
    monkeypatch.setattr(Decider, "begins", at_once)
    made.append(start("thread", str(CALLERS), GETPPID, handlers=[handler(wait)]))
    _quota(made[0], 1)
    ready.set()
    assert lines(made[0]) == [str(number) for number in range(CALLERS)]
    # once more as many, while nobody has seen that calls of this number stall; and whoever has the role
    assert most[0] <= 3
    assert _held_after_all(made[0]) == 0


def test_two_threads_that_one_call_keeps_are_two() -> None:
    """One let it wait for its turn and did not come to its next line, another one has had its turn since."""
    world: Any = SimpleNamespace(workers=4)
    backlog = Backlog(world, threading.Lock(), lambda: None)
    container = proctor.Container("one")
    call: Any = SimpleNamespace(tid=1, id=1, arch=0, nr=0)
    listener: Any = None
    job = Job(call, (), Served(listener, container, backlog.share(container), number=3), 0.0)
    first, second = (backlog.hold(job, Still(), 0.0) for _ in range(2))
    assert job.served.share.held == backlog.held == 2
    backlog.let_go(first, 1.0)
    assert job.served.share.held == backlog.held == 1
    backlog.let_go(second, 2.0)
    assert job.served.share.held == backlog.held == 0
