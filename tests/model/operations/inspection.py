"""Looking: at how often handlers ran, and at what /proc shows."""

from __future__ import annotations

from proctor.model.kernel.linux import SIGSYS
from tests.model.operations.choices import HANDLED, Choices
from tests.model.twins import Difference, World


def op_count(world: World, choices: Choices) -> bool:
    """How often a handler ran, as the victim itself counted."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    number = choices.one((*HANDLED, SIGSYS))
    world.note("count handlers", f"{twin.actor.slot}: count {number}")
    shown = int(world.real.ask(twin.actor, "count", number)[1])
    want = world.handlers(twin.task.process)[number]
    if shown != want:
        raise Difference(f"{twin!r}: handler of {number} ran {shown} times, the model says {want}")
    return True


def op_inspect(world: World, choices: Choices) -> bool:
    """Compare what /proc shows of everybody."""
    world.note("inspect", "inspect")
    world.inspect()
    return True
