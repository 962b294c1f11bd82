"""Starting a target: from a command to a process under a filter whose listener we hold.

The native core does the work (its head comment says how, and why the hand-over also succeeds when
*every* system call is notified).  This module turns Python values into what it takes, the core's
(step, errno) into one sentence, and gives the running target a small object.

Two things to know:

* :func:`spawn` returns *before* the target's execve has happened: execve itself may be notified,
  and then it waits for whoever serves the listener.  :meth:`Target.executed` has the last word.
* ``die_with_monitor`` hangs on the *thread* that calls :func:`spawn` (PR_SET_PDEATHSIG, prctl(2)):
  the target is killed when that thread ends.  Call it from a thread that lives as long as you do.
"""

from __future__ import annotations

import _thread
import errno as _errno
import mmap
import os
import select
import signal
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Union

from proctor.kernel import _core, abi
from proctor.kernel.errors import LaunchError, NestedListener

if TYPE_CHECKING:
    from types import TracebackType

#: What names a file or an argument.
StrOrBytes = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
#: (first id inside, first id outside, how many), as a line of /proc/PID/uid_map.
IdRange = tuple[int, int, int]

#: Names of namespaces, as in /proc/PID/ns and unshare(1), to CLONE_NEW* (sched.h).
NAMESPACES: Final[dict[str, int]] = {
    "mnt": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}

#: Before its execve the target's exit signal is not SIGCHLD: only __WALL (wait(2)) sees it then.
_WALL: Final = 0x40000000
#: Signals that Python ignores of its own accord, which no program expects to inherit.
_PYTHON_IGNORES: Final = (signal.SIGPIPE, signal.SIGXFSZ)


#: What helper and target leave on the shared page: three words of their own, errno, step.
_BOARD: Final = struct.Struct("=12xi20s")


class Launch:
    """What :func:`launch` started.  The descriptors belong to the caller, all CLOEXEC."""

    __slots__ = ("_board", "listener", "pid", "pidfd", "status_fd")

    #: Process id as we see it.
    pid: int
    #: pidfd of the process.
    pidfd: int
    #: Its listener, or -1.
    listener: int
    #: Reads as end-of-file once the target execed or died.
    status_fd: int

    def __init__(self, board: mmap.mmap, numbers: tuple[int, int, int, int]) -> None:
        self._board = board
        self.pid, self.pidfd, self.listener, self.status_fd = numbers

    def failure(self) -> tuple[str, int] | None:
        """(step, errno) if the target could not be started; None if nothing failed, of which one
        can be sure once ``status_fd`` shows end-of-file."""
        number: int = _BOARD.unpack_from(self._board)[0]
        if number == 0:
            return None
        step: bytes = _BOARD.unpack_from(self._board)[1]
        return step.partition(b"\0")[0].decode(), number


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
    """Start ``argv`` with nothing guessed and nothing translated; most want :func:`spawn`.

    It returns once the filter is installed and *before* execve has succeeded.  No SIGCHLD comes
    from the helper process, nor from a target that never execed (``__WALL`` waits for that one).

    :param candidates: absolute or cwd-relative paths to try in turn, as execvp(3) does: ENOENT,
        ENOTDIR, ENODEV, ESTALE, ETIMEDOUT and EACCES go on to the next, EACCES is remembered.
    :param env: ``NAME=value`` strings, or None for ours.
    :param fds: (ours, target's) pairs; every other descriptor is closed on exec.
    :param filter_flags: with NEW_LISTENER the listener comes back in the result.
    :param no_new_privs: True sets it, False does not, None sets it only if the kernel wants it
        (EACCES without).
    :param namespaces: CLONE_NEW* bits.
    :param uid_map: bytes for /proc/PID/uid_map, written from outside; likewise ``gid_map``.
    :param deny_setgroups: writes "deny" to /proc/PID/setgroups before the gid_map.
    :param process_group: 0 for a new group, n for an existing one, -1 to stay.
    :param new_session: setsid(2) in place of ``process_group``; ``foreground_tty`` then also becomes
        the controlling terminal.
    :param foreground_tty: descriptor of ours of a terminal whose foreground group the target's
        group becomes, or -1.
    :param parent_death_signal: sent to the target when the *thread* that called us ends.
    :param ignored_signals: bit ``n - 1`` leaves signal ``n`` ignored in the target; every other has
        its default action, and none is blocked.
    :raises OSError: with ``filename`` set to the step that failed, for what fails before the filter
        is installed: nothing is left over then.  What fails later :meth:`Launch.failure` tells.
        The steps, in their order: dup2 (a descriptor of ours is not open), socketpair, clone,
        pipe2, sendmsg, setgroups, uid_map, gid_map, helper (was killed), setup (the target was
        killed), setsid, setpgid, tiocsctty, tcsetpgrp, mount, dup2, close_range, setgroups,
        setgid, setuid, chdir, pdeathsig, no_new_privs, sigprocmask, seccomp, recvmsg (EMFILE: our
        own table is full), execve.
    """
    if program is not None and (len(program) % 8 or not 0 < len(program) <= 8 * 65535):
        raise OSError(_errno.EINVAL, os.strerror(_errno.EINVAL), "seccomp")
    if cwd is not None and b"\0" in cwd:
        raise ValueError("embedded null byte in cwd")
    for fd, _ in fds:
        if not _is_open(fd):
            raise OSError(_errno.EBADF, os.strerror(_errno.EBADF), "dup2")
    board = mmap.mmap(-1, _BOARD.size)
    numbers = _core.launch(
        board,
        _blob(argv),
        _blob(candidates),
        _blob(_environment(None) if env is None else env),
        cwd,
        b"".join(struct.pack("=iii", ours, theirs, -1) for ours, theirs in fds),
        program,
        filter_flags,
        -1 if no_new_privs is None else int(no_new_privs),
        namespaces,
        uid_map,
        gid_map,
        deny_setgroups,
        uid,
        gid,
        None if groups is None else struct.pack(f"={len(groups)}I", *groups),
        umask,
        process_group,
        new_session,
        foreground_tty,
        parent_death_signal,
        ignored_signals,
    )
    return Launch(board, numbers)


