"""open, openat, openat2, creat: opened as the caller would, and handed over.

Without a rule about paths the call is one openat2(2) by an executor, with the caller's own path,
flags, mode and resolve bits.  What must be
known before anything is opened is pinned: :mod:`proctor.performing.paths.opening`.

What is opened becomes a descriptor of the caller by ADDFD.  So the file's offset, its O_NONBLOCK and
its lease on a FIFO's other end are all the caller's.  Whether there is room for it in the caller's
table is seen to before anything is done (``do_sys_openat2`` in fs/open.c).
"""

from __future__ import annotations

import errno
import os
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import HandOver, answer, deny, let_run_unsafe
from proctor.errors import MemoryUnreadable
from proctor.performing import noting
from proctor.performing.executing.requests import SKIPPED, together
from proctor.performing.given import Given
from proctor.performing.paths import acting, filestat, pinning, pins
from proctor.performing.paths.opening import pinned, terminal
from proctor.performing.paths.permitting import act_on
from proctor.performing.paths.pins import HOW, O_DIRECTORY, O_NOFOLLOW, O_PATH, PIN
from proctor.performing.paths.wanted import (
    ACCESS,
    MAKING,
    O_CLOEXEC,
    O_CREAT,
    O_EXCL,
    O_LARGEFILE,
    O_NOCTTY,
    O_TRUNC,
    SYNC,
    TMPFILE,
    UNUSUAL,
    VALID,
    WITH_O_PATH,
    Wanted,
)  # fmt: skip
from proctor.performing.trouble import Handed, Moved, Said

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel import _core
    from proctor.kernel.standing import Standing
    from proctor.performing.executing.requests import Form, Reply
    from proctor.performing.paths.opening import Opens
    from proctor.performing.performers import Performers
    from proctor.performing.short_ways.here import Here
    from proctor.performing.short_ways.short import Ordinary
    from proctor.performing.task import Task, Work

#: See :func:`proctor.performing.registry.load`.
WAYS: Final = ("proctor.performing.short_ways.short",)
#: Errors that are not always the kernel's word to the caller.
_UNSURE: Final = (errno.EPERM, errno.ENXIO, errno.EMFILE)

_NO_O_PATH: Final = 'an O_PATH descriptor cannot be handed over; o_path = "run" lets such calls run'
_RUN_O_PATH: Final = (
    "an O_PATH descriptor cannot be handed over; it gives no right to read or write"
)


class Options(Given):
    """See docs/families/quiet.md, and docs/families/mount.md for loop devices.

    :param sync: False has O_SYNC and O_DSYNC left out.
    :param loops: whether loop devices and /dev/loop-control are opened, for what the family ``loop`` does.
    """

    sync: bool = True
    loops: bool = False

    def check(self) -> None:
        if not isinstance(self.loops, bool):
            raise ValueError(f"loops is true or false, not {self.loops!r}")
        if not isinstance(self.sync, bool):
            raise ValueError(f"sync is true or false, not {self.sync!r}")

    def kept(self, flags: int) -> int:
        """What is left of flags."""
        return flags if self.sync else flags & ~SYNC


def decode(call: Call) -> tuple[int, int, int, int]:
    """(dirfd, flags, mode, resolve), from the call's kept values.

    :raises MemoryUnreadable: what the kernel says before it looks at any path (EFAULT, E2BIG...).
    """
    registers, name = call.registers, call.name
    if name == "openat2":
        how = call.how
        return pins.signed(registers[0]), int(how.flags), int(how.mode), int(how.resolve)
    if name == "openat":
        dirfd, flags, mode = pins.signed(registers[0]), registers[2], registers[3]
    elif name == "open":
        dirfd, flags, mode = pins.AT_FDCWD, registers[1], registers[2]
    else:
        dirfd, flags, mode = pins.AT_FDCWD, O_CREAT | os.O_WRONLY | O_TRUNC, registers[1]
    # build_open_how of fs/open.c: the older calls forgive, so they are made strict first
    flags &= VALID
    if flags & O_PATH:
        flags &= WITH_O_PATH
    if not flags & (O_CREAT | TMPFILE):
        mode = 0
    return dirfd, flags, mode & 0o7777, 0


def _makes(flags: int) -> bool:
    """Whether it makes or truncates what others see."""
    return bool(flags & MAKING) and not flags & TMPFILE


