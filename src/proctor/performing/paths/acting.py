"""Requests that do what was decided with a path, or with what is pinned: open, make."""

from __future__ import annotations

from functools import cache
from typing import Final

from proctor.kernel.abi import SECCOMP_IOCTL_NOTIF_ADDFD, SECCOMP_NOTIF_ADDFD
from proctor.performing.executing.requests import Request
from proctor.performing.executing.single import NUMBER, SENT, Hole, Shape
from proctor.performing.executing.steps import END, Argument, Place, Result, Sent, Steps
from proctor.performing.paths.filestat import STATFS_SIZE, STATX_SIZE, statx
from proctor.performing.paths.pinning import ABSOLUTE, PINNED
from proctor.performing.paths.pins import HOW, Probe, Probing
from proctor.performing.paths.wanted import O_NOATIME
from proctor.records import NamedTuple

_AT_EMPTY_PATH, _AT_EACCESS = 0x1000, 0x200
_F_SETFL: Final = 4
#: Of struct seccomp_notif_addfd.
_SRCFD_AT: Final = 12


class Opening(NamedTuple):
    """Open for good."""

    request: Request
    fd: Result
    probe: Probe
    system: int
    status: int


@cache
def opening(relative: bool, size: int) -> Opening:
    """By path, as the kernel does it all.  Holes: directory (if not ``relative``), umask, how to open,
    how to probe, path.  Sent: the directory (if ``relative``)."""
    steps = Steps()
    where: Argument = steps.sent() if relative else steps.number()
    umask, how, probing = steps.number(), steps.hole(HOW.size), Probing(steps)
    path = steps.hole(size)
    empty = steps.bytes(b"")
    system, status = steps.scratch(128), steps.scratch(STATX_SIZE)
    steps.call("umask", umask)
    fd = steps.call("openat2", where, path, how, HOW.size, bad=2, changes=True)
    statx(steps, fd, status, empty)
    steps.call("fstatfs", fd, system, good=END)
    probe = probing.add(where, path)
    steps.give(fd)
    part = steps.want(Place(system.offset, STATFS_SIZE))
    kind = steps.want(status)
    return Opening(steps.freeze(), fd, probe, part, kind)


class Acting(NamedTuple):
    """Do what was decided, with what is pinned."""

    request: Request
    fd: Result
    #: Its status.
    status: int


@cache
def reopening(small: bool = False) -> Acting:
    """Open the very thing that is pinned, by its own link.  Holes: how, or (if ``small``, without O_LARGEFILE)
    flags.  Sent: the pin, the executor's table."""
    steps = Steps()
    how: Argument = steps.number() if small else steps.hole(HOW.size)
    empty = steps.bytes(b"")
    fd, status = _again(steps, how, steps.sent()), steps.scratch(STATX_SIZE)
    statx(steps, fd, status, empty)
    steps.give(fd)
    part = steps.want(status)
    return Acting(steps.freeze(), fd, part)


class Handing(NamedTuple):
    """Open what that makes or truncates, and hand it to the caller at once (SECCOMP_IOCTL_NOTIF_ADDFD), so that nobody
    else has to live on for that."""

    request: Request
    fd: Result
    #: The number that the caller knows it by.
    handed: Result


def _hand(steps: Steps, fd: Result, what: Result | Sent, given: Place, listener: Sent) -> Handing:
    steps.put(given, _SRCFD_AT, what, 4)
    handed = steps.call("ioctl", listener, SECCOMP_IOCTL_NOTIF_ADDFD, given, finishes=True)
    return Handing(steps.freeze(), fd, handed)


@cache
def truncating(small: bool, other: bool) -> Handing:
    """As :func:`reopening`, and hand it over, or the ``other`` that was opened before.  Holes: how, or flags, and struct
    seccomp_notif_addfd.  Sent: the pin, the listener, that other, the executor's table."""
    steps = Steps()
    how: Argument = steps.number() if small else steps.hole(HOW.size)
    given = steps.hole(SECCOMP_NOTIF_ADDFD.size)
    pin, listener = steps.sent(), steps.sent()
    before = steps.sent() if other else None
    fd = _again(steps, how, pin, begins=True)
    return _hand(steps, fd, before or fd, given, listener)


