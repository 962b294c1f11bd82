"""open, openat, openat2, creat: opened as the caller would, and handed over.

Without a rule about paths the call is one openat2(2) by an executor, with the caller's own path,
flags, mode and resolve bits.  Where something must be known before anything is opened (a rule wants
to see the path, the file is on procfs), the thing is pinned, and what is pinned is opened:

* by its own link in ``/proc/self/fd``, which is the very thing;
* by its name in its pinned directory, following no link, where O_CREAT or O_NOFOLLOW are given: the
  kernel's rules about sticky directories (protected_regular, protected_fifos) are about names, and a
  descriptor shows in F_GETFL that it was opened with O_NOFOLLOW.  What was opened is then compared
  with what was pinned, and truncated through the pin.

What is opened becomes a descriptor of the caller by ADDFD.  So the file's offset, its O_NONBLOCK and
its lease on a FIFO's other end are all the caller's.  Whether there is room for it in the caller's
table is seen to before anything is done (``do_sys_openat2`` in fs/open.c).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proctor.call.verdict import HandOver, deny, let_run_unsafe
from proctor.performing import pins
from proctor.performing.pins import HOW, O_DIRECTORY, O_NOFOLLOW, O_PATH, PIN
from proctor.performing.trouble import Moved, Said

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.here import Here
    from proctor.performing.steps import Form, Reply
    from proctor.performing.task import Task, Work

CALLS: Final = ("open", "openat", "openat2", "creat")

_Opens = Generator[Any, Any, int]


def _flag(name: str) -> int:
    value: int = getattr(os, name, 0)  # elsewhere than on Linux nothing is opened
    return value


_CREAT, _EXCL, _TRUNC = os.O_CREAT, os.O_EXCL, os.O_TRUNC
_CLOEXEC, _NOCTTY = _flag("O_CLOEXEC"), _flag("O_NOCTTY")
_ACCESS: Final = _flag("O_ACCMODE") or 3
_TMPFILE: Final = _flag("O_TMPFILE") & ~O_DIRECTORY  # __O_TMPFILE
_FASYNC: Final = 0o20000
_LARGEFILE: Final = (
    0o100000 if hasattr(os, "uname") and os.uname().machine in ("x86_64", "i686", "s390x")
    else _flag("O_LARGEFILE")
)  # fmt: skip
#: VALID_OPEN_FLAGS of include/linux/fcntl.h: open and openat ignore all others, openat2 does not.
_VALID: Final = (
    _ACCESS | _CREAT | _EXCL | _NOCTTY | _TRUNC | os.O_APPEND | _flag("O_NONBLOCK")
    | _flag("O_SYNC") | _flag("O_DSYNC") | _FASYNC | _flag("O_DIRECT") | _LARGEFILE | O_DIRECTORY
    | O_NOFOLLOW | _flag("O_NOATIME") | _CLOEXEC | O_PATH | _TMPFILE
)  # fmt: skip
#: What does something besides opening, or opens something else.
_UNUSUAL: Final = _CREAT | _TRUNC | O_PATH | _TMPFILE | _FASYNC | _flag("O_DIRECT")
#: Errors that are not always the kernel's word to the caller.
_UNSURE: Final = (errno.EPERM, errno.ENXIO, errno.EMFILE)
_SYNC: Final = _flag("O_SYNC") | _flag("O_DSYNC")
_WITH_O_PATH: Final = O_DIRECTORY | O_NOFOLLOW | O_PATH | _CLOEXEC
_TTY: Final = (5, 0)
_TRIES: Final = 64  # more than the 40 links that the kernel follows, plus some lost races

_NO_O_PATH: Final = 'an O_PATH descriptor cannot be handed over; o_path = "run" lets such calls run'
_RUN_O_PATH: Final = (
    "an O_PATH descriptor cannot be handed over; it gives no right to read or write"
)


class Wanted(NamedTuple):
    """What one call asks for, as openat2(2) would."""

    start: int | None
    path: bytes
    flags: int
    mode: int
    resolve: int

    def how(self, flags: int | None = None, resolve: int | None = None) -> bytes:
        """As a struct open_how; with other flags and resolve bits, if these are given."""
        kept = self.flags if flags is None else flags
        mode = self.mode if kept & (_CREAT | _TMPFILE) or flags is None else 0
        return HOW.pack(kept | _CLOEXEC, mode, self.resolve if resolve is None else resolve)


@dataclass(frozen=True)
class Options:
    """See docs/families/quiet.md, and docs/families/mount.md for loop devices.

    :param sync: False has O_SYNC and O_DSYNC left out.
    :param loops: whether loop devices and /dev/loop-control are opened, for what the family ``loop`` does.
    """

    sync: bool = True
    loops: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.loops, bool):
            raise ValueError(f"loops is true or false, not {self.loops!r}")
        if not isinstance(self.sync, bool):
            raise ValueError(f"sync is true or false, not {self.sync!r}")

    def kept(self, flags: int) -> int:
        """What is left of flags."""
        return flags if self.sync else flags & ~_SYNC


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
        dirfd, flags, mode = pins.AT_FDCWD, _CREAT | os.O_WRONLY | _TRUNC, registers[1]
    # build_open_how of fs/open.c: the older calls forgive, so they are made strict first
    flags &= _VALID
    if flags & O_PATH:
        flags &= _WITH_O_PATH
    if not flags & (_CREAT | _TMPFILE):
        mode = 0
    return dirfd, flags, mode & 0o7777, 0


def at_once(
    call: Call, wish: Perform, standing: Standing, here: Here, ours: bytes
) -> Verdict | None:
    """What the monitor opens itself, for a caller that is what it is: see :mod:`proctor.performing.here`."""
    dirfd, flags, mode, resolve = decode(call)
    if isinstance(wish.options, Options):
        flags = wish.options.kept(flags)
    return None if mode else here.open(call, wish, standing, dirfd, flags, resolve, ours)


def _simply(call: Call, wish: Perform) -> tuple[int, int | bytes, int] | None:
    """(dirfd, path or where it is, flags) of what is simple: nobody asks, nothing happens besides, there
    are no structures, and nobody has looked at more than the path."""
    if wish.allow is not None or call.name != "openat":
        return None
    if call.memory_read and (call.looked_at is not None or call.looks):
        return None
    dirfd, _, flags = call.registers[:3]
    flags &= _VALID
    if wish.options is not None:
        flags = wish.options.kept(flags) if isinstance(wish.options, Options) else _UNUSUAL
    if flags & _UNUSUAL or flags & _ACCESS == _ACCESS:
        return None
    path = call.untaken_path
    return None if not path else (pins.signed(dirfd), path, flags)


def ordinary(
    call: Call, wish: Perform, standing: Standing, here: Here, ours: bytes
) -> Verdict | None:
    """As :func:`at_once`; what is simple, in fewer steps."""
    simple = _simply(call, wish)
    if simple is None:
        mine = wish.options is None or isinstance(wish.options, Options)
        return at_once(call, wish, standing, here, ours) if mine else None
    fd = here.ordinary(call, standing, *simple, ours)
    if fd is None:
        return None
    return deny(-fd) if fd < 0 else HandOver(fd, None, simple[2] & _CLOEXEC != 0)


def ahead(
    call: Call, wish: Perform
) -> tuple[int, int | bytes, tuple[Form, ...], tuple[pins.Opening, ...], int] | None:
    """What :func:`perform` is going to ask first, of what is simple: dirfd, address of the path, forms of
    the request, and what these are."""
    if wish.options is not None and getattr(wish.options, "loops", False):
        return None
    simple = _simply(call, wish)
    return None if simple is None else (*simple[:2], *_forms(simple[2]), simple[2])


@lru_cache(256)
def _forms(flags: int) -> tuple[tuple[Form, ...], tuple[pins.Opening, ...]]:
    how = Wanted(None, b"", flags | _NOCTTY, 0, 0).how(resolve=pins.NO_MAGICLINKS)
    probing = pins.probing(flags | _NOCTTY, 0)
    openings, forms = [], []
    for relative in (False, True):
        where = () if relative else (pins.AT_FDCWD,)
        for room in pins.SHORT:
            opening = pins.opening(relative, room)
            openings.append(opening)
            forms.append(
                opening.request.form(*where, 0o777, how, probing, room=room, relative=relative)
            )
    return tuple(forms), tuple(openings)


def plain(opening: pins.Opening, reply: Reply, flags: int) -> Verdict | None:
    """What a reply says, where that needs no second thought."""
    if reply.made(opening.fd):
        if not pins.is_plain(reply.parts[opening.system], reply.parts[opening.status]):
            return None
        return HandOver(reply.take(opening.fd), None, flags & _CLOEXEC != 0)
    failed = reply.error(opening.fd)
    if failed in _UNSURE or not pins.stands(failed, reply, opening.probe, 0):
        return None
    return deny(failed)


def perform(task: Task) -> Work:
    """Open for the caller and hand the descriptor over."""
    path = task.call.path
    dirfd, flags, mode, resolve = decode(task.call)
    options = task.options(Options)
    flags = options.kept(flags)
    if options.loops and not flags & (O_PATH | _TMPFILE):
        fd = yield from _loop(task, dirfd, path, flags, resolve)
        if fd >= 0:
            return HandOver(fd, cloexec=bool(flags & _CLOEXEC))
    if flags & O_PATH and task.o_path == "run" and not task.asked:
        return let_run_unsafe(_RUN_O_PATH)
    if path and not flags & O_PATH:
        flags |= _NOCTTY  # an executor has no use for a terminal, nor may it take one
    if path and not task.has_room():
        return (yield from _full(task, HOW.pack(flags | _CLOEXEC, mode, resolve)))
    wanted = Wanted(task.start(dirfd, path, resolve), path, flags, mode, resolve)
    if flags & O_PATH:
        return (yield from _place(task, wanted))
    opens = _pinned if task.asked or not task.devices else _directly
    fd = yield from opens(task, wanted)
    return HandOver(fd, cloexec=bool(flags & _CLOEXEC))


def _loop(task: Task, dirfd: int, path: bytes, flags: int, resolve: int) -> _Opens:
    """A loop device of the container's, or what stands for one; -1 if it is something else."""
    from proctor.performing import loops
    from proctor.performing.families.mount import elsewhere

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
    if flags & _CREAT and flags & _EXCL:
        raise Said(errno.EEXIST)
    return (yield from loops.opened(task, pin.named.status, flags & _ACCESS))


