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
import stat
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import Answer, HandOver, answer, deny, let_run_unsafe
from proctor.performing import pins
from proctor.performing.entitled import has_user, lacking
from proctor.performing.steps import Place, Request, Result, Steps
from proctor.performing.trouble import Powerless, Refused
from proctor.records import NamedTuple
from proctor.syscalls.architectures import PAGE_SIZE

if TYPE_CHECKING:
    from proctor.call.verdict import Deny
    from proctor.performing.lender import Lender
    from proctor.performing.task import Task, Work

_KERNELS: Final = "it is about no device program; the kernel decides, by the caller's own rights"

_LOAD, _ATTACH, _DETACH, _QUERY, _NONE = 5, 8, 9, 16, 0x7FFFFFFF
_CAP_NET_ADMIN, _CAP_BPF = 12, 39
_CGROUP_DEVICE_TYPE, _CGROUP_DEVICE = 15, 6
_OVERRIDE, _MULTI, _REPLACE, _PREORDER = 1, 2, 4, 64
#: BPF_F_STRICT_ALIGNMENT and BPF_F_ANY_ALIGNMENT.
_ALIGNED: Final = 1 | 2
#: The beginning of union bpf_attr, of each command (include/uapi/linux/bpf.h), and as far as it is given to the kernel.
_LOADED: Final = struct.Struct("=IIQQIIQII16sII")
_ATTACHED: Final = struct.Struct("=IIIIIIQ")
_LOAD_ATTR, _ATTACH_ATTR = 144, 32
_TRUE_SIZE: Final = 140  # log_true_size, which the kernel writes (Linux 6.4)
_ASKED: Final = struct.pack("=II", 0, 6).ljust(64, b"\0")  # of BPF_PROG_QUERY: which type
_INSTRUCTION: Final = 8
_MOST: Final = 4096  # BPF_MAXINSNS
_LICENSE: Final = 128
#: Bytes of the verifier's log that are told.
_MOST_TOLD: Final = 1 << 17
_MOST_LOG: Final = (1 << 30) - 1  # bpf_verifier_log_attr_valid() of kernel/bpf/log.c
_LD_IMM64, _CALL = 0x18, 0x85
_CGROUP2: Final = 0x63677270
_MOST_CGROUPS: Final = 4096


def perform(task: Task) -> Work:
    """Load, attach or detach a device program; all else is the kernel's to answer."""
    command = task.call.registers[0] & 0xFFFFFFFF
    if command not in (_LOAD, _ATTACH, _DETACH):
        return let_run_unsafe(_KERNELS)
    size = task.call.registers[2] & 0xFFFFFFFF
    if size > PAGE_SIZE:
        return deny(errno.E2BIG)
    attr = task.call.copied(task.call.registers[1], size) if size else b""
    known = _LOAD_ATTR if command == _LOAD else _ATTACH_ATTR
    if any(attr[known:]):
        return (yield from _longer(task, attr))
    if command == _LOAD:
        return (yield from _load(task, attr.ljust(known, b"\0"), size))
    return (yield from _attach(task, command, attr.ljust(known, b"\0")))


def _longer(task: Task, attr: bytes) -> Work:
    """With attributes that are not known here: if they are not known to the kernel either, that is what it says first."""
    lender = _lender(task)
    try:
        asking = _asking(lender.permitted)
        values = (attr, len(attr))
        reply = yield from lender.ask(asking.request, asking.left, *values, fds=())
        reply.close()
    finally:
        lender.close()
    failed = reply.error(asking.made)
    return deny(failed if failed == errno.E2BIG else errno.EINVAL, _PLAIN)


_PLAIN: Final = (
    "what is loaded and attached are plain device programs, without types, tokens or positions"
)


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


