"""A launched target: waiting for it, signalling it, and why it could not be started."""

from __future__ import annotations

import _thread
import errno as _errno
import os
import select
import signal
from typing import TYPE_CHECKING, Final

from proctor.errors import LaunchError, NestedListener
from proctor.kernel import pidfd as _pidfd

if TYPE_CHECKING:
    from proctor.kernel.start import Started

#: Look at a dead child of that kind (__WCLONE), and leave it to be waited for.
_LOOK: Final = os.WEXITED | os.WNOHANG | os.WNOWAIT | -0x80000000  # the sign bit of an int


class Target:
    """A launched process tree's first process.

    ::

        with proctor.launch(["sleep", "60"]) as target:
            assert isinstance(target, proctor.Target)
            target.send_signal(15)
            assert target.wait(None) == -15

    Owns a pidfd, the status descriptor and, until :meth:`take_listener`, the listener; all are
    closed by :meth:`close`.  As a context manager it kills and reaps what still runs at the end.
    """

    __slots__ = (
        "_command", "_lock", "_returncode", "_started", "_status_fd", "_tried",
        "listener", "pid", "pidfd", "wait_killable",
    )  # fmt: skip

    #: Process id as we see it; meaningful until :meth:`wait` returned.
    pid: int
    #: pidfd of the process; -1 once closed.
    pidfd: int
    #: The listener's descriptor, or None without a filter or once taken.
    listener: int | None
    #: Whether received calls cannot be interrupted by signals (WAIT_KILLABLE_RECV, Linux 5.19).
    wait_killable: bool

    def __init__(self, started: Started, command: str, tried: int, wait_killable: bool) -> None:
        self.pid = started.pid
        self.pidfd = started.pidfd
        self.listener = started.listener if started.listener >= 0 else None
        self.wait_killable = wait_killable
        self._status_fd = started.status_fd
        self._started = started
        self._command = command
        self._tried = tried
        self._returncode: int | None = None
        self._lock = _thread.allocate_lock()

    def take_listener(self) -> int:
        """The listener's descriptor, now the caller's to close.

        :raises ValueError: if there is none (any more)."""
        fd, self.listener = self.listener, None
        if fd is None:
            raise ValueError(f"{self._command!r} has no listener, or it was taken already")
        return fd

    def executed(self, timeout: float | None = None) -> bool:
        """Wait until the command runs (its execve succeeded) or died; False if time is over.

        :param timeout: seconds; None waits for ever.  Somebody must serve the listener meanwhile
            if the filter notifies execve.
        :raises LaunchError: if it could not be started: step "execve" and its errno.
        """
        if self._status_fd >= 0:
            if not _wait_readable(self._status_fd, timeout):
                self._raise_failure()  # known already, though its exit still waits for an answer
                return False
            os.close(self._status_fd)
            self._status_fd = -1
        self._raise_failure()
        return True

    def _raise_failure(self) -> None:
        failure = self._started.failure()
        if failure is not None:
            raise launch_error(failure[0], failure[1], self._command, self._tried)

    def killed_before_exec(self) -> int:
        """The signal that killed the process before it became the command; 0 if it became it.

        To be asked once :meth:`executed` said True.  exec makes SIGCHLD the exit signal (fs/exec.c),
        and only who has another one is a "clone child" to wait(2).
        """
        try:
            if os.waitid(os.P_PID, self.pid, _LOOK) is None:
                _wait_readable(self.pidfd, None)  # its descriptors are gone, it is on its way
            result = os.waitid(os.P_PID, self.pid, _LOOK)
        except ChildProcessError:
            return 0  # it is no clone child any more
        return result.si_status if result is not None and result.si_code != os.CLD_EXITED else 0

    @property
    def returncode(self) -> int | None:
        """Exit status, or minus the signal that killed it; None while it runs or is not waited for."""
        return self._returncode

    def poll(self) -> int | None:
        """Like :meth:`wait`, without waiting: None while it runs."""
        with self._lock:
            if self._returncode is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG | _pidfd.WALL)
                except ChildProcessError:
                    raise ChildProcessError(
                        _errno.ECHILD,
                        f"the exit status of {self._command!r} (pid {self.pid}) was taken by "
                        "somebody else: this process ignores SIGCHLD or waits for any child",
                    ) from None
                if pid:
                    self._returncode = os.waitstatus_to_exitcode(status)
            return self._returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process to end, and reap it.

        :param timeout: seconds; None waits for ever.
        :returns: exit status, or minus the number of the signal that killed it.
        :raises TimeoutError: if it still runs.
        :raises ChildProcessError: if somebody else reaped it.
        """
        if self._returncode is None:
            if not _wait_readable(self.pidfd, timeout):
                raise TimeoutError(_errno.ETIMEDOUT, f"{self._command!r} still runs")
            # A pidfd is readable once the process is dead; the reaping then does not block.
            self.poll()
            if self._returncode is None:  # dead, but a tracer has not let go of it
                with self._lock:
                    _, status = os.waitpid(self.pid, _pidfd.WALL)
                    self._returncode = os.waitstatus_to_exitcode(status)
        return self._returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to this very process (by pidfd); nothing happens if it is dead."""
        if self._returncode is None:
            _pidfd.send_signal(self.pidfd, number)

    def kill(self) -> None:
        """SIGKILL; works also while a call of it waits for an answer."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Close the descriptors that are still ours.  The process is left alone; one that was not
        waited for stays as a zombie, and without its listener its notified calls get ENOSYS."""
        fds = [self.pidfd, self._status_fd, -1 if self.listener is None else self.listener]
        self.pidfd = self._status_fd = -1
        self.listener = None
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pidfd >= 0 and self._returncode is None:
            self.kill()
            self.wait()
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "pidfd"):  # not if __init__ failed
            self.close()

    def __repr__(self) -> str:
        state = "running" if self._returncode is None else f"ended with {self._returncode}"
        return f"<Target {self._command!r} pid {self.pid} {state}>"


