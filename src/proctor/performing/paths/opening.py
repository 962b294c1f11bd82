"""Opening what is pinned.

Where something must be known before anything is opened (a rule wants to see the path, the file is on
procfs), the thing is pinned, and what is pinned is opened:

* by its own link in ``/proc/self/fd``, which is the very thing;
* by its name in its pinned directory, following no link, where O_CREAT or O_NOFOLLOW are given: the
  kernel's rules about sticky directories (protected_regular, protected_fifos) are about names, and a
  descriptor shows in F_GETFL that it was opened with O_NOFOLLOW.  What was opened is then compared
  with what was pinned, and truncated through the pin.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from proctor.errors import CallGone
from proctor.kernel.abi import SECCOMP_NOTIF_ADDFD
from proctor.performing import noting
from proctor.performing.paths import acting, filestat, pinning, pins
from proctor.performing.paths.pins import HOW, O_DIRECTORY, O_NOFOLLOW
from proctor.performing.paths.wanted import ACCESS, O_CLOEXEC, O_CREAT, O_EXCL, O_TRUNC, TMPFILE
from proctor.performing.trouble import Handed, Said

if TYPE_CHECKING:
    from proctor.performing.paths.finding import Entry, Pin
    from proctor.performing.paths.wanted import Wanted
    from proctor.performing.task import Task

#: Yields what it waits for, and gives a descriptor.
Opens = Generator[Any, Any, int]

_TTY: Final = (5, 0)
_TRIES: Final = 64  # more than the 40 links that the kernel follows, plus some lost races


def pinned(task: Task, wanted: Wanted, failed: int = 0) -> Opens:
    """Pin, ask, use.

    :param failed: the errno of the kernel's own walk, if there was one.
    """
    flags = wanted.flags
    if wanted.resolve & pins.CACHED:
        failed = yield from acting.CHECKING().ask(task.session, wanted.how())
        if failed != errno.EBADF:
            raise Said(failed)
        raise Said(errno.EAGAIN)  # more than one walk; whoever sets it must expect this
    if flags & (O_CREAT | O_NOFOLLOW) and not flags & TMPFILE:
        return (yield from _by_name(task, wanted))
    bits = flags & (O_DIRECTORY | O_NOFOLLOW)
    if failed:
        pin = yield from task.walk(wanted.start, wanted.path, bits, wanted.resolve, failed)
    else:
        pin = yield from task.pin(wanted.start, wanted.path, bits, wanted.resolve, wanted.how())
    if flags & TMPFILE:
        task.permit(pin.named.path, pin.named.status)
        how = wanted.how(resolve=pins.NO_MAGICLINKS)
        try:
            return (yield from _in_directory(task, pin.fd, b".", how, wanted.small))
        except Said as said:
            return (yield from _own(task, pin, flags, said))
    return (yield from use(task, pin, wanted))


def use(task: Task, pin: Pin, wanted: Wanted) -> Opens:
    """Open what is pinned, if it may be; the descriptor is the asker's.

    :raises Handed: it is the caller's already."""
    named, flags = pin.named, wanted.flags & ~(O_CREAT | O_EXCL | O_NOFOLLOW)
    task.permit(named.path, named.status)
    task.refuse_device(named.status)
    _refuse_hosts(task, named, wanted.flags)
    how = wanted.how(flags, 0)
    try:
        if flags & O_TRUNC and _is_handed(task, wanted):
            return (yield from _truncate(task, pin.fd, how, wanted.small, flags))
        return (yield from reopen(task, pin.fd, how, wanted.small))
    except Said as said:
        if said.errno != errno.ENXIO or named.status.rdev != _TTY:
            return (yield from _own(task, pin, flags, said))
    return (yield from _own_terminal(task, wanted))


def _refuse_hosts(task: Task, named: pins.Named, flags: int) -> None:
    """
    :raises Said: it is a file of procfs that each pid namespace has for itself, and the executor found its own
        (``pid_table_root_lookup`` of kernel/pid.c, Linux 6.14), whose reading harms nobody."""
    if (
        named.proc
        and flags & ACCESS
        and named.path.rpartition(b"/")[2] == b"pid_max"
        and not task.shares_pids()
    ):
        raise Said(errno.EACCES, "it is the one of the monitor's pid namespace, not the caller's")


