"""quotactl, quotactl_fd: reading and setting quotas of the container's own ids, with CAP_SYS_ADMIN lent.

The call is first made as the caller, of the very device that its path leads to, or of its own descriptor.  What the
kernel wants of the host for (``check_quotactl_permission`` of fs/quota/quota.c), other ids' quotas than the caller's own,
is lent where the rule names the command and the id has a number in the caller's user namespace, as whose number it
is translated.  What is about a whole file system (on, off, grace times) is left to the kernel.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Generator
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import answer, deny, let_run_unsafe
from proctor.errors import MemoryUnreadable
from proctor.performing.entitled import id_maps, lacking
from proctor.performing.executing.lent import Lent
from proctor.performing.executing.single import Single
from proctor.performing.executing.steps import Number, Place, Result, Steps
from proctor.performing.given import Given, would
from proctor.performing.paths import pins
from proctor.performing.trouble import Powerless, Said
from proctor.records import NamedTuple
from proctor.words import chosen

if TYPE_CHECKING:
    from proctor.call.identity import IdRange
    from proctor.call.verdict import Verdict
    from proctor.performing.task import Task, Work


class _Form(NamedTuple):
    """What a command has in the caller's memory (include/uapi/linux/quota.h, dqblk_xfs.h)."""

    command: int
    size: int
    #: Whether that is read, and the quota set.
    sets: bool = False
    #: Where the id is in what is filled, 0 if it is not.
    id: int = 0


_DQBLK, _XFS = 72, 112
#: By the names of the option.
COMMANDS: Final = {
    "Q_GETQUOTA": _Form(0x800007, _DQBLK),
    "Q_GETNEXTQUOTA": _Form(0x800009, _DQBLK, id=68),
    "Q_XGETQUOTA": _Form(0x5803, _XFS, id=4),
    "Q_XGETNEXTQUOTA": _Form(0x5809, _XFS, id=4),
    "Q_SETQUOTA": _Form(0x800008, _DQBLK, sets=True),
    "Q_XSETQLIM": _Form(0x5804, _XFS, sets=True),
}
#: What reads, and what nobody needs a right for: Q_SYNC, Q_GETFMT, Q_GETINFO, Q_XQUOTASYNC.
READING: Final = tuple(name for name, form in COMMANDS.items() if not form.sets)
_SYNC: Final = 0x800001
_FORMS: Final = {
    form.command: form
    for form in (
        *COMMANDS.values(),
        *(_Form(command, size) for command, size in ((_SYNC, 0), (0x800004, 4), (0x800005, 24), (0x5807, 0))),
    )
}  # fmt: skip
#: Any other: without what it may have in memory.
_OTHER: Final = _Form(0, 0)
_NEXT: Final = (0x800009, 0x5809)
#: USRQUOTA, GRPQUOTA, PRJQUOTA.
_TYPES: Final = 3
_CAP_SYS_ADMIN: Final = 21
_KERNELS: Final = "it is about a whole file system; the kernel decides, by the caller's own rights"
_ANOTHER: Final = "it is about a whole file system, which could be another by then"
_NOWHERE: Final = 1  # an address where nothing can be


class Options(Given):
    """See docs/families/quota.md.

    :param commands: which of :data:`COMMANDS` the right is lent for.
    """

    commands: tuple[str, ...] = READING

    def check(self) -> None:
        self.settle("commands", chosen("commands", self.commands, COMMANDS))


class _Wish(NamedTuple):
    """What is asked for, about what."""

    form: _Form
    #: The command and the kind of id, as they were passed.
    word: int
    id: int
    #: What is set; None if it cannot be read.
    data: bytes | None
    #: A descriptor of the file system's, or the pin of its device.
    file: int
    by_path: bool

    @property
    def kind(self) -> int:
        """USRQUOTA, GRPQUOTA or PRJQUOTA."""
        return self.word & 0xFF

    @property
    def values(self) -> tuple[bytes | int, ...]:
        """What fills the holes of a request."""
        return self.word, self.id, *([self.data] if self.data else ())


def perform(task: Task) -> Work:
    """Read or set a quota for the caller."""
    call, options = task.call, task.options(Options)
    by_path = call.name == "quotactl"
    word = call.registers[0 if by_path else 1] & 0xFFFFFFFF
    form = _FORMS.get(word >> 8)
    file = -1 if by_path else task.taken(call.registers[0] & 0xFFFFFFFF)
    if file is None:
        return deny(errno.EBADF)
    if word & 0xFF >= _TYPES:
        return deny(errno.EINVAL)
    if not by_path and os.readlink(f"/proc/self/fd/{file}").startswith("anon_inode:"):
        return deny(
            errno.ENOSYS
        )  # an io_uring, too, which no executor can be passed (SCM_RIGHTS, Linux 6.7)
    special: bytes | None = call.args["special"] if by_path else b""
    if special is None and word >> 8 != _SYNC:
        return deny(errno.ENODEV)
    if special is None or (form is None and not task.asked):  # or all file systems are written out
        if task.asked:
            raise Said(errno.EPERM, _ANOTHER)
        return let_run_unsafe(_KERNELS)
    if by_path:
        pin = yield from task.pin(task.start(pins.AT_FDCWD, special), special, 0, 0)
        task.permit(pin.named.path, pin.named.status, "special")
        file = pin.fd
    known = form or _OTHER
    data = None if form is None else _data(task, form)
    wish = _Wish(known, word, call.registers[2] & 0xFFFFFFFF, data, file, by_path)
    asking = _asking(known, by_path, data is None)
    reply = yield from task.session.ask(asking.request, *wish.values, fds=(file,), table=by_path)
    reply.close()
    failed = reply.error(asking.made)
    if form is None:
        if failed == errno.EFAULT:
            raise Said(errno.EPERM, _ANOTHER)
        return deny(failed) if failed else answer(0)
    if failed == errno.EPERM:
        return (yield from _lent(task, options, wish))
    return deny(failed) if failed else _told(task, form, reply.parts[0])


