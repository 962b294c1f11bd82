"""Sockets of callers: pinned once, and their networks.

The caller's own socket is duplicated by pidfd_getfd(2), once; what is done is done to that duplicate,
whatever its number comes to mean meanwhile.  A socket belongs to the network namespace that it was made
in, so one that is to reach another network is replaced: a new socket is made there by an executor with
the caller's ids, given what the old one was given (:mod:`proctor.performing.networks.carried`), and put under the
old one's number.  From then on nothing about it is ours: data goes as fast as it does anywhere.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

from proctor.errors import TargetFdLimit
from proctor.performing.executing.requests import Reply
from proctor.performing.executing.single import Single
from proctor.performing.executing.steps import Place, Steps
from proctor.performing.executing.workers import Wait
from proctor.performing.identities.identity import becoming
from proctor.performing.identities.who import Key
from proctor.performing.networks.carried import Carried, reading, setting
from proctor.performing.networks.routes import AF_INET, AF_INET6, AF_UNIX, MAPPED, Route, inet
from proctor.performing.paths import pins
from proctor.performing.session import Session
from proctor.performing.trouble import Moved, Said, Trouble
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.task import Task

_NS_GET_NSTYPE: Final = 0xB703  # include/uapi/linux/nsfs.h
_CLONE_NEWNET: Final = 0x40000000
#: struct sockaddr_storage
STORAGE: Final = 128


class Socket(NamedTuple):
    """A socket of the caller's."""

    #: A duplicate; the task closes it.
    fd: int
    #: Its number there.
    number: int
    #: The kernel's number of the socket itself.
    inode: int
    domain: int
    type: int
    protocol: int


def take(task: Task, number: int, *, path: bool = False) -> int:
    """Pin a descriptor of the caller's: a duplicate, which the task closes.

    :param path: whether it may be an O_PATH one.
    :raises Said: EBADF."""
    fd = task.taken(number)
    if fd is None or (not path and pins.only_a_path(fd)):
        raise Said(errno.EBADF)
    return fd


def known(fd: int, number: int) -> Socket:
    """What a pinned socket is.

    :raises Said: ENOTSOCK; EBADF for an O_PATH descriptor."""
    try:
        with _borrowed(fd) as one:
            return Socket(
                fd, number, os.fstat(fd).st_ino, int(one.family), int(one.type), one.proto
            )
    except OSError as error:
        raise Said(error.errno or errno.ENOTSOCK) from None


# Networks ----------------------------------------------------------------------------------------


class Network:
    """Executors with the caller's ids, in another network namespace; for one call.

    :param name: as :class:`Route` has it.
    """

    def __init__(self, task: Task, name: str) -> None:
        self._task = task
        self._fd: int | None = None
        if name == "host":
            self.inode = task.own.who.namespace("net")
        elif name:
            self.inode, self._fd = _opened(task, name)
        else:
            self.inode = task.who.namespace("net")
            if task.elsewhere():
                raise Moved
        self.session = task.session if self.inode == task.who.namespace("net") else self._session()

    def _session(self) -> Session:
        task = self._task
        who = task.who.within("net", self.inode)
        become = becoming(task.caller, who, task.own, self._fd)
        return task.session.another(Key(who, task.session.container), become)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        """Give the executors back."""
        if self.session is not self._task.session:
            self.session.close()


