"""The role changes hands, and the monitor dies, at every single line of the supervisor.

Which lines a machine comes by is written down once; then the same machine is played again for each of them,
and the thread that makes that step is left there for long, or everything is killed there.  The seeds are
such that nearly every line of the code that is about threads is met.

PROCTOR_MODEL_LINES says how often each line is met (make test-model: 3 times); by default each
sixteenth is, once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import pytest

from proctor.model.sim import preempt as sim_preempt
from proctor.model.sim.episode import Episode
from proctor.model.sim.settings import Kind
from proctor.supervisor.role import Role

from . import test_preemption as planted

Patch = pytest.MonkeyPatch
Line = tuple[str, int]

TIMES = int(os.environ.get("PROCTOR_MODEL_LINES", "0"))
#: The machines: with and without deadlines, with handlers that burn, with descriptors that are awaited.
SEEDS = (1, 2, 3, 4, 5, 6, 7, 12)
NEVER = 1 << 62


class Step(NamedTuple):
    """The ``at``-th step of a machine."""

    seed: int
    at: int


def met(kind: Kind, seeds: tuple[int, ...] = SEEDS) -> dict[Line, list[Step]]:
    """Where machines come by, and when."""
    lines: dict[Line, list[Step]] = {}

    def note(code: CodeType, line: int, step: Step) -> None:
        lines.setdefault((Path(code.co_filename).name, line), []).append(step)

    for seed in seeds:
        violation = walk(seed, kind, note)
        assert violation is None, f"seed {seed}: {violation}"
    return lines


def walk(seed: int, kind: Kind, note: Callable[[CodeType, int, Step], object]) -> str | None:
    """Play a machine undisturbed, and say what it comes by; which invariant does not hold."""
    episode = (
        Episode(seed, 0, kind, kill_at=NEVER)  # it is left on purpose, once
        if kind == "mortal"
        else Episode(seed, 0, kind, stall_at=NEVER)
    )
    counted = count(1)
    assert episode.preemption is not None
    episode.preemption.record = lambda code, line: note(code, line, Step(seed, next(counted)))
    episode.run()
    return episode.violation


def some(steps: list[Step], times: int) -> list[Step]:
    """So many of them, far from each other."""
    return [steps[len(steps) * n // times] for n in range(times)] if times < len(steps) else steps


def chosen(lines: dict[Line, list[Step]]) -> Iterator[tuple[Line, Step]]:
    for number, (line, steps) in enumerate(sorted(lines.items())):
        if TIMES:
            for step in some(steps, TIMES):
                yield line, step
        elif number % 16 == len(steps) % 16:
            yield line, steps[len(steps) // 2]


@pytest.fixture
def taken(monkeypatch: Patch) -> list[object]:
    """Whom the role was taken from: what they were at."""
    seen: list[object] = []
    real = Role._note

    def note(self: Role, key: Any, job: Any) -> None:
        seen.append(key)
        real(self, key, job)

    monkeypatch.setattr(Role, "_note", note)
    return seen


@pytest.mark.timeout(3000)
def test_whoever_receives_stalls_at_any_line(taken: list[object]) -> None:
    lines = met("preemptive")
    undisturbed = len(taken)
    stalled = {}
    for line, step in chosen(lines):
        before = len(taken)
        episode = Episode(step.seed, 0, "preemptive", stall_at=step.at)
        episode.run()
        assert episode.violation is None, f"left at {line}, {step}: {episode.violation}"
        stalled[line] = len(taken) - before
    of_role = [
        line
        for line in stalled
        if line[0]
        in ("role.py", "pyengine.py", "deciding.py", "waiting.py", "turns.py", "answering.py")
    ]
    assert len(of_role) > (400 if TIMES else 20)
    assert undisturbed
    assert sum(map(bool, stalled.values())) > len(stalled) / 2  # it does change hands then


@pytest.mark.timeout(3000)
def test_the_monitor_dies_at_any_line() -> None:
    """Another one takes over: also from who is just leaving all to the next one, or has just taken over itself."""
    deaths = tried = 0
    lines = met("mortal")
    assert len([line for line in lines if line[0] == "leaving.py"]) > 5
    for line, step in chosen(lines):
        episode = Episode(step.seed, 0, "mortal", kill_at=step.at)
        episode.run()
        assert episode.violation is None, f"killed at {line}, {step}: {episode.violation}"
        tried += 1
        deaths += episode.ledger.counts["death"]
    assert deaths > tried / 4  # the others come when all is over


#: What is not guarded, and where somebody stalls then: functions.
UNGUARDED: tuple[tuple[Callable[[Patch], None], tuple[str, ...]], ...] = (
    (planted.claims_without_the_lock, ("claim",)),
    (planted.keeps_the_role_without_the_lock, ("_called",)),
    (planted.notes_stalls_without_the_lock, ("overtaken_at", "_note")),
    (planted.answers_for_those_that_stand_in, ("decide", "advance", "decided", "_answer", "claim")),
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("fault", "functions"), UNGUARDED, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_is_not_guarded_is_found(
    fault: Callable[[Patch], None], functions: tuple[str, ...]
) -> None:
    """By stalls at the lines of what should have been guarded, and no chance."""
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        patch.setattr(sim_preempt, "WATCHED", [*sim_preempt.WATCHED, planted.__file__])
        for violation in stalls_in(functions):
            if violation is not None:
                return
    raise AssertionError("no invariant noticed it")


def stalls_in(functions: tuple[str, ...]) -> Iterator[str | None]:
    """What becomes of machines that are stalled at each line of some functions."""
    for seed in SEEDS:
        steps: dict[Line, list[Step]] = {}

        def note(
            code: CodeType, line: int, step: Step, steps: dict[Line, list[Step]] = steps
        ) -> None:
            if code.co_name in functions:
                steps.setdefault((code.co_filename, line), []).append(step)

        yield walk(seed, "preemptive", note)
        for each in steps.values():
            for step in some(each, 40):
                episode = Episode(step.seed, 0, "preemptive", stall_at=step.at)
                episode.run()
                yield episode.violation
