"""What a launch is to do: from options, as people give them, to values as the native core takes them.

:func:`plan` knows the defaults and refuses what cannot be; a :class:`Plan` has nothing left to guess
and never changes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Union, Unpack

from proctor.given import MOST_ID, MOST_NUMBER, one, refuse_unknown, several, whole
from proctor.kernel import abi
from proctor.records import NamedTuple, TypedDict

#: What names a file or an argument.
StrOrBytes = Union[str, bytes, os.PathLike[str], os.PathLike[bytes]]
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


class LaunchOptions(TypedDict, total=False):
    """How a command is started; what is left out is as it is here.

    :param executable: the file to run instead of ``argv[0]``.
    :param env: the whole environment; None passes ours.
    :param cwd: directory to change to, with the target's rights.
    :param namespaces: new namespaces, names from :data:`NAMESPACES`.
    :param uid_map: ranges for a new user namespace, written from outside: more than the one range
        of one id (our own) needs CAP_SETUID here.  None makes us its root: ``[(0, euid, 1)]``.
    :param gid_map: the same for groups.
    :param allow_setgroups: False writes "deny" to /proc/PID/setgroups; None does so unless we are
        root, since the kernel demands it then.
    :param uid: real, effective and saved uid; None stays, but becomes 0 in a new user namespace
        whose map has one.  ``gid`` likewise, and ``groups`` become empty with it where they can.
    :param umask: file mode creation mask.
    :param process_group: 0 for a group of its own, n to join one.
    :param new_session: setsid(2); ``process_group`` is then ignored.
    :param foreground_tty: a terminal (descriptor of ours) whose foreground process group the
        target's becomes; with ``new_session`` it also becomes its controlling terminal.
    :param die_with_monitor: SIGKILL for the target when the *thread* that launches it ends
        (PR_SET_PDEATHSIG, prctl(2)): launch from a thread that lives as long as you do.
    :param ignored_signals: signals the target starts with ignored; all others have their default
        action.  None passes on what we ignore, as nohup(1) needs, less SIGPIPE and SIGXFSZ, which
        Python ignores for itself.
    :param blocked_signals: signals the target starts with blocked; none unless it is said.
    :param no_new_privs: None sets it only where the kernel demands it for the filter.
    :param wait_killable: ask for WAIT_KILLABLE_RECV (Linux 5.19), which is the default.
    :param log: SECCOMP_FILTER_FLAG_LOG.
    """

    executable: StrOrBytes | None
    env: Mapping[str, str] | Mapping[bytes, bytes] | None
    cwd: StrOrBytes | None
    namespaces: Iterable[str]
    uid_map: Sequence[IdRange] | None
    gid_map: Sequence[IdRange] | None
    allow_setgroups: bool | None
    uid: int | None
    gid: int | None
    groups: Sequence[int] | None
    umask: int | None
    process_group: int | None
    new_session: bool
    foreground_tty: int | None
    die_with_monitor: bool
    ignored_signals: Iterable[int] | None
    blocked_signals: Iterable[int]
    no_new_privs: bool | None
    wait_killable: bool
    log: bool


class TargetOptions(LaunchOptions, total=False):
    """What is said of a command that is launched by hand, besides how it is started.

    :param program: packed ``sock_filter``; without one there is no filter and no listener.
    :param listen: False installs it without a listener: what it notifies is ENOSYS, unless a filter
        above has one and notifies the same.
    :param marks: so many filters that let everything run are installed before it, by whose number
        (``Seccomp_filters`` of proc_pid_status(5), Linux 5.9) its processes can be told from others.
    :param fds: {ours: target's} or pairs of them: the target's whole table.  None passes those of
        0, 1 and 2 that are open.
    """

    program: bytes | None
    listen: bool
    marks: int
    fds: Mapping[int, int] | Sequence[tuple[int, int]] | None


class Plan(NamedTuple):
    """What ``_core.launch`` takes behind the board, in its order."""

    argv: Sequence[bytes]
    #: Paths to try in turn, absolute or relative to the target's working directory, as execvp(3)
    #: does: ENOENT, ENOTDIR, ENODEV, ESTALE, ETIMEDOUT and EACCES go on to the next, EACCES is
    #: remembered.  Those that come to nothing are passed over before there is a filter.  A file of
    #: no known format is not given to a shell.
    candidates: Sequence[bytes]
    #: ``NAME=value`` strings.
    env: Sequence[bytes] = ()
    cwd: bytes | None = None
    #: (ours, target's); every other descriptor is closed on exec.
    fds: Sequence[tuple[int, int]] = ()
    program: bytes | None = None
    #: With NEW_LISTENER the listener comes back.
    filter_flags: int = 0
    #: 1 sets it, 0 does not, -1 sets it only if the kernel wants it (EACCES without).
    no_new_privs: int = -1
    #: CLONE_NEW*.
    namespaces: int = 0
    #: For /proc/PID/uid_map, written from outside; likewise ``gid_map``.
    uid_map: bytes | None = None
    gid_map: bytes | None = None
    #: Writes "deny" to /proc/PID/setgroups before the gid_map.
    deny_setgroups: bool = False
    uid: int = -1
    gid: int = -1
    groups: Sequence[int] | None = None
    umask: int = -1
    #: 0 for a new group, n for an existing one, -1 to stay.
    process_group: int = -1
    new_session: bool = False
    foreground_tty: int = -1
    #: Sent to the target when the thread that launched it ends.
    death_signal: int = 0
    #: Bit ``n - 1`` leaves signal ``n`` ignored; every other has its default action.
    ignored_signals: int = 0
    #: Likewise the signals that it starts with blocked.
    blocked_signals: int = 0
    #: Filters that let everything run, before the program.
    marks: int = 0


def plan(argv: Sequence[StrOrBytes], **options: Unpack[TargetOptions]) -> Plan:
    """The plan of starting ``argv`` with these options.

    :param argv: the command and its arguments.  A command without a slash is looked for on the
        target's PATH.
    :raises ValueError: no command, an unknown namespace, maps without a user namespace, a number that cannot be...
    :raises TypeError: an unknown option, with the nearest that there is; a value that is something else than its own.
    """
    refuse_unknown(options, TargetOptions.__annotations__)
    refuse_word(argv)
    arguments = tuple(_text("an argument", item) for item in several("argv", argv, "words"))
    if not arguments:
        raise ValueError("no command given")
    executable, cwd = options.get("executable"), options.get("cwd")
    environment = _environment(options.get("env"))
    program = options.get("program")
    flags = 0
    if program is not None:
        one("program", program, (bytes, bytearray, memoryview), "a packed filter")
    if program is not None:
        flags = abi.SECCOMP_FILTER_FLAG_LOG if options.get("log") else 0
        if options.get("listen", True):
            flags |= abi.SECCOMP_FILTER_FLAG_NEW_LISTENER
            if options.get("wait_killable", True):
                flags |= abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    wanted = several("namespaces", options.get("namespaces", ()), "names of namespaces")
    for name in wanted:
        if name not in NAMESPACES:
            raise ValueError(f"unknown namespace {name!r}: use {', '.join(NAMESPACES)}")
    uid_map = _ranges("uid_map", options.get("uid_map"))
    gid_map = _ranges("gid_map", options.get("gid_map"))
    uid, gid = options.get("uid"), options.get("gid")
    groups = options.get("groups")
    if groups is not None:
        groups = tuple([
            whole("groups", each, 0, MOST_ID) for each in several("groups", groups, "group ids")
        ])  # fmt: skip
    deny_setgroups = False
    if "user" in wanted:
        uid_map = ((0, os.geteuid(), 1),) if uid_map is None else uid_map
        gid_map = ((0, os.getegid(), 1),) if gid_map is None else gid_map
        allowed = options.get("allow_setgroups")
        deny_setgroups = os.geteuid() != 0 if allowed is None else not allowed
        if uid is None and _maps_root(uid_map):
            uid = 0
        if gid is None and _maps_root(gid_map):
            gid = 0
            groups = () if groups is None and not deny_setgroups else groups
    elif uid_map is not None or gid_map is not None:
        raise ValueError('uid_map and gid_map need "user" among the namespaces')
    no_new_privs = options.get("no_new_privs")
    if no_new_privs is not None:
        one("no_new_privs", no_new_privs, bool, "True, False or None")
    return Plan(
        argv=arguments,
        candidates=_candidates(
            _text("executable", executable) if executable is not None else arguments[0], environment
        ),
        env=environment,
        cwd=None if cwd is None else _text("cwd", cwd),
        fds=_pairs(options.get("fds")),
        program=program,
        filter_flags=flags,
        no_new_privs=-1 if no_new_privs is None else int(no_new_privs),
        namespaces=sum(NAMESPACES[name] for name in {*wanted}),
        uid_map=_map_text(uid_map),
        gid_map=_map_text(gid_map),
        deny_setgroups=deny_setgroups,
        uid=_or_stay("uid", uid, MOST_ID),
        gid=_or_stay("gid", gid, MOST_ID),
        groups=groups,
        umask=_or_stay("umask", options.get("umask"), 0o777),
        process_group=_or_stay("process_group", options.get("process_group"), MOST_NUMBER),
        new_session=options.get("new_session", False),
        foreground_tty=_or_stay("foreground_tty", options.get("foreground_tty"), MOST_NUMBER),
        death_signal=signal.SIGKILL if options.get("die_with_monitor") else 0,
        ignored_signals=_ignored(options.get("ignored_signals")),
        blocked_signals=_signal_bits("blocked_signals", options.get("blocked_signals", ())),
        marks=whole("marks", options.get("marks", 0), 0),
    )


def refuse_word(argv: object) -> None:
    """:raises TypeError: it is one word, of which each letter would be one."""
    if isinstance(argv, (str, bytes, os.PathLike)):
        words = argv.split() if isinstance(argv, (str, bytes)) else [argv]
        shell = ', or, for a shell, ["sh", "-c", it]' if len(words) > 1 else ""
        raise TypeError(
            f"{argv!r} is one word: a command is a list of them, such as {words or [argv]}{shell}"
        )


def _text(what: str, given: Any) -> bytes:
    return os.fsencode(one(what, given, (str, bytes, os.PathLike), "a text, bytes or a path"))


def _ranges(what: str, given: Sequence[IdRange] | None) -> tuple[IdRange, ...] | None:
    if given is None:
        return None
    wanted = "(first inside, first outside, how many)"
    ranges: list[IdRange] = []
    for line in several(what, given, f"ranges {wanted}"):
        numbers = several(what, line, f"ranges {wanted}")
        if len(numbers) != 3:
            raise ValueError(f"{what}={given!r}: a range is {wanted}")
        first, outside = (whole(what, each, 0, MOST_ID) for each in numbers[:2])
        ranges.append((first, outside, whole(what, numbers[2], 1, MOST_ID + 1)))
    return tuple(ranges)


def _or_stay(what: str, number: int | None, most: int) -> int:
    return -1 if number is None else whole(what, number, 0, most)


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
    for key, value in one("env", env, Mapping, "a mapping of names to values").items():
        name = _text("a name in env", key)
        if not name or b"=" in name:
            raise ValueError(f"{key!r} cannot be the name of an environment variable")
        result.append(name + b"=" + _text(f"env[{key!r}]", value))
    return result


def is_open(fd: int) -> bool:
    """Whether the number is a descriptor of ours."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _pairs(fds: Mapping[int, int] | Sequence[tuple[int, int]] | None) -> list[tuple[int, int]]:
    if fds is None:
        return [(fd, fd) for fd in (0, 1, 2) if is_open(fd)]
    wanted = "{ours: target's} or pairs of them"
    pairs: list[tuple[int, int]] = []
    for pair in several("fds", fds.items() if isinstance(fds, Mapping) else fds, wanted):
        numbers = [
            whole("fds", each, 0, MOST_NUMBER) for each in several("fds", pair, "pairs of numbers")
        ]
        if len(numbers) != 2:
            raise ValueError(f"fds={fds!r}: {wanted} are wanted")
        pairs.append((numbers[0], numbers[1]))
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


def _ignored(given: Iterable[int] | None) -> int:
    if given is not None:
        return _signal_bits("ignored_signals", given)
    bits = 0
    # Asked of the kernel: signal.getsignal knows nothing of 32 and 33, which libc hides.
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"SigIgn:"):
                bits = int(line.split()[1], 16)
    for pythons in _PYTHON_IGNORES:
        bits &= ~(1 << (pythons - 1))
    return bits


def _signal_bits(what: str, given: Iterable[int]) -> int:
    bits = 0
    for number in several(what, given, "numbers of signals"):
        bits |= 1 << (whole(what, number, 1, 64) - 1)
    return bits
