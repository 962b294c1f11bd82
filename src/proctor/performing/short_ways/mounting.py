"""The short way of a mount from a block device: where it goes and where it comes from are pinned in one request, which opens
the device, too, if it is the one that was opened by that name before and is still allowed.

As in :mod:`proctor.performing.short_ways.short`: it decides nothing that the family does not.  Whatever is in any way out of the ordinary
it does, from the beginning; then nothing has happened.
"""

from __future__ import annotations

import os
import stat
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from proctor.errors import MemoryUnreadable
from proctor.performing import registry
from proctor.performing.executing.steps import Place, Result
from proctor.performing.mounts import mount_words, sourcing
from proctor.performing.paths import pins
from proctor.performing.paths.filestat import STATFS_SIZE, STATX_SIZE, status_of, statx, system_of
from proctor.performing.paths.finding import Pin
from proctor.performing.short_ways.plans import ROOM, Deed, Plan, Planning, Way
from proctor.performing.short_ways.ways import PlannedWay, late
from proctor.performing.trouble import Ended, Said
from proctor.records import NamedTuple
from proctor.syscalls.architectures import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.executing.processes import Executor
    from proctor.performing.executing.requests import Reply
    from proctor.performing.performers import Performers
    from proctor.performing.task import Task, Work
    from proctor.supervisor.ports import Later

_LONGEST: Final = 4096  # PATH_MAX of include/uapi/linux/limits.h
#: How many sources are remembered.
_MOST: Final = 64


class _Asked(NamedTuple):
    """What a call asks for."""

    options: Any
    kind: str
    source: bytes
    target: bytes
    flags: int
    given: Sequence[tuple[bytes, bytes | None]]
    #: How its source is opened.
    mode: int


class MountWay(PlannedWay):
    """That of ``mount``."""

    def __init__(
        self, performers: Performers, family: Any, begins: Callable[[Call], object] | None
    ) -> None:
        """
        :param family: the module, which this one does not import."""
        super().__init__(performers, family, begins)
        #: By the names of sources what they led to: its number, and as :func:`_which` has it.
        self._before: dict[bytes, tuple[tuple[int, int], bytes]] = {}

    def _go(self, call: Call, wish: Perform, standing: Standing) -> Verdict | Later | None:
        asked = self._asked(call, wish, standing)
        if asked is None:
            return self._leave(standing)
        device, expected = self._before.get(asked.source, (None, b""))
        if device is not None and not asked.options.allows(device):
            expected = b""
        executor = self._lend(standing.kept) if standing.unchanged() else None
        if executor is None:
            return self._leave(standing)
        how = pins.HOW.pack(asked.mode | os.O_CLOEXEC, 0, 0)
        paths = (pins.AT_FDCWD, (asked.target,)), (pins.AT_FDCWD, (asked.source,))
        # with the umask, which the mounter has: what says it is read once
        deed = Deed(_plan, (how, expected), paths, umask=True)
        try:
            _, _, reply = self._ask(call, standing, executor, deed)
        except Ended:
            return self._leave(standing)
        if reply is False:
            return self._leave(standing, executor)
        rest = partial(self._rest, asked, executor, reply)
        return self._later(call, wish, standing, (executor, None, None), rest)

    def _asked(self, call: Call, wish: Perform, standing: Standing) -> _Asked | None:
        """What a call of 64 bits asks for, if it is to be a new mount of what the kernel mounts from a device, for whoever may
        have that, and nothing is wrong so far; None of others."""
        family, performers, known = self._family, self._performers, standing.kept
        who, own = known.key.who, performers.callers.own().who
        options: Any = wish.options
        signature = call.signature
        at_source, at_target, at_kind, register, at_data, _ = call.registers
        flags = mount_words.flags_of(register)
        if not (
            options is not None
            and signature is not None
            and signature.word == 8
            and at_source
            and at_target
            and at_kind
            and mount_words.is_new(flags)
            and not flags & mount_words.NOUSER
            and not (options.images or options.remote)
            and known.devices
            and family.apart(who, own)
            and who.effective >> family.CAP_SYS_ADMIN & 1
            and performers.owned(call, who, standing)
        ):
            return None
        try:
            kind, source, target, _ = call.texts((
                ("fstype", at_kind, _LONGEST - 1), ("source", at_source, _LONGEST - 1),
                ("target", at_target, _LONGEST - 1),
            ))  # fmt: skip
            data = call.copied(at_data, PAGE_SIZE, some=True) if at_data else b""
            given = mount_words.options_in(data)
        except (MemoryUnreadable, Said):
            return None  # what is wrong first is seen there
        name = kind.decode("ascii", "replace")
        fits = 0 < len(source) <= ROOM and 0 < len(target) <= ROOM
        if not fits or name not in options.filesystems or not standing.still_there():
            return None
        mode = os.O_RDONLY if mount_words.reads_only(flags, given) else os.O_RDWR
        return _Asked(options, name, source, target, flags, given, mode)

    def _rest(self, asked: _Asked, executor: Executor, reply: Reply | None, task: Task) -> Work:
        """What is left once it is pinned."""
        looking = _looking((True, True))  # what is absolute differs in where it starts alone
        waited = reply is None
        if reply is None:
            reply = yield from late(task, executor, looking.plan.request)
        try:
            if not reply.made(looking.last):
                return (yield from registry.perform(task))
            first, second = (self._pin(task, reply, *each) for each in looking.pins)
            fd = task.keep(reply, looking.plan.made) if reply.made(looking.plan.made) else -1
        finally:
            reply.close()
        status = second.named.status
        if first.named.slow or second.named.slow:
            return (yield from registry.perform(task))
        if waited:  # the caller can be in other cgroups by now
            task.refuse_device(status)
        if fd < 0 and stat.S_ISBLK(status.mode) and asked.options.allows(status.rdev):
            fd, _ = yield from sourcing.reopened(task, second, asked.mode)
        if fd < 0:
            return (yield from registry.perform(task))
        if len(self._before) >= _MOST:
            self._before.clear()
        self._before[asked.source] = status.rdev, _which(reply.parts[looking.pins[1][1]])
        shown = sourcing.shown(asked.source, status.rdev)
        opened = sourcing.Source(fd, shown, False, asked.mode == os.O_RDONLY, joins=True)
        said: Verdict = yield from self._family.made(
            task, asked.options.idmap, asked.kind, opened, asked.flags, asked.given, first
        )
        return said

    def _pin(self, task: Task, reply: Reply, pin: Result, part: int) -> Pin:
        status, system = reply.parts[part : part + 2]
        on = system_of(system)
        named = pins.Named(status_of(status), False, b"", on.slow, on.stacked)
        return Pin(task.keep(reply, pin), named)


