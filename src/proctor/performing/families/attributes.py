"""chmod, chown, utime and truncate by path, in all their forms: done as the caller would, to what is pinned.

No right is lent: the caller may do all of this itself, or gets the kernel's word that it may not.  It is
performed for the rules about paths: what a program passes can be another path by the time that the
kernel reads it, and here the very thing that the rules were asked about is changed.  The forms by
descriptor (fchmod, fchown, ftruncate) have no path, and need no performing.
"""

from __future__ import annotations

import errno
import signal
import struct
from functools import cache, partial
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import answer, deny
from proctor.errors import CallGone
from proctor.performing.executing.single import Single
from proctor.performing.executing.steps import Argument, Place, Result, Steps
from proctor.performing.families import CALLS
from proctor.performing.paths import pins
from proctor.performing.short_ways.plans import (
    CHMOD,
    CHOWN,
    REGISTER,
    Deed,
    Plan,
    Planning,
    Sketch,
    Way,
)
from proctor.performing.trouble import Said
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.performing.task import Task, Work

_BY_FLAGS: Final = ("fchmodat2", "fchownat", "utimensat", "utimensat_time64")
_BY_DIRFD: Final = ("fchmodat", "futimesat", *_BY_FLAGS)

_NOFOLLOW, _EMPTY_PATH = 0x100, 0x1000
_TIMES: Final = struct.Struct("=4q")
#: A struct rlimit64, and a struct sigaction that says SIG_IGN.
_FSIZE, _NO_LIMIT = 1, (1 << 64) - 1
_LIMITS: Final = struct.Struct("=2Q")
_IGNORED: Final = struct.pack("@P24x", 1)
_OMIT: Final = (1 << 30) - 2
_NO_ID: Final = 0xFFFFFFFF


class _Wanted(NamedTuple):
    """One call, as its kept values say."""

    #: What is made of what is pinned, and with what.
    what: str
    values: tuple[bytes | int, ...]
    number: int
    #: None: it is about the descriptor itself, and no O_PATH one.
    path: bytes | None
    #: O_NOFOLLOW or 0.
    bits: int
    #: Whether an empty path is that of the descriptor.
    empty: bool


def _decoded(call: Call) -> _Wanted | None:
    """In the kernel's order; None if there is nothing to do.

    :raises Said: what the kernel says before it looks at any path."""
    name, args = call.name, call.args
    length = int(args["length"]) if "truncate" in name else 0
    if length < 0:
        raise Said(errno.EINVAL)
    flags = int(args["flags"]) & 0xFFFFFFFF if name in _BY_FLAGS else 0
    times = _times(call, name) if "utime" in name else b""
    if name.startswith("utimensat") and times:
        _, access, _, modified = _TIMES.unpack(times)
        if access == modified == _OMIT:  # not even the path is looked at (fs/utimes.c)
            return None
    number = pins.signed(call.registers[0]) if name in _BY_DIRFD else pins.AT_FDCWD
    # of utimensat and futimesat: the descriptor
    null = "utime" in name and number != pins.AT_FDCWD and not call.address("path")
    if flags & ~(0 if null else _NOFOLLOW | _EMPTY_PATH):
        raise Said(errno.EINVAL)  # before the path is read
    path: bytes | None = None if null else call.path
    if not (null or path or call.address("path")):
        raise Said(errno.EFAULT)
    values: tuple[bytes | int, ...] = (times,) if times else ()
    what = "utimensat"
    if "chmod" in name:
        what, values = "fchmodat", (int(args["mode"]) & 0xFFFF,)
    elif "truncate" in name:
        what, values = "truncate", (length,)
    elif "chown" in name:
        what, values = "fchownat", (int(args["owner"]) & _NO_ID, int(args["group"]) & _NO_ID)
    nofollow = flags & _NOFOLLOW or name.startswith("lchown")
    bits = pins.O_NOFOLLOW if nofollow else 0
    return _Wanted(what, values, number, path, bits, bool(flags & _EMPTY_PATH))


