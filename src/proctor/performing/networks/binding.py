"""bind, listen, accept, socket: see :mod:`proctor.performing.families.bind` and ``.socket``."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING, Final

from proctor.call.messages import address as address_of
from proctor.call.verdict import answer, deny, hand_over
from proctor.performing.executing.requests import Request
from proctor.performing.executing.single import NUMBER, SENT, Hole, Shape, Single
from proctor.performing.executing.steps import Result, Steps
from proctor.performing.identities.lender import with_right
from proctor.performing.networks import sockets
from proctor.performing.networks.sockets import Network, Socket
from proctor.performing.paths import pins
from proctor.performing.trouble import Interrupted, Powerless, Said
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.executing.requests import Reply
    from proctor.performing.executing.workers import Wait
    from proctor.performing.families.bind import Options
    from proctor.performing.session import Session
    from proctor.performing.task import Task, Work

_CAP_NET_BIND_SERVICE: Final = 10
_LONGEST: Final = 110  # sizeof(struct sockaddr_un); a path as long as that needs no NUL
_ACCEPT_FLAGS: Final = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
_BINDING: Final = Shape("bind", SENT, Hole(sockets.STORAGE), NUMBER)
_LISTENING: Final = Shape("listen", SENT, NUMBER)
_MAKING: Final = Shape("socket", NUMBER, NUMBER, NUMBER, gives=True)


# bind --------------------------------------------------------------------------------------------


def bind(task: Task, options: Options) -> Work:
    """Bind the caller's socket."""
    number = pins.signed(task.call.registers[0])
    one = sockets.known(sockets.take(task, number), number)
    address = address_of(task.call)
    path = sockets.file_name(one, address)
    if path is not None:
        failed = yield from _to_file(task, one, address, path)
        return deny(failed) if failed else answer(0)
    if not sockets.reroutable(task, options, one, address):
        failed = yield from _to(task, task.session, options, one.fd, address)
        return deny(failed) if failed else answer(0)
    with Network(task, options.network) as network:
        new, address = yield from sockets.replacement(task, network, one, address, options)
        failed = yield from _to(task, network.session, options, new.fd, address)
        if failed:
            return deny(failed)
        if new.carried is not None:
            sockets.put_in_place(task, one, new)
        return answer(0)


def _to(
    task: Task, session: Session, options: Options, fd: int, address: bytes
) -> Generator[Wait, Reply, int]:
    """Bind to an address that is no file's: 0, or an errno."""
    failed = yield from _BINDING().ask(session, address, len(address), fds=(fd,))
    if failed != errno.EACCES or not (options.privileged or _would_be_let(task)):
        return failed
    try:
        values = (address, len(address))
        return (yield from with_right(task, _CAP_NET_BIND_SERVICE, "bind", fd, *values))
    except Powerless:
        raise Said(
            failed, "binding low ports there needs the host's root, which the monitor is not"
        ) from None


def _would_be_let(task: Task) -> bool:
    """Whether the caller may bind low ports in the networks of its own user namespace."""
    return bool(task.who.effective >> _CAP_NET_BIND_SERVICE & 1) and task.owned()


def _to_file(task: Task, one: Socket, address: bytes, path: bytes) -> Generator[Wait, Reply, int]:
    """Make a socket file: by the caller's own path; or by its name in the directory that was pinned, if a rule
    is to see where, or a link of procfs is on the way, which would be the executor's."""
    head, last, slashes = pins.split(path)
    if not last:
        yield from task.pin(task.start(pins.AT_FDCWD, path), head, pins.O_DIRECTORY, 0)
        return errno.EADDRINUSE
    if not task.asked:
        start = task.start(pins.AT_FDCWD, path)
        where = () if start is None else (start,)
        binding = _by_path(start is not None)
        reply = yield from task.session.ask(
            binding.request, address, len(address), task.umask, head, fds=(one.fd, *where)
        )
        reply.close()
        if reply.results[binding.guard.step] != -errno.ELOOP and not reply.error(binding.made):
            return 0
        # Nothing is there. What stands in a procfs is to be the caller's: no link but self may have led there.
    here = yield from task.entry(task.start(pins.AT_FDCWD, path), head, last, 0)
    found = here.found.named.status if here.found is not None else None
    task.permit(here.parent.named.path.rstrip(b"/") + b"/" + last, found, "addr")
    name = (address[:2] + last + slashes + b"\0")[:_LONGEST]
    entry = _by_name()
    fds = (one.fd, here.parent.fd)
    return (yield from entry.ask(task.session, name, len(name), task.umask, fds=fds))


