"""Runs the comparison of the model with the real kernel: ``python -m tests.model.compare``.

Steps are pairs (operation, seed), so that any of them can be left out: a difference is shrunk to
the few steps that make it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from itertools import accumulate

from tests.model import drawn
from tests.model.drawn import Step
from tests.model.operations import NAMES, OPERATIONS, Choices
from tests.model.probed import missing, unlike
from tests.model.real import NeverQuiet
from tests.model.support import release, some
from tests.model.twins import Difference, World

EPISODE = 150
#: A run of so many steps has each operation at least so often, or it proves too little.
FULL, OFTEN = 50_000, 100
_WEIGHTS = list(accumulate(weight for _, weight in OPERATIONS))


def plan(seed: int, steps: int) -> list[Step]:
    """The steps of one episode."""
    return drawn.plan(_WEIGHTS, seed, steps)


def play(
    steps: list[Step],
    counts: Counter[str],
    profile: str | None = None,
    lacks: tuple[str, ...] | None = None,
) -> tuple[str, list[str]]:
    """One episode; what differed ("" for nothing) and the steps that were made.

    :param profile: the release whose model it is, with what was ported back to the running kernel;
        None takes the newest, without what is missing.
    :param lacks: features that the kernel does not have, if that is known.
    """
    if lacks is None:
        lacks = missing() if profile is None else unlike(profile)
    world = World(counts=counts, remove=lacks)
    try:
        for operation, seed in steps:
            OPERATIONS[operation][0](world, Choices(seed))
            if world.main.task.exiting or len(world.living()) == 0:
                break
        else:
            world.inspect()
    except (Difference, NeverQuiet) as problem:
        return f"{type(problem).__name__}: {problem}", world.log
    finally:
        world.close()
    return "", world.log


def shrink(steps: list[Step], profile: str | None = None, rounds: int = 200) -> list[Step]:
    """Fewer steps that still differ."""
    return drawn.shrink(steps, lambda fewer: bool(play(fewer, Counter(), profile)[0]), rounds)


def run(
    steps: int,
    seed: int,
    profile: str | None = None,
    counts: Counter[str] | None = None,
    shrinking: bool = True,
    lacks: tuple[str, ...] | None = None,
) -> str:
    """Episodes until ``steps`` steps were compared; a report of the first difference, or "".

    Episodes are those of ``seed``, ``seed + 1`` and so on, about 70 steps each.

    :param lacks: as of :func:`play`.
    """
    counts = Counter() if counts is None else counts
    episode = seed
    while counts.total() < steps:
        planned = plan(episode, EPISODE)
        problem, _ = play(planned, counts, profile, lacks)
        if problem:
            if not shrinking:
                return f"episode {episode}: {problem}"
            short = shrink(planned, profile)
            again, log = play(short, Counter(), profile)
            lines = "\n  ".join(log)
            return f"episode {episode}: {problem}\nshrunk ({again}):\n  {lines}"
        episode += 1
    return ""


def scarce(counts: Counter[str]) -> list[str]:
    """What a full run was to have at least ``OFTEN`` times, and had not; never is not often."""
    return sorted(name for name in NAMES if counts[name] < OFTEN)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=some, default=FULL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--profile", type=release, help="a release; else the newest, without what the kernel lacks"
    )
    parser.add_argument("--no-shrink", action="store_true", help="only name the episode")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    began = time.monotonic()
    problem = run(options.steps, options.seed, options.profile, counts, not options.no_shrink)
    for what, number in sorted(counts.items()):
        print(f"{number:8}  {what}")
    print(f"{counts.total():8}  steps compared in {time.monotonic() - began:.0f} s")
    if problem:
        print(problem)
        return 1
    few = scarce(counts)
    if few and options.steps >= FULL:
        print(f"fewer than {OFTEN} times:", ", ".join(few))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
