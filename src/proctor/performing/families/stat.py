"""stat, access and readlink in all their forms, done as the caller would, of what is pinned.

No right is lent.  It is performed for the rules about paths, as :mod:`proctor.performing.families.attributes`: what
the rules were asked about is what is told of.  The forms by descriptor (fstat) have no path, and need no
performing.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from proctor.call.path.procfs import link_text
from proctor.call.verdict import answer, deny
from proctor.errors import MemoryUnreadable
from proctor.performing import scarce
from proctor.performing.entitled import root_of
from proctor.performing.executing.single import Single
from proctor.performing.executing.steps import Steps
from proctor.performing.paths import pins
from proctor.performing.paths.filestat import PROC_ROOT_INO
from proctor.performing.short_ways.plans import (
    ACCESS,
    REGISTER,
    STAT,
    STATX,
    Plan,
    Planning,
    Sketch,
    Way,
    deed_of,
)
from proctor.performing.trouble import Said
from proctor.syscalls.architectures import native

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from proctor.call.call import Call
    from proctor.call.identity import IdRange
    from proctor.call.verdict import Verdict
    from proctor.performing.paths.finding import Pin
    from proctor.performing.task import Task, Work

_BY_DIRFD: Final = ("newfstatat", "fstatat64", "statx", "faccessat", "faccessat2", "readlinkat")
STATS: Final = (
    "stat", "lstat", "stat64", "lstat64", "oldstat", "oldlstat", "newfstatat", "fstatat64", "statx",
)  # fmt: skip
ACCESSES: Final = ("access", "faccessat", "faccessat2")

_NOFOLLOW, _EACCESS, _NO_AUTOMOUNT, _EMPTY_PATH = 0x100, 0x200, 0x800, 0x1000
_SYNC: Final = 0x6000  # AT_STATX_SYNC_TYPE
_BASIC: Final = 0x7FF  # STATX_BASIC_STATS
_RESERVED: Final = 1 << 31  # STATX__RESERVED
#: struct statx of include/uapi/linux/stat.h, the same on every machine.
_STATX: Final = struct.Struct("=IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIII112x")
_LONGEST: Final = 4096
_MOST: Final = (1 << 31) - 1
_MAX_NON_LFS: Final = (1 << 31) - 1  # include/linux/fs.h
#: What the kernel shows instead of ids that do not fit (/proc/sys/kernel/overflowuid, unless somebody changed it).
OVERFLOW: Final = 65534


def perform(task: Task) -> Work:
    """Do it in the caller's identity."""
    flags = checked_flags(task.call)
    if task.call.name not in ACCESSES or flags & _EACCESS:
        return (yield from _told(task, flags))
    with as_real(task):
        return (yield from _told(task, flags))


@contextmanager
def as_real(task: Task) -> Iterator[None]:
    """access(2) is walked and asked by another one: see :meth:`proctor.performing.identities.who.Who.really`."""
    from proctor.performing.identities.identity import becoming  # which policies need not know
    from proctor.performing.identities.who import Key

    who, caller, own = task.who, task.caller, task.own
    real = who.really(root_of(task.standing))
    if real == who:
        yield
        return
    before = task.session
    task.session = before.another(Key(real, before.container), becoming(caller, real, own))
    try:
        yield
    finally:
        task.session.close()
        task.session = before


def _told(task: Task, flags: int) -> Work:
    name = task.call.name
    pin = yield from _pinned(task, flags)
    task.permit(pin.named.path, pin.named.status)
    if name in ACCESSES:
        acting = _asking("faccessat2", 0)
        mode = int(task.call.args["mode"])
        reply = yield from task.session.ask(
            acting.request, mode, _EACCESS | _EMPTY_PATH, fds=(pin.fd,)
        )
    elif name in STATS:
        acting = _asking("statx", _STATX.size)
        mask = task.call.registers[3] & 0xFFFFFFFF if name == "statx" else _BASIC
        how = (flags & _SYNC if name == "statx" else 0) | _EMPTY_PATH
        reply = yield from task.session.ask(acting.request, how, mask, fds=(pin.fd,))
    else:
        if task.call.path and not stat.S_ISLNK(pin.named.status.mode):
            raise Said(errno.EINVAL)
        if pin.named.proc and (text := _own_number(task, pin)) is not None:
            return _read(task, text)
        acting = _asking("readlinkat", _LONGEST)
        reply = yield from task.session.ask(acting.request, fds=(pin.fd,))
    reply.close()
    failed, text = reply.error(acting.made), reply.parts[0] if reply.parts else b""
    if failed == errno.EACCES and pin.named.proc:
        from proctor.performing.paths import (
            own_links,  # policies are looked over where the core is not
        )

        if name in ACCESSES:
            failed = yield from own_links.accessed(task, pin, mode)
        elif name not in STATS and (own := (yield from own_links.text(task, pin))) is not None:
            failed, text = 0, own
    if failed:
        return deny(failed)
    if name in ACCESSES:
        return answer(0)
    if name == "statx":
        return answer(0, writes=task.call.fill("statxbuf", reply.parts[0]))
    if name in STATS:
        return told(task.call, _of_statx(reply.parts[0]))
    return _read(task, text)


