"""Structures that arguments point to: copied once, checked as the kernel checks them.

Where the kernel would refuse a structure, :class:`~proctor.errors.MemoryUnreadable` carries
the errno it would give.  Sources: openat2(2), clone3(2), recvmsg(2), mount_setattr(2), and
``copy_struct_from_user`` in ``include/linux/uaccess.h`` for the extensible ones.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proctor.call.decode import sockaddr
from proctor.call.decode.values import Address, Mode, Timespec, signal_name
from proctor.errors import MemoryUnreadable
from proctor.syscalls.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from proctor.call.ports import MemoryPort
    from proctor.syscalls.signatures import Arg, Signature

PAGE_SIZE: Final = 4096
UIO_MAXIOV: Final = 1024
NO_LIMIT: Final = 0xFFFFFFFFFFFFFFFF  #: RLIM64_INFINITY


class Frame(NamedTuple):
    """What decoding a structure may look at: memory, the other registers, the caller's ABI."""

    memory: MemoryPort
    signature: Signature
    raw: tuple[int, ...]
    byteorder: str
    #: Another argument of the same call, decoded: what was read for it is not read again.
    sibling: Callable[[str], Any]

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

    flags: Any  #: :class:`~proctor.syscalls.flags.OpenFlag`, 64 bits
    mode: Mode
    resolve: Any  #: :class:`~proctor.syscalls.flags.ResolveFlag`

    def __str__(self) -> str:
        mode = f", mode={self.mode}" if self.mode else ""
        return f"{{flags={self.flags}{mode}, resolve={self.resolve}}}"


class CloneArgs(NamedTuple):
    """``struct clone_args`` of clone3(2); what an older caller does not have is 0."""

    flags: Any  #: :class:`~proctor.syscalls.flags.CloneFlag`, 64 bits
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
        bits = int(self.flags)  # a field that no flag asks for does not count
        parts = [f"flags={self.flags}"]
        for name, asked in (("pidfd", 0x1000), ("child_tid", 0x1200000), ("parent_tid", 0x100000)):
            if bits & asked:
                parts.append(f"{name}={Address(getattr(self, name))}")
        ends = signal_name(self.exit_signal) if self.exit_signal else "0"
        size = f"{self.stack_size:#x}" if self.stack_size else "0"
        parts.append(f"exit_signal={ends}, stack={Address(self.stack)}, stack_size={size}")
        if bits & 0x80000:
            parts.append(f"tls={Address(self.tls)}")
        if self.set_tid or self.set_tid_size:
            parts.append(f"set_tid={Address(self.set_tid)}, set_tid_size={self.set_tid_size}")
        if bits & 0x200000000:
            parts.append(f"cgroup={self.cgroup}")
        return "{" + ", ".join(parts) + "}"


class MessageHeader(NamedTuple):
    """``struct msghdr`` of sendmsg(2): the address and the vector are copied, the data is not."""

    address: sockaddr.SocketAddress | None
    iov: tuple[tuple[int, int], ...]
    control: int
    controllen: int
    flags: Any  #: :class:`~proctor.syscalls.flags.MsgFlag`; the kernel ignores it here
    namelen: int = 0

    def __str__(self) -> str:
        to = "NULL" if self.address is None else self.address.strace()
        vector = ", ".join(f"{{iov_base={at:#x}, iov_len={size}}}" for at, size in self.iov[:32])
        more = ", ..." if len(self.iov) > 32 else ""
        return (
            f"{{msg_name={to}, msg_namelen={self.namelen}, msg_iov=[{vector}{more}], "
            f"msg_iovlen={len(self.iov)}, msg_controllen={self.controllen}, "
            f"msg_flags={self.flags}}}"
        )


class MountAttributes(NamedTuple):
    """``struct mount_attr`` of mount_setattr(2)."""

    attr_set: Any  #: :class:`~proctor.syscalls.flags.MountAttr`
    attr_clr: Any
    propagation: Any  #: :class:`~proctor.syscalls.flags.MountFlag`
    userns_fd: int

    def __str__(self) -> str:
        return (
            f"{{attr_set={self.attr_set}, attr_clr={self.attr_clr}, "
            f"propagation={self.propagation}, userns_fd={self.userns_fd}}}"
        )


