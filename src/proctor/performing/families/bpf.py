"""bpf: device programs of cgroups, loaded, attached and detached as container managers do, in the container's own
cgroups.

What a program of type CGROUP_DEVICE can do is to refuse: those of all cgroups above it are asked as well.  It is taken
only if it calls nothing and refers to nothing, so that it is a list of comparisons; and it is attached only beside
others (BPF_F_ALLOW_MULTI), to a cgroup that belongs to the container, where nothing above would be put out of work by
that (a program that was attached with BPF_F_ALLOW_OVERRIDE; kernel/bpf/cgroup.c).
"""

from __future__ import annotations

import errno
import os
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import HandOver, answer, deny, let_run_unsafe
from proctor.performing.entitled import has_user, lacking
from proctor.performing.steps import Request, Result, Steps
from proctor.performing.trouble import Powerless, Refused
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.verdict import Deny
    from proctor.performing.lender import Lender
    from proctor.performing.task import Task, Work

_KERNELS: Final = "it is about no device program; the kernel decides, by the caller's own rights"

_LOAD, _ATTACH, _DETACH, _QUERY = 5, 8, 9, 16
_CAP_NET_ADMIN, _CAP_BPF = 12, 39
_CGROUP_DEVICE_TYPE, _CGROUP_DEVICE = 15, 6
_OVERRIDE, _MULTI, _REPLACE = 1, 2, 4
#: The beginning of union bpf_attr, of each command (include/uapi/linux/bpf.h); what comes after is zero.
_LOADED: Final = struct.Struct("=IIQQIIQII16sII")
_ATTACHED: Final = struct.Struct("=IIIII")
_ATTR: Final = 128
_ASKED: Final = struct.pack("=II", 0, 6).ljust(64, b"\0")  # of BPF_PROG_QUERY: which type
_INSTRUCTION: Final = 8
_MOST: Final = 4096  # BPF_MAXINSNS
_LICENSE: Final = 128
_LD_IMM64, _CALL = 0x18, 0x85
_CGROUP2: Final = 0x63677270
_MOST_CGROUPS: Final = 4096


def perform(task: Task) -> Work:
    """Load, attach or detach a device program; all else is the kernel's to answer."""
    command = task.call.registers[0] & 0xFFFFFFFF
    if command not in (_LOAD, _ATTACH, _DETACH):
        return let_run_unsafe(_KERNELS)
    attr = _attr(task)
    if command == _LOAD:
        return (yield from _load(task, attr))
    return (yield from _attach(task, command, attr))


def _attr(task: Task) -> bytes:
    """:raises Refused: it is longer than the kernel's, or than what is known here."""
    size = task.call.registers[2] & 0xFFFFFFFF
    if size > 4096:
        raise Refused(deny(errno.E2BIG))
    data = task.call.copied(task.call.registers[1], size) if size else b""
    return data.ljust(_ATTR, b"\0")


def _lender(task: Task) -> Lender:
    """:raises Refused: the caller may not be lent the rights."""
    from proctor.performing.lender import Lender

    why = lacking(task, _CAP_BPF, "CAP_BPF") and lacking(task, 21, "CAP_SYS_ADMIN")
    if why:
        raise Refused(deny(errno.EPERM, why))
    try:
        return Lender(task, 1 << _CAP_BPF | 1 << _CAP_NET_ADMIN)
    except Powerless:
        raise Refused(
            deny(errno.EPERM, "the monitor has no CAP_BPF and CAP_NET_ADMIN itself")
        ) from None


# Loading ------------------------------------------------------------------------------------------


def _load(task: Task, attr: bytes) -> Work:
    kind, count, at, license_at, *_, flags, name, interface, expected = _LOADED.unpack_from(attr)
    if kind != _CGROUP_DEVICE_TYPE:
        return deny(errno.EPERM, "only device programs of cgroups are loaded")
    if not 0 < count <= _MOST:
        return deny(errno.E2BIG if count else errno.EINVAL)
    if flags or interface or expected not in (0, _CGROUP_DEVICE) or any(attr[_LOADED.size :]):
        return deny(errno.EINVAL, "a device program has no flags, interface, or types")
    program = task.call.copied(at, count * _INSTRUCTION)
    if why := _more_than_comparing(program):
        return deny(errno.EPERM, why)
    licence = task.call.copied(license_at, _LICENSE, some=True).partition(b"\0")[0]
    made = _LOADED.pack(kind, count, 0, 0, 0, 0, 0, 0, 0, name, 0, expected)
    if not task.has_room():
        return deny(errno.EMFILE)
    lender = _lender(task)
    try:
        loading = _loading(lender.permitted, 1 << max(6, (len(program) - 1).bit_length()))
        reply = yield from lender.ask(
            loading.request, loading.left, made, program, licence[: _LICENSE - 1], fds=()
        )
        try:
            if failed := reply.error(loading.made):
                return deny(
                    failed, "the verifier's log is not told" if failed == errno.EINVAL else ""
                )
            return HandOver(reply.take(loading.made), cloexec=True)
        finally:
            reply.close()
    finally:
        lender.close()


def _more_than_comparing(program: bytes) -> str:
    """What a program does beyond comparing what it is given, as a clause; empty if nothing."""
    wide = False
    for code, registers in struct.iter_unpack("=BB6x", program):
        if wide:
            wide = False  # the second half of a number
            continue
        source = registers >> 4 if struct.pack("=H", 1)[0] else registers & 15
        wide = code == _LD_IMM64
        if wide and source:
            return "the program refers to a map, or to something of the kernel's"
        if code == _CALL:
            return "the program calls something"
    return ""


