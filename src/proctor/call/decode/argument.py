"""From a register to a value, by the role of the argument.

What the kernel would refuse before it did anything (a path without end, an address longer than any
address) raises :class:`~proctor.errors.MemoryUnreadable` with the errno it would give.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from proctor.errors import MemoryUnreadable
from proctor.syscalls.signatures import POINTER_ROLES, Arg

if TYPE_CHECKING:
    from proctor.call.decode.structures import Frame

PATH_MAX: Final = 4096

#: Kinds of string: bytes with the NUL, the errno beyond them, and the errno for an empty one.
STRING_LIMITS: Final[dict[str | None, tuple[int, int, int]]] = {
    None: (4096, errno.EINVAL, 0),  # strndup_user(PAGE_SIZE)
    "Path": (PATH_MAX, errno.ENAMETOOLONG, 0),
    "XattrName": (256, errno.ERANGE, errno.ERANGE),  # XATTR_NAME_MAX; import_xattr_name()
    "MemfdName": (250, errno.EINVAL, 0),  # NAME_MAX less "memfd:"
    "FsKey": (256, errno.EINVAL, 0),
    "ModuleParameters": (65536, errno.E2BIG, 0),  # the kernel takes any length
}


def is_followed(arg: Arg) -> bool:
    """Whether the argument's value is what it points to, not its number."""
    if arg.role == "struct":
        from proctor.call.decode.structures import decoder

        return decoder(arg.family or "") is not None
    return arg.role in POINTER_ROLES and arg.role != "pointer"


def needs_memory(arg: Arg) -> bool:
    """Whether decoding the argument, or writing it down for a log, reads the caller's memory."""
    return is_followed(arg) or (arg.role in ("pointer", "ulong") and arg.family is not None)


def plain(arg: Arg, number: int, abi: str) -> Any:
    """The value of an argument that is no pointer."""
    role = arg.role
    if role == "mode":
        from proctor.call.decode.values import Mode

        return Mode(number)
    if role == "dev":
        from proctor.call.decode.values import Device

        return Device(number)
    if arg.family is not None and role in ("flags", "cmd", "clock", "signal"):
        from proctor.syscalls import flags

        return flags.decode(arg.family, number, abi)
    return number


def unreadable(number: int, what: str, address: int) -> MemoryUnreadable:
    """The error of an argument the kernel would not take."""
    return MemoryUnreadable(number, what, address)


def pointed(arg: Arg, address: int, frame: Frame) -> Any:
    """The value behind a pointer.  NULL is None where the call allows it, else EFAULT."""
    role = arg.role
    if role == "sockaddr":
        return _sockaddr(arg, address, frame)
    if role == "iovec":
        assert arg.family is not None
        count = frame.other(arg.family)
        if count > 1024:
            raise unreadable(errno.EINVAL, f"{count} buffers; the kernel takes 1024", address)
        return (
            tuple(frame.memory.iovec(address, count, width=frame.signature.word)) if count else ()
        )
    if not address:
        if role == "strings":
            return ()
        if arg.nullable:
            return None
        raise unreadable(errno.EFAULT, f"{arg.name} is NULL", 0)
    if role == "path":
        return frame.memory.string(address, PATH_MAX)
    if role == "string":
        return _string(arg, address, frame)
    if role == "strings":
        width = frame.signature.word
        return tuple(frame.memory.strings(address, width=width))
    from proctor.call.decode import structures

    if role == "timespec":
        return structures.timespec(frame, arg, address)
    decoder = structures.decoder(arg.family or "")
    assert decoder is not None
    return decoder(frame, address)


def _string(arg: Arg, address: int, frame: Frame) -> bytes:
    limit, too_long, empty = STRING_LIMITS[arg.family]
    try:
        text = frame.memory.string(address, limit)
    except MemoryUnreadable as error:
        if error.errno != errno.ENAMETOOLONG or too_long == errno.ENAMETOOLONG:
            raise
        raise unreadable(
            too_long, f"{arg.name} is longer than {limit - 1} bytes", address
        ) from None
    if not text and empty:
        raise unreadable(empty, f"{arg.name} is empty", address)
    return text


def _sockaddr(arg: Arg, address: int, frame: Frame) -> Any:
    from proctor.call.decode import sockaddr

    assert arg.family is not None
    length = frame.other(arg.family)
    if not address and arg.nullable:
        return None
    if not 0 <= length <= sockaddr.MAX_LENGTH:  # move_addr_to_kernel()
        raise unreadable(errno.EINVAL, f"a socket address of {length} bytes", address)
    data = frame.memory.read(address, length) if length else b""
    return sockaddr.decode(data, frame.byteorder)