def _full(task: Task, how: bytes) -> Work:
    """The table is full: EMFILE, but for flags that the kernel refuses before."""
    look = pins.look(False, 64)
    pin = HOW.pack(PIN, 0, 0)
    reply = yield from task.session.ask(look.request, -1, how, pin, pin, b".", table=True)
    reply.close()
    pins.refuse(reply, look.valid, errno.EBADF)
    return deny(errno.EMFILE)


def _directly(task: Task, wanted: Wanted) -> _Opens:
    """The kernel does it all; only what meets procfs goes the long way."""
    start, path = wanted.start, wanted.path
    opening = pins.opening(pins.has(start), pins.room(len(path)))
    reply = yield from task.session.ask(
        opening.request,
        *pins.directory(start),
        task.umask if wanted.flags & (_CREAT | _TMPFILE) else 0o777,
        wanted.how(resolve=wanted.resolve | pins.NO_MAGICLINKS),
        pins.probing(wanted.flags, wanted.resolve),
        path,
        fds=pins.along(start),
    )
    try:
        if reply.made(opening.fd):
            system = pins.system_of(reply.parts[opening.system])
            task.session.slow |= system.slow
            if not system.proc:
                device = pins.status_of(reply.parts[opening.status]).is_device
                if (device or system.cgroup) and task.elsewhere():
                    raise Moved
                return reply.take(opening.fd)
            failed = 0
        else:
            failed = reply.error(opening.fd)
            if failed == errno.EPERM and task.elsewhere():
                raise Moved
            if pins.stands(failed, reply, opening.probe, wanted.resolve):
                if failed == errno.ENXIO:
                    return (yield from _terminal(task, wanted))
                raise Said(failed)
    finally:
        reply.close()
    return (yield from _pinned(task, wanted, failed))


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