# Attaching ----------------------------------------------------------------------------------------


def _attach(task: Task, command: int, attr: bytes) -> Work:
    target, program, kind, flags, replaced = _ATTACHED.unpack_from(attr)
    if kind != _CGROUP_DEVICE:
        return deny(errno.EPERM, "only device programs are attached")
    if any(attr[_ATTACHED.size :]) or flags & ~(_MULTI | _REPLACE):
        return deny(errno.EINVAL, "no flags but BPF_F_ALLOW_MULTI and BPF_F_REPLACE")
    if command == _ATTACH and not flags & _MULTI:
        return deny(
            errno.EPERM, "a device program is attached beside others only (BPF_F_ALLOW_MULTI)"
        )
    numbers = [target, program, *([replaced] if command == _ATTACH and flags & _REPLACE else [])]
    try:
        fds = [task.hold(task.take_fd(number)) for number in numbers]
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        return deny(errno.EBADF)
    above = _place(task, fds[0])
    lender = _lender(task)
    try:
        for depth, place in enumerate([fds[0], *above]):
            asking = _querying(lender.permitted)
            reply = yield from lender.ask(asking.request, asking.left, _ASKED, fds=(place,))
            reply.close()
            attached, count = struct.unpack_from("=I8xI", reply.parts[asking.found], 12)
            if reply.error(asking.made):
                return deny(reply.error(asking.made))
            if count and not attached & _MULTI and (attached & _OVERRIDE or not depth):
                return deny(
                    errno.EPERM, "it would put a program out of work that is not the container's"
                )
        acting = _attaching(lender.permitted, command, len(fds))
        made = _ATTACHED.pack(0, 0, kind, flags if command == _ATTACH else 0, 0)
        reply = yield from lender.ask(acting.request, acting.left, made, fds=tuple(fds))
        reply.close()
        failed = reply.error(acting.made)
        return deny(failed) if failed else answer(0)
    finally:
        lender.close()


def _place(task: Task, target: int) -> list[int]:
    """Descriptors of the cgroups above one that belongs to the container.

    :raises Refused: it does not."""
    from proctor.kernel.raw import filesystem_type
    from proctor.performing.cgroups import directories

    if filesystem_type(target) != _CGROUP2:
        raise Refused(deny(errno.EBADF, "it is no cgroup of version 2"))

    def theirs(status: os.stat_result) -> bool:
        return has_user(task, status.st_uid)

    places = directories(task.cgroups, b"")
    own = [at for at, place in enumerate(places) if theirs(os.stat(place))]
    if not own or own != list(range(len(own))):
        raise Refused(_not_theirs())
    wanted = os.fstat(target)
    base, higher = places[own[-1]], places[own[-1] + 1 :]
    for seen, (place, below, _) in enumerate(os.walk(base)):
        if os.stat(place).st_ino == wanted.st_ino and theirs(wanted):
            between: list[bytes] = []
            while (between or [place])[-1] != base:
                between.append(os.path.dirname((between or [place])[-1]))
            return [task.hold(os.open(each, _DIRECTORY)) for each in (*between, *higher)]
        below[:] = [each for each in below if seen < _MOST_CGROUPS]
    raise Refused(_not_theirs())


_DIRECTORY: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)


def _not_theirs() -> Deny:
    return deny(errno.EPERM, "the cgroup is not one that was given to the container")


# Requests -----------------------------------------------------------------------------------------


class _Acting(NamedTuple):
    request: Request
    made: Result
    left: int
    found: int = 0


def _lent(steps: Steps, permitted: int) -> Any:
    from proctor.performing.lender import Loan

    loan = Loan(steps, permitted)
    return loan, loan.capabilities(1 << _CAP_BPF | 1 << _CAP_NET_ADMIN)


@lru_cache(256)
def _loading(permitted: int, room: int) -> _Acting:
    """Holes: the attributes, instructions, licence."""
    steps = Steps()
    attr, program, licence = steps.hole(_ATTR), steps.hole(room), steps.hole(_LICENSE)
    loan, right = _lent(steps, permitted)
    loan.have(right)
    steps.put(attr, 8, program)
    steps.put(attr, 16, licence)
    made = steps.call("bpf", _LOAD, attr, _ATTR, bad=0)
    steps.give(made)
    loan.give_back()
    return _Acting(steps.freeze(), made, loan.left)


@lru_cache(256)
def _attaching(permitted: int, command: int, count: int) -> _Acting:
    """Hole: the attributes.  Sent: cgroup, program, and perhaps what it replaces."""
    steps = Steps()
    attr = steps.hole(_ATTR)
    loan, right = _lent(steps, permitted)
    loan.have(right)
    for at in (0, 4, 16)[:count]:
        steps.put(attr, at, steps.sent(), 4)
    made = steps.call("bpf", command, attr, 32, bad=0)
    loan.give_back()
    return _Acting(steps.freeze(), made, loan.left)


@lru_cache(256)
def _querying(permitted: int) -> _Acting:
    """How programs are attached to a cgroup, and how many.  Sent: the cgroup."""
    steps = Steps()
    attr = steps.hole(_ATTR)
    loan, right = _lent(steps, permitted)
    loan.have(right)
    steps.put(attr, 0, steps.sent(), 4)
    made = steps.call("bpf", _QUERY, attr, 64, bad=0)
    loan.give_back()
    found = steps.want(attr)
    return _Acting(steps.freeze(), made, loan.left, found)
