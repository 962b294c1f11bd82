"""Operations of tracers: ptrace(2), and wait4(2) that sees what it does."""

from __future__ import annotations

from proctor.model.kernel.linux import ERESTARTSYS, ESRCH, NR
from proctor.model.kernel.notify import Knotif
from proctor.model.ptrace import numbers as pt
from proctor.model.ptrace import registers
from proctor.model.ptrace.tracing import real_parent
from tests.model.stage import orders
from tests.model.stage.choices import INVENTED, Draw, execs, is_traced, traces
from tests.model.stage.playing import Player

#: Calls that orders make and that tracers turn others into.
TURNS = (-1, -1, -101, -5, NR["getpid"], NR["gettid"], NR["getppid"], *INVENTED)
RESULTS = (45000, -ESRCH, 0, 7, -ERESTARTSYS, -513, -514, -516, -4095, -4096, 1 << 40)
OPTIONS = (
    pt.PTRACE_O_TRACESYSGOOD, pt.PTRACE_O_TRACEFORK, pt.PTRACE_O_TRACECLONE,
    pt.PTRACE_O_TRACEEXEC, pt.PTRACE_O_TRACEEXIT, pt.PTRACE_O_TRACESECCOMP,
    pt.PTRACE_O_TRACESECCOMP, pt.PTRACE_O_EXITKILL,
)  # fmt: skip


# ptrace(2) ------------------------------------------------------------------------------------
def attach(draw: Draw) -> None:
    """PTRACE_ATTACH, PTRACE_SEIZE with options, PTRACE_TRACEME.

    Nobody traces a tracer: two threads that stop at once send it two SIGCHLD, and whether the second
    comes before it was shown the first is open.
    """
    player = draw.actor()
    if player is None or not player.idle() or is_traced(player):
        return
    task = real_parent(player.task.process)
    mother = None if task is None else draw.stage.player_of(task)
    if draw.chance(12) and mother is not None and not is_traced(mother) and not traces(player):
        order = orders.trace(draw.stage, player, "traceme", pt.PTRACE_TRACEME, None)
        draw.stage.tell(player, order)
        return
    target: Player | None = draw.one(draw.stage.living())
    if target is not None and (execs(draw, target) or traces(target)):
        return
    if draw.chance(2):
        target = None
    if draw.chance(50):
        order = orders.trace(draw.stage, player, "attach", pt.PTRACE_ATTACH, target)
    else:
        addr = 1 if draw.chance(4) else 0
        options = _options(draw)
        order = orders.trace(draw.stage, player, "seize", pt.PTRACE_SEIZE, target, addr, options)
    draw.stage.tell(player, order)


def _options(draw: Draw) -> int:
    options = sum({option for option in OPTIONS if draw.chance(50)})
    if draw.chance(20):
        options |= pt.PTRACE_O_SUSPEND_SECCOMP
    return options | 1 << 30 if draw.chance(3) else options


def go_on(draw: Draw) -> None:
    """PTRACE_CONT, PTRACE_SYSCALL, PTRACE_DETACH, PTRACE_LISTEN."""
    pair = draw.tracer()
    if pair is None:
        return
    player, target = pair
    what, request = draw.one(
        (("cont", pt.PTRACE_CONT), ("cont", pt.PTRACE_CONT), ("syscall", pt.PTRACE_SYSCALL),
         ("syscall", pt.PTRACE_SYSCALL), ("syscall", pt.PTRACE_SYSCALL),
         ("detach", pt.PTRACE_DETACH))
    )  # fmt: skip
    if draw.chance(8):
        what, request = "listen for news", pt.PTRACE_LISTEN
    number = 0 if request == pt.PTRACE_LISTEN else draw.signal() & (1 << 64) - 1
    draw.stage.tell(player, orders.trace(draw.stage, player, what, request, target, 0, number))


def poke(draw: Draw) -> None:
    """PTRACE_INTERRUPT, PTRACE_SETOPTIONS, rarely PTRACE_KILL; also of whom one does not trace."""
    pair = draw.tracer()
    if pair is None:
        return
    player, target = pair
    if draw.chance(5):
        target = draw.one(draw.stage.living())
    what, request = draw.one(
        (("interrupt", pt.PTRACE_INTERRUPT), ("options", pt.PTRACE_SETOPTIONS),
         ("options", pt.PTRACE_SETOPTIONS))
    )  # fmt: skip
    if draw.chance(12):
        what, request = "ptrace kill", pt.PTRACE_KILL
    number = _options(draw) if request == pt.PTRACE_SETOPTIONS else 0
    draw.stage.tell(player, orders.trace(draw.stage, player, what, request, target, 0, number))


