"""Which features the running kernel lacks, found out by trying each, never by its version.

Kernels differ in named features (:mod:`proctor.model.kernel.features`).  For each that a step can meet, a
short scene is played on both worlds; if they disagree, and agree once the model is without the
feature, the kernel lacks it.  ``python -m tests.model.probed`` lists them; with ``--profile`` it
fails if the kernel is not as the model says of that release.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Callable
from functools import cache

from proctor.kernel import abi
from proctor.model.kernel import install, pidfds
from proctor.model.kernel.features import FEATURES, features, of_release
from proctor.model.kernel.linux import NR
from tests.model.operations.listeners import compare_notification, listener_ioctl
from tests.model.operations.programs import ret, row
from tests.model.operations.tasks import born, wait_for
from tests.model.operations.waiting import poll_once
from tests.model.real import NeverQuiet
from tests.model.support import release
from tests.model.twins import Difference, Twin, World
from tests.support.processes import libc_syscall

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
        perform=lambda: pidfds.open_pidfd(world.kernel, main.task, main.task.tid, 0),
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
        perform=lambda: pidfds.getfd(world.kernel, main.task, 77, 0),
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


def _of_a_thread(world: World, flags: int) -> None:
    """pidfd_open of a thread that leads no process."""
    thread = born(world, world.main, "thread", False)
    main = world.main
    world.step(
        main, "probe", "pidfd_open", (thread.actor.gtid, flags),
        perform=lambda: pidfds.open_pidfd(world.kernel, main.task, thread.task.tid, flags),
    )  # fmt: skip


def pidfd_thread(world: World) -> None:
    """It works with PIDFD_THREAD."""
    _of_a_thread(world, pidfds.PIDFD_THREAD)


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


def pidfd_open_enoent(world: World) -> None:
    """Without PIDFD_THREAD: which errno?"""
    _of_a_thread(world, 0)


def uprobe_unfiltered(world: World) -> None:
    """A filter refuses uprobe(2): is it asked?"""
    program = (
        row(0x20, 0)
        + row(0x15, NR["uprobe"], 0, 1)
        + ret(abi.SECCOMP_RET_ERRNO | 7)
        + ret(abi.SECCOMP_RET_ALLOW)
    )
    _install(world, world.main, program, 0)
    try:
        libc_syscall(NR["uprobe"])
    except OSError as problem:  # ENXIO on 6.18, EPROTO later: nobody called us from a trampoline
        refused = -(problem.errno or 0)
    world.step(world.main, "probe", NR["uprobe"], (), perform=lambda: refused)


#: By feature, oldest first: later scenes are played without what is known to be missing.
PROBES: dict[str, Callable[[World], None]] = {
    scene.__name__: scene
    for scene in (
        pidfd_open, continue_flag, recv_wants_zeros, pidfd_getfd, tsync_esrch, hangup,
        id_valid_number, addfd, addfd_send, wait_killable_recv, fifo, last_thread_decides, set_flags,
        recv_wait_queue, pidfd_thread, release_at_exit, recv_ends_when_unused,
        pidfd_open_enoent,
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
def found() -> tuple[frozenset[str], frozenset[str]]:
    """The features that scenes show to be there, and those they show to be missing.

    In neither is what they cannot tell: SEND of ADDFD, say, where there is no ADDFD.

    :raises Difference: if a scene agrees neither with a feature nor without it.
    """
    has: set[str] = set()
    lacks: set[str] = set()
    for name, probe in PROBES.items():
        there = _is_there(name, probe, frozenset(lacks))
        if there is not None:
            (has if there else lacks).add(name)
    return frozenset(has), frozenset(lacks)


def _is_there(name: str, probe: Callable[[World], None], lacks: frozenset[str]) -> bool | None:
    names = list(FEATURES)
    either = False
    # The scene may also meet something later, which is found out later.
    for later in (frozenset[str](), frozenset(names[names.index(name) + 1 :])):
        removed = lacks | later
        answers = agrees(probe, removed), agrees(probe, removed | {name})
        if answers[0] != answers[1]:
            return answers[0]
        either = either or answers[0]
    if not either:
        raise Difference(f"{name}: the kernel neither has it nor lacks it as the model knows it")
    return None


@cache
def missing() -> tuple[str, ...]:
    """The features of the newest profile that the running kernel lacks.

    What no scene shows is missing if it is younger than all that is there without a gap.
    """
    has, lacks = found()
    gap = min((_age(name) for name in lacks), default=_YOUNG)
    newest = max((_age(name) for name in has if _age(name) < gap), default=(0,))
    unseen = {name for name in features() - has - lacks if newest < _age(name) and lacks}
    return tuple(sorted(lacks | unseen))


@cache
def unlike(release: str) -> tuple[str, ...]:
    """The features of the newest profile that are not those of ``release``, nor were found here.

    Distributors port features back; what came with one of them in one commit comes along.
    """
    added = found()[0] - of_release(release)
    commits = {commit for name in added for commit in _commits(name)}
    along = {name for name in FEATURES if commits & _commits(name)}
    return tuple(sorted(features() - of_release(release) - added - along))


def _commits(name: str) -> set[str]:
    return set(re.findall(r"\b[0-9a-f]{12}\b", FEATURES[name].source))


_YOUNG = (1000,)


def _age(name: str) -> tuple[int, ...]:
    since = FEATURES[name].since
    return tuple(map(int, since.split("."))) if since[0].isdigit() else _YOUNG


def main() -> int:
    """The command: 1 if the kernel lacks what its release has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--profile", type=release, help="the release it is; features ported back are no fault"
    )
    options = parser.parse_args()
    has, lacks = found()
    wanted = of_release(options.profile) if options.profile else has
    for name in PROBES:
        word = "has" if name in has else "lacks" if name in lacks else "unseen"
        print(f"{word:6} {name}{' (ported back)' if word == 'has' and name not in wanted else ''}")
    wrong = wanted & lacks
    for name in sorted(wrong):
        print(f"Linux {options.profile} is said to have {name}: {FEATURES[name].meaning}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