def perform(task: Task) -> Work:
    """Do it in the caller's identity."""
    wanted = _decoded(task.call)
    if wanted is None:
        return answer(0)
    what, values, number, path, bits, empty = wanted
    if path is None or (not path and empty):
        held, named, _ = yield from task.itself(number)
        if path is None and pins.only_a_path(held):
            raise Said(errno.EBADF)
    else:
        held, named, _ = yield from task.pin(task.start(number, path), path, bits, 0)
    task.permit(named.path, named.status)
    if what == "truncate" and int(values[0]) > task.caller.limits["Max file size"].soft:
        return (yield from _beyond(task, held, int(values[0])))
    acting = _acting(what, len(values))
    failed = yield from acting.ask(task.session, *values, fds=(held,), table=True)
    return deny(failed) if failed else answer(0)


def _deed(call: Call) -> Deed | None:
    wanted = _decoded(call)
    if wanted is None or not wanted.path or wanted.what == "truncate":
        return None
    plan = partial(_plan, wanted.what, len(wanted.values), wanted.bits)
    return Deed(plan, wanted.values, ((wanted.number, (wanted.path,)),))


WAYS: Final = ("proctor.performing.short_ways.deeds",)
#: See :mod:`proctor.performing.short_ways.plans`.
DEEDS: Final = dict.fromkeys(CALLS["attributes"], _deed)


def _beyond(task: Task, held: int, length: int) -> Work:
    """Beyond the caller's RLIMIT_FSIZE, which the executor takes on for this one call: what else is wrong with the file
    comes before, and one that is as long is only cut (``vfs_truncate`` of fs/open.c, ``inode_newsize_ok`` of fs/attr.c)."""
    import resource  # families are known where nothing of Linux is

    # as the executor has it, of us; its hard limit stays
    own, most = (each & _NO_LIMIT for each in resource.getrlimit(resource.RLIMIT_FSIZE))
    given = _LIMITS.pack(min(task.caller.limits["Max file size"].soft, most), most)
    values = given, _LIMITS.pack(own, most), length
    failed = yield from _limited().ask(task.session, *values, fds=(held,), table=True)
    if failed != errno.EFBIG:
        return deny(failed) if failed else answer(0)
    if not task.call.valid():
        raise CallGone
    from proctor.kernel.pidfd import send_signal

    send_signal(task.caller.anchor(), signal.SIGXFSZ)
    return deny(errno.EFBIG)


def _times(call: Call, name: str) -> bytes:
    """Access and modification time as utimensat(2) takes them; empty for now.

    :raises Said: they are none, and the kernel says so before it looks at any path."""
    given = call.args["times"]
    if given is None:
        return b""
    if name == "utime":
        return _TIMES.pack(given.actime, 0, given.modtime, 0)
    if name.startswith("utimensat"):
        return _TIMES.pack(*(number for each in given for number in (each.sec, each.nsec)))
    if any(not 0 <= each.tv_usec < 1000000 for each in given):
        raise Said(errno.EINVAL)
    return _TIMES.pack(*(number for e in given for number in (e.tv_sec, e.tv_usec * 1000)))


# Requests ---------------------------------------------------------------------------------------


#: How many numbers a call has: mode, ids, length.
_NUMBERS: Final = {"fchmodat": 1, "fchownat": 2, "truncate": 1}


@cache
def _acting(what: str, many: int) -> Single:
    """One of the calls.  Holes: its numbers, or the times.  Sent: what it is about, the executor's table.

    :param many: how many values there are."""
    steps = Steps()
    values = _holes(steps, what, many)
    empty, root, digits = steps.bytes(b""), steps.bytes(b"/"), steps.scratch(16)
    given, table = steps.sent(), steps.sent()
    if what == "truncate":
        made = _truncated(steps, given, table, root, digits, values)
    else:
        held = steps.call("dup", given) if what == "fchmodat" else given
        made = _made(steps, what, held, table, empty, digits, values)
    return Single(steps.freeze(), made)


