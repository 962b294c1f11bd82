"""Structures by table: from bytes to named values and back, for each architecture's sizes and alignment.

:func:`layout` finds one of :mod:`proctor.call.decode.layouts_data`; nothing is parsed before it is asked for.
A decoded structure is a named tuple with the fields' names of the kernel's header; its text is strace's:
``{l_type=F_WRLCK, l_start=0, ...}``.  :func:`pack` makes the bytes of one, for what a call fills::

    pack("new_utsname", "x86_64", sysname=b"Linux", nodename=b"box")
"""

from __future__ import annotations

import errno
import struct
from collections import namedtuple
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from proctor.call.decode.values import (
    NO_LIMIT,
    Address,
    FileTime,
    Limits,
    Mode,
    SignalSet,
    Timespec,
    signal_name,
)
from proctor.errors import MemoryUnreadable
from proctor.records import NamedTuple
from proctor.syscalls import flags
from proctor.syscalls.architectures import ARCHITECTURES, PAGE_SIZE
from proctor.syscalls.flags_data import MACHINES
from proctor.words import c_string

__all__ = ["pack"]

if TYPE_CHECKING:
    from proctor.call.ports import MemoryPort
    from proctor.syscalls.signatures import Signature

#: Longest string that a structure points to and that is no path; of a longer one the address stays.
TEXT_MAX: Final = 128

_CODES: Final = {
    "i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q",
    "char": "s",
}  # fmt: skip
_KINDS: Final[dict[str, type[Any]]] = {
    "timespec": Timespec,
    "timespec64": Timespec,
    "file_time": FileTime,
    "file_time64": FileTime,
    "rlimit": Limits,
    "rlimit64": Limits,
}
_WORDS: Final = {"long": "iq", "ulong": "IQ", "ptr": "IQ"}


class Field(NamedTuple):
    """One field: where it is, what it is, how it is written."""

    name: str
    how: str  #: see the table; "ptr" where nothing else is said about a pointer
    optional: bool
    when: flags.When | None
    offset: int
    codes: struct.Struct
    inner: Layout | None  #: of a structure within the structure
    many: bool  #: an array of numbers


class Layout(NamedTuple):
    """A structure on one kind of machine.  ``shown`` are the fields that values have."""

    name: str
    abi: str
    size: int
    align: int
    shown: tuple[Field, ...]
    order: tuple[int, ...]  #: in which they are written
    kind: type[Any]
    #: Of a structure that grew, the size of its first version; 0 if not all of it is known.
    first: int | None

    def value(self, data: bytes, memory: MemoryPort | None = None) -> Any:
        """The structure in ``data``; bytes that are missing at its end are zero.

        :param memory: strings that it points to are read there, once; what cannot be read, or
            without it, stays a number."""
        data = data[: self.size].ljust(self.size, b"\0")
        return self.kind(*[_value(field, data, self.abi, memory) for field in self.shown])

    def pack(self, values: Mapping[str, Any]) -> bytes:
        """The bytes of a structure with these fields, the others 0.

        :param values: numbers, negative ones too where the field is unsigned; bytes or text for an
            array of char, sequences for other arrays; a mapping or a tuple for a structure within.
        :raises KeyError: there is no such field.
        :raises ValueError: a value that the field cannot have."""
        fields = {field.name: field for field in self.shown}
        data = bytearray(self.size)
        for name, value in values.items():
            packed = _packed(fields[name], value)
            at = fields[name].offset
            data[at : at + len(packed)] = packed
        return bytes(data)

    def named(self, values: Any) -> Mapping[str, Any]:
        """Values in the order of the fields, by name; a mapping as it is."""
        if isinstance(values, Mapping):
            return values
        return dict(zip((field.name for field in self.shown), values, strict=True))


class Structure(tuple[Any, ...]):
    """Base of decoded structures: named tuples in the order of the kernel's header."""

    layout: ClassVar[Layout]
    _fields: ClassVar[tuple[str, ...]]
    #: How many bytes the caller gave, where it says that; the fields beyond are not written.
    given: int = PAGE_SIZE

    def __str__(self) -> str:
        parts = []
        for index in self.layout.order:
            field, value = self.layout.shown[index], self[index]
            if field.offset >= self.given or (field.optional and not value):
                continue
            if field.when is not None and not field.when.holds(getattr(self, field.when.name)):
                continue
            if field.how == "PerfAttrBit":  # single bits are fields of their own
                parts += [f"{each}=1" for each in str(value).split("|") if value]
            elif field.how == "sent":  # and so are both readings of what comes with a signal
                parts.append(_both(value).replace("sival_", "si_"))
            else:
                parts.append(f"{field.name}={_text(field, value)}")
        return "{" + ", ".join(parts) + "}"

    def pack(self) -> bytes:
        """The bytes again, in the byte order they came in."""
        return self.layout.pack(self.layout.named(self))


