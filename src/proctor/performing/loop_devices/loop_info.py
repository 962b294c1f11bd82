"""``struct loop_info`` (LOOP_SET_STATUS, LOOP_GET_STATUS): what ``struct loop_info64`` was before, in each width.

As ``loop_info64_from_old``, ``loop_info64_to_old`` and their like for 32 bits do it, of drivers/block/loop.c.
"""

from __future__ import annotations

import errno
import struct
from functools import cache
from typing import TYPE_CHECKING, Final

from proctor.performing.trouble import Said

if TYPE_CHECKING:
    from proctor.call.call import Call

#: Up to the name.
_WIDE: Final = struct.Struct("=QQQQQIIII")
_NAME, _NAME_SIZE, SIZE = 56, 64, 232


@cache
def _layout(name: str, word: int) -> struct.Struct:
    """number, device, inode, rdevice, offset, flags, name; what was of ciphers is nothing any more (Linux 5.16).

    Devices are ``__kernel_old_dev_t``, of asm/posix_types.h, or ``compat_dev_t``, of asm/compat.h."""
    if name == "x86_64":
        return struct.Struct("=i4xQQQi8xi64s56x")
    if word == 8:
        return struct.Struct("=iIQIi8xi64s60x")
    device = "H2x" if name in ("i386", "x32") else "I"
    return struct.Struct(f"=i{device}I{device}i8xi64s44x")


def _of(call: Call) -> struct.Struct:
    known = call.signature
    word = 8 if known is None else known.word
    return _layout(call.abi, word)


def size(call: Call) -> int:
    """How long the caller's is."""
    return _of(call).size


def widened(call: Call, data: bytes) -> bytes:
    """A ``struct loop_info64`` of what a caller gave."""
    number, device, inode, rdevice, offset, flags, name = _of(call).unpack(data)
    made, low = bytearray(SIZE), 0xFFFFFFFF
    offset &= (1 << 64) - 1
    _WIDE.pack_into(made, 0, device, inode, rdevice, offset, 0, number & low, 0, 0, flags & low)
    made[_NAME : _NAME + _NAME_SIZE] = name
    return bytes(made)


def narrowed(call: Call, info: bytes) -> bytes:
    """What a caller is told of a ``struct loop_info64``.

    :raises Said: EOVERFLOW, since there is no room for it."""
    device, inode, rdevice, offset, _, number, _, _, flags = _WIDE.unpack_from(info)
    name = info[_NAME : _NAME + _NAME_SIZE]
    try:
        return _of(call).pack(_signed(number), device, inode, rdevice, offset, _signed(flags), name)
    except struct.error:
        raise Said(errno.EOVERFLOW) from None


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value