# Pin, ask, use ----------------------------------------------------------------------------------


def _pinned(task: Task, wanted: Wanted, failed: int = 0) -> _Opens:
    """Pin, ask, use.

    :param failed: the errno of the kernel's own walk, if there was one.
    """
    flags = wanted.flags
    if wanted.resolve & pins.CACHED:
        raise Said(errno.EAGAIN)  # more than one walk; whoever sets it must expect this
    if flags & (_CREAT | O_NOFOLLOW) and not flags & _TMPFILE:
        return (yield from _by_name(task, wanted))
    bits = flags & (O_DIRECTORY | O_NOFOLLOW)
    if failed:
        pin = yield from task.walk(wanted.start, wanted.path, bits, wanted.resolve, failed)
    else:
        pin = yield from task.pin(wanted.start, wanted.path, bits, wanted.resolve, wanted.how())
    if flags & _TMPFILE:
        task.permit(pin.named.path, pin.named.status)
        return (
            yield from _in_directory(task, pin.fd, b".", wanted.how(resolve=pins.NO_MAGICLINKS))
        )
    return (yield from _use(task, pin.fd, pin.named, wanted))


def _use(task: Task, pin: int, named: pins.Named, wanted: Wanted) -> _Opens:
    """Open what is pinned."""
    task.permit(named.path, named.status)
    task.refuse_device(named.status)
    _refuse_hosts(task, named, wanted.flags)
    try:
        return (
            yield from _reopen(
                task, pin, wanted.how(wanted.flags & ~(_CREAT | _EXCL | O_NOFOLLOW), 0)
            )
        )
    except Said as said:
        if said.errno != errno.ENXIO or named.status.rdev != _TTY:
            raise
    return (yield from _own_terminal(task, wanted))


