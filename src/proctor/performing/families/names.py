"""mkdir, rmdir, unlink, rename, link, symlink in all their forms: names made, moved and taken away as the
caller would, in directories that are pinned.

No right is lent: the caller may do all of this itself.  It is performed for the rules about paths: what
a program passes can be another path by the time that the kernel reads it, and here it is read once.  The
directory is walked to in the caller's identity, the rules are asked about it and the name, and the kernel
is given that very directory with that very name.  All that it says about the last component (``filename_create``,
``do_renameat2`` and the like of fs/namei.c, Linux 6.18) is its own word.

``link`` is of what its old path led to when that was pinned.  The others are about names: what stands
behind one is whatever the kernel finds.
"""

from __future__ import annotations

import errno
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import answer, deny, let_run_unsafe
from proctor.performing.executing.single import SENT, Shape, Single
from proctor.performing.executing.steps import Argument, Steps
from proctor.performing.paths import filestat, pinning, pins
from proctor.performing.short_ways import name_deeds
from proctor.performing.short_ways.name_deeds import (
    NUMBERS,
    REMOVEDIR,
    SYMLINK_FOLLOW,
    add,
    arguments,
)
from proctor.performing.short_ways.plans import deed_of
from proctor.performing.trouble import Moved, Said
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator

    from proctor.performing.task import Task, Work

_NOREPLACE, _EXCHANGE, _WHITEOUT = 1, 2, 4
_EMPTY_PATH: Final = 0x1000
_OPENER: Final = "the kernel alone knows who opened a descriptor, and nobody asks what it leads to"
_UNKNOWN: Final = "the caller may not have opened it; /proc/self/fd and AT_SYMLINK_FOLLOW will do"


class _Name(NamedTuple):
    """A name in a directory that is pinned."""

    directory: int
    #: With the slashes behind it.
    name: bytes


def perform(task: Task) -> Work:
    """Do it in the caller's identity."""
    call = task.call.name
    return (yield from _FORMS[call.removesuffix("2").removesuffix("at")](task, call))


def _flags(task: Task, call: str, *known: int) -> int:
    """The last argument of the forms that have flags.

    :raises Said: there are others; the kernel says so before it looks at any path."""
    flags = task.call.registers[len(task.call.args) - 1] & 0xFFFFFFFF
    if flags & ~sum(known):
        raise Said(errno.EINVAL)
    return flags


def _mkdir(task: Task, call: str) -> Work:
    at = call == "mkdirat"
    where = yield from _name(task, _dirfd(task, 0, at), "path")
    mode = task.call.registers[1 + at] & 0xFFFF
    return (yield from _done(task, "mkdirat", (where.directory,), task.umask, mode, where.name))


def _rmdir(task: Task, call: str) -> Work:
    return (yield from _remove(task, pins.AT_FDCWD, REMOVEDIR))


def _unlink(task: Task, call: str) -> Work:
    flags = _flags(task, call, REMOVEDIR) if call == "unlinkat" else 0
    return (yield from _remove(task, _dirfd(task, 0, call == "unlinkat"), flags))


def _expect_mounts(task: Task) -> None:
    """
    :raises Moved: others are mounted where the caller is than where it was."""
    if not task.standing.in_its_mounts():
        raise Moved


def _remove(task: Task, dirfd: int, flags: int) -> Work:
    _expect_mounts(task)
    where = yield from _name(task, dirfd, "path")
    return (yield from _done(task, "unlinkat", (where.directory,), flags, where.name))


def _rename(task: Task, call: str) -> Work:
    flags = 0
    if call == "renameat2":
        flags = _flags(task, call, _NOREPLACE, _EXCHANGE, _WHITEOUT)
        if flags & _EXCHANGE and flags & (_NOREPLACE | _WHITEOUT):
            raise Said(errno.EINVAL)
    at = call != "rename"
    _expect_mounts(task)
    old = yield from _name(task, _dirfd(task, 0, at), "oldpath")
    new = yield from _name(task, _dirfd(task, 2, at), "newpath")
    fds = (old.directory, new.directory)
    return (yield from _done(task, "renameat2", fds, flags, old.name, new.name))


def _link(task: Task, call: str) -> Work:
    at, looked = call == "linkat", task.asked or task.call.memory_read
    flags = _flags(task, call, SYMLINK_FOLLOW, _EMPTY_PATH) if at else 0
    number = _dirfd(task, 0, at)
    path: bytes = task.call.args["oldpath"]
    if flags & _EMPTY_PATH:
        below = number != pins.AT_FDCWD and not path.startswith(b"/")
        if below and not looked:
            return let_run_unsafe(_OPENER)
        # below with a path it is what it is without the flag: nothing more is had
        yield from _expect_right(task, number if below and not path else None)
    if not path and not flags & _EMPTY_PATH:
        raise Said(errno.ENOENT)
    if path:
        follow = 0 if flags & SYMLINK_FOLLOW else pins.O_NOFOLLOW
        pin = yield from task.pin(task.start(number, path), path, follow, 0)
    else:
        pin = yield from task.itself(number)
    task.permit(pin.named.path, pin.named.status, "oldpath")
    new = yield from _name(task, _dirfd(task, 2, at), "newpath")
    fds = (pin.fd, new.directory)
    return (yield from _done(task, "linkat", fds, new.name, table=True))


