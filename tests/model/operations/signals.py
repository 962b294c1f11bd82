"""Signals: what is done about them, and sending them, from outside and from one to another."""

from __future__ import annotations

import struct

from proctor.kernel import abi
from proctor.model.kernel import calls, life, signals
from proctor.model.kernel.filters import is_ancestor
from proctor.model.kernel.linux import (
    NR,
    SIGCHLD,
    SIGCONT,
    SIGKILL,
    SIGQUIT,
    SIGSTOP,
    SIGSYS,
    SIGTERM,
    SIGUSR1,
    SIGUSR2,
    SIGWINCH,
)
from proctor.model.kernel.tasks import DEFAULT, IGNORE, ZOMBIE, Disposition, Frame
from tests.model.operations.choices import HANDLED, Choices, listeners, unhindered
from tests.model.twins import Twin, World, does, has_several_waiting


def op_sigaction(world: World, choices: Choices) -> bool:
    """sigaction(2): default, ignore, a handler with and without SA_RESTART."""
    idle = unhindered(world)
    if not idle:
        return False
    twin = choices.one(idle)
    number = choices.one((*HANDLED, *HANDLED, SIGTERM, SIGQUIT, SIGSYS, SIGCHLD))
    mode = choices.one(("count", "count-restart", "count", "count-restart", "ignore", "default"))
    if number == SIGCHLD:
        mode = choices.one(("ignore", "default"))
        return False if twin is world.main else _sigaction(world, twin, number, mode)
    return _sigaction(world, twin, number, mode)


def _sigaction(world: World, twin: Twin, number: int, mode: str) -> bool:
    world.note("sigaction", f"{twin.actor.slot}: sigaction {number} {mode}")
    world.real.ask(twin.actor, "sig", number, mode)
    process = twin.task.process
    does = {"ignore": IGNORE, "default": DEFAULT}.get(
        mode, Disposition("handler", mode.endswith("restart"))
    )
    life.sigaction(process, number, does)
    world.handlers(process)[number] = 0
    world.settle()
    return True


def op_sigmask(world: World, choices: Choices) -> bool:
    """rt_sigprocmask(2)."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    numbers = [n for n in (SIGUSR1, SIGUSR2, SIGTERM) if choices.chance(25)]
    mask = sum(1 << (n - 1) for n in numbers)
    at = twin.actor.region

    def perform() -> int:
        signals.set_blocked(world.kernel, twin.task, signals.bit(*numbers))
        return 0

    world.step(
        twin, "sigmask", 14, (2, at, 0, 8), pokes=[(at, struct.pack("=Q", mask))], perform=perform
    )
    return True


def op_signal(world: World, choices: Choices) -> bool:
    """A signal from outside: handled, ignored or deadly; to waiting callers more often."""
    living = [t for t in world.living() if t is not world.main or choices.chance(30)]
    waiting = [t for t in living if t.task.frame is not None]
    pool = waiting if waiting and choices.chance(75) else living
    if not pool:
        return False
    twin = choices.one(pool)
    alone = len(twin.task.process.alive()) == 1
    number = choices.one((*HANDLED * 4, SIGTERM, SIGQUIT, SIGCHLD))
    does = signals.disposition(twin.task.process, number)
    deadly = does.kind == "default" and number not in (SIGWINCH, SIGCHLD)
    if deadly and (twin.task.process is world.main.task.process or choices.chance(70)):
        return False
    if deadly and not alone and any(t.state == "T" for t in twin.task.process.tasks):
        return False  # of what do they die when continued?
    # Which of several threads takes a process's signal is the kernel's secret.
    if not alone and number == SIGCHLD:
        return False
    world.signal(twin, number, not alone or choices.chance(30), "signal")
    return True


def op_stop(world: World, choices: Choices) -> bool:
    """SIGSTOP, or SIGCONT for who is stopped."""
    main = world.main.task.process
    able = [t for t in world.living() if t.task.process is not main]
    stopped = [t for t in able if t.task.state == "T"]
    if stopped and choices.chance(60):
        world.signal(choices.one(stopped), SIGCONT, False, "continue stopped")
        return True
    able = [t for t in able if not has_several_waiting(t.task.process)]
    if not able:
        return False
    waiting = [t for t in able if t.task.frame is not None]
    twin = choices.one(waiting if waiting and choices.chance(70) else able)
    world.signal(twin, SIGSTOP, False, "stop")
    return True


def op_kill(world: World, choices: Choices) -> bool:
    """SIGKILL."""
    main = world.main.task.process
    able = [t for t in world.living() if t.task.process is not main]
    if not able:
        return False
    waiting = [t for t in able if t.task.frame is not None]
    twin = choices.one(waiting if waiting and choices.chance(60) else able)
    world.signal(twin, SIGKILL, choices.chance(20), "kill")
    return True


def op_leave(world: World, choices: Choices) -> bool:
    """A process under a filter whose listener somebody outside holds ends: HUP comes nearer."""
    under: list[Twin] = []
    for holder, fd in listeners(world):
        notif = world.listener(holder, fd)
        assert notif is not None
        users = [t for t in world.living() if is_ancestor(notif.filter, t.task.filter)]
        if users and holder not in users and world.main not in users:
            under += users
    if not under:
        return False
    twin = choices.one(under)
    if does(twin.task) == "idle" and choices.chance(50):
        world.step(twin, "leave", "exit_group", (choices.number(100),))
    else:
        world.signal(twin, SIGKILL, False, "leave")
    return True


def op_kill_call(world: World, choices: Choices) -> bool:
    """kill(2) and tgkill(2) from one actor to another, across namespaces."""
    idle = world.idle()
    if not idle:
        return False
    twin = choices.one(idle)
    namespace = twin.task.process.namespace
    main = world.main.task.process
    seen = [
        t
        for t in world.twins
        if t.task.seen_from(namespace)
        and t.task.process is not main
        and t.task.state != "X"
        and t.task.process.namespace.init is not None
    ]
    if not seen:
        return False
    other = choices.one(seen)
    number = choices.one((0, 0, SIGUSR1, SIGUSR2, SIGWINCH, 65))
    if twin.task.uid and not other.task.uid:
        return False
    does = signals.disposition(other.task.process, number)
    if number in (SIGUSR1, SIGUSR2) and does.kind == "default":
        number = 0
    if len(other.task.process.alive()) > 1 or other.task.state == ZOMBIE:
        number = 0
    model, real = other.task.seen_from(namespace), other.numbers[namespace.level]
    kernel, task = world.kernel, twin.task

    def perform() -> int:
        frame = Frame(NR["kill"], (model, number, 0, 0, 0, 0), abi.AUDIT_ARCH_X86_64, 0, None)
        return calls.perform(kernel, task, frame)

    world.step(twin, "kill call", "kill", (real, number), perform=perform)
    return True