class Limits(NamedTuple):
    """``struct rlimit``: soft and hard limit, unsigned; all ones is "no limit"."""

    soft: int
    hard: int

    def __str__(self) -> str:
        return f"{{rlim_cur={_limit(self.soft)}, rlim_max={_limit(self.hard)}}}"


def _limit(number: int) -> str:
    if number == NO_LIMIT:
        return "RLIM64_INFINITY"
    if number > 1024 and number % 1024 == 0:
        return f"{number // 1024}*1024"
    return str(number)


class EpollEvent(NamedTuple):
    """``struct epoll_event``; ``events`` are :class:`~proctor.syscalls.flags.EpollEvent`."""

    events: Any
    data: int

    def __str__(self) -> str:
        low = self.data & 0xFFFFFFFF
        return f"{{events={self.events}, data={{u32={low}, u64={self.data}}}}}"


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
    from proctor.syscalls import flags

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
    return message_header(frame, address, UIO_MAXIOV)[0]


def message_header(frame: Frame, address: int, most: int) -> tuple[MessageHeader, int]:
    """A message's header with the first ``most`` buffers of its vector, and how many it has."""
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
        vector = tuple(frame.memory.iovec(iov, min(iovlen, most), width=frame.signature.word))
    said = _flag("MsgFlag", flags, frame.signature.abi)
    return MessageHeader(to, vector, control, controllen, said, namelen), iovlen


def _rlimit(frame: Frame, address: int) -> Limits:
    if frame.signature.word == 8:
        return _rlimit64(frame, address)
    soft, hard = struct.unpack(frame.end + "2I", frame.memory.read(address, 8))
    no_limit = 0xFFFFFFFF  # the kernel widens it, too
    return Limits(
        NO_LIMIT if soft == no_limit else soft,
        NO_LIMIT if hard == no_limit else hard,
    )


def _rlimit64(frame: Frame, address: int) -> Limits:
    return Limits(*struct.unpack(frame.end + "2Q", frame.memory.read(address, 16)))


def _sched_param(frame: Frame, address: int) -> int:
    return int(struct.unpack(frame.end + "i", frame.memory.read(address, 4))[0])


def _epoll_event(frame: Frame, address: int) -> EpollEvent:
    packed = frame.signature.abi in ("x86_64", "x32", "i386")
    layout = struct.Struct(frame.end + ("IQ" if packed else "I4xQ"))
    events, data = layout.unpack(frame.memory.read(address, layout.size))
    return EpollEvent(_flag("EpollEvent", events, frame.signature.abi), data)


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


#: Structures that are taken apart here; most others are in :mod:`proctor.call.decode.layouts_data`.
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


def decoder(family: str) -> Callable[[Frame, int], Any] | None:
    """What takes a structure apart; None where nothing does and its address is its value."""
    found = DECODERS.get(family)
    if found is None:
        from proctor.call.decode import layouts, variants

        found = variants.DECODERS.get(family)
        if found is None and layouts.exists(family):
            return lambda frame, address: tabled(family, frame, address)
    return found


def tabled(family: str, frame: Frame, address: int) -> Any:
    """A structure of the table, of which the kernel reads all."""
    from proctor.call.decode.layouts import layout

    found = layout(family, frame.signature)
    return found.value(frame.memory.read(address, found.size), frame.memory)


def timespec(frame: Frame, arg: Arg, address: int) -> Timespec:
    """A ``struct timespec``: 8 bytes for the old calls of 32-bit ABIs, else 16."""
    if frame.signature.time32 and arg.family != "timespec64":
        return Timespec(*struct.unpack(frame.end + "ii", frame.memory.read(address, 8)))
    sec, nsec = struct.unpack(frame.end + "qq", frame.memory.read(address, 16))
    if ARCHITECTURES[frame.signature.abi].word == 4:
        nsec &= 0xFFFFFFFF  # the upper half is padding there (get_timespec64)
    return Timespec(sec, nsec)
