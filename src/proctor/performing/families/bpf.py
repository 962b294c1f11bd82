"""bpf: device programs of cgroups, loaded, attached and detached as container managers do, in the container's own
cgroups.

What a program of type CGROUP_DEVICE can do is to refuse: those of all cgroups above it are asked as well.  It is taken
only if it calls nothing and refers to nothing, so that it is a list of comparisons; and it is attached only to a cgroup
that belongs to the container, where nothing of the host's would be put out of work by that (a program that was attached with
BPF_F_ALLOW_OVERRIDE above, or without BPF_F_ALLOW_MULTI to the very cgroup; kernel/bpf/cgroup.c).
"""

from __future__ import annotations

import errno
import os
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import Answer, HandOver, answer, deny, let_run_unsafe
from proctor.performing import attached
from proctor.performing.attached import PLAIN, RIGHTS, group, lender_for, taken
from proctor.performing.executing.lent import Lent
from proctor.performing.executing.single import NUMBER, Hole, Shape, Single
from proctor.performing.executing.steps import Place, Steps
from proctor.performing.paths import pins
from proctor.performing.trouble import Refused
from proctor.syscalls.architectures import PAGE_SIZE

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work

_KERNELS: Final = "it is about no device program; the kernel decides, by the caller's own rights"

_LOAD, _ATTACH, _DETACH, _NONE = 5, 8, 9, 0x7FFFFFFF
#: BPF_PROG_TYPE_CGROUP_DEVICE and BPF_PROG_TYPE_CGROUP_SKB.
_CGROUP_DEVICE_TYPE, _CGROUP_SKB_TYPE = 15, 8
_OVERRIDE, _MULTI, _REPLACE, _PREORDER = 1, 2, 4, 64
#: BPF_F_STRICT_ALIGNMENT and BPF_F_ANY_ALIGNMENT.
_ALIGNED: Final = 1 | 2
#: The beginning of union bpf_attr, of each command (include/uapi/linux/bpf.h), and as far as it is given to the kernel.
_LOADED: Final = struct.Struct("=IIQQIIQII16sII")
_ATTACHED: Final = struct.Struct("=IIIIIIQ")
_LOAD_ATTR, _ATTACH_ATTR = 144, 32
_TRUE_SIZE: Final = 140  # log_true_size, which the kernel writes (Linux 6.4)
_INSTRUCTION: Final = 8
_MOST: Final = 4096  # BPF_MAXINSNS
_LICENSE: Final = 128
#: Bytes of the verifier's log that are told.
_MOST_TOLD: Final = 1 << 17
_MOST_LOG: Final = (1 << 30) - 1  # bpf_verifier_log_attr_valid() of kernel/bpf/log.c
_LD_IMM64, _CALL = 0x18, 0x85
#: As many bytes of its attributes as are known, of each command.
_KNOWN: Final = {
    _LOAD: _LOAD_ATTR,
    _ATTACH: _ATTACH_ATTR,
    _DETACH: _ATTACH_ATTR,
    attached.QUERY: attached.QUERY_ATTR,
    attached.FD_BY_ID: attached.FD_ATTR,
}


def perform(task: Task) -> Work:
    """Load, attach or detach a device program, or tell what is attached; all else is the kernel's to answer."""
    command = task.call.registers[0] & 0xFFFFFFFF
    known = _KNOWN.get(command)
    if known is None:
        return let_run_unsafe(_KERNELS)
    size = task.call.registers[2] & 0xFFFFFFFF
    if size > PAGE_SIZE:
        return deny(errno.E2BIG)
    attr = task.call.copied(task.call.words[1], size) if size else b""
    whole = attr[:known].ljust(known, b"\0")
    asks = command in (attached.QUERY, attached.FD_BY_ID)
    if asks and (attached.missing(task) or _of_others(command, whole)):
        return let_run_unsafe(_KERNELS)
    if any(attr[known:]):
        return (yield from _longer(task, attr))
    if command == _LOAD:
        return (yield from _load(task, whole, size))
    if command == attached.QUERY:
        return (yield from attached.query(task, whole, size))
    if command == attached.FD_BY_ID:
        return (yield from attached.by_id(task, whole))
    return (yield from _attach(task, command, whole))


def _of_others(command: int, attr: bytes) -> bool:
    """Whether it is about programs of another kind."""
    (kind,) = struct.unpack_from("=I", attr, 4)
    return command == attached.QUERY and kind != attached.CGROUP_DEVICE


def _longer(task: Task, attr: bytes) -> Work:
    """With attributes that are not known here: if they are not known to the kernel either, that is what it says first."""
    with lender_for(task, RIGHTS) as lender:
        failed = yield from lender.made(_ASKING(lender.permitted), attr, len(attr))
    return deny(failed if failed == errno.E2BIG else errno.EINVAL, PLAIN)


# Loading ------------------------------------------------------------------------------------------