def _wait_readable(fd: int, timeout: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0, timeout * 1000)))


#: What was tried at each step, to be followed by a colon and the errno's own words.
_ATTEMPTS: Final[dict[str, str]] = {
    "mmap": "cannot set up the launch of {0!r}",
    "socketpair": "cannot set up the launch of {0!r}",
    "pipe2": "cannot set up the launch of {0!r}",
    "recvmsg": "cannot receive the descriptors of {0!r}; raise our limit of open files (ulimit -n)",
    "sendmsg": "cannot hand over the descriptors of {0!r}",
    "helper": "{0!r} was not started: its launching helper was killed",
    "setup": "{0!r} was killed before it could start",
    "clone": "cannot create a process for {0!r}, or the namespaces it is to have",
    "setgroups": "cannot set the supplementary groups of {0!r}, or forbid setting them",
    "uid_map": "cannot map user ids for {0!r}; more than our own id needs CAP_SETUID outside",
    "gid_map": "cannot map group ids for {0!r}; more than our own id needs CAP_SETGID outside",
    "setsid": "cannot start a session for {0!r}",
    "setpgid": "cannot put {0!r} into its process group",
    "tiocsctty": "cannot make the terminal the controlling one of {0!r}",
    "tcsetpgrp": "cannot put {0!r} into the foreground of the terminal",
    "mount": "cannot separate the mounts of {0!r} from ours",
    "dup2": "cannot give {0!r} its descriptors",
    "close_range": "cannot close our descriptors in {0!r}",
    "setgid": "cannot run {0!r} with this group id",
    "setuid": "cannot run {0!r} with this user id",
    "chdir": "cannot change to the directory {1!r} for {0!r}",
    "pdeathsig": "cannot tie the life of {0!r} to ours",
    "no_new_privs": "cannot set no_new_privs for {0!r}",
    "sigprocmask": "cannot unblock signals for {0!r}",
    "seccomp": "the kernel refuses the filter for {0!r}",
    "execve": "cannot run {0!r}",
}

#: What clone(2) refuses processes and namespaces for, by errno, and what helps.
_NO_CLONE: Final[dict[int, str]] = {
    _errno.ENOSPC: "there are as many as may be: see the limits in /proc/sys/user",
    _errno.EPERM: "namespaces want root, or a system that lets others make user namespaces",
    _errno.EAGAIN: "raise the limit of processes: ulimit -u, or pids.max of our cgroup",
}


def launch_error(
    step: str, number: int, command: str, tried: int, directory: str = ""
) -> LaunchError | NestedListener:
    """What the core's (step, errno) means, in one sentence.

    :param tried: how many places were tried for ``command``.
    :param directory: the working directory asked for.
    """
    if step == "seccomp" and number == _errno.EBUSY:
        return NestedListener()
    detail = _ATTEMPTS.get(step, "cannot launch {0!r} (" + step + ")").format(command, directory)
    if step == "clone" and number in _NO_CLONE:
        detail += f" ({_NO_CLONE[number]})"
    if number == _errno.EMFILE:
        detail += " (raise the limit of open files: ulimit -n)"
    if step == "execve" and tried > 1:
        detail += f" (tried {tried} places on PATH)"
    if step == "execve" and number == _errno.ENOENT and "/" in command and os.path.exists(command):
        detail += " (it is there, but the interpreter it names is not)"
    return LaunchError(step, number, detail)
