"""Installing filters, and asking about them: seccomp(2) and prctl(2)."""

from __future__ import annotations

import struct

from proctor.kernel import abi
from proctor.model.kernel import install
from tests.model.operations.choices import Choices
from tests.model.operations.programs import ACTIONS, broken, mixed, notifier
from tests.model.twins import World

_FLAGS = (
    (abi.SECCOMP_FILTER_FLAG_NEW_LISTENER, 55),
    (abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 30),
    (abi.SECCOMP_FILTER_FLAG_TSYNC, 10),
    (abi.SECCOMP_FILTER_FLAG_TSYNC_ESRCH, 10),
    (abi.SECCOMP_FILTER_FLAG_LOG, 5),
    (abi.SECCOMP_FILTER_FLAG_SPEC_ALLOW, 10),
    (64, 1),
)


def op_install(world: World, choices: Choices) -> bool:
    """seccomp(2), SET_MODE_FILTER."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    kind = choices.number(100)
    program = notifier(choices) if kind < 70 else mixed(choices) if kind < 90 else broken(choices)
    flags = sum(flag for flag, percent in _FLAGS if choices.chance(percent))
    null = choices.chance(3)
    at = twin.actor.region
    sock_fprog = struct.pack("=HxxxxxxQ", len(program) // 8, at + 16)
    argument = None if null else program
    operation = 7 if choices.chance(1) else abi.SECCOMP_SET_MODE_FILTER

    def perform() -> int:
        return install.seccomp(world.kernel, twin.task, operation, flags, argument)

    tsync = bool(flags & abi.SECCOMP_FILTER_FLAG_TSYNC)
    world.step(
        twin,
        "install",
        "seccomp",
        (operation, flags, 0 if null else at),
        pokes=[(at, sock_fprog), (at + 16, program)],
        perform=perform,
        gives_pid=tsync and not flags & abi.SECCOMP_FILTER_FLAG_NEW_LISTENER,
    )
    return True


def op_ask(world: World, choices: Choices) -> bool:
    """The operations of seccomp(2) that ask, and prctl(2)."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    task = twin.task
    at = twin.actor.region
    which = choices.number(5)
    if which == 0:
        action = choices.one((*ACTIONS, 0x10000000, abi.SECCOMP_RET_USER_NOTIF | 1))
        flags = int(choices.chance(10))
        world.step(
            twin, "ask", "seccomp", (2, flags, at), pokes=[(at, struct.pack("=I", action))],
            perform=lambda: install.seccomp(world.kernel, task, 2, flags, action),
        )  # fmt: skip
    elif which == 1:
        null = choices.chance(30)
        world.step(
            twin, "ask", "seccomp", (3, 0, 0 if null else at),
            perform=lambda: install.seccomp(world.kernel, task, 3, 0, None if null else b""),
        )  # fmt: skip
    elif which == 2 and (task.mode or choices.chance(3)):
        argument = choices.one((0, 0, at))
        world.step(
            twin, "ask", "seccomp", (0, 0, argument),
            perform=lambda: install.seccomp(world.kernel, task, 0, 0, argument or None),
        )  # fmt: skip
    else:
        option = choices.one((21, 38, 39))
        value = 1 if option == 38 else 0
        world.step(
            twin, "ask", "prctl", (option, value, 0, 0, 0),
            perform=lambda: install.prctl(world.kernel, task, option, value),
        )  # fmt: skip
    return True