def _value(field: Field, data: bytes, abi: str, memory: MemoryPort | None) -> Any:
    if field.inner is not None:
        return field.inner.value(data[field.offset :], memory)
    found = field.codes.unpack_from(data, field.offset)
    if field.how == "signals":
        bits = 8 * field.codes.size // len(found)
        return SignalSet(sum(word << bits * at for at, word in enumerate(found)))
    number = found[0]
    if field.many:
        return found
    if isinstance(number, bytes):
        return number.partition(b"\0")[0]
    how = field.how
    if how == "mode":
        return Mode(number)
    if how == "nsec":
        return number & 0xFFFFFFFF if ARCHITECTURES[abi].word == 4 else number
    if how == "limit":  # "no limit" is all ones in either width: the kernel widens it, too
        return NO_LIMIT if number == (1 << 8 * field.codes.size) - 1 else number
    if how in ("path", "text") and number and memory is not None:
        try:
            return memory.string(number, 4096 if how == "path" else TEXT_MAX)
        except MemoryUnreadable:
            return number
    if how[:1].isupper():
        if number < 0 and issubclass(flags.family(how), flags.Flags):
            number &= (1 << 8 * field.codes.size) - 1  # bits have no sign
        return flags.decode(how, number, abi)
    return number


def _packed(field: Field, value: Any) -> bytes:
    try:
        if field.inner is not None:
            return field.inner.pack(field.inner.named(value))
        if field.how == "signals":
            count = len(field.codes.unpack(bytes(field.codes.size)))
            bits = 8 * field.codes.size // count
            return field.codes.pack(*[value >> bits * at & (1 << bits) - 1 for at in range(count)])
        if field.many:
            return field.codes.pack(*value)
        if isinstance(value, (str, bytes)):
            text = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
            if len(text) > field.codes.size:
                raise ValueError(f"{field.name} has room for {field.codes.size} bytes")
            return field.codes.pack(text)
        top = 1 << 8 * field.codes.size
        if field.how == "limit" and value == NO_LIMIT:
            value = top - 1
        if field.codes.format[-1:].isupper() and -(top >> 1) <= value < 0:
            value += top
        return field.codes.pack(value)
    except (struct.error, TypeError) as error:
        raise ValueError(f"{field.name} cannot be {value!r}: {error}") from None


def _both(value: int) -> str:
    low = value & 0xFFFFFFFF
    return f"sival_int={low - (low >> 31 << 32)}, sival_ptr={Address(value)}"


#: How numbers are written that are not decimal.
_TEXTS: Final[dict[str, Callable[[int], str]]] = {
    "ptr": lambda value: str(Address(value)),
    "path": lambda value: str(Address(value)),
    "text": lambda value: str(Address(value)),
    "handler": lambda value: ("SIG_DFL", "SIG_IGN")[value] if value < 2 else str(Address(value)),
    "hex": lambda value: f"{value:#x}" if value else "0",
    "signal": lambda value: signal_name(value) if value else "0",
    "errno": lambda value: errno.errorcode.get(value, str(value)),
    "version": lambda v: f"KERNEL_VERSION({v >> 16}, {v >> 8 & 0xFF}, {v & 0xFF})",
    "epoll": lambda value: f"{{u32={value & 0xFFFFFFFF}, u64={value}}}",
    "sival": lambda value: f"{{{_both(value)}}}",
}


def _text(field: Field, value: Any) -> str:
    if isinstance(value, bytes):
        return c_string(value)
    if field.many:
        return f"[{', '.join(map(str, value))}]"
    if field.inner is None and isinstance(value, int):
        write = _TEXTS.get(field.how)
        if write is not None:
            return write(value)
        if field.how[:1].isupper() and type(value) is int:
            return f"{value if value >= 0 else value & 0xFFFFFFFF:#x}"  # no member of its family
    return str(value)


_known: dict[tuple[str, str, int], Layout] = {}
_lines: dict[str, str] = {}


def _table() -> dict[str, str]:
    if not _lines:
        from proctor.call.decode.layouts_data import LAYOUTS

        for line in LAYOUTS.replace("\n ", " ").splitlines():
            if line:
                heads, _, rest = line.partition(": ")
                for head in heads.split():
                    name, _, machines = head.partition("@")
                    for machine in machines.split(","):
                        _lines[f"{name}@{machine}".rstrip("@")] = rest
    return _lines


