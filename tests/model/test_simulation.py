"""The supervisor on the model: nothing goes wrong, and what is made to go wrong is noticed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import pytest

from proctor.kernel.notification import Notification
from proctor.model.draw.chart import draw
from proctor.model.sim import simulate
from proctor.model.sim.ledger import AT_CLOSE
from proctor.model.sim.settings import Kind
from proctor.model.sim.world import SimWorld
from proctor.supervisor import answering, carry, deciding, pyengine
from proctor.supervisor import listeners as serving
from proctor.supervisor.backlog import Backlog
from proctor.supervisor.deciding import Decider
from proctor.supervisor.inflight import InFlight
from proctor.supervisor.jobs import Served
from proctor.supervisor.ports import SERVE
from proctor.supervisor.pyengine import PyEngine
from proctor.supervisor.role import Role
from proctor.supervisor.routes import Routes

Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("seed", [1, 2])
def test_every_invariant_holds(seed: int) -> None:
    report = simulate.simulate(seed, 8_000)
    assert report.failed is None, (
        f"{report.failed.violation}\nagain: python -m proctor.model.sim.simulate --seed {seed} "
        f"--episode {report.failed.number}"
    )
    assert report.calls >= 8_000
    # nothing of what a simulation is for failed to happen
    for kind in ("answer", "too late", "receive nothing", "descriptor", "died", "signal", "kill",
                 "detach", "end", "exec", "fork", "resume", "step"):  # fmt: skip
        assert report.counts[kind], kind


@pytest.mark.parametrize("seed", [1, 2])
def test_nobody_can_fill_the_supervisor_up(seed: int) -> None:
    report = simulate.simulate(seed, 4_000, kind="malicious")
    assert report.failed is None, report.failed.violation
    assert report.counts["kill"] > 150


def test_a_run_is_its_seed() -> None:
    first, second = (simulate.Episode(7, 3) for _ in range(2))
    first.run()
    second.run()
    assert first.events == second.events
    assert first.ledger.counts == second.ledger.counts


# Faults: each breaks the supervisor, and some invariant must say so ---------------------------------


def forgets_to_answer_after_an_exception(patch: Patch) -> None:
    real = Decider._answer

    def _answer(self: Any, job: Any, verdict: Any, who: str) -> None:
        if not isinstance(job.error, RuntimeError):
            real(self, job, verdict, who)

    patch.setattr(Decider, "_answer", _answer)


def answers_twice(patch: Patch) -> None:
    patch.setattr(InFlight, "claim", lambda self, job: True)


def sends_every_answer_again(patch: Patch) -> None:
    real = carry._send

    def _send(listener: Any, *answer: int) -> bool:
        real(listener, *answer)
        return real(listener, *answer)

    patch.setattr(carry, "_send", _send)


def loses_the_order_of_a_caller(patch: Patch) -> None:
    patch.setattr(Decider, "_order", lambda self, job: False)


def forgets_who_waits_behind_a_call(patch: Patch) -> None:
    real = Served.step_out
    patch.setattr(Served, "step_out", lambda self, job: real(self, job) and None)


def keeps_descriptors_open(patch: Patch) -> None:
    patch.setattr(carry, "close_unused", lambda verdict, close: None)


def keeps_the_descriptors_of_late_verdicts(patch: Patch) -> None:
    patch.setattr(answering, "close_unused", lambda verdict, close: None)


def closes_descriptors_twice(patch: Patch) -> None:
    real = carry.close_unused

    def twice(verdict: object, close: Any) -> None:
        real(verdict, close)
        real(verdict, close)

    patch.setattr(carry, "close_unused", twice)


def closes_descriptors_that_were_lent(patch: Patch) -> None:
    real = carry.close_unused

    def everything(verdict: Any, close: Any) -> None:
        real(verdict._replace(close=True) if hasattr(verdict, "close") else verdict, close)

    patch.setattr(carry, "close_unused", everything)


def never_notices_that_a_listener_ended(patch: Patch) -> None:
    patch.setattr(pyengine, "POLLHUP", 0)


def forgets_to_close_a_listener(patch: Patch) -> None:
    patch.setattr(serving, "release", lambda served, lock, observers: None)
    patch.setattr(answering, "release", lambda served, lock, observers: None)


def closes_a_listener_before_its_calls_are_over(patch: Patch) -> None:
    def release(served: Any, lock: Any, observers: Any) -> None:
        running, served.running = served.running, 0
        answering.release(served, lock, observers)
        served.running = running

    patch.setattr(serving, "release", release)


def starves_a_listener(patch: Patch) -> None:
    real = PyEngine._receive

    def _receive(self: Any, fd: int, served: Any) -> None:
        if fd % 3:
            real(self, fd, served)

    patch.setattr(PyEngine, "_receive", _receive)


def ignores_deadlines(patch: Patch) -> None:
    real = InFlight.due_at

    def due_at(self: Any, job: Any, when: float, later: Any = None, *, look: bool = False) -> None:
        if look or later is not None:
            real(self, job, when, later, look=look)

    patch.setattr(InFlight, "due_at", due_at)


def sleeps_through_deadlines(patch: Patch) -> None:
    patch.setattr(InFlight, "next_due", lambda self: None)


def answers_before_the_deadline(patch: Patch) -> None:
    real = InFlight.due
    patch.setattr(InFlight, "due", lambda self, now: real(self, now + 0.2))


def lets_racy_verdicts_through(patch: Patch) -> None:
    patch.setattr(deciding, "check", lambda verdict, call, who: verdict)


def leaves_calls_behind_when_detaching(patch: Patch) -> None:
    patch.setattr(Decider, "abandon", lambda self, served: None)


def loses_what_was_received_from_a_detached_listener(patch: Patch) -> None:
    real = PyEngine.remove

    def remove(self: Any, listener: Any, late: Any = None) -> None:
        real(self, listener, late)
        kept = [each for each in self._batch if each[1].listener is not listener]
        self._batch.clear()
        self._batch.extend(kept)

    patch.setattr(PyEngine, "remove", remove)


def remembers_the_calls_of_the_dead(patch: Patch) -> None:
    patch.setattr(Backlog, "some", lambda self: [])


def asks_workers_for_what_was_answered(patch: Patch) -> None:
    patch.setattr(Backlog, "take_out", lambda self, job: False)


def waits_behind_the_dead(patch: Patch) -> None:
    patch.setattr(SimWorld, "born_since", lambda self, tid, when: False)


def leaves_the_dying_waiting(patch: Patch) -> None:
    patch.setattr(SimWorld, "dying", lambda self, call: False)


def answers_who_does_not_die(patch: Patch) -> None:
    patch.setattr(SimWorld, "dying", lambda self, call: True)


def leaves_late_calls_to_nobody(patch: Patch) -> None:
    patch.setattr(Routes, "late", lambda self, notification: None)


def observes_nothing_of_late_calls(patch: Patch) -> None:
    patch.setattr(Routes, "late", lambda self, notification: (0, -AT_CLOSE, 0))


def receives_without_polling(patch: Patch) -> None:
    def _receive(self: Any, fd: int, served: Any) -> None:
        for _ in range(2):
            notification = served.listener.recv()
            if notification is not None:
                self._batch.append((fd, served, notification))

    patch.setattr(PyEngine, "_receive", _receive)


def gives_an_answer_to_another_call(patch: Patch) -> None:
    real = carry._send
    last = [0]

    def _send(listener: Any, id: int, *answer: int) -> bool:
        other, last[0] = last[0], id
        return real(listener, other or id, *answer)

    patch.setattr(carry, "_send", _send)


# Of the moving role


def never_sees_that_somebody_stalls(patch: Patch) -> None:
    patch.setattr(pyengine, "LOOK", 100.0)


def knows_nothing_of_what_stalls(patch: Patch) -> None:
    patch.setattr(Role, "overtaken_at", lambda self, served, id, make: None)


def loses_the_rest_of_what_was_received(patch: Patch) -> None:
    real = Role.overtaken_at

    def overtaken_at(self: Any, *call: Any) -> None:
        real(self, *call)
        self._engine._batch.clear()

    patch.setattr(Role, "overtaken_at", overtaken_at)


def drops_what_was_said_after_a_stall(patch: Patch) -> None:
    patch.setattr(Role, "settle", lambda self, served, id, wire, make: True)


def sends_what_was_said_after_a_stall(patch: Patch) -> None:
    """At once, though a deadline or the end may have been faster."""

    def settle(self: Any, served: Any, id: int, wire: Any, make: Any) -> bool:
        return wire is None or served.listener.send(id, *wire)

    patch.setattr(Role, "settle", settle)


def holds_no_threads(patch: Patch) -> None:
    patch.setattr(Backlog, "hold", lambda self, job, pulse, now: None)


def never_lets_a_thread_go(patch: Patch) -> None:
    patch.setattr(Backlog, "let_go", lambda self, hold, now: None)


def cannot_find_late_calls(patch: Patch) -> None:
    """Whoever takes over from a thread that answers one answers it, too."""

    def late(self: Any, job: Any) -> None:
        self.give_up(job)

    patch.setattr(Decider, "late", late)


def looks_at_nothing_that_is_awaited(patch: Patch) -> None:
    patch.setattr(PyEngine, "watch", lambda self, fd, callback: None)


def never_gives_up_what_is_awaited(patch: Patch) -> None:
    patch.setattr(Decider, "_cancel", lambda self, later: None)


def goes_on_without_a_turn(patch: Patch) -> None:
    patch.setattr(Decider, "_waits_for_turn", lambda self, job, share, *, kept: False)


def forgets_what_goes_on_and_waits(patch: Patch) -> None:
    """What went on had its turn, and is not there any more."""
    patch.setattr(Decider, "_resume_later", lambda self, job, interrupted=False: None)


def gives_up_what_it_went_on_with(patch: Patch) -> None:
    real = Decider.go_on

    def go_on(self: Any, what: Any) -> None:
        real(self, what)
        what.later.cancel()

    patch.setattr(Decider, "go_on", go_on)


FAULTS: tuple[Callable[[Patch], None], ...] = (
    leaves_the_dying_waiting,
    answers_who_does_not_die,
    never_sees_that_somebody_stalls,
    knows_nothing_of_what_stalls,
    loses_the_rest_of_what_was_received,
    drops_what_was_said_after_a_stall,
    sends_what_was_said_after_a_stall,
    holds_no_threads,
    never_lets_a_thread_go,
    looks_at_nothing_that_is_awaited,
    never_gives_up_what_is_awaited,
    gives_up_what_it_went_on_with,
    forgets_what_goes_on_and_waits,
    forgets_to_answer_after_an_exception,
    answers_twice,
    sends_every_answer_again,
    loses_the_order_of_a_caller,
    forgets_who_waits_behind_a_call,
    keeps_descriptors_open,
    keeps_the_descriptors_of_late_verdicts,
    closes_descriptors_twice,
    closes_descriptors_that_were_lent,
    never_notices_that_a_listener_ended,
    forgets_to_close_a_listener,
    closes_a_listener_before_its_calls_are_over,
    starves_a_listener,
    ignores_deadlines,
    sleeps_through_deadlines,
    answers_before_the_deadline,
    lets_racy_verdicts_through,
    leaves_calls_behind_when_detaching,
    loses_what_was_received_from_a_detached_listener,
    receives_without_polling,
    gives_an_answer_to_another_call,
)


#: Those that certain machines bring to light, and where to begin to look.
HARD: tuple[tuple[Callable[[Patch], None], Kind, int], ...] = (
    (remembers_the_calls_of_the_dead, "malicious", 2),
    (asks_workers_for_what_was_answered, "malicious", 2),
    (goes_on_without_a_turn, "malicious", 2),
    (cannot_find_late_calls, "preemptive", 4),
    (leaves_late_calls_to_nobody, "preemptive", 2),
    (observes_nothing_of_late_calls, "preemptive", 1),
)

if "PROCTOR_MODEL_LINES" in os.environ:  # make test-model: minutes
    HARD = (*HARD, (waits_behind_the_dead, "malicious", 1))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("fault", "kind", "seed"), HARD, ids=lambda it: getattr(it, "__name__", "")
)
def test_a_fault_shows_on_a_certain_kind_of_machine(
    fault: Callable[[Patch], None], kind: Kind, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        runs = (simulate.simulate(each, 4_000, kind=kind) for each in (seed, *range(1, 100)))
        assert any(report.failed for report in runs), "no invariant noticed it"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_broken_supervisor_is_caught(fault: Callable[[Patch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        runs = (simulate.simulate(seed, 5_000).failed for seed in range(1, 31))
        failed = next(filter(None, runs), None)
    assert failed is not None, "no invariant noticed it"
    assert failed.events


# The command ----------------------------------------------------------------------------------------


def test_the_command_says_how_to_play_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: Patch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        closes_descriptors_twice(patch)
        assert simulate.main(["--seed", "1", "--calls", "20000"]) == 1
    said = capsys.readouterr().out
    assert "VIOLATED: descriptor" in said
    again = next(line for line in said.splitlines() if line.startswith("again: "))
    arguments = again.split("proctor.model.sim.simulate ")[1].split()
    with pytest.MonkeyPatch.context() as patch:
        closes_descriptors_twice(patch)
        assert simulate.main(arguments) == 1
    assert again in capsys.readouterr().out
    assert simulate.main(arguments) == 0


def test_a_chart_of_a_run(tmp_path: Any) -> None:
    file = tmp_path / "run.mmd"
    assert simulate.main(["--seed", "1", "--episode", "6", "--trace", str(file)]) == 0
    head, kind, *lines = file.read_text(encoding="utf-8").partition("sequenceDiagram\n")
    assert head == "---\ntitle: seed 1, episode 6\n---\n" and kind
    lines = lines[0].splitlines()
    known = {line.split()[1] for line in lines if line.startswith("    participant ")}
    assert "supervisor" in known
    messages = [re.fullmatch(r"    (\w+)(?:->>|-\)|--x)(\w+): .+", line) for line in lines]
    drawn = [each for each in messages if each is not None]
    assert any("answer" in each[0] for each in drawn)
    assert {name for each in drawn for name in each.groups()} <= known
    assert all("#" not in line.replace("#35;", "").replace("#59;", "") for line in lines)
    assert draw([], "nothing")


@pytest.mark.parametrize(
    "arguments", [["--calls", "0"], ["--calls", "x"], ["--episode", "-1"], ["--seed", "1e3"]]
)
def test_wrong_numbers_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        simulate.main(arguments)
    assert ended.value.code == 2
    assert f"argument {arguments[0]}: " in capsys.readouterr().err


def test_a_chart_that_cannot_be_written(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Is found before a long run where that can be, and ends no run without its report."""
    with pytest.raises(SystemExit) as ended:
        simulate.main(["--trace", str(tmp_path / "none" / "run.mmd")])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert "run.mmd: No such file or directory" in said.err
    assert simulate.main(["--seed", "1", "--episode", "0", "--trace", "/dev/full"]) == 1
    said = capsys.readouterr()
    assert "episodes" in said.out and "drawn" not in said.out
    assert said.err == "--trace /dev/full: No space left on device\n"


