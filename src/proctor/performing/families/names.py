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
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import answer, deny, let_run_unsafe
from proctor.errors import MemoryUnreadable
from proctor.performing import filestat, pinning, pins
from proctor.performing.plans import (
    CONSTANT,
    LINK,
    MKDIR,
    REGISTER,
    RENAME,
    ROOM,
    SYMLINK,
    TEXT,
    UMASK,
    UNLINK,
    Deed,
    Plan,
    Planning,
    Sketch,
    Way,
)
from proctor.performing.steps import Request, Result, Steps
from proctor.performing.trouble import Moved, Said
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator

    from proctor.call.call import Call
    from proctor.performing.task import Task, Work

_REMOVEDIR: Final = 0x200
_NOREPLACE, _EXCHANGE, _WHITEOUT = 1, 2, 4
_SYMLINK_FOLLOW, _EMPTY_PATH = 0x400, 0x1000
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
    acting = _acting("mkdirat", pins.room(len(where.name)), 0)
    mode = task.call.registers[1 + at] & 0xFFFF
    return (yield from _done(task, acting, (task.umask, mode, where.name), (where.directory,)))


def _rmdir(task: Task, call: str) -> Work:
    return (yield from _remove(task, pins.AT_FDCWD, _REMOVEDIR))


def _unlink(task: Task, call: str) -> Work:
    flags = _flags(task, call, _REMOVEDIR) if call == "unlinkat" else 0
    return (yield from _remove(task, _dirfd(task, 0, call == "unlinkat"), flags))


def _expect_mounts(task: Task) -> None:
    """
    :raises Moved: others are mounted where the caller is than where it was."""
    if not task.standing.in_its_mounts():
        raise Moved


def _remove(task: Task, dirfd: int, flags: int) -> Work:
    _expect_mounts(task)
    where = yield from _name(task, dirfd, "path")
    acting = _acting("unlinkat", pins.room(len(where.name)), 0)
    return (yield from _done(task, acting, (flags, where.name), (where.directory,)))


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
    acting = _acting("renameat2", pins.room(len(old.name)), pins.room(len(new.name)))
    fds = (old.directory, new.directory)
    return (yield from _done(task, acting, (flags, old.name, new.name), fds))


def _link(task: Task, call: str) -> Work:
    at, looked = call == "linkat", task.asked or task.call.memory_read
    flags = _flags(task, call, _SYMLINK_FOLLOW, _EMPTY_PATH) if at else 0
    number = _dirfd(task, 0, at)
    path: bytes = task.call.args["oldpath"]
    if flags & _EMPTY_PATH and number != pins.AT_FDCWD and not path.startswith(b"/"):
        if not looked:
            return let_run_unsafe(_OPENER)
        if not path:
            yield from _expect_opener(
                task, number
            )  # with a path it is what it is without the flag: nothing more is had
    if not path and not flags & _EMPTY_PATH:
        raise Said(errno.ENOENT)
    if path:
        follow = 0 if flags & _SYMLINK_FOLLOW else pins.O_NOFOLLOW
        pin = yield from task.pin(task.start(number, path), path, follow, 0)
    else:
        pin = yield from task.itself(number)
    task.permit(pin.named.path, pin.named.status, "oldpath")
    new = yield from _name(task, _dirfd(task, 2, at), "newpath")
    acting = _acting("linkat", pins.room(len(new.name)), 0)
    fds = (pin.fd, new.directory)
    return (yield from _done(task, acting, (new.name,), fds, table=True))


