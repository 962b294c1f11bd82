"""Which features the running kernel lacks, found out by trying each, never by its version.

Kernels differ in named features (:mod:`proctor.model.features`).  For each that a step can meet, a
short scene is played on both worlds; if they disagree, and agree once the model is without the
feature, the kernel lacks it.  ``python -m model.probed`` in tests/ lists them; with ``--profile`` it
fails if the kernel is not as the model says of that release.
"""

from __future__ import annotations

import argparse
import signal
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
from proctor.model.features import FEATURES, features
from proctor.model.linux import ENOSYS, NR

_LISTENER = abi.SECCOMP_FILTER_FLAG_NEW_LISTENER
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


def _unused(world: World) -> None:
    """A listener, 3, whose only user is gone and reaped."""
    child = _fork(world, world.main, share=True)
    _install(world, child, _NOTIFY, _LISTENER)
    world.step(child, "probe", "exit_group", (0,))
    wait_for(world, world.main, child)


def _ask(world: World, request: int, argument: bytes | int, pending: bool = False) -> None:
    """One ioctl on a listener of our own, about an id that does not exist; with ``pending`` a call
    waits."""
    _install(world, world.main, _NOTIFY, _LISTENER)
    if pending:
        world.step(_fork(world, world.main), "probe", 5000, ())
    words = bytearray(argument) if isinstance(argument, bytes) else argument
    listener_ioctl(world, world.main, "probe", 3, request, words)


def pidfd_open(world: World) -> None:
    """pidfd_open of the main process."""
    main = world.main
    world.step(
        main, "probe", "pidfd_open", (main.actor.gpid, 0),
        perform=lambda: pidfds.open_pidfd(world.kernel, main.task, main.task.tid, 0)
        if "pidfd_open" in world.kernel.features
        else -ENOSYS,
    )  # fmt: skip


def continue_flag(world: World) -> None:
    """SEND with CONTINUE: the flags are looked at before the id."""
    response = abi.SECCOMP_NOTIF_RESP.pack(1, 0, 0, abi.SECCOMP_USER_NOTIF_FLAG_CONTINUE)
    _ask(world, abi.SECCOMP_IOCTL_NOTIF_SEND, response)


def recv_wants_zeros(world: World) -> None:
    """RECV into a buffer that is not zero, while a call waits."""
    _ask(world, abi.SECCOMP_IOCTL_NOTIF_RECV, b"\1".ljust(80, b"\0"), pending=True)


def pidfd_getfd(world: World) -> None:
    """pidfd_getfd of something that is no pidfd."""
    main = world.main
    world.step(
        main, "probe", "pidfd_getfd", (77, 0, 0),
        perform=lambda: pidfds.getfd(main.task, 77, 0)
        if "pidfd_getfd" in world.kernel.features
        else -ENOSYS,
    )  # fmt: skip


def tsync_esrch(world: World) -> None:
    """TSYNC with NEW_LISTENER, which takes TSYNC_ESRCH."""
    flags = abi.SECCOMP_FILTER_FLAG_TSYNC | abi.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
    _install(world, world.main, _NOTIFY, _LISTENER | flags)


def hangup(world: World) -> None:
    """Nobody uses the filter any more: is there HUP?"""
    _unused(world)
    poll_once(world, world.main, 3)


def id_valid_number(world: World) -> None:
    """ID_VALID under the corrected number."""
    _ask(world, abi.SECCOMP_IOCTL_NOTIF_ID_VALID, bytes(8))


def addfd(world: World) -> None:
    """ADDFD for an id that does not exist."""
    _ask(world, abi.SECCOMP_IOCTL_NOTIF_ADDFD, abi.SECCOMP_NOTIF_ADDFD.pack(1, 0, 0, 0, 0))


def addfd_send(world: World) -> None:
    """ADDFD with SEND for an id that does not exist: the flags are looked at first."""
    request = abi.SECCOMP_NOTIF_ADDFD.pack(1, abi.SECCOMP_ADDFD_FLAG_SEND, 0, 0, 0)
    _ask(world, abi.SECCOMP_IOCTL_NOTIF_ADDFD, request)


def fifo(world: World) -> None:
    """Two wait; which is received first?"""
    _install(world, world.main, _NOTIFY, _LISTENER)
    first, second = _fork(world, world.main), _fork(world, world.main)
    for twin in (first, second):
        world.step(twin, "probe", 5000, ())
    _recv(world, world.main, 3)


def wait_killable_recv(world: World) -> None:
    """Is the flag known?"""
    flag = abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    _install(world, world.main, _NOTIFY, _LISTENER | flag)