# Found by the simulation ----------------------------------------------------------------------------


class _Listener:
    """Two calls wait; the second thread removes it when the first is routed."""

    def __init__(self) -> None:
        self.waiting = [Notification(1, 10, 83, 0xC000003E), Notification(2, 11, 83, 0xC000003E)]
        self.answers: list[tuple[int, int, int, int]] = []

    def fileno(self) -> int:
        return 5

    def recv(self) -> Notification:
        return self.waiting.pop(0)

    def send(self, *answer: int) -> bool:
        self.answers.append(answer)  # type: ignore[arg-type]
        return True


class _Poller:
    def __init__(self, listener: _Listener) -> None:
        self.listener = listener

    def register(self, fd: int) -> None: ...
    def unregister(self, fd: int) -> None: ...

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        return [(5, 1)]

    def ready(self, fd: int) -> bool:
        return bool(self.listener.waiting)

    def wake(self) -> None: ...
    def look(self, seconds: float | None, rung: int) -> None: ...

    def rung(self) -> int:
        return 0

    def ring(self) -> None: ...
    def close(self) -> None: ...


def test_what_was_received_from_a_removed_listener_is_answered() -> None:
    listener = _Listener()
    engine = PyEngine(_Poller(listener))

    def route(notification: Any) -> tuple[int, int, int]:
        engine.remove(listener)  # type: ignore[arg-type]
        return (0, -17, 0)

    engine.add(listener, {}, route, lambda: None)  # type: ignore[arg-type]
    assert engine.serve(engine.lead(SERVE, lambda: None), 0, 1) == 2
    assert listener.answers == [(1, 0, -17, 0), (2, 0, -38, 0)]  # ENOSYS: nobody said otherwise
