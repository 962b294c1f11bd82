"""How tasks begin and turn into other programs; how they end is in :mod:`proctor.model.kernel.ending`.

Sources: ``kernel/fork.c`` (``copy_process``, ``copy_seccomp``), ``fs/exec.c`` (``de_thread``,
``begin_new_exec``, ``exec_binprm``), ``kernel/pid_namespace.c`` (``copy_pid_ns``),
``kernel/signal.c`` (``do_sigaction``), Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.model.kernel import ending, filters, signals
from proctor.model.kernel.delivery import Delivery
from proctor.model.kernel.files import FdTable
from proctor.model.kernel.linux import BLOCKED, EINVAL, ENOMEM, ERESTARTNOINTR, NR
from proctor.model.kernel.memory import Memory
from proctor.model.kernel.tasks import DEAD, TRACED, Disposition, Frame, PidNamespace, Process, Task
from proctor.model.ptrace import tracing
from proctor.model.ptrace.numbers import (
    PTRACE_EVENT_CLONE,
    PTRACE_EVENT_EXEC,
    PTRACE_EVENT_FORK,
)

if TYPE_CHECKING:
    from proctor.model.kernel.machine import Kernel


def boot(kernel: Kernel) -> Task:
    """The first process of the machine: init, with every right; it reaps whatever it gets."""
    process = Process(kernel.namespace, None)
    task = Task(process, FdTable())
    _enrol(process, task, process.namespace)
    return task


def _enrol(process: Process, task: Task, namespace: PidNamespace) -> None:
    """A new task gets its numbers; the first one leads the process, or is a namespace's init.

    Source: ``kernel/fork.c`` 6.12 ``copy_process``; ``kernel/pid.c`` 6.12 ``alloc_pid``.
    """
    process.tasks.append(task)
    namespace.allocate(task)
    if not hasattr(process, "leader"):
        process.leader = task
        if namespace.init is None:
            namespace.init = process
            process.unkillable = True


def _inherit(parent: Task, child: Task) -> None:
    """What every new task takes over: the filter, the mode, no_new_privs, rights, the mask.

    Source: ``kernel/fork.c`` 6.12 ``copy_seccomp``.
    """
    filters.get(parent)
    child.mode, child.filter = parent.mode, parent.filter
    child.filter_count = parent.filter_count
    child.no_new_privs = parent.no_new_privs
    child.uid, child.cap_sys_admin = parent.uid, parent.cap_sys_admin
    child.blocked = parent.blocked


def fork(kernel: Kernel, parent: Task, share_files: bool = False) -> Task | int:
    """fork(2): a process with one thread, in the namespace its parent chose for its children.

    -ENOMEM if that namespace has lost its init.  A signal that is there goes first
    (``copy_process``: -ERESTARTNOINTR).

    :param share_files: CLONE_FILES: one descriptor table for both.

    Source: ``kernel/fork.c`` 6.12 ``copy_process``.
    """
    mother = parent.process
    signals.recalculate(parent)
    if parent.sigpending:
        return -ERESTARTNOINTR
    if parent.namespace_for_children.closed:
        parent.namespace_for_children.allocate(None)
        return -ENOMEM
    process = Process(parent.namespace_for_children, mother)
    process.dispositions = dict(mother.dispositions)
    process.nofile = mother.nofile
    process.dumpable = mother.dumpable
    process.memory = mother.memory.copy()
    process.mother = parent
    mother.children.append(process)
    if share_files:
        parent.files.users += 1
    task = Task(process, parent.files if share_files else parent.files.copy())
    _enrol(process, task, process.namespace)
    _inherit(parent, task)
    _begin_traced(kernel, parent, task, PTRACE_EVENT_FORK)
    return task


def _begin_traced(kernel: Kernel, parent: Task, child: Task, event: int) -> None:
    """A tracer that asked for it traces the child too.

    A child that has to stop does so on its way out of the call that made it.

    Source: ``kernel/fork.c`` 6.12 ``copy_process``; ``include/linux/ptrace.h`` ``ptrace_init_task``.
    """
    if parent.tracing is not None:
        tracing.born(kernel, parent, child, event)
    if child.sigpending and parent.frame is not None:
        at = parent.frame
        child.frame = Frame(at.nr, at.args, at.arch, at.ip, None)
        child.frame.ax = 0
        child.parked = Delivery(0)
        kernel.wake(child)


def thread(kernel: Kernel, parent: Task) -> Task | int:
    """pthread_create(3): a task more in the same process, with the same descriptors.

    -EINVAL after unshare(CLONE_NEWPID): a process lives in one pid namespace (``copy_process``).

    Source: ``kernel/fork.c`` 6.12 ``copy_process``; ``kernel/signal.c`` 6.12
    ``task_join_group_stop``.
    """
    if parent.namespace_for_children is not parent.process.namespace:
        return -EINVAL
    signals.recalculate(parent)
    if parent.sigpending:
        return -ERESTARTNOINTR
    parent.files.users += 1
    task = Task(parent.process, parent.files)
    _enrol(parent.process, task, parent.process.namespace)
    _inherit(parent, task)
    if parent.process.stopped:
        # task_join_group_stop: the tracer of the parent let that one go on
        task.stop_pending, task.stop_signal = True, parent.stop_signal
        signals.recalculate(task)
    _begin_traced(kernel, parent, task, PTRACE_EVENT_CLONE)
    return task


def unshare_pids(task: Task) -> int:
    """unshare(CLONE_NEWPID): the next child is the init of a new namespace; once only.

    Source: ``kernel/pid_namespace.c`` 6.12 ``copy_pid_ns``.
    """
    namespace = task.process.namespace
    if task.namespace_for_children is not namespace:
        return -EINVAL
    task.namespace_for_children = PidNamespace(namespace, namespace.limit)
    return 0


def execve(kernel: Kernel, task: Task) -> int:
    """execve(2): other threads die, close-on-exec descriptors close, handlers go; filters stay.

    The thread becomes the leader and takes its number (C048, C102).  A tracer that asked for it is
    told the old number; another one's thread gets a SIGTRAP.

    Source: ``fs/exec.c`` 6.12 ``de_thread``, ``begin_new_exec``, ``exec_binprm``.
    """
    process = task.process
    old = task.seen_from(task.tracing.tracer.process.namespace) if task.tracing else 0
    for other in list(process.tasks):
        if other is not task:
            signals.kill_thread(kernel, other)
            while not other.exiting:
                kernel.run(other)
                if other.state == TRACED:
                    tracing.resume(kernel, other)  # its stop at its end is not waited for here
    if process.leader is not task:
        _take_over(kernel, process, task)
    if task.files.users > 1:
        task.files.users -= 1
        task.files = task.files.copy()
    task.files.close_on_exec()
    process.dispositions = {
        number: does for number, does in process.dispositions.items() if does.kind == "ignore"
    }
    process.dumpable = True
    process.memory = Memory()
    if task.tracing is not None and task.frame is not None:
        # Registers of the new program; the number is execve's, whatever call it was
        # (arch/x86/kernel/process_64.c 6.12 set_personality_64bit).
        task.frame.nr, task.frame.args = NR["execve"], (0, 0, 0, 0, 0, 0)

        def told(_: int) -> None:
            kernel.leave(task, 0)

        if tracing.event(kernel, task, PTRACE_EVENT_EXEC, old, told):
            return BLOCKED
    return 0


def _take_over(kernel: Kernel, process: Process, task: Task) -> None:
    """``de_thread``: the old leader is released, its number is the thread's from now on.

    Source: ``fs/exec.c`` 6.12.
    """
    leader = process.leader
    tracer = leader.tracing.tracer if leader.tracing is not None else None
    tracing.unlink(kernel, leader)
    if tracer is not None:
        tracing.wake_parent(kernel, tracer.process)
    process.tasks.remove(leader)
    ending.release(kernel, leader)
    process.namespace.free(task)
    for namespace, number in leader.numbers.items():
        namespace.tasks[number] = task
    task.numbers = dict(leader.numbers)
    leader.state = DEAD
    process.leader = task


def sigaction(process: Process, number: int, does: Disposition) -> None:
    """sigaction(2); making a signal ignored forgets the pending one.

    Source: ``kernel/signal.c`` 6.12 ``do_sigaction``.
    """
    process.dispositions[number] = does
    harmless = signals.HARMLESS & signals.bit(number)
    if does.kind == "ignore" or (does.kind == "default" and harmless):
        process.pending &= ~signals.bit(number)
        for task in process.tasks:
            task.pending &= ~signals.bit(number)
