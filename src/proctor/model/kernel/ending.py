"""How tasks end and are reaped, and who is told.

Sources: ``kernel/exit.c`` (``do_exit``, ``exit_notify``, ``release_task``), ``kernel/signal.c``
(``do_notify_parent``), ``kernel/pid_namespace.c`` (``zap_pid_ns_processes``), Linux 6.12;
``kernel/seccomp.c`` 5.9 (99cdb8b9a573) (``seccomp_filter_release`` in ``release_task``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.model.kernel import filters, signals
from proctor.model.kernel.linux import SIGCHLD, SIGKILL
from proctor.model.kernel.tasks import DEAD, ZOMBIE, Process, Task
from proctor.model.ptrace import tracing
from proctor.model.ptrace.numbers import PTRACE_EVENT_EXIT, PTRACE_O_EXITKILL

if TYPE_CHECKING:
    from proctor.model.kernel.machine import Kernel


def exit_group(kernel: Kernel, task: Task, code: int) -> None:
    """exit_group(2), or death by a signal: every thread goes (``do_group_exit``).

    Before 5.19 the end of a process with one thread was not one of its process until it was over:
    signals still came, which only a tracer could see.

    :param code: as wait4(2) has it: status << 8, or the signal.

    Source: ``kernel/exit.c`` 6.12 ``do_group_exit``; 5.19 (d80f7e7b2c75).
    """
    process = task.process
    alone = process.tasks == [task] and "last_thread_decides" not in kernel.features
    if process.exiting_code is None and not alone:
        process.ends_with(code)
        for other in process.tasks:
            if other is not task:
                signals.kill_thread(kernel, other)
    _end(kernel, task, code if process.exiting_code is None else process.exiting_code)


def exit_thread(kernel: Kernel, task: Task, code: int) -> None:
    """exit(2): this thread alone (``do_exit``).

    Source: ``kernel/exit.c`` 6.12 ``do_exit``.
    """
    _end(kernel, task, code)


def _end(kernel: Kernel, task: Task, code: int) -> None:
    """``do_exit``, to the point where a tracer is told of an end that is coming.

    Source: ``kernel/exit.c`` 6.12 ``do_exit``, ``synchronize_group_exit``.
    """
    process = task.process
    if task.wait is not None:
        task.wait.abandon(kernel, task)
        task.wait = None
    last = not [other for other in process.alive() if other is not task]
    if last and process.exiting_code is None and "last_thread_decides" in kernel.features:
        process.ends_with(code)
    if tracing.event_enabled(task, PTRACE_EVENT_EXIT):
        task.killed = False  # get_signal took the SIGKILL off the queue
        if tracing.event(
            kernel, task, PTRACE_EVENT_EXIT, code, lambda _: _gone(kernel, task, code)
        ):
            return
    _gone(kernel, task, code)


def _gone(kernel: Kernel, task: Task, code: int) -> None:
    """``do_exit``: filters first (since 6.11), then descriptors, then whoever waits is told.

    Source: ``kernel/exit.c`` 6.12 ``do_exit``, ``exit_notify``; ``kernel/seccomp.c`` 6.11.
    """
    process = task.process
    task.exiting = True
    task.exit_code = code
    if task.frame is not None and task.frame.holds is not None:
        task.frame.holds.put()
    task.frame = None
    task.result = None
    if "release_at_exit" in kernel.features:
        _drop_filter(kernel, task)
    if task.stop_pending and tracing.take_part(task):
        tracing.tell_parent_of_stop(kernel, process)
    task.files.leave()
    task.state = ZOMBIE
    _let_tracees_go(kernel, task)
    if process.alive():
        _hand_children_over(task)
    else:
        _zap_namespace(kernel, process)
        _reparent(kernel, process)
    if task is not process.leader:
        if task.tracing is None:
            _remove(kernel, task)
        else:
            tracing.tell_tracer_of_end(kernel, task)
    elif task.tracing is not None and process.tasks != [task]:
        tracing.tell_tracer_of_end(kernel, task)
    _finish(kernel, process)


def _let_tracees_go(kernel: Kernel, tracer: Task) -> None:
    """``exit_ptrace``: whom it traced goes free, or dies with it (PTRACE_O_EXITKILL).

    One by one, the newest first: a parent that is not free yet is not told of a death in vain.

    Source: ``kernel/ptrace.c`` 6.12.
    """
    for task in tracer.tracees.copy():
        relation = task.tracing
        if relation is not None and relation.options & PTRACE_O_EXITKILL:
            signals.send(kernel, SIGKILL, task, False, from_above=True)
        tracing.unlink(kernel, task)
        if task.state == ZOMBIE:
            untraced(kernel, task)


def _hand_children_over(task: Task) -> None:
    """A thread's children are another thread's from now on, after those it has.

    Source: ``kernel/exit.c`` 6.12 ``forget_original_parent``, ``find_alive_thread``.
    """
    process = task.process
    heir = process.alive()[0]
    moved = [child for child in process.children if child.mother is task]
    for child in moved:
        child.mother = heir
        process.children.remove(child)
        process.children.append(child)


def _remove(kernel: Kernel, task: Task) -> None:
    """A thread that leads no process is gone for good.

    Source: ``kernel/exit.c`` 6.12 ``release_task``.
    """
    process = task.process
    process.tasks.remove(task)
    _free_numbers(kernel, process, task)
    release(kernel, task)
    task.state = DEAD


def untraced(kernel: Kernel, task: Task) -> None:
    """A dead thread has no tracer any more: it goes, or its process's parent is told now.

    Source: ``kernel/ptrace.c`` 6.12 ``__ptrace_detach``; ``kernel/exit.c`` 6.12
    ``wait_task_zombie``.
    """
    process = task.process
    if task is not process.leader:
        _remove(kernel, task)
        _finish(kernel, process)
    elif process.code is not None and not process.reaped:
        _tell_parent(kernel, process)


def _finish(kernel: Kernel, process: Process) -> None:
    """The last thread is gone: the process is a zombie, and its parent is told.

    The init of a pid namespace first waits until nobody else has a number in there, reaped
    zombies of outside parents included (``zap_pid_ns_processes``).

    Source: ``kernel/exit.c`` 6.12 ``exit_notify``; ``kernel/pid_namespace.c`` 6.12
    ``zap_pid_ns_processes``.
    """
    if process.code is not None or process.tasks != [process.leader] or process.alive():
        return
    namespace = process.namespace
    process.lingers = namespace.init is process and len(namespace.tasks) > 1
    if process.lingers:
        return
    leader = process.leader
    process.code = leader.exit_code if process.exiting_code is None else process.exiting_code
    _tell_parent(kernel, process)


def _free_numbers(kernel: Kernel, process: Process, task: Task) -> None:
    """``free_pid``, in every namespace; a dying init may have waited for it.

    Source: ``kernel/pid.c`` 6.12 ``free_pid``.
    """
    process.namespace.free(task)
    for namespace in task.numbers:
        if namespace.init is not None and namespace.init.lingers:
            _finish(kernel, namespace.init)


def _drop_filter(kernel: Kernel, task: Task) -> None:
    """The task stands on its filter no more.

    Source: ``kernel/seccomp.c`` 6.12 ``seccomp_filter_release``.
    """
    filter, task.filter = task.filter, None
    filters.release(filter, kernel.features)


def release(kernel: Kernel, task: Task) -> None:
    """``release_task``: before 6.11 the filter is let go only here.

    Source: ``kernel/exit.c`` 6.6 ``release_task``; ``kernel/seccomp.c`` 5.9 (99cdb8b9a573).
    """
    if "release_at_exit" not in kernel.features:
        _drop_filter(kernel, task)


def _zap_namespace(kernel: Kernel, process: Process) -> None:
    """The init of a pid namespace ended: so does everybody in it, and nobody new comes.

    Source: ``kernel/pid_namespace.c`` 6.12 ``zap_pid_ns_processes``.
    """
    if process.namespace.init is not process:
        return
    process.namespace.closed = True
    for task in list(process.namespace.tasks.values()):
        if task.process is not process and not task.exiting:
            signals.send(kernel, SIGKILL, task, True, from_above=True)


def _reparent(kernel: Kernel, process: Process) -> None:
    """Orphans go to the init of their dying parent's namespace, which may be dying itself.

    Source: ``kernel/exit.c`` 6.12 ``forget_original_parent``, ``reparent_leader``.
    """
    heir = process.namespace.init
    orphans, process.children = process.children, []
    for child in orphans:
        child.parent = heir
        if heir is not None:
            heir.children.append(child)
        if child.code is not None and child.leader.tracing is None:
            _tell_parent(kernel, child)


def _tell_parent(kernel: Kernel, process: Process) -> None:
    """SIGCHLD, and whoever waits; a parent that ignores SIGCHLD has nothing to reap.

    A tracer of the leader is told first, and the parent only once that one has waited for it.  An
    init reaps what it inherits; one of a pid namespace does so on its way out
    (``zap_pid_ns_processes``).

    Source: ``kernel/signal.c`` 6.12 ``do_notify_parent``; ``kernel/exit.c`` 6.12 ``exit_notify``.
    """
    leader = process.leader
    if leader.tracing is not None:
        tracing.tell_tracer_of_end(kernel, leader)
        return
    parent = process.parent
    if parent is None or parent is kernel.init.process or parent.namespace.closed:
        reap(kernel, process)
        return
    does = signals.disposition(parent, SIGCHLD)
    if does.kind == "ignore":
        reap(kernel, process)
    else:
        signals.send(kernel, SIGCHLD, tracing.real_parent(process) or parent.leader, True)
    tracing.wake_parent(kernel, parent)


def reap(kernel: Kernel, process: Process) -> None:
    """The zombie goes: its number is free, and before 6.11 its filter is let go now (C089).

    Source: ``kernel/exit.c`` 6.12 ``release_task``.
    """
    process.reaped = True
    leader = process.leader
    tracing.unlink(kernel, leader)
    leader.state = DEAD
    _free_numbers(kernel, process, leader)
    release(kernel, leader)
    if process.parent is not None and process in process.parent.children:
        process.parent.children.remove(process)
