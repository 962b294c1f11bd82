"""Structures by table: from bytes to named values, for each architecture's sizes and alignment.

:func:`layout` finds one of :mod:`proctor.call.decode.layouts_data`; nothing is parsed before it is asked for.
A decoded structure is a named tuple whose text is strace's: ``{l_type=F_WRLCK, l_start=0, ...}``.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from proctor.call.decode.values import Mode, SignalSet, signal_name
from proctor.errors import MemoryUnreadable
from proctor.words import c_string

if TYPE_CHECKING:
    from proctor.call.decode.structures import Frame
    from proctor.syscalls.signatures import Signature

PAGE_SIZE: Final = 4096
#: Longest string that a structure points to and that is no path; of a longer one the address stays.
TEXT_MAX: Final = 128

_CODES: Final = {
    "i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q",
    "char": "s", "sigset": "Q",
}  # fmt: skip
_SA_RESTORER: Final = 0x04000000
_WORDS: Final = {"long": "iq", "ulong": "IQ", "ptr": "IQ"}


class Field(NamedTuple):
    """One field: where it is, what it is, how it is written."""

    name: str
    how: str  #: see the table; "ptr" where nothing else is said about a pointer
    optional: bool
    offset: int
    codes: struct.Struct
    inner: Layout | None  #: of a structure within the structure
    many: bool  #: an array of numbers


class Layout(NamedTuple):
    """A structure on one kind of machine.  ``shown`` are the fields that values have."""

    name: str
    size: int
    align: int
    shown: tuple[Field, ...]
    kind: type[Structure]

    def value(self, data: bytes, frame: Frame) -> Structure:
        """The structure in ``data``; bytes that are missing at its end are zero.

        Strings that it points to are read here, once; what cannot be read stays a number."""
        data = data[: self.size].ljust(self.size, b"\0")
        return self.kind(*[_value(field, data, frame) for field in self.shown])

    def pack(self, values: Mapping[str, Any]) -> bytes:
        """The bytes of a structure with these fields, the others 0: for tests.

        :raises KeyError: there is no such field."""
        fields = {field.name: field for field in self.shown}
        data = bytearray(self.size)
        for name, value in values.items():
            field = fields[name]
            if field.inner is not None:
                packed = field.inner.pack(value) if isinstance(value, Mapping) else value.pack()
            elif field.many:
                packed = field.codes.pack(*value)
            else:
                packed = field.codes.pack(value)
            data[field.offset : field.offset + len(packed)] = packed
        return bytes(data)


class Structure(tuple[Any, ...]):
    """Base of decoded structures: named tuples in the order of the kernel's header."""

    layout: ClassVar[Layout]
    _fields: ClassVar[tuple[str, ...]]
    #: How many bytes the caller gave, where it says that; the fields beyond are not written.
    given: int = PAGE_SIZE

    def __str__(self) -> str:
        parts = []
        fields = list(zip(self.layout.shown, self, strict=True))
        if self.layout.name == "sigaction":  # as everybody knows it: the mask before the flags
            fields.insert(1, fields.pop())
        restores = getattr(self, "sa_flags", 0) & _SA_RESTORER
        for field, value in fields:
            if field.offset >= self.given or (field.optional and not value):
                continue
            if field.name == "sa_restorer" and not restores:
                continue
            if field.how == "PerfAttrBit":  # single bits are fields of their own
                parts += [f"{each}=1" for each in str(value).split("|") if value]
            else:
                parts.append(f"{field.name}={_text(field, value)}")
        return "{" + ", ".join(parts) + "}"

    def pack(self) -> bytes:
        """The bytes again, in the byte order they came in: the other way round, for tests."""
        return self.layout.pack(dict(zip(self._fields, self, strict=True)))