def _load(task: Task, attr: bytes, size: int) -> Work:
    """In the order of ``bpf_prog_load`` of kernel/bpf/syscall.c."""
    fields = _LOADED.unpack_from(attr)
    kind, count, at, license_at, level, log_size, log, _, flags, name, interface, expected = fields
    if kind != _CGROUP_DEVICE_TYPE:
        return deny(errno.EPERM, "only device programs of cgroups are loaded")
    if flags & ~_ALIGNED:
        return deny(errno.EINVAL, "a device program is given no flags but those of alignment")
    lender = _lender(task)
    try:
        if not 0 < count <= _MOST:
            return deny(errno.E2BIG)
        program = task.call.copied(at, count * _INSTRUCTION)
        licence = task.call.copied(license_at, _LICENSE - 1, some=True)
        if b"\0" not in licence and len(licence) < _LICENSE - 1:
            return deny(errno.EFAULT)
        if interface or any(attr[_LOADED.size : _TRUE_SIZE]):
            return deny(errno.EINVAL, _PLAIN)
        if why := _more_than_comparing(program):
            return deny(errno.EPERM, why)
        told = min(log_size, _MOST_TOLD) if log and log_size <= _MOST_LOG else 0
        made = _LOADED.pack(
            kind, count, 0, 0, level, told or log_size, bool(log), 0, flags, name, 0, expected
        )
        loading = _loading(
            lender.permitted, _power(6, len(program)), _power(12, told) if told else 0
        )
        values = (
            made.ljust(_TRUE_SIZE, b"\0") + attr[_TRUE_SIZE:_LOAD_ATTR],
            program,
            licence.partition(b"\0")[0],
        )
        reply = yield from lender.ask(loading.request, loading.left, *values, fds=())
        try:
            writes = []
            seen = reply.parts[loading.found]
            if size >= _LOAD_ATTR and seen != attr[_TRUE_SIZE:_LOAD_ATTR]:
                writes.append((task.call.registers[1] + _TRUE_SIZE, seen))
            failed = reply.error(loading.made)
            said = reply.parts[loading.found + 1].partition(b"\0")[0] if told else b""
            if said or (told and failed in (0, errno.ENOSPC)):
                writes.append((log, said + b"\0"))
            if failed:
                # an errno, after something was written: answer() makes no such thing
                return Answer(-failed, writes=tuple(writes)) if writes else deny(failed)
            if not task.has_room():
                return deny(errno.EMFILE)
            return HandOver(reply.take(loading.made), cloexec=True, writes=tuple(writes))
        finally:
            reply.close()
    finally:
        lender.close()


def _power(least: int, size: int) -> int:
    """A power of two that is no less."""
    return 1 << max(least, (size - 1).bit_length())


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
    """In the order of ``bpf_prog_attach`` and ``bpf_prog_detach`` of kernel/bpf/syscall.c."""
    target, program, kind, flags, replaced, position, revision = _ATTACHED.unpack_from(attr)
    if kind != _CGROUP_DEVICE:
        return deny(errno.EPERM, "only device programs are attached")
    attaches = command == _ATTACH
    known = _OVERRIDE | _MULTI | _REPLACE | _PREORDER if attaches else 0
    if position or flags & ~known:
        return deny(errno.EINVAL, _PLAIN)
    fds = []
    if attaches:
        fds.append(_program(task, program))
    cgroup = _cgroup(task, target)
    if not attaches:  # without a program the kernel says what is wrong with that
        try:
            fds.append(_program(task, program))
        except Refused:
            fds.append(cgroup)
    fds.insert(0, cgroup)
    if flags & (_MULTI | _REPLACE) == _MULTI | _REPLACE:
        fds.append(_program(task, replaced))
    if (
        flags & (_OVERRIDE | _MULTI) == _OVERRIDE | _MULTI
        or flags & (_MULTI | _REPLACE) == _REPLACE
    ):
        return deny(errno.EINVAL)
    if attaches and not flags & _MULTI:
        return deny(
            errno.EPERM, "a device program is attached beside others only (BPF_F_ALLOW_MULTI)"
        )
    above = _place(task, cgroup)
    lender = _lender(task)
    try:
        for depth, place in enumerate([cgroup, *above]):
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
        made = _ATTACHED.pack(0, 0, kind, flags, 0, 0, revision)
        reply = yield from lender.ask(acting.request, acting.left, made, fds=tuple(fds))
        reply.close()
        failed = reply.error(acting.made)
        return deny(failed) if failed else answer(0)
    finally:
        lender.close()


