"""The model held against the real kernel, step by step.

Here a Hypothesis state machine draws operations, and a seeded run makes the number full; the full
count of 50,000 steps is ``python -m tests.model.compare``.  Both make each step on the model
and on a victim, and compare every result, errno, id step, pid, poll bit, state and return value;
see :mod:`tests.model.twins` and :mod:`model.operations`.  What differed so far, and why, is in
``docs/model-differences.md``.

The profile that the running kernel is compared with is found out by :mod:`tests.model.probed`.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from proctor.model.kernel.features import FEATURES
from tests.model import mutations
from tests.model.compare import OFTEN, run, scarce
from tests.model.operations import NAMES, OPERATIONS, Choices
from tests.model.probed import PROBES, found, missing
from tests.model.twins import World

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        (platform.system(), platform.machine()) != ("Linux", "x86_64") or os.geteuid() != 0,
        reason="the victims are driven by root on Linux x86-64",
    ),
]

#: Steps of the seeded run; a long run asks for more, and then all mutations are tried, too.
STEPS = int(os.environ.get("PROCTOR_MODEL_STEPS", "2000"))
LONG = STEPS > 2000
HANDFUL = (
    "RECV: newest first",
    "SEND: the value wins over the error",
    "ADDFD|SEND does not answer",
    "poll: no OUT",
    "close: every copy answers ENOSYS",
    "signals: SA_RESTART is not looked at",
)

COUNTS: Counter[str] = Counter()


class Machine(RuleBasedStateMachine):
    """One rule for each operation; an operation that nobody can do just now is no step."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(counts=COUNTS, remove=missing())

    def teardown(self) -> None:
        self.world.close()


def _rule(operation):
    @rule(seed=st.integers(0, (1 << 32) - 1))
    def step(self, seed: int) -> None:
        if self.world.main.task.exiting:
            return
        operation(self.world, Choices(seed))

    step.__name__ = operation.__name__
    return step


for _operation, _ in OPERATIONS:
    setattr(Machine, _operation.__name__, _rule(_operation))


@pytest.mark.parametrize("name", PROBES)
def test_a_scene_tells_whether_the_kernel_has_a_feature(name: str):
    """With it, or without it, the model agrees: not both, or the scene would show nothing."""
    has, lacks = found()
    assert name in has | lacks or lacks  # an older kernel may lack what the scene needs
    if name in has | lacks:
        assert (name in missing()) == (name in lacks)


def test_scenes_are_in_order_of_release():
    assert [name for name in FEATURES if name in PROBES] == list(PROBES)


@pytest.mark.timeout(300)
def test_the_state_machine_finds_no_difference():
    before = COUNTS.total()
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=60,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert COUNTS.total() > before


@pytest.mark.timeout(1800 if LONG else 300)
def test_seeded_steps_agree():
    counts: Counter[str] = Counter()
    problem = run(STEPS, 1_000_000, counts=counts)
    assert not problem, problem
    assert counts.total() >= STEPS
    assert set(counts) == NAMES  # all of it happens, and what happens has a name that is looked for


def test_a_full_run_misses_what_never_happened():
    counts = Counter(dict.fromkeys(NAMES, OFTEN))
    assert scarce(counts) == []
    counts["poll"] -= 1
    del counts["add fd"]
    assert scarce(counts) == ["add fd", "poll"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", [mutation.name for mutation in mutations.MUTATIONS] if LONG else HANDFUL
)
def test_a_wrong_model_is_caught(name: str):
    """A handful of :mod:`tests.model.mutations`, or all in a long run (``python -m tests.model.mutations``)."""
    number = next(n for n, mutation in enumerate(mutations.MUTATIONS) if mutation.name == name)
    ok, how = mutations.caught(number, steps=60_000 if LONG else 4000)
    assert ok, how


def test_every_mutation_changes_the_model_as_it_is():
    """Each one's text is still there, once: or it would test nothing."""
    import importlib.util
    from pathlib import Path

    for mutation in mutations.MUTATIONS:
        spec = importlib.util.find_spec(f"proctor.model.{mutation.module}")
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        assert source.count(mutation.right) == 1, mutation.name
    assert len(mutations.MUTATIONS) >= 20


@pytest.mark.parametrize(
    ("command", "option", "word"),
    [
        ("compare", "--steps", "0"),
        ("stage.drawing", "--steps", "-4"),
        ("compare", "--profile", "new"),
        ("probed", "--profile", "6.x"),
    ],
)
def test_a_run_of_nothing_is_refused(command: str, option: str, word: str) -> None:
    """Else it would find no difference."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.model.{command}", option, word],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"error: argument {option}: " in done.stderr
    assert "Traceback" not in done.stderr
