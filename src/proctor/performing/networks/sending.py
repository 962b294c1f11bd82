"""sendto, sendmsg, sendmmsg: what is sent was copied, once, and is sent on the caller's own socket.

A datagram is one call of the kernel's.  On a stream nothing waits in it, so that what went out before a
signal is known: the executor sends what there is room for, and waits for room in poll(2).  SIGPIPE goes to the caller.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Generator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from proctor.call import messages
from proctor.call.messages import Message
from proctor.call.verdict import answer
from proctor.errors import MemoryUnreadable
from proctor.kernel.raw import is_hidden
from proctor.performing import noting
from proctor.performing.networks import saying, sockets
from proctor.performing.networks.messaging import once
from proctor.performing.networks.routes import Route
from proctor.performing.networks.sockets import Network, Socket
from proctor.performing.paths import acting
from proctor.performing.trouble import Again, Interrupted, Moved, Refused, Said, Trouble

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.performing.executing.requests import Reply
    from proctor.performing.executing.workers import Wait
    from proctor.performing.identities.lender import Lender
    from proctor.performing.task import Task, Work

_AF_NETLINK: Final = 16
_DONTWAIT, _FASTOPEN, _CMSG_COMPAT = 0x40, 0x20000000, 0x80000000
#: What ends a call and leaves what was sent before: nothing is sent twice, and who is told of an errno sends all again.
_BETWEEN: Final = (Again, Interrupted, MemoryUnreadable, Moved, OSError, Refused, Said, Trouble)


def takes(call: Call) -> bool:
    """Whether the kernel looks at anything: sendmsg(2) takes MSG_CMSG_COMPAT for a lie of 64-bit callers
    (``__sys_sendmsg`` of net/socket.c)."""
    known = call.frame
    at = {"sendmsg": 2, "sendmmsg": 3}.get(call.name)
    return (
        at is None
        or known is None
        or known.signature.word == 4
        or not call.registers[at] & _CMSG_COMPAT
    )


def perform(task: Task, route: Route, fd: int, number: int) -> Work:
    """Send for the caller."""
    call = task.call
    one = sockets.known(fd, number)
    flags = call.registers[2 if call.name == "sendmsg" else 3] & 0xFFFFFFFF & ~_CMSG_COMPAT
    several = call.name == "sendmmsg"
    sent: list[int] = []
    try:
        for each in messages.messages(call):
            with task.briefly():
                sent.append((yield from _send(task, route, one, each, flags)))
            if sent[-1] < each.size:  # ___sys_sendmmsg goes no further
                break
    except _BETWEEN as failed:
        if not sent:
            raise
        _tell(task, failed)
    if several:
        return answer(len(sent), writes=messages.lengths(call, sent))
    return answer(sent[0])


def _tell(task: Task, failed: BaseException) -> None:
    """A part has been sent, which is the answer; what failed then is told as ever, if that is somebody's."""
    if isinstance(failed, (OSError, Trouble)):
        task.host.translate(task.call, failed)


def _send(
    task: Task, route: Route, one: Socket, message: Message, flags: int
) -> Generator[Wait, Reply, int]:
    """How much was sent.

    :raises Said: an errno."""
    stream = one.type == socket.SOCK_STREAM
    if one.domain not in (socket.AF_UNIX, _AF_NETLINK):  # nobody else calls scm_send()
        message = message._replace(rights=(), credentials=())
    if len(message.data) < message.size and not message.torn and not stream:
        yield from _before_the_data(task, one, message, flags)
        raise Said(errno.EMSGSIZE, f"more than {messages.MOST} bytes in one message")
    address, path = message.address, None
    if one.type == socket.SOCK_DGRAM and address is not None:  # others refuse or ignore it
        path = sockets.file_name(one, address)
        if path is None and sockets.reroutable(task, route, one, address):
            return (yield from _elsewhere(task, route, one, message, flags))
    says = bool(message.credentials) and one.domain == socket.AF_UNIX
    if says and not stream:
        yield from _before_the_data(task, one, message, flags)
    lender = saying.speaker(task, message, to_file=path is not None) if says else None
    file = None
    with nullcontext() if lender is None else lender:
        if path is not None:
            try:
                file = (yield from task.file(path)).fd
            except Said as said:
                if not says:
                    yield from _before_the_data(task, one, message, flags)
                raise said from None
        if file is not None and lender is not None:
            return (yield from _said_to_a_file(task, one, message, flags, file, lender))
        if stream:
            return (yield from _all(task, one, message, flags, file, lender))
        return (yield from once(task, task.session, one.fd, message, flags, file, lender=lender))