def is_harmless_again(call: Call) -> bool:
    """Whether it makes and truncates nothing that others see: what was opened by who had begun was closed with its end."""
    return not _makes(decode(call)[1])


def _is_small(call: Call) -> bool:
    """Whether it is made as by a program of 32 bits, so that O_LARGEFILE is as it is passed (``force_o_largefile``
    and compat_sys_open of fs/open.c; ``creat`` and ``openat2`` have no other form there)."""
    if call.abi != "i386" or call.name not in ("open", "openat"):
        return False
    return not call.registers[1 if call.name == "open" else 2] & O_LARGEFILE


def at_once(
    call: Call, wish: Perform, standing: Standing, here: Here, ours: bytes
) -> Verdict | None:
    """What the monitor opens itself, for a caller that is what it is: see :mod:`proctor.performing.short_ways.here`."""
    dirfd, flags, mode, resolve = decode(call)
    if isinstance(wish.options, Options):
        flags = wish.options.kept(flags)
    if _makes(flags) and noting.is_noted(call):
        return None
    if _is_small(call) or mode & ~0o7777 or (mode and not flags & (O_CREAT | TMPFILE)):
        return None  # the latter two are EINVAL (build_open_flags of fs/open.c)
    return here.open(call, wish, standing, dirfd, flags, mode, resolve, ours)


def natively(name: str) -> tuple[int, int, int] | None:
    """(flags that mean something, those that want more than to open what is there, those of these that make or truncate
    it) of a call that the core may open by itself, in the place of :func:`ordinary`; None for others."""
    return (VALID, UNUSUAL, MAKING) if name == "openat" else None


def short_way(
    performers: Performers, name: str, listener: object, begins: Callable[[Call], object] | None
) -> Ordinary:
    """What supervisors ask first.  Of what it asks for each may say None wherever it cannot be quick, and then
    nothing has happened."""
    from proctor.performing.short_ways.short import OpenWay

    return OpenWay(performers, sys.modules[__name__]).way(name, listener)


def _simply(call: Call, wish: Perform) -> tuple[int, int | bytes, int] | None:
    """(dirfd, path or where it is, flags) of what is simple: nothing happens besides, there are no
    structures, and nobody has looked at more than the path."""
    if call.name != "openat" or _is_small(call):
        return None
    if call.memory_read and (call.looked_at is not None or call.looks):
        return None
    dirfd, _, flags = call.registers[:3]
    flags &= VALID
    if wish.options is not None:
        flags = wish.options.kept(flags) if isinstance(wish.options, Options) else UNUSUAL
    if flags & UNUSUAL or flags & ACCESS == ACCESS:
        return None
    path = call.untaken_path
    return None if not path else (pins.signed(dirfd), path, flags)


def ordinary(
    call: Call, wish: Perform, standing: Standing, here: Here, ours: bytes
) -> Verdict | None:
    """As :func:`at_once`; what is simple, in fewer steps."""
    simple = _simply(call, wish) if wish.allow is None else None
    if simple is None:
        mine = wish.options is None or isinstance(wish.options, Options)
        return at_once(call, wish, standing, here, ours) if mine else None
    fd = here.ordinary(call, standing, *simple, ours)
    if fd is None:
        return None
    return deny(-fd) if fd < 0 else HandOver(fd, None, simple[2] & O_CLOEXEC != 0)


def ahead(call: Call, wish: Perform) -> tuple[int, int | bytes, int] | None:
    """What :func:`perform` is going to ask about first, of what is simple: dirfd, address of the path, flags."""
    if wish.options is not None and getattr(wish.options, "loops", False):
        return None
    simple = _simply(call, wish)
    if simple is None or (wish.allow is not None and simple[2] & O_NOFOLLOW):
        return None
    return simple


@lru_cache(256)
def forms(flags: int, asked: bool) -> tuple[_core.Forms, tuple[acting.Opening | pinning.Look, ...]]:
    """Forms of the first question, and what these are.

    :param asked: whether a rule wants to see what it is."""
    wanted, bits = Wanted(None, b"", flags | O_NOCTTY, 0, 0), flags & O_DIRECTORY
    values: tuple[int | bytes, ...] = (
        0o777,
        wanted.how(resolve=pins.NO_MAGICLINKS),
        pins.probing(wanted.flags, 0),
    )
    if asked:
        how = HOW.pack(PIN | bits, 0, pins.NO_MAGICLINKS)
        values = wanted.how(), how, pins.probing(bits, 0)
    openings: list[acting.Opening | pinning.Look] = []
    made: list[Form] = []
    for relative in (False, True):
        where = () if relative else (pins.AT_FDCWD,)
        for room in pins.SHORT:
            opening = pinning.look(relative, room) if asked else acting.opening(relative, room)
            openings.append(opening)
            form = opening.request.form(
                *where, *values, room=room, relative=relative, table=asked, opens=not asked
            )
            made.append(form)
    return together(made), tuple(openings)