def _which(status: bytes) -> bytes:
    """Of a struct statx what says which device it is: type, mode and inode; its number, file system and mount."""
    return status[28:40] + status[128:152]


class _Looking(NamedTuple):
    """Pin both, and open the second if it is what is expected."""

    #: What is made is what was opened.
    plan: Plan
    #: Of each its pin, and the part with its status, behind which is that with its file system.
    pins: tuple[tuple[Result, int], ...]
    #: The step after which both are known.
    last: Result


@cache
def _looking(relative: tuple[bool, ...]) -> _Looking:
    """Holes: the umask, of which nothing is made here; how to open, and as what :func:`_which` says."""
    planning = Planning(Way(), Way(), relative=relative)
    steps = planning.steps
    steps.number()
    how, expected, empty = steps.hole(pins.HOW.size), steps.hole(36), steps.bytes(b"")
    made, last = [], None
    walked = planning.walk()
    statuses, digits = [steps.scratch(STATX_SIZE) for _ in walked], steps.scratch(16)
    for (pin, _), status, system in zip(walked, statuses, planning.systems, strict=True):
        last = statx(steps, pin, status, empty)
        steps.give(pin)
        made.append((pin, steps.want(status)))
        steps.want(Place(system.offset, STATFS_SIZE))
    assert last is not None
    at, seen = expected.offset, statuses[1].offset
    steps.compare(Place(at, 12), Place(seen + 28, 12))
    steps.compare(Place(at + 12, 24), Place(seen + 128, 24))
    steps.put_text(digits, made[1][0])
    opened = steps.call("openat2", planning.table, digits, how, pins.HOW.size)
    steps.give(opened)
    return _Looking(planning.freeze(opened), tuple(made), last)


def _plan(relative: tuple[bool, ...]) -> Plan:
    return _looking(relative).plan
