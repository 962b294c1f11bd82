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
from proctor.model.kernel import calls, delivery, ending, filters, life, notify, signals
from proctor.model.kernel.errors import NotInUserSpace
from proctor.model.kernel.features import NEWEST, features
from proctor.model.kernel.linux import BLOCKED, ENOSYS, NR, SIGKILL, SIGSYS
from proctor.model.kernel.programs import Arguments
from proctor.model.kernel.tasks import (
    MODE_DEAD,
    MODE_STRICT,
    RUNNING,
    STOPPED,
    TRACED,
    Frame,
    PidNamespace,
    Task,
)
from proctor.model.kernel.waits import Wait
from proctor.model.ptrace import tracing
from proctor.model.ptrace.numbers import PTRACE_EVENT_SECCOMP

_NO_ARGS: Arguments = (0, 0, 0, 0, 0, 0)
_STRICT = frozenset((NR["read"], NR["write"], NR["exit"], NR["rt_sigreturn"]))


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
        #: What kcmp(2) has compared, in its order.
        self.compared: list[object] = []
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

        :param perform: what happens if it is let through; by default :mod:`proctor.model.kernel.calls`
            knows by number.
        :returns: what the program sees, or BLOCKED if it did not come back (yet).
        :raises NotInUserSpace: if the task is not in user space.

        Source: ``arch/x86/entry/common.c`` 6.12 ``do_syscall_64``.
        """
        if task.frame is not None or task.state != RUNNING or task.exiting:
            raise NotInUserSpace(f"{task!r} cannot make a call: it is not in user space")
        task.frame = Frame(nr, args, arch, ip, perform)
        task.result = None
        return self._call(task)

    def _call(self, task: Task) -> int:
        """From the system-call instruction on: a tracer's stop first, then the filters.

        Source: ``kernel/entry/common.c`` 6.12 ``syscall_trace_enter`` ("Do seccomp after ptrace").
        """
        frame = task.frame
        assert frame is not None
        frame.ax = -ENOSYS
        if task.tracing is not None and tracing.at_call(
            self, task, True, lambda: self._entered(task, frame)
        ):
            return BLOCKED
        return self._filtered(task, frame)

    def _entered(self, task: Task, frame: Frame) -> None:
        """The tracer saw the entry; who is to die does not make the call any more.

        Source: ``kernel/entry/common.c`` 6.12 ``syscall_trace_enter``.
        """
        if task.killed:
            self.leave(task, frame.ax)
        else:
            self._filtered(task, frame)

    def _filtered(self, task: Task, frame: Frame) -> int:
        """Ask the filters, unless a tracer suspended them, and do what they say.

        Source: ``kernel/seccomp.c`` 6.12 ``__secure_computing``.
        """
        if task.mode and not tracing.suspends_seccomp(task):
            value = self._secure_computing(task, frame)
            if value is not None:
                return value if value == BLOCKED else self.leave(task, value)
        return self.run_call(task, frame)

    def is_no_call(self, nr: int) -> bool:
        """Whether nothing is called under this number: -1, and before 5.14 all negative ones."""
        return nr == -1 or (nr < 0 and "only_minus_one_skips" not in self.features)

    def run_call(self, task: Task, frame: Frame) -> int:
        """The filters let it through: do what the call does.

        A tracer that made -1 of the number skips it: the result is what is in the register.  Before
        5.14 that was so for every number beyond the table.

        Source: ``arch/x86/entry/common.c`` 5.14 ``do_syscall_64`` (b337b4965e3a), 6.12.
        """
        beyond = frame.perform is None and not 0 <= frame.nr < filters.BITMAP_CALLS
        if self.is_no_call(frame.nr) or (beyond and "only_minus_one_skips" not in self.features):
            value = frame.ax
        elif frame.perform is not None:
            value = frame.perform()
        else:
            value = calls.perform(self, task, frame)
        return value if value == BLOCKED else self.leave(task, value)

    def _secure_computing(self, task: Task, frame: Frame, rechecked: bool = False) -> int | None:
        """``__secure_computing``: None to run the call, its value, or BLOCKED.

        Source: ``kernel/seccomp.c`` 6.12 ``__seccomp_filter``; ``kernel/seccomp.c`` 5.0.
        """
        if task.mode == MODE_STRICT:
            allowed = _STRICT | filters.exempt(self.features)
            if frame.nr in allowed:
                return None
            self._doom(task)
            self.log.append((frame.nr, SECCOMP_RET_KILL_THREAD))
            ending.exit_thread(self, task, SIGKILL)
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
        if action == SECCOMP_RET_TRACE and rechecked:
            return None
        if action == SECCOMP_RET_TRACE and tracing.event_enabled(task, PTRACE_EVENT_SECCOMP):
            assert match is not None
            log, code = match.log, PTRACE_EVENT_SECCOMP
            if tracing.event(self, task, code, data, lambda _: self._traced(task, frame, log)):
                return BLOCKED
            return frame.ax  # about to die
        return self._refuse(task, frame, action, data, match is not None and match.log)

    def _refuse(self, task: Task, frame: Frame, action: int, data: int, log: bool) -> int:
        """ERRNO (capped, C028), TRAP, TRACE without a tracer, and every way to die.

        Source: ``kernel/seccomp.c`` 6.12 ``__seccomp_filter``.
        """
        if action in (SECCOMP_RET_ERRNO, SECCOMP_RET_TRAP, SECCOMP_RET_TRACE):
            if log:
                self.log.append((frame.nr, action))
            if action == SECCOMP_RET_ERRNO:
                return -min(data, MAX_ERRNO)
            if action == SECCOMP_RET_TRACE:
                return -ENOSYS
            signals.force(self, task, SIGSYS, core=False)
            return frame.nr
        self._doom(task)
        self.log.append((frame.nr, action))
        if action == SECCOMP_RET_KILL_THREAD and len(task.process.alive()) > 1:
            ending.exit_thread(self, task, SIGSYS)
            return BLOCKED
        signals.force(self, task, SIGSYS, core=True)
        return frame.nr

    def _doom(self, task: Task) -> None:
        """A verdict kills ``task``.  Source: ``kernel/seccomp.c`` 5.17 SECCOMP_MODE_DEAD."""
        if "mode_dead" in self.features:
            task.mode = MODE_DEAD

    def _traced(self, task: Task, frame: Frame, log: bool) -> None:
        """The tracer of SECCOMP_RET_TRACE saw the call; the filters are asked of what it is now.

        A negative number skips the call, with what is in the result register.

        Source: ``kernel/seccomp.c`` 6.12 ``__seccomp_filter``; selftests TRACE_syscall.*.
        """
        if task.killed or frame.nr < 0:
            if log:
                self.log.append((frame.nr, SECCOMP_RET_TRACE))
            self.leave(task, frame.ax)
        else:
            # Asked even if the tracer suspended the filters meanwhile: it is the same asking.
            value = self._secure_computing(task, frame, True)
            if value is None:
                self.run_call(task, frame)
            elif value != BLOCKED:
                self.leave(task, value)

    # Coming back ------------------------------------------------------------------------------
    def finish(self, task: Task, value: int) -> None:
        """A sleeping call is over with ``value``.

        Source: ``arch/x86/entry/common.c`` 6.12 ``do_syscall_64``.
        """
        task.wait = None
        task.state = RUNNING
        self.leave(task, value)

    def leave(self, task: Task, value: int) -> int:
        """From the end of a call to user space, by way of a tracer's stop and of signals.

        :returns: what the program sees, or BLOCKED if it did not get there.

        Source: ``kernel/entry/common.c`` 6.12 ``syscall_exit_work``, ``exit_to_user_mode_loop``.
        """
        frame = task.frame
        if frame is not None:
            frame.ax = value
            if frame.holds is not None:
                holds, frame.holds = frame.holds, None
                holds.put()
            if task.tracing is not None and tracing.at_call(
                self, task, False, lambda: self._left(task, frame.ax)
            ):
                return BLOCKED
        return self._left(task, value)

    def _left(self, task: Task, value: int) -> int:
        if task.sigpending or task.killed:
            return self.signalled(task, delivery.Delivery(value))
        return self._back(task, value)

    def _back(self, task: Task, value: int) -> int:
        """In user space: the result register is the program's.

        Source: ``arch/x86/entry/common.c`` 6.12 ``do_syscall_64``.
        """
        in_call = task.frame is not None
        task.frame = None
        if in_call:
            task.result = value
            if task.returned is not None:
                task.returned(task, value)
        return value

    def signalled(self, task: Task, way: delivery.Delivery) -> int:
        """Go on with the way to user space: signals, stops, death, or the call once more.

        Source: ``kernel/signal.c`` 6.12 ``get_signal``; ``arch/x86/kernel/signal.c`` 6.12
        ``arch_do_signal_or_restart``.
        """
        task.state = RUNNING
        how = delivery.deliver(self, task, way)
        if how == "done":
            return self._back(task, way.value)
        if how == "stopped":
            task.state = STOPPED
            task.held = True
            task.parked = way
        elif how == "dead":
            if task.killed and task.process.exiting_code is None:
                ending.exit_thread(self, task, SIGKILL)  # another thread makes execve(2)
            else:
                ending.exit_group(self, task, way.signal)
        elif how == "again":
            return self._call(task)
        elif how == "restart":
            frame = task.frame
            assert frame is not None
            frame.perform = task.restart  # the registers stay as they were, but for the number
            return self._call(task)
        return BLOCKED  # "traced" among others: the stop goes on by itself

    # Sleeping and running ---------------------------------------------------------------------
    def sleep(self, task: Task, wait: Wait) -> int:
        """``task`` sleeps on ``wait`` until woken; a signal that is there already wakes at once.

        Source: ``kernel/sched/core.c`` 6.12 ``__schedule`` (a pending signal keeps the task awake).
        """
        task.wait = wait
        task.state = "D" if wait.killable else "S"
        if task.killed or (task.sigpending and not wait.killable):
            self.wake(task)
        return BLOCKED

    def wake(self, task: Task) -> None:
        """Let ``task`` run when its turn comes.

        Source: ``kernel/sched/core.c`` 6.12 ``try_to_wake_up``.
        """
        if not task.queued and not task.exiting:
            task.queued = True
            self.runnable.append(task)

    def run(self, task: Task) -> None:
        """One woken task runs until it sleeps, is back in user space, or is gone.

        Source: ``kernel/sched/core.c`` 6.12 ``__schedule``.
        """
        task.queued = False
        if task.exiting:
            return
        if task.held:
            return  # woken before it stopped
        if task.parked is not None:
            way, task.parked = task.parked, None
            self.signalled(task, way)
        elif task.state == TRACED:
            tracing.leave(self, task)
        elif task.wait is not None:
            task.wait.resume(self, task)
        elif task.frame is None and (task.sigpending or task.killed):
            self.signalled(task, delivery.Delivery(0))

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
