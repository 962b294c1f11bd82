"""How tasks begin, turn into other programs, end and are reaped.

Sources: ``kernel/fork.c`` (``copy_process``, ``copy_seccomp``), ``fs/exec.c`` (``de_thread``,
``begin_new_exec``), ``kernel/exit.c`` (``do_exit``, ``exit_notify``, ``release_task``),
``kernel/pid_namespace.c`` (``zap_pid_ns_processes``), Linux 6.12; 002_2ab3c93df7a896f3.txt
(``seccomp_filter_release`` in ``release_task``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.model import filters, signals
from proctor.model.files import FdTable
from proctor.model.linux import (
    BLOCKED,
    ECHILD,
    EINVAL,
    ENOMEM,
    ERESTARTNOINTR,
    ERESTARTSYS,
    SIGCHLD,
    SIGKILL,
)
from proctor.model.tasks import DEAD, ZOMBIE, Disposition, PidNamespace, Process, Task
from proctor.model.waits import Wait

if TYPE_CHECKING:
    from proctor.model.kernel import Kernel


def boot(kernel: Kernel) -> Task:
    """The first process of the machine: init, with every right; it reaps whatever it gets."""
    process = Process(kernel.namespace, None)
    task = Task(process, FdTable())
    _enrol(process, task, process.namespace)
    return task


def _enrol(process: Process, task: Task, namespace: PidNamespace) -> None:
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
    mother.children.append(process)
    if share_files:
        parent.files.users += 1
    task = Task(process, parent.files if share_files else parent.files.copy())
    _enrol(process, task, process.namespace)
    _inherit(parent, task)
    return task


def thread(kernel: Kernel, parent: Task) -> Task | int:
    """pthread_create(3): a task more in the same process, with the same descriptors.

    -EINVAL after unshare(CLONE_NEWPID): a process lives in one pid namespace (``copy_process``).
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

    The thread becomes the leader and takes its number (C048, C102).
    """
    process = task.process
    for other in list(process.tasks):
        if other is not task:
            signals.kill_thread(kernel, other)
            while not other.exiting:
                kernel.run(other)
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
    return 0


def _take_over(kernel: Kernel, process: Process, task: Task) -> None:
    """``de_thread``: the old leader is released, its number is the thread's from now on."""
    leader = process.leader
    process.tasks.remove(leader)
    _release(kernel, leader)
    process.namespace.free(task)
    for namespace, number in leader.numbers.items():
        namespace.tasks[number] = task
    task.numbers = dict(leader.numbers)
    leader.state = DEAD
    process.leader = task


def exit_group(kernel: Kernel, task: Task, code: int) -> None:
    """exit_group(2), or death by a signal: every thread goes (``do_group_exit``).

    :param code: as wait4(2) has it: status << 8, or the signal.
    """
    process = task.process
    if process.exiting_code is None:
        process.exiting_code = code
        for other in process.tasks:
            if other is not task:
                signals.kill_thread(kernel, other)
    _end(kernel, task, process.exiting_code)


def exit_thread(kernel: Kernel, task: Task, code: int) -> None:
    """exit(2): this thread alone (``do_exit``)."""
    _end(kernel, task, code)


def _end(kernel: Kernel, task: Task, code: int) -> None:
    """``do_exit``: filters first (since 6.11), then descriptors, then the parent is told."""
    process = task.process
    task.exiting = True
    task.exit_code = code
    if task.wait is not None:
        task.wait.abandon(kernel, task)
        task.wait = None
    if task.frame is not None and task.frame.holds is not None:
        task.frame.holds.put()
    task.frame = None
    task.result = None
    if "release_at_exit" in kernel.features:
        _drop_filter(kernel, task)
    task.files.leave()
    task.state = ZOMBIE
    if not process.alive():
        if process.exiting_code is None and "last_thread_decides" in kernel.features:
            process.exiting_code = code
        _zap_namespace(kernel, process)
        _reparent(kernel, process)
    if task is not process.leader:
        process.tasks.remove(task)
        _free_numbers(kernel, process, task)
        _release(kernel, task)
        task.state = DEAD
    _finish(kernel, process)


