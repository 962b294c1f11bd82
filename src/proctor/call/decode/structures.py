"""Structures that arguments point to: copied once, checked as the kernel checks them.

Most are in the table of :mod:`proctor.call.decode.layouts`; here are those whose layout is not all there
is to them.  Where the kernel would refuse one, :class:`~proctor.errors.MemoryUnreadable` carries the errno
it would give.  Sources: the manual pages of the calls, and ``copy_struct_from_user`` in
``include/linux/uaccess.h`` for those that grew over time.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proctor.call.decode import layouts, sockaddr
from proctor.call.decode.values import CapabilitySet, SignalSet
from proctor.errors import MemoryUnreadable
from proctor.records import NamedTuple
from proctor.syscalls import flags
from proctor.syscalls.architectures import PAGE_SIZE

if TYPE_CHECKING:
    from proctor.call.decode.frame import Frame
    from proctor.call.ports import MemoryPort
    from proctor.syscalls.signatures import Arg

UIO_MAXIOV: Final = 1024

#: How many elements the kernel takes of an array, and what it says of more; one without an errno
#: takes the first.
_MOST: Final[dict[str, tuple[int, int]]] = {
    "sembuf": (500, errno.E2BIG),  # SEMOPM
    "futex_waitv": (128, errno.EINVAL),  # FUTEX_WAITV_MAX
    "mmsghdr": (UIO_MAXIOV, 0),
}
_MOST_OF_ALL: Final = (65536, errno.EINVAL)  # NGROUPS_MAX
#: Buffers of all messages of sendmmsg(2) together that are looked at.
_VECTORS: Final = 65536

#: Structures that hold their own size, and the errno of one smaller than the first version, which 0
#: stands for where that errno is E2BIG.
_SELF_SIZED: Final = {
    "sched_attr": errno.E2BIG,
    "perf_event_attr": errno.E2BIG,
    "mnt_id_req": errno.EINVAL,
}


class MessageHeader(NamedTuple):
    """``struct msghdr``: the vector is copied and, of a message that is sent, the address; the data is
    not."""

    address: sockaddr.SocketAddress | None
    iov: tuple[tuple[int, int], ...]
    control: int
    controllen: int
    flags: Any  #: :class:`~proctor.syscalls.flags.MsgFlag`; the kernel ignores it here
    namelen: int = 0
    name: int = 0  #: where the address is, or comes to be


class Capabilities(NamedTuple):
    """What capset(2) sets."""

    effective: CapabilitySet
    permitted: CapabilitySet
    inheritable: CapabilitySet

    def __str__(self) -> str:
        return (
            f"{{effective={self.effective}, permitted={self.permitted}, "
            f"inheritable={self.inheritable}}}"
        )


class FileHandle(NamedTuple):
    """``struct file_handle``."""

    type: int
    handle: bytes

    def __str__(self) -> str:
        shown = "".join(f"\\x{byte:02x}" for byte in self.handle)
        return f'{{handle_bytes={len(self.handle)}, handle_type={self.type}, f_handle="{shown}"}}'


class SignalMaskArgument(NamedTuple):
    """What pselect6 takes for its mask."""

    sigmask: SignalSet | None
    sigsetsize: int

    def __str__(self) -> str:
        mask = "NULL" if self.sigmask is None else str(self.sigmask)
        return f"{{sigmask={mask}, sigsetsize={self.sigsetsize}}}"


def refuse(number: int, what: str, address: int) -> MemoryUnreadable:
    """The error of what the kernel would not take."""
    return MemoryUnreadable(number, what, address)


def structure(arg: Arg, address: int, frame: Frame) -> Any:
    """What a structure argument points to."""
    family = arg.family or ""
    special = _SPECIAL.get(family)
    if special is not None:
        return special(frame, address)
    number = layouts.number(family, frame.signature)
    size = frame.number(arg.counted_by) if arg.counted_by else None
    if number is not None:
        if size is not None and size < number.size:
            raise refuse(errno.EINVAL, f"a number of {size} bytes", address)
        found = number.unpack(frame.memory.read(address, number.size))[0]
        of = family.partition(".")[2]
        return flags.decode(of, found, frame.abi) if of else found
    made = layouts.layout(family, frame.signature)
    if family in _SELF_SIZED:
        data = _self_sized(frame.memory, address, made, frame.end)
        size = len(data)
    elif size is None:
        data = frame.memory.read(address, made.size)
    elif made.first is None:  # of a structure that never grew, no more than it is looked at
        if size < made.size:
            raise refuse(errno.EINVAL, f"a structure of {size} bytes", address)
        data, size = frame.memory.read(address, made.size), None
    else:
        data = extensible(frame.memory, address, size, made.first, made.size)
    value = made.value(data, frame.memory)
    if size is not None:
        value.given = size
    return value


def array(arg: Arg, address: int, frame: Frame) -> tuple[Any, ...]:
    """All elements of an array."""
    family, count = arg.family or "", frame.number(arg.counted_by or "1")
    most, refused = _MOST.get(family, _MOST_OF_ALL)
    if count > most and not refused:
        count = most
    if not 0 <= count <= most:
        raise refuse(refused, f"{count} elements; the kernel takes {most}", address)
    return elements(family, address, count, frame)


def elements(family: str, address: int, count: int, frame: Frame) -> tuple[Any, ...]:
    """``count`` elements of an array, read once."""
    if family == "mmsghdr":
        return _messages(frame, address, count)
    number = layouts.number(family, frame.signature)
    if number is not None:
        data = frame.memory.read(address, count * number.size)
        return tuple(found for (found,) in number.iter_unpack(data))
    made = layouts.layout(family, frame.signature)
    data = frame.memory.read(address, count * made.size)
    return tuple(
        made.value(data[at : at + made.size], frame.memory)
        for at in range(0, count * made.size, made.size)
    )


def extensible(memory: MemoryPort, address: int, size: int, first: int, known: int) -> bytes:
    """A structure that grew over time, as ``copy_struct_from_user`` copies it: at most ``known`` bytes.

    :param first: size of the first published version, of which a smaller ``size`` is EINVAL; 0 if the
        table does not know all of it.
    :param known: size we know; set bytes beyond it are E2BIG, as is more than a page.
    """
    if size < first:
        raise refuse(
            errno.EINVAL,
            f"a structure of {size} bytes where the first version had {first}",
            address,
        )
    if size > PAGE_SIZE:
        raise refuse(errno.E2BIG, f"a structure of {size} bytes", address)
    if not first:
        return memory.read(address, min(size, known))
    data = memory.read_some(address, size)
    if any(data[known:]):
        raise refuse(errno.E2BIG, "a structure with fields that are not known here", address)
    if len(data) < size:
        raise refuse(errno.EFAULT, "a structure that is not all there", address)
    return data[:known]


def _self_sized(memory: MemoryPort, address: int, made: layouts.Layout, end: str) -> bytes:
    """Read from its beginning to its end, no byte twice: the size that counts is the one we have."""
    offset = next(field.offset for field in made.shown if field.name == "size")
    first, small = made.first or 0, _SELF_SIZED[made.name]
    data = memory.read_some(address, made.size)
    if len(data) < offset + 4:
        raise refuse(errno.EFAULT, f"{made.name} is not all there", address)
    size = struct.unpack_from(end + "I", data, offset)[0]
    if not size and small == errno.E2BIG:
        size = first
    if not first <= size <= PAGE_SIZE:
        raise refuse(
            small if size < first else errno.E2BIG, f"a structure of {size} bytes", address
        )
    if len(data) < min(size, made.size):
        raise refuse(errno.EFAULT, f"{made.name} is not all there", address)
    if size > made.size and any(memory.read(address + made.size, size - made.size)):
        raise refuse(errno.E2BIG, "a structure with fields that are not known here", address)
    return data[:size]


def message_header(
    frame: Frame, address: int, most: int, sent: bool = True
) -> tuple[MessageHeader, int]:
    """A message's header with the first ``most`` buffers of its vector, and how many it has."""
    made = layouts.layout("msghdr", frame.signature)
    name, namelen, iov, iovlen, control, controllen, said = made.value(
        frame.memory.read(address, made.size)
    )
    if namelen < 0 and name:
        raise refuse(errno.EINVAL, "a socket address of negative length", address)
    to = None
    if name and namelen and sent:
        size = min(namelen, sockaddr.MAX_LENGTH)  # the kernel clamps here, and only here
        to = sockaddr.decode(frame.memory.read(name, size), frame.byteorder)
    if iovlen > UIO_MAXIOV:
        raise refuse(errno.EMSGSIZE, f"{iovlen} buffers in one message", address)
    vector: tuple[tuple[int, int], ...] = ()
    if iovlen:
        vector = tuple(frame.memory.iovec(iov, min(iovlen, most), width=frame.signature.word))
    return MessageHeader(to, vector, control, controllen, said, namelen, name), iovlen