def _opened(task: Task, name: str) -> tuple[int, int]:
    try:
        fd = task.hold(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
        if fcntl.ioctl(fd, _NS_GET_NSTYPE) != _CLONE_NEWNET:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    except OSError as error:
        raise Trouble(f"{name!r} is no network namespace: {error.strerror}") from None
    return os.fstat(fd).st_ino, fd


# Replacing ---------------------------------------------------------------------------------------


class Replacement(NamedTuple):
    """A socket for the place of another one."""

    fd: int
    #: What the old one was given; None if the old one is in that network already, and is this one.
    carried: Carried | None


def replacement(
    task: Task, network: Network, one: Socket, said: bytes, route: Route
) -> Generator[Wait, Reply, tuple[Replacement, bytes]]:
    """A socket like the caller's from which an address can be reached, in another network, with what that
    was given; where the caller's is such a one already, it is that itself.  And the address as that
    socket takes it.

    :param said: the caller's address.
    :raises Said: no such socket can be made there."""
    domain, address = one.domain, route.redirect(said)
    if address[:2] != said[:2]:
        family = int.from_bytes(address[:2], sys.byteorder)
        if (domain, family) == (AF_INET6, AF_INET) and not _only_ipv6(one.fd):
            address = inet(MAPPED + address[4:8], address[2:4])
        else:
            domain = family
    ask = reading(one.domain, one.type, one.protocol, domain)
    reply = yield from network.session.ask(ask.request, fds=(one.fd,))
    try:
        if reply.error(ask.made):
            raise Said(reply.error(ask.made))
        carried = ask.read(reply)
        if carried.same_network and domain == one.domain:
            return Replacement(one.fd, None), address
        made = Replacement(task.hold(reply.take(ask.made)), carried)
    finally:
        reply.close()
    if carried.differing or carried.bound:
        put = setting(tuple([each[:2] for each in carried.differing]))
        values = [each[2] for each in carried.differing]
        names = _to_bind(carried.bound, domain)
        reply = yield from network.session.ask(put.request, *values, *names, fds=(made.fd,))
        reply.close()
    return made, address


def _only_ipv6(fd: int) -> bool:
    with _borrowed(fd) as one:
        return bool(one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def patience(fd: int, option: int = socket.SO_SNDTIMEO) -> int:
    """How many milliseconds sending, or receiving, waits at most; -1: without a limit."""
    size = struct.calcsize("@ll")
    with _borrowed(fd) as one:
        seconds, micros = struct.unpack("@ll", one.getsockopt(socket.SOL_SOCKET, option, size))
    return seconds * 1000 + micros // 1000 if seconds or micros else -1


def never_waits(fd: int) -> bool:
    """Whether it has O_NONBLOCK."""
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK)


def listens(fd: int) -> bool:
    """Whether it can be connected to, now."""
    with _borrowed(fd) as one:
        return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def wait(
    session: Session, fd: int, limit: int, *, reading: bool = False
) -> Generator[Wait, Reply, bool]:
    """Wait for room, or for something to read; whether it came within so many milliseconds (-1: no
    limit).  Nothing is lost when this is interrupted."""
    waiting = _waiting(limit >= 0, select.POLLIN if reading else select.POLLOUT)
    time = (struct.pack("@ll", limit // 1000, limit % 1000 * 1000000),) if limit >= 0 else ()
    reply = yield from session.ask(waiting.request, *time, fds=(fd,))
    reply.close()
    return reply.results[waiting.made.step] > 0


@cache
def _waiting(limited: bool, events: int) -> Single:
    """Holes: a struct timespec, if ``limited``.  Sent: the socket."""
    steps = Steps()
    polled = steps.bytes(struct.pack("=ihh", -1, events, 0))
    time = steps.hole(struct.calcsize("@ll")) if limited else 0
    steps.put(polled, 0, steps.sent(), 4)
    made = steps.call("ppoll", polled, 1, time, 0, 0)
    return Single(steps.freeze(), made)


@contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    one = socket.socket(fileno=fd)
    try:
        yield one
    finally:
        one.detach()


def _to_bind(bound: bytes, domain: int) -> tuple[bytes | int, ...]:
    """The name that a socket is to have, or at least its port (0: none)."""
    if not bound or int.from_bytes(bound[:2], sys.byteorder) != domain:
        return (b"", 0, b"", 0)
    anywhere = inet(bytes(4 if domain == AF_INET else 16), bound[2:4])
    return (bound, len(bound), anywhere, len(anywhere) if any(bound[2:4]) else 0)


def put_in_place(task: Task, one: Socket, new: Replacement) -> None:
    """Give the caller the new socket under the old one's number, unless that number is something else's
    by now: then nobody is left who would use it.

    :raises Trouble: it does not take it."""
    assert new.carried is not None
    fcntl.fcntl(new.fd, fcntl.F_SETFL, new.carried.flags)
    try:
        closes = task.standing.closes_on_exec(one.number)
        now = task.take_fd(one.number)
    except OSError:
        return
    try:
        if os.fstat(now).st_ino != one.inode:
            return
    finally:
        os.close(now)
    try:
        task.call.place(new.fd, one.number, cloexec=closes)
    except TargetFdLimit:
        raise Trouble(f"descriptor {one.number} is beyond the caller's own limit") from None


# Addresses ---------------------------------------------------------------------------------------


def file_name(one: Socket, address: bytes) -> bytes | None:
    """The path in an address of a socket file; None if it is none, or the kernel will not look."""
    if one.domain != AF_UNIX or not 3 <= len(address) <= 2 + 108 or not address[2]:
        return None
    if int.from_bytes(address[:2], sys.byteorder) != AF_UNIX:
        return None
    return address[2:].partition(b"\0")[0]


def file_address(steps: Steps) -> Place:
    """A ``sockaddr_un`` whose path is a number, to be put at its third byte."""
    return steps.bytes(struct.pack("=H", AF_UNIX) + bytes(16))


def reroutable(task: Task, route: Route, one: Socket, address: bytes) -> bool:
    """Whether options can be about an address: one of the internet, or an abstract name.

    :raises Said: a rule is about the path that it has, and the socket is not one for paths."""
    family = int.from_bytes(address[:2], sys.byteorder) if len(address) > 2 else 0
    if family == AF_UNIX:
        # those of the internet refuse it by its length or its family, and never look at a path
        if task.asked and address[2] and one.domain not in (AF_INET, AF_INET6):
            raise Said(errno.EINVAL if one.domain == AF_UNIX else errno.EAFNOSUPPORT)
        return not route.plain and one.domain == AF_UNIX and not address[2]
    return (
        not route.plain
        and family in (AF_INET, AF_INET6)
        and one.domain in (AF_INET, AF_INET6)
        and one.type in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    )