def _read(task: Task, text: bytes) -> Verdict:
    text = text[: task.call.args.bufsiz]
    return answer(len(text), writes=task.call.fill("buf", text))


def _own_number(task: Task, pin: Pin) -> bytes | None:
    """What the caller reads in ``self`` and ``thread-self`` of a procfs: the link says its reader's number.

    :raises Said: ENOENT where it has none there, as the kernel."""
    directory, _, name = pin.named.path.rpartition(b"/")
    if name not in (b"self", b"thread-self"):
        return None
    from proctor.kernel.raw import openat2  # policies are looked over where it is not

    bits = pins.IN_ROOT | pins.NO_SYMLINKS
    try:
        proc = openat2(task.caller.root(), directory or b"/", pins.PIN | pins.O_DIRECTORY, bits)
    except OSError as error:
        scarce.pass_on(error)
        return None
    try:
        top = os.fstat(proc)
        if top.st_ino != PROC_ROOT_INO or top.st_dev != os.fstat(pin.fd).st_dev:
            return None
        text = link_text(proc, name, pin.fd, task.caller)
        task.caller.check()
        return text
    except FileNotFoundError:
        raise Said(errno.ENOENT) from None
    finally:
        os.close(proc)


def checked_flags(call: Call) -> int:
    """The flags of the forms that have them, 0 of the others.

    :raises Said: what the kernel says before it looks at any path."""
    name = call.name
    if name in ("readlink", "readlinkat"):
        if call.args.bufsiz <= 0:
            raise Said(errno.EINVAL)
        return _NOFOLLOW | (_EMPTY_PATH if name == "readlinkat" else 0)
    if name in ACCESSES:
        flags = call.registers[3] & 0xFFFFFFFF if name == "faccessat2" else 0
        if int(call.args["mode"]) & 0xFFFFFFFF & ~7 or flags & ~(
            _EACCESS | _NOFOLLOW | _EMPTY_PATH
        ):
            raise Said(errno.EINVAL)
        return flags
    if name not in _BY_DIRFD:
        return _NOFOLLOW if "lstat" in name else 0
    flags = int(call.args["flags"]) & 0xFFFFFFFF
    if name == "statx" and (call.registers[3] & _RESERVED or flags & _SYNC == _SYNC):
        raise Said(errno.EINVAL)
    if failed := _of_itself(call, flags):
        raise Said(failed)
    return flags


def _of_itself(call: Call, flags: int) -> int:
    """What is said of the flags and the address of a path, an errno or 0.  Of a descriptor the kernel makes fstat(2), whatever the
    flags (``vfs_fstatat`` of fs/stat.c), or did not yet, and since when it takes NULL differs."""
    odd = flags & ~(_NOFOLLOW | _NO_AUTOMOUNT | _EMPTY_PATH | _SYNC)
    if flags & _EMPTY_PATH and (odd or not call.address("path")):
        try:
            empty = not call.args["path"]
        except MemoryUnreadable:
            empty = False
        if empty:
            from proctor.performing import newer

            null, fd = not call.address("path"), pins.signed(call.registers[0]) >= 0
            return newer.of_itself(call.name == "statx", fd, null, flags)
    return errno.EINVAL if odd else 0


def _pinned(task: Task, flags: int) -> Generator[Any, Any, Pin]:
    path: bytes | None = task.call.args["path"]
    number = pins.signed(task.call.registers[0]) if task.call.name in _BY_DIRFD else pins.AT_FDCWD
    if not path:
        if not flags & _EMPTY_PATH:
            raise Said(errno.ENOENT if path is not None else errno.EFAULT)
        if path is None and task.call.name not in ("newfstatat", "fstatat64", "statx"):
            raise Said(errno.EFAULT)
        pin = yield from task.itself(number)
        if task.call.name == "readlinkat" and not stat.S_ISLNK(pin.named.status.mode):
            raise Said(errno.ENOENT)  # do_readlinkat of fs/stat.c
        return pin
    bits = pins.O_NOFOLLOW if flags & _NOFOLLOW else 0
    return (yield from task.pin(task.start(number, path), path, bits, 0))