def reopen(task: Task, pin: int, how: bytes, small: bool = False) -> Opens:
    act = acting.reopening(small)
    values = HOW.unpack(how)[:1] if small else (how,)
    reply = yield from task.session.ask(act.request, *values, fds=(pin,), table=True)
    if reply.made(act.fd):
        return reply.take(act.fd)
    raise Said(reply.error(act.fd))


def _own(task: Task, pin: Pin, flags: int, said: Said) -> Opens:
    """Open what is the caller's own, and no executor may.

    :param said: what that got.
    :raises Said: that, where it is nothing of the kind."""
    fd = None
    if said.errno == errno.EACCES and pin.named.proc:
        from proctor.performing.paths import (
            own_links,  # policies are looked over where the core is not
        )

        fd = yield from own_links.opened(task, pin, flags)
    if fd is None:
        raise said
    return fd


def _is_handed(task: Task, wanted: Wanted) -> bool:
    """Whether what is made or truncated is handed to the caller by who does that: it is known afterwards that it was done.

    Not to one that a signal may have go on before it is told the number: it would have a descriptor that it does not know of."""
    call = task.call
    makes = wanted.flags & (O_CREAT | O_TRUNC)
    if not makes or task.session.executors.progress is None or not noting.is_noted(call):
        return False  # and by nobody whose end leaves nothing of what he did
    keeps_waiting = getattr(call._listener, "keeps_waiting", None)
    if keeps_waiting is not None and keeps_waiting(call.id, call.tid):
        return True
    noting.halves(call)
    return False


def _hand(
    task: Task, act: acting.Handing, *values: bytes | int, fds: tuple[int, ...], table: bool = False
) -> Opens:
    """
    :raises Handed: it is done.
    :raises Said: it is not."""
    reply = yield from task.session.ask(act.request, *values, fds=fds, table=table)
    if reply.made(act.handed):
        raise Handed(reply.results[act.handed.step])
    if reply.made(act.fd) and reply.error(act.handed) in (
        errno.ENOENT,
        errno.ESRCH,
        errno.EINPROGRESS,
    ):
        raise CallGone
    raise Said(reply.error(act.handed))


def _make(task: Task, directory: int, name: bytes, how: bytes, small: bool, flags: int) -> Opens:
    """As :func:`_named_in`, by who hands it over.

    :param flags: of the call.
    :raises Handed, Said: as :func:`_hand`."""
    act = acting.making_in(pins.room(len(name)), small)
    values = HOW.unpack(how)[:2] if small else (how,)
    fds = directory, task.call.listener_fd
    return (yield from _hand(task, act, task.umask, *values, _to(task, flags), name, fds=fds))


def _truncate(task: Task, pin: int, how: bytes, small: bool, flags: int, fd: int = -1) -> Opens:
    """As :func:`reopen`, by who hands it over, or what was opened before.

    :param flags: of the call.
    :raises Handed, Said: as :func:`_hand`."""
    act = acting.truncating(small, fd >= 0)
    first = HOW.unpack(how)[0] if small else how
    fds = (pin, task.call.listener_fd, *([fd] if fd >= 0 else ()))
    return (yield from _hand(task, act, first, _to(task, flags), fds=fds, table=True))


def _to(task: Task, flags: int) -> bytes:
    """How the caller is handed it, and for which call."""
    return SECCOMP_NOTIF_ADDFD.pack(task.call.id, 0, 0, 0, flags & O_CLOEXEC)


def _in_directory(task: Task, directory: int, name: bytes, how: bytes, small: bool) -> Opens:
    fd, _ = yield from _named_in(task, directory, name, how, small)
    return fd


def _named_in(
    task: Task, directory: int, name: bytes, how: bytes, small: bool
) -> Generator[Any, Any, tuple[int, filestat.Status]]:
    """:param small: only of what can be no link: it would be followed."""
    act = acting.opening_in(pins.room(len(name)), small)
    values = HOW.unpack(how)[:2] if small else (how,)
    reply = yield from task.session.ask(act.request, task.umask, *values, name, fds=(directory,))
    if not reply.made(act.fd):
        raise Said(reply.error(act.fd))
    return reply.take(act.fd), filestat.status_of(reply.parts[act.status])


# By name, in a pinned directory -------------------------------------------------------------------