def _blob(strings: Sequence[bytes]) -> bytes:
    """The strings, each followed by a NUL, as C wants them."""
    if any(b"\0" in string for string in strings):
        raise ValueError("embedded null byte in an argument, a path or the environment")
    return b"".join(string + b"\0" for string in strings)


class Target:
    """A launched process tree's first process.

    Owns a pidfd, the status descriptor and, until :meth:`take_listener`, the listener; all are
    closed by :meth:`close`.  As a context manager it kills and reaps what still runs at the end.
    """

    __slots__ = (
        "_command", "_launch", "_lock", "_returncode", "_status_fd", "_tried",
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

    def __init__(self, launch: Launch, command: str, tried: int, wait_killable: bool) -> None:
        self.pid = launch.pid
        self.pidfd = launch.pidfd
        self.listener = launch.listener if launch.listener >= 0 else None
        self.wait_killable = wait_killable
        self._status_fd = launch.status_fd
        self._launch = launch
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
        failure = self._launch.failure()
        if failure is not None:
            raise _launch_error(failure[0], failure[1], self._command, self._tried)

    @property
    def returncode(self) -> int | None:
        """Exit status, or minus the signal that killed it; None while it runs or is not waited for."""
        return self._returncode

    def poll(self) -> int | None:
        """Like :meth:`wait`, without waiting: None while it runs."""
        with self._lock:
            if self._returncode is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG | _WALL)
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
                    _, status = os.waitpid(self.pid, _WALL)
                    self._returncode = os.waitstatus_to_exitcode(status)
        return self._returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to this very process (by pidfd); nothing happens if it is dead."""
        if self._returncode is None:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                pass

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
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


def spawn(
    argv: Sequence[StrOrBytes],
    *,
    program: bytes | None = None,
    executable: StrOrBytes | None = None,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    cwd: StrOrBytes | None = None,
    fds: Mapping[int, int] | Sequence[tuple[int, int]] | None = None,
    namespaces: Iterable[str] = (),
    uid_map: Sequence[IdRange] | None = None,
    gid_map: Sequence[IdRange] | None = None,
    allow_setgroups: bool | None = None,
    uid: int | None = None,
    gid: int | None = None,
    groups: Sequence[int] | None = None,
    umask: int | None = None,
    process_group: int | None = None,
    new_session: bool = False,
    foreground_tty: int | None = None,
    die_with_monitor: bool = False,
    ignored_signals: Iterable[int] | None = None,
    no_new_privs: bool | None = None,
    wait_killable: bool = True,
    log: bool = False,
) -> Target:
    """Start ``argv`` under ``program``.

    :param argv: the command and its arguments.  A command without a slash is looked for on the
        target's PATH.
    :param program: packed ``sock_filter``; None starts it without a filter (and a listener).
    :param executable: the file to run instead of ``argv[0]``.
    :param env: the whole environment; None passes ours.
    :param cwd: directory to change to, with the target's rights; None stays.
    :param fds: {ours: target's} or pairs of them: the target's whole table.  None passes those of
        0, 1 and 2 that are open.
    :param namespaces: new namespaces, names from :data:`NAMESPACES`.
    :param uid_map: ranges for a new user namespace, written from outside: more than the one range
        of one id (our own) needs CAP_SETUID here.  None makes us its root: ``[(0, euid, 1)]``.
    :param gid_map: the same for groups.
    :param allow_setgroups: False writes "deny" to /proc/PID/setgroups; None does so unless we are
        root, since the kernel demands it then.
    :param uid: real, effective and saved uid; None stays, but becomes 0 in a new user namespace
        whose map has one.  ``gid`` likewise, and ``groups`` become empty with it where they can.
    :param umask: file mode creation mask; None stays.
    :param process_group: 0 for a group of its own, n to join one, None to stay in ours.
    :param new_session: setsid(2); ``process_group`` is then ignored.
    :param foreground_tty: a terminal (descriptor of ours) whose foreground process group the
        target's becomes; with ``new_session`` it also becomes its controlling terminal.
    :param die_with_monitor: SIGKILL for the target when the *calling thread* ends.
    :param ignored_signals: signals the target starts with ignored; all others have their default
        action and none is blocked.  None passes on what we ignore, as nohup(1) needs, less
        SIGPIPE and SIGXFSZ, which Python ignores for itself.
    :param no_new_privs: None sets it only where the kernel demands it for the filter.
    :param wait_killable: ask for WAIT_KILLABLE_RECV; :attr:`Target.wait_killable` says if it is so.
    :param log: SECCOMP_FILTER_FLAG_LOG.
    :raises LaunchError: with ``step`` and ``errno``, for what fails before the hand-over.
    :raises NestedListener: if a listener already sits above us.
    """
    arguments = [os.fsencode(item) for item in argv]
    if not arguments:
        raise ValueError("no command given")
    file = os.fsencode(executable) if executable is not None else arguments[0]
    environment = _environment(env)
    candidates = _candidates(file, environment)
    bits = 0
    namespaces = tuple(namespaces)
    for name in namespaces:
        if name not in NAMESPACES:
            raise ValueError(f"unknown namespace {name!r}: use {', '.join(NAMESPACES)}")
        bits |= NAMESPACES[name]
    deny_setgroups = False
    if "user" not in namespaces and (uid_map is not None or gid_map is not None):
        raise ValueError('uid_map and gid_map need "user" among the namespaces')
    if bits & NAMESPACES["user"]:
        uid_map = ((0, os.geteuid(), 1),) if uid_map is None else uid_map
        gid_map = ((0, os.getegid(), 1),) if gid_map is None else gid_map
        deny_setgroups = os.geteuid() != 0 if allow_setgroups is None else not allow_setgroups
        if uid is None and _maps_root(uid_map):
            uid = 0
        if gid is None and _maps_root(gid_map):
            gid = 0
            groups = () if groups is None and not deny_setgroups else groups
    flags = 0
    if program is not None:
        flags = abi.SECCOMP_FILTER_FLAG_NEW_LISTENER
        flags |= abi.SECCOMP_FILTER_FLAG_LOG if log else 0
        flags |= abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV if wait_killable else 0
    options: dict[str, Any] = {
        "candidates": candidates,
        "env": environment,
        "cwd": None if cwd is None else os.fsencode(cwd),
        "fds": _pairs(fds),
        "program": program,
        "no_new_privs": no_new_privs,
        "namespaces": bits,
        "uid_map": _map_text(uid_map),
        "gid_map": _map_text(gid_map),
        "deny_setgroups": deny_setgroups,
        "uid": -1 if uid is None else uid,
        "gid": -1 if gid is None else gid,
        "groups": groups,
        "umask": -1 if umask is None else umask,
        "process_group": -1 if process_group is None else process_group,
        "new_session": new_session,
        "foreground_tty": -1 if foreground_tty is None else foreground_tty,
        "parent_death_signal": signal.SIGKILL if die_with_monitor else 0,
        "ignored_signals": _signal_bits(ignored_signals),
    }
    command = os.fsdecode(file)
    while True:
        killable = bool(flags & abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
        try:
            started = launch(arguments, filter_flags=flags, **options)
        except OSError as problem:
            step, number = str(problem.filename), problem.errno or 0
            if step == "seccomp" and number == _errno.EINVAL and killable:
                flags &= ~abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV  # before Linux 5.19
                continue
            raise _launch_error(step, number, command, len(candidates), cwd) from None
        return Target(started, command, len(candidates), killable)


def _candidates(file: bytes, environment: Sequence[bytes]) -> list[bytes]:
    """The places to try, as execvp(3) does, on the *target's* PATH."""
    if b"/" in file:
        return [file]
    path = next((item[5:] for item in environment if item.startswith(b"PATH=")), None)
    if path is None:
        path = os.fsencode(os.defpath)
    return [os.path.join(place or b".", file) for place in path.split(b":")]


def _environment(env: Mapping[str, str] | Mapping[bytes, bytes] | None) -> list[bytes]:
    result = []
    for key, value in (os.environb if env is None else env).items():
        name = os.fsencode(key)
        if not name or b"=" in name:
            raise ValueError(f"{key!r} cannot be the name of an environment variable")
        result.append(name + b"=" + os.fsencode(value))
    return result


def _pairs(fds: Mapping[int, int] | Sequence[tuple[int, int]] | None) -> list[tuple[int, int]]:
    if fds is None:
        return [(fd, fd) for fd in (0, 1, 2) if _is_open(fd)]
    pairs = list(fds.items()) if isinstance(fds, Mapping) else list(fds)
    theirs = [pair[1] for pair in pairs]
    if len(set(theirs)) < len(theirs):
        raise ValueError("fds: two descriptors for one number of the target's")
    return pairs


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _maps_root(ranges: Sequence[IdRange]) -> bool:
    return any(inside == 0 for inside, _, _ in ranges)


def _map_text(ranges: Sequence[IdRange] | None) -> bytes | None:
    if not ranges:
        return None
    return b"".join(b"%d %d %d\n" % tuple(line) for line in ranges)


def _signal_bits(ignored: Iterable[int] | None) -> int:
    bits = 0
    if ignored is None:
        # Asked of the kernel: signal.getsignal knows nothing of 32 and 33, which libc hides.
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"SigIgn:"):
                    bits = int(line.split()[1], 16)
        for pythons in _PYTHON_IGNORES:
            bits &= ~(1 << (pythons - 1))
        return bits
    for number in ignored:
        bits |= 1 << (number - 1)
    return bits


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
    "clone": "cannot create a process for {0!r}, with the namespaces asked for",
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


def _launch_error(
    step: str, number: int, command: str, tried: int, cwd: StrOrBytes | None = None
) -> LaunchError | NestedListener:
    if step == "seccomp" and number == _errno.EBUSY:
        return NestedListener()
    directory = os.fsdecode(cwd) if cwd is not None else ""
    detail = _ATTEMPTS.get(step, "cannot launch {0!r} (" + step + ")").format(command, directory)
    if step == "execve" and tried > 1:
        detail += f" (tried {tried} places on PATH)"
    if step == "execve" and number == _errno.ENOENT and "/" in command and os.path.exists(command):
        detail += " (it is there, but the interpreter it names is not)"
    return LaunchError(step, number, detail)
