"""A call's arguments for programs: what JSON has, by name.

Bytes that are text in UTF-8 are strings, others ``{"hex": "ff00"}``; what has names (flags, commands,
modes, devices) is the text that strace would write; addresses are hexadecimal text; structures are
objects.  What cannot be read is ``{"address": "0x1000", "error": "EFAULT"}``.  Whatever the target
gives, it is of bounded size: arrays end after :data:`MOST` elements and texts after
:data:`LONGEST` characters with ``{"more": n}`` in the place of the rest.  Environments are only
counted, and what keys are made of and passwords are not shown, since logs are read by others.
"""

from __future__ import annotations

import errno
import json
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any, Final

from proctor.call import passwords
from proctor.call.decode import argument as decode
from proctor.call.decode.values import Address
from proctor.errors import CallError, CallGone
from proctor.syscalls.signatures import READ_ROLES

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.decode.frame import Frame
    from proctor.syscalls.signatures import Arg

MOST: Final = 32
LONGEST: Final = 4096
#: What is read of argv for it, and how many variables are counted.
_STRINGS: Final = 256
_STRINGS_BYTES: Final = 16384
_AT_FDCWD: Final = -100


def structured(call: Call, *, read: bool) -> dict[str, Any]:
    """The arguments, in the call's order; of a call whose arguments are unknown, the six registers
    as ``a0`` to ``a5``.  It never raises for hostile memory.

    What was decoded before is not read again, and what is decoded here is kept.

    :param read: whether the caller's memory may be read; without, pointers that were not decoded
        before are addresses.
    """
    frame = call.frame
    if frame is None:
        return {f"a{place}": f"{number:#x}" for place, number in enumerate(call.registers)}
    return arguments(frame, read=read)


def arguments(frame: Frame, *, read: bool) -> dict[str, Any]:
    """The same of a call whose arguments are known."""
    if read:
        try:
            frame.settle()
        except (CallError, OSError):
            pass  # what it stands for is not known: as it was made
    known = frame.outer if frame.signature.block is not None else frame.signature
    return {arg.name: _argument(frame, arg, read) for arg in known.args}


def _argument(frame: Frame, arg: Arg, read: bool) -> Any:
    number = frame.register(arg)
    if passwords.hides(frame, arg, read):
        return _address(number)
    if arg.role not in READ_ROLES:
        if arg.role in ("pointer", "address", "out", "registers"):
            return _address(number)
        if arg.role == "dirfd" and number == _AT_FDCWD:
            return "AT_FDCWD"
        return plain(decode.plain(arg, number, frame.abi))
    if arg.name in frame.values:
        found = passwords.of(frame.signature.name, arg.name, frame.values[arg.name])
        return {"count": len(found)} if arg.name == "envp" else plain(found)
    if not read or (not number and arg.nullable):
        return _address(number)
    try:
        if arg.role == "strings":
            return _strings(arg, number, frame)
        return plain(passwords.of(frame.signature.name, arg.name, frame.value(arg)))
    except CallGone:
        return {"address": _address(number), "error": "gone"}
    except (CallError, OSError) as error:
        code = getattr(error, "errno", None)
        why = (
            errno.errorcode.get(code, str(code)) if isinstance(code, int) else type(error).__name__
        )
        return {"address": _address(number), "error": why}


def _strings(arg: Arg, address: int, frame: Frame) -> Any:
    """As much of argv as a log takes; of an environment, which is nobody's whole interest, how much
    there is."""
    limits = {"limit": _STRINGS, "width": frame.signature.word}
    if arg.name == "envp":
        return {"count": len(frame.memory.pointers(address, **limits)) if address else 0}
    found = frame.memory.strings(address, total=_STRINGS_BYTES, **limits) if address else ()
    return plain(tuple(map(passwords.word, found)))


def _address(number: int) -> str | None:
    return f"{number:#x}" if number else None


def plain(value: Any) -> Any:
    """A decoded value as JSON has it."""
    if value is None or type(value) in (int, bool):
        return value
    if isinstance(value, (bytes, str)):
        return _text(value)
    if isinstance(value, Address):
        return _address(value)
    if isinstance(value, int):
        return str(value)  # by its names
    fields = getattr(value, "_fields", None)
    if fields is not None:
        return {name: plain(getattr(value, name)) for name in fields}
    if isinstance(value, (tuple, list)):
        shown = [plain(each) for each in value[:MOST]]
        return shown if len(value) <= MOST else [*shown, {"more": len(value) - MOST}]
    return _text(str(value))


def json_text(value: bytes) -> str:
    """:func:`plain` of bytes, as text."""
    if len(value) < LONGEST:
        try:
            return encode_basestring_ascii(value.decode())
        except UnicodeDecodeError:
            pass
    return json.dumps(plain(value))


def _text(value: bytes | str) -> Any:
    more = len(value) - LONGEST
    shown = value[:LONGEST]
    if isinstance(shown, bytes):
        try:
            text = shown.decode()
        except UnicodeDecodeError as problem:
            if more <= 0 or problem.start < LONGEST - 3:
                return {"hex": shown.hex()} | ({"more": more} if more > 0 else {})
            text = shown[: problem.start].decode()  # the end cuts a character
    else:
        text = shown
    return text if more <= 0 else {"text": text, "more": more}
