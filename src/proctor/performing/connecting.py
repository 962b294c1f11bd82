"""connect: see :mod:`proctor.performing.families.connect`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from proctor.call.messages import address as address_of
from proctor.call.verdict import answer, deny
from proctor.performing import sockets
from proctor.performing.routes import AF_UNIX, Route
from proctor.performing.sockets import Network, Socket
from proctor.performing.steps import Place, Request, Result, Steps
from proctor.performing.trouble import Interrupted, Said

if TYPE_CHECKING:
    from proctor.call.verdict import Verdict
    from proctor.performing.executors import Wait
    from proctor.performing.session import Session
    from proctor.performing.steps import Reply
    from proctor.performing.task import Task, Work

_F_SETFL: Final = 4


def perform(task: Task, route: Route, fd: int, number: int) -> Work:
    """Connect the caller's socket."""
    address = address_of(task.call)
    if route.plain and int.from_bytes(address[:2], sys.byteorder) != AF_UNIX:
        return (yield from _own(task.session, fd, address))
    one = sockets.known(fd, number)
    path = sockets.file_name(one, address)
    if path is not None:
        pin = yield from task.file(path)
        return (yield from _own(task.session, fd, address, pin.fd))
    if not sockets.reroutable(task, route, one, address):
        return (yield from _own(task.session, fd, address))
    network = Network(task, route.network)
    try:
        return (yield from _elsewhere(task, network, one, address, route))
    finally:
        network.close()


class _Connecting(NamedTuple):
    request: Request
    made: Result


@cache
def _connecting(to_file: bool, sets: int) -> _Connecting:
    """Holes: the status flags that the socket is given before (``sets`` of them: where connecting goes on,
    with the last); the address and its length (not of a socket file).  Sent: the socket; of a socket file that
    and the executor's table, too."""
    steps = Steps()
    flags = [steps.number() for _ in range(sets)]
    address = sockets.file_address(steps) if to_file else steps.hole(sockets.STORAGE)
    length = address.size if to_file else steps.number()
    root = steps.bytes(b"/")
    given = steps.sent()
    if sets:
        steps.call("fcntl", given, _F_SETFL, flags[0])
    if to_file:
        pinned, table = steps.sent(), steps.sent()
        steps.call("fchdir", table)
        steps.put_text(Place(address.offset + 2, 16), steps.call("dup", pinned))
    for last in flags[1:]:
        steps.call("connect", given, address, length, want=-errno.EINPROGRESS)
        steps.call("fcntl", given, _F_SETFL, last)
    made = steps.call("connect", given, address, length, bad=0)
    steps.call("chdir", root)
    return _Connecting(steps.freeze(), made)


def _connect(
    session: Session,
    fd: int,
    address: bytes,
    *,
    file: int | None = None,
    flags: tuple[int, ...] = (),
) -> Generator[Wait, Reply, int]:
    """0, or an errno."""
    to = _connecting(file is not None, len(flags))
    values: tuple[bytes | int, ...] = () if file is not None else (address, len(address))
    fds = (fd,) if file is None else (fd, file)
    reply = yield from session.ask(to.request, *flags, *values, fds=fds, table=file is not None)
    reply.close()
    return reply.error(to.made)


def _own(
    session: Session, fd: int, address: bytes, file: int | None = None
) -> Generator[Wait, Reply, Verdict]:
    """On the caller's own socket, by the kernel's own rules: what is interrupted goes on by itself."""
    try:
        failed = yield from _connect(session, fd, address, file=file)
    except Interrupted:
        if sockets.patience(fd) >= 0:  # sock_intr_errno of include/net/sock.h
            raise Said(errno.EINTR) from None
        raise
    return deny(failed) if failed else answer(0)


def _elsewhere(
    task: Task, network: Network, one: Socket, address: bytes, route: Route
) -> Generator[Wait, Reply, Verdict]:
    """On a socket that the caller has from then on."""
    moved, address = yield from sockets.replacement(task, network, one, address, route)
    if moved.carried is None:
        return (yield from _own(network.session, one.fd, address))
    fd, flags = moved.fd, moved.carried.flags
    waits = not flags & os.O_NONBLOCK
    at_once = flags if one.domain == AF_UNIX else flags | os.O_NONBLOCK
    goes_on = (flags,) if waits and at_once != flags else ()
    try:
        failed = yield from _connect(network.session, fd, address, flags=(at_once, *goes_on))
    except Interrupted:
        if not goes_on:
            raise
        sockets.put_in_place(task, one, moved)
        if sockets.patience(fd) >= 0:
            raise Said(errno.EINTR) from None
        raise
    if failed in (0, errno.EINPROGRESS):
        sockets.put_in_place(task, one, moved)
    return deny(failed) if failed else answer(0)