@lru_cache(256)
def foreseeing(flags: int) -> tuple[_core.Forms, tuple[pinning.Look, ...]]:
    """The same where a rule has said already what it says to what is expected there: of an absolute path whose name is
    itself, of one whose name is another, and of a relative one."""
    bits = flags & O_DIRECTORY
    how = HOW.pack(PIN | bits, 0, pins.NO_MAGICLINKS)
    values = how_again(flags), how, pins.probing(bits, 0), b""
    looks: list[pinning.Look] = []
    made: list[Form] = []
    for relative, itself in ((False, True), (False, False), (True, False)):
        look, size = pinning.foreseen(relative, itself)
        assert look.opened is not None
        where = () if relative else (pins.AT_FDCWD,)
        expects = size, look.opened, look.given
        form = look.request.form(
            *where, *values, room=pinning.FORESEEN, relative=relative, table=True, foresees=expects
        )
        looks.append(look)
        made.append(form)
    return together(made), tuple(looks)


def plain(opening: acting.Opening | pinning.Look, reply: Reply, flags: int) -> Verdict | None:
    """What a reply says, where that needs no second thought."""
    if isinstance(opening, pinning.Look):
        if reply.made(opening.pin) or reply.error(opening.valid) != errno.EBADF:
            return None
        failed = reply.error(opening.pin)
        return deny(failed) if _sure(failed, reply, opening.probe) else None
    if reply.made(opening.fd):
        if not filestat.is_plain(reply.parts[opening.system], reply.parts[opening.status]):
            return None
        return HandOver(reply.take(opening.fd), None, flags & O_CLOEXEC != 0)
    failed = reply.error(opening.fd)
    return deny(failed) if _sure(failed, reply, opening.probe) else None


def _sure(failed: int, reply: Reply, probe: pins.Probe) -> bool:
    if failed in _UNSURE or probe.may_be_own(failed, reply):
        return False
    return pins.stands(failed, reply, probe, 0)


def seen(opening: acting.Opening | pinning.Look, reply: Reply) -> pins.Named | None:
    """What was pinned for a rule, where that is a file or directory that is opened without second thoughts."""
    if not isinstance(opening, pinning.Look) or not reply.made(opening.pin):
        return None
    system, status = reply.parts[opening.name.first + 1], reply.parts[opening.name.first]
    if opening.name.unsure(reply) or not filestat.is_plain(system, status):
        return None
    return opening.name.read(reply)


@lru_cache(256)
def how_again(flags: int) -> bytes:
    """How that is opened then."""
    return Wanted(None, b"", flags | O_NOCTTY, 0, 0).how(flags & ~O_NOFOLLOW | O_NOCTTY, 0)


def foreseen(look: pinning.Look, flags: int, task: Task) -> Work:
    """Go on from the answer to one of :func:`foreseeing`, which is still to come, or says that it is something else."""
    reply = yield from task.session.heard()
    assert look.opened is not None
    try:
        if reply.results[look.opened.step] != SKIPPED:
            act_on(task.call, look.name.read(reply))
            if not reply.made(look.opened):
                raise Said(reply.error(look.opened))
            return HandOver(reply.take(look.opened), cloexec=flags & O_CLOEXEC != 0)
    finally:
        task.session.drop(reply)
    return (yield from perform(task))


