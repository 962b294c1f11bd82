"""Signals: sending, choosing a thread, waking, delivering, and how interrupted calls go on.

What matters for notifications:

* A signal that is ignored, or whose default is to be ignored, never wakes anybody (C079).
* A signal whose default is death, without a core, becomes SIGKILL for all threads at once, so that
  it ends even a killable sleep (C083); one that dumps core does not, and waits for the answer.
* On the way back to user space -ERESTARTSYS becomes EINTR if a handler without SA_RESTART runs;
  otherwise the call is made again, filtered again, notified again under a new id (C075-C078).
* -ERESTART_RESTARTBLOCK comes back as restart_syscall(2), which is a call of its own (C086).

Sources: ``kernel/signal.c`` 6.12 (``prepare_signal``, ``complete_signal``, ``signal_wake_up``,
``get_signal``, ``do_signal_stop``), ``arch/x86/kernel/signal.c`` 6.12
(``arch_do_signal_or_restart``); 000_d2dd6a52a6bc77ef.txt selftest user_notification_signal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proctor.model import linux
from proctor.model.linux import (
    EINTR,
    ERESTART_RESTARTBLOCK,
    ERESTARTNOHAND,
    ERESTARTNOINTR,
    ERESTARTSYS,
    NR,
    SIGCONT,
    SIGKILL,
    SIGSTOP,
    SIGSYS,
)
from proctor.model.tasks import DEFAULT, STOPPED, Disposition, Process, Task

if TYPE_CHECKING:
    from proctor.model.kernel import Kernel


def bit(*numbers: int) -> int:
    """The mask with these signals in it."""
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask


STOPS: Final = bit(SIGSTOP, linux.SIGTSTP, linux.SIGTTIN, linux.SIGTTOU)
#: Default: nothing.
HARMLESS: Final = bit(SIGCONT, linux.SIGCHLD, linux.SIGURG, linux.SIGWINCH)
#: Default: death with a core.
CORES: Final = bit(
    linux.SIGQUIT, linux.SIGILL, linux.SIGTRAP, linux.SIGABRT, linux.SIGFPE, linux.SIGSEGV,
    linux.SIGBUS, SIGSYS, linux.SIGXCPU, linux.SIGXFSZ,
)  # fmt: skip
_UNCATCHABLE: Final = bit(SIGKILL, SIGSTOP)


def disposition(process: Process, number: int) -> Disposition:
    """What ``process`` does with signal ``number``."""
    return process.dispositions.get(number, DEFAULT)


def ignored(task: Task, number: int, from_above: bool) -> bool:
    """Whether the signal is dropped at once (``sig_ignored``).

    A blocked signal never is, since what is done with it may change first.  The init of a pid
    namespace has no default death but by an ancestor's SIGKILL (``sig_task_ignored``).
    """
    if task.blocked & bit(number):
        return False
    does = disposition(task.process, number)
    if does.kind == "ignore":
        return True
    if does.kind != "default":
        return False
    if task.process.unkillable and not (from_above and bit(number) & _UNCATCHABLE):
        return True
    return bool(bit(number) & HARMLESS)


def fatal(process: Process, number: int) -> bool:
    """Whether the default of it is death (``sig_fatal``)."""
    return disposition(process, number).kind == "default" and not bit(number) & (HARMLESS | STOPS)


def send(kernel: Kernel, number: int, target: Task, shared: bool, from_above: bool = False) -> None:
    """Send a signal to a thread, or with ``shared`` to its process.

    :param from_above: the sender lives in an ancestor of the target's pid namespace.

    Source: ``kernel/signal.c`` 6.12 ``prepare_signal``, ``__send_signal_locked``.
    """
    process = target.process
    if process.exiting_code is not None or (target.exiting and not shared):
        return
    mask = bit(number)
    if mask & STOPS:
        _forget(process, bit(SIGCONT))
    elif number == SIGCONT:
        _forget(process, STOPS)
        for thread in process.tasks:
            thread.stop_pending = False
            if thread.state == STOPPED:
                kernel.wake(thread)
    if ignored(target, number, from_above):
        return
    if shared:
        if process.pending & mask:
            return
        process.pending |= mask
    else:
        if target.pending & mask:
            return
        target.pending |= mask
    _complete(kernel, number, target, shared)


def _forget(process: Process, mask: int) -> None:
    process.pending &= ~mask
    for thread in process.tasks:
        thread.pending &= ~mask


def _wants(task: Task, number: int) -> bool:
    """``wants_signal``: this thread could take it now."""
    if task.blocked & bit(number) or task.exiting:
        return False
    if number == SIGKILL:
        return True
    return task.state != STOPPED and (task.frame is None or not task.sigpending)


def _complete(kernel: Kernel, number: int, target: Task, shared: bool) -> None:
    """``complete_signal``: choose a thread and wake it; a plain death starts at once."""
    process = target.process
    chosen = target if _wants(target, number) else None
    if chosen is None and shared:
        chosen = next((task for task in process.tasks if _wants(task, number)), None)
    if chosen is None:
        return
    if (
        fatal(process, number)
        and not bit(number) & CORES
        and (number == SIGKILL or not process.unkillable)
    ):
        process.exiting_code = number
        for thread in process.tasks:
            thread.stop_pending = False
            kill_thread(kernel, thread)
        return
    wake_up(kernel, chosen, number == SIGKILL)


def kill_thread(kernel: Kernel, task: Task) -> None:
    """SIGKILL for one thread of a process that is ending (``zap_other_threads``)."""
    if not task.exiting:
        task.killed = True
        wake_up(kernel, task, True)


def wake_up(kernel: Kernel, task: Task, fatally: bool) -> None:
    """``signal_wake_up``: set the flag, and wake it if its sleep minds.

    A killable sleep minds death only; a stopped task minds death only.
    """
    task.sigpending = True
    if task.state == STOPPED:
        if fatally:
            kernel.wake(task)
    elif task.wait is None or fatally or not task.wait.killable:
        kernel.wake(task)


def force(kernel: Kernel, task: Task, number: int, core: bool) -> None:
    """``force_sig_seccomp``: blocked, ignored or ``core``: the default, which is death.

    Source: ``kernel/signal.c`` 6.12 ``force_sig_info_to_task``; C031.
    """
    process = task.process
    does = disposition(process, number)
    if core or task.blocked & bit(number) or does.kind == "ignore":
        process.dispositions[number] = DEFAULT
        task.blocked &= ~bit(number)
        process.unkillable = False
    if disposition(process, number).kind == "default":
        process.unkillable = False
    task.pending |= bit(number)
    task.sigpending = True


def recalculate(task: Task) -> None:
    """``recalc_sigpending``: look again whether something is pending that was sent to the process.

    A process's signal wakes one thread only; others notice it when they come by here.
    """
    wanted = (task.pending | task.process.pending) & ~task.blocked
    task.sigpending = bool(wanted) or task.stop_pending or task.killed


def set_blocked(kernel: Kernel, task: Task, mask: int) -> None:
    """sigprocmask(SIG_SETMASK): SIGKILL and SIGSTOP cannot be blocked."""
    task.blocked = mask & ~_UNCATCHABLE
    recalculate(task)
    if task.sigpending and task.frame is None:
        kernel.wake(task)


def _dequeue(task: Task) -> int:
    """``dequeue_signal``: the thread's own first, synchronous ones before others, lowest first."""
    synchronous = bit(
        linux.SIGSEGV, linux.SIGBUS, linux.SIGILL, linux.SIGTRAP, linux.SIGFPE, SIGSYS
    )
    for holder in (task, task.process):
        ready = holder.pending & ~task.blocked
        if ready:
            ready = ready & synchronous or ready
            number = (ready & -ready).bit_length() - 1
            holder.pending &= ~bit(number)
            return number
    return 0


