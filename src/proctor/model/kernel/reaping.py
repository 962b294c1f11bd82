"""wait4(2): ends of children, and stops of whom one traces.

Sources: ``kernel/exit.c`` 6.12 (``__do_wait``, ``wait_consider_task``, ``wait_task_zombie``,
``wait_task_stopped``); wait4(2), ptrace(2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.model.kernel import ending
from proctor.model.kernel.linux import ECHILD, EINVAL, ERESTARTSYS, WNOHANG, WUNTRACED
from proctor.model.kernel.tasks import DEAD, TRACED, ZOMBIE, Process, Task
from proctor.model.kernel.waits import Wait
from proctor.model.ptrace import tracing

if TYPE_CHECKING:
    from proctor.model.kernel.machine import Kernel

#: Options that are known; __WALL and __WCLONE, which make no difference here, among them.
_KNOWN = WNOHANG | WUNTRACED | 8 | 1 << 29 | 1 << 30 | 1 << 31


class Wait4(Wait):
    """A wait4(2) that sleeps, for one child or thread, or for any (None).

    Source: ``kernel/exit.c`` 6.12 ``do_wait``.
    """

    __slots__ = ("child", "number", "options")

    for_children = True

    def __init__(self, child: Process | Task | None, options: int) -> None:
        super().__init__()
        self.child = child
        self.options = options
        #: What a thread was asked for by; execve(2) may take it away.
        self.number = child.tid if isinstance(child, Task) else 0

    def resume(self, kernel: Kernel, task: Task) -> None:
        """A child ended or stopped, there is none left, or a signal came.

        Source: ``kernel/exit.c`` 6.12 ``do_wait``.
        """
        gone = isinstance(self.child, Task) and self.child.tid != self.number
        if gone and not (task.sigpending or task.killed):
            return  # child_wait_callback: news of whoever it is now is not for this sleeper
        value = -ECHILD if gone else _look(kernel, task, self.child, self.options)
        if value is not None:
            kernel.finish(task, value)
        elif task.sigpending or task.killed:
            kernel.finish(task, -ERESTARTSYS)


def whom(task: Task) -> Process | Task:
    """Whom a number means: a leader's its process, whoever leads it after an execve(2).

    Source: ``kernel/exit.c`` 6.12 ``do_wait_pid``.
    """
    return task.process if task is task.process.leader else task


def wait4(kernel: Kernel, task: Task, child: Process | Task | None, options: int = 0) -> int:
    """wait4(2) for ``child`` (any if None): its number, 0 with WNOHANG, or BLOCKED.

    What it says of the child is in ``task.wait_status``, and in ``kernel.reaped`` if it ended.

    Source: ``kernel/exit.c`` 6.12 ``kernel_wait4``, ``__do_wait``.
    """
    if options & 0xFFFFFFFF & ~_KNOWN:
        return -EINVAL
    value = _look(kernel, task, child, options)
    if value is not None:
        return value
    return kernel.sleep(task, Wait4(child, options))


def _look(kernel: Kernel, task: Task, child: Process | Task | None, options: int) -> int | None:
    """One look at everybody: None to sleep on.

    Thread by thread of the caller's process: first the children, then whom the thread traces, who
    may be threads and strangers.

    Source: ``kernel/exit.c`` 6.12 ``__do_wait``, ``do_wait_thread``, ``ptrace_do_wait``.
    """
    process = task.process
    wanted = child.leader if isinstance(child, Process) else child
    anybody = False
    for waiter in [task, *(other for other in process.tasks if other is not task)]:
        every = [
            (one.leader, False)
            for one in process.children
            if (tracing.real_parent(one) or process.leader) is waiter
        ]
        every += [(one, True) for one in waiter.tracees]
        for one, traced in every:
            if (wanted is not None and one is not wanted) or one.state == DEAD:
                continue
            anybody = True
            value = _consider(kernel, task, one, traced, options)
            if value:
                return value
    if not anybody:
        return -ECHILD
    return 0 if options & WNOHANG else None


def _consider(kernel: Kernel, task: Task, one: Task, traced: bool, options: int) -> int:
    """``wait_consider_task``: the number of ``one`` if there is news of it, else 0.

    :param traced: it is looked at by its tracer.

    Source: ``kernel/exit.c`` 6.12 ``wait_consider_task``.
    """
    process = one.process
    if one.tracing is not None and not tracing.reparented(one):
        traced = True
    ended = process.code is not None if one is process.leader else one.state == ZOMBIE
    if ended:
        return _end_of(kernel, task, one) if traced or one.tracing is None else 0
    namespace = task.process.namespace
    if traced:
        at = one.stop if one.state == TRACED else None
        if at is None or at.listening or not at.code:
            return 0
        task.wait_status, at.code = at.code << 8 | 0x7F, 0
        return one.seen_from(namespace)
    if options & WUNTRACED and process.stopped and process.stop_code:
        task.wait_status, process.stop_code = process.stop_code << 8 | 0x7F, 0
        return one.seen_from(namespace)
    return 0


def _end_of(kernel: Kernel, task: Task, one: Task) -> int:
    """``wait_task_zombie``: reap it, unless its tracer waited and its parent is to do so too.

    Source: ``kernel/exit.c`` 6.12 ``wait_task_zombie``.
    """
    process = one.process
    number = one.seen_from(task.process.namespace)
    leads = one is process.leader
    code = process.code if leads else process.exiting_code
    task.wait_status = kernel.reaped = one.exit_code if code is None else code
    if not leads or tracing.reparented(one):
        tracing.unlink(kernel, one)
        ending.untraced(kernel, one)
    else:
        ending.reap(kernel, process)
    return number