def _refuse_hosts(task: Task, named: pins.Named, flags: int) -> None:
    """
    :raises Said: it is a file of procfs that each pid namespace has for itself, and the executor found its own
        (``pid_table_root_lookup`` of kernel/pid.c, Linux 6.14), whose reading harms nobody."""
    if (
        named.proc
        and flags & _ACCESS
        and named.path.rpartition(b"/")[2] == b"pid_max"
        and not task.shares_pids()
    ):
        raise Said(errno.EACCES, "it is the one of the monitor's pid namespace, not the caller's")


def _reopen(task: Task, pin: int, how: bytes) -> _Opens:
    acting = pins.reopening()
    reply = yield from task.session.ask(acting.request, how, fds=(pin,), table=True)
    if not reply.made(acting.fd):
        raise Said(reply.error(acting.fd))
    return reply.take(acting.fd)


def _in_directory(task: Task, directory: int, name: bytes, how: bytes) -> _Opens:
    fd, _ = yield from _named_in(task, directory, name, how)
    return fd


def _named_in(
    task: Task, directory: int, name: bytes, how: bytes
) -> Generator[Any, Any, tuple[int, pins.Status]]:
    acting = pins.opening_in(pins.room(len(name)))
    reply = yield from task.session.ask(acting.request, task.umask, how, name, fds=(directory,))
    if not reply.made(acting.fd):
        raise Said(reply.error(acting.fd))
    return reply.take(acting.fd), pins.status_of(reply.parts[acting.status])


# By name, in a pinned directory -------------------------------------------------------------------