def _messages(frame: Frame, address: int, count: int) -> tuple[MessageHeader, ...]:
    size = layouts.layout("mmsghdr", frame.signature).size
    found: list[MessageHeader] = []
    left = _VECTORS
    sent = frame.signature.name.startswith("send")
    for index in range(count):
        message, vectors = message_header(frame, address + index * size, left, sent)
        left -= vectors
        if left < 0:
            raise refuse(errno.ENOMEM, f"more than {_VECTORS} buffers", address)
        found.append(message)
    return tuple(found)


def _sigset(frame: Frame, address: int) -> SignalSet:
    size = 16 if frame.abi.startswith("mips") else 8
    for name in ("sigsetsize", "sizemask"):
        if name in frame.signature and frame.number(name) != size:
            raise refuse(errno.EINVAL, f"a signal set of {frame.number(name)} bytes", address)
    return _read_set(frame, address)


def _read_set(frame: Frame, address: int) -> SignalSet:
    word = frame.signature.word
    longs = struct.unpack(f"{frame.end}{'Q' if word == 8 else '2I'}", frame.memory.read(address, 8))
    return SignalSet(sum(each << 32 * at for at, each in enumerate(longs)))


def _old_sigset(frame: Frame, address: int) -> SignalSet:
    found = elements("ulong", address, 1, frame)
    return SignalSet(found[0])


