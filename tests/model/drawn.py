"""What both comparisons do with random steps: draw them from a seed, and shrink those that differ.

A step is a pair (operation, seed), so that any of them can be left out.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Sequence

Step = tuple[int, int]


def plan(weights: Sequence[int], seed: int, steps: int) -> list[Step]:
    """The steps of one episode.

    :param weights: of the operations, added up.
    """
    source = random.Random(seed)
    return [
        (bisect.bisect_right(weights, source.randrange(weights[-1])), source.getrandbits(32))
        for _ in range(steps)
    ]


def shrink(steps: list[Step], differs: Callable[[list[Step]], bool], rounds: int) -> list[Step]:
    """Fewer steps that still differ: leave out pieces, then smaller ones."""
    size = max(1, len(steps) // 2)
    while size and rounds > 0:
        at = 0
        while at < len(steps) and rounds > 0:
            rounds -= 1
            fewer = steps[:at] + steps[at + size :]
            if differs(fewer):
                steps = fewer
            else:
                at += size
        size //= 2
    return steps
