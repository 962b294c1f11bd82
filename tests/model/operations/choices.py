"""A step's source of choices, and what operations of every kind choose from."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from proctor.model.kernel.linux import SIGUSR1, SIGUSR2, SIGWINCH
from tests.model.twins import KEPT, Twin, World

T = TypeVar("T")

#: Invented numbers that filters here speak about.
INVENTED = range(5000, 5008)
#: Signals that get handlers.
HANDLED = (SIGUSR1, SIGUSR2, SIGWINCH)
#: All ones: -1 as a register.
MASK = (1 << 64) - 1


class Choices:
    """A source of choices; a step has its own, so that steps can be left out."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def one(self, of: Sequence[T]) -> T:
        """Any of these."""
        return of[self._random.randrange(len(of))]

    def chance(self, percent: int) -> bool:
        """True in that many of a hundred cases."""
        return self._random.randrange(100) < percent

    def number(self, below: int) -> int:
        """0 .. below - 1."""
        return self._random.randrange(below)


#: Makes one step; False if nobody can just now.
Op = Callable[[World, Choices], bool]


def listeners(world: World) -> list[tuple[Twin, int]]:
    """(idle twin, descriptor) of every listener that somebody could use now."""
    return [
        (twin, fd)
        for twin in world.idle()
        for fd in sorted(twin.task.files.slots)
        if world.listener(twin, fd) is not None
    ]


def a_listener(world: World, choices: Choices) -> tuple[Twin, int] | None:
    """One of them; one with something to do more often than not."""
    every = listeners(world)
    if not every:
        return None
    busy = [
        (twin, fd)
        for twin, fd in every
        if (notif := world.listener(twin, fd)) is not None and notif.notifications
    ]
    return choices.one(busy if busy and choices.chance(85) else every)


def a_descriptor(twin: Twin, choices: Choices) -> int:
    """A descriptor of a twin that may be touched, or sometimes one that is not there."""
    have = sorted(set(twin.task.files.slots) - KEPT)
    return 77 if not have or choices.chance(4) else choices.one(have)


def unhindered(world: World) -> list[Twin]:
    """Idle twins for commands that must be answered: not in strict mode, no signal waiting."""
    return [
        twin
        for twin in world.idle()
        if twin.task.mode != 1 and not twin.task.process.pending & ~twin.task.blocked
    ]
