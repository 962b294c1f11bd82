"""Starting a target: from a command to a process under a filter whose listener we hold.

The native core does the work (its head comment says how, and why the hand-over also succeeds when
*every* system call is notified).  This module knows the defaults; :mod:`proctor.kernel.start` packs
values for the core, :mod:`proctor.kernel.target` is what is started.

Two things to know:

* :func:`spawn` returns *before* the target's execve has happened: execve itself may be notified,
  and then it waits for whoever serves the listener.  :meth:`Target.executed` has the last word.
* ``die_with_monitor`` hangs on the *thread* that calls :func:`spawn` (PR_SET_PDEATHSIG, prctl(2)):
  the target is killed when that thread ends.  Call it from a thread that lives as long as you do.
"""

from __future__ import annotations

import errno as _errno
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Union

from proctor.kernel import abi
from proctor.kernel.listener import check_listener
from proctor.kernel.start import Launch, is_open, launch
from proctor.kernel.target import Target, launch_error

__all__ = ["NAMESPACES", "IdRange", "Launch", "StrOrBytes", "Target", "launch", "spawn"]

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

#: Signals that Python ignores of its own accord, which no program expects to inherit.
_PYTHON_IGNORES: Final = (signal.SIGPIPE, signal.SIGXFSZ)


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
    :raises Unsupported: with a program, on a kernel before 5.9.
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
        _refuse_old_kernels()
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
            directory = "" if cwd is None else os.fsdecode(cwd)
            raise launch_error(step, number, command, len(candidates), directory) from None
        return Target(started, command, len(candidates), killable)


_young_enough = False


def _refuse_old_kernels() -> None:
    """Before anything is started; asked once per process.

    /proc says how many filters a thread has since the release that is needed, 5.9.  Where it does
    not (or /proc is not there) a listener of a process that never runs anything is asked.
    """
    global _young_enough  # noqa: PLW0603 - once per process is the point
    if _young_enough or _filters_are_counted():
        _young_enough = True
        return
    from proctor.kernel.probe import Throwaway

    try:
        throwaway = Throwaway()
    except OSError:
        return  # what fails here fails again with the target, and is said there
    with throwaway as listener:
        check_listener(listener)
    _young_enough = True


def _filters_are_counted() -> bool:
    try:
        with open("/proc/self/status", "rb") as file:
            return b"\nSeccomp_filters:" in file.read()
    except OSError:
        return False


def _candidates(file: bytes, environment: Sequence[bytes]) -> list[bytes]:
    """The places to try, as execvp(3) does, on the *target's* PATH."""
    if b"/" in file or not file:  # execvp(3): an empty name is ENOENT
        return [file]
    path = next((item[5:] for item in environment if item.startswith(b"PATH=")), None)
    if path is None:
        path = os.fsencode(os.defpath)
    # An empty part is the working directory; what is longer than any path is passed over.
    places = [place for place in path.split(b":") if len(place) < 4096]
    return [os.path.join(place or b".", file) for place in places] or [b""]


def _environment(env: Mapping[str, str] | Mapping[bytes, bytes] | None) -> list[bytes]:
    if env is None:  # as it is, whatever somebody put into it
        return [name + b"=" + value for name, value in os.environb.items()]
    result = []
    for key, value in env.items():
        name = os.fsencode(key)
        if not name or b"=" in name:
            raise ValueError(f"{key!r} cannot be the name of an environment variable")
        result.append(name + b"=" + os.fsencode(value))
    return result


def _pairs(fds: Mapping[int, int] | Sequence[tuple[int, int]] | None) -> list[tuple[int, int]]:
    if fds is None:
        return [(fd, fd) for fd in (0, 1, 2) if is_open(fd)]
    pairs = list(fds.items()) if isinstance(fds, Mapping) else list(fds)
    theirs = [pair[1] for pair in pairs]
    if len(set(theirs)) < len(theirs):
        raise ValueError("fds: two descriptors for one number of the target's")
    return pairs


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