def _truncated(
    steps: Steps,
    given: Argument,
    table: Argument,
    root: Place,
    digits: Place,
    values: list[Argument],
) -> Result:
    """It has no form by directory: the executor stands in its own table."""
    steps.put_text(digits, steps.call("dup", given))
    steps.call("fchdir", table)
    made = steps.call("truncate", digits, *values, bad=0)
    steps.call("chdir", root, bad=0)
    return made


@cache
def _limited() -> Single:
    """truncate, with a limit.  Holes: the limit, what it was before, the length.  Sent: as for :func:`_acting`."""
    steps = Steps()
    ignored = steps.bytes(_IGNORED)
    limit, before = steps.hole(_LIMITS.size), steps.hole(_LIMITS.size)
    values: list[Argument] = [steps.number()]
    root, digits = steps.bytes(b"/"), steps.scratch(16)
    given, table = steps.sent(), steps.sent()
    steps.call("rt_sigaction", signal.SIGXFSZ, ignored, 0, 8)
    steps.call("prlimit64", 0, _FSIZE, limit, 0)
    made = _truncated(steps, given, table, root, digits, values)
    steps.call("prlimit64", 0, _FSIZE, before, 0)
    return Single(steps.freeze(), made)


@cache
def _plan(what: str, many: int, bits: int, relative: tuple[bool, ...]) -> Plan:
    """The same, of a path."""
    planning = Planning(Way(bits), relative=relative)
    steps = planning.steps
    values, empty = _holes(steps, what, many), steps.bytes(b"")
    ((pin, _),) = planning.walk()
    digits = steps.scratch(16)
    return planning.freeze(_made(steps, what, pin, planning.table, empty, digits, values))


def _holes(steps: Steps, what: str, many: int) -> list[Argument]:
    if what == "utimensat":
        return [steps.hole(_TIMES.size) if many else 0]
    return [steps.number() for _ in range(_NUMBERS[what])]


def _made(
    steps: Steps,
    what: str,
    pin: Argument,
    table: Argument,
    empty: Place,
    digits: Place,
    values: list[Argument],
) -> Result:
    if isinstance(pin, Result) and what == "fchmodat":
        # it takes no empty path; the executor's own link leads to the very thing
        steps.put_text(digits, pin)
        return steps.call(what, table, digits, *values)
    return steps.call(what, pin, empty, *values, _EMPTY_PATH)


def _sketch(
    what: str, at: int, *values: tuple[int, int, int], flags: int = -1, bits: int = 0
) -> Sketch:
    """
    :param at: whether a directory comes before the path.
    :param flags: the register of flags.
    :param bits: O_NOFOLLOW where there are none."""
    plan, other = partial(_plan, what, len(values), bits), None
    if flags >= 0:
        other = partial(_plan, what, len(values), pins.O_NOFOLLOW)
    zero = (flags, _NOFOLLOW) if other else (-1, 0)
    done = CHMOD if what == "fchmodat" else CHOWN
    return Sketch(plan, ((at - 1, at, False),), values, zero, other, what=done, nofollow=bool(bits))


def _mode(register: int) -> tuple[int, int, int]:
    return (REGISTER, register, 0xFFFF)


def _ids(register: int) -> tuple[tuple[int, int, int], ...]:
    return ((REGISTER, register, _NO_ID), (REGISTER, register + 1, _NO_ID))


#: The same for the core; not of times.
SKETCHES: Final = {
    "chmod": _sketch("fchmodat", 0, _mode(1)),
    "fchmodat": _sketch("fchmodat", 1, _mode(2)),
    "fchmodat2": _sketch("fchmodat", 1, _mode(2), flags=3),
    **dict.fromkeys(("chown", "chown32"), _sketch("fchownat", 0, *_ids(1))),
    **dict.fromkeys(("lchown", "lchown32"), _sketch("fchownat", 0, *_ids(1), bits=pins.O_NOFOLLOW)),
    "fchownat": _sketch("fchownat", 1, *_ids(2), flags=4),
}  # fmt: skip