def _said_to_a_file(
    task: Task, one: Socket, message: Message, flags: int, file: int, lender: Lender
) -> Generator[Wait, Reply, int]:
    """By a lender, where the caller may write the file.

    :raises Said: an errno."""
    if is_hidden(file):
        raise Said(errno.EPERM, "the socket file is on a file system that the lender may not see")
    # unix_find_bsd of net/unix/af_unix.c
    if failed := (yield from acting.ACCESSIBLE().ask(task.session, os.W_OK, fds=(file,))):
        raise Said(failed)
    return (yield from once(task, task.session, one.fd, message, flags, file, lender=lender))


def _before_the_data(
    task: Task, one: Socket, message: Message, flags: int
) -> Generator[Wait, Reply, None]:
    """What the kernel has against a message of the caller's before it reads what is sent, and so before it looks at a path and
    sends anything: its ids and descriptors, too, and how many of those its user has in flight
    (``too_many_unix_fds`` of net/unix/af_unix.c, which whoever may name the caller is not asked).

    :raises Said: that; EFAULT of a message that cannot be read."""
    stream = one.type == socket.SOCK_STREAM  # where nothing is sent, nothing is read either
    size = message.size if stream else max(message.size, 1)
    unread = message._replace(data=b"", size=size, torn=True)
    try:
        yield from once(task, task.session, one.fd, unread, flags, None, stream=stream, asks=True)
    except Said as said:
        if said.errno != errno.EFAULT or (message.torn and not stream):
            raise


def _elsewhere(
    task: Task, route: Route, one: Socket, message: Message, flags: int
) -> Generator[Wait, Reply, int]:
    """On a socket that the caller has from then on."""
    assert message.address is not None
    noting.halves(task.call)
    with Network(task, route.network) as network:
        new, address = yield from sockets.replacement(task, network, one, message.address, route)
        message = message._replace(address=address)
        sent = yield from once(task, network.session, new.fd, message, flags, None)
        if new.carried is not None:
            sockets.put_in_place(task, one, new)
        return sent


def _all(
    task: Task, one: Socket, message: Message, flags: int, file: int | None, lender: Lender | None
) -> Generator[Wait, Reply, int]:
    """On a stream: all of it, if the caller waits.

    :param lender: who sends what says who sends it."""
    limit = sockets.patience(one.fd)
    total, left, waits = 0, message, False
    try:
        while True:
            if waits and not (yield from sockets.wait(task.session, one.fd, limit)):
                raise Said(errno.EAGAIN)
            try:
                # what connects first is EINPROGRESS if it is not to wait for that
                how = flags if flags & _FASTOPEN else flags | _DONTWAIT
                if left.credentials and one.domain == socket.AF_UNIX:
                    yield from _before_the_data(task, one, left, how)
                sent = yield from once(
                    task, task.session, one.fd, left, how, file, stream=True, lender=lender
                )
            except Said as said:
                waits = said.errno == errno.EAGAIN and not flags & _DONTWAIT
                if not waits or sockets.never_waits(one.fd):
                    raise
                continue
            total, waits, flags = total + sent, False, flags & ~_FASTOPEN  # it is connected
            if total >= message.size or flags & _DONTWAIT:
                return total
            left = Message(None, left.data[sent:], left.size - sent, torn=left.torn)
            if not (left.data or left.torn) or sockets.never_waits(one.fd):
                return total
    except _BETWEEN as failed:
        if not total:
            if isinstance(failed, Interrupted) and limit >= 0:
                raise Said(errno.EINTR) from None  # sock_intr_errno of include/net/sock.h
            raise
        _tell(task, failed)
        return total