def _expect_right(task: Task, number: int | None) -> Generator[Any, Any, None]:
    """AT_EMPTY_PATH is for who opened the descriptor, and has been what it was then since, and for whoever has
    CAP_DAC_READ_SEARCH over that one's user namespace (``path_init`` of fs/namei.c, Linux 6.10).  Of the second the executor is
    as good as its caller; of the first nobody is.  Before, it is for whoever has that right on the host, whatever the path
    (``do_linkat``).

    :param number: of the descriptor that is meant itself.
    :raises Said: ENOENT, or there is no such descriptor (EBADF)."""
    asking = _ASKING if number is not None else _FLAGGED
    fds: tuple[int, ...] = ()
    if number is not None:
        fd = task.taken(number)
        if fd is None:
            raise Said(errno.EBADF)
        task.flushes = task.session.foreign = True
        fds = (fd,)
    failed = yield from asking().ask(task.session, fds=fds)
    if failed != errno.EBADF:
        raise Said(failed, "" if number is None else _UNKNOWN)


def _symlink(task: Task, call: str) -> Work:
    target: bytes = task.call.args["target"]
    if not target:
        raise Said(errno.ENOENT)
    new = yield from _name(task, _dirfd(task, 1, call == "symlinkat"), "linkpath")
    return (yield from _done(task, "symlinkat", (new.directory,), target, new.name))


_FORMS: Final = {
    "mkdir": _mkdir, "rmdir": _rmdir, "unlink": _unlink, "rename": _rename, "link": _link,
    "symlink": _symlink,
}  # fmt: skip


def _dirfd(task: Task, register: int, given: bool) -> int:
    return pins.signed(task.call.registers[register]) if given else pins.AT_FDCWD


def _name(task: Task, dirfd: int, argument: str) -> Generator[Any, Any, _Name]:
    """Pin the directory of a path, and ask about the name in it.

    :raises Said: what the kernel says about the way there.
    """
    path: bytes = task.call.args[argument]
    if not path:
        raise Said(errno.ENOENT)
    inside, name = pins.within(path)
    pin = yield from task.pin(task.start(dirfd, path), inside, pins.O_DIRECTORY, 0)
    if task.asked:
        last = name.rstrip(b"/")
        # What the name means to whoever looks at it; dots are names of directories.
        shown = pin.named.path.rstrip(b"/") + b"/" + last
        status = None
        if task.call.looks or last in (b"", b".", b".."):
            shown, status = yield from _behind(task, pin.fd, last or b".", shown)
        task.permit(shown, status, argument)
    return _Name(pin.fd, name)


def _behind(
    task: Task, directory: int, last: bytes, shown: bytes
) -> Generator[Any, Any, tuple[bytes, filestat.Status | None]]:
    """(path, status) of what has a name now."""
    entry = pinning.entry(pinning.PINNED, pins.room(len(last)))
    plain = pins.HOW.pack(pins.PIN, 0, 0)
    reply = yield from task.session.ask(entry.request, plain, last, fds=(directory,), table=True)
    try:
        if not reply.made(entry.found):
            return shown, None
        named = task.named(entry.found_name, reply, reply.fds[entry.found.step])
        return (named.path if last in (b".", b"..") else shown), named.status
    finally:
        reply.close()


WAYS: Final = ("proctor.performing.short_ways.deeds",)
#: See :mod:`proctor.performing.short_ways.plans`.
SKETCHES: Final = name_deeds.SKETCHES
DEEDS: Final = {name: deed_of(sketch) for name, sketch in SKETCHES.items()}


# Requests ---------------------------------------------------------------------------------------


#: Whether a descriptor may be linked from as it is: EBADF if so, which is said of where to.
_ASKING: Final = Shape("linkat", SENT, b"", -1, b"x", _EMPTY_PATH)
#: Whether the flag for that may be given at all: EBADF if so, which is said of where from.
_FLAGGED: Final = Shape("linkat", -1, b"x", -1, b"x", _EMPTY_PATH)


@cache
def _acting(what: str, *rooms: int) -> Single:
    """One of the calls.  Holes: numbers, then texts, as they come in :func:`_done`'s ``values``.  Sent:
    directories; of ``linkat`` what is linked, the directory, the executor's table.

    :param rooms: for the texts."""
    steps = Steps()
    given: list[Argument] = [steps.number() for _ in range(NUMBERS.get(what, 0))]
    texts = [steps.hole(room) for room in rooms]
    if what == "symlinkat":
        given.append(texts.pop(0))
    if what != "linkat":
        made = add(steps, what, given, *[(steps.sent(), text) for text in texts])
    else:
        digits = steps.scratch(16)
        linked, directory, table = steps.sent(), steps.sent(), steps.sent()
        steps.put_text(digits, steps.call("dup", linked))
        made = steps.call(what, table, digits, directory, *texts, SYMLINK_FOLLOW)
    return Single(steps.freeze(), made)


def _done(
    task: Task, what: str, fds: tuple[int, ...], *values: bytes | int, table: bool = False
) -> Work:
    acting = _acting(what, *[pins.room(len(each)) for each in values if isinstance(each, bytes)])
    failed = yield from acting.ask(task.session, *values, fds=fds, table=table)
    if failed == errno.EACCES:
        failed = yield from _among_its_own(task, what, values, fds)
    return deny(failed) if failed else answer(0)


def _among_its_own(
    task: Task, what: str, values: tuple[bytes | int, ...], fds: tuple[int, ...]
) -> Generator[Any, Any, int]:
    """What is said of names in the caller's own directories of procfs: see :func:`.own_links.names`."""
    from proctor.performing.paths import own_links  # policies are looked over where the core is not

    if what == "linkat":
        linked, fds = fds[0], fds[1:]
        source = b"/proc/self/fd/%d" % linked
        args: tuple[bytes | int, ...] = (pins.AT_FDCWD, source, *fds, *values, SYMLINK_FOLLOW)
    else:
        args = arguments(what, values[: -len(fds)], *zip(fds, values[-len(fds) :], strict=True))
    return (yield from own_links.names(task, fds, what, *args))