def _data(task: Task, form: _Form) -> bytes | None:
    """What is set; None if it cannot be read, which the kernel finds only when the caller may set it."""
    if not form.sets:
        return b""
    try:
        return task.call.copied(task.call.words[3], _size(task, form)).ljust(form.size, b"\0")
    except MemoryUnreadable as error:
        if error.errno != errno.EFAULT:
            raise
        return None


def _size(task: Task, form: _Form) -> int:
    """How much of it is in memory: i386 has no padding behind struct if_dqblk (fs/quota/compat.h)."""
    short = task.call.abi == "i386" and form.size == _DQBLK and not form.id
    return form.size - 4 if short else form.size


def _told(task: Task, form: _Form, found: bytes) -> Verdict:
    if form.sets or not form.size:
        return answer(0)
    return answer(0, writes=[(task.call.words[3], found[: _size(task, form)])])


# Lending --------------------------------------------------------------------------------------------


def _lent(task: Task, options: Options, wish: _Wish) -> Work:
    form = wish.form
    name = next((name for name, each in COMMANDS.items() if each is form), "")
    if name not in options.commands:
        why = f"the rule does not name {name} {would(commands=[name])}" if name else ""
        return deny(errno.EPERM, why)
    if why := lacking(task, _CAP_SYS_ADMIN, "CAP_SYS_ADMIN"):
        return deny(errno.EPERM, why)
    ranges = sorted((*id_maps(task), task.caller.projid_map)[wish.kind])
    follows = form.command in _NEXT
    ranges = [each for each in ranges if each.inside + each.length > wish.id]
    if not follows:
        ranges = [each for each in ranges if each.inside <= wish.id]
    if not ranges:
        return deny(errno.EINVAL, "the id has no number in the caller's user namespace")
    if form.sets and not _outside(ranges[0], wish.id):
        return deny(errno.EPERM, "the host's id 0 stands for what all others have by default")
    from proctor.performing.identities.lender import Lender

    try:
        lender = Lender(task, 1 << _CAP_SYS_ADMIN)
    except Powerless:
        return deny(errno.EPERM, "the monitor has no CAP_SYS_ADMIN itself")
    with lender:
        for each in ranges:
            verdict = yield from _try(task, lender, wish, each)
            if verdict is not None:
                return verdict
        return deny(errno.ENOENT)


def _outside(ids: IdRange, number: int) -> int:
    return ids.outside + max(number, ids.inside) - ids.inside


def _try(task: Task, lender: Any, wish: _Wish, ids: IdRange) -> Generator[Any, Any, Verdict | None]:
    """Of one range of ids; None if there is none that follows in it."""
    form = wish.form
    lending = _lending(lender.permitted, form, wish.by_path, wish.data is None)
    values = wish._replace(id=_outside(ids, wish.id)).values
    reply = yield from lender.ask(lending, *values, fds=(wish.file,), table=wish.by_path)
    reply.close()
    failed = reply.error(lending.made)
    follows = form.command in _NEXT
    if failed:
        return None if follows and failed == errno.ENOENT else deny(failed)
    found = bytearray(reply.parts[lending.found])
    if form.id:
        (number,) = struct.unpack_from("=I", found, form.id)
        if not 0 <= number - ids.outside < ids.length:
            return None  # it is somebody else's
        struct.pack_into("=I", found, form.id, ids.inside + number - ids.outside)
    return _told(task, form, bytes(found))


# Requests -------------------------------------------------------------------------------------------


class _Parts(NamedTuple):
    """The holes of a request: the command, the id, what is set (or where nothing can be read; None to be told)."""

    word: Number
    id: Number
    data: Place | int | None

    @classmethod
    def of(cls, steps: Steps, form: _Form, blind: bool) -> _Parts:
        """:param blind: whether what is set cannot be read."""
        word, number = steps.number(), steps.number()
        return cls(
            word, number, _NOWHERE if blind else steps.hole(form.size) if form.sets else None
        )


def _made(
    steps: Steps, form: _Form, parts: _Parts, by_path: bool, root: Place
) -> tuple[Result, int]:
    """Ask, about what is sent along: and, by path, of the executor's table, whose own link leads to the very thing."""
    file = steps.sent()
    room = steps.scratch(form.size or 8) if parts.data is None else parts.data
    if by_path:
        digits, table = steps.scratch(16), steps.sent()
        steps.put_text(digits, steps.call("dup", file))
        steps.call("fchdir", table)
        made = steps.call("quotactl", parts.word, digits, parts.id, room, bad=0)
        steps.call("chdir", root)
    else:
        made = steps.call("quotactl_fd", file, parts.word, parts.id, room, bad=0)
    return made, steps.want(room) if isinstance(room, Place) else 0


@cache
def _asking(form: _Form, by_path: bool, blind: bool) -> Single:
    steps = Steps()
    root, parts = steps.bytes(b"/"), _Parts.of(steps, form, blind)
    made, _ = _made(steps, form, parts, by_path, root)
    return Single(steps.freeze(), made)


@lru_cache(256)
def _lending(permitted: int, form: _Form, by_path: bool, blind: bool) -> Single:
    """The same with the right lent."""
    steps = Steps()
    root, parts = steps.bytes(b"/"), _Parts.of(steps, form, blind)
    with Lent(steps, permitted, 1 << _CAP_SYS_ADMIN) as lent:
        made, found = _made(steps, form, parts, by_path, root)
    return Single(steps.freeze(), made, lent.left, found)
