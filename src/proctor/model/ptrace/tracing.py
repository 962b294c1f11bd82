"""Tracers: who traces whom, and the stops in which a thread waits for its tracer.

A :class:`Tracing` hangs on the traced thread and names the *thread* that traces it; there is one
at most.  A :class:`Stop` is where a traced thread waits: it says what wait4(2) tells, and knows how
the thread goes on.  Requests of the tracer are in :mod:`proctor.model.ptrace.requests`.

Stops of a thread in a call, in their order: PTRACE_SYSCALL's at the entry comes before the filters
are asked (since 4.8), so that they decide of what the tracer made of the call; PTRACE_EVENT_SECCOMP
comes from a filter's TRACE, after which the filters are asked anew; PTRACE_SYSCALL's at the exit
comes before signals are looked at.

Sources: ``kernel/ptrace.c`` (``__ptrace_link``, ``__ptrace_unlink``, ``exit_ptrace``),
``kernel/signal.c`` (``ptrace_stop``, ``do_notify_parent_cldstop``), ``include/linux/ptrace.h``
(``ptrace_event``, ``ptrace_init_task``), ``kernel/entry/common.c``, Linux 6.12; ptrace(2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proctor.model.kernel import signals
from proctor.model.kernel.linux import BLOCKED, SIGCHLD, SIGSTOP, SIGTRAP
from proctor.model.kernel.tasks import TRACED, Process, Task
from proctor.model.ptrace.numbers import (
    PTRACE_EVENT_EXEC,
    PTRACE_EVENT_STOP,
    PTRACE_EVENTMSG_SYSCALL_ENTRY,
    PTRACE_EVENTMSG_SYSCALL_EXIT,
    PTRACE_O_SUSPEND_SECCOMP,
    PTRACE_O_TRACESYSGOOD,
)

if TYPE_CHECKING:
    from proctor.model.kernel.delivery import Delivery
    from proctor.model.kernel.machine import Kernel


class Tracing:
    """How a thread is traced (``task->ptrace``, and ``task->parent`` while that is set)."""

    __slots__ = ("capable", "options", "seized", "syscalls", "tracer")

    def __init__(self, tracer: Task, seized: bool, options: int, capable: bool) -> None:
        self.tracer = tracer
        #: Whether who asked for it had CAP_SYS_PTRACE (``ptracer_cred``): the tracer, or with
        #: PTRACE_TRACEME the tracee.
        self.capable = capable
        #: By PTRACE_SEIZE, which stops nobody by itself.
        self.seized = seized
        #: PTRACE_O_*.
        self.options = options
        #: It stops at the next entry or exit of a call (SYSCALL_WORK_SYSCALL_TRACE).
        self.syscalls = False


class Stop:
    """One ptrace-stop of a thread."""

    __slots__ = ("code", "info", "listening", "message", "number", "then", "way")

    def __init__(
        self,
        code: int,
        message: int,
        info: int | None,
        then: Callable[[int], None],
        way: Delivery | None,
    ) -> None:
        #: What wait4(2) has not told yet, 0 once it has; later the signal to go on with.
        self.code = code
        #: The signal of its siginfo, as long as ``code`` was the stop's own.
        self.number = code & 0x7F
        #: PTRACE_GETEVENTMSG.
        self.message = message
        #: ``si_code`` of PTRACE_GETSIGINFO; None if there is no siginfo.
        self.info = info
        #: How the thread goes on, given the signal its tracer said.
        self.then = then
        #: Where it stopped on its way to user space; None inside of a call.
        self.way = way
        #: PTRACE_LISTEN: neither wait4(2) nor ptrace(2) take it for stopped.
        self.listening = False


def real_parent(process: Process) -> Task | None:
    """The thread that counts as parent (``task->real_parent``): who made it, or who is left.

    Source: ``kernel/exit.c`` 6.12 ``find_alive_thread``, ``forget_original_parent``.
    """
    parent, mother = process.parent, process.mother
    if parent is None:
        return None
    if mother is not None and mother.process is parent and not mother.exiting:
        return mother
    return next(iter(parent.alive()), parent.leader)


def reparented(task: Task) -> bool:
    """``ptrace_reparented``: the tracer is of another process than the real parent.

    Source: ``include/linux/ptrace.h`` 6.12.
    """
    return task.tracing is not None and task.tracing.tracer.process is not task.process.parent


def link(task: Task, tracer: Task, seized: bool, options: int, capable: bool) -> None:
    """``ptrace_link``: from now on ``tracer`` is told what ``task`` does.

    Source: ``kernel/ptrace.c`` 6.12 ``__ptrace_link``.
    """
    task.tracing = Tracing(tracer, seized, options, capable)
    tracer.tracees.insert(0, task)


def unlink(kernel: Kernel, task: Task) -> None:
    """``__ptrace_unlink``: nobody traces it any more; a stop ends, or becomes its process's.

    A stop that wait4(2) has not told yet goes on with its own code as the signal, as if the tracer
    had wanted that.

    Source: ``kernel/ptrace.c`` 6.12 ``__ptrace_unlink``.
    """
    relation = task.tracing
    if relation is None:
        return
    if task in relation.tracer.tracees:
        relation.tracer.tracees.remove(task)
    task.tracing = None
    task.trap_stop = task.trap_notify = False
    if not task.exiting and (task.process.stopped or task.process.stop_count):
        task.stop_pending = True
    if task.exiting:
        return
    if task.stop_pending or task.state == TRACED:
        signals.wake_up(kernel, task, False)
    if task.state == TRACED:
        resume(kernel, task)


def resume(kernel: Kernel, task: Task) -> None:
    """The thread may leave its stop when its turn comes.

    Source: ``kernel/ptrace.c`` 6.12 ``ptrace_resume``.
    """
    task.held = False
    kernel.wake(task)


def stop(
    kernel: Kernel,
    task: Task,
    code: int,
    then: Callable[[int], None],
    *,
    message: int = 0,
    info: int | None = 0,
    way: Delivery | None = None,
) -> bool:
    """``ptrace_stop``: wait for the tracer; False if there is none, or death is pending.

    A stop of the whole process is taken part in; the tracer, and for such a stop the parent, get
    SIGCHLD, and their wait4(2) wakes.

    Source: ``kernel/signal.c`` 6.12 ``ptrace_stop``.
    """
    if task.tracing is None or task.killed:
        return False
    group = info is None or info >> 8 == PTRACE_EVENT_STOP
    task.state = TRACED
    task.held = True
    task.stop = Stop(code, message, info, then, way)
    done = group and task.stop_pending and take_part(task)
    task.trap_stop = False
    if info is not None and group:
        task.trap_notify = False
    tell_tracer(kernel, task, always=True)
    if done and reparented(task):
        tell_parent_of_stop(kernel, task.process)
    return True


def leave(kernel: Kernel, task: Task) -> None:
    """A thread in a ptrace-stop runs again, if it may: the second half of ``ptrace_stop``.

    Source: ``kernel/signal.c`` 6.12 ``ptrace_stop``.
    """
    at = task.stop
    if at is None or task.held:
        return
    task.stop = None
    task.state = "R"
    signals.notice(task)
    at.then(at.code)


def take_part(task: Task) -> bool:
    """``task_participate_group_stop``: whether with it the whole process is stopped now.

    Source: ``kernel/signal.c`` 6.12.
    """
    process, counted = task.process, task.stop_consume
    task.stop_pending = task.stop_consume = task.stop_dequeued = False
    if not counted:
        return False
    process.stop_count = max(0, process.stop_count - 1)
    if process.stop_count or process.stopped:
        return False
    process.stopped = True
    return True


def event_enabled(task: Task, event: int) -> bool:
    """``ptrace_event_enabled``.  Source: ``include/linux/ptrace.h`` 6.12."""
    return task.tracing is not None and bool(task.tracing.options & 1 << event)


def event(
    kernel: Kernel, task: Task, number: int, message: int, then: Callable[[int], None]
) -> bool:
    """``ptrace_event``: stop for an event the tracer asked for; False if there is no stop.

    Whoever attached (and did not seize) without asking for PTRACE_EVENT_EXEC gets a SIGTRAP.

    Source: ``include/linux/ptrace.h`` 6.12 ``ptrace_event``.
    """
    if event_enabled(task, number):
        code = number << 8 | SIGTRAP
        return stop(kernel, task, code, then, message=message, info=code)
    if number == PTRACE_EVENT_EXEC and task.tracing is not None and not task.tracing.seized:
        signals.send(kernel, SIGTRAP, task, False)
    return False


def at_call(kernel: Kernel, task: Task, entry: bool, then: Callable[[], object]) -> bool:
    """PTRACE_SYSCALL's stop at the entry or the exit of a call; False if there is none.

    The signal the tracer says is sent as any other is.

    Source: ``include/linux/ptrace.h`` 6.12 ``ptrace_report_syscall``; ``kernel/entry/common.c``
    6.12 ``syscall_trace_enter``, ``syscall_exit_work``.
    """
    relation = task.tracing
    if relation is None or not relation.syscalls:
        return False
    code = SIGTRAP | (0x80 if relation.options & PTRACE_O_TRACESYSGOOD else 0)
    message = 0
    if "syscall_info" in kernel.features:
        message = PTRACE_EVENTMSG_SYSCALL_ENTRY if entry else PTRACE_EVENTMSG_SYSCALL_EXIT

    def sends(data: int) -> None:
        if 0 < data <= 64:
            signals.send(kernel, data, task, False, from_above=True)
        then()

    return stop(kernel, task, code, sends, message=message, info=code)


def suspends_seccomp(task: Task) -> bool:
    """PTRACE_O_SUSPEND_SECCOMP.  Source: ``kernel/seccomp.c`` 6.12 ``__secure_computing``."""
    return task.tracing is not None and bool(task.tracing.options & PTRACE_O_SUSPEND_SECCOMP)


def tell_tracer(kernel: Kernel, task: Task, always: bool = False) -> None:
    """``do_notify_parent_cldstop`` for the tracer: SIGCHLD unless ignored, and wait4(2) wakes.

    :param always: also if the tracer is of the real parent's process.

    Source: ``kernel/signal.c`` 6.12.
    """
    relation = task.tracing
    if relation is not None and (always or reparented(task)):
        _tell(kernel, relation.tracer)


def tell_tracer_of_end(kernel: Kernel, task: Task) -> None:
    """``do_notify_parent`` for the tracer: SIGCHLD even if that is ignored, and wait4(2) wakes.

    Source: ``kernel/signal.c`` 6.12; ``kernel/exit.c`` 6.12 ``exit_notify``.
    """
    relation = task.tracing
    if relation is not None:
        signals.send(kernel, SIGCHLD, relation.tracer, True)
        wake_parent(kernel, relation.tracer.process)


def tell_parent_of_stop(kernel: Kernel, process: Process) -> None:
    """``do_notify_parent_cldstop`` for the real parent: the process stopped, or goes on.

    Source: ``kernel/signal.c`` 6.12.
    """
    parent = real_parent(process)
    if parent is not None:
        _tell(kernel, parent)


def _tell(kernel: Kernel, task: Task) -> None:
    """SIGCHLD for its process unless that is ignored.  Source: ``kernel/signal.c`` 6.12."""
    if signals.disposition(task.process, SIGCHLD).kind != "ignore":
        signals.send(kernel, SIGCHLD, task, True)
    wake_parent(kernel, task.process)


def wake_parent(kernel: Kernel, process: Process) -> None:
    """``__wake_up_parent``: whoever waits for children looks again.

    Source: ``kernel/exit.c`` 6.12.
    """
    for task in process.tasks:
        if task.wait is not None and task.wait.for_children:
            kernel.wake(task)


def born(kernel: Kernel, parent: Task, child: Task, number: int) -> None:
    """``ptrace_init_task``: a child of a thread whose tracer asked for such children is traced too.

    It begins in the call that made it, and stops on its way out: with SIGSTOP, or if its parent
    was seized with PTRACE_EVENT_STOP.

    Source: ``include/linux/ptrace.h`` 6.12; ``kernel/fork.c`` 6.12 ``copy_process``.
    """
    relation = parent.tracing
    if relation is None or not event_enabled(parent, number):
        return
    link(child, relation.tracer, relation.seized, relation.options, relation.capable)
    if relation.seized:
        child.trap_stop = True
    else:
        child.pending |= signals.bit(SIGSTOP)
    signals.recalculate(child)


def bore(kernel: Kernel, parent: Task, child: Task, number: int, value: int) -> int:
    """``kernel_clone``'s end: the tracer is told of the child before its parent goes on.

    :param value: what the parent's call returns.
    :returns: that, or BLOCKED if the parent stopped.

    Source: ``kernel/fork.c`` 6.12 ``kernel_clone``.
    """
    relation = parent.tracing
    if relation is None or not event_enabled(parent, number):
        return value
    message = child.seen_from(relation.tracer.process.namespace)

    def then(_: int) -> None:
        kernel.leave(parent, value)

    return BLOCKED if event(kernel, parent, number, message, then) else value
