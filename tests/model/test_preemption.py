"""Races that show only when a thread is left between two lines of the supervisor's own code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from proctor.model.sim import preempt as sim_preempt
from proctor.model.sim import simulate
from proctor.model.sim.fibers import SimLock
from proctor.supervisor import answering
from proctor.supervisor import listeners as serving
from proctor.supervisor.deciding import Decider
from proctor.supervisor.inflight import InFlight
from proctor.supervisor.listeners import Listeners
from proctor.supervisor.pyengine import PyEngine
from proctor.supervisor.role import Role

Patch = pytest.MonkeyPatch


class _NoLock:
    """Excludes nobody."""

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_: object) -> None: ...


def _without_lock(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same method of a class that has a ``_lock``, taking none itself."""

    class Unlocked:
        def __init__(self, real: Any) -> None:
            object.__setattr__(self, "real", real)

        def __getattr__(self, name: str) -> Any:
            return _NoLock() if name == "_lock" else getattr(self.real, name)

        def __setattr__(self, name: str, value: Any) -> None:
            setattr(self.real, name, value)

    return lambda self, *args, **named: function(Unlocked(self), *args, **named)


# Faults -----------------------------------------------------------------------------------------------


def claims_without_the_lock(patch: Patch) -> None:
    """Two may find it unclaimed."""
    patch.setattr(InFlight, "claim", _without_lock(InFlight.claim))


def joins_a_line_without_the_lock(patch: Patch) -> None:
    """The line may come to its end between the look at it and the joining."""
    patch.setattr(Decider, "_order", _without_lock(Decider._order))


def leaves_a_line_without_the_lock(patch: Patch) -> None:
    patch.setattr(InFlight, "told", lambda self, job: None)  # who tells others has to have it
    patch.setattr(Decider, "_finish", _without_lock(Decider._finish))


def takes_turns_without_the_lock(patch: Patch) -> None:
    patch.setattr(Decider, "next_job", _without_lock(Decider.next_job))
    patch.setattr(Role, "_next", _without_lock(Role._next))


def queues_without_the_lock(patch: Patch) -> None:
    """It may be answered, by its deadline, between the look at it and the queueing."""
    patch.setattr(Decider, "_put", _without_lock(Decider._put))


def keeps_the_role_without_the_lock(patch: Patch) -> None:
    """Another one may take it between the look at it and the next step."""
    patch.setattr(PyEngine, "_called", _without_lock(PyEngine._called))


def takes_the_role_without_the_lock(patch: Patch) -> None:
    """Whoever has it may come back between the look at it and the taking."""
    patch.setattr(PyEngine, "_look", _without_lock(PyEngine._look))


def notes_stalls_without_the_lock(patch: Patch) -> None:
    """Whoever stalled may come back meanwhile."""
    patch.setattr(Role, "overtaken_at", _without_lock(Role.overtaken_at))


def leaves_the_rest_to_nobody_at_the_end(patch: Patch) -> None:
    """close() may stall, too, and whoever takes the role from it has nothing to do any more."""

    def finish(self: Any, token: int, patience: float) -> None:
        self._engine.serve(token, 0.0, 1)
        self._engine.resign(token)

    patch.setattr(Role, "finish", finish)


def answers_for_those_that_stand_in(patch: Patch) -> None:
    """And for the call itself as well."""
    patch.setattr(InFlight, "merge", lambda self, job: job.known)


def tells_the_end_of_what_was_given_back(patch: Patch) -> None:
    def _end(self: Any, served: Any) -> None:
        with self._lock:
            self.served.pop(served.number, None)
            self._ending += 1
        self._leave(served, "ended")
        served.on_end()
        with self._lock:
            self._ending -= 1

    patch.setattr(Listeners, "_end", _end)


def closes_while_somebody_speaks(patch: Patch) -> None:
    """The count of jobs that still speak to a listener is kept without the lock."""

    def release(served: Any, lock: Any, observers: Any) -> None:
        running = served.running
        if served.leaving and not running and served.left is not None:
            left, served.left = served.left, None
            if not served.keep:
                served.listener.close()
            left(served, served.leaving)

    real = InFlight.register

    def register(self: Any, job: Any) -> None:
        before = job.served.running
        real(self, job)
        job.served.running = before + 1

    patch.setattr(answering, "release", release)
    patch.setattr(serving, "release", release)
    patch.setattr(InFlight, "register", register)
    patch.setattr(Decider, "_leave", _without_lock(Decider._leave))


def asks_the_kernel_with_the_lock_held(patch: Patch) -> None:
    real = InFlight.claim

    def claim(self: Any, job: Any) -> bool:
        with self._lock:
            job.served.listener.id_valid(job.call.id)
        return real(self, job)

    patch.setattr(InFlight, "claim", claim)