def _by_name(task: Task, wanted: Wanted) -> _Opens:
    """O_CREAT and O_NOFOLLOW: the directory is pinned, then the last component decides, in the order
    of ``open_last_lookups`` (fs/namei.c)."""
    flags = wanted.flags
    for _ in range(_TRIES):
        head, last, slashes = pins.split(wanted.path)
        if last in (b"", b".", b"..") or (slashes and not flags & _CREAT):
            return (yield from _directory_itself(task, wanted))
        here = yield from task.entry(wanted.start, head, last, wanted.resolve, wanted.how())
        if slashes:
            raise Said(errno.EISDIR)
        found = here.found
        if found is not None:
            elsewhere = found.named.status.mount != here.parent.named.status.mount
            if elsewhere and wanted.resolve & pins.NO_XDEV:
                raise Said(errno.EXDEV)
            if flags & _CREAT and flags & _EXCL:
                raise Said(errno.EEXIST)
            if stat.S_ISLNK(found.named.status.mode):
                if flags & O_NOFOLLOW:
                    raise Said(errno.ENOTDIR if flags & O_DIRECTORY else errno.ELOOP)
                if found.named.proc:
                    pin = yield from task.pin(wanted.start, wanted.path, 0, wanted.resolve)
                    return (yield from _existing(task, pin.fd, pin.named, wanted))
                yield from _may_follow(task, wanted)
                target = here.text
                path = target if target.startswith(b"/") else head + b"/" + target
                wanted = wanted._replace(
                    path=path, start=task.start_again(wanted.start, path, wanted.resolve)
                )
                continue
            if found.named.proc and elsewhere:
                # seen to be no part of a process's, mounted here; it is opened by its name all the same
                pin = yield from task.pin(wanted.start, wanted.path, O_NOFOLLOW, wanted.resolve)
                if pin.named.status.place != found.named.status.place:
                    continue
        opened = yield from _name(task, wanted, here, last)
        if opened is not None:
            return opened
    raise Said(errno.ELOOP)


def _name(task: Task, wanted: Wanted, here: Any, last: bytes) -> Generator[Any, Any, int | None]:
    """Open what was found under this name, or make it; None if it is something else by now."""
    flags, found = wanted.flags, here.found
    how = wanted.how(
        # where nothing was, nothing that came meanwhile is opened: nobody was asked about that
        flags | _EXCL if found is None else flags & ~_TRUNC,
        pins.NO_SYMLINKS | wanted.resolve & pins.NO_XDEV,
    )
    if found is None:
        if not flags & _CREAT:
            raise Said(errno.ENOENT)
        task.permit(here.parent.named.path.rstrip(b"/") + b"/" + last)
    else:
        if flags & _CREAT and found.named.status.is_directory:
            raise Said(errno.EISDIR)
        task.permit(found.named.path, found.named.status)
        task.refuse_device(found.named.status)
        _refuse_hosts(task, found.named, flags)
        if flags & _TRUNC:
            yield from _may_truncate(task, found, flags)
    try:
        fd, status = yield from _named_in(task, here.parent.fd, last, how)
    except Said as said:
        if said.errno == errno.ELOOP and not flags & O_NOFOLLOW:
            return None  # a link by now
        if said.errno == errno.EEXIST and found is None and not flags & _EXCL:
            return None  # something by now
        if said.errno == errno.ENXIO and found is not None and found.named.status.rdev == _TTY:
            return (yield from _own_terminal(task, wanted))
        raise
    if found is None:
        return fd
    try:
        if status.place != found.named.status.place:
            return None
        if flags & _TRUNC and stat.S_ISREG(status.mode):
            os.close(
                (
                    yield from _reopen(
                        task, found.fd, HOW.pack(flags & _ACCESS | _TRUNC | _CLOEXEC, 0, 0)
                    )
                )
            )
        kept, fd = fd, -1
        return kept
    finally:
        if fd >= 0:
            os.close(fd)


def _may_truncate(task: Task, found: Any, flags: int) -> Generator[Any, Any, None]:
    """O_TRUNC wants what writing wants, also where there is nothing to truncate (``build_open_flags``
    and ``may_open`` of fs/): what is opened by name is opened without it."""
    if found.named.status.is_directory:
        raise Said(errno.EISDIR)
    if not stat.S_ISREG(found.named.status.mode) and not flags & _ACCESS:
        asking = pins.writable()
        reply = yield from task.session.ask(asking.request, fds=(found.fd,))
        reply.close()
        if failed := reply.error(asking.fd):
            raise Said(failed)


