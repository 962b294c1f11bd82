"""Signals on the way to user space: stopping, showing them to a tracer, handlers, death, restarts.

* On the way back to user space -ERESTARTSYS becomes EINTR if a handler without SA_RESTART runs;
  otherwise the call is made again, filtered again, notified again under a new id (C075-C078).
* -ERESTART_RESTARTBLOCK comes back as restart_syscall(2), which is a call of its own (C086).
* A traced thread stops with every signal but SIGKILL, and goes on with what its tracer says.

Sources: ``kernel/signal.c`` 6.12 (``get_signal``, ``do_signal_stop``, ``do_jobctl_trap``,
``ptrace_signal``), ``arch/x86/kernel/signal.c`` 6.12 (``arch_do_signal_or_restart``);
``tools/testing/selftests/seccomp/seccomp_bpf.c`` 5.0 user_notification_signal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.model.kernel import linux, signals
from proctor.model.kernel.linux import (
    EINTR,
    ERESTART_RESTARTBLOCK,
    ERESTARTNOHAND,
    ERESTARTNOINTR,
    ERESTARTSYS,
    NR,
    SIGKILL,
    SIGSYS,
    SIGTRAP,
)
from proctor.model.kernel.signals import (
    HARMLESS,
    STOPS,
    UNCATCHABLE,
    bit,
    disposition,
    recalculate,
    trap_notify,
    wake_up,
)
from proctor.model.kernel.tasks import STOPPED, Disposition, Task
from proctor.model.ptrace import tracing
from proctor.model.ptrace.numbers import PTRACE_EVENT_STOP

if TYPE_CHECKING:
    from proctor.model.kernel.machine import Kernel


def _dequeue(task: Task) -> tuple[int, bool]:
    """``dequeue_signal``: the thread's own first, synchronous ones before others, lowest first.

    :returns: the signal, 0 for none, and whether it was sent to the process.

    Source: ``kernel/signal.c`` 6.12 ``dequeue_signal``, ``next_signal``.
    """
    synchronous = bit(
        linux.SIGSEGV, linux.SIGBUS, linux.SIGILL, linux.SIGTRAP, linux.SIGFPE, SIGSYS
    )
    for holder in (task, task.process):
        ready = holder.pending & ~task.blocked
        if ready:
            ready = ready & synchronous or ready
            number = (ready & -ready).bit_length() - 1
            holder.pending &= ~bit(number)
            if bit(number) & STOPS:
                task.stop_dequeued = True
            return number, holder is task.process
    return 0, False


class Delivery:
    """How far the way to user space is gone, when a stop interrupts it."""

    __slots__ = ("chosen", "frames", "how", "shared", "showed", "signal", "value")

    def __init__(self, value: int) -> None:
        #: What the program is to see; its tracer may change it in a stop on the way.
        self.value = value
        #: What it dies of.
        self.signal = 0
        #: What the tracer said of the signal it was shown; 0 for none.
        self.chosen = 0
        #: The signal it was shown was sent to the process.
        self.shared = False
        #: It comes from that stop, inside of ``get_signal``.
        self.showed = False
        #: "" until a handler decided; then "done" or "again".
        self.how = ""
        #: Handlers set up and not yet run, with the mask to go back to.
        self.frames: list[tuple[int, int]] = []


def deliver(kernel: Kernel, task: Task, way: Delivery) -> str:
    """On the way to user space: run handlers, stop, die, or make the call again.

    :returns: "done" (the program sees ``way.value``), "again", "restart" (restart_syscall),
        "stopped" (``way`` is to be gone on with), "traced" (the stop goes on with it) or "dead"
        (``way.signal`` is of what).

    Source: ``kernel/signal.c`` 6.12 ``get_signal``; ``arch/x86/kernel/signal.c`` 6.12.
    """
    process = task.process
    showed, way.showed = way.showed, False
    if process.stop_news and not showed:
        process.stop_news = False
        tracing.tell_parent_of_stop(kernel, process)
        tracing.tell_tracer(kernel, process.leader)
    while True:
        number, way.chosen = way.chosen, 0
        if not number:
            if task.killed or process.exiting_code is not None:
                task.pending &= ~bit(SIGKILL)
                way.signal = SIGKILL
                return "dead"
            if task.stop_pending and _stop(kernel, task, 0):
                return "stopped"
            if task.trap_stop or task.trap_notify:
                if _trap(kernel, task, way):
                    return "traced"
                continue
            number, way.shared = _dequeue(task)
            if number and _shown(task, number):
                task.stop_dequeued = True
                if _show(kernel, task, way, number):
                    return "traced"
                continue
        if not number:
            if not way.frames:
                break
            number, task.blocked = way.frames.pop()
            task.handled.append(number)
            task.restart = None  # rt_sigreturn(2)
            continue
        does = disposition(process, number)
        if does.kind == "handler":
            if not way.how:
                way.how, way.value = _with_handler(kernel, task, does, way.value)
            way.frames.append((number, task.blocked))
            task.blocked |= (does.mask | bit(number)) & ~UNCATCHABLE
        elif does.kind == "ignore" or bit(number) & HARMLESS:
            continue
        elif process.unkillable and not bit(number) & UNCATCHABLE:
            continue  # the init of a namespace: only its ancestors' SIGKILL and SIGSTOP count
        elif bit(number) & STOPS:
            if _stop(kernel, task, number):
                return "stopped"
        else:
            way.signal = number
            return "dead"
    recalculate(task)
    if not way.how:
        way.how, way.value = _without_handler(kernel, task, way.value)
    return way.how


def _stop(kernel: Kernel, task: Task, number: int) -> bool:
    """``do_signal_stop``: begin a stop of the whole process, or take part in one.

    :param number: the signal that begins it; 0 for one that was begun by another thread.
    :returns: whether the thread stops now; a traced one stops for its tracer instead, and one whose
        stop signal was overtaken by a SIGCONT not at all.

    Source: ``kernel/signal.c`` 6.12 ``do_signal_stop``.
    """
    process = task.process
    if not task.stop_pending:
        if not task.stop_dequeued:
            return False
        if not process.stopped:
            process.stop_code = number
        process.stop_count = 0
        for thread in [task, *(other for other in process.tasks if other is not task)]:
            if thread.state == STOPPED or thread.exiting or thread.killed:
                continue
            thread.stop_pending = thread.stop_consume = True
            thread.stop_signal = number
            process.stop_count += 1
            if thread is not task:
                if thread.tracing is not None and thread.tracing.seized:
                    trap_notify(kernel, thread)
                else:
                    wake_up(kernel, thread, False)
    if task.tracing is not None:
        task.trap_stop = True
        return False
    if tracing.take_part(task):
        tracing.tell_parent_of_stop(kernel, process)
    return True


def _trap(kernel: Kernel, task: Task, way: Delivery) -> bool:
    """``do_jobctl_trap``: stop for the tracer because the process stops, or because it asked.

    A seized thread shows PTRACE_EVENT_STOP, with SIGTRAP unless its process is stopped; another
    one shows the signal that stopped its process, and has no siginfo.

    Source: ``kernel/signal.c`` 6.12 ``do_jobctl_trap``.
    """
    process, relation = task.process, task.tracing
    number = task.stop_signal
    seized = relation is not None and relation.seized
    if seized:
        if not process.stop_count and not process.stopped:
            number = SIGTRAP
        number |= PTRACE_EVENT_STOP << 8

    def then(_: int) -> None:
        kernel.signalled(task, way)

    if tracing.stop(kernel, task, number, then, info=number if seized else None, way=way):
        return True
    task.trap_stop = task.trap_notify = False  # the tracer went meanwhile
    return False


def _shown(task: Task, number: int) -> bool:
    """Whether a signal is shown to a tracer before anything is done with it.

    Source: ``kernel/signal.c`` 6.12 ``get_signal``.
    """
    return (
        task.tracing is not None and number != SIGKILL and not task.process.immutable & bit(number)
    )


def _show(kernel: Kernel, task: Task, way: Delivery, number: int) -> bool:
    """``ptrace_signal``: a signal-delivery-stop; the tracer may take the signal away or change it.

    Source: ``kernel/signal.c`` 6.12 ``ptrace_signal``.
    """

    def then(data: int) -> None:
        if data and (task.blocked & bit(data) or task.killed):
            signals.send(kernel, data, task, way.shared)
            data = 0
        way.chosen = data
        way.showed = True
        kernel.signalled(task, way)

    return tracing.stop(kernel, task, number, then, info=0, way=way)


def _with_handler(kernel: Kernel, task: Task, does: Disposition, value: int) -> tuple[str, int]:
    """The first handler decides how an interrupted call goes on (``handle_signal``).

    Source: ``arch/x86/kernel/signal.c`` 6.12 ``handle_signal``.
    """
    if task.frame is None or kernel.is_no_call(task.frame.nr):
        return "done", value
    if value in (-ERESTART_RESTARTBLOCK, -ERESTARTNOHAND):
        return "done", -EINTR
    if value == -ERESTARTSYS and not does.restart:
        return "done", -EINTR
    if value in (-ERESTARTSYS, -ERESTARTNOINTR):
        return "again", 0
    return "done", value


def _without_handler(kernel: Kernel, task: Task, value: int) -> tuple[str, int]:
    """No handler ran: the call is simply made again (``arch_do_signal_or_restart``).

    Source: ``arch/x86/kernel/signal.c`` 6.12 ``arch_do_signal_or_restart``.
    """
    if task.frame is None or kernel.is_no_call(task.frame.nr):
        return "done", value
    if value in (-ERESTARTSYS, -ERESTARTNOINTR, -ERESTARTNOHAND):
        return "again", 0
    if value == -ERESTART_RESTARTBLOCK:
        task.frame.nr = NR["restart_syscall"]
        return "restart", 0
    return "done", value
