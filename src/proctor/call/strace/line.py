"""A call as text, the way strace writes it.

What differs from strace, and why: what cannot be read has the errno behind its address; device
numbers are ``major:minor``, as rules have them; nothing is said of what only the kernel writes; and
numbers without a name have no comment.  Environments are only counted, and what keys are made of is not
shown, since logs are read by others.  The text is one line of printable ASCII of at most
:data:`LINE_MAX` characters, and at most a few pages of memory are read for it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proctor.call.decode import argument as decode
from proctor.call.decode.values import Address, signal_name
from proctor.errors import CallError
from proctor.words import c_string

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.decode.structures import Frame
    from proctor.syscalls.signatures import Arg

AT_FDCWD: Final = -100
SHOWN: Final = 32  #: elements of an array, and bytes of data
PART_MAX: Final = 4200  #: characters of one argument
LINE_MAX: Final = 6 * (PART_MAX + 5) + 64  #: characters of a line

_MAKES_A_FILE: Final = 0o100 | 0o20000000  # O_CREAT, and the bit that makes O_TMPFILE
#: Calls that take some of open's flags, but open nothing.
_NO_ACCESS_MODE: Final = frozenset(("delete_module", "dup3", "memfd_secret", "pipe2"))
#: Families whose other numbers are ids, not commands.
_DECIMAL: Final = frozenset(("KeySpec", "Signal"))

#: A call's name and its arguments.
Parts = tuple[str, list[str]]
Special = Callable[["View"], Parts]


def line(call: Call, *, read: bool) -> str:
    """``name(argument, ...)``.

    :param read: whether the caller's memory may be read; without, pointers that were not decoded
        before are shown as addresses.
    """
    if call.signature is None:
        return f"{call.name}({', '.join(f'{number:#x}' for number in call.registers)})"
    from proctor.call.strace import calls as text_calls

    view = View(call, read)
    name = call.name
    special = text_calls.CALLS.get(name)
    if special is None:
        parts = [view.text(arg) for arg in call.signature.args if _counts(view, arg)]
    else:
        name, parts = special(view)
    cut = [part if len(part) <= PART_MAX else part[:PART_MAX] + "..." for part in parts]
    return f"{name}({', '.join(cut)})"


def _counts(view: View, arg: Arg) -> bool:
    """Whether the kernel looks at an argument: open(2) does not at the mode unless it makes a file."""
    name = view.call.name
    if arg.role in ("mode", "struct") and name in ("open", "openat", "mq_open"):
        flags = view.number("oflag" if name == "mq_open" else "flags")
        return bool(flags & (0o100 if name == "mq_open" else _MAKES_A_FILE))
    if arg.role == "dev" and arg.name == "dev" and name in ("mknod", "mknodat"):
        return view.number("mode") & 0o170000 in (0o020000, 0o060000)
    return True


class View:
    """One call while its line is written: its numbers, and its memory as far as that may be read."""

    def __init__(self, call: Call, read: bool) -> None:
        self.call = call
        self.read = read
        signature = call.signature
        assert signature is not None
        self.signature = signature

    def number(self, name: str) -> int:
        """An argument as a number."""
        arg = self.signature.arg(name)
        assert arg is not None
        return arg.value(self.call.registers)

    @property
    def frame(self) -> Frame:
        """What reading needs."""
        frame: Frame = self.call._frame()
        return frame

    def try_to(self, address: int, work: Callable[[], str]) -> str:
        """What ``work`` makes of memory; the address and why where that cannot be read."""
        if not address or not self.read:
            return str(Address(address))
        try:
            return work()
        except (CallError, OSError) as error:
            code = getattr(error, "errno", None)
            why = errno.errorcode.get(code, "?") if isinstance(code, int) else type(error).__name__
            return f"{address:#x} ({why})"

    def structure(self, name: str, address: int) -> str:
        """A structure of :mod:`proctor.call.decode.layouts_data` at an address."""
        from proctor.call.decode.structures import tabled

        return self.try_to(address, lambda: str(tabled(name, self.frame, address)))

    def one(self, kind: str, address: int) -> str:
        """One number at an address: ``[5]``."""
        from proctor.call.strace import memory as text_memory

        return self.try_to(address, lambda: text_memory.elements(self, kind, address, 1))

    def all(self) -> list[str]:
        """Every argument."""
        return [self.text(arg) for arg in self.signature.args]

    def named(self, name: str) -> str:
        """One argument, by name."""
        arg = self.signature.arg(name)
        assert arg is not None
        return self.text(arg)

    def text(self, arg: Arg) -> str:
        """One argument."""
        call = self.call
        number = arg.value(call.registers)
        role, family = arg.role, arg.family
        if decode.is_followed(arg):
            return self._pointed(arg, number)
        if role == "pointer" and family is not None:
            from proctor.call.strace import memory as text_memory

            return text_memory.shown(self, family, number)
        if role in ("pointer", "address", "struct"):
            return str(Address(number))
        if role == "dirfd" and number == AT_FDCWD:
            return "AT_FDCWD"
        if role in ("uid", "gid") and number == 0xFFFFFFFF:
            return "-1"
        if role == "ulong" and number > 0xFFFF:
            return f"{number:#x}"
        if role == "mode" and self.call.name not in ("mknod", "mknodat"):
            return f"0{number:02o}"  # its type counts for nothing
        if role == "signal":
            return signal_name(number) if number else "0"
        if role in ("cmd", "flags", "clock") and family is not None:
            text = self.word(family, number)
            if family == "OpenFlag" and call.name in _NO_ACCESS_MODE:
                text = text.removeprefix("O_RDONLY|") if number else "0"
            return text
        return str(decode.plain(arg, number, call.abi))

    def word(self, family: str, number: int) -> str:
        """A number by its name in a family."""
        from proctor.syscalls import flags

        found = flags.decode(family, number, self.call.abi)
        if type(found) is not int:
            return str(found)
        if family in _DECIMAL:
            return str(number)
        return f"{number if number >= 0 else number & 0xFFFFFFFF:#x}"

    def _pointed(self, arg: Arg, number: int) -> str:
        if not number and arg.role in ("path", "string", "strings", "struct", "timespec"):
            return "NULL" if arg.nullable or not self.read else "NULL (EFAULT)"
        known = self.call._values or {}
        if arg.name in known:
            found = known[arg.name]
            if arg.name != "envp" and (not self.read or arg.role not in ("iovec", "struct")):
                return value_text(found)
        if arg.role in ("strings", "iovec") or arg.family == "msghdr":
            from proctor.call.strace import memory as text_memory

            return text_memory.pointed(self, arg, number)
        if arg.family == "ModuleParameters" and self.read and arg.name not in known:
            from proctor.call.strace import memory as text_memory

            return self.try_to(number, lambda: text_memory.string(self, number))
        if arg.role == "sockaddr" and number and self.read:
            length = self.number(arg.family or "")
            if 0 <= length < 2:  # no address of any family
                return f"{number:#x}"
        return self.try_to(number, lambda: value_text(self.call._by_name(arg.name)))


def hexadecimal(number: int) -> str:
    """A number as strace writes bits: 0 has no prefix."""
    return f"{number:#x}" if number else "0"


def as_int(number: int) -> int:
    """The kernel's ``int`` in a register."""
    number &= 0xFFFFFFFF
    return number - (number >> 31 << 32)


def value_text(value: Any) -> str:
    """One decoded value."""
    if isinstance(value, bytes):
        return c_string(value)
    if value is None:
        return "NULL"
    if type(value) is tuple:
        shown = ", ".join(value_text(each) for each in value[:SHOWN])
        return f"[{shown}{', ...' if len(value) > SHOWN else ''}]"
    if hasattr(value, "strace"):  # a socket address
        return str(value.strace())
    return str(value)
