"""Descriptors within one process: close, dup, open, socketpair, and their limit."""

from __future__ import annotations

import struct

from proctor.model.kernel.files import File, socketpair
from proctor.model.kernel.linux import O_CLOEXEC, O_PATH
from tests.model.operations.choices import Choices, a_descriptor
from tests.model.twins import World


def op_close(world: World, choices: Choices) -> bool:
    """close(2); listeners too."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    fd = a_descriptor(twin, choices)
    if world.listener(twin, fd) is not None and choices.chance(60):
        return False
    world.step(twin, "close", "close", (fd,))
    return True


def op_dup(world: World, choices: Choices) -> bool:
    """dup2(2) and dup3(2), onto free and taken numbers."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    old = a_descriptor(twin, choices)
    new = choices.one((old, 3, 8, 30, 42, 500, 1 << 20))
    if choices.chance(40):
        world.step(twin, "dup", "dup3", (old, new, choices.one((0, O_CLOEXEC, 1))))
    else:
        world.step(twin, "dup", "dup2", (old, new))
    return True


def op_open(world: World, choices: Choices) -> bool:
    """openat(2) of a file, sometimes with O_PATH; socketpair(2)."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    task = twin.task
    at = twin.actor.region
    if choices.chance(25):

        def pair() -> int:
            one, two = socketpair()
            limit = task.process.nofile
            first = task.files.receive(one, limit, False)
            if first < 0:
                return first
            second = task.files.receive(two, limit, False)
            if second < 0:
                task.files.close(first)
            return min(second, 0)

        world.step(twin, "open", 53, (1, 5, 0, at), perform=pair)  # AF_UNIX, SOCK_SEQPACKET
        return True
    flags = choices.one((0, 0, O_CLOEXEC, O_PATH, O_PATH | O_CLOEXEC))
    world.step(
        twin, "open", "openat", ((1 << 64) - 100, at, flags), pokes=[(at, b"/dev/null\0")],
        perform=lambda: task.files.receive(
            File("null", flags & O_PATH), task.process.nofile, bool(flags & O_CLOEXEC)
        ),
    )  # fmt: skip
    return True


def op_limits(world: World, choices: Choices) -> bool:
    """setrlimit(RLIMIT_NOFILE), soft."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    soft = choices.one((0, 1, 4, 64, 300, 300, 300, 1024))
    at = twin.actor.region

    def perform() -> int:
        twin.task.process.nofile = soft
        return 0

    world.step(
        twin, "limits", 160, (7, at), pokes=[(at, struct.pack("=QQ", soft, 1024))], perform=perform
    )
    return True
