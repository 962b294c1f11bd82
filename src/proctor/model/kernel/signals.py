"""Signals: sending, choosing a thread, and waking it.

What matters for notifications:

* A signal that is ignored, or whose default is to be ignored, never wakes anybody (C079), unless
  a tracer is there to be shown it.
* A signal whose default is death, without a core, becomes SIGKILL for all threads at once, so that
  it ends even a killable sleep (C083); one that dumps core does not, and waits for the answer.  Nor
  does one sent to a traced thread: its tracer sees it first.

What becomes of them on the way to user space is in :mod:`proctor.model.kernel.delivery`.

Sources: ``kernel/signal.c`` 6.12 (``prepare_signal``, ``complete_signal``, ``signal_wake_up``,
``ptrace_trap_notify``, ``force_sig_info_to_task``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proctor.model.kernel import linux
from proctor.model.kernel.linux import SIGCONT, SIGKILL, SIGSTOP, SIGSYS
from proctor.model.kernel.tasks import DEFAULT, RUNNING, STOPPED, TRACED, Disposition, Process, Task

if TYPE_CHECKING:
    from proctor.model.kernel.machine import Kernel


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
UNCATCHABLE: Final = bit(SIGKILL, SIGSTOP)


def disposition(process: Process, number: int) -> Disposition:
    """What ``process`` does with signal ``number``."""
    return process.dispositions.get(number, DEFAULT)


def ignored(task: Task, number: int, from_above: bool) -> bool:
    """Whether the signal is dropped at once (``sig_ignored``).

    A blocked signal never is, since what is done with it may change first, nor one that a tracer
    is to see.  The init of a pid namespace has no default death but by an ancestor's SIGKILL
    (``sig_task_ignored``).

    Source: ``kernel/signal.c`` 6.12.
    """
    if task.blocked & bit(number) or (task.tracing is not None and number != SIGKILL):
        return False
    does = disposition(task.process, number)
    if does.kind == "ignore":
        return True
    if does.kind != "default":
        return False
    if task.process.unkillable and not (from_above and bit(number) & UNCATCHABLE):
        return True
    return bool(bit(number) & HARMLESS)


def fatal(process: Process, number: int) -> bool:
    """Whether the default of it is death (``sig_fatal``)."""
    return disposition(process, number).kind == "default" and not bit(number) & (HARMLESS | STOPS)


def ends(task: Task) -> bool:
    """Whether a signal waits for the thread that ends it on its way to user space (``get_signal``), and none that stops it.

    Source: ``kernel/signal.c`` 6.12.
    """
    waiting = (task.pending | task.process.pending) & ~task.blocked
    if not waiting or task.tracing is not None or task.process.unkillable:
        return False
    if any(
        waiting & STOPS & bit(number) and disposition(task.process, number).kind == "default"
        for number in range(1, 65)
    ):
        return False
    return any(waiting & bit(number) and fatal(task.process, number) for number in range(1, 65))


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
        _continue(kernel, process)
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


def _continue(kernel: Kernel, process: Process) -> None:
    """A SIGCONT was sent: whatever is done with it, the process is not stopped any more.

    Threads in a ptrace-stop stay there; those that were seized are told the news.

    Source: ``kernel/signal.c`` 6.12 ``prepare_signal``.
    """
    _forget(process, STOPS)
    for thread in process.tasks:
        thread.stop_pending = thread.stop_consume = thread.stop_dequeued = False
        if thread.tracing is not None and thread.tracing.seized:
            trap_notify(kernel, thread)
        elif thread.state == STOPPED:
            thread.held = False
            kernel.wake(thread)
    if process.stopped or process.stop_count:
        process.stop_news = True
        process.stopped = False
        process.stop_count = 0
        process.stop_code = 0


def trap_notify(kernel: Kernel, task: Task) -> None:
    """``ptrace_trap_notify``: a seized thread has news of a stop of its process for its tracer.

    One that listens (PTRACE_LISTEN) stops anew.

    Source: ``kernel/signal.c`` 6.12.
    """
    if task.killed or task.exiting:
        return
    task.trap_notify = True
    wake_up(kernel, task, False)
    if task.stop is not None and task.stop.listening:
        task.held = False
        kernel.wake(task)


def _forget(process: Process, mask: int) -> None:
    """Signals of the mask are pending nowhere in the process any more.

    Source: ``kernel/signal.c`` 6.12 ``flush_sigqueue_mask``.
    """
    process.pending &= ~mask
    for thread in process.tasks:
        thread.pending &= ~mask


def _wants(task: Task, number: int) -> bool:
    """``wants_signal``: this thread could take it now, being awake or not yet told of another.

    Source: ``kernel/signal.c`` 6.12.
    """
    if task.blocked & bit(number) or task.exiting:
        return False
    if number == SIGKILL:
        return True
    if task.state in (STOPPED, TRACED):
        return False
    return task.state == RUNNING or not task.sigpending


def _complete(kernel: Kernel, number: int, target: Task, shared: bool) -> None:
    """``complete_signal``: choose a thread and wake it; a plain death starts at once.

    Source: ``kernel/signal.c`` 6.12.
    """
    process = target.process
    chosen = target if _wants(target, number) else None
    if chosen is None and shared:
        chosen = next((task for task in process.tasks if _wants(task, number)), None)
    if chosen is None:
        return
    if (
        fatal(process, number)
        and not bit(number) & CORES
        and (number == SIGKILL or not (process.unkillable or target.tracing is not None))
    ):
        process.ends_with(number)
        for thread in process.tasks:
            kill_thread(kernel, thread)
        return
    wake_up(kernel, chosen, number == SIGKILL)


def kill_thread(kernel: Kernel, task: Task) -> None:
    """SIGKILL for one thread of a process that is ending (``zap_other_threads``).

    Source: ``kernel/signal.c`` 6.12.
    """
    if not task.exiting:
        task.stop_pending = task.stop_consume = task.stop_dequeued = False
        task.trap_stop = task.trap_notify = False
        task.killed = True
        wake_up(kernel, task, True)


def wake_up(kernel: Kernel, task: Task, fatally: bool) -> None:
    """``signal_wake_up``: set the flag, and wake it if its sleep minds.

    A killable sleep minds death only; a stopped or traced task minds death only.

    Source: ``kernel/signal.c`` 6.12 ``signal_wake_up``.
    """
    task.sigpending = True
    if task.state in (STOPPED, TRACED):
        if fatally:
            task.held = False
            kernel.wake(task)
    elif task.wait is None or fatally or not task.wait.killable:
        kernel.wake(task)


def force(kernel: Kernel, task: Task, number: int, core: bool) -> None:
    """``force_sig_seccomp``: blocked, ignored or ``core``: the default, which is death.

    With ``core`` nothing can stop that death any more, not even a tracer (SA_IMMUTABLE, 5.16).

    Source: ``kernel/signal.c`` 6.12 ``force_sig_info_to_task``; C031.
    """
    process = task.process
    does = disposition(process, number)
    if core or task.blocked & bit(number) or does.kind == "ignore":
        process.dispositions[number] = DEFAULT
        task.blocked &= ~bit(number)
        if core and "forced_death_is_final" in kernel.features:
            process.immutable |= bit(number)
    if disposition(process, number).kind == "default" and (task.tracing is None or core):
        process.unkillable = False
    task.pending |= bit(number)
    task.sigpending = True


def recalculate(task: Task) -> None:
    """``recalc_sigpending``: look again whether something is pending that was sent to the process.

    A process's signal wakes one thread only; others notice it when they come by here.

    Source: ``kernel/signal.c`` 6.12.
    """
    task.sigpending = False
    notice(task)


def notice(task: Task) -> None:
    """``recalc_sigpending_tsk``: the same, but a thread told to look will look.

    After a ptrace-stop a sleep can so be interrupted by nothing, and be made again.

    Source: ``kernel/signal.c`` 6.12.
    """
    wanted = (task.pending | task.process.pending) & ~task.blocked
    if wanted or task.stop_pending or task.trap_stop or task.trap_notify or task.killed:
        task.sigpending = True


def set_blocked(kernel: Kernel, task: Task, mask: int) -> None:
    """sigprocmask(SIG_SETMASK): SIGKILL and SIGSTOP cannot be blocked.

    Source: ``kernel/signal.c`` 6.12 ``__set_current_blocked``.
    """
    task.blocked = mask & ~UNCATCHABLE
    recalculate(task)
    if task.sigpending and task.frame is None:
        kernel.wake(task)
