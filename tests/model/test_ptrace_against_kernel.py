"""Tracers and tracees, the model held against the real kernel; see :mod:`tests.model.stage`.

A seeded run of random steps: each is made on the model and by real actors, of whom every system
call is known, and states, calls and their arguments, tracers, pending signals, statuses, registers,
results and errnos are compared.  PROCTOR_MODEL_STEPS asks for more of them.
"""

from __future__ import annotations

import os
import platform
from collections import Counter

import pytest

from tests.model import mutations
from tests.model.stage import drawing, probing
from tests.model.stage.operations import OPERATIONS

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        (platform.system(), platform.machine()) != ("Linux", "x86_64") or os.geteuid() != 0,
        reason="the actors are driven by root on Linux x86-64",
    ),
    pytest.mark.skipif(
        os.path.exists("/proc/sys/kernel/yama/ptrace_scope"),
        reason="Yama refuses what the kernel alone would let be traced",
    ),
]

#: Steps of the seeded run; a long run asks for more.
STEPS = int(os.environ.get("PROCTOR_MODEL_STEPS", "2000"))
HANDFUL = (
    "ptrace: the filters are asked before the tracer",
    "ptrace: a tracer's death leaves its tracees stopped",
)


@pytest.mark.timeout(1800 if STEPS > 2000 else 300)
def test_seeded_steps_agree():
    counts: Counter[str] = Counter()
    problem = drawing.run(STEPS, 2_000_000, counts)
    assert not problem, problem
    assert counts.total() >= STEPS
    wanted = {"attach", "seize", "cont", "syscall", "detach", "options", "interrupt", "wait"}
    assert wanted | {"getregs", "set info", "get metadata", "get filter"} <= set(counts)
    # Most episodes go to their end: few come to where the kernel leaves it open what happens.
    assert counts["(episode left open)"] * 4 < STEPS // drawing.EPISODE + 8


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", HANDFUL)
def test_a_wrong_model_is_caught(name: str):
    """Two of those of :mod:`tests.model.mutations`; a long run tries them all."""
    number = next(n for n, mutation in enumerate(mutations.MUTATIONS) if mutation.name == name)
    ok, how = mutations.caught(number, steps=4000)
    assert ok, how


def test_a_step_is_made_again_from_its_seed():
    """Without that no difference could be shrunk."""
    assert drawing.plan(7, 50) == drawing.plan(7, 50)
    assert {number for number, _ in drawing.plan(7, 5000)} == set(range(len(OPERATIONS)))


@pytest.mark.timeout(120)
def test_what_the_kernel_lacks_is_found_out():
    """Each scene agrees with the feature or without it; and a model without it is told from it."""
    lacks = probing.missing()
    for name, scene in probing.SCENES.items():
        if name not in lacks:
            assert not probing._agrees(scene, (*lacks, name)), name