# The short way ------------------------------------------------------------------------------------

#: Sizes of a ``struct stat`` as the kernel writes it for programs of its own architecture (arch/*/include/uapi/asm/stat.h,
#: include/uapi/asm-generic/stat.h).
_NATIVE: Final = {"x86_64": 144, "aarch64": 128, "riscv64": 128}


@cache
def _stat(bits: int, relative: tuple[bool, ...]) -> Plan:
    planning = Planning(Way(bits), relative=relative)
    steps, empty = planning.steps, planning.steps.bytes(b"")
    ((pin, _),) = planning.walk()
    found = steps.scratch(_NATIVE[native()])
    steps.want(found)
    return planning.freeze(steps.call("newfstatat", pin, empty, found, _EMPTY_PATH))


@cache
def _statx(bits: int, relative: tuple[bool, ...]) -> Plan:
    """Holes: the mask."""
    planning = Planning(Way(bits), relative=relative)
    steps = planning.steps
    mask, empty = steps.number(), steps.bytes(b"")
    ((pin, _),) = planning.walk()
    found = steps.scratch(_STATX.size)
    steps.want(found)
    return planning.freeze(steps.call("statx", pin, empty, _EMPTY_PATH, mask, found))


@cache
def _readlink(relative: tuple[bool, ...]) -> Plan:
    """Of a directory and a name: of a link itself, which has no other name, errors are others."""
    planning = Planning(Way(pins.O_DIRECTORY, entry=True), relative=relative)
    steps = planning.steps
    ((directory, name),) = planning.walk()
    text = steps.scratch(_LONGEST)
    made = steps.call("readlinkat", directory, name, text, _LONGEST)
    steps.want(text, made)
    return planning.freeze(made)


@cache
def _access(how: int, relative: tuple[bool, ...]) -> Plan:
    """Holes: the mode."""
    planning = Planning(Way(), relative=relative)
    steps = planning.steps
    mode, empty = steps.number(), steps.bytes(b"")
    ((pin, _),) = planning.walk()
    return planning.freeze(steps.call("faccessat2", pin, empty, mode, _EMPTY_PATH | how))


def _sketches() -> dict[str, Sketch]:
    first, second = (-1, 0, False), (0, 1, False)
    flagged, real = partial(_stat, pins.O_NOFOLLOW), partial(_access, 0)
    says_nothing = _NO_AUTOMOUNT | _EMPTY_PATH
    made = {
        "statx": Sketch(
            partial(_statx, 0), (second,), ((REGISTER, 3, 0xFFFFFFFF),), (2, _NOFOLLOW), partial(_statx, pins.O_NOFOLLOW),
            fills=4, within=(3, 0, _MOST), ignored=says_nothing, what=STATX,
        ),
        "readlink": Sketch(_readlink, ((-1, 0, True),), (), fills=1, cut=2, within=(2, 1, _MOST)),
        "readlinkat": Sketch(_readlink, ((0, 1, True),), (), fills=2, cut=3, within=(3, 1, _MOST)),
        "access": Sketch(real, (first,), ((REGISTER, 1, 7),), within=(1, 0, 7), itself=True, what=ACCESS),
        "faccessat": Sketch(real, (second,), ((REGISTER, 2, 7),), within=(2, 0, 7), itself=True, what=ACCESS),
        "faccessat2": Sketch(
            real, (second,), ((REGISTER, 2, 7),), (3, _EACCESS), partial(_access, _EACCESS), within=(2, 0, 7), itself=True
        ),
    }  # fmt: skip
    if native() in _NATIVE:
        made |= {
            "stat": Sketch(partial(_stat, 0), (first,), (), fills=1, what=STAT),
            "lstat": Sketch(flagged, (first,), (), fills=1, what=STAT, nofollow=True),
            "newfstatat": Sketch(
                partial(_stat, 0), (second,), (), (3, _NOFOLLOW), flagged, fills=2, ignored=says_nothing, what=STAT
            ),
        }  # fmt: skip
    return made


