"""Which features about tracers the running kernel lacks, found out by trying each.

As in :mod:`tests.model.probed`: a short scene that differs with the feature and agrees without it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from proctor.kernel import abi
from proctor.model.kernel.linux import WNOHANG
from proctor.model.ptrace import numbers as pt
from proctor.model.ptrace import registers
from tests.model import probed
from tests.model.stage import orders
from tests.model.stage.playing import Difference, LeftOpen, Player, Stage


def _child(stage: Stage, thread: bool = False) -> Player:
    stage.tell(stage.players[0], orders.born(stage, stage.players[0], thread))
    return stage.players[-1]


def _seize(stage: Stage, options: int) -> tuple[Player, Player]:
    tracer = stage.players[0]
    child = _child(stage)
    stage.tell(tracer, orders.trace(stage, tracer, "probe", pt.PTRACE_SEIZE, child, 0, options))
    return tracer, child


def syscall_info(stage: Stage) -> None:
    """A stop is asked what kind it is."""
    tracer, child = _seize(stage, 0)
    stage.tell(tracer, orders.trace(stage, tracer, "probe", pt.PTRACE_INTERRUPT, child))
    stage.tell(tracer, orders.get_info(stage, tracer, child, 88))


def set_syscall_info(stage: Stage) -> None:
    """A stop is told another kind than it has."""
    tracer, child = _seize(stage, 0)
    stage.tell(tracer, orders.trace(stage, tracer, "probe", pt.PTRACE_INTERRUPT, child))
    request = pt.PTRACE_SET_SYSCALL_INFO
    stage.tell(tracer, orders.trace(stage, tracer, "probe", request, child, 88, bytes([9] * 88)))


def only_minus_one_skips(stage: Stage) -> None:
    """An interrupted call is given a negative number."""
    tracer, child = _seize(stage, 0)
    stage.tell(tracer, orders.trace(stage, tracer, "probe", pt.PTRACE_INTERRUPT, child))
    at, number = registers.ORIG_RAX * 8, (1 << 64) - 5
    for request, addr, data in ((pt.PTRACE_POKEUSER, at, number), (pt.PTRACE_SYSCALL, 0, 0)):
        stage.tell(tracer, orders.trace(stage, tracer, "probe", request, child, addr, data))


def _killed(stage: Stage, options: int) -> None:
    _, child = _seize(stage, options)
    program = abi.SOCK_FILTER.pack(0x20, 0, 0, 0) + abi.SOCK_FILTER.pack(0x15, 0, 1, 5000)
    program += abi.SOCK_FILTER.pack(6, 0, 0, abi.SECCOMP_RET_KILL_PROCESS)
    program += abi.SOCK_FILTER.pack(6, 0, 0, abi.SECCOMP_RET_ALLOW)
    stage.tell(child, orders.seccomp(stage, child, program, 0))
    stage.tell(child, orders.simple("probe", 5000))


def forced_death_is_final(stage: Stage) -> None:
    """A traced thread is killed by a verdict."""
    _killed(stage, 0)


def mode_dead(stage: Stage) -> None:
    """It stops at its end."""
    _killed(stage, pt.PTRACE_O_TRACEEXIT)


def changed_number_is_told(stage: Stage) -> None:
    """A thread takes its leader's number over."""
    tracer = stage.players[0]
    child = _child(stage)
    stage.tell(child, orders.born(stage, child, True))
    thread = stage.players[-1]
    options = pt.PTRACE_O_TRACEEXEC
    stage.tell(tracer, orders.trace(stage, tracer, "probe", pt.PTRACE_SEIZE, thread, 0, options))
    stage.tell(thread, orders.execute(stage, thread))
    stage.tell(tracer, orders.trace(stage, tracer, "probe", pt.PTRACE_CONT, thread))
    stage.tell(tracer, orders.wait(stage, tracer, thread, WNOHANG))


SCENES: dict[str, Callable[[Stage], None]] = {
    "syscall_info": syscall_info,
    "only_minus_one_skips": only_minus_one_skips,
    "changed_number_is_told": changed_number_is_told,
    "forced_death_is_final": forced_death_is_final,
    "mode_dead": mode_dead,
    "set_syscall_info": set_syscall_info,
}


def _agrees(scene: Callable[[Stage], None], remove: tuple[str, ...]) -> bool:
    stage = Stage(remove=remove)
    try:
        scene(stage)
    except (Difference, LeftOpen):
        return False
    finally:
        stage.close()
    return True


@cache
def missing() -> tuple[str, ...]:
    """The features it lacks, those about anything else (:func:`model.probed.missing`) included.

    :raises AssertionError: if it neither has nor lacks one in the way the model knows.
    """
    lacks = tuple(name for name in probed.missing() if name not in SCENES)
    for name, scene in SCENES.items():
        if not _agrees(scene, lacks):
            lacks = (*lacks, name)
            assert _agrees(scene, lacks), f"the kernel neither has nor lacks {name!r}"
    return lacks
