"""The operations that the comparison of tracers draws from, with their weights.

What nobody can foretell is kept out by name, here: which of two threads that wait gets a thing, and
a SIGCHLD that comes while the traced tracer itself is still in the call that brought it about.
"""

from __future__ import annotations

from collections.abc import Callable

from proctor.kernel import abi
from proctor.model.kernel.linux import (
    ENOENT,
    ERESTARTSYS,
    NR,
    SIGCHLD,
    SIGCONT,
    SIGKILL,
    SIGTERM,
    SIGTRAP,
    SIGUSR1,
    SIGUSR2,
    SIGWINCH,
    WNOHANG,
    WUNTRACED,
)
from proctor.model.kernel.listener import Notifications, Receive
from proctor.model.kernel.reaping import Wait4
from proctor.model.kernel.signals import bit
from proctor.model.kernel.tasks import MODE_DISABLED
from tests.model.stage import orders
from tests.model.stage.choices import INVENTED, MILD, Draw, execs
from tests.model.stage.playing import Player
from tests.model.stage.tracers import attach, change, filters, go_on, look, notified, poke


# Calls ----------------------------------------------------------------------------------------
def call(draw: Draw) -> None:
    """A harmless call, or one that filters here speak about."""
    player = draw.actor()
    if player is not None:
        nr = draw.one((NR["getpid"], NR["gettid"], NR["getppid"], *INVENTED, *INVENTED))
        args = tuple(draw.number(3) for _ in range(6))
        draw.stage.tell(player, orders.simple("call", nr, *args))


def pause(draw: Draw) -> None:
    """A call that lasts until a signal comes."""
    player = draw.actor()
    if player is not None and len([p for p in draw.stage.living() if p.idle()]) > 2:
        order = orders.sleep(draw.stage, player)
        draw.stage.tell(player, orders.simple("pause", "pause") if draw.chance(50) else order)


def signal(draw: Draw) -> None:
    """We send a signal."""
    living = draw.stage.living()
    traced = [player for player in living if player.task.tracing is not None]
    player = draw.one(traced if traced and draw.chance(70) else living)
    number = draw.one(MILD) if draw.chance(92) else draw.one((SIGKILL, SIGTERM, SIGTRAP))
    if player.task.tracing is None and number in (SIGUSR1, SIGUSR2) and draw.chance(70):
        number = SIGWINCH
    # Of two threads that are woken, either may take a signal of the process.
    thread = draw.chance(50) or len(player.task.process.tasks) > 1
    draw.stage.signal(player, number, thread)


def raised(draw: Draw) -> None:
    """A signal to itself."""
    player = draw.actor()
    if player is not None:
        draw.stage.tell(player, orders.raise_signal(draw.stage, player, draw.one(MILD)))


def action(draw: Draw) -> None:
    """A signal ignored, or its default again."""
    player = draw.actor()
    if player is not None:
        number = draw.one((SIGUSR1, SIGUSR2, SIGWINCH, SIGCHLD, SIGCONT, SIGTERM))
        draw.stage.tell(player, orders.set_action(player, number, draw.chance(60)))


def mask(draw: Draw) -> None:
    """Signals blocked, or none."""
    player = draw.actor()
    if player is not None:
        numbers = (SIGUSR1, SIGUSR2, SIGCHLD, SIGCONT, SIGWINCH)
        blocked = bit(*(number for number in numbers if draw.chance(25)))
        draw.stage.tell(player, orders.set_mask(draw.stage, player, blocked))


def drop(draw: Draw) -> None:
    """No rights any more, or memory that may be looked at again."""
    player = draw.actor()
    if player is not None and player.slot:
        order = orders.drop(player) if draw.chance(50) else orders.dumpable(player)
        draw.stage.tell(player, order)


# Processes ------------------------------------------------------------------------------------
def fork(draw: Draw) -> None:
    """A process more, or a second thread of one."""
    player = draw.actor()
    if player is None or len(draw.stage.players) > 8 or not draw.stage.free_slot():
        return
    if any(other.order is not None and other.order.newborn for other in draw.stage.players):
        return  # its slot is spoken for
    if execs(draw, player):
        return
    thread = draw.chance(30) and len(player.task.process.tasks) == 1
    draw.stage.tell(player, orders.born(draw.stage, player, thread))


def execute(draw: Draw) -> None:
    """execve(2); not of a process of which another thread is traced: that waits for the tracer."""
    player = draw.actor()
    if player is None or (len(player.task.process.tasks) > 1 and not player.idle()):
        return
    if any(p.pid == player.pid and p.order and p.order.newborn for p in draw.stage.players):
        return
    others = [task for task in player.task.process.tasks if task is not player.task]
    if not any(task.tracing is not None or task.tracees for task in others):
        draw.stage.tell(player, orders.execute(draw.stage, player))


def leave(draw: Draw) -> None:
    """exit(2), exit_group(2)."""
    player = draw.actor()
    if player is not None and len(draw.stage.living()) > 3:
        name = "exit" if draw.chance(50) else "exit_group"
        draw.stage.tell(player, orders.simple("exit", name, draw.number(100)))


