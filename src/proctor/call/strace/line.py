"""A call as text, the way strace writes it.

The signature says what the arguments are, and each is written by its role and its family; nothing here
knows a call by its name but clone, whose arguments strace labels.

What differs from strace, and why: what cannot be read has the errno behind its address; device
numbers are ``major:minor``, as rules have them; nothing is said of what only the kernel writes; and
numbers without a name have no comment.  Environments are only counted, and what keys are made of and
passwords (:mod:`proctor.call.passwords`) are not shown, since logs are read by others.  The text is one line of printable ASCII of at most
:data:`LINE_MAX` characters, and at most a few pages of memory are read for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proctor.call import passwords
from proctor.call.decode import argument
from proctor.call.decode.argument import STRING_LIMITS
from proctor.call.decode.values import Address, signal_name
from proctor.call.strace import memory
from proctor.call.strace.memory import Reader, value_text
from proctor.errors import CallError
from proctor.syscalls import flags
from proctor.syscalls.signatures import READ_ROLES

if TYPE_CHECKING:
    from proctor.call.decode.frame import Frame
    from proctor.syscalls.signatures import Arg

AT_FDCWD: Final = -100
PART_MAX: Final = 4200  #: characters of one argument
LINE_MAX: Final = 6 * (PART_MAX + 5) + 64  #: characters of a line

#: Families whose other numbers are ids, not commands.
_DECIMAL: Final = frozenset(("KeySpec", "Signal", "Tracer"))
_DIRECTIONS: Final = ("_IOC_NONE", "_IOC_WRITE", "_IOC_READ", "_IOC_READ|_IOC_WRITE")
#: What strace calls clone's arguments, in its order.
_CLONE: Final = {
    "stack": "child_stack", "flags": "flags", "parent_tid": "parent_tid", "tls": "tls",
    "child_tid": "child_tidptr",
}  # fmt: skip


def line(frame: Frame, *, read: bool) -> str:
    """``name(argument, ...)``.

    :param read: whether the caller's memory may be read; without, pointers that were not decoded
        before are shown as addresses.
    """
    reader = Reader(frame, read)
    unread = ""
    if frame.signature.block is not None and read:
        try:
            frame.settle()
        except (CallError, OSError) as error:
            unread = f" ({memory.reason(error)})"
    known = frame.signature
    block = known.block
    if block is not None:  # what it stands for is not known: as it was made
        known = frame.outer
        parts = [
            str(Address(arg.value(frame.registers))) + unread if arg == block else text(arg, reader)
            for arg in known.args
        ]
    else:
        args = [a for a in known.args if frame.counts(a) and not a.name.startswith("unused")]
        if known.name == "clone":
            args.sort(key=lambda arg: [*_CLONE].index(arg.name))
            parts = [f"{_CLONE[arg.name]}={text(arg, reader)}" for arg in args]
        else:
            parts = [text(arg, reader) for arg in args]
    cut = [part if len(part) <= PART_MAX else part[:PART_MAX] + "..." for part in parts]
    return f"{known.name}({', '.join(cut)})"


def text(arg: Arg, reader: Reader) -> str:
    """One argument."""
    frame = reader.frame
    number = arg.value(frame.registers)
    role, family = arg.role, arg.family
    if passwords.hides(frame, arg, reader.read):
        return str(Address(number))
    if role in READ_ROLES:
        return _pointed(arg, number, reader)
    if role == "pointer" and family is not None:
        return memory.peek(arg, number, reader)
    if role in ("pointer", "address", "out"):
        return str(Address(number))
    if role == "dirfd" and number == AT_FDCWD:
        return "AT_FDCWD"
    if role in ("uid", "gid") and number == 0xFFFFFFFF:
        return "-1"
    if role in ("hex", "pages") or (role == "ulong" and number > 0xFFFF):
        number <<= 12 if role == "pages" else 0
        return f"{number:#x}" if number else "0"
    if role == "mode" and "dev" not in frame.signature:
        return f"0{number:02o}"  # its type counts for nothing
    if role == "signal":
        return signal_name(number) if number else "0"
    found = argument.plain(arg, number, frame.abi)
    if type(found) is int and family is not None:
        return _unnamed(family, found)
    return f"htons({found})" if role == "htons" else str(found)


def _unnamed(family: str, number: int) -> str:
    """A number that no member of its family has."""
    if family in _DECIMAL or (family == "EtherType" and not number):
        return str(number)
    if family == "IoctlOp" and number > 0xFFFF:
        return (
            f"_IOC({_DIRECTIONS[number >> 30]}, {number >> 8 & 0xFF:#x}, {number & 0xFF:#x}, "
            f"{number >> 16 & 0x3FFF:#x})"
        )
    shown = f"{number if number >= 0 else number & 0xFFFFFFFF:#x}"
    return f"htons({shown})" if family == "EtherType" else shown


def _pointed(arg: Arg, address: int, reader: Reader) -> str:
    frame, role = reader.frame, arg.role

    def shown() -> str:
        found = passwords.of(frame.signature.name, arg.name, frame.value(arg))
        number = type(found) is int or isinstance(found, flags.Number)
        return f"[{value_text(found)}]" if number else value_text(found)

    if not address and role not in ("sockaddr", "iovec", "bytes"):
        return "NULL" if arg.nullable or role == "array" or not reader.read else "NULL (EFAULT)"
    if role == "inout" and arg.family in ("msghdr", "mmsghdr"):
        return str(Address(address))  # mostly what comes back
    several = role in ("strings", "array", "iovec") or arg.family == "msghdr"
    if arg.name in frame.values and arg.name != "envp" and not (several and reader.read):
        return shown()
    if several:
        return reader.try_to(address, lambda: memory.several(arg, address, reader))
    most, refused, _ = STRING_LIMITS[arg.family] if role == "string" else (0, 1, 0)
    if most > 4096 or not refused:  # of what may be long, or is cut, the beginning
        limit = min(most - 1, 1024)
        return reader.try_to(address, lambda: memory.string(reader, address, limit))
    if (
        role == "sockaddr"
        and reader.read
        and 0 <= frame.number(arg.counted_by or "0") < 2
        and address
    ):
        return f"{address:#x}"  # no address of any family
    return reader.try_to(address, shown)