def exists(name: str) -> bool:
    """Whether the table has a structure of this name."""
    return name in _table()


def names() -> tuple[str, ...]:
    """Every structure of the table that all architectures have."""
    return tuple(name for name in _table() if "@" not in name)


def layout(name: str, known: Signature | str) -> Layout:
    """A structure as a machine has it.

    :param known: the signature of the call it belongs to, or the name of an architecture.
    :raises KeyError: the table does not have it.
    """
    if isinstance(known, str):
        return _layout(name, known, ARCHITECTURES[known].bits // 8)
    return _layout(name, known.abi, known.word)


def _layout(name: str, abi: str, word: int) -> Layout:
    key = (name, abi, word)
    found = _known.get(key)
    if found is None:
        found = _known[key] = _make(name, abi, word)
    return found


def number(kind: str, known: Signature) -> struct.Struct | None:
    """How a number of this type is written; None if it is a structure."""
    kind = kind.partition(".")[0]
    code = _CODES.get(kind) or _WORDS.get(kind, "  ")[known.word == 8]
    return None if code == " " else struct.Struct(_end(known.abi) + code)


def _end(abi: str) -> str:
    return ">" if ARCHITECTURES[abi].big_endian else "<"


def pack(name: str, known: Signature | str, /, **values: Any) -> bytes:
    """The bytes of structure ``name`` with these fields, the others 0: what decoding takes apart.

    >>> pack("timespec", "aarch64", tv_sec=1, tv_nsec=2) == (1).to_bytes(8, "little") + (2).to_bytes(8, "little")
    True
    >>> len(pack("timespec", "i386", tv_sec=1))
    8

    :param known: the signature of the call it belongs to, or the name of an architecture: on x32
        the two can differ, since some calls have the 32-bit layout there.
    :param values: see :meth:`Layout.pack`.
    :raises KeyError: there is no such structure, or no such field in it.
    :raises ValueError: a value that a field cannot have.
    """
    return layout(name, known).pack(values)


def _make(name: str, abi: str, word: int) -> Layout:
    table = _table()
    line = table.get(f"{name}@{abi}") or table.get(f"{name}@{MACHINES.get(abi)}") or table[name]
    end = _end(abi)
    shown: list[Field] = []
    order: list[str] = []
    at, widest, most = 0, 1, 8
    first: int | None = None
    for item in line.split():
        head, _, rest = item.partition(":")
        if head[0] == ">":
            order.append(head[1:])
            continue
        if not rest:  # what holds for the whole structure: packed=ALIGNMENT, first=SIZE
            key, _, value = head.partition("=")
            most, first = (int(value), first) if key == "packed" else (most, int(value))
            continue
        rest, _, when = rest.partition("~")
        optional = rest.endswith("?")
        rest, _, how = rest.rstrip("?").partition("/")
        kind, _, times = rest.partition("*")
        inner = None
        if kind == "fill":  # up to this size
            at = max(at, int(times))
            continue
        if kind == "sigset":  # an array of longs
            how, code, times, align = "signals", "IQ"[word == 8], str(8 // word), word
        elif kind in _CODES or kind in _WORDS:
            code = _CODES.get(kind) or _WORDS[kind][word == 8]
            align = struct.calcsize("=" + code)
            if align == 8 and abi == "i386":
                align = 4
        else:
            inner = _layout(kind, abi, word)
            code, times, align = "s", str(inner.size), inner.align
        codes = struct.Struct(f"{end}{times}{code}")
        align = min(align, most)
        at += -at % align
        if head[0] != "_":
            many = bool(times) and kind != "char" and inner is None and how != "signals"
            families = {each.name: each.how for each in shown}
            condition = flags.when(when, families.get, abi) if when else None
            how = how or ("ptr" if kind == "ptr" else "")
            shown.append(Field(head, how, optional, condition, at, codes, inner, many))
            order += [head] if head not in order else []
        at += codes.size
        widest = max(widest, align)
    fields = [field.name for field in shown]
    made = _KINDS.get(name)
    if made is None:
        base: Any = namedtuple(name, fields)  # type: ignore[misc]
        made = type(name, (Structure, base), {"__str__": Structure.__str__})
    written = tuple(map(fields.index, order))
    found = Layout(name, abi, at + -at % widest, widest, tuple(shown), written, made, first)
    if name not in _KINDS:
        made.layout = found
    return found