def wait(draw: Draw) -> None:
    """wait4(2); one that may last only where nobody else waits for the same."""
    able = [
        player
        for player in draw.stage.living()
        if player.idle() and (player.task.process.children or player.task.tracees)
    ]
    if not able:
        return
    player = draw.one(able)
    task = player.task
    if any(isinstance(other.wait, Wait4) for other in task.process.tasks):
        return
    kin = [p for p in draw.stage.players if p.task in task.tracees]
    kin += [p for p in draw.stage.players if p.task.process in task.process.children]
    options = WNOHANG if draw.chance(85) else 0
    options |= WUNTRACED if draw.chance(20) else 0
    target = draw.one(kin) if kin and draw.chance(60) else None
    if target is None:
        options |= WNOHANG  # of two stops of one cause either may be the first
    if not options & WNOHANG and len([p for p in draw.stage.living() if p.idle()]) < 3:
        options |= WNOHANG
    draw.stage.tell(player, orders.wait(draw.stage, player, target, options))


# seccomp --------------------------------------------------------------------------------------
def _row(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
    return abi.SOCK_FILTER.pack(code, jt, jf, k & 0xFFFFFFFF)


def _program(draw: Draw, notifies: bool) -> bytes:
    """Verdicts for some numbers, TRACE more often than others; never for what an actor needs."""
    program = _row(0x20, 0)
    for nr in (*INVENTED, NR["getppid"], NR["gettid"]):
        if not draw.chance(70 if notifies else 40):
            continue
        action = abi.SECCOMP_RET_TRACE if draw.chance(55) else draw.one(tuple(abi.ACTIONS.values()))
        if action in (abi.SECCOMP_RET_KILL_PROCESS, abi.SECCOMP_RET_KILL_THREAD) and draw.chance(
            50
        ):
            action = abi.SECCOMP_RET_ERRNO
        if notifies and draw.chance(75):
            action = abi.SECCOMP_RET_USER_NOTIF
        program += _row(0x15, nr, 0, 1) + _row(0x06, action | draw.number(40))
    return program + _row(0x06, abi.SECCOMP_RET_ALLOW)


def install(draw: Draw) -> None:
    """A filter; sometimes with a listener."""
    player = draw.actor()
    if player is None or (player.task.mode == MODE_DISABLED and draw.chance(30)):
        return  # tracers had better have none
    listens = draw.chance(35)
    flags = abi.SECCOMP_FILTER_FLAG_LOG if draw.chance(50) else 0
    if listens:
        flags |= abi.SECCOMP_FILTER_FLAG_NEW_LISTENER
        flags |= abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV if draw.chance(50) else 0
    if player.task.filter_count < 4:
        program = _program(draw, listens)
        draw.stage.tell(player, orders.seccomp(draw.stage, player, program, flags))


def _listeners(draw: Draw) -> list[tuple[Player, int, Notifications]]:
    return [
        (player, fd, notif)
        for player in draw.stage.living()
        if player.idle() and player.task.tracing is None
        for fd in sorted(player.task.files.slots)
        if (notif := orders.listener_at(player, fd)) is not None
    ]


def receive(draw: Draw) -> None:
    """RECV, where there is something to receive, by one at a time.

    One that waits would race with a caller that has a signal to look at.
    """
    able = [found for found in _listeners(draw) if found[2].requests > 0]
    if not able:
        return
    player, fd, notif = draw.one(able)
    busy = (p.task.wait for p in draw.stage.living())
    if not any(isinstance(wait, Receive) and wait.notif is notif for wait in busy):
        draw.stage.tell(player, orders.receive(draw.stage, player, fd, draw.shifts))


def send(draw: Draw) -> None:
    """SEND: a value, an error, CONTINUE; of one that waits, rarely of one that does not."""
    able = [found for found in _listeners(draw) if found[2] in draw.shifts]
    if not able:
        return
    waiting = [found for found in able if found[2].notifications]
    player, fd, notif = draw.one(waiting or able)
    ids = list(notif.notifications)
    id = draw.one(ids) if ids and draw.chance(90) else 12345
    answer = draw.one(((7, 0, 0), (0, -ENOENT, 0), (0, 0, 1), (-ERESTARTSYS, 0, 0)))
    draw.stage.tell(player, orders.send(draw.stage, player, fd, id, draw.shifts[notif], answer))


OPERATIONS: tuple[tuple[Callable[[Draw], None], int], ...] = (
    (call, 22), (pause, 3), (signal, 14), (raised, 3), (action, 2), (mask, 2), (drop, 4),
    (fork, 14), (execute, 2), (leave, 2), (wait, 16), (attach, 14), (go_on, 40), (poke, 8),
    (look, 14), (change, 16), (filters, 8), (install, 7), (receive, 16), (send, 14), (notified, 3),
)  # fmt: skip