WAYS: Final = ("proctor.performing.short_ways.deeds",)
#: See :mod:`proctor.performing.short_ways.plans`.  What is filled is what the kernel itself fills, of the executor's architecture.
SKETCHES: Final = _sketches()
DEEDS: Final = {name: deed_of(sketch) for name, sketch in SKETCHES.items()}


# What is told -------------------------------------------------------------------------------------


def told(call: Call, found: os.stat_result) -> Verdict:
    """The answer to a call that wants a ``struct stat``, of any kind.

    :param found: with ids as the caller's user namespace has them."""
    if call.name in ("oldstat", "oldlstat") or (call.abi == "i386" and "64" not in call.name):
        # SET_UID and SET_GID of include/linux/highuid.h
        ids = [OVERFLOW if each > 0xFFFF else each for each in (found.st_uid, found.st_gid)]
        found = _with_ids(found, *ids)
        if "old" not in call.name and found.st_size > _MAX_NON_LFS:  # cp_compat_stat of fs/stat.c
            return deny(errno.EOVERFLOW)
    try:
        return answer(0, writes=call.fill("statbuf", found))
    except ValueError:
        return deny(errno.EOVERFLOW)  # cp_new_stat and the like of fs/stat.c


def told_statx(call: Call, found: os.stat_result) -> Verdict:
    """The answer to statx."""
    times = {
        f"stx_{name}": {"tv_sec": ns // 10**9, "tv_nsec": ns % 10**9}
        for name, ns in (("atime", found.st_atime_ns), ("mtime", found.st_mtime_ns), ("ctime", found.st_ctime_ns))
    }  # fmt: skip
    fields = {
        "stx_mask": _BASIC, "stx_blksize": found.st_blksize, "stx_nlink": found.st_nlink, "stx_uid": found.st_uid,
        "stx_gid": found.st_gid, "stx_mode": found.st_mode, "stx_ino": found.st_ino, "stx_size": found.st_size,
        "stx_blocks": found.st_blocks, "stx_dev_major": os.major(found.st_dev),
        "stx_dev_minor": os.minor(found.st_dev), **times,
    }  # fmt: skip
    return answer(0, writes=call.fill("statxbuf", **fields))


def inside(
    found: os.stat_result, users: Sequence[IdRange], groups: Sequence[IdRange]
) -> os.stat_result:
    """With the ids that a user namespace has for those of the monitor's."""
    ids = []
    for number, ranges in ((found.st_uid, users), (found.st_gid, groups)):
        mapped = (
            each.inside + number - each.outside
            for each in ranges
            if 0 <= number - each.outside < each.length
        )
        ids.append(next(mapped, OVERFLOW))
    return _with_ids(found, *ids)


def _of_statx(data: bytes) -> os.stat_result:
    (
        _, blksize, _, links, uid, gid, mode, inode, size, blocks, _, *times, rdev_major, rdev_minor, major, minor,
    ) = _STATX.unpack_from(data)  # fmt: skip
    atime, ctime, mtime = times[0:2], times[4:6], times[6:8]
    plain = (
        mode,
        inode,
        os.makedev(major, minor),
        links,
        uid,
        gid,
        size,
        atime[0],
        mtime[0],
        ctime[0],
    )
    more = {
        "st_blksize": blksize,
        "st_blocks": blocks,
        "st_rdev": os.makedev(rdev_major, rdev_minor),
    }
    for name, (seconds, ns) in (("atime", atime), ("mtime", mtime), ("ctime", ctime)):
        more[f"st_{name}_ns"] = seconds * 10**9 + ns
    return os.stat_result(plain, more)


def _with_ids(found: os.stat_result, uid: int, gid: int) -> os.stat_result:
    made: Any = found.__reduce__()
    _, (values, more) = made
    return os.stat_result((*values[:4], uid, gid, *values[6:]), more)


# Requests -----------------------------------------------------------------------------------------


@cache
def _asking(what: str, room: int) -> Single:
    """One of the calls, of the very thing.  Holes: its numbers.  Sent: the thing."""
    steps = Steps()
    numbers = [steps.number() for _ in range({"faccessat2": 2, "statx": 2}.get(what, 0))]
    empty, given = steps.bytes(b""), steps.sent()
    found = steps.scratch(room) if room else None
    if found is None:
        made = steps.call(what, given, empty, *numbers)
    elif what == "statx":
        made = steps.call(what, given, empty, *numbers, found)
        steps.want(found)
    else:
        made = steps.call(what, given, empty, found, room)
        steps.want(found, made)
    return Single(steps.freeze(), made)
