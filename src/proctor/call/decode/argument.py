"""From a register to a value, by the role of the argument.

What the kernel would refuse before it did anything (a path without end, an address longer than any
address) raises :class:`~proctor.errors.MemoryUnreadable` with the errno it would give.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from proctor.call.decode import sockaddr, structures
from proctor.call.decode.values import Device, Mode, SignalSet
from proctor.errors import MemoryUnreadable
from proctor.syscalls import flags
from proctor.syscalls.architectures import PAGE_SIZE
from proctor.syscalls.signatures import READ_ROLES, Arg, Signature

if TYPE_CHECKING:
    from proctor.call.decode.frame import Frame

PATH_MAX: Final = 4096

#: Kinds of string: bytes with the NUL, the errno beyond them (0: the rest is not taken), and the errno
#: for an empty one.
STRING_LIMITS: Final[dict[str | None, tuple[int, int, int]]] = {
    None: (PAGE_SIZE, errno.EINVAL, 0),  # strndup_user(PAGE_SIZE)
    "Path": (PATH_MAX, errno.ENAMETOOLONG, 0),
    "XattrName": (256, errno.ERANGE, errno.ERANGE),  # XATTR_NAME_MAX; import_xattr_name()
    "MemfdName": (250, errno.EINVAL, 0),  # NAME_MAX less "memfd:"
    "FsKey": (256, errno.EINVAL, 0),
    "ModuleParameters": (65536, errno.E2BIG, 0),  # the kernel takes any length
    "KeyType": (32, errno.EINVAL, errno.EINVAL),  # key_get_type_from_user()
    "VmaName": (80, errno.EINVAL, 0),  # ANON_VMA_NAME_MAX_LEN
    "Comm": (16, 0, 0),  # TASK_COMM_LEN
    "RebootArg": (256, 0, 0),
}


def reads(known: Signature) -> bool:
    """Whether writing a call down for a log reads the caller's memory."""
    return known.block is not None or any(
        arg.role in READ_ROLES or (arg.role == "pointer" and arg.family is not None)
        for arg in known.args
    )


def decode(arg: Arg, frame: Frame) -> Any:
    """The value of an argument.  NULL is None where the call allows it, else EFAULT."""
    number = frame.register(arg)
    if arg.role in READ_ROLES:
        return _pointed(arg, number, frame)
    return plain(arg, number, frame.abi)


def plain(arg: Arg, number: int, abi: str) -> Any:
    """The value of an argument that is not followed."""
    role = arg.role
    if role == "mode":
        return Mode(number)
    if role == "dev":
        return Device(number)
    if role == "sigset":
        return SignalSet(number & 0xFFFFFFFF)
    if role == "htons":
        number = (number & 0xFF) << 8 | number >> 8 & 0xFF
    if arg.family is not None and role in ("flags", "cmd", "clock", "signal", "key", "htons"):
        return flags.decode(arg.family, number, abi)
    return number


def _pointed(arg: Arg, address: int, frame: Frame) -> Any:
    role, memory = arg.role, frame.memory
    if role == "sockaddr":
        return _sockaddr(arg, address, frame)
    if role == "iovec":
        count = frame.number(arg.counted_by or "1")
        if count > 1024:
            raise MemoryUnreadable(errno.EINVAL, f"{count} buffers; the kernel takes 1024", address)
        return tuple(memory.iovec(address, count, width=frame.signature.word)) if count else ()
    if role == "array" and frame.number(arg.counted_by or "1") == 0:
        return ()
    if not address:
        if role == "strings":
            return ()
        if arg.nullable:
            return None
        if role != "struct" or arg.counted_by is None:  # a size that is wrong is so for NULL, too
            raise MemoryUnreadable(errno.EFAULT, f"{arg.name} is NULL", 0)
    if role == "path":
        return memory.string(address, PATH_MAX)
    if role == "string":
        return _string(arg, address, frame)
    if role == "strings":
        return tuple(memory.strings(address, width=frame.signature.word))
    if role == "bytes":
        size = frame.number(arg.counted_by or "1")
        if size < 0:
            raise MemoryUnreadable(errno.EINVAL, f"{size} bytes", address)
        return memory.read(address, min(size, int(arg.family or 0)))
    if role == "array":
        return structures.array(arg, address, frame)
    return structures.structure(arg, address, frame)


def _string(arg: Arg, address: int, frame: Frame) -> bytes:
    limit, too_long, empty = STRING_LIMITS[arg.family]
    if not too_long:
        found = frame.memory.read_some(address, limit - 1)
        end = found.find(b"\0")
        if end < 0 and len(found) < limit - 1:
            raise MemoryUnreadable(errno.EFAULT, f"{arg.name} has no end", address)
        return found[:end] if end >= 0 else found
    try:
        text = frame.memory.string(address, limit)
    except MemoryUnreadable as error:
        if error.errno != errno.ENAMETOOLONG or too_long == errno.ENAMETOOLONG:
            raise
        raise MemoryUnreadable(
            too_long, f"{arg.name} is longer than {limit - 1} bytes", address
        ) from None
    if not text and empty:
        raise MemoryUnreadable(empty, f"{arg.name} is empty", address)
    return text


def _sockaddr(arg: Arg, address: int, frame: Frame) -> Any:
    length = frame.number(arg.counted_by or "0")
    if not address and arg.nullable:
        return None
    if not 0 <= length <= sockaddr.MAX_LENGTH:  # move_addr_to_kernel()
        raise MemoryUnreadable(errno.EINVAL, f"a socket address of {length} bytes", address)
    data = frame.memory.read(address, length) if length else b""
    return sockaddr.decode(data, frame.byteorder)
