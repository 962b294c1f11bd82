"""poll(2) and epoll(7) on listeners and other descriptors."""

from __future__ import annotations

import struct

from proctor.model.kernel import poll
from proctor.model.kernel.files import File
from proctor.model.kernel.linux import EBADF, EPOLLET, NR, O_CLOEXEC, POLLIN, POLLOUT
from tests.model.operations.choices import MASK, Choices, a_listener
from tests.model.twins import Difference, Twin, World


def op_poll(world: World, choices: Choices) -> bool:
    """poll(2) of one descriptor, sometimes sleeping."""
    chosen = a_listener(world, choices)
    if chosen is None:
        return False
    twin, fd = chosen
    fd = fd if choices.chance(97) else 77
    events = choices.one((POLLIN | POLLOUT, POLLIN, POLLOUT, 0x145))
    for_ever = choices.chance(20) and _may_wait(world)
    poll_once(world, twin, fd, events, for_ever)
    return True


def poll_once(
    world: World, twin: Twin, fd: int, events: int = POLLIN | POLLOUT, for_ever: bool = False
) -> None:
    """poll(2) of one descriptor by ``twin``."""
    waiting = poll.Poll([(fd, events)])
    at = twin.actor.region

    def then() -> None:
        if twin.task.result is None or twin.task.result < 0:
            return
        shown = struct.unpack("=ihh", world.real.peek(twin.actor, at, 8))[2]
        want = waiting.found.get(fd, 0)
        if shown != want:
            raise Difference(f"poll shows {shown:#x}, the model {want:#x}")

    world.step(
        twin, "poll", "poll", (at, 1, MASK if for_ever else 0),
        pokes=[(at, struct.pack("=ihh", fd, events, 0))],
        perform=lambda: poll.poll(world.kernel, twin.task, waiting, None if for_ever else 0),
        then=then,
    )  # fmt: skip


def _may_wait(world: World) -> bool:
    """Whether somebody may sleep in poll: not beside a sleeping RECV, and not the last ones."""
    return len(world.idle()) > 3 and not _in_call(world, "ioctl")


def _in_call(world: World, *names: str) -> bool:
    """Whether somebody is in one of these calls, or will be again once continued."""
    numbers = {NR[name] for name in names}
    return any(t.task.frame is not None and t.task.frame.nr in numbers for t in world.twins)


def _epolls(twin: Twin) -> list[int]:
    slots = twin.task.files.slots
    return [fd for fd in sorted(slots) if isinstance(slots[fd].inside, poll.Epoll)]


def op_epoll(world: World, choices: Choices) -> bool:
    """epoll_create1, epoll_ctl ADD with and without EPOLLET, epoll_wait."""
    able = [t for t in world.idle() if _epolls(t)]
    if able and choices.chance(70):
        twin = choices.one(able)
        return _epoll_wait(world, twin, choices.one(_epolls(twin)), choices)
    chosen = a_listener(world, choices)
    if chosen is None:
        return False
    twin, fd = chosen
    have = _epolls(twin)
    if not have:
        task, kernel = twin.task, world.kernel
        world.step(
            twin, "epoll", "epoll_create1", (O_CLOEXEC,),
            perform=lambda: task.files.receive(
                File("epoll", inside=poll.Epoll(kernel)), task.process.nofile, True
            ),
        )  # fmt: skip
        return True
    return _epoll_add(world, twin, choices.one(have), fd, choices)


def _epoll_add(world: World, twin: Twin, epoll: int, fd: int, choices: Choices) -> bool:
    events = choices.one((POLLIN, POLLIN | POLLOUT, POLLOUT)) | choices.one((0, EPOLLET))
    at = twin.actor.region
    file = twin.task.files.get(fd)
    instance = poll.epoll_of(twin.task, epoll)

    def perform() -> int:
        if isinstance(instance, int) or file is None:
            return -EBADF
        return instance.add(file, fd, events)

    world.step(
        twin, "epoll", "epoll_ctl", (epoll, 1, fd, at),
        pokes=[(at, struct.pack("=IQ", events, fd))], perform=perform,
    )  # fmt: skip
    return True


def _epoll_wait(world: World, twin: Twin, epoll: int, choices: Choices) -> bool:
    instance = poll.epoll_of(twin.task, epoll)
    assert isinstance(instance, poll.Epoll)
    waiting = poll.EpollWait(instance, 16)
    at = twin.actor.region
    for_ever = choices.chance(15) and _may_wait(world) and not _in_call(world, "epoll_wait")

    def then() -> None:
        count = twin.task.result
        if count is None or count < 0:
            return
        raw = world.real.peek(twin.actor, at, 12 * count) if count else b""
        real = sorted((fd, bits) for bits, fd in struct.iter_unpack("=IQ", raw))
        if real != sorted(waiting.found):
            raise Difference(f"epoll_wait gave {real}, the model {sorted(waiting.found)}")

    world.step(
        twin, "epoll", "epoll_wait", (epoll, at, 16, MASK if for_ever else 0),
        perform=lambda: poll.epoll_wait(
            world.kernel, twin.task, waiting, None if for_ever else 0
        ),
        then=then,
    )  # fmt: skip
    return True