def last_thread_decides(world: World) -> None:
    """A leader exits with 35, then the last thread with 26."""
    child = _fork(world, world.main)
    thread = born(world, child, "thread", False)
    world.step(child, "probe", "exit", (35,))
    world.step(thread, "probe", "exit", (26,))
    wait_for(world, world.main, child)


def set_flags(world: World) -> None:
    """SET_FLAGS(1)."""
    _ask(world, abi.SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1)


def recv_wait_queue(world: World) -> None:
    """RECV sleeps, is stopped and continued: does it sleep on?"""
    receiver = _fork(world, world.main)
    _install(world, receiver, _NOTIFY, _LISTENER)
    _recv(world, receiver, 3)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        world.signal(receiver, number, False, "probe")


def pidfd_thread(world: World) -> None:
    """pidfd_open of a thread that leads no process."""
    thread = born(world, world.main, "thread", False)
    main = world.main
    world.step(
        main, "probe", "pidfd_open", (thread.actor.gtid, 0),
        perform=lambda: pidfds.open_pidfd(world.kernel, main.task, thread.task.tid, 0),
    )  # fmt: skip


def release_at_exit(world: World) -> None:
    """The last user is a zombie: is there HUP?"""
    child = _fork(world, world.main, share=True)
    _install(world, child, _NOTIFY, _LISTENER)
    world.step(child, "probe", "exit_group", (0,))
    poll_once(world, world.main, 3)


def recv_ends_when_unused(world: World) -> None:
    """RECV after everybody left."""
    _unused(world)
    _recv(world, _fork(world, world.main), 3)


def uprobe_unfiltered(world: World) -> None:
    """A filter refuses uprobe(2): is it asked?"""
    program = (
        row(0x20, 0)
        + row(0x15, NR["uprobe"], 0, 1)
        + ret(abi.SECCOMP_RET_ERRNO | 7)
        + ret(abi.SECCOMP_RET_ALLOW)
    )
    _install(world, world.main, program, 0)
    # Let through, it refuses whoever does not come from a trampoline (ENXIO), where it exists (6.11).
    world.step(world.main, "probe", NR["uprobe"], (), perform=lambda: -6)


#: By feature, oldest first: later scenes are played without what is known to be missing.
PROBES: dict[str, Callable[[World], None]] = {
    scene.__name__: scene
    for scene in (
        pidfd_open, continue_flag, recv_wants_zeros, pidfd_getfd, tsync_esrch, hangup,
        id_valid_number, addfd, addfd_send, wait_killable_recv, fifo, last_thread_decides, set_flags,
        recv_wait_queue, pidfd_thread, release_at_exit, recv_ends_when_unused,
        uprobe_unfiltered,
    )
}  # fmt: skip


def agrees(probe: Callable[[World], None], remove: frozenset[str]) -> bool:
    """Whether a scene plays the same on the kernel and on a model without some features."""
    world = World(remove=tuple(remove))
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

    What no scene shows is missing if nothing of its release or a later one is there.

    :raises Difference: if a scene agrees neither with a feature nor without it.
    """
    lacks: set[str] = set()
    has: set[str] = set()
    for name, probe in PROBES.items():
        later = frozenset(list(FEATURES)[list(FEATURES).index(name) + 1 :])
        without = frozenset({name})
        # The scene may also meet something later, which is found out later.
        if any(agrees(probe, frozenset(lacks) | more) for more in (frozenset[str](), later)):
            has.add(name)
        elif any(agrees(probe, lacks | without | more) for more in (frozenset[str](), later)):
            lacks.add(name)
        else:
            raise Difference(
                f"{name}: the kernel neither has it nor lacks it as the model knows it"
            )
    newest = max((_age(name) for name in has), default=(0,))
    unseen = features() - has - lacks
    return tuple(sorted(lacks | {name for name in unseen if _age(name) > newest}))


def _age(name: str) -> tuple[int, ...]:
    since = FEATURES[name].since
    return tuple(map(int, since.split("."))) if since[0].isdigit() else (1000,)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", help="a release the kernel has to be like")
    options = parser.parse_args()
    lacks = missing()
    wanted = features(options.profile) if options.profile else frozenset(FEATURES)
    wrong = []
    for name in PROBES:
        print(f"{'lacks' if name in lacks else 'has':6} {name}")
        if options.profile and (name in lacks) == (name in wanted):
            wrong.append(name)
    for name in wrong:
        print(
            f"{name}: Linux {options.profile} is said to {'have' if name in lacks else 'lack'} it"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
