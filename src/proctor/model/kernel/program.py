"""A program of the modelled machine: makes calls, gets values.

Every method is a system call and goes through the filters of its task like any other, so that a
monitor that lives under a filter of its own blocks on its own calls (C097, C118).  Values are as
the kernel gives them: zero or more, or a negative errno; BLOCKED while the call lasts, and then
:attr:`Program.result` is None until it is over.

After each call the machine settles (whoever was woken runs), unless ``program.settles`` is False.

Sources: what a call does is in the modules this one leads to; seccomp(2), ptrace(2), wait4(2),
poll(2) for what the methods mean.
"""

from __future__ import annotations

from collections.abc import Callable

from proctor.kernel import abi
from proctor.kernel.notification import Notification
from proctor.model.kernel import install, kcmp, life, poll, reaping, signals
from proctor.model.kernel.caller import Caller
from proctor.model.kernel.calls import arguments, sleep_until
from proctor.model.kernel.files import File
from proctor.model.kernel.ioctl import Buffer, ioctl
from proctor.model.kernel.linux import (
    BLOCKED,
    EBADF,
    POLLIN,
    POLLOUT,
    PR_GET_SECCOMP,
    PR_SET_NO_NEW_PRIVS,
)
from proctor.model.kernel.tasks import DEFAULT, IGNORE, Disposition, Task
from proctor.model.ptrace import requests as ptrace
from proctor.model.ptrace import tracing
from proctor.model.ptrace.numbers import PTRACE_EVENT_CLONE, PTRACE_EVENT_FORK


class Refused(Exception):
    """No child was made; ``value`` is what clone(2) returned (a negative errno, or BLOCKED)."""

    def __init__(self, value: int) -> None:
        super().__init__(f"clone was answered with {value}")
        self.value = value


