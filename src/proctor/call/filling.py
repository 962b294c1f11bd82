"""What a call fills, as writes for a verdict: the way back from :mod:`proctor.call.decode`.

Each kind of argument is filled as the kernel fills it: structures as wide and in the order of the
caller's machine, buffers within their size, socket addresses cut to the length that was given and
with their own in its place, messages scattered over their vector.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from proctor.call.decode import layouts, sockaddr
from proctor.errors import MemoryUnreadable

if TYPE_CHECKING:
    from proctor.call.decode.frame import Frame
    from proctor.call.verdict import Write
    from proctor.syscalls.signatures import Arg

Writes = tuple["Write", ...]


def fill(frame: Frame, argument: str, value: Any, fields: Mapping[str, Any]) -> Writes:
    """See :meth:`proctor.call.Call.fill`."""
    arg = frame.settled(argument)
    if arg is None or arg.role not in ("out", "inout", "iovec"):
        filled = [each.name for each in frame.signature.args if each.role in ("out", "inout")]
        raise TypeError(
            f"{frame.signature.name} does not fill {argument!r}; it fills "
            f"{', '.join(filled) or 'nothing'}"
        )
    if (value is None) == (not fields):
        raise TypeError(f"{argument} is filled with one value, or with fields by name")
    address = frame.register(arg)
    if not address and arg.nullable:
        return ()
    if arg.role == "iovec":
        return _scattered(frame.value(arg), _bytes(argument, value))
    if arg.family == "sockaddr":
        return _address(frame, arg, address, value)
    if arg.family == "msghdr":
        return _message(frame, address, dict(fields))
    data = _data(frame, arg, fields if value is None else value)
    room, length = _room(frame, arg)
    if room is not None and len(data) > room:
        raise ValueError(f"{argument} has room for {room} bytes, not for {len(data)}")
    writes: Writes = ((address, data),)
    if length is not None:
        writes += (_number(frame, length, len(data)),)
    return writes


def _bytes(argument: str, value: Any) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"{argument} is filled with bytes, not with {value!r}")
    return bytes(value)


def _data(frame: Frame, arg: Arg, value: Any) -> bytes:
    """The bytes of a value, as the caller's machine has them."""
    known, family = frame.signature, arg.family or "data"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    number = layouts.number(family, known)
    if number is None and not layouts.exists(family):
        return _bytes(arg.name, value)
    many = (
        arg.counted_by is not None and isinstance(value, Sequence) and not hasattr(value, "_fields")
    )
    parts = []
    try:
        for each in value if many else [value]:
            if number is not None:
                parts.append(number.pack(each))
                continue
            made = layouts.layout(family, known)
            names = [field.name for field in made.shown]
            given = _of_stat(each, made.shown) if isinstance(each, os.stat_result) else each
            packed = made.pack(made.named(given))
            if family == "stat64":  # the inode twice: STAT64_HAS_BROKEN_ST_INO of asm/stat.h
                low = packed[-8:-4] if frame.byteorder == "little" else packed[-4:]
                packed = packed[:12] + low + packed[16:]
            parts.append(packed)
    except KeyError as missing:
        raise TypeError(f"{family} has no field {missing}; it has {', '.join(names)}") from None
    except struct.error as wrong:
        raise ValueError(f"{arg.name} cannot be {value!r}: {wrong}") from None
    return b"".join(parts)


def _of_stat(found: os.stat_result, fields: Sequence[layouts.Field]) -> dict[str, int]:
    """The fields of a ``struct stat`` from what :func:`os.stat` gave; of times what there is room for, as the kernel has
    it (``cp_stat64`` of arch/x86/kernel/sys_ia32.c, ``cp_compat_stat`` of fs/stat.c)."""
    values = {}
    for name, size in ((field.name, field.codes.size) for field in fields):
        if name.endswith("_nsec"):
            values[name] = getattr(found, f"{name.removesuffix('_nsec')}_ns") % 10**9
        elif name in ("st_atime", "st_mtime", "st_ctime"):
            seconds = getattr(found, f"{name}_ns") // 10**9
            values[name] = seconds if size == 8 else seconds & (1 << 8 * size) - 1
        else:
            values[name] = getattr(found, name)
    return values


