"""perf_event_open: for threads of the container, events of an allow-list, without what the kernel itself does.

The attributes are copied once, and the kernel's side is left out of them whatever they say (``exclude_kernel``,
``exclude_hv``, ``exclude_callchain_kernel``); then CAP_PERFMON is lent for this one call.  It is about one thread,
which the caller's number means in its pid namespace, never about a processor or a cgroup.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import HandOver, deny
from proctor.performing import too_big
from proctor.performing.entitled import lacking
from proctor.performing.executing.single import NUMBER, SENT, Hole, Piece, Shape
from proctor.performing.given import Given, would
from proctor.performing.paths import pins
from proctor.performing.threads import dead, thread
from proctor.performing.trouble import Powerless, Said
from proctor.syscalls.architectures import PAGE_SIZE
from proctor.words import chosen

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work

#: By the names that perf(1) has for them: (type, config) of include/uapi/linux/perf_event.h.
EVENTS: Final = {
    "cpu-cycles": (0, 0), "instructions": (0, 1), "cache-references": (0, 2), "cache-misses": (0, 3),
    "branch-instructions": (0, 4), "branch-misses": (0, 5), "bus-cycles": (0, 6), "stalled-cycles-frontend": (0, 7),
    "stalled-cycles-backend": (0, 8), "ref-cycles": (0, 9),
    "cpu-clock": (1, 0), "task-clock": (1, 1), "page-faults": (1, 2), "context-switches": (1, 3),
    "cpu-migrations": (1, 4), "minor-faults": (1, 5), "major-faults": (1, 6), "alignment-faults": (1, 7),
    "emulation-faults": (1, 8), "dummy": (1, 9),
}  # fmt: skip
_CAP_PERFMON: Final = 38
_OLDEST, _ROOM = 64, 256
#: Bits of the field after read_format: exclude_kernel, exclude_hv, exclude_callchain_kernel.
_EXCLUDED: Final = 1 << 5 | 1 << 6 | 1 << 21
#: What may be sampled (PERF_SAMPLE_*): IP, TID, TIME, ADDR, READ, CALLCHAIN, ID, CPU, PERIOD, STREAM_ID, IDENTIFIER.
_SAMPLES: Final = 0x3FF | 1 << 16
#: Bits that have the kernel's own changes told: ksymbol, bpf_event, aux_output, cgroup, text_poke.
_KERNELS: Final = 0x1F << 29
_NO_GROUP, _CLOEXEC, _ALL = 1, 8, 15


class Options(Given):
    """See docs/families/perf.md.

    :param events: names of events that may be counted and sampled, as perf(1) has them.
    """

    events: tuple[str, ...] = ()

    def check(self) -> None:
        self.settle("events", chosen("events", self.events, EVENTS))


def perform(task: Task) -> Work:
    """Open the event for the caller."""
    call = task.call
    number, processor, group = (pins.signed(each) for each in call.registers[1:4])
    flags = call.words[4]
    if flags & ~_ALL:
        return deny(errno.EINVAL)
    attr = _attr(task)
    if attr is None:
        return (yield from too_big.told(task, call.words[0]))
    if flags & ~(_NO_GROUP | _CLOEXEC):
        return deny(errno.EINVAL, "no output of others, no cgroups")
    if number < 0:
        return deny(errno.EACCES, "only threads are looked at, not processors")
    chosen, event = task.options(Options).events, struct.unpack_from("=I4xQ", attr)
    if event not in [EVENTS[each] for each in chosen]:
        names = [name for name, each in EVENTS.items() if each == event]
        why = f" {would(events=names)}" if names else ""
        return deny(errno.EACCES, f"the event is none that its rule names{why}")
    if not task.has_room():
        return deny(errno.EMFILE)
    tid, pidfd = thread(task, number)
    if why := lacking(task, _CAP_PERFMON, "CAP_PERFMON", tid) and lacking(
        task, 21, "CAP_SYS_ADMIN", tid
    ):
        return deny(errno.EACCES, why)
    fds: list[int] = []
    if group >= 0:
        fd = task.taken(group)
        if fd is None or os.readlink(f"/proc/self/fd/{fd}") != "anon_inode:[perf_event]":
            return deny(errno.EBADF)
        fds.append(fd)
    from proctor.performing.identities.lender import Lender

    try:
        lender = Lender(task, 1 << _CAP_PERFMON)
    except Powerless:
        return deny(errno.EACCES, "the monitor has no CAP_PERFMON itself")
    with lender:
        opening = (_IN_A_GROUP if fds else _ALONE)(lender.permitted)
        reply = yield from lender.ask(
            opening, attr, tid, processor, flags | _CLOEXEC, fds=tuple(fds)
        )
        try:
            if failed := reply.error(opening.made):
                return deny(failed)
            if dead(pidfd):
                return deny(errno.ESRCH)
            return HandOver(reply.take(opening.made), cloexec=bool(flags & _CLOEXEC))
        finally:
            reply.close()


def _attr(task: Task) -> bytes | None:
    """The attributes without the kernel's side; None if they are of another length than the kernel's.

    :raises Said: they tell too much."""
    at = task.call.words[0]
    (size,) = struct.unpack("=I", task.call.copied(at + 4, 4))
    size = size or _OLDEST
    if not _OLDEST <= size <= PAGE_SIZE:
        return None
    data = bytearray(task.call.copied(at, size))
    if any(data[_ROOM:]):
        return None
    del data[_ROOM:]
    struct.pack_into("=I", data, 4, len(data))
    samples, bits = struct.unpack_from("=Q8xQ", data, 24)
    if samples & ~_SAMPLES or bits & _KERNELS:
        raise Said(errno.EACCES, "what is to be sampled tells of more than the thread")
    struct.pack_into("=Q", data, 40, bits | _EXCLUDED)
    return bytes(data)


def _opening(leader: Piece) -> Shape:
    """Filled in: attributes, thread, processor, flags.  Sent: the leader of a group, if there is one."""
    room = Hole(_ROOM)
    return Shape(
        "perf_event_open", room, NUMBER, NUMBER, leader, NUMBER, gives=True, right=1 << _CAP_PERFMON
    )


_ALONE, _IN_A_GROUP = _opening(-1), _opening(SENT)
