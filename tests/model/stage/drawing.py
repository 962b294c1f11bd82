"""Random steps of tracers and tracees: ``python -m tests.model.stage.drawing``.

Steps are pairs (operation, seed), so that any of them can be left out: a difference is shrunk to
the few steps that make it.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import time
from collections import Counter
from itertools import accumulate

from tests.model import drawn
from tests.model.drawn import Step
from tests.model.stage.choices import Draw
from tests.model.stage.operations import OPERATIONS
from tests.model.stage.playing import Difference, LeftOpen, Stage
from tests.model.stage.probing import missing
from tests.model.support import some

EPISODE = 120
#: What a long report counts: all that a step can be.
NAMES = frozenset(
    {
        "attach",
        "call",
        "cont",
        "detach",
        "drop",
        "dumpable",
        "exec",
        "exit",
        "fork",
        "get filter",
        "get info",
        "get metadata",
        "geteventmsg",
        "getregs",
        "getsiginfo",
        "install",
        "interrupt",
        "listen",
        "listen for news",
        "options",
        "pause",
        "peekdata",
        "peekuser",
        "pokedata",
        "pokeuser",
        "ptrace kill",
        "raise",
        "receive",
        "seize",
        "send",
        "set info",
        "setregs",
        "sigaction",
        "sigmask",
        "signal",
        "sleep",
        "syscall",
        "thread",
        "traceme",
        "wait",
        "wait long",
    }
)
#: Feature to what is not drawn without it.
_NEEDS = {"syscall_info": "get info", "set_syscall_info": "set info"}
_WEIGHTS = list(accumulate(weight for _, weight in OPERATIONS))


def plan(seed: int, steps: int) -> list[Step]:
    """The steps of one episode."""
    return drawn.plan(_WEIGHTS, seed, steps)


def play(
    steps: list[Step], counts: Counter[str], lacks: tuple[str, ...], grace: float = 2.0
) -> tuple[str, list[str]]:
    """One episode; what differed ("" for nothing) and the steps that were made.

    :param lacks: features that the running kernel does not have.
    :param grace: for how long time may cure a difference, in seconds.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    stage = Stage(counts, lacks, grace)
    draw = Draw(stage)
    try:
        for operation, seed in steps:
            OPERATIONS[operation][0](draw.seeded(seed))
            if not stage.living():
                break
    except LeftOpen:
        counts["(episode left open)"] += 1
    except Difference as problem:
        return str(problem), stage.log
    finally:
        stage.close()
    return "", stage.log


def _kind(problem: str) -> str:
    """A problem without its numbers: shrinking is not to find another one."""
    return re.sub(r"<.*?>|[0-9a-f]{4,}|[0-9]+", "", problem)


def shrink(
    steps: list[Step], problem: str, lacks: tuple[str, ...], rounds: int = 300
) -> list[Step]:
    """Fewer steps that still differ in the same way."""
    kind = _kind(problem)
    return drawn.shrink(
        steps, lambda fewer: _kind(play(fewer, Counter(), lacks, 0.3)[0]) == kind, rounds
    )


def run(
    steps: int,
    seed: int,
    counts: Counter[str],
    shrinking: bool = True,
    lacks: tuple[str, ...] | None = None,
) -> str:
    """Episodes until ``steps`` were compared; a report of the first difference, or "".

    :param lacks: as for :func:`play`; by default it is found out.
    """
    lacks = missing() if lacks is None else lacks
    episode = seed
    while counts.total() < steps:
        planned = plan(episode, EPISODE)
        problem, _ = play(planned, counts, lacks)
        if problem and not shrinking:
            return f"episode {episode}: {problem}"
        if problem:
            again, log = play(shrink(planned, problem, lacks), Counter(), lacks)
            return f"episode {episode}: {problem}\nshrunk ({again}):\n  " + "\n  ".join(log)
        episode += 1
    return ""


def scarce(counts: Counter[str], lacks: tuple[str, ...] | None = None) -> list[str]:
    """What came fewer than 100 times, or never, though this kernel has it."""
    lacks = missing() if lacks is None else lacks
    beyond = {_NEEDS[feature] for feature in lacks if feature in _NEEDS}
    return sorted(name for name in NAMES - beyond if counts[name] < 100)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=some, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-shrink", action="store_true", help="only name the episode")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    began = time.monotonic()
    problem = run(options.steps, options.seed, counts, not options.no_shrink)
    for what, number in sorted(counts.items()):
        print(f"{number:8}  {what}")
    print(f"{counts.total():8}  steps with tracers compared in {time.monotonic() - began:.0f} s")
    print(problem, end="\n" if problem else "")
    few = scarce(counts)
    if few and options.steps >= 50_000:
        print("fewer than 100 times:", ", ".join(few))
    return 1 if problem or (few and options.steps >= 50_000) else 0


if __name__ == "__main__":
    sys.exit(main())
