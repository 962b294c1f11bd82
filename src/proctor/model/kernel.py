"""The machine: entering and leaving calls, waking, sleeping, time, and who runs next.

Everything is deterministic: random numbers come from a seeded generator, time is a number that
:meth:`Kernel.advance` moves, and a task that was woken waits in :attr:`Kernel.runnable` until
somebody lets it run: :meth:`Kernel.settle` all in order, or a scheduler of one's own one by one.

Sources: ``kernel/entry/common.c``, ``kernel/seccomp.c`` (``__secure_computing``,
``__seccomp_filter``), ``arch/x86/entry`` (Linux 6.12).
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable

from proctor.kernel.abi import (
    AUDIT_ARCH_X86_64,
    MAX_ERRNO,
    SECCOMP_RET_ACTION_FULL,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_DATA,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_THREAD,
    SECCOMP_RET_LOG,
    SECCOMP_RET_TRACE,
    SECCOMP_RET_TRAP,
    SECCOMP_RET_USER_NOTIF,
)
from proctor.model import calls, filters, life, notify, signals
from proctor.model.errors import NotInUserSpace
from proctor.model.features import NEWEST, features
from proctor.model.linux import BLOCKED, ENOSYS, NR, SIGKILL, SIGSYS
from proctor.model.programs import Arguments
from proctor.model.tasks import MODE_STRICT, RUNNING, STOPPED, Frame, PidNamespace, Task
from proctor.model.waits import Wait

_NO_ARGS: Arguments = (0, 0, 0, 0, 0, 0)
_STRICT = frozenset((NR["read"], NR["write"], NR["exit"], NR["rt_sigreturn"]))
_UPROBES = frozenset((NR["uprobe"], NR["uretprobe"]))


class Kernel:
    """One modelled machine."""

    def __init__(
        self,
        profile: str = NEWEST,
        *,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        seed: int = 0,
        pid_limit: int = 1 << 22,
    ) -> None:
        self.features = features(profile, add, remove)
        self.random = random.Random(seed)
        self.namespace = PidNamespace(limit=pid_limit)
        #: Woken tasks that have not run yet, in order of waking.
        self.runnable: deque[Task] = deque()
        #: Seconds since boot.
        self.now = 0.0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_count = 0
        #: How the last reaped child ended.
        self.reaped = 0
        #: (call number, action, whether it was logged by request) that reached the audit log.
        self.log: list[tuple[int, int]] = []
        self.init = life.boot(self)

    def spawn(self) -> Task:
        """A new process, child of init, with nothing open."""
        task = life.fork(self, self.init)
        assert isinstance(task, Task)
        return task

    # Calls ------------------------------------------------------------------------------------
    def enter(
        self,
        task: Task,
        nr: int,
        args: Arguments = _NO_ARGS,
        *,
        arch: int = AUDIT_ARCH_X86_64,
        ip: int = 0,
        perform: Callable[[], int] | None = None,
    ) -> int:
        """``task`` makes a call.

        :param perform: what happens if it is let through; by default :mod:`proctor.model.calls`
            knows by number.
        :returns: what the program sees, or BLOCKED if it did not come back (yet).
        :raises NotInUserSpace: if the task is not in user space.
        """
        if task.frame is not None or task.state != RUNNING or task.exiting:
            raise NotInUserSpace(f"{task!r} cannot make a call: it is not in user space")
        task.frame = Frame(nr, args, arch, ip, perform)
        task.result = None
        return self._call(task)

    def _call(self, task: Task) -> int:
        """From the system-call instruction on."""
        frame = task.frame
        assert frame is not None
        if task.mode:
            value = self._secure_computing(task, frame)
            if value is not None:
                return value if value == BLOCKED else self.leave(task, value)
        return self.run_call(task, frame)

    def run_call(self, task: Task, frame: Frame) -> int:
        """The filters let it through: do what the call does."""
        value = frame.perform() if frame.perform is not None else calls.perform(self, task, frame)
        return value if value == BLOCKED else self.leave(task, value)

    def _secure_computing(self, task: Task, frame: Frame, rechecked: bool = False) -> int | None:
        """``__secure_computing``: None to run the call, its value, or BLOCKED.

        Source: ``kernel/seccomp.c`` 6.12 ``__seccomp_filter``; 000_d2dd6a52a6bc77ef.txt.
        """
        if task.mode == MODE_STRICT:
            allowed = _STRICT | _UPROBES if "uprobe_unfiltered" in self.features else _STRICT
            if frame.nr in allowed:
                return None
            self.log.append((frame.nr, SECCOMP_RET_KILL_THREAD))
            life.exit_thread(self, task, SIGKILL)
            return BLOCKED
        verdict, match = filters.decide(
            task.filter, frame.nr, frame.arch, frame.args, frame.ip, self.features
        )
        action, data = verdict & SECCOMP_RET_ACTION_FULL, verdict & SECCOMP_RET_DATA
        if action == SECCOMP_RET_ALLOW:
            return None
        if action == SECCOMP_RET_LOG:
            self.log.append((frame.nr, action))
            return None
        if action == SECCOMP_RET_USER_NOTIF:
            assert match is not None
            value = notify.notify(self, task, match, frame)
            if match.log and value != BLOCKED:
                self.log.append((frame.nr, action))
            return value
        if action == SECCOMP_RET_TRACE and not rechecked and task.tracer is not None:
            return self._trace(task, frame)
        if action == SECCOMP_RET_TRACE and rechecked:
            return None
        return self._refuse(task, frame, action, data, match is not None and match.log)

    def _refuse(self, task: Task, frame: Frame, action: int, data: int, log: bool) -> int:
        """ERRNO (capped, C028), TRAP, TRACE without a tracer, and every way to die."""
        if action in (SECCOMP_RET_ERRNO, SECCOMP_RET_TRAP, SECCOMP_RET_TRACE):
            if log:
                self.log.append((frame.nr, action))
            if action == SECCOMP_RET_ERRNO:
                return -min(data, MAX_ERRNO)
            if action == SECCOMP_RET_TRACE:
                return -ENOSYS
            signals.force(self, task, SIGSYS, core=False)
            return frame.nr
        self.log.append((frame.nr, action))
        if action == SECCOMP_RET_KILL_THREAD and len(task.process.alive()) > 1:
            life.exit_thread(self, task, SIGSYS)
            return BLOCKED
        signals.force(self, task, SIGSYS, core=True)
        return frame.nr

    def _trace(self, task: Task, frame: Frame) -> int | None:
        """SECCOMP_RET_TRACE with a tracer, who may change the call; then the filters run again.

        Source: ``kernel/seccomp.c`` 6.12; selftests TRACE_syscall.*.
        """
        assert task.tracer is not None
        answer = task.tracer(frame)
        if frame.nr < 0:
            return -ENOSYS if answer is None else answer
        return self._secure_computing(task, frame, rechecked=True)

    # Coming back ------------------------------------------------------------------------------
    def finish(self, task: Task, value: int) -> None:
        """A sleeping call is over with ``value``."""
        task.wait = None
        task.state = RUNNING
        self.leave(task, value)

    def leave(self, task: Task, value: int) -> int:
        """From the end of a call to user space, by way of signals.

        :returns: what the program sees, or BLOCKED if it did not get there.
        """
        frame = task.frame
        if frame is not None and frame.holds is not None:
            holds, frame.holds = frame.holds, None
            holds.put()
        if task.sigpending or task.killed:
            return self._signalled(task, signals.Delivery(value))
        return self._back(task, value)

    def _back(self, task: Task, value: int) -> int:
        in_call = task.frame is not None
        task.frame = None
        if in_call:
            task.result = value
            if task.returned is not None:
                task.returned(task, value)
        return value

    def _signalled(self, task: Task, way: signals.Delivery) -> int:
        task.state = RUNNING
        how = signals.deliver(self, task, way)
        if how == "done":
            return self._back(task, way.value)
        if how == "stopped":
            task.state = STOPPED
            task.parked = way
        elif how == "dead":
            if task.killed and task.process.exiting_code is None:
                life.exit_thread(self, task, SIGKILL)  # another thread makes execve(2)
            else:
                life.exit_group(self, task, way.value)
        elif how == "again":
            return self._call(task)
        else:
            frame = task.frame
            assert frame is not None
            frame.perform = task.restart  # the registers stay as they were, but for the number
            return self._call(task)
        return BLOCKED

    # Sleeping and running ---------------------------------------------------------------------
    def sleep(self, task: Task, wait: Wait) -> int:
        """``task`` sleeps on ``wait`` until woken; a signal that is there already wakes at once."""
        task.wait = wait
        task.state = "D" if wait.killable else "S"
        if task.killed or (task.sigpending and not wait.killable):
            self.wake(task)
        return BLOCKED

    def wake(self, task: Task) -> None:
        """Let ``task`` run when its turn comes."""
        if not task.queued and not task.exiting:
            task.queued = True
            self.runnable.append(task)

    def run(self, task: Task) -> None:
        """One woken task runs until it sleeps, is back in user space, or is gone."""
        task.queued = False
        if task.exiting:
            return
        if task.state == STOPPED:
            way, task.parked = task.parked, None
            assert way is not None
            self._signalled(task, way)
        elif task.wait is not None:
            task.wait.resume(self, task)
        elif task.frame is None and (task.sigpending or task.killed):
            self._signalled(task, signals.Delivery(0))

    def settle(self) -> None:
        """Let everybody run who was woken, in order, until nobody is left."""
        while self.runnable:
            self.run(self.runnable.popleft())

    # Time -------------------------------------------------------------------------------------
    def at(self, when: float, do: Callable[[], None]) -> None:
        """Call ``do`` once it is ``when``."""
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, do))

    def advance(self, seconds: float) -> None:
        """Time goes by; timers ring in order, and whom they wake runs before the next one."""
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            self.now, _, do = heapq.heappop(self._timers)
            do()
            self.settle()
        self.now = until

    def next_timer(self) -> float | None:
        """When the next timer rings; None without one."""
        return self._timers[0][0] if self._timers else None