def _load(task: Task, attr: bytes, size: int) -> Work:
    """In the order of ``bpf_prog_load`` of kernel/bpf/syscall.c."""
    fields = _LOADED.unpack_from(attr)
    kind, count, at, license_at, level, log_size, log, _, flags, name, interface, expected = fields
    if kind not in (_CGROUP_DEVICE_TYPE, _CGROUP_SKB_TYPE):
        return deny(errno.EPERM, "only device programs of cgroups are loaded")
    if flags & ~_ALIGNED:
        return deny(errno.EINVAL, "a device program is given no flags but those of alignment")
    with lender_for(task, RIGHTS) as lender:
        if not 0 < count <= _MOST:
            return deny(errno.E2BIG)
        program = task.call.copied(at, count * _INSTRUCTION)
        licence = task.call.copied(license_at, _LICENSE - 1, some=True)
        if b"\0" not in licence and len(licence) < _LICENSE - 1:
            return deny(errno.EFAULT)
        if interface or any(attr[_LOADED.size : _TRUE_SIZE]):
            return deny(errno.EINVAL, PLAIN)
        why = (
            _more_than_comparing(program)
            if kind == _CGROUP_DEVICE_TYPE
            else _more_than_a_number(program)
        )
        if why:
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
        reply = yield from lender.ask(loading, *values)
        try:
            writes = []
            seen = reply.parts[loading.found]
            if size >= _LOAD_ATTR and seen != attr[_TRUE_SIZE:_LOAD_ATTR]:
                writes.append((task.call.words[1] + _TRUE_SIZE, seen))
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


def _more_than_a_number(program: bytes) -> str:
    """What a program for packets does beyond saying one number (``r0 = number; exit``).  Libraries load such a one to find out
    whether there is attaching at all (cilium/ebpf, and so runc), and nobody attaches it: without unprivileged_bpf_disabled
    the kernel lets anybody load it."""
    codes = [code for code, _ in struct.iter_unpack("=BB6x", program)]
    return "" if codes == [0xB7, 0x95] else "only device programs of cgroups are loaded"


# Attaching ----------------------------------------------------------------------------------------


def _attach(task: Task, command: int, attr: bytes) -> Work:
    """In the order of ``bpf_prog_attach`` and ``bpf_prog_detach`` of kernel/bpf/syscall.c."""
    target, program, kind, flags, replaced, position, revision = _ATTACHED.unpack_from(attr)
    if kind != attached.CGROUP_DEVICE:
        return deny(errno.EPERM, "only device programs are attached")
    attaches = command == _ATTACH
    known = _OVERRIDE | _MULTI | _REPLACE | _PREORDER if attaches else 0
    if position or flags & ~known:
        return deny(errno.EINVAL, PLAIN)
    fds = []
    if attaches:
        fds.append(_program(task, program))
    cgroup = group(task, target)
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
    protected = attached.at_and_above(task, cgroup)
    if attaches and not flags & _MULTI and cgroup in protected:
        why = "is attached beside others only (BPF_F_ALLOW_MULTI)"
        return deny(errno.EPERM, f"to the topmost cgroup of the container's a device program {why}")
    with lender_for(task, RIGHTS) as lender:
        for each in protected:
            failed, there = yield from attached.ask(lender, each)
            if failed:
                return deny(failed)
            alone = there.total and not there.flags & _MULTI
            if alone and (there.flags & _OVERRIDE or each == cgroup):
                return deny(
                    errno.EPERM, "it would put a program out of work that is not the container's"
                )
        acting = _attaching(lender.permitted, command, len(fds))
        made = _ATTACHED.pack(0, 0, kind, flags, 0, 0, revision)
        failed = yield from lender.made(acting, made, fds=tuple(fds))
        return deny(failed) if failed else answer(0)


def _program(task: Task, number: int) -> int:
    """A program of the caller's.

    :raises Refused: it is none."""
    fd = taken(task, number)
    if os.readlink(f"/proc/self/fd/{fd}") != _PROGRAM:
        raise Refused(deny(errno.EBADF if pins.only_a_path(fd) else errno.EINVAL))
    return fd


_PROGRAM: Final = "anon_inode:bpf-prog"


# Requests -----------------------------------------------------------------------------------------


#: A command that there is not.
_ASKING: Final = Shape("bpf", _NONE, Hole(PAGE_SIZE), NUMBER, right=RIGHTS)


@lru_cache(256)
def _loading(permitted: int, room: int, told: int) -> Single:
    """Holes: the attributes, instructions, licence.  Wanted: the size that a log would have, and the log.

    :param told: bytes that there are for a log."""
    steps = Steps()
    attr, program, licence = steps.hole(_LOAD_ATTR), steps.hole(room), steps.hole(_LICENSE)
    with Lent(steps, permitted, RIGHTS) as lent:
        log = steps.scratch(told)
        steps.put(attr, 8, program)
        steps.put(attr, 16, licence)
        if told:
            steps.put(attr, 32, log)
        made = steps.call("bpf", _LOAD, attr, _LOAD_ATTR, bad=0)
        steps.give(made)
    found = steps.want(Place(attr.offset + _TRUE_SIZE, 4))
    if told:
        steps.want(log)
    return Single(steps.freeze(), made, lent.left, found)


@lru_cache(256)
def _attaching(permitted: int, command: int, count: int) -> Single:
    """Hole: the attributes.  Sent: cgroup, program, and perhaps what it replaces."""
    steps = Steps()
    attr = steps.hole(_ATTACH_ATTR)
    with Lent(steps, permitted, RIGHTS) as lent:
        for at in (0, 4, 16)[:count]:
            steps.put(attr, at, steps.sent(), 4)
        made = steps.call("bpf", command, attr, _ATTACH_ATTR, bad=0)
    return Single(steps.freeze(), made, lent.left)
