"""FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR: what chattr(1) does, with CAP_LINUX_IMMUTABLE lent for files of the container.

The call is first made as the caller, on its own descriptor and with the flags that it had when they were read.  What the
kernel wants of the host for, to make a file immutable or append-only or to undo that, is lent where the rule names
the flag and the file is of an id of the caller's user namespace.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from proctor.call.verdict import answer, deny, let_run_unsafe
from proctor.performing.steps import Request, Result, Steps
from proctor.performing.threads import lacking
from proctor.performing.trouble import Powerless
from proctor.words import did_you_mean, quoted

if TYPE_CHECKING:
    from proctor.performing.lender import Terms
    from proctor.performing.task import Task, Work

CALLS: Final = ()
#: Which the family ``loop`` has unless a rule's options are of this one.
ALSO: Final = ("ioctl",)

#: include/uapi/linux/fs.h; FS_IOC32_SETFLAGS is what programs of 32 bits ask for.
_SETFLAGS, _SETFLAGS32, _FSSETXATTR = 0x40086602, 0x40046602, 0x401C5820
_GETFLAGS: Final = 0x80086601
_SIZES: Final = {_SETFLAGS: 4, _SETFLAGS32: 4, _FSSETXATTR: 28}
#: (FS_*_FL, FS_XFLAG_*) by the names of the options.
FLAGS: Final = {"immutable": (0x10, 0x8), "append": (0x20, 0x10)}
_CAP_FOWNER, _CAP_IMMUTABLE = 3, 9
_KERNELS: Final = "it sets no flags of a file; the kernel decides, by the caller's own rights"


@dataclass(frozen=True)
class Options:
    """See docs/families/fsflags.md.

    :param flags: for which of "immutable" and "append" the right is lent.
    """

    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given: object = self.flags
        if not isinstance(given, (list, tuple)):
            raise ValueError(f"flags is a list of names, not {given!r}")
        for each in given:
            if each not in FLAGS:
                raise ValueError(f"no flag {quoted(str(each))}{did_you_mean(str(each), FLAGS)}")
        object.__setattr__(self, "flags", tuple(given))


def perform(task: Task) -> Work:
    """Set the flags for the caller."""
    call = task.call
    command = call.registers[1] & 0xFFFFFFFF
    if command not in _SIZES:
        return let_run_unsafe(_KERNELS)
    options = task.options(Options)
    try:
        file = task.hold(task.take_fd(call.registers[0] & 0xFFFFFFFF))
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        return deny(errno.EBADF)
    status = os.fstat(file)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return let_run_unsafe(_KERNELS)  # devices have commands of the same numbers
    data = call.copied(call.registers[2], _SIZES[command])
    native = _SETFLAGS if command == _SETFLAGS32 else command
    asking = _setting(native)
    reply = yield from task.session.ask(asking.request, data, fds=(file,))
    reply.close()
    failed = reply.error(asking.made)
    if failed != errno.EPERM:
        return deny(failed) if failed else answer(0)
    if why := _refused(task, options, native, data, reply.parts[asking.found], status):
        return deny(failed, why)
    from proctor.performing.lender import Lender

    extra = task.who.effective & 1 << _CAP_FOWNER
    try:
        lender = Lender(task, 1 << _CAP_IMMUTABLE, 1 << _CAP_FOWNER)
    except Powerless:
        return deny(failed, "the monitor has no CAP_LINUX_IMMUTABLE itself")
    try:
        lending = _lending(lender.terms, native, extra)
        reply = yield from lender.ask(lending.request, lending.left, data, fds=(file,))
        reply.close()
        failed = reply.error(lending.made)
        return deny(failed) if failed else answer(0)
    finally:
        lender.close()


def _refused(
    task: Task, options: Options, command: int, data: bytes, before: bytes, status: os.stat_result
) -> str:
    """Why the right is not lent; empty if it may be."""
    which = 0 if command == _SETFLAGS else 1
    (wanted,) = struct.unpack_from("=I", data)
    (had,) = struct.unpack_from("=I", before)
    named = sum(FLAGS[each][0] for each in options.flags)
    asked = sum(
        both[0] for both in FLAGS.values() if bool(had & both[0]) != bool(wanted & both[which])
    )
    if not asked:
        return "it is refused for something else than immutable and append-only"
    if asked & ~named:
        return "the rule does not name that flag"
    for number, ranges in (
        (status.st_uid, task.caller.uid_map),
        (status.st_gid, task.caller.gid_map),
    ):
        if not any(0 <= number - each.outside < each.length for each in ranges):
            return "it belongs to somebody who has no number in the caller's user namespace"
    return lacking(task, _CAP_IMMUTABLE, "CAP_LINUX_IMMUTABLE")


# Requests -----------------------------------------------------------------------------------------


class _Setting(NamedTuple):
    request: Request
    made: Result
    left: int
    found: int = 0


@cache
def _setting(command: int) -> _Setting:
    """Hole: what is set.  Sent: the file.  What it had before is found."""
    steps = Steps()
    data, had = steps.hole(_SIZES[command]), steps.scratch(8)
    file = steps.sent()
    steps.call("ioctl", file, _GETFLAGS, had, bad=0)
    made = steps.call("ioctl", file, command, data, bad=0)
    found = steps.want(had)
    return _Setting(steps.freeze(), made, 0, found)


@lru_cache(256)
def _lending(terms: Terms, command: int, extra: int) -> _Setting:
    """The same, as somebody, with the right lent."""
    from proctor.performing.lender import Loan

    steps = Steps()
    data = steps.hole(_SIZES[command])
    loan = Loan(steps, terms)
    right = loan.capabilities(1 << _CAP_IMMUTABLE | extra)
    loan.take_groups()
    loan.take_user()
    loan.have(right)
    made = steps.call("ioctl", steps.sent(), command, data, bad=0)
    loan.give_back()
    return _Setting(steps.freeze(), made, loan.left)