class _Guarded(NamedTuple):
    request: Request
    #: ELOOP, and nothing was made, if a link of procfs may be on the way.
    guard: Result
    made: Result


@cache
def _by_path(relative: bool) -> _Guarded:
    """Holes: the address and its length, the umask, the directory in the address.  Sent: the socket; the
    working directory, if that counts."""
    steps = Steps()
    address, length, umask = steps.hole(sockets.STORAGE), steps.number(), steps.number()
    head, root = steps.hole(sockets.STORAGE), steps.bytes(b"/")
    how = steps.bytes(pins.HOW.pack(pins.PIN, 0, pins.NO_MAGICLINKS))
    given = steps.sent()
    if relative:
        steps.call("fchdir", steps.sent())
    steps.call("umask", umask)
    size = pins.HOW.size
    guard = steps.call("openat2", pins.AT_FDCWD, head, how, size, want=-errno.ELOOP, good=1, bad=0)
    made = steps.call("bind", given, address, length, bad=0)
    steps.call("chdir", root)
    return _Guarded(steps.freeze(), guard, made)


@cache
def _by_name() -> Single:
    """Holes: the address and its length, the umask.  Sent: the socket, the directory."""
    steps = Steps()
    address, length, umask = steps.hole(sockets.STORAGE), steps.number(), steps.number()
    root, given = steps.bytes(b"/"), steps.sent()
    steps.call("fchdir", steps.sent())
    steps.call("umask", umask)
    made = steps.call("bind", given, address, length, bad=0)
    steps.call("chdir", root)
    return Single(steps.freeze(), made)


# listen, accept ------------------------------------------------------------------------------------------


def listen(task: Task) -> Work:
    """Let the caller's socket be connected to."""
    number, listening = pins.signed(task.call.registers[0]), _LISTENING()
    fd = sockets.known(sockets.take(task, number), number).fd
    failed = yield from listening.ask(task.session, task.call.registers[1], fds=(fd,))
    return deny(failed) if failed else answer(0)


def accept(task: Task) -> Work:
    """Hand over a connection."""
    call = task.call
    number = pins.signed(call.registers[0])
    fd = sockets.take(task, number)
    flags = call.registers[3] & 0xFFFFFFFF if call.name == "accept4" else 0
    if flags & ~_ACCEPT_FLAGS:
        return deny(errno.EINVAL)
    if not task.has_room():
        return deny(errno.EMFILE)
    sockets.known(fd, number)
    if sockets.listens(fd) and not sockets.never_waits(fd):  # any other is refused at once
        limit = sockets.patience(fd, socket.SO_RCVTIMEO)
        try:
            if not (yield from sockets.wait(task.session, fd, limit, reading=True)):
                return deny(errno.EAGAIN)
        except Interrupted:
            if limit >= 0:
                raise Said(errno.EINTR) from None
            raise
    accepting = _accepting()
    reply = yield from task.session.ask(accepting.request, flags | socket.SOCK_CLOEXEC, fds=(fd,))
    try:
        if not reply.made(accepting.made):
            return deny(reply.error(accepting.made))
        name = reply.parts[accepting.found]
        length = struct.unpack_from("=I", reply.parts[accepting.found + 1])[0]
        writes = call.fill("addr", name[:length])
        made = reply.take(accepting.made)
        return hand_over(made, cloexec=bool(flags & socket.SOCK_CLOEXEC), writes=writes)
    finally:
        reply.close()


@cache
def _accepting() -> Single:
    """Holes: flags.  Sent: the socket."""
    steps = Steps()
    flags = steps.number()
    length = steps.bytes(struct.pack("=I", sockets.STORAGE))
    name = steps.scratch(sockets.STORAGE)
    made = steps.call("accept4", steps.sent(), name, length, flags)
    steps.give(made)
    first = steps.want(name)
    steps.want(length)
    return Single(steps.freeze(), made, found=first)


# socket ------------------------------------------------------------------------------------------


def make(task: Task, name: str) -> Work:
    """Make a socket for the caller and hand it over."""
    domain, kind, protocol = (each & 0xFFFFFFFF for each in task.call.registers[:3])
    making = _MAKING()
    with Network(task, name) as network:
        values = domain, kind | socket.SOCK_CLOEXEC, protocol
        reply = yield from network.session.ask(making.request, *values)
    if not reply.made(making.made):
        return deny(reply.error(making.made))
    made = reply.take(making.made)
    if not task.has_room():
        os.close(made)
        return deny(errno.EMFILE)
    return hand_over(made, cloexec=bool(kind & socket.SOCK_CLOEXEC))
