"""What every modelled program can do: make a call, and use descriptors.

:class:`proctor.model.kernel.program.Program` adds processes, signals, seccomp and listeners.

Sources: what a call does is in the modules this one leads to; here ``net/core/scm.c`` 6.12, and
fcntl(2), sendmsg(2), pidfd_getfd(2) for what the methods mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from proctor.kernel import abi
from proctor.model.kernel import pidfds
from proctor.model.kernel.calls import arguments
from proctor.model.kernel.files import File, Socket, socketpair
from proctor.model.kernel.linux import BLOCKED, EAGAIN, EBADF, EINVAL, NR
from proctor.model.kernel.machine import Kernel
from proctor.model.kernel.tasks import PidNamespace, Task


class Caller:
    """One task, seen from its own program; see :mod:`proctor.model.kernel.program`."""

    def __init__(self, kernel: Kernel, task: Task | None = None) -> None:
        self.kernel = kernel
        self.task = kernel.spawn() if task is None else task
        #: Whether everybody woken runs after each call.
        self.settles = True

    def __repr__(self) -> str:
        return f"<program {self.task!r}>"

    # What it is -------------------------------------------------------------------------------
    @property
    def pid(self) -> int:
        """Its process's number, as itself sees it."""
        return self.task.process.leader.tid

    @property
    def tid(self) -> int:
        """Its thread's number, as itself sees it."""
        return self.task.tid

    @property
    def state(self) -> str:
        """R, S, D, T, Z or X, as in /proc/PID/status."""
        return self.task.state

    @property
    def result(self) -> int | None:
        """What its last call returned; None while it lasts."""
        return self.task.result

    @property
    def status(self) -> int | None:
        """How its process ended (code << 8, or the signal); None while it lives."""
        return self.task.process.code

    def as_seen_by(self, other: Caller) -> int:
        """Its thread's number in the pid namespace of ``other``; 0 if it has none there."""
        return self.task.seen_from(other.task.process.namespace)

    # Calls in general -------------------------------------------------------------------------
    def call(
        self,
        name: str | int,
        *args: int,
        arch: int = abi.AUDIT_ARCH_X86_64,
        ip: int = 0,
        perform: Callable[[], int] | None = None,
    ) -> int:
        """Make a system call by name or number.

        :param perform: what it does if let through; by default what :mod:`proctor.model.kernel.calls`
            knows.
        """
        nr = NR[name] if isinstance(name, str) else name
        value = self.kernel.enter(
            self.task, nr, arguments(*args), arch=arch, ip=ip, perform=perform
        )
        if self.settles:
            self.kernel.settle()
            if value == BLOCKED and self.task.result is not None:
                value = self.task.result
        return value

    @property
    def namespace(self) -> PidNamespace:
        """The pid namespace it lives in."""
        return self.task.process.namespace

    # Descriptors ------------------------------------------------------------------------------
    def open(self, label: str = "file", flags: int = 0, cloexec: bool = False) -> int:
        """A new open file: its descriptor, or -EMFILE."""
        return self.call(
            "openat",
            perform=lambda: self.task.files.receive(
                File(label, flags), self.task.process.nofile, cloexec
            ),
        )

    def close(self, fd: int) -> int:
        """close(2)."""
        return self.call("close", fd)

    def dup(self, fd: int) -> int:
        """dup(2)."""
        return self.call("dup", fd)

    def dup2(self, old: int, new: int) -> int:
        """dup2(2)."""
        return self.call("dup2", old, new)

    def file(self, fd: int) -> File | None:
        """The open file behind a descriptor: for tests, which may look into /proc."""
        return self.task.files.get(fd, path_too=True)

    def fds(self) -> Mapping[int, File]:
        """The descriptor table."""
        return self.task.files.slots

    def limit_fds(self, soft: int) -> None:
        """setrlimit(RLIMIT_NOFILE).

        Source: ``kernel/sys.c`` 6.12 ``do_prlimit``.
        """
        self.task.process.nofile = soft

    def socketpair(self) -> tuple[int, int]:
        """socketpair(2)."""
        one, two = socketpair()
        limit = self.task.process.nofile
        return self.task.files.receive(one, limit, False), self.task.files.receive(
            two, limit, False
        )

    def sendmsg(self, fd: int, data: bytes, fds: Sequence[int] = ()) -> int:
        """sendmsg(2) with SCM_RIGHTS: the files are referenced from now on (``net/core/scm.c``).

        Source: ``net/core/scm.c`` 6.12 ``scm_fp_copy``; ``net/unix/af_unix.c`` 6.12.
        """

        def perform() -> int:
            socket = self._socket(fd)
            files = [self.task.files.get(number, path_too=True) for number in fds]
            if socket is None or None in files:
                return -EBADF
            failed = socket.failed()
            if failed:
                return failed
            peer = socket.peer
            if peer.closed:
                return -EINVAL
            peer.messages.append((data, [file.get() for file in files if file is not None]))
            return len(data)

        return self.call("sendmsg", fd, perform=perform)

    def recvmsg(self, fd: int, cloexec: bool = True) -> tuple[bytes, list[int]] | int:
        """recvmsg(2): bytes and new descriptors; what does not fit the limit is lost (C098).

        Source: ``net/core/scm.c`` 6.12 ``scm_detach_fds``.
        """
        got: list[tuple[bytes, list[int]]] = []

        def perform() -> int:
            socket = self._socket(fd)
            if socket is None:
                return -EBADF
            failed = socket.failed()
            if failed or not socket.messages:
                return failed or -EAGAIN
            data, files = socket.messages.pop(0)
            numbers: list[int] = []
            for file in files:
                number = self.task.files.receive(file, self.task.process.nofile, cloexec)
                if number >= 0:
                    numbers.append(number)
                file.put()
            got.append((data, numbers))
            return len(data)

        value = self.call("recvmsg", fd, perform=perform)
        return got[0] if got else value

    def _socket(self, fd: int) -> Socket | None:
        file = self.task.files.get(fd)
        inside = file.inside if file is not None else None
        return inside if isinstance(inside, Socket) else None

    def pidfd_open(self, pid: int, flags: int = 0) -> int:
        """pidfd_open(2)."""
        return self.call(
            "pidfd_open",
            pid,
            flags,
            perform=lambda: pidfds.open_pidfd(self.kernel, self.task, pid, flags),
        )

    def pidfd_getfd(self, pidfd: int, target: int) -> int:
        """pidfd_getfd(2)."""
        return self.call(
            "pidfd_getfd",
            pidfd,
            target,
            perform=lambda: pidfds.getfd(self.kernel, self.task, pidfd, target),
        )
