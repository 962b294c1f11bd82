"""What a call sends, as the bytes that the kernel would copy: for whoever makes the call in its place.

Everything is read once, through what the call keeps (:attr:`proctor.call.decode.frame.Frame.memory`): the
address that a rule saw is the address that is used.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

from proctor.call.decode import layouts, structures
from proctor.call.decode.sockaddr import MAX_LENGTH, reaching
from proctor.errors import MemoryUnreadable
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proctor.call.call import Call
    from proctor.call.decode.frame import Frame
    from proctor.call.decode.structures import MessageHeader

#: More data than this is not copied for one message.
MOST: Final = 1 << 20
_MOST_AT_ONCE: Final = 0x7FFFF000  # MAX_RW_COUNT
_MOST_CONTROL: Final = 1 << 14
_INT_MAX: Final = (1 << 31) - 1
_COMPAT_HEAD: Final = 12  # struct compat_cmsghdr
_SOL_SOCKET, _SCM_RIGHTS, _SCM_CREDENTIALS = 1, 1, 2
#: IPV6_2292RTHDR, IPV6_2292PKTOPTIONS, IPV6_RTHDR, IP_RETOPTS, by their levels.
_ROUTES: Final = frozenset(((41, 5), (41, 6), (41, 57), (0, 7)))
_HEAD: Final = struct.Struct("@Lii")  # struct cmsghdr of this machine
_WORD: Final = struct.calcsize("@L")
#: What SCM_CREDENTIALS says: struct ucred.
UCRED: Final = struct.Struct("=iII")


class Message(NamedTuple):
    """One message to be sent."""

    #: The socket address, as long as it was said to be; None if there is none.
    address: bytes | None
    #: What can be read of it, at most :data:`MOST` bytes.
    data: bytes
    #: How many there are.
    size: int
    #: Control data, as this machine lays it out.
    control: bytes = b""
    #: Offsets in it of descriptors that are passed, and the caller's numbers.
    rights: tuple[tuple[int, int], ...] = ()
    #: Offsets in it of what says who sends it (SCM_CREDENTIALS); -1 for one of another length than it has.
    credentials: tuple[int, ...] = ()
    #: Whether the byte behind the data cannot be read, which is the kernel's to say in its time.
    torn: bool = False


def address(call: Call) -> bytes:
    """The socket address of connect(2) or bind(2).

    :raises MemoryUnreadable: EINVAL for a length that none has, EFAULT."""
    frame = _frame(call)
    if frame.signature.block is not None:
        frame.settle()
    _, where, length = (arg.value(frame.registers) for arg in frame.signature.args[:3])
    if not 0 <= length <= MAX_LENGTH:  # move_addr_to_kernel()
        raise MemoryUnreadable(errno.EINVAL, f"a socket address of {length} bytes", where)
    found = _raw(frame, where, length)
    return named(call, found)


def named(call: Call, found: bytes) -> bytes:
    """The address that is used: what a rule saw of it (:attr:`~proctor.call.call.Call.names_reached`)."""
    return reaching(found) if call.names_reached else found


def messages(call: Call) -> Iterator[Message]:
    """What sendto(2), sendmsg(2) or sendmmsg(2) sends: each is read when it is its turn, as the kernel does.

    :raises MemoryUnreadable: what the kernel says before it sends anything."""
    frame = _frame(call)
    if call.name == "sendto":
        _, where, size, _, name, length = (
            arg.value(frame.registers) for arg in frame.signature.args
        )
        to = None
        if name:
            call.sockaddr  # noqa: B018
            to = named(call, _raw(frame, name, length))
        size = min(size, _MOST_AT_ONCE)
        data, torn = _gathered(frame, ((where, size),))
        yield Message(to, data, size, torn=torn)
    elif call.name == "sendmsg":
        yield _message(call, frame, call.msg)
    else:
        yield from (_message(call, frame, header) for header in _headers(frame))


def _headers(frame: Frame) -> Iterator[MessageHeader]:
    start, count = (frame.signature.args[at].value(frame.registers) for at in (1, 2))
    size = layouts.layout("mmsghdr", frame.signature).size
    for index in range(min(count, structures.UIO_MAXIOV)):
        where = start + index * size
        yield structures.message_header(frame, where, structures.UIO_MAXIOV)[0]


def _is_users(where: int, length: int) -> bool:
    from proctor.kernel.raw import is_users  # fakes have no core, and send nothing

    return is_users(where, length)


def importable(call: Call) -> bool:
    """Whether what sendto(2) sends can be a program's, which the kernel asks before anything else (``import_ubuf`` of
    lib/iov_iter.c)."""
    if call.name != "sendto":
        return True
    frame = _frame(call)
    _, where, size = (arg.value(frame.registers) for arg in frame.signature.args[:3])
    return _is_users(where, min(size, _MOST_AT_ONCE))


def lengths(call: Call, sent: list[int]) -> tuple[tuple[int, bytes], ...]:
    """What to write so that sendmmsg(2) says how much of each message was sent."""
    frame = _frame(call)
    made = layouts.layout("mmsghdr", frame.signature)
    start = frame.signature.args[1].value(frame.registers)
    at = made.size - {4: 4, 8: 8}[frame.signature.word]
    return tuple(
        (start + index * made.size + at, struct.pack(frame.end + "I", size))
        for index, size in enumerate(sent)
    )


def sent(call: Call, number: int) -> tuple[int, tuple[tuple[int, bytes], ...]]:
    """How many messages somebody sent who could not say so any more, and what to write of them; without those whose length cannot
    be read by now.

    :param number: messages that were sent whole; on a stream it is bytes, of all of them together.
    :raises CallError, OSError: which of these cannot be known: the caller has closed the socket."""
    with socket.socket(fileno=os.dup(call.fd(call.registers[0] & 0xFFFFFFFF))) as one:
        streams = one.type == socket.SOCK_STREAM
    found, left = [], number
    with suppress(MemoryUnreadable):
        for header in islice(_headers(_frame(call)), None if streams else number):
            size = min(sum(length for _, length in header.iov), _MOST_AT_ONCE)
            if streams:
                if not left:
                    break
                size = min(size, left)
                left -= size
            found.append(size)
    return len(found) if streams else number, lengths(call, found)


def _frame(call: Call) -> Frame:
    frame = call.frame
    if frame is None:
        raise MemoryUnreadable(errno.ENOSYS, f"the arguments of {call.name} are not known")
    return frame


def _raw(frame: Frame, where: int, length: int) -> bytes:
    return frame.memory.read(where, min(length, MAX_LENGTH)) if length > 0 else b""


def _gathered(frame: Frame, vector: tuple[tuple[int, int], ...]) -> tuple[bytes, bool]:
    """What can be read, and whether that ends where nothing can be."""
    parts, left, torn = [], MOST, False
    try:
        for where, size in vector:
            wanted = min(size, left)
            if wanted and not torn:
                parts.append(frame.memory.read_some(where, wanted))
                left -= len(parts[-1])
                torn = len(parts[-1]) < wanted
    except MemoryUnreadable:
        torn = True
    return b"".join(parts), torn


def _message(call: Call, frame: Frame, header: MessageHeader) -> Message:
    to = None
    if header.name and header.namelen:
        to = named(call, _raw(frame, header.name, header.namelen))
    if any(length >> 8 * frame.signature.word - 1 for _, length in header.iov):  # __import_iovec()
        raise MemoryUnreadable(errno.EINVAL, "data of negative length", header.name)
    for where, length in header.iov:
        most = _MOST_AT_ONCE if len(header.iov) == 1 else length
        if not _is_users(where, min(length, most)):
            raise MemoryUnreadable(errno.EFAULT, "no address of a program", where)
    size = min(sum(length for _, length in header.iov), _MOST_AT_ONCE)
    data, torn = _gathered(frame, header.iov)
    if not header.controllen:
        return Message(to, data, size, torn=torn)
    return Message(to, data, size, *_control(frame, _controls(frame, header)), torn)


def _controls(frame: Frame, header: MessageHeader) -> bytes:
    """Control data, as it is in memory.

    :raises MemoryUnreadable: ENOBUFS, EFAULT; before that EINVAL, of programs of 32 bits, for lengths that are none
        (``cmsghdr_from_user_compat_to_kern`` of net/compat.c)."""
    size, at = header.controllen, 0
    if not size:
        return b""
    if frame.signature.word == 4 and size <= _INT_MAX:
        while at < min(size, _MOST_CONTROL):
            length = 0
            if size - at >= _COMPAT_HEAD and header.control:
                head = frame.memory.read(header.control + at, 4)
                (length,) = struct.unpack(f"{frame.end}I", head)
            if not _COMPAT_HEAD <= length <= size - at:
                raise MemoryUnreadable(errno.EINVAL, "control data of no such length", 0)
            at += length + -length % 4
    if size > _MOST_CONTROL:
        raise MemoryUnreadable(errno.ENOBUFS, "too much control data", header.control)
    return frame.memory.read(header.control, size)


def routed(frame: Frame, header: MessageHeader) -> bool:
    """Whether control data says by which way a message goes (IPV6_RTHDR, IP_RETOPTS and the like), so that the host
    that it goes to first is another than that of its address (``ip6_datagram_send_ctl`` of net/ipv6/datagram.c,
    ``ip_cmsg_send`` of net/ipv4/ip_sockglue.c): none of them takes a right.

    :raises MemoryUnreadable: EFAULT, ENOBUFS, EINVAL."""
    raw = _controls(frame, header)
    head, at = struct.Struct(f"{frame.end}{'Q' if frame.signature.word == 8 else 'I'}ii"), 0
    while at + head.size <= len(raw):
        length, level, kind = head.unpack_from(raw, at)
        if (level, kind) in _ROUTES:
            return True
        if length < head.size:
            break  # the kernel goes no further
        at += length + -length % frame.signature.word
    return False


def _control(
    frame: Frame, raw: bytes
) -> tuple[bytes, tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Control data for this machine, and where descriptors and credentials are in it (``__scm_send`` of net/core/scm.c,
    ``cmsghdr_from_user_compat_to_kern`` of net/compat.c)."""
    word, end = frame.signature.word, frame.end
    head = struct.Struct(f"{end}{'Q' if word == 8 else 'I'}ii")
    made, rights, at, credentials = bytearray(), [], 0, []
    same = head.size == _HEAD.size
    while at + head.size <= len(raw):
        length, level, kind = head.unpack_from(raw, at)
        if not head.size <= length <= len(raw) - at:
            break  # what is wrong with it the kernel finds by itself
        data = raw[at + head.size : at + length]
        start = at + head.size if same else len(made) + _HEAD.size
        if (level, kind) == (_SOL_SOCKET, _SCM_RIGHTS):
            count = len(data) // 4
            numbers = struct.unpack_from(f"{end}{count}i", data)
            rights += [(start + 4 * index, number) for index, number in enumerate(numbers)]
        if (level, kind) == (_SOL_SOCKET, _SCM_CREDENTIALS):
            credentials.append(start if len(data) == UCRED.size else -1)
        if not same:
            made += _HEAD.pack(_HEAD.size + len(data), level, kind) + data
            made += bytes(-len(made) % _WORD)
        at += length + -length % word
    return (raw if same else bytes(made)), tuple(rights), tuple(credentials)