def locks_twice(patch: Patch) -> None:
    real = InFlight.claim

    def claim(self: Any, job: Any) -> bool:
        with self._lock:
            return real(self, job)

    patch.setattr(InFlight, "claim", claim)


FAULTS: tuple[Callable[[Patch], None], ...] = (
    claims_without_the_lock,
    joins_a_line_without_the_lock,
    leaves_a_line_without_the_lock,
    keeps_the_role_without_the_lock,
    takes_the_role_without_the_lock,
    answers_for_those_that_stand_in,
    closes_while_somebody_speaks,
    asks_the_kernel_with_the_lock_held,
    locks_twice,
)
#: These show too seldom for every day.
SELDOM: tuple[Callable[[Patch], None], ...] = (
    tells_the_end_of_what_was_given_back,
    leaves_the_rest_to_nobody_at_the_end,
    takes_turns_without_the_lock,
    queues_without_the_lock,
)


class Near(pytest.MonkeyPatch):
    """Threads are left in the modules in which something is replaced, and nowhere else: that makes a race
    likely, whatever a seed means."""

    def __init__(self) -> None:
        super().__init__()
        self.setattr(sim_preempt, "WATCHED", [__file__])

    def setattr(self, owner: Any, name: str, value: Any) -> None:  # type: ignore[override]
        replaced = getattr(owner, name)
        super().setattr(owner, name, value)
        if callable(replaced):
            sim_preempt.WATCHED.append(replaced.__code__.co_filename)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_race_is_found(fault: Callable[[Patch], None]) -> None:
    with Near.context() as patch:
        fault(patch)
        look_for_it(1_000)


if "PROCTOR_MODEL_LINES" in os.environ:  # make test-model: minutes each

    @pytest.mark.timeout(6000)
    @pytest.mark.parametrize("fault", SELDOM, ids=lambda fault: fault.__name__)
    def test_a_race_that_shows_seldom_is_found(fault: Callable[[Patch], None]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            fault(patch)
            patch.setattr(sim_preempt, "WATCHED", [*sim_preempt.WATCHED, __file__])
            look_for_it(3_000)


def look_for_it(calls: int) -> None:
    runs = (simulate.simulate(seed, calls, kind="preemptive") for seed in range(1, 100))
    failed = next((report.failed for report in runs if report.failed), None)
    assert failed is not None, "no invariant noticed it"
    # that would be a fault in the fault; but that two jobs of one number have no order is the race
    problem = failed.violation.replace("TypeError(\"'<' not supported", "")
    assert "TypeError" not in problem and "AttributeError" not in problem


@pytest.mark.parametrize(
    "fault",
    [
        claims_without_the_lock,
        leaves_a_line_without_the_lock,
        takes_turns_without_the_lock,
        tells_the_end_of_what_was_given_back,
    ],
    ids=lambda fault: fault.__name__,
)
def test_it_shows_only_between_lines(fault: Callable[[Patch], None]) -> None:
    """Where threads are left at ports alone, all seems well: what preemption is there for."""
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        report = simulate.simulate(1, 6_000, kind="ordinary")
    assert report.failed is None


@pytest.mark.parametrize("seed", [1, 2])
def test_every_invariant_holds_between_lines_too(seed: int) -> None:
    report = simulate.simulate(seed, 1_000, kind="preemptive")
    assert report.failed is None, report.failed.violation


def test_a_preempted_run_is_its_seed() -> None:
    first, second = (simulate.Episode(3, 1, "preemptive") for _ in range(2))
    first.run()
    junk = [object() for _ in range(10_000)]  # objects have other addresses the second time
    second.run()
    assert junk
    assert first.events == second.events
    assert first.ledger.counts == second.ledger.counts


def test_tracing_ends_with_the_episode() -> None:
    before = sys.gettrace()
    simulate.Episode(3, 1, "preemptive").run()
    assert sys.gettrace() is before


# The lock -----------------------------------------------------------------------------------------------


def test_the_lock_makes_others_wait() -> None:
    """Whoever holds it can be left; others go on when it is given back."""
    order: list[str] = []
    world = simulate.Episode(1, 0, "preemptive").world
    schedule = world.schedule
    lock = SimLock(schedule)

    def hold() -> None:
        with lock:
            order.append("held")
            schedule.pause(1.0)
            order.append("given back")

    def want() -> None:
        order.append("wanted")
        assert not lock.acquire(blocking=False)
        with lock:
            order.append("got")

    schedule.aside(hold)
    schedule.aside(want)
    assert order == ["held", "wanted"]
    with lock:  # the main stack waits, too
        order.append("main")
    assert order[:3] == ["held", "wanted", "given back"]
    schedule.end()
    assert sorted(order[3:]) == ["got", "main"]