def _finish(kernel: Kernel, process: Process) -> None:
    """The last thread is gone: the process is a zombie, and its parent is told.

    The init of a pid namespace first waits until nobody else has a number in there, reaped
    zombies of outside parents included (``zap_pid_ns_processes``).
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
    """``free_pid``, in every namespace; a dying init may have waited for it."""
    process.namespace.free(task)
    for namespace in task.numbers:
        if namespace.init is not None and namespace.init.lingers:
            _finish(kernel, namespace.init)


def _drop_filter(kernel: Kernel, task: Task) -> None:
    filter, task.filter = task.filter, None
    filters.release(filter, kernel.features)


def _release(kernel: Kernel, task: Task) -> None:
    """``release_task``: before 6.11 the filter is let go only here."""
    if "release_at_exit" not in kernel.features:
        _drop_filter(kernel, task)


def _zap_namespace(kernel: Kernel, process: Process) -> None:
    """The init of a pid namespace ended: so does everybody in it, and nobody new comes."""
    if process.namespace.init is not process:
        return
    process.namespace.closed = True
    for task in list(process.namespace.tasks.values()):
        if task.process is not process and not task.exiting:
            signals.send(kernel, SIGKILL, task, True, from_above=True)


def _reparent(kernel: Kernel, process: Process) -> None:
    """Orphans go to the init of their dying parent's namespace, which may be dying itself."""
    heir = process.namespace.init
    orphans, process.children = process.children, []
    for child in orphans:
        child.parent = heir
        if heir is not None:
            heir.children.append(child)
        if child.code is not None:
            _tell_parent(kernel, child)


def _tell_parent(kernel: Kernel, process: Process) -> None:
    """SIGCHLD, and whoever waits; a parent that ignores SIGCHLD has nothing to reap.

    An init reaps what it inherits; one of a pid namespace does so on its way out
    (``zap_pid_ns_processes``).
    """
    parent = process.parent
    if parent is None or parent is kernel.init.process or parent.namespace.closed:
        reap(kernel, process)
        return
    does = signals.disposition(parent, SIGCHLD)
    if does.kind == "ignore":
        reap(kernel, process)
    else:
        signals.send(kernel, SIGCHLD, parent.leader, True)
    for task in parent.tasks:
        if isinstance(task.wait, Wait4):
            kernel.wake(task)


def reap(kernel: Kernel, process: Process) -> None:
    """The zombie goes: its number is free, and before 6.11 its filter is let go now (C089)."""
    process.reaped = True
    leader = process.leader
    leader.state = DEAD
    _free_numbers(kernel, process, leader)
    _release(kernel, leader)
    if process.parent is not None and process in process.parent.children:
        process.parent.children.remove(process)


class Wait4(Wait):
    """wait4(2) for one child, or for any."""

    __slots__ = ("child",)

    def __init__(self, child: Process | None) -> None:
        super().__init__()
        self.child = child

    def resume(self, kernel: Kernel, task: Task) -> None:
        """A child ended, there is none left, or a signal came."""
        value = wait4(kernel, task, self.child)
        if value != BLOCKED:
            kernel.finish(task, value)
        elif task.sigpending or task.killed:
            kernel.finish(task, -ERESTARTSYS)


def wait4(kernel: Kernel, task: Task, child: Process | None) -> int:
    """Reap ``child`` (any if None): its pid; how it ended is in ``kernel.reaped``."""
    children = [c for c in task.process.children if child is None or c is child]
    if not children:
        return -ECHILD
    for candidate in children:
        if candidate.code is not None:
            pid = candidate.leader.seen_from(task.process.namespace)
            kernel.reaped = candidate.code
            reap(kernel, candidate)
            return pid
    if isinstance(task.wait, Wait4):
        return BLOCKED
    return kernel.sleep(task, Wait4(child))


def sigaction(process: Process, number: int, does: Disposition) -> None:
    """sigaction(2); making a signal ignored forgets the pending one."""
    process.dispositions[number] = does
    harmless = signals.HARMLESS & signals.bit(number)
    if does.kind == "ignore" or (does.kind == "default" and harmless):
        process.pending &= ~signals.bit(number)
        for task in process.tasks:
            task.pending &= ~signals.bit(number)