class Program(Caller):
    """One task, seen from its own program."""

    _buffer: bytearray

    # Processes --------------------------------------------------------------------------------
    def _born(self, make: Callable[[], Task | int], event: int) -> Program:
        """clone(2), and a program for the child.

        Source: ``kernel/fork.c`` 6.12 ``kernel_clone``.
        """
        made: list[Task] = []

        def perform() -> int:
            task = make()
            if isinstance(task, int):
                return task
            made.append(task)
            number = task.seen_from(self.task.process.namespace)
            return tracing.bore(self.kernel, self.task, task, event, number)

        value = self.call("clone", perform=perform)
        if not made:
            raise Refused(value)
        child = Program(self.kernel, made[0])
        child.settles = self.settles
        return child

    def fork(self, share_files: bool = False) -> Program:
        """fork(2), or with ``share_files`` clone(2) with CLONE_FILES.

        :raises Refused: if there is no child.
        """
        return self._born(lambda: life.fork(self.kernel, self.task, share_files), PTRACE_EVENT_FORK)

    def thread(self) -> Program:
        """A thread more.

        :raises Refused: if there is none.
        """
        return self._born(lambda: life.thread(self.kernel, self.task), PTRACE_EVENT_CLONE)

    def unshare_pids(self) -> int:
        """unshare(CLONE_NEWPID)."""
        return self.call("unshare", 0x20000000, perform=lambda: life.unshare_pids(self.task))

    def execve(self) -> int:
        """execve(2) of something that just goes on."""
        return self.call("execve", perform=lambda: life.execve(self.kernel, self.task))

    def exit(self, status: int = 0) -> int:
        """exit_group(2)."""
        return self.call("exit_group", status)

    def wait(self, child: Program | None = None, options: int = 0) -> int:
        """wait4(2): the number of a child that ended, or of a traced thread that ended or stopped.

        What there is to say of it is in :attr:`wait_status`.
        """
        wanted = None if child is None else reaping.whom(child.task)
        return self.call(
            "wait4", perform=lambda: reaping.wait4(self.kernel, self.task, wanted, options)
        )

    @property
    def wait_status(self) -> int:
        """What its last :meth:`wait` said: code << 8, the signal, or a stop << 8 | 0x7f."""
        return self.task.wait_status

    # Tracing ----------------------------------------------------------------------------------
    def ptrace(
        self, request: int, target: Program | None = None, addr: int = 0, data: ptrace.Data = 0
    ) -> int:
        """ptrace(2) of ``target``'s thread; see :func:`proctor.model.ptrace.requests.ptrace`."""
        pid = 0 if target is None else target.as_seen_by(self)
        return self.call(
            "ptrace",
            request,
            pid,
            perform=lambda: ptrace.ptrace(self.kernel, self.task, request, pid, addr, data),
        )

    def kcmp(self, one: Program, other: Program, kind: int, first: int, second: int) -> int:
        """kcmp(2): 0 if the two are the same, 1 or 2 if not."""
        pids = one.as_seen_by(self), other.as_seen_by(self)
        return self.call(
            "kcmp",
            *pids,
            kind,
            first,
            second,
            perform=lambda: kcmp.kcmp(self.kernel, self.task, *pids, kind, first, second),
        )

    # Signals ----------------------------------------------------------------------------------
    def kill(self, target: Program, number: int) -> int:
        """kill(2)."""
        return self.call("kill", target.task.process.leader.seen_from(self.namespace), number)

    def tgkill(self, target: Program, number: int) -> int:
        """tgkill(2)."""
        leader = target.task.process.leader.seen_from(self.namespace)
        return self.call("tgkill", leader, target.as_seen_by(self), number)

    def handle(self, number: int, restart: bool = False, mask: int = 0) -> None:
        """sigaction(2) with a handler; not filtered here, for programs set up beforehand."""
        does = Disposition("handler", restart, mask)
        life.sigaction(self.task.process, number, does)

    def ignore(self, number: int) -> None:
        """signal(2) SIG_IGN."""
        life.sigaction(self.task.process, number, IGNORE)

    def default(self, number: int) -> None:
        """signal(2) SIG_DFL."""
        life.sigaction(self.task.process, number, DEFAULT)

    def block(self, *numbers: int) -> None:
        """sigprocmask(2) SIG_SETMASK."""
        signals.set_blocked(self.kernel, self.task, signals.bit(*numbers))
        if self.settles:
            self.kernel.settle()

    # seccomp ----------------------------------------------------------------------------------
    def seccomp(self, operation: int, flags: int = 0, argument: bytes | int | None = None) -> int:
        """seccomp(2); see :func:`proctor.model.kernel.install.seccomp`."""
        return self.call(
            "seccomp",
            operation,
            flags,
            perform=lambda: install.seccomp(self.kernel, self.task, operation, flags, argument),
        )

    def install(self, program: bytes, flags: int = 0) -> int:
        """seccomp(SECCOMP_SET_MODE_FILTER)."""
        return self.seccomp(abi.SECCOMP_SET_MODE_FILTER, flags, program)

    def listen(self, program: bytes, flags: int = 0) -> int:
        """:meth:`install` with NEW_LISTENER: the listener's descriptor."""
        return self.install(program, flags | abi.SECCOMP_FILTER_FLAG_NEW_LISTENER)

    def prctl(self, option: int, value: int = 0, argument: bytes | None = None) -> int:
        """prctl(2)."""
        return self.call(
            "prctl",
            option,
            value,
            perform=lambda: install.prctl(self.kernel, self.task, option, value, argument),
        )

    def no_new_privs(self) -> int:
        """prctl(PR_SET_NO_NEW_PRIVS, 1)."""
        return self.prctl(PR_SET_NO_NEW_PRIVS, 1)

    def mode(self) -> int:
        """prctl(PR_GET_SECCOMP)."""
        return self.prctl(PR_GET_SECCOMP)

    # The listener -----------------------------------------------------------------------------
    def ioctl(self, fd: int, request: int, argument: Buffer) -> int:
        """ioctl(2) on a listener."""
        return self.call(
            "ioctl",
            fd,
            request,
            perform=lambda: ioctl(self.kernel, self.task, fd, request, argument),
        )

    def recv(self, fd: int) -> Notification | int:
        """NOTIF_RECV into a zeroed buffer: the notification, a negative errno, or BLOCKED.

        Once a blocked one is over, :meth:`received` has the notification.
        """
        self._buffer = bytearray(abi.SECCOMP_NOTIF.size)
        value = self.ioctl(fd, abi.SECCOMP_IOCTL_NOTIF_RECV, self._buffer)
        return self.received() if value == 0 else value

    def received(self) -> Notification:
        """What the last RECV received."""
        id, pid, flags, nr, arch, ip, *args = abi.SECCOMP_NOTIF.unpack(self._buffer)
        return Notification(id, pid, nr, arch, arguments(*args), ip, flags)

    def send(self, fd: int, id: int, val: int = 0, error: int = 0, flags: int = 0) -> int:
        """NOTIF_SEND."""
        raw = bytearray(abi.SECCOMP_NOTIF_RESP.pack(id, val, error, flags))
        return self.ioctl(fd, abi.SECCOMP_IOCTL_NOTIF_SEND, raw)

    def let_run(self, fd: int, id: int) -> int:
        """NOTIF_SEND with CONTINUE."""
        return self.send(fd, id, flags=abi.SECCOMP_USER_NOTIF_FLAG_CONTINUE)

    def id_valid(self, fd: int, id: int, old_number: bool = False) -> int:
        """NOTIF_ID_VALID; with ``old_number`` under its first number."""
        number = (
            abi.SECCOMP_IOCTL_NOTIF_ID_VALID_WRONG_DIR
            if old_number
            else abi.SECCOMP_IOCTL_NOTIF_ID_VALID
        )
        return self.ioctl(fd, number, bytearray(id.to_bytes(8, "little")))

    def addfd(
        self, fd: int, id: int, srcfd: int, flags: int = 0, newfd: int = 0, newfd_flags: int = 0
    ) -> int:
        """NOTIF_ADDFD."""
        raw = bytearray(abi.SECCOMP_NOTIF_ADDFD.pack(id, flags, srcfd, newfd, newfd_flags))
        return self.ioctl(fd, abi.SECCOMP_IOCTL_NOTIF_ADDFD, raw)

    def set_flags(self, fd: int, flags: int) -> int:
        """NOTIF_SET_FLAGS."""
        return self.ioctl(fd, abi.SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags)

    # Waiting ----------------------------------------------------------------------------------
    def poll(self, fd: int, events: int = POLLIN | POLLOUT, timeout: float | None = 0) -> int:
        """poll(2) of one descriptor: its bits, 0 for none in time, or BLOCKED."""
        waiting = poll.Poll([(fd, events)])
        value = self.call(
            "poll", perform=lambda: poll.poll(self.kernel, self.task, waiting, timeout)
        )
        return value if value < 0 or value == BLOCKED else waiting.found.get(fd, 0)

    def epoll(self) -> int:
        """epoll_create1(EPOLL_CLOEXEC)."""
        return self.call("epoll_create1", perform=self._open_epoll)

    def _open_epoll(self) -> int:
        file = File("epoll", inside=poll.Epoll(self.kernel))
        return self.task.files.receive(file, self.task.process.nofile, True)

    def epoll_add(self, epoll: int, fd: int, events: int) -> int:
        """EPOLL_CTL_ADD; the descriptor's number is its data."""

        def perform() -> int:
            instance = poll.epoll_of(self.task, epoll)
            file = self.task.files.get(fd)
            if isinstance(instance, int) or file is None:
                return -EBADF
            return instance.add(file, fd, events)

        return self.call("epoll_ctl", epoll, 1, fd, perform=perform)

    def epoll_wait(self, epoll: int, timeout: float | None = 0) -> dict[int, int] | int:
        """epoll_wait(2): descriptors to bits, a negative errno, or BLOCKED."""
        instance = poll.epoll_of(self.task, epoll)
        if isinstance(instance, int):
            return instance
        waiting = poll.EpollWait(instance, 64)
        value = self.call(
            "epoll_wait",
            epoll,
            perform=lambda: poll.epoll_wait(self.kernel, self.task, waiting, timeout),
        )
        return value if value < 0 or value == BLOCKED else dict(waiting.found)

    def sleep(self, seconds: float) -> int:
        """clock_nanosleep(2)."""

        return self.call(
            "clock_nanosleep",
            perform=lambda: sleep_until(self.kernel, self.task, self.kernel.now + seconds),
        )
