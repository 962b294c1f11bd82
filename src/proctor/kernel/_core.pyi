"""The native core: its manual.

Four jobs that Python cannot do well: launching a target (no Python between fork and exec),
the receive-answer loop, talking to a listener with signals held back, reading a caller's memory.
Every function raises :class:`OSError` with the kernel's errno; translation into our error tree
is the business of the Python modules above (:mod:`proctor.kernel.listener`,
:mod:`proctor.kernel.launch`, :mod:`proctor.kernel.memory`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import final

@final
class Notification:
    """One received ``struct seccomp_notif``; immutable, fields read straight from the struct."""

    def __new__(
        cls,
        id: int,
        pid: int,
        nr: int,
        arch: int,
        args: tuple[int, int, int, int, int, int] = ...,
        ip: int = 0,
        flags: int = 0,
    ) -> Notification: ...
    @property
    def id(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def nr(self) -> int: ...
    @property
    def arch(self) -> int: ...
    @property
    def ip(self) -> int: ...
    @property
    def args(self) -> tuple[int, int, int, int, int, int]: ...

# seccomp(2) -----------------------------------------------------------------------------------
def seccomp(operation: int, flags: int, argument: int | bytes | bytearray | None = None) -> int:
    """seccomp(2) as it is.  ``argument``: None is NULL, an int is that address, a buffer is its
    address (a writable one may be filled by the kernel).  Returns the call's value."""

def install(program: bytes, flags: int) -> int:
    """SECCOMP_SET_MODE_FILTER on the calling thread with ``program`` (packed ``sock_filter``).

    Returns 0, the listener (NEW_LISTENER) or, with TSYNC and no TSYNC_ESRCH, the TID of the
    thread that could not be synchronised.  Whoever calls this in a supervisor's own process will
    deadlock on his own calls (G1): tests and targets only."""

# The listener ---------------------------------------------------------------------------------
def recv(fd: int) -> Notification:
    """SECCOMP_IOCTL_NOTIF_RECV into a zeroed buffer; blocks without the GIL.  Blocking signals in
    this thread is the caller's business (C038, C039): EINTR is raised, not retried."""

def send(fd: int, id: int, value: int, error: int, flags: int) -> None:
    """SECCOMP_IOCTL_NOTIF_SEND.  ``error`` as the kernel wants it (0 or negative)."""

def id_valid(fd: int, id: int) -> bool:
    """SECCOMP_IOCTL_NOTIF_ID_VALID (falling back to the first, wrong-direction number)."""

def addfd(fd: int, id: int, srcfd: int, flags: int, newfd: int, newfd_flags: int) -> int:
    """SECCOMP_IOCTL_NOTIF_ADDFD, with every signal blocked in this thread for its duration (C074:
    on kernels without the 2026 fix an interrupted ADDFD|SEND makes the call return 0).
    Returns the number in the target."""

def set_flags(fd: int, flags: int) -> None:
    """SECCOMP_IOCTL_NOTIF_SET_FLAGS; the word goes by value (G12)."""

def pidfd_open(pid: int, flags: int) -> int:
    """pidfd_open(2); ``flags`` may be PIDFD_THREAD (O_EXCL, Linux 6.9).  The result is CLOEXEC."""

