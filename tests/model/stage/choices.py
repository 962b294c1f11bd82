"""Whom a step is about, and what it is: choices that each step's seed makes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from proctor.model.kernel.linux import (
    SIGCHLD,
    SIGCONT,
    SIGKILL,
    SIGSTOP,
    SIGTERM,
    SIGTRAP,
    SIGUSR1,
    SIGUSR2,
    SIGWINCH,
)
from proctor.model.kernel.listener import Notifications
from proctor.model.kernel.tasks import TRACED
from proctor.model.ptrace.registers import operation
from tests.model.stage.playing import Player, Stage

T = TypeVar("T")
#: Numbers of no call.
INVENTED = range(5000, 5006)
#: Signals that do not mean the end.
MILD = (SIGUSR1, SIGUSR2, SIGWINCH, SIGCHLD, SIGCONT, SIGSTOP, SIGSTOP, SIGCONT)


class Draw:
    """A stage, and a source of choices that each step seeds anew."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.shifts: dict[Notifications, int] = {}
        self._random = random.Random()

    def seeded(self, seed: int) -> Draw:
        """The same, with the choices of one step."""
        self._random = random.Random(seed)
        return self

    def one(self, of: Sequence[T]) -> T:
        """Any of these."""
        return of[self._random.randrange(len(of))]

    def chance(self, percent: int) -> bool:
        """True in that many of a hundred cases."""
        return self._random.randrange(100) < percent

    def number(self, below: int) -> int:
        """0 .. below - 1."""
        return self._random.randrange(below)

    # Whom -------------------------------------------------------------------------------------
    def actor(self) -> Player | None:
        """Somebody without an order: idle, or the only thread of a process and to take it later.

        Of two threads that are woken, one may take its order before the other one dies.
        """
        able = [
            player
            for player in self.stage.living()
            if player.order is None and player.doing in ("read", "being born")
            if player.idle() or len(player.task.process.tasks) == 1
        ]
        return self.one(able) if able else None

    def tracer(self) -> tuple[Player, Player] | None:
        """An untraced idle tracer, and one it traces; rather one that stopped."""
        pairs = [
            (player, tracee)
            for player in self.stage.living()
            if player.idle() and player.task.tracing is None
            for task in player.task.tracees
            if (tracee := self.stage.player_of(task)) is not None and not task.exiting
        ]
        stopped = [pair for pair in pairs if pair[1].task.state == TRACED]
        if stopped and self.chance(92):
            return self.one(stopped)
        return self.one(pairs) if pairs else None

    def stopped(self) -> tuple[Player, Player] | None:
        """A tracer as above, and one it traces that stopped; rather where a call is still to come."""
        pairs = [pair for _ in range(4) if (pair := self.tracer()) is not None]
        stopped = [pair for pair in pairs if pair[1].task.stop is not None]
        before = [pair for pair in stopped if operation(pair[1].task.stop) in (1, 3)]
        ordered = [pair for pair in before if pair[1].doing == "order"]
        return (ordered or before or stopped or [None])[0]

    def signal(self) -> int:
        """What a tracer lets its tracee go on with: mostly nothing."""
        if self.chance(70):
            return 0
        return self.one((*MILD, SIGTRAP, SIGTERM, 65, -1)) if self.chance(85) else SIGKILL


def execs(draw: Draw, player: Player) -> bool:
    """Whether a thread of its process is about to exec, which would wait for traced threads."""
    orders_there = [p.order for p in draw.stage.players if p.pid == player.pid and p.order]
    return any(order.what == "exec" for order in orders_there)


def is_traced(player: Player) -> bool:
    """Whether any thread of its process is."""
    return any(task.tracing is not None for task in player.task.process.tasks)


def traces(player: Player) -> bool:
    """Whether any thread of its process traces somebody."""
    return any(task.tracees for task in player.task.process.tasks)
