"""sendto, sendmsg, sendmmsg: what is sent was copied, once, and is sent on the caller's own socket.

A datagram is one call of the kernel's.  On a stream nothing waits in it, so that what went out before a
signal is known: the executor sends what there is room for, and waits for room in poll(2).  Descriptors
that go along (SCM_RIGHTS) are the caller's, each pinned once; SIGPIPE goes to the caller.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from collections.abc import Generator
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from proctor.call import messages
from proctor.call.messages import Message
from proctor.call.verdict import answer
from proctor.errors import MemoryUnreadable
from proctor.kernel.raw import is_hidden
from proctor.performing import noting, saying, sockets
from proctor.performing.lender import Loan
from proctor.performing.routes import Route
from proctor.performing.sockets import Network, Socket
from proctor.performing.steps import Place, Request, Result, Steps
from proctor.performing.trouble import Again, Interrupted, Moved, Refused, Said, Trouble
from proctor.records import NamedTuple
from proctor.syscalls import tables
from proctor.syscalls.architectures import native

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.performing.executors import Wait
    from proctor.performing.lender import Lender
    from proctor.performing.session import Session
    from proctor.performing.steps import Reply
    from proctor.performing.task import Task, Work

_AF_NETLINK: Final = 16
_CAP_DAC_OVERRIDE: Final = 1
_DONTWAIT, _NOSIGNAL, _FASTOPEN, _CMSG_COMPAT = 0x40, 0x4000, 0x20000000, 0x80000000
_HEADER: Final = struct.Struct("@PIPNPNi")  # struct msghdr
_NAME, _IOV, _CONTROL = 0, struct.calcsize("@PIP") - struct.calcsize("P"), struct.calcsize("@PIPN")
_VECTOR: Final = struct.Struct("@PN")  # struct iovec
#: Credentials without any in them: EINVAL for everybody (``__scm_send`` of net/core/scm.c).
_NOBODY: Final = struct.pack(
    "@Nii", struct.calcsize("@Nii"), socket.SOL_SOCKET, socket.SCM_CREDENTIALS
)
#: What goes to an executor within a request; more data it maps, so that the kernel has all of it in one call.
_SIZES: Final = (0, 256, 2048, 16384, 1 << 17)
_MAPPED: Final = -1
_READ, _PRIVATE = 1, 2  # PROT_READ, MAP_PRIVATE
#: What ends a call and leaves what was sent before: nothing is sent twice, and who is told of an errno sends all again.
_BETWEEN: Final = (Again, Interrupted, MemoryUnreadable, Moved, Refused, Said, Trouble)
#: Descriptors that go along with one message (SCM_MAX_FD of include/net/scm.h), and with one request to an executor (MOST_SENT).
_MOST_RIGHTS: Final = 253


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
    if isinstance(failed, Trouble):
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
        try:  # what the kernel has against it before it would read it
            unread = message._replace(data=b"", torn=True)
            yield from _once(task, task.session, one.fd, unread, flags, None)
        except Said as said:
            if said.errno != errno.EFAULT:
                raise
        raise Said(errno.EMSGSIZE, f"more than {messages.MOST} bytes in one message")
    address, path = message.address, None
    if one.type == socket.SOCK_DGRAM and address is not None:  # others refuse or ignore it
        path = sockets.file_name(one, address)
        if path is None and sockets.reroutable(task, route, one, address):
            return (yield from _elsewhere(task, route, one, message, flags))
    if message.credentials and one.type == socket.SOCK_SEQPACKET:
        yield from _before_the_name(task, one, message, flags)
    named = saying.speaker(task, one, message) if message.credentials else None
    message, lender = named or (message, None)
    file = None
    try:
        if path is not None:
            try:
                file = (yield from task.file(path)).fd
            except Said as said:
                yield from _before_the_path(task, one, message, flags, lender)
                raise said from None
        if file is not None and lender is not None:
            return (yield from _said_to_a_file(task, one, message, flags, file, lender))
        if stream:
            return (yield from _all(task, one, message, flags, file, lender))
        return (yield from _once(task, task.session, one.fd, message, flags, file, lender=lender))
    finally:
        if lender is not None:
            lender.close()


def _said_to_a_file(
    task: Task, one: Socket, message: Message, flags: int, file: int, lender: Lender
) -> Generator[Wait, Reply, int]:
    """By a lender, which is judged on files as the caller is, but for what the caller's capabilities give it there.

    :raises Said: an errno."""
    if is_hidden(file):
        raise Said(errno.EPERM, "the socket file is on a file system that the lender may not see")
    try:
        return (yield from _once(task, task.session, one.fd, message, flags, file, lender=lender))
    except Said as said:
        if said.errno == errno.EACCES and task.who.effective >> _CAP_DAC_OVERRIDE & 1:
            raise Said(
                errno.EPERM, "the caller would send it by CAP_DAC_OVERRIDE, which is not lent"
            ) from None
        raise


def _before_the_name(
    task: Task, one: Socket, message: Message, flags: int
) -> Generator[Wait, Reply, None]:
    """What ``unix_seqpacket_sendmsg`` (net/unix/af_unix.c) has against a socket before anybody looks at whom a message names.

    :raises Said: that."""
    nobody = message._replace(control=_NOBODY, rights=(), credentials=(-1,))
    try:
        yield from _once(task, task.session, one.fd, nobody, flags, None)
    except Said as said:
        if said.errno != errno.EINVAL:
            raise


def _before_the_path(
    task: Task, one: Socket, message: Message, flags: int, lender: Lender | None
) -> Generator[Wait, Reply, None]:
    """What the kernel has against a message before it looks at a path, which leads to a directory here.

    :raises Said: that."""
    try:
        root = task.caller.root()
        yield from _once(task, task.session, one.fd, message, flags, root, lender=lender)
    except Said as said:
        if said.errno not in (errno.ECONNREFUSED, errno.EACCES, errno.EROFS):
            raise


def _elsewhere(
    task: Task, route: Route, one: Socket, message: Message, flags: int
) -> Generator[Wait, Reply, int]:
    """On a socket that the caller has from then on."""
    assert message.address is not None
    noting.halves(task.call)
    network = Network(task, route.network)
    try:
        new, address = yield from sockets.replacement(task, network, one, message.address, route)
        message = message._replace(address=address)
        sent = yield from _once(task, network.session, new.fd, message, flags, None)
        if new.carried is not None:
            sockets.put_in_place(task, one, new)
        return sent
    finally:
        network.close()


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
                sent = yield from _once(
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


# Requests ----------------------------------------------------------------------------------------


class _Sending(NamedTuple):
    request: Request
    made: Result
    #: Of the loan; 0 for none.
    left: int


@lru_cache(64)
def _sending(
    to: str, data: int, control: int, rights: tuple[int, ...], torn: bool, permitted: int
) -> _Sending:
    """Holes: header, vector, data, address (``to`` "address"), control data; flags; the data's length (``to`` "nothing").  Sent: the socket; of a
    socket file (``to`` "file") that; the descriptors that go along; the executor's table, for a file.

    :param data: bytes that there is room for, or :data:`_MAPPED`: a file that is sent along.
    :param rights: where in the control data those are.
    :param torn: whether the data ends where nothing can be read; the vector's second part is nowhere, and how much of the first is sent
        then is for the kernel to find.
    :param permitted: of a lender, by whom it is sent with :data:`proctor.performing.saying.RIGHTS`."""
    steps = Steps()
    loan = Loan(steps, permitted) if permitted else None
    lent = None if loan is None else loan.capabilities(saying.RIGHTS)
    header, vector = steps.hole(_HEADER.size), steps.hole(2 * _VECTOR.size)
    body: Place | Result | None = None if data == _MAPPED else steps.hole(data)
    name = None
    if to == "address":
        name = steps.hole(sockets.STORAGE)
    elif to == "file":
        name = sockets.file_address(steps)
    ancillary = steps.hole(control) if control else None
    root, flags, size = steps.bytes(b"/"), steps.number(), steps.number()
    given, pinned = steps.sent(), steps.sent() if to == "file" else None
    passed = [steps.sent() for _ in rights]
    if body is None:
        mmap = "mmap2" if "mmap2" in tables.numbers(native()) else "mmap"
        body = steps.call(mmap, 0, size, _READ, _PRIVATE, steps.sent(), 0)
    if pinned is not None:
        assert name is not None
        steps.call("fchdir", steps.sent())
        steps.put_text(Place(name.offset + 2, 16), steps.call("dup", pinned))
    if name is not None:
        steps.put(header, _NAME, name)
    steps.put(header, _IOV, vector)
    steps.put(vector, 0, body, struct.calcsize("P"))
    if ancillary is not None:
        steps.put(header, _CONTROL, ancillary)
        for offset, descriptor in zip(rights, passed, strict=True):
            steps.put(ancillary, offset, descriptor, 4)
    if loan is not None and lent is not None:
        loan.have(lent)
    if to == "nothing":
        made = steps.call("sendto", given, 1 if torn else body, size, flags, header, 0, bad=0)
    else:
        made = steps.call("sendmsg", given, header, flags, bad=0)
    if loan is not None:
        loan.give_back()
    if data == _MAPPED:
        steps.call("munmap", body, size, bad=0)
    steps.call("chdir", root)
    return _Sending(steps.freeze(), made, 0 if loan is None else loan.left)


def _once(
    task: Task,
    session: Session,
    fd: int,
    message: Message,
    flags: int,
    file: int | None,
    *,
    stream: bool = False,
    lender: Lender | None = None,
) -> Generator[Wait, Reply, int]:
    """One call of the kernel's.

    :param lender: who sends it if it says who sends it.
    :raises Said: an errno."""
    speaker = lender if message.credentials else None
    data, behind = message.data, message.size - len(message.data) if message.torn else 0
    to = "file" if file is not None else "" if message.address is None else "address"
    if message.address == b"":  # sendto(2) alone knows an address of no length
        to = "" if stream and message.torn else "nothing"  # a stream looks at the length alone
    if to == "nothing" and message.torn:  # which is said before anything is read
        data, behind = b"", message.size
    names = message.credentials[:1] not in ((), (-1,))  # of another length it is EINVAL
    if names and speaker is None and not task.shares_pids():
        # with the host's CAP_SYS_ADMIN it would be any process of the host's
        raise Said(errno.EPERM, "the process that it names would be one of the monitor's")
    mapped = len(data) > _SIZES[-1]
    most = _MOST_RIGHTS - 1 - 2 * (file is not None) - mapped  # along with what the call is about
    if most < len(message.rights) <= _MOST_RIGHTS:
        raise Trouble(f"more than {most} descriptors in one message")
    control, passed = _taken(task, message, most)
    room, more = (
        next((each for each in _SIZES if len(part) <= each), _MAPPED) for part in (data, control)
    )
    permitted = 0 if speaker is None else speaker.permitted
    sending = _sending(to, room, more, tuple(passed), message.torn, permitted)
    address = message.address or b""
    length = 18 if file is not None else len(address)
    values: list[bytes | int] = [
        _HEADER.pack(0, length, 0, 1 + message.torn, 0, len(control), 0),
        _VECTOR.pack(0, len(data)) + _VECTOR.pack(1, behind),
    ]
    if not mapped:
        values.append(data)
    if to == "address":
        values.append(address)
    if control:
        values.append(control)
    values += flags | _NOSIGNAL, len(data) if mapped else len(data) + behind
    fds = [fd, *([] if file is None else [file]), *passed.values()]
    held = _file(data) if mapped else -1
    if mapped:
        fds.append(held)
    try:
        if speaker is not None:
            reply = yield from speaker.ask(
                sending.request, sending.left, *values, fds=tuple(fds), table=file is not None
            )
        else:
            reply = yield from session.ask(
                sending.request, *values, fds=tuple(fds), table=file is not None
            )
    finally:
        if mapped:
            os.close(held)
    reply.close()
    failed = reply.error(sending.made)
    if failed == errno.EPIPE and stream and not flags & _NOSIGNAL:
        signal.pidfd_send_signal(task.caller.anchor(), signal.SIGPIPE)
    if failed:
        raise Said(failed)
    return reply.results[sending.made.step]


def _file(data: bytes) -> int:
    """In memory, the asker's to close."""
    made = os.memfd_create("sent")
    try:
        with open(made, "wb", closefd=False) as file:
            file.write(data)
    except BaseException:
        os.close(made)
        raise
    return made


def _taken(task: Task, message: Message, most: int) -> tuple[bytes, dict[int, int]]:
    """Control data, and the descriptors that go along by where their numbers are in it: -1 where the caller has none, or
    where there are too many: which is the kernel's to say, in its time."""
    control, passed = bytearray(message.control), {}
    for index, (at, number) in enumerate(message.rights):
        struct.pack_into("=i", control, at, -1)
        if index < most:
            with suppress(Said):
                passed[at] = sockets.take(task, number, path=True)
    return bytes(control), passed