def _program(task: Task, number: int) -> int:
    """A program of the caller's.

    :raises Refused: it is none."""
    fd = _taken(task, number)
    if os.readlink(f"/proc/self/fd/{fd}") != _PROGRAM:
        raise Refused(deny(errno.EBADF if pins.only_a_path(fd) else errno.EINVAL))
    return fd


def _cgroup(task: Task, number: int) -> int:
    """A cgroup of version 2 that the caller has open.

    :raises Refused: it is none."""
    from proctor.kernel.raw import filesystem_type

    fd = _taken(task, number)
    if filesystem_type(fd) != _CGROUP2 or not stat.S_ISDIR(os.fstat(fd).st_mode):
        raise Refused(deny(errno.EBADF, "it is no cgroup of version 2"))
    if os.readlink(f"/proc/self/fd/{fd}").endswith(" (deleted)"):
        raise Refused(deny(errno.ENOENT))
    return fd


def _taken(task: Task, number: int) -> int:
    fd = task.taken(pins.signed(number))
    if fd is None:
        raise Refused(deny(errno.EBADF))
    return fd


_PROGRAM: Final = "anon_inode:bpf-prog"


def _place(task: Task, target: int) -> list[int]:
    """Descriptors of the cgroups above one that belongs to the container.

    :raises Refused: it does not."""
    from proctor.performing.cgroups import directories

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
def _asking(permitted: int) -> _Acting:
    """A command that there is not.  Holes: the attributes, their size."""
    steps = Steps()
    attr, size = steps.hole(PAGE_SIZE), steps.number()
    loan, right = _lent(steps, permitted)
    loan.have(right)
    made = steps.call("bpf", _NONE, attr, size, bad=0)
    loan.give_back()
    return _Acting(steps.freeze(), made, loan.left)


@lru_cache(256)
def _loading(permitted: int, room: int, told: int) -> _Acting:
    """Holes: the attributes, instructions, licence.  Wanted: the size that a log would have, and the log.

    :param told: bytes that there are for a log."""
    steps = Steps()
    attr, program, licence = steps.hole(_LOAD_ATTR), steps.hole(room), steps.hole(_LICENSE)
    loan, right = _lent(steps, permitted)
    log = steps.scratch(told)
    loan.have(right)
    steps.put(attr, 8, program)
    steps.put(attr, 16, licence)
    if told:
        steps.put(attr, 32, log)
    made = steps.call("bpf", _LOAD, attr, _LOAD_ATTR, bad=0)
    steps.give(made)
    loan.give_back()
    found = steps.want(Place(attr.offset + _TRUE_SIZE, 4))
    if told:
        steps.want(log)
    return _Acting(steps.freeze(), made, loan.left, found)


@lru_cache(256)
def _attaching(permitted: int, command: int, count: int) -> _Acting:
    """Hole: the attributes.  Sent: cgroup, program, and perhaps what it replaces."""
    steps = Steps()
    attr = steps.hole(_ATTACH_ATTR)
    loan, right = _lent(steps, permitted)
    loan.have(right)
    for at in (0, 4, 16)[:count]:
        steps.put(attr, at, steps.sent(), 4)
    made = steps.call("bpf", command, attr, _ATTACH_ATTR, bad=0)
    loan.give_back()
    return _Acting(steps.freeze(), made, loan.left)


@lru_cache(256)
def _querying(permitted: int) -> _Acting:
    """How programs are attached to a cgroup, and how many.  Sent: the cgroup."""
    steps = Steps()
    attr = steps.hole(64)
    loan, right = _lent(steps, permitted)
    loan.have(right)
    steps.put(attr, 0, steps.sent(), 4)
    made = steps.call("bpf", _QUERY, attr, 64, bad=0)
    loan.give_back()
    found = steps.want(attr)
    return _Acting(steps.freeze(), made, loan.left, found)
