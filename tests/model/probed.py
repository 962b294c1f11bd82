"""Which features the running kernel lacks, found out by trying each, never by its version.

A kernel that is older than the newest profile differs from it in named features
(:mod:`proctor.model.features`).  For each that the comparison could meet, a short scene is played on
both; if the worlds disagree, and agree once the model is without the feature, the kernel lacks it.
``python -m model.probed`` in tests/ lists them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache

from model.operations.listeners import compare_notification, listener_ioctl
from model.operations.programs import ret, row
from model.operations.tasks import born, wait_for
from model.operations.waiting import poll_once
from model.real import NeverQuiet
from model.twins import Difference, Twin, World
from proctor.kernel import abi
from proctor.model import install, pidfds
from proctor.model.ioctl import ioctl
from proctor.model.linux import NR

_NOTIFY = (
    row(0x20, 0)
    + row(0x15, 5000, 0, 1)
    + ret(abi.SECCOMP_RET_USER_NOTIF)
    + ret(abi.SECCOMP_RET_ALLOW)
)


def _fork(world: World, twin: Twin, share: bool = False) -> Twin:
    return born(world, twin, "fork", share)


def _install(world: World, twin: Twin, program: bytes, flags: int) -> None:
    at = twin.actor.region
    fprog = len(program).__floordiv__(8).to_bytes(8, "little") + (at + 16).to_bytes(8, "little")
    world.step(
        twin, "probe", "seccomp", (1, flags, at), pokes=[(at, fprog), (at + 16, program)],
        perform=lambda: install.seccomp(world.kernel, twin.task, 1, flags, program),
    )  # fmt: skip


def _recv(world: World, twin: Twin, fd: int) -> None:
    notif = world.listener(twin, fd)
    buffer = bytearray(80)
    at = twin.actor.region

    def then() -> None:
        if twin.task.result == 0:
            compare_notification(world, twin, notif, bytes(buffer), at)

    listener_ioctl(world, twin, "probe", fd, abi.SECCOMP_IOCTL_NOTIF_RECV, buffer, then)


def _poll(world: World, twin: Twin, fd: int) -> None:
    poll_once(world, twin, fd)


def last_thread_decides(world: World) -> None:
    """A leader exits with 35, then the last thread with 26."""
    child = _fork(world, world.main)
    thread = born(world, child, "thread", False)
    world.step(child, "probe", "exit", (35,))
    world.step(thread, "probe", "exit", (26,))
    wait_for(world, world.main, child)


def release_at_exit(world: World) -> None:
    """The last user is a zombie: is there HUP?"""
    child = _fork(world, world.main, share=True)
    _install(world, child, _NOTIFY, abi.SECCOMP_FILTER_FLAG_NEW_LISTENER)
    world.step(child, "probe", "exit_group", (0,))
    _poll(world, world.main, 3)


def recv_ends_when_unused(world: World) -> None:
    """RECV after everybody left."""
    child = _fork(world, world.main, share=True)
    _install(world, child, _NOTIFY, abi.SECCOMP_FILTER_FLAG_NEW_LISTENER)
    world.step(child, "probe", "exit_group", (0,))
    wait_for(world, world.main, child)
    receiver = _fork(world, world.main)
    _recv(world, receiver, 3)


def fifo(world: World) -> None:
    """Two wait; which is received first?"""
    _install(world, world.main, _NOTIFY, abi.SECCOMP_FILTER_FLAG_NEW_LISTENER)
    first, second = _fork(world, world.main), _fork(world, world.main)
    for twin in (first, second):
        world.step(twin, "probe", 5000, ())
    _recv(world, world.main, 3)


def wait_killable_recv(world: World) -> None:
    """Is the flag known?"""
    _install(
        world, world.main, _NOTIFY,
        abi.SECCOMP_FILTER_FLAG_NEW_LISTENER | abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
    )  # fmt: skip


def set_flags(world: World) -> None:
    """SET_FLAGS(1)."""
    _install(world, world.main, _NOTIFY, abi.SECCOMP_FILTER_FLAG_NEW_LISTENER)
    main = world.main
    world.step(
        main, "probe", "ioctl", (3, abi.SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1),
        perform=lambda: ioctl(world.kernel, main.task, 3, abi.SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1),
    )  # fmt: skip


def pidfd_thread(world: World) -> None:
    """pidfd_open of a thread that leads no process."""
    thread = born(world, world.main, "thread", False)
    main = world.main
    world.step(
        main, "probe", "pidfd_open", (thread.actor.gtid, 0),
        perform=lambda: pidfds.open_pidfd(world.kernel, main.task, thread.task.tid, 0),
    )  # fmt: skip


def uprobe_unfiltered(world: World) -> None:
    """A filter refuses uprobe(2): is it asked?"""
    program = (
        row(0x20, 0)
        + row(0x15, NR["uprobe"], 0, 1)
        + ret(abi.SECCOMP_RET_ERRNO | 7)
        + ret(abi.SECCOMP_RET_ALLOW)
    )
    _install(world, world.main, program, 0)
    # Let through, it refuses whoever does not come from a trampoline (ENXIO).
    world.step(world.main, "probe", NR["uprobe"], (), perform=lambda: -6)


PROBES: dict[str, Callable[[World], None]] = {
    "last_thread_decides": last_thread_decides,
    "release_at_exit": release_at_exit,
    "recv_ends_when_unused": recv_ends_when_unused,
    "fifo": fifo,
    "wait_killable_recv": wait_killable_recv,
    "set_flags": set_flags,
    "pidfd_thread": pidfd_thread,
    "uprobe_unfiltered": uprobe_unfiltered,
}


def agrees(probe: Callable[[World], None], remove: tuple[str, ...]) -> bool:
    """Whether a scene plays the same on the kernel and on a model without some features."""
    world = World(remove=remove)
    try:
        probe(world)
    except (Difference, NeverQuiet):
        return False
    finally:
        world.close()
    return True


@cache
def missing() -> tuple[str, ...]:
    """The features of the newest profile that the running kernel lacks.

    :raises Difference: if a scene agrees neither with a feature nor without it.
    """
    lacks = []
    for name, probe in PROBES.items():
        if agrees(probe, ()):
            continue
        if not agrees(probe, (name,)):
            raise Difference(
                f"{name}: the kernel neither has it nor lacks it as the model knows it"
            )
        lacks.append(name)
    return tuple(lacks)


def main() -> int:
    """The command."""
    lacks = missing()
    for name in PROBES:
        print(f"{'lacks' if name in lacks else 'has':6} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