def perform(task: Task) -> Work:
    """Open for the caller and hand the descriptor over."""
    dirfd, flags, mode, resolve = decode(task.call)
    try:
        path = task.call.path
    except MemoryUnreadable:
        yield from valid(task, HOW.pack(flags | O_CLOEXEC, mode, resolve))
        raise
    options = task.options(Options)
    flags = options.kept(flags)
    if options.loops and not flags & (O_PATH | TMPFILE):
        fd = yield from _loop(task, dirfd, path, flags, resolve)
        if fd >= 0:
            return HandOver(fd, cloexec=bool(flags & O_CLOEXEC))
    if flags & O_PATH and task.o_path == "run" and not task.asked:
        return let_run_unsafe(_RUN_O_PATH)
    if path and not flags & O_PATH:
        flags |= O_NOCTTY  # an executor has no use for a terminal, nor may it take one
    if path and not task.has_room():
        yield from valid(task, HOW.pack(flags | O_CLOEXEC, mode, resolve))
        return deny(errno.EMFILE)
    small = _is_small(task.call) and not flags & O_PATH
    wanted = Wanted(task.start(dirfd, path, resolve), path, flags, mode, resolve, small)
    if flags & O_PATH:
        return (yield from _place(task, wanted))
    noted = _makes(flags) and noting.is_noted(task.call)
    opens = pinned if task.asked or not task.devices or small or noted else _directly
    try:
        fd = yield from opens(task, wanted)
    except Handed as handed:
        return answer(handed.number)
    return HandOver(fd, cloexec=bool(flags & O_CLOEXEC))


def _loop(task: Task, dirfd: int, path: bytes, flags: int, resolve: int) -> Opens:
    """A loop device of the container's, or what stands for one; -1 if it is something else."""
    from proctor.performing.families.mount import elsewhere
    from proctor.performing.loop_devices import loops

    if not path or not task.has_room() or not elsewhere(task):
        return -1
    bits = flags & (O_DIRECTORY | O_NOFOLLOW)
    try:
        pin = yield from task.pin(task.start(dirfd, path, resolve), path, bits, resolve)
    except Said:
        return -1  # which is said again, or it is made
    if loops.device(pin.named.status) is None or flags & O_DIRECTORY:
        return -1
    task.permit(pin.named.path, pin.named.status)
    if flags & O_CREAT and flags & O_EXCL:
        raise Said(errno.EEXIST)
    return (yield from loops.opened(task, pin.named.status, flags & ACCESS))


def valid(task: Task, how: bytes) -> Generator[Any, Any, None]:
    """What the kernel refuses before it reads the path, and looks for room in the table (``do_sys_openat2``).

    :raises Said: it does refuse that."""
    look = pinning.look(False, 64)
    pin = HOW.pack(PIN, 0, 0)
    reply = yield from task.session.ask(look.request, -1, how, pin, pin, b".", table=True)
    reply.close()
    pins.refuse(reply, look.valid, errno.EBADF)


def _directly(task: Task, wanted: Wanted) -> Opens:
    """The kernel does it all; only what meets procfs goes the long way."""
    start, path = wanted.start, wanted.path
    opening = acting.opening(pins.has(start), pins.room(len(path)))
    reply = yield from task.session.ask(
        opening.request,
        *pins.directory(start),
        task.umask if wanted.flags & (O_CREAT | TMPFILE) else 0o777,
        wanted.how(resolve=wanted.resolve | pins.NO_MAGICLINKS),
        pins.probing(wanted.flags, wanted.resolve),
        path,
        fds=pins.along(start),
    )
    try:
        if reply.made(opening.fd):
            system = filestat.system_of(reply.parts[opening.system])
            task.session.slow |= system.slow
            if not system.proc:
                device = filestat.status_of(reply.parts[opening.status]).is_device
                if (device or system.cgroup) and task.elsewhere():
                    raise Moved
                return reply.take(opening.fd)
            failed = 0
        else:
            failed = reply.error(opening.fd)
            if failed == errno.EPERM and task.elsewhere():
                raise Moved
            if task.stands(failed, reply, opening.probe, wanted.resolve):
                if failed == errno.ENXIO:
                    return (yield from terminal(task, wanted))
                raise Said(failed)
    finally:
        task.session.drop(reply)
    # where it may have been the opening that failed, whose path may lead on, that is walked again
    return (yield from pinned(task, wanted, 0 if task.strict else failed))


def _place(task: Task, wanted: Wanted) -> Work:
    """O_PATH: no such descriptor can be handed over."""
    pin = yield from task.pin(
        wanted.start,
        wanted.path,
        wanted.flags & (O_NOFOLLOW | O_DIRECTORY),
        wanted.resolve & ~pins.CACHED,
        wanted.how(),
    )
    task.permit(pin.named.path, pin.named.status)
    if task.o_path == "run":
        return let_run_unsafe(_RUN_O_PATH)
    return deny(errno.EOPNOTSUPP, _NO_O_PATH)