def _by_name(task: Task, wanted: Wanted) -> Opens:
    """O_CREAT and O_NOFOLLOW: the directory is pinned, then the last component decides, in the order
    of ``open_last_lookups`` (fs/namei.c)."""
    flags = wanted.flags
    for _ in range(_TRIES):
        head, last, slashes = pins.split(wanted.path)
        if last in (b"", b".", b"..") or (slashes and not flags & O_CREAT):
            return (yield from _directory_itself(task, wanted))
        if slashes:  # the directory must be there, and may be searched
            inside = head + (b"." if head.endswith(b"/") else b"/.")
            yield from task.pin(wanted.start, inside, O_DIRECTORY, wanted.resolve, wanted.how())
            raise Said(errno.EISDIR)
        here = yield from task.entry(wanted.start, head, last, wanted.resolve, wanted.how())
        found = here.found
        if found is not None:
            elsewhere = found.named.status.mount != here.parent.named.status.mount
            if elsewhere and wanted.resolve & pins.NO_XDEV:
                raise Said(errno.EXDEV)
            if flags & O_CREAT and flags & O_EXCL:
                raise Said(errno.EEXIST)
            if stat.S_ISLNK(found.named.status.mode):
                if flags & O_NOFOLLOW:
                    raise Said(errno.ENOTDIR if flags & O_DIRECTORY else errno.ELOOP)
                if found.named.proc:
                    pin = yield from task.pin(wanted.start, wanted.path, 0, wanted.resolve)
                    return (yield from _existing(task, pin, wanted))
                yield from _may_follow(task, wanted)
                start, path = task.led(wanted.start, here, head, wanted.resolve)
                wanted = wanted._replace(start=start, path=path)
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


def _name(task: Task, wanted: Wanted, here: Entry, last: bytes) -> Generator[Any, Any, int | None]:
    """Open what was found under this name, or make it; None if it is something else by now."""
    flags, found = wanted.flags, here.found
    how = wanted.how(
        # where nothing was, nothing that came meanwhile is opened: nobody was asked about that
        flags | O_EXCL if found is None else flags & ~O_TRUNC,
        pins.NO_SYMLINKS | wanted.resolve & pins.NO_XDEV,
    )
    if found is None:
        if not flags & O_CREAT:
            raise Said(errno.ENOENT)
        task.permit(here.parent.named.path.rstrip(b"/") + b"/" + last)
    else:
        if flags & O_CREAT and found.named.status.is_directory:
            raise Said(errno.EISDIR)
        task.permit(found.named.path, found.named.status)
        task.refuse_device(found.named.status)
        _refuse_hosts(task, found.named, flags)
        if flags & O_TRUNC:
            yield from _may_truncate(task, found, flags)
    small = wanted.small and (found is None or bool(flags & O_NOFOLLOW))
    handed = _is_handed(task, wanted)
    try:
        if found is None and handed:
            yield from _make(task, here.parent.fd, last, how, small, flags)
        fd, status = yield from _named_in(task, here.parent.fd, last, how, small)
    except Said as said:
        if said.errno == errno.ELOOP and not flags & O_NOFOLLOW:
            return None  # a link by now
        if said.errno == errno.EEXIST and found is None and not flags & O_EXCL:
            return None  # something by now
        if said.errno == errno.ENXIO and found is not None and found.named.status.rdev == _TTY:
            return (yield from _own_terminal(task, wanted))
        if found is None:
            raise
        if said.errno == errno.EPERM and flags & O_TRUNC and not flags & ACCESS:
            failed = yield from _not_writable(task, found)
            if failed in (errno.EACCES, errno.EROFS):  # before O_NOATIME: may_open of fs/namei.c
                raise Said(failed) from None
        return (yield from _own(task, found, flags & ~(O_CREAT | O_EXCL), said))
    if found is None:
        return fd
    try:
        if status.place != found.named.status.place:
            return None
        if wanted.small and not small:
            bare = flags & ~(O_CREAT | O_EXCL | O_TRUNC)
            again = yield from reopen(task, found.fd, wanted.how(bare, 0), True)
            large, fd = fd, again
            task.session.give_up(large)
        if flags & O_TRUNC and stat.S_ISREG(status.mode):
            how = HOW.pack(flags & ACCESS | O_TRUNC | O_CLOEXEC, 0, 0)
            if handed:
                yield from _truncate(task, found.fd, how, False, flags, fd)
            task.session.give_up((yield from reopen(task, found.fd, how)))
        kept, fd = fd, -1
        return kept
    finally:
        if fd >= 0:
            task.session.give_up(fd)