def look(draw: Draw) -> None:
    """Registers, messages, signals, memory, and what kind of stop it is."""
    pair = draw.tracer()
    if pair is None:
        return
    stage, (player, target) = draw.stage, pair
    page = stage.page + draw.number(500) * 8 if draw.chance(92) else 16
    value = draw.number(1 << 32)
    order = draw.one((
        lambda: orders.get_registers(stage, player, target),
        lambda: orders.get_info(stage, player, target, draw.one((0, 24, 40, 88, 96))),
        lambda: orders.signal_info(stage, player, target),
        lambda: orders.trace(
            stage, player, "geteventmsg", pt.PTRACE_GETEVENTMSG, target, 0, bytes(8),
            lambda raw: orders.number_as_model(stage, raw)),
        lambda: orders.trace(stage, player, "peekdata", pt.PTRACE_PEEKDATA, target, page, bytes(8)),
        lambda: orders.trace(stage, player, "pokedata", pt.PTRACE_POKEDATA, target, page, value),
        lambda: orders.trace(
            stage, player, "peekuser", pt.PTRACE_PEEKUSER, target,
            draw.one((registers.ORIG_RAX * 8, 928, 3)), bytes(8)),
    ))()  # fmt: skip
    stage.tell(player, order)


def change(draw: Draw) -> None:
    """The call becomes another one, or its result does; not where the program begins."""
    pair = draw.stopped()
    if pair is None or pair[1].doing in ("mmap", "exec", "being born"):
        return
    if pair[1].order is not None and pair[1].order.newborn:
        return  # another result might make it again, with a child in the same slot
    stage, (player, target) = draw.stage, pair
    nr, value, argument = draw.one(TURNS), draw.one(RESULTS), draw.number(4)
    way = draw.number(4)
    if target.doing == "order" and target.order is not None and target.order.perform is not None:
        way = 2  # the model does not look at the arguments of such a call
    elif target.doing == "order" and draw.chance(40):
        way = 0
    if way == 0:
        words = draw.one(
            (
                {registers.RAX: value},
                {registers.ORIG_RAX: -1, registers.RAX: value},  # skipped, with a result
                {registers.ORIG_RAX: nr, 14: argument},
            )
        )
        orders.set_registers(stage, player, target, words)
    elif way == 1:
        at, word = draw.one(((registers.ORIG_RAX, nr), (registers.RAX, value), (12, argument)))
        word &= (1 << 64) - 1
        what, request = "pokeuser", pt.PTRACE_POKEUSER
        stage.tell(player, orders.trace(stage, player, what, request, target, at * 8, word))
    else:

        def write(raw: bytearray) -> None:
            new = nr if raw[0] in (1, 3) else value
            raw[24:32] = (new & (1 << 64) - 1).to_bytes(8, "little")
            if draw.chance(5):
                raw[draw.one((0, 1, 2, 28))] ^= 1

        orders.set_info(stage, player, target, write)


def filters(draw: Draw) -> None:
    """A tracee's filters are read back."""
    pair = draw.tracer()
    if pair is None:
        return
    stage, (player, target) = draw.stage, pair
    offset = draw.number(4)
    if draw.chance(50):
        order = orders.get_filter(stage, player, target, offset, draw.chance(40))
    else:
        order = orders.get_metadata(stage, player, target, offset, draw.one((16, 16, 24, 8, 12, 7)))
    stage.tell(player, order)


def notified(draw: Draw) -> None:
    """A tracer comes to somebody who waits for an answer, received or not."""
    waiting = [
        p
        for p in draw.stage.living()
        if isinstance(p.task.wait, Knotif) and not execs(draw, p) and not traces(p)
    ]
    able = [p for p in draw.stage.living() if p.idle() and not is_traced(p)]
    if waiting and able:
        request, what = draw.one(((pt.PTRACE_ATTACH, "attach"), (pt.PTRACE_SEIZE, "seize")))
        player = draw.one(able)
        draw.stage.tell(player, orders.trace(draw.stage, player, what, request, draw.one(waiting)))
