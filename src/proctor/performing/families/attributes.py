"""chmod, chown, utime and truncate by path, in all their forms: done as the caller would, to what is pinned.

No right is lent: the caller may do all of this itself, or gets the kernel's word that it may not.  It is
performed for the rules about paths: what a program passes can be another path by the time that the
kernel reads it, and here the very thing that the rules were asked about is changed.  The forms by
descriptor (fchmod, fchown, ftruncate) have no path, and need no performing.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import struct
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import answer, deny
from proctor.errors import CallGone
from proctor.performing import acting, filestat, pins
from proctor.performing.steps import Request, Result, Steps
from proctor.performing.trouble import Said
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator

    from proctor.performing.task import Task, Work

_BY_FLAGS: Final = ("fchmodat2", "fchownat", "utimensat", "utimensat_time64")
_BY_DIRFD: Final = ("fchmodat", "futimesat", *_BY_FLAGS)

_NOFOLLOW, _EMPTY_PATH = 0x100, 0x1000
_TIMES: Final = struct.Struct("=4q")
_OMIT: Final = (1 << 30) - 2
_NO_ID: Final = 0xFFFFFFFF


def perform(task: Task) -> Work:
    """Do it in the caller's identity."""
    call, args = task.call.name, task.call.args
    length = int(args["length"]) if "truncate" in call else 0
    if length < 0:
        raise Said(errno.EINVAL)
    flags = int(args["flags"]) & 0xFFFFFFFF if call in _BY_FLAGS else 0
    times = _times(task, call) if "utime" in call else b""
    if call.startswith("utimensat") and times:
        _, access, _, modified = _TIMES.unpack(times)
        if access == modified == _OMIT:  # not even the path is looked at (fs/utimes.c)
            return answer(0)
    number = pins.signed(task.call.registers[0]) if call in _BY_DIRFD else pins.AT_FDCWD
    # of utimensat and futimesat: the descriptor
    null = "utime" in call and number != pins.AT_FDCWD and not task.call.address("path")
    if flags & ~(0 if null else _NOFOLLOW | _EMPTY_PATH):
        raise Said(errno.EINVAL)  # before the path is read
    path: bytes | None = args["path"]
    if path is None and not null:
        raise Said(errno.EFAULT)
    if null or (not path and flags & _EMPTY_PATH):
        held, named = yield from task.itself(number)
        if null and pins.only_a_path(held):
            raise Said(errno.EBADF)
    else:
        follow = not (flags & _NOFOLLOW or call.startswith("lchown"))
        pin = yield from task.pin(
            task.start(number, path or b""), path or b"", 0 if follow else pins.O_NOFOLLOW, 0
        )
        held, named = pin.fd, pin.named
    task.permit(named.path, named.status)
    values: tuple[bytes | int, ...]
    if "chmod" in call:
        acting, values = _acting("fchmodat", 0), (int(args["mode"]) & 0xFFFF,)
    elif "truncate" in call:
        yield from _may_grow(task, held, named.status, length)
        acting, values = _acting("truncate", 0), (length,)
    elif "chown" in call:
        acting = _acting("fchownat", 0)
        values = int(args["owner"]) & _NO_ID, int(args["group"]) & _NO_ID
    else:
        acting, values = _acting("utimensat", len(times)), (times,) if times else ()
    reply = yield from task.session.ask(acting.request, *values, fds=(held,), table=True)
    reply.close()
    failed = reply.error(acting.made)
    return deny(failed) if failed else answer(0)


def _may_grow(
    task: Task, held: int, status: filestat.Status, length: int
) -> Generator[Any, Any, None]:
    """See that the caller's RLIMIT_FSIZE holds, which an executor has not (``inode_newsize_ok`` of fs/attr.c).

    :raises Said: EFBIG, and the caller gets SIGXFSZ."""
    limit = task.caller.limits["Max file size"].soft
    if length <= limit or not stat.S_ISREG(status.mode) or os.fstat(held).st_size >= length:
        return
    asking = acting.writable()
    reply = yield from task.session.ask(asking.request, fds=(held,))
    reply.close()
    if failed := reply.error(asking.fd):
        raise Said(failed)
    if not task.call.valid():
        raise CallGone
    from proctor.kernel.pidfd import send_signal

    send_signal(task.caller.anchor(), signal.SIGXFSZ)
    raise Said(errno.EFBIG)


def _times(task: Task, call: str) -> bytes:
    """Access and modification time as utimensat(2) takes them; empty for now.

    :raises Said: they are none, and the kernel says so before it looks at any path."""
    given = task.call.args["times"]
    if given is None:
        return b""
    if call == "utime":
        return _TIMES.pack(given.actime, 0, given.modtime, 0)
    if call.startswith("utimensat"):
        return _TIMES.pack(*(number for each in given for number in (each.sec, each.nsec)))
    if any(not 0 <= each.tv_usec < 1000000 for each in given):
        raise Said(errno.EINVAL)
    return _TIMES.pack(*(number for e in given for number in (e.tv_sec, e.tv_usec * 1000)))


# Requests ---------------------------------------------------------------------------------------


class _Acting(NamedTuple):
    request: Request
    made: Result


@cache
def _acting(what: str, times: int) -> _Acting:
    """One of the calls.  Holes: its numbers, or the times.  Sent: what it is about, the executor's table.

    :param times: how many bytes they have; 0 for none."""
    steps = Steps()
    numbers = [
        steps.number() for _ in range({"fchmodat": 1, "fchownat": 2, "truncate": 1}.get(what, 0))
    ]
    when = steps.hole(times) if times else 0
    empty, root, digits = steps.bytes(b""), steps.bytes(b"/"), steps.scratch(16)
    given, table = steps.sent(), steps.sent()
    if (
        what == "fchmodat"
    ):  # it takes no empty path; the executor's own link leads to the very thing
        steps.put_text(digits, steps.call("dup", given))
        made = steps.call(what, table, digits, numbers[0])
    elif what == "truncate":  # it has no form by directory: the executor stands in its own table
        steps.put_text(digits, steps.call("dup", given))
        steps.call("fchdir", table)
        made = steps.call(what, digits, numbers[0], bad=0)
        steps.call("chdir", root)
    elif what == "fchownat":
        made = steps.call(what, given, empty, *numbers, _EMPTY_PATH)
    else:
        made = steps.call(what, given, empty, when, _EMPTY_PATH)
    return _Acting(steps.freeze(), made)