def _value(field: Field, data: bytes, frame: Frame) -> Any:
    if field.inner is not None:
        return field.inner.value(data[field.offset :], frame)
    found = field.codes.unpack_from(data, field.offset)
    number = found[0]
    if field.many:
        return found
    if isinstance(number, bytes):
        return number.partition(b"\0")[0]
    how = field.how
    if how == "signals":
        return SignalSet(number)
    if how == "mode":
        return Mode(number)
    if how in ("path", "text") and number:
        try:
            return frame.memory.string(number, 4096 if how == "path" else TEXT_MAX)
        except MemoryUnreadable:
            return number
    if how[:1].isupper():
        from proctor.syscalls import flags

        if number < 0 and issubclass(flags.family(how), flags.Flags):
            number &= (1 << 8 * field.codes.size) - 1  # bits have no sign
        return flags.decode(how, number, frame.signature.abi)
    return number


def _text(field: Field, value: Any) -> str:
    how = field.how
    if isinstance(value, bytes):
        return c_string(value)
    if field.inner is not None or not isinstance(value, int):
        return str(value)
    if how == "handler" and value < 2:
        return ("SIG_DFL", "SIG_IGN")[value]
    if how in ("ptr", "path", "text", "handler"):
        return f"{value:#x}" if value else "NULL"
    if how == "hex":
        return f"{value:#x}" if value else "0"
    if how == "signal":
        return signal_name(value)
    if how == "version":
        return f"KERNEL_VERSION({value >> 16}, {value >> 8 & 0xFF}, {value & 0xFF})"
    if how[:1].isupper() and type(value) is int:
        return f"{value if value >= 0 else value & 0xFFFFFFFF:#x}"  # no member of its family
    return str(value)


_known: dict[tuple[str, int, str, str], Layout] = {}
_lines: dict[str, str] = {}


def _table() -> dict[str, str]:
    if not _lines:
        from proctor.call.decode.layouts_data import LAYOUTS

        for line in LAYOUTS.replace("\n ", " ").splitlines():
            if line:
                name, _, rest = line.partition(": ")
                _lines[name] = rest
    return _lines


def exists(name: str) -> bool:
    """Whether the table has a structure of this name."""
    return name in _table() or f"{name}@packed" in _table()


def names() -> tuple[str, ...]:
    """Every structure of the table."""
    return tuple(_table())


def layout(name: str, frame: Frame) -> Layout:
    """A structure as the caller's machine has it.

    :raises KeyError: the table does not have it.
    """
    return layout_for(name, frame.signature, frame.end)


def layout_for(name: str, known: Signature, end: str) -> Layout:
    """A structure as the machine of a signature has it.

    :param end: byte order, as for :mod:`struct`.
    """
    key = (name, known.word, known.abi, end)
    found = _known.get(key)
    if found is None:
        found = _known[key] = _make(name, known, end)
    return found


def _make(name: str, known: Signature, end: str) -> Layout:
    table = _table()
    line = table.get(f"{name}@{known.abi}") or table.get(name)
    packed = line is None
    if line is None:
        line = table[f"{name}@packed"]
    shown: list[Field] = []
    at, widest = 0, 1
    for item in line.split():
        head, _, rest = item.partition(":")
        optional = rest.endswith("?")
        rest, _, how = rest.rstrip("?").partition("/")
        kind, _, times = rest.partition("*")
        count = int(times or 1)
        inner = None
        if kind in _CODES or kind in _WORDS:
            code = _CODES.get(kind) or _WORDS[kind][known.word == 8]
            codes = struct.Struct(f"{end}{count if times else ''}{code}")
            align = struct.calcsize("=" + code)
            if align == 8 and (known.abi == "i386" or kind == "sigset"):
                align = known.word if kind == "sigset" else 4  # a set is an array of longs
        else:
            inner = layout_for(kind, known, end)
            codes, align = struct.Struct(f"{inner.size}s"), inner.align
        if packed:
            align = 1
        at += -at % align
        if head[0] != "_":
            many = bool(times) and kind != "char"
            how = how or ("ptr" if kind == "ptr" else "")
            shown.append(Field(head, how, optional, at, codes, inner, many))
        at += codes.size
        widest = max(widest, align)
    fields = namedtuple(name, [field.name for field in shown])  # type: ignore[misc]
    made = type(name, (Structure, fields), {"__str__": Structure.__str__})
    found = Layout(name, at + -at % widest, widest, tuple(shown), made)
    made.layout = found  # type: ignore[attr-defined]
    return found