def _argpack(frame: Frame, address: int) -> SignalMaskArgument:
    mask, size = elements("ulong", address, 2, frame)
    if mask and size != 8:
        raise refuse(errno.EINVAL, f"a signal set of {size} bytes", address)
    return SignalMaskArgument(_read_set(frame, mask) if mask else None, size)


def _capabilities(frame: Frame, address: int) -> Capabilities:
    """Three sets of 32 bits, and with the newer versions three more for the upper halves."""
    arg = frame.signature.arg("hdrp")
    assert arg is not None
    header = frame.value(arg)
    if type(header.version) is int:
        raise refuse(errno.EINVAL, f"capabilities of version {header.version:#x}", address)
    wide = "VERSION_1" not in str(header.version)
    found = elements("u32", address, 6 if wide else 3, frame)
    low, high = found[:3], found[3:] or (0, 0, 0)
    return Capabilities(*(CapabilitySet(a | b << 32) for a, b in zip(low, high, strict=True)))


def _file_handle(frame: Frame, address: int) -> FileHandle:
    size, kind = struct.unpack(frame.end + "Ii", frame.memory.read(address, 8))
    if not 0 < size <= 128:  # MAX_HANDLE_SZ
        raise refuse(errno.EINVAL, f"a file handle of {size} bytes", address)
    return FileHandle(kind, frame.memory.read(address + 8, size))


#: Structures that are more than their layout.
_SPECIAL: Final[dict[str, Callable[[Frame, int], Any]]] = {
    "msghdr": lambda frame, address: message_header(
        frame, address, UIO_MAXIOV, frame.signature.name == "sendmsg"
    )[0],
    "sigset": _sigset,
    "old_sigset": _old_sigset,
    "sigset_argpack": _argpack,
    "cap_user_data": _capabilities,
    "file_handle": _file_handle,
}
