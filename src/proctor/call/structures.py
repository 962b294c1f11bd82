"""Structures that arguments point to: copied once, checked as the kernel checks them.

Where the kernel would refuse a structure, :class:`~proctor.kernel.errors.MemoryUnreadable` carries
the errno it would give.  Sources: openat2(2), clone3(2), recvmsg(2), mount_setattr(2), and
``copy_struct_from_user`` in ``include/linux/uaccess.h`` for the extensible ones.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proctor.call import sockaddr
from proctor.call.values import Mode, Timespec
from proctor.kernel.errors import MemoryUnreadable

if TYPE_CHECKING:
    from proctor.call.ports import MemoryPort
    from proctor.filter.signatures import Arg, Signature

PAGE_SIZE: Final = 4096
UIO_MAXIOV: Final = 1024


class Frame(NamedTuple):
    """What decoding a structure may look at: memory, the other registers, the caller's ABI."""

    memory: MemoryPort
    signature: Signature
    raw: tuple[int, ...]
    byteorder: str

    @property
    def end(self) -> str:
        """The caller's byte order for :mod:`struct`."""
        return "<" if self.byteorder == "little" else ">"

    def other(self, name: str) -> int:
        """The number in another argument of the same call."""
        arg = self.signature.arg(name)
        assert arg is not None, f"{self.signature.name} has no argument {name}"
        return arg.value(self.raw)


class OpenHow(NamedTuple):
    """``struct open_how`` of openat2(2)."""

    flags: Any  #: :class:`~proctor.call.flags.OpenFlag`, 64 bits
    mode: Mode
    resolve: Any  #: :class:`~proctor.call.flags.ResolveFlag`

    def __str__(self) -> str:
        return f"{{flags={self.flags}, mode={self.mode}, resolve={self.resolve}}}"


class CloneArgs(NamedTuple):
    """``struct clone_args`` of clone3(2); what an older caller does not have is 0."""

    flags: Any  #: :class:`~proctor.call.flags.CloneFlag`, 64 bits
    pidfd: int
    child_tid: int
    parent_tid: int
    exit_signal: int
    stack: int
    stack_size: int
    tls: int
    set_tid: int
    set_tid_size: int
    cgroup: int

    def __str__(self) -> str:
        return f"{{flags={self.flags}, exit_signal={self.exit_signal}}}"


class MessageHeader(NamedTuple):
    """``struct msghdr`` of sendmsg(2): the address and the vector are copied, the data is not."""

    address: sockaddr.SocketAddress | None
    iov: tuple[tuple[int, int], ...]
    control: int
    controllen: int
    flags: int

    def __str__(self) -> str:
        to = f"{self.address}, " if self.address is not None else ""
        return f"{{{to}{len(self.iov)} buffers, {sum(n for _, n in self.iov)} bytes}}"


class MountAttributes(NamedTuple):
    """``struct mount_attr`` of mount_setattr(2)."""

    attr_set: Any  #: :class:`~proctor.call.flags.MountAttr`
    attr_clr: Any
    propagation: Any  #: :class:`~proctor.call.flags.MountFlag`
    userns_fd: int


class Limits(NamedTuple):
    """``struct rlimit``: soft and hard limit, unsigned; all ones is "no limit"."""

    soft: int
    hard: int


class EpollEvent(NamedTuple):
    """``struct epoll_event``."""

    events: int
    data: int


class MmapArguments(NamedTuple):
    """What the old mmap of 32-bit architectures takes through a pointer."""

    address: int
    length: int
    prot: Any
    flags: Any
    fd: int
    offset: int


class SelectArguments(NamedTuple):
    """What the old select of i386 takes through a pointer."""

    nfds: int
    readfds: int
    writefds: int
    exceptfds: int
    timeout: int


def extensible(memory: MemoryPort, address: int, size: int, first: int, known: int) -> bytes:
    """A structure that grew over time, as ``copy_struct_from_user`` copies it: ``known`` bytes,
    those the caller does not have zero.

    :param first: size of the first published version; a smaller ``size`` is EINVAL.
    :param known: size we know; set bytes beyond it are E2BIG, as is more than a page.
    """
    if size < first:
        raise MemoryUnreadable(
            errno.EINVAL,
            f"a structure of {size} bytes where the first version had {first}",
            address,
        )
    if size > PAGE_SIZE:
        raise MemoryUnreadable(errno.E2BIG, f"a structure of {size} bytes", address)
    data = memory.read(address, size)
    if any(data[known:]):
        raise MemoryUnreadable(
            errno.E2BIG, "a structure with fields that are not known here", address
        )
    return data[:known].ljust(known, b"\0")


def _flag(name: str, value: int, abi: str) -> int:
    from proctor.call import flags

    return flags.decode(name, value, abi)


def _open_how(frame: Frame, address: int) -> OpenHow:
    data = extensible(frame.memory, address, frame.other("size"), 24, 24)
    flags, mode, resolve = struct.unpack(frame.end + "3Q", data)
    abi = frame.signature.abi
    return OpenHow(_flag("OpenFlag", flags, abi), Mode(mode), _flag("ResolveFlag", resolve, abi))


