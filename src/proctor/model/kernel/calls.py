"""What calls do once the filters let them through, as far as the model knows calls.

Only what has to do with tasks, descriptors, time and seccomp itself is here; a number the model
does not know is ENOSYS, as invented numbers are (C035).  Whatever needs more than registers
(ioctl, seccomp, execve...) comes with its own ``perform`` from :mod:`proctor.model.kernel.program`.

Sources: ``kernel/sys.c``, ``kernel/exit.c``, ``kernel/signal.c``, ``kernel/time/hrtimer.c``,
``fs/file.c`` (Linux 6.12).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proctor.kernel.abi import AUDIT_ARCH_X86_64
from proctor.model.kernel import ending, signals
from proctor.model.kernel.linux import (
    BLOCKED,
    EBADF,
    EINTR,
    EINVAL,
    ENOSYS,
    ERESTART_RESTARTBLOCK,
    ERESTARTNOHAND,
    ESRCH,
    NR,
    O_CLOEXEC,
)
from proctor.model.kernel.waits import Wait

if TYPE_CHECKING:
    from proctor.model.kernel.machine import Kernel
    from proctor.model.kernel.programs import Arguments
    from proctor.model.kernel.tasks import Frame, Task


class Sleep(Wait):
    """A sleep until a moment, or until a signal (``hrtimer_nanosleep``, ``pause``)."""

    __slots__ = ("interrupted", "rang")

    def __init__(self, interrupted: int) -> None:
        super().__init__()
        self.interrupted = interrupted
        self.rang = False

    def resume(self, kernel: Kernel, task: Task) -> None:
        """The time has come, or a signal has."""
        if self.rang:
            kernel.finish(task, 0)
        elif task.sigpending or task.killed:
            kernel.finish(task, self.interrupted)


def sleep_until(kernel: Kernel, task: Task, when: float) -> int:
    """nanosleep(2) and clock_nanosleep(2): interrupted, restart_syscall(2) sleeps the rest.

    Source: ``kernel/time/hrtimer.c`` 6.12; selftest syscall_restart; C086.
    """
    if when <= kernel.now:
        return 0
    waiting = Sleep(-ERESTART_RESTARTBLOCK)
    task.restart = lambda: sleep_until(kernel, task, when)

    def ring() -> None:
        waiting.rang = True
        if task.wait is waiting:
            kernel.wake(task)

    kernel.at(when, ring)
    return kernel.sleep(task, waiting)


def _nanosleep(kernel: Kernel, task: Task, frame: Frame) -> int:
    """The first argument of nanosleep, the third of clock_nanosleep: here whole seconds."""
    seconds = frame.args[0 if frame.nr == NR["nanosleep"] else 2]
    return sleep_until(kernel, task, kernel.now + seconds)


def _pause(kernel: Kernel, task: Task, frame: Frame) -> int:
    return kernel.sleep(task, Sleep(-ERESTARTNOHAND))


def _restart(kernel: Kernel, task: Task, frame: Frame) -> int:
    """restart_syscall(2) with nothing to restart (``do_no_restart_syscall``)."""
    return -EINTR


def _dup(kernel: Kernel, task: Task, frame: Frame) -> int:
    file = task.files.get(_fd(frame.args[0]), path_too=True)
    return -EBADF if file is None else task.files.receive(file, task.process.nofile, False)


def _dup_at(kernel: Kernel, task: Task, frame: Frame) -> int:
    """dup2(2) and dup3(2)."""
    old, new = _fd(frame.args[0]), _fd(frame.args[1])
    file = task.files.get(old, path_too=True)
    if frame.nr == NR["dup3"] and (frame.args[2] & ~O_CLOEXEC or old == new):
        return -EINVAL
    if file is None:
        return -EBADF
    if old == new:
        return new
    cloexec = frame.nr == NR["dup3"] and bool(frame.args[2] & O_CLOEXEC)
    return task.files.receive_at(new, file, task.process.nofile, cloexec)


def _fd(register: int) -> int:
    """A descriptor argument is the lower half of its register."""
    return register & 0xFFFFFFFF


def _close(kernel: Kernel, task: Task, frame: Frame) -> int:
    return task.files.close(_fd(frame.args[0]))


def _kill(kernel: Kernel, task: Task, frame: Frame) -> int:
    """kill(2) of one process and tgkill(2) of one thread."""
    thread = frame.nr == NR["tgkill"]
    pid, number = frame.args[1 if thread else 0], frame.args[2 if thread else 1]
    namespace = task.process.namespace
    target = namespace.tasks.get(pid)
    if target is None:
        return -ESRCH
    if not 0 <= number <= 64:
        return -EINVAL
    if number:
        from_above = namespace is not target.process.namespace
        chosen = target if thread else target.process.leader
        signals.send(kernel, number, chosen, not thread, from_above)
    return 0


def _getppid(kernel: Kernel, task: Task, frame: Frame) -> int:
    parent = task.process.parent
    return 0 if parent is None else parent.leader.seen_from(task.process.namespace)


def _exit(kernel: Kernel, task: Task, frame: Frame) -> int:
    ending.exit_thread(kernel, task, (frame.args[0] & 0xFF) << 8)
    return BLOCKED


def _exit_group(kernel: Kernel, task: Task, frame: Frame) -> int:
    ending.exit_group(kernel, task, (frame.args[0] & 0xFF) << 8)
    return BLOCKED


_TABLE: dict[int, Callable[[Kernel, Task, Frame], int]] = {
    NR["getpid"]: lambda kernel, task, frame: task.process.leader.tid,
    NR["gettid"]: lambda kernel, task, frame: task.tid,
    NR["getppid"]: _getppid,
    NR["nanosleep"]: _nanosleep,
    NR["clock_nanosleep"]: _nanosleep,
    NR["pause"]: _pause,
    NR["restart_syscall"]: _restart,
    NR["dup"]: _dup,
    NR["dup2"]: _dup_at,
    NR["dup3"]: _dup_at,
    NR["close"]: _close,
    NR["kill"]: _kill,
    NR["tgkill"]: _kill,
    NR["exit"]: _exit,
    NR["exit_group"]: _exit_group,
}


def perform(kernel: Kernel, task: Task, frame: Frame) -> int:
    """Do what ``frame`` asks for; -ENOSYS if the model does not know the number.

    Numbers mean x86-64's calls; other architectures' calls are ENOSYS unless they bring their own
    ``perform``.
    """
    does = _TABLE.get(frame.nr) if frame.arch == AUDIT_ARCH_X86_64 else None
    return -ENOSYS if does is None else does(kernel, task, frame)


def arguments(*values: int) -> Arguments:
    """Six registers from up to six values."""
    six = [value & 0xFFFFFFFFFFFFFFFF for value in values] + [0] * (6 - len(values))
    return (six[0], six[1], six[2], six[3], six[4], six[5])