def _may_truncate(task: Task, found: Pin, flags: int) -> Generator[Any, Any, None]:
    """O_TRUNC wants what writing wants, also where there is nothing to truncate (``build_open_flags``
    and ``may_open`` of fs/): what is opened by name is opened without it."""
    if found.named.status.is_directory:
        raise Said(errno.EISDIR)
    if stat.S_ISREG(found.named.status.mode) or flags & ACCESS:
        return
    if failed := (yield from _not_writable(task, found)):
        raise Said(failed)


def _not_writable(task: Task, found: Pin) -> Generator[Any, Any, int]:
    """The errno with which it is not opened for writing; 0 if it is."""
    return (yield from acting.ACCESSIBLE().ask(task.session, os.W_OK, fds=(found.fd,)))


def _existing(task: Task, pin: Pin, wanted: Wanted) -> Opens:
    if wanted.flags & O_CREAT and pin.named.status.is_directory:
        raise Said(errno.EISDIR)
    return (yield from use(task, pin, wanted))


def _directory_itself(task: Task, wanted: Wanted) -> Opens:
    """A path that can only be a directory's."""
    flags = wanted.flags
    pin = yield from task.pin(
        wanted.start, wanted.path, flags & O_DIRECTORY, wanted.resolve, wanted.how()
    )
    if flags & O_CREAT:
        raise Said(errno.EEXIST if flags & O_EXCL else errno.EISDIR)
    task.permit(pin.named.path, pin.named.status)
    try:
        return (
            yield from _in_directory(
                task, pin.fd, b".", wanted.how(resolve=pins.NO_MAGICLINKS), wanted.small
            )
        )
    except Said as said:  # it may not be searched, which opening it does not want
        if said.errno != errno.EACCES:
            raise
        failed = said
    try:
        return (yield from _own(task, pin, flags, failed))
    except Said as said:
        if said is not failed:
            raise
    return (yield from _by_its_path(task, wanted, pin.fd, pin.named))


def _by_its_path(task: Task, wanted: Wanted, pin: int, named: pins.Named) -> Opens:
    """Open a directory by the path that it is known by, so that F_GETFL shows O_NOFOLLOW; by its own link,
    without that, if something else is there by now."""
    if wanted.flags & O_NOFOLLOW and named.path.startswith(b"/"):
        opening = acting.opening(False, pins.room(len(named.path)))
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
            if reply.made(opening.fd) and filestat.status_of(kind).place == named.status.place:
                return reply.take(opening.fd)
        finally:
            task.session.drop(reply)
    return (yield from reopen(task, pin, wanted.how(wanted.flags & ~O_NOFOLLOW, 0), wanted.small))


def _may_follow(task: Task, wanted: Wanted) -> Generator[Any, Any, None]:
    """The kernel's word on following the last component (fs.protected_symlinks); that it leads to
    nothing is fine here, or to what is no directory behind a link that ends in a slash."""
    try:
        yield from task.pin(wanted.start, wanted.path, 0, wanted.resolve)
    except Said as said:
        if said.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise


# /dev/tty ---------------------------------------------------------------------------------------


def terminal(task: Task, wanted: Wanted) -> Opens:
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


def _own_terminal(task: Task, wanted: Wanted) -> Opens:
    """The caller's controlling terminal, by the first of its descriptors 0 to 2 that is one: pinned
    once, and that pin is looked at, asked about and opened."""
    number = task.caller.tty
    for place in range(3) if number else ():
        pin = task.start(place, b"")
        if pin is None or pin < 0:
            continue
        known = pinning.name_of()
        reply = yield from task.session.ask(known.request, fds=(pin,), table=True)
        reply.close()
        named = task.named(known.name, reply, pin)
        if not stat.S_ISCHR(named.status.mode) or os.makedev(*named.status.rdev) != number:
            continue
        task.permit(named.path, named.status)
        task.refuse_device(named.status)
        return (
            yield from reopen(
                task,
                pin,
                wanted.how(wanted.flags & ~(O_CREAT | O_EXCL | O_NOFOLLOW), 0),
                wanted.small,
            )
        )
    raise Said(errno.ENXIO, "the caller's controlling terminal is none of its descriptors 0-2")