def _expect_opener(task: Task, number: int) -> Generator[Any, Any, None]:
    """AT_EMPTY_PATH is for who opened the descriptor, and has been what it was then since, and for whoever has
    CAP_DAC_READ_SEARCH over that one's user namespace (``path_init`` of fs/namei.c, Linux 6.10).  Of the second the executor is
    as good as its caller; of the first nobody is.

    :raises Said: ENOENT, or there is no such descriptor (EBADF)."""
    fd = task.taken(number)
    if fd is None:
        raise Said(errno.EBADF)
    task.flushes = task.session.foreign = True
    asking = _asking()
    reply = yield from task.session.ask(asking.request, fds=(fd,))
    reply.close()
    if (failed := reply.error(asking.made)) != errno.EBADF:
        raise Said(failed, _UNKNOWN)


def _symlink(task: Task, call: str) -> Work:
    target: bytes = task.call.args["target"]
    if not target:
        raise Said(errno.ENOENT)
    new = yield from _name(task, _dirfd(task, 1, call == "symlinkat"), "linkpath")
    acting = _acting("symlinkat", pins.room(len(target)), pins.room(len(new.name)))
    return (yield from _done(task, acting, (target, new.name), (new.directory,)))


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


# The short way ------------------------------------------------------------------------------------


_IN: Final = Way(pins.O_DIRECTORY, entry=True)


def _at(path: bytes, dirfd: int) -> tuple[int, tuple[bytes, bytes]]:
    return dirfd, pins.within(path)


def _new_directory(call: Call, at: int) -> Deed | None:
    path, registers = call.path, call.registers
    where = _at(path, pins.signed(registers[0]) if at else pins.AT_FDCWD)
    return (
        Deed(_plans["mkdirat"], (registers[1 + at] & 0xFFFF,), (where,), umask=True)
        if path
        else None
    )


def _gone(call: Call, at: int, removes: int) -> Deed | None:
    registers = call.registers
    flags = registers[2] & 0xFFFFFFFF if at else removes
    if flags & ~_REMOVEDIR:  # which the kernel says before it looks at any path
        return None
    path = call.path
    if not path:
        return None
    where = _at(path, pins.signed(registers[0]) if at else pins.AT_FDCWD)
    return Deed(_plans["unlinkat"], (flags,), (where,), mounts=True)


def _moved(call: Call, at: int, flagged: int) -> Deed | None:
    if flagged and call.registers[4] & 0xFFFFFFFF:
        return None
    both = _both(call, at)
    if both is None:
        return None
    (first, old), (second, new) = both
    return Deed(_plans["renameat2"], (0,), (_at(old, first), _at(new, second)), mounts=True)


def _both(call: Call, at: int) -> tuple[tuple[int, bytes], tuple[int, bytes]] | None:
    """The two paths of a call, and what they start from; None if one of them is none."""
    old, registers = call.path, call.registers
    try:
        new = call.path2
    except MemoryUnreadable:  # which the kernel says behind what it says of the first one
        return None
    if not (old and new):
        return None
    first, second = [pins.signed(registers[e]) for e in (0, 2)] if at else (pins.AT_FDCWD,) * 2
    return (first, old), (second, new)


def _linked(call: Call, at: int) -> Deed | None:
    target, registers = call.args["target"], call.registers
    if not target:  # which the kernel says whatever the other one is
        return None
    new = call.args["linkpath"]
    if not new:
        return None
    where = _at(new, pins.signed(registers[1]) if at else pins.AT_FDCWD)
    return Deed(_plans["symlinkat"], (target,), (where,)) if len(target) <= ROOM else None


def _named_again(call: Call, at: int) -> Deed | None:
    flags = call.registers[4] & 0xFFFFFFFF if at else 0
    both = None if flags & ~_SYMLINK_FOLLOW else _both(call, at)
    if both is None:
        return None
    (first, old), (second, new) = both
    plan = _plans["linkat, followed" if flags else "linkat"]
    return Deed(plan, (), ((first, (old,)), _at(new, second)))