def _existing(task: Task, pin: int, named: pins.Named, wanted: Wanted) -> _Opens:
    if wanted.flags & _CREAT and named.status.is_directory:
        raise Said(errno.EISDIR)
    return (yield from _use(task, pin, named, wanted))


def _directory_itself(task: Task, wanted: Wanted) -> _Opens:
    """A path that can only be a directory's."""
    flags = wanted.flags
    pin = yield from task.pin(
        wanted.start, wanted.path, flags & O_DIRECTORY, wanted.resolve, wanted.how()
    )
    if flags & _CREAT:
        raise Said(errno.EEXIST if flags & _EXCL else errno.EISDIR)
    task.permit(pin.named.path, pin.named.status)
    try:
        return (
            yield from _in_directory(task, pin.fd, b".", wanted.how(resolve=pins.NO_MAGICLINKS))
        )
    except Said as said:  # it may not be searched, which opening it does not want
        if said.errno != errno.EACCES:
            raise
    return (yield from _by_its_path(task, wanted, pin.fd, pin.named))


def _by_its_path(task: Task, wanted: Wanted, pin: int, named: pins.Named) -> _Opens:
    """Open a directory by the path that it is known by, so that F_GETFL shows O_NOFOLLOW; by its own link,
    without that, if something else is there by now."""
    if wanted.flags & O_NOFOLLOW and named.path.startswith(b"/"):
        opening = pins.opening(False, pins.room(len(named.path)))
        reply = yield from task.session.ask(
            opening.request,
            pins.AT_FDCWD,
            0o777,
            wanted.how(resolve=pins.NO_SYMLINKS),
            pins.probing(wanted.flags, pins.NO_SYMLINKS),
            named.path,
        )
        try:
            kind = reply.parts[opening.status]
            if reply.made(opening.fd) and pins.status_of(kind).place == named.status.place:
                return reply.take(opening.fd)
        finally:
            reply.close()
    return (yield from _reopen(task, pin, wanted.how(wanted.flags & ~O_NOFOLLOW, 0)))


def _may_follow(task: Task, wanted: Wanted) -> Generator[Any, Any, None]:
    """The kernel's word on following the last component (fs.protected_symlinks); that it leads to
    nothing is fine here."""
    try:
        yield from task.pin(wanted.start, wanted.path, 0, wanted.resolve)
    except Said as said:
        if said.errno != errno.ENOENT:
            raise


# /dev/tty ---------------------------------------------------------------------------------------


def _terminal(task: Task, wanted: Wanted) -> _Opens:
    """ENXIO: /dev/tty, where an executor has no terminal; or what a FIFO or a device says."""
    pin = yield from task.pin(
        wanted.start,
        wanted.path,
        wanted.flags & (O_NOFOLLOW | O_DIRECTORY),
        wanted.resolve & ~pins.CACHED,
    )
    if not stat.S_ISCHR(pin.named.status.mode) or pin.named.status.rdev != _TTY:
        raise Said(errno.ENXIO)
    return (yield from _own_terminal(task, wanted))


def _own_terminal(task: Task, wanted: Wanted) -> _Opens:
    """The caller's controlling terminal, by the first of its descriptors 0 to 2 that is one: pinned
    once, and that pin is looked at, asked about and opened."""
    number = task.caller.tty
    for place in range(3) if number else ():
        try:
            pin = task.caller.dir_fd(place)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            continue
        known = pins.name_of()
        reply = yield from task.session.ask(known.request, fds=(pin,), table=True)
        reply.close()
        named = known.name.read(reply)
        if not stat.S_ISCHR(named.status.mode) or os.makedev(*named.status.rdev) != number:
            continue
        task.permit(named.path, named.status)
        task.refuse_device(named.status)
        return (
            yield from _reopen(
                task, pin, wanted.how(wanted.flags & ~(_CREAT | _EXCL | O_NOFOLLOW), 0)
            )
        )
    raise Said(errno.ENXIO, "the caller's controlling terminal is none of its descriptors 0-2")
