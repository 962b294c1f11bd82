"""Calls that a filter may have something to say about."""

from __future__ import annotations

import struct

from proctor.kernel import abi
from proctor.model.kernel.calls import Sleep, sleep_until
from proctor.model.kernel.linux import ERESTARTNOHAND
from tests.model.operations.choices import INVENTED, Choices, a_descriptor
from tests.model.twins import World


def op_call(world: World, choices: Choices) -> bool:
    """A call that a filter may have something to say about."""
    idle = world.idle()
    filtered = [t for t in idle if t.task.filter is not None]
    if not idle:
        return False
    twin = choices.one(filtered if filtered and choices.chance(90) else idle)
    if twin is world.main and len(idle) == 1:
        return False
    which = choices.number(12)
    args = tuple(choices.one((0, 1, 2, (1 << 64) - 1, 1 << 40, 0x1234)) for _ in range(6))
    if which < 6:
        if choices.chance(8):
            nr = choices.one((5000, 5001, 5002))
            # The sixth would be in ebp, which is the compiler's.
            world.step(twin, "call", nr, (*args[:5],), verb="call-i386",
                       arch=abi.AUDIT_ARCH_I386)  # fmt: skip
            return True
        nr = choices.one((*INVENTED, *INVENTED, -1, 5001 | 0x40000000))
        world.step(twin, "call", nr, args)
    elif which < 8:
        fd = a_descriptor(twin, choices)
        world.step(twin, "call", "dup", (fd, *args[1:]))
    elif which < 10:
        task = twin.task

        def getppid() -> int:
            ns = task.process.namespace
            mine = task.process.parent
            if mine is None:
                return 0
            number = mine.leader.seen_from(ns)
            real = world.real_number(ns, number)
            return -99 if real is None else real

        world.step(twin, "call", "getppid", args, perform=getppid)
    elif which == 10:
        at = twin.actor.region
        kernel, task = world.kernel, twin.task
        world.step(
            twin, "call", "nanosleep", (at, 0), pokes=[(at, struct.pack("=qq", 100000, 0))],
            perform=lambda: sleep_until(kernel, task, kernel.now + 100000),
        )  # fmt: skip
    else:
        kernel, task = world.kernel, twin.task
        if len(idle) < 3:
            return False
        world.step(
            twin, "call", "pause", perform=lambda: kernel.sleep(task, Sleep(-ERESTARTNOHAND))
        )
    return True