@cache
def _plan(what: str, relative: tuple[bool, ...]) -> Plan:
    """One of the calls.  Holes: as of :func:`_acting`, but the paths."""
    ways = [_IN for _ in relative]
    if what.startswith("linkat"):
        ways[0] = Way(0 if "followed" in what else pins.O_NOFOLLOW)
    planning = Planning(*ways, relative=relative)
    steps = planning.steps
    numbers = [
        steps.number() for _ in range({"mkdirat": 2, "unlinkat": 1, "renameat2": 1}.get(what, 0))
    ]
    target = steps.hole(ROOM) if what == "symlinkat" else 0
    places = planning.walk()
    directory, name = places[0]
    if what == "mkdirat":
        steps.call("umask", numbers[0])
        return planning.freeze(steps.call(what, directory, name, numbers[1]))
    if what == "unlinkat":
        return planning.freeze(steps.call(what, directory, name, numbers[0]))
    if what == "renameat2":
        return planning.freeze(steps.call(what, directory, name, *places[1], numbers[0]))
    if ways[0] is not _IN:
        # what it is about is pinned: the executor's own link leads to the very thing
        digits = steps.scratch(16)
        steps.put_text(digits, directory)
        args = planning.table, digits, *places[1], _SYMLINK_FOLLOW
        return planning.freeze(steps.call("linkat", *args))
    return planning.freeze(steps.call(what, target, directory, name))


_plans: Final = {
    each: partial(_plan, each)
    for each in ("mkdirat", "unlinkat", "renameat2", "symlinkat", "linkat", "linkat, followed")
}
WAYS: Final = ("proctor.performing.deeds",)
#: See :mod:`proctor.performing.plans`.
DEEDS: Final = {
    "mkdir": partial(_new_directory, at=0), "mkdirat": partial(_new_directory, at=1),
    "rmdir": partial(_gone, at=0, removes=_REMOVEDIR), "unlink": partial(_gone, at=0, removes=0),
    "unlinkat": partial(_gone, at=1, removes=0), "rename": partial(_moved, at=0, flagged=0),
    "renameat": partial(_moved, at=1, flagged=0), "renameat2": partial(_moved, at=1, flagged=1),
    "symlink": partial(_linked, at=0), "symlinkat": partial(_linked, at=1),
    "link": partial(_named_again, at=0), "linkat": partial(_named_again, at=1),
}  # fmt: skip
#: The same for the core.
_HERE, _HERE2, _AT0 = (-1, 0, True), (-1, 1, True), (0, 1, True)
SKETCHES: Final = {
    "mkdir": Sketch(_plans["mkdirat"], (_HERE,), ((UMASK, 0, 0), (REGISTER, 1, 0xFFFF)), what=MKDIR),
    "mkdirat": Sketch(_plans["mkdirat"], (_AT0,), ((UMASK, 0, 0), (REGISTER, 2, 0xFFFF)), what=MKDIR),
    "rmdir": Sketch(_plans["unlinkat"], (_HERE,), ((CONSTANT, 0, _REMOVEDIR),), mounts=True, what=UNLINK),
    "unlink": Sketch(_plans["unlinkat"], (_HERE,), ((CONSTANT, 0, 0),), mounts=True, what=UNLINK),
    "unlinkat": Sketch(_plans["unlinkat"], (_AT0,), ((REGISTER, 2, _REMOVEDIR),), (2, _REMOVEDIR), mounts=True, what=UNLINK),
    "rename": Sketch(_plans["renameat2"], (_HERE, _HERE2), ((CONSTANT, 0, 0),), mounts=True, what=RENAME),
    "renameat": Sketch(_plans["renameat2"], (_AT0, (2, 3, True)), ((CONSTANT, 0, 0),), mounts=True, what=RENAME),
    "renameat2": Sketch(_plans["renameat2"], (_AT0, (2, 3, True)), ((CONSTANT, 0, 0),), (4, 0), mounts=True, what=RENAME),
    "symlink": Sketch(_plans["symlinkat"], (_HERE2,), ((TEXT, 0, 0),), what=SYMLINK),
    "symlinkat": Sketch(_plans["symlinkat"], ((1, 2, True),), ((TEXT, 0, 0),), what=SYMLINK),
    "link": Sketch(_plans["linkat"], ((-1, 0, False), _HERE2), (), what=LINK, nofollow=True),
    "linkat": Sketch(
        _plans["linkat"], ((0, 1, False), (2, 3, True)), (), (4, _SYMLINK_FOLLOW), _plans["linkat, followed"],
        what=LINK, nofollow=True,
    ),
}  # fmt: skip