def _room(frame: Frame, arg: Arg) -> tuple[int | None, Arg | None]:
    """How many bytes there is room for, if that is told, and where their number is told in turn."""
    known, family, counted_by = frame.signature, arg.family or "data", arg.counted_by
    if counted_by is None and "optlen" in known:
        counted_by = "optlen"  # an option with a type of its own
    number = layouts.number(family, known)
    size = number.size if number is not None else 1
    growing = False
    if layouts.exists(family):
        made = layouts.layout(family, known)
        size, growing = made.size, bool(made.first)
    if counted_by is None:
        return size, None
    length = frame.signature.arg(counted_by)
    if length is not None and length.role == "inout":  # getsockopt(2)
        return max(0, int(frame.value(length) or 0)), length
    count = frame.number(counted_by)
    if family == "msgbuf":  # the size is that of the text behind its type
        return known.word + count, None
    return count if growing else size * max(0, count), None


def _number(frame: Frame, arg: Arg, value: int) -> Write:
    codes = layouts.number(arg.family or "", frame.signature)
    assert codes is not None
    return frame.register(arg), codes.pack(value)


def _address(frame: Frame, arg: Arg, address: int, value: Any) -> Writes:
    """As ``move_addr_to_user`` of net/socket.c."""
    data = (
        bytes(value)
        if isinstance(value, (bytes, bytearray))
        else sockaddr.encode(value, frame.byteorder)
    )
    assert arg.counted_by is not None
    length = frame.signature.arg(arg.counted_by)
    assert length is not None
    room = frame.value(length)
    if room is None:
        raise MemoryUnreadable(errno.EFAULT, f"{length.name} is NULL", 0)
    if room < 0:
        raise MemoryUnreadable(errno.EINVAL, f"a socket address of {room} bytes", address)
    written = _number(frame, length, len(data))  # first, since Linux 6.18
    return (written, (address, data[:room])) if room else (written,)


def _message(frame: Frame, address: int, fields: dict[str, Any]) -> Writes:
    """As ``____sys_recvmsg`` of net/socket.c: data, address, flags, length of the control data."""
    made = layouts.layout("msghdr", frame.signature)
    header = made.value(frame.memory.read(address, made.size))
    at = {field.name: (address + field.offset, field.codes) for field in made.shown}
    data, name = fields.pop("data", b""), fields.pop("address", None)
    control, flags = fields.pop("control", b""), fields.pop("flags", 0)
    if fields:
        raise TypeError(f"a message has data, address, control and flags, no {min(fields)!r}")
    if not 0 <= header.msg_iovlen <= 1024:
        raise MemoryUnreadable(
            errno.EMSGSIZE, f"{header.msg_iovlen} buffers in one message", address
        )
    vector: Sequence[tuple[int, int]] = ()
    if header.msg_iovlen:
        width = frame.signature.word
        vector = frame.memory.iovec(header.msg_iov, header.msg_iovlen, width=width)
    writes = list(_scattered(vector, _bytes("data", data)))
    if header.msg_name and name is not None:
        text = bytes(name) if isinstance(name, bytes) else sockaddr.encode(name, frame.byteorder)
        writes.append((header.msg_name, text[: max(0, header.msg_namelen)]))
        writes.append(_field(at, "msg_namelen", len(text)))
    if len(control) > header.msg_controllen:
        raise ValueError(
            f"control has room for {header.msg_controllen} bytes, not for {len(control)}"
        )
    if control:
        writes.append((header.msg_control, _bytes("control", control)))
    writes.append(_field(at, "msg_controllen", len(control)))
    writes.append(_field(at, "msg_flags", int(flags)))
    return tuple(writes)


def _field(at: dict[str, Any], name: str, value: int) -> Write:
    place, codes = at[name]
    return place, codes.pack(value)


def _scattered(vector: Sequence[tuple[int, int]], data: bytes) -> Writes:
    room = sum(size for _, size in vector)
    if len(data) > room:
        raise ValueError(f"the vector has room for {room} bytes, not for {len(data)}")
    writes: list[Write] = []
    for address, size in vector:
        if data and size:
            writes.append((address, data[:size]))
            data = data[size:]
    return tuple(writes)