def _clone_args(frame: Frame, address: int) -> CloneArgs:
    data = extensible(frame.memory, address, frame.other("size"), 64, 88)
    flags, *rest = struct.unpack(frame.end + "11Q", data)
    return CloneArgs(_flag("CloneFlag", flags, frame.signature.abi), *rest)


def _mount_attr(frame: Frame, address: int) -> MountAttributes:
    data = extensible(frame.memory, address, frame.other("size"), 32, 32)
    attr_set, attr_clr, propagation, userns = struct.unpack(frame.end + "4Q", data)
    abi = frame.signature.abi
    return MountAttributes(
        _flag("MountAttr", attr_set, abi),
        _flag("MountAttr", attr_clr, abi),
        _flag("MountFlag", propagation, abi),
        userns,
    )


def _msghdr(frame: Frame, address: int) -> MessageHeader:
    if frame.signature.word == 4:
        layout = struct.Struct(frame.end + "IiIIIII")
    else:
        layout = struct.Struct(frame.end + "Qi4xQQQQI4x")
    name, namelen, iov, iovlen, control, controllen, flags = layout.unpack(
        frame.memory.read(address, layout.size)
    )
    if namelen < 0:
        raise MemoryUnreadable(errno.EINVAL, "a socket address of negative length", address)
    if iovlen > UIO_MAXIOV:
        raise MemoryUnreadable(errno.EMSGSIZE, f"{iovlen} buffers in one message", address)
    to = None
    if name and namelen:
        size = min(namelen, sockaddr.MAX_LENGTH)  # the kernel clamps here, and only here
        to = sockaddr.decode(frame.memory.read(name, size), frame.byteorder)
    vector: tuple[tuple[int, int], ...] = ()
    if iovlen:
        vector = tuple(frame.memory.iovec(iov, iovlen, width=frame.signature.word))
    return MessageHeader(to, vector, control, controllen, flags)


def _rlimit(frame: Frame, address: int) -> Limits:
    layout = struct.Struct(frame.end + ("2I" if frame.signature.word == 4 else "2Q"))
    return Limits(*layout.unpack(frame.memory.read(address, layout.size)))


def _rlimit64(frame: Frame, address: int) -> Limits:
    return Limits(*struct.unpack(frame.end + "2Q", frame.memory.read(address, 16)))


def _sched_param(frame: Frame, address: int) -> int:
    return int(struct.unpack(frame.end + "i", frame.memory.read(address, 4))[0])


def _epoll_event(frame: Frame, address: int) -> EpollEvent:
    packed = frame.signature.abi in ("x86_64", "x32", "i386")
    layout = struct.Struct(frame.end + ("IQ" if packed else "I4xQ"))
    return EpollEvent(*layout.unpack(frame.memory.read(address, layout.size)))


def _mmap_arguments(frame: Frame, address: int) -> MmapArguments:
    layout = struct.Struct(frame.end + ("6I" if frame.signature.word == 4 else "6Q"))
    start, length, prot, flags, fd, offset = layout.unpack(frame.memory.read(address, layout.size))
    abi = frame.signature.abi
    fd = fd & 0xFFFFFFFF
    return MmapArguments(
        start,
        length,
        _flag("Prot", prot, abi),
        _flag("MapFlag", flags, abi),
        fd - (fd >> 31 << 32),
        offset,
    )


def _select_arguments(frame: Frame, address: int) -> SelectArguments:
    layout = struct.Struct(frame.end + "5I")
    nfds, *rest = layout.unpack(frame.memory.read(address, layout.size))
    return SelectArguments(nfds - (nfds >> 31 << 32), *rest)


#: Structures that are taken apart; an argument of another family decodes to its address.
DECODERS: Final[dict[str, Callable[[Frame, int], Any]]] = {
    "open_how": _open_how,
    "clone_args": _clone_args,
    "mount_attr": _mount_attr,
    "msghdr": _msghdr,
    "rlimit": _rlimit,
    "rlimit64": _rlimit64,
    "sched_param": _sched_param,
    "epoll_event": _epoll_event,
    "mmap_arg_struct": _mmap_arguments,
    "sel_arg_struct": _select_arguments,
}


def timespec(frame: Frame, arg: Arg, address: int) -> Timespec:
    """A ``struct timespec``: 8 bytes for the old calls of i386 and arm, else 16."""
    abi = frame.signature.abi
    if abi in ("i386", "arm") and arg.family != "timespec64":
        return Timespec(*struct.unpack(frame.end + "ii", frame.memory.read(address, 8)))
    sec, nsec = struct.unpack(frame.end + "qq", frame.memory.read(address, 16))
    if abi in ("i386", "arm", "x32"):
        nsec &= 0xFFFFFFFF  # the upper half is padding there (get_timespec64)
    return Timespec(sec, nsec)