@cache
def making_in(size: int, small: bool) -> Handing:
    """As :func:`opening_in`, and hand it over.  Holes: the same, struct seccomp_notif_addfd before the name.  Sent: the
    directory, the listener."""
    steps = Steps()
    umask = steps.number()
    how: Argument = steps.number() if small else steps.hole(HOW.size)
    mode: Argument = steps.number() if small else 0
    given, name = steps.hole(SECCOMP_NOTIF_ADDFD.size), steps.hole(size)
    directory, listener = steps.sent(), steps.sent()
    steps.call("umask", umask)
    fd = _open(steps, directory, name, how, mode, begins=True)
    return _hand(steps, fd, fd, given, listener)


def _again(steps: Steps, how: Argument, pin: Sent, begins: bool = False) -> Result:
    digits, table = steps.scratch(16), steps.sent()
    steps.put_text(digits, steps.call("dup", pin))
    return _open(steps, table, digits, how, 0, begins)


def _open(
    steps: Steps,
    where: Argument,
    path: Place,
    how: Argument,
    mode: Argument,
    begins: bool = False,
) -> Result:
    if isinstance(how, Place):
        return steps.call("openat2", where, path, how, HOW.size, changes=True, begins=begins)
    return steps.call(
        "openat", where, path, how, mode, as_32_bits=True, changes=True, begins=begins
    )


#: Whether what is pinned may be read or written (the step's result; nothing is opened): the mode of access(2) is filled in.
ACCESSIBLE: Final = Shape("faccessat2", SENT, b"", NUMBER, _AT_EMPTY_PATH | _AT_EACCESS)
#: Whether what is open may be read with O_NOATIME, which its owner may.
NOATIME: Final = Shape("fcntl", SENT, _F_SETFL, O_NOATIME)
#: Whether openat2(2) takes what it is asked for at all: EBADF if so.
CHECKING: Final = Shape("openat2", -1, b".", Hole(HOW.size), HOW.size)


@cache
def opening_in(size: int, small: bool = False) -> Acting:
    """Open one name in a pinned directory.  Holes: umask, how, or (if ``small``, without O_LARGEFILE) flags and
    mode, name.  Sent: the directory."""
    steps = Steps()
    umask = steps.number()
    how: Argument = steps.number() if small else steps.hole(HOW.size)
    mode: Argument = steps.number() if small else 0
    name = steps.hole(size)
    empty = steps.bytes(b"")
    status = steps.scratch(STATX_SIZE)
    directory = steps.sent()
    steps.call("umask", umask)
    fd = _open(steps, directory, name, how, mode)
    statx(steps, fd, status, empty)
    steps.give(fd)
    part = steps.want(status)
    return Acting(steps.freeze(), fd, part)


class Making(NamedTuple):
    """Make a node."""

    request: Request
    parent: Result
    system: int
    probe: Probe | None
    made: Result


@cache
def making(by: int, size: int) -> Making:
    """Holes: directory (ABSOLUTE), umask, mode, device, how to walk, how to probe, path of the parent
    (these three not if it is PINNED), name.  Sent: the directory (RELATIVE), the parent (PINNED)."""
    steps = Steps()
    where: Argument = steps.number() if by == ABSOLUTE else steps.sent()
    umask, mode, device = steps.number(), steps.number(), steps.number()
    how = steps.hole(HOW.size) if by != PINNED else None
    probing = Probing(steps) if by != PINNED else None
    path = steps.hole(size) if by != PINNED else None
    last = steps.hole(size)
    system = steps.scratch(128)
    steps.call("umask", umask)
    if path is not None and how is not None:
        parent = steps.call("openat2", where, path, how, HOW.size)
    else:
        parent = steps.call("dup", where)
    steps.call("fstatfs", parent, system, bad=0)  # what does not tell (FUSE) is not procfs
    made = steps.call("mknodat", parent, last, mode, device, good=END)
    probe = None
    if path is not None and probing is not None:
        steps.jump(parent, bad=True)
        probe = probing.add(where, path)
    steps.give(parent)
    part = steps.want(Place(system.offset, STATFS_SIZE))
    return Making(steps.freeze(), parent, part, probe, made)