# Requests ---------------------------------------------------------------------------------------


class _Acting(NamedTuple):
    what: str
    request: Request
    made: Result


@cache
def _asking() -> _Acting:
    """Whether a descriptor may be linked from as it is: EBADF if so, which is said of where to.  Sent: the descriptor."""
    steps = Steps()
    empty, name = steps.bytes(b""), steps.bytes(b"x")
    made = steps.call("linkat", steps.sent(), empty, -1, name, _EMPTY_PATH)
    return _Acting("linkat", steps.freeze(), made)


@cache
def _acting(what: str, first: int, second: int) -> _Acting:
    """One of the calls.  Holes: numbers, then names, as they come in :func:`_done`'s ``values``.  Sent:
    directories; of ``linkat`` what is linked, the directory, the executor's table.

    :param first: room for the first name, and of ``second`` for a second one."""
    steps = Steps()
    numbers = {"mkdirat": 2, "unlinkat": 1, "renameat2": 1}.get(what, 0)
    given = [steps.number() for _ in range(numbers)]
    one = steps.hole(first)
    two = steps.hole(second) if second else None
    if what == "mkdirat":
        directory = steps.sent()
        steps.call("umask", given[0])
        made = steps.call(what, directory, one, given[1])
    elif what == "unlinkat":
        made = steps.call(what, steps.sent(), one, given[0])
    elif what == "renameat2":
        assert two is not None
        made = steps.call(what, steps.sent(), one, steps.sent(), two, given[0])
    elif what == "symlinkat":
        assert two is not None
        made = steps.call(what, one, steps.sent(), two)
    else:
        digits = steps.scratch(16)
        linked, directory, table = steps.sent(), steps.sent(), steps.sent()
        steps.put_text(digits, steps.call("dup", linked))
        made = steps.call(what, table, digits, directory, one, _SYMLINK_FOLLOW)
    return _Acting(what, steps.freeze(), made)


def _done(
    task: Task,
    acting: _Acting,
    values: tuple[bytes | int, ...],
    fds: tuple[int, ...],
    table: bool = False,
) -> Work:
    reply = yield from task.session.ask(acting.request, *values, fds=fds, table=table)
    reply.close()
    failed = reply.error(acting.made)
    if failed == errno.EACCES:
        failed = yield from _among_its_own(task, acting.what, values, fds)
    return deny(failed) if failed else answer(0)


def _among_its_own(
    task: Task, what: str, values: tuple[bytes | int, ...], fds: tuple[int, ...]
) -> Generator[Any, Any, int]:
    """What is said of names in the caller's own directories of procfs: see :func:`.own_links.names`."""
    from proctor.performing import own_links  # policies are looked over where the core is not

    if what == "linkat":
        linked, directory = fds
        source = b"/proc/self/fd/%d" % linked
        args: tuple[bytes | int, ...] = (
            pins.AT_FDCWD,
            source,
            directory,
            values[0],
            _SYMLINK_FOLLOW,
        )
        return (yield from own_links.names(task, (directory,), what, *args))
    if what == "mkdirat":
        args = (fds[0], values[2], values[1])
    elif what == "unlinkat":
        args = (fds[0], values[1], values[0])
    elif what == "symlinkat":
        args = (values[0], fds[0], values[1])
    else:
        args = (fds[0], values[1], fds[1], values[2], values[0])
    return (yield from own_links.names(task, fds, what, *args))