def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2) (Linux 5.6).  The result is CLOEXEC."""

# A caller's memory ----------------------------------------------------------------------------
# ``pid`` is the TID of a notification.  All of these use process_vm_readv(2) and, where that is
# refused or missing, /proc/TID/mem.  Whoever uses the bytes must first see ID_VALID *after* the
# read: while the notification is valid the TID cannot have been recycled.
def read_memory(pid: int, address: int, size: int) -> bytes:
    """Up to ``size`` bytes; fewer at an unmapped page (C103).  EFAULT when not one byte is
    readable, ESRCH when the process is gone, EPERM/EACCES when it may not be looked at (G16)."""

def read_string(pid: int, address: int, limit: int) -> bytes:
    """The bytes up to, without, the first NUL.  Never touches a page beyond the NUL.
    EFAULT if the memory ends first, ENAMETOOLONG if ``limit`` bytes hold no NUL."""

def read_checked(listener: int, id: int, pid: int, address: int, limit: int, string: bool) -> bytes:
    """:func:`read_string` (or :func:`read_memory`) and then ID_VALID, in one call.
    ENOENT if the notification is no longer valid (whatever the read said)."""

def read_pointers(pid: int, address: int, limit: int, width: int) -> list[int]:
    """A NULL-terminated array of ``width`` (4 or 8) byte pointers, the NULL left out.
    E2BIG if ``limit`` entries hold no NULL."""

def read_strings(pid: int, address: int, limit: int, total: int, width: int) -> list[bytes]:
    """argv or envp: the strings of a NULL-terminated pointer array, at most ``limit`` of them and
    ``total`` bytes together (E2BIG)."""

def read_iovec(pid: int, address: int, count: int, width: int) -> list[tuple[int, int]]:
    """``count`` (at most 1024, else EINVAL) ``struct iovec`` as (base, length) pairs."""

# Launching ------------------------------------------------------------------------------------
@final
class Launch:
    """A launched target.  ``pidfd``, ``listener`` (-1 without a filter) and ``status_fd`` belong to
    whoever called :func:`launch`, all CLOEXEC.  ``status_fd`` reads as end-of-file once the target
    execed or died; only then does :meth:`failure` have its last word."""

    pid: int
    pidfd: int
    listener: int
    status_fd: int
    def failure(self) -> tuple[str, int] | None:
        """(step, errno) if the target could not be started; None if nothing failed (yet)."""

def launch(
    argv: Sequence[bytes],
    *,
    candidates: Sequence[bytes],
    env: Sequence[bytes] | None = None,
    cwd: bytes | None = None,
    fds: Sequence[tuple[int, int]] = ((0, 0), (1, 1), (2, 2)),
    program: bytes | None = None,
    filter_flags: int = 0,
    no_new_privs: bool | None = None,
    namespaces: int = 0,
    uid_map: bytes | None = None,
    gid_map: bytes | None = None,
    deny_setgroups: bool = False,
    uid: int = -1,
    gid: int = -1,
    groups: Sequence[int] | None = None,
    umask: int = -1,
    process_group: int = -1,
    new_session: bool = False,
    foreground_tty: int = -1,
    parent_death_signal: int = 0,
    ignored_signals: int = 0,
) -> Launch:
    """Start ``argv`` under ``program``.  See the head of ``_core.c`` for how.

    It returns once the filter is installed and *before* execve has succeeded, since execve itself
    may be notified.  The GIL is released, signals are blocked meanwhile; no SIGCHLD comes from the
    helper process, nor from a target that never execed (waitpid needs ``__WALL`` for that one).

    :param candidates: absolute or cwd-relative paths to try in turn, as execvp(3) does: ENOENT,
        ENOTDIR, ENODEV, ESTALE, ETIMEDOUT and EACCES go on to the next, EACCES is remembered.
    :param env: ``NAME=value`` strings, or None for ours.
    :param fds: (ours, target's) pairs; every other descriptor is closed on exec.
    :param filter_flags: with NEW_LISTENER the listener comes back in the result.  EINVAL for
        WAIT_KILLABLE_RECV is the caller's to retry (Linux before 5.19).
    :param no_new_privs: True sets it, False does not, None sets it only if the kernel wants it
        (EACCES without).
    :param namespaces: CLONE_NEW* bits for the target.
    :param uid_map: bytes for /proc/PID/uid_map, written from outside; likewise ``gid_map``.
    :param deny_setgroups: writes "deny" to /proc/PID/setgroups before the gid_map.
    :param process_group: 0 for a new group, n for an existing one, -1 to stay.
    :param foreground_tty: descriptor (ours) of a terminal whose foreground group the target's
        group becomes, or -1.
    :param new_session: setsid(2) in place of ``process_group``; ``foreground_tty`` then also becomes
        the controlling terminal.
    :param parent_death_signal: sent to the target when the *thread* that called us ends.
    :param ignored_signals: bit ``n - 1`` leaves signal ``n`` ignored in the target; every other
        has its default action, and none is blocked.
    :raises OSError: with ``filename`` set to the step that failed, for what fails before the
        filter is installed: nothing is left over then.  What fails later :meth:`Launch.failure`
        tells.  The steps, in their order: mmap, socketpair, clone, pipe2, sendmsg, setgroups,
        uid_map, gid_map, helper (was killed), setup (the target was killed), setsid, setpgid,
        tiocsctty, tcsetpgrp, mount, dup2, close_range, setgid, setuid, chdir, pdeathsig,
        no_new_privs, sigprocmask, seccomp, recvmsg (EMFILE: our own table is full), execve.
    """

# The loop -------------------------------------------------------------------------------------
Wire = tuple[int, int, int]
Route = Callable[[Notification], Wire | None]

@final
class Engine:
    """Receive, look the handler up, call it, answer.

    One thread calls :meth:`run_once` over and over; any thread may call the other methods.
    Nothing is called back but from :meth:`run_once`.  See :class:`proctor.supervisor.ports.Engine`
    for the contract, which the pure-Python engine shares.  Here ``fd`` stands for the listener;
    the engine works on a duplicate of its own, which it gives up when the listener is removed."""

    def __new__(cls) -> Engine: ...
    def add(
        self, fd: int, routes: Mapping[int, Route], fallback: Route, ended: Callable[[], object]
    ) -> None:
        """Start to serve.  ``routes`` is copied.  FileExistsError if ``fd`` is served already,
        ValueError once closed."""

    def remove(self, fd: int) -> None:
        """Stop to serve; an unknown number is no error.  What was received and not yet routed is
        answered ENOSYS, as if the listener had been closed.  If :meth:`run_once` runs, the engine's
        duplicate is closed when it ends (it is woken)."""

    def run_once(self, timeout: float | None) -> int:
        """One round: how many notifications were received.

        Seconds are rounded up to milliseconds.  It may come back early with 0, after a Python
        signal handler ran.  A reply after the caller is gone or was answered is ignored.  Of
        several exceptions in a round the first is raised, the others go to sys.unraisablehook.
        OSError if epoll or RECV fail in a way that is no ordinary event."""

    def wake(self) -> None:
        """Make a waiting, or else the next, :meth:`run_once` return."""

    def close(self) -> None:
        """Give up everything, at the end of a running :meth:`run_once`; idempotent."""