class Delivery:
    """How far the way to user space is gone, when a stop interrupts it."""

    __slots__ = ("frames", "how", "value")

    def __init__(self, value: int) -> None:
        self.value = value
        #: "" until a handler decided; then "done" or "again".
        self.how = ""
        #: Handlers set up and not yet run, with the mask to go back to.
        self.frames: list[tuple[int, int]] = []


def deliver(kernel: Kernel, task: Task, way: Delivery) -> str:
    """On the way to user space: run handlers, stop, die, or make the call again.

    :returns: "done" (the program sees ``way.value``), "again", "restart" (restart_syscall),
        "stopped" (``way`` is to be gone on with) or "dead" (``way.value`` is the signal).

    Source: ``kernel/signal.c`` 6.12 ``get_signal``; ``arch/x86/kernel/signal.c`` 6.12.
    """
    process = task.process
    while True:
        if task.killed or process.exiting_code is not None:
            way.value = SIGKILL
            return "dead"
        if task.stop_pending:
            task.stop_pending = False
            return "stopped"
        number = _dequeue(task)
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
                way.how, way.value = _with_handler(task, does, way.value)
            way.frames.append((number, task.blocked))
            task.blocked |= (does.mask | bit(number)) & ~_UNCATCHABLE
        elif does.kind == "ignore" or bit(number) & HARMLESS:
            continue
        elif process.unkillable and not bit(number) & _UNCATCHABLE:
            continue  # the init of a namespace: only its ancestors' SIGKILL and SIGSTOP count
        elif bit(number) & STOPS:
            for thread in process.tasks:
                if thread is not task and not thread.exiting and thread.state != STOPPED:
                    thread.stop_pending = True
                    wake_up(kernel, thread, False)
            return "stopped"
        else:
            way.value = number
            return "dead"
    recalculate(task)
    if not way.how:
        way.how, way.value = _without_handler(task, way.value)
    return way.how


def _with_handler(task: Task, does: Disposition, value: int) -> tuple[str, int]:
    """The first handler decides how an interrupted call goes on (``handle_signal``)."""
    if task.frame is None or task.frame.nr == -1:
        return "done", value
    if value in (-ERESTART_RESTARTBLOCK, -ERESTARTNOHAND):
        return "done", -EINTR
    if value == -ERESTARTSYS and not does.restart:
        return "done", -EINTR
    if value in (-ERESTARTSYS, -ERESTARTNOINTR):
        return "again", 0
    return "done", value


def _without_handler(task: Task, value: int) -> tuple[str, int]:
    """No handler ran: the call is simply made again (``arch_do_signal_or_restart``)."""
    if task.frame is None or task.frame.nr == -1:
        return "done", value
    if value in (-ERESTARTSYS, -ERESTARTNOINTR, -ERESTARTNOHAND):
        return "again", 0
    if value == -ERESTART_RESTARTBLOCK:
        task.frame.nr = NR["restart_syscall"]
        return "restart", 0
    return "done", value
