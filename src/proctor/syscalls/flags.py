"""Flag and number families: what the bits of an argument are called.

``proctor.syscalls.flags.OpenFlag``, ``MountFlag``, ``AddressFamily``... are :class:`enum.IntFlag` and
:class:`enum.IntEnum` classes whose members have the kernel's names (``OpenFlag.O_CREAT``).  Making
an enum class is slow, so each family is made when first used; importing this module makes none.
:func:`family_names` lists them.

    >>> from proctor.syscalls.flags import OpenFlag, decode, family, family_names, fields, members
    >>> str(OpenFlag(0o2000101)), decode("AddressFamily", 10).name
    ('O_WRONLY|O_CREAT|O_CLOEXEC', 'AF_INET6')
    >>> family("OpenFlag") is OpenFlag, "OpenFlag" in family_names()
    (True, True)
    >>> fields("OpenFlag")[0].mask
    3
    >>> hex(members("OpenFlag")["O_DIRECT"]), hex(members("OpenFlag", "aarch64")["O_DIRECT"])
    ('0x4000', '0x10000')

Values are x86's unless an architecture is given: arm, PowerPC and MIPS number some differently.  What
else differs there is not corrected: terminal ioctls of PowerPC and MIPS (``TCGETS``...), ``PTRACE_*``
requests below 0x4200, and x86's own families (``ArchPrctl``).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import KEEP, Enum, IntEnum, IntFlag
from typing import Any, Final

from proctor.records import NamedTuple

__all__ = ["decode", "family", "family_names", "fields", "members"]

_made: dict[tuple[str, str], type[Enum]] = {}
_abis: dict[type[Enum], str] = {}
_numbers: dict[tuple[str, str], dict[int, int]] = {}
_texts: dict[str, tuple[bool, str]] = {}

# An IntFlag class remembers every combination it ever saw.  Combinations come from programs we do
# not trust, so what they can make us remember is bounded.
_REMEMBERED = 512


class Flags(IntFlag, boundary=KEEP):
    """Base of the bit families.  Unknown bits are kept; text is strace's (``O_RDWR|O_CLOEXEC``)."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        member = super()._missing_(value)
        if len(cls._value2member_map_) > _REMEMBERED:
            cls._value2member_map_.pop(value, None)
        return member

    def __str__(self) -> str:
        return text_of(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def __format__(self, spec: str) -> str:
        return format(str(self) if not spec or spec[-1] == "s" else int(self), spec)


class Number(IntEnum):
    """Base of the families of which an argument has exactly one."""

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        return format(str(self) if not spec or spec[-1] == "s" else int(self), spec)


def _family_texts() -> dict[str, tuple[bool, str]]:
    if not _texts:
        from proctor.syscalls import flags_data, flags_fields

        both = flags_data.FAMILIES + flags_fields.FAMILIES
        for block in both.replace("\n ", " ").splitlines():
            if block:
                head, _, members = block.partition(":")
                name, _, kind = head.partition(" ")
                _texts[name] = (kind == "bits", members)
    return _texts


def family_names() -> tuple[str, ...]:
    """The names of all families."""
    return tuple(_family_texts())


def members(name: str, abi: str = "x86_64") -> dict[str, int]:
    """The constants of a family: name to number, as ``abi`` has them.

    :raises KeyError: there is no such family.
    """
    from proctor.syscalls.architectures import ARCHITECTURES
    from proctor.syscalls.flags_data import DIFFERENT, MACHINES, OTHER_IOCTLS, SHORT

    _, text = _family_texts()[name]
    found: dict[str, int] = {}
    for inner in fields(name):
        if inner.family:
            values = members(inner.family, abi).items()
            found.update((constant, number << inner.shift) for constant, number in values)
    machine = MACHINES.get(abi, "")
    theirs = DIFFERENT.get(machine, "").split()
    if abi in ARCHITECTURES and ARCHITECTURES[abi].word == 4 and machine not in OTHER_IOCTLS:
        theirs += SHORT.split()
    different = dict(each.split("=") for each in theirs)
    for item in text.split():
        constant, _, number = item.partition("=")
        if number:
            number = different.get(constant, number)
            if number != "-":
                found[constant] = int(number, 0)
        else:  # another family's, but for what a field is in the way of
            taken = sum(inner.mask for inner in fields(name))
            found.update(each for each in members(constant, abi).items() if not each[1] & taken)
    return found


def family(name: str, abi: str = "x86_64") -> type[Enum]:
    """The enum class of a family.

    :param abi: where the constants differ from x86's, a class of its own with the same name.
    :raises KeyError: there is no such family.
    """
    made = _made.get((name, abi))
    if made is None:
        own = members(name, abi)
        if abi != "x86_64" and own == members(name):
            made = family(name)
        else:
            bits, _ = _family_texts()[name]
            base: Any = Flags if bits else Number
            made = base(name, own, module=__name__, qualname=name)
            _abis[made] = abi
        _made[name, abi] = made
    return made


def decode(name: str, value: int, abi: str = "x86_64") -> int:
    """``value`` as a member of family ``name``; a number that no family member has stays an int."""
    made = family(name, abi)
    if issubclass(made, Flags):
        return made(value)
    key = (name, abi)
    known = _numbers.get(key)
    if known is None:
        known = _numbers[key] = {int(m): m for m in made if isinstance(m, int)}
    return known.get(value, value)


class Field(NamedTuple):
    """A number within a word of bits, such as the access mode within open's flags."""

    mask: int  #: the bits it occupies: what a condition on it must look at
    family: str = ""  #: what its values are called
    text: str = ""  #: how it is written if not by its name alone, and then behind the bits
    only_with: int = 0  #: bits without which it means nothing
    always: bool = False  #: whether it is written when it is 0 and has no name
    shift: int = 0  #: by how much its values are shifted: S_IFREG is not, IOPRIO_CLASS_RT is
    open: int = 0  #: bits that a value without them leaves open: FUTEX_WAIT is private or not
    filled: str = ""  #: what programs put there, where no call that means something has 0


#: Families of bits that have numbers among them.  Members of those, shifted, are members of both.
FIELDS: Final[dict[str, tuple[Field, ...]]] = {
    "OpenFlag": (Field(3, "OpenAccess"),),
    "FileMode": (Field(0o170000, "FileType"),),
    "SockType": (Field(0xF, "SockKind", filled="the kind of socket"),),
    "MapFlag": (
        Field(0xF, "MapType", filled="MAP_PRIVATE or MAP_SHARED"),
        Field(0xFC000000, "", "{}<<MAP_HUGE_SHIFT", 0x40000, shift=26),
    ),
    "MemfdFlag": (Field(0xFC000000, "", "{}<<MFD_HUGE_SHIFT", 4, shift=26),),
    "IpcFlag": (Field(0o777, "", "0{:02o}", always=True, filled="permissions"),),
    "ShmFlag": (Field(0o777, "", "0{:02o}", always=True, filled="permissions"),),
    "SwapFlag": (Field(0x7FFF, "", "{}", 0x8000),),
    "CloneWord": (Field(0xFF, "Signal", "{}", filled="the signal of a child's end"),),
    "Personality": (Field(0xFF, "PersonalityKind"),),
    "FutexOp": (Field(0xFFFFFEFF, "FutexCmd", open=0x80),),
    "SchedWord": (Field(0xBFFFFFFF, "SchedPolicy", always=True),),
    "MemPolicyWord": (Field(0xFFFF1FFF, "MemPolicy", always=True),),
    "IoUringRegisterWord": (Field(0x7FFFFFFF, "IoUringRegisterOp", always=True),),
    "FutexWakeOp": (
        Field(0x80000000, "", "FUTEX_OP_OPARG_SHIFT<<28"),
        Field(0x70000000, "FutexWake", "{}<<28", always=True, shift=28),
        Field(0xFFF000, "", "{:#x}<<12", always=True, shift=12),
        Field(0xF000000, "FutexCompare", "{}<<24", always=True, shift=24),
        Field(0xFFF, "", "{:#x}", always=True),
    ),
    "SemOp": (Field(0xFFFFFEFF, "SemCmd"),),
    "ShmOp": (Field(0xFFFFFEFF, "ShmCmd"),),
    "MsgOp": (Field(0xFFFFFEFF, "MsgCmd"),),
    "QuotaOp": (
        Field(0xFFFFFF00, "QuotaCmd", always=True, shift=8),
        Field(0xFF, "QuotaType", always=True),
    ),
    "IoPriority": (
        Field(0xE000, "IoprioClass", always=True, shift=13),
        Field(0x1FFF, "", "{}", always=True),
    ),
}
#: A value that is no combination of bits: "what is it now?" of personality(2).
_WHOLE: Final = {("Personality", 0xFFFFFFFF): "0xffffffff"}
#: Families whose values are written by a macro of their fields.
_MACROS: Final = {"QuotaOp": "QCMD({}, {})", "IoPriority": "IOPRIO_PRIO_VALUE({}, {})"}


def fields(name: str) -> tuple[Field, ...]:
    """The numbers that stand among the bits of a family: ``S_IFMT`` in a mode, ``O_ACCMODE`` in
    open's flags, the type in socket's.  None for most families."""
    return FIELDS.get(name, ())


class When(NamedTuple):
    """A condition on another argument or field of a call: whether something counts at all."""

    name: str
    mask: int
    values: frozenset[int] | None  #: of the bits in ``mask``; None for "any of them"

    def holds(self, number: int) -> bool:
        """Whether it holds for that argument's number."""
        found = number & self.mask
        return bool(found) if self.values is None else found in self.values


def when(text: str, family_of: Callable[[str], str | None], abi: str) -> When:
    """The condition that a table writes: ``flags&O_CREAT|0o20000000`` (any of these bits),
    ``mode&0o170000=S_IFCHR|S_IFBLK`` (one of these numbers), ``flags`` (not 0)."""
    test, _, listed = text.partition("=")
    name, _, mask = test.partition("&")
    of = family_of(name) or ""
    known: dict[str, int] = {}
    if of in _family_texts():  # what is not there on this machine is never set
        known = dict.fromkeys(members(of), 0) | members(of, abi)

    def numbers(words: str) -> list[int]:
        return [known[each] if each in known else int(each, 0) for each in words.split("|")]

    bits = 0
    for each in numbers(mask) if mask else (-1,):
        bits |= each
    return When(name, bits, frozenset(numbers(listed)) if listed else None)


def text_of(value: Flags) -> str:
    """The names of the bits, joined by ``|``; unknown bits in hexadecimal."""
    cls = type(value)
    names = _names.get(cls)
    if names is None:
        names = _names[cls] = _order(cls)
    rest = int(value)
    if (cls.__name__, rest) in _WHOLE:
        return _WHOLE[cls.__name__, rest]
    parts: list[str] = []
    last: list[str] = []
    for field, numbers in names.fields:
        if rest & field.only_with != field.only_with:
            continue
        number = (rest & field.mask) >> field.shift
        rest &= ~field.mask
        text = numbers.get(number) or (
            f"{number:#x}" if (number and not field.text) or (field.family and field.always) else ""
        )
        if field.text:
            if number or field.always:
                last.append(field.text.format(text or number))
        elif text:
            parts.append(text)
    if names.macro and not rest:
        return names.macro.format(*parts, *last)
    found: list[tuple[int, str]] = []
    for number, name in names.bits:
        if rest & number == number:
            found.append((number, name))
            rest &= ~number
    found.sort()
    parts += [name for _, name in found] + last
    if rest:
        parts.append(f"{rest:#x}")
    return "|".join(parts) if parts else names.zero


class _Names(NamedTuple):
    """A family, ready for writing: its fields, and bits with most of them first."""

    fields: tuple[tuple[Field, dict[int, str]], ...]
    bits: tuple[tuple[int, str], ...]  # O_SYNC before O_DSYNC
    zero: str
    macro: str


_names: dict[type, _Names] = {}


def _order(cls: type[Flags]) -> _Names:
    abi = _abis[cls]
    inner = [
        (each, members(each.family, abi) if each.family else {}) for each in fields(cls.__name__)
    ]
    taken = {name for _, numbers in inner for name in numbers} | _SYNONYMS
    first: dict[int, str] = {}
    for name, member in cls.__members__.items():
        if name not in taken:
            first.setdefault(int(member), name)
    bits = [(number, name) for number, name in first.items() if number]
    bits.sort(key=lambda item: -item[0].bit_count())
    named = tuple((each, {value: name for name, value in found.items()}) for each, found in inner)
    macro = _MACROS.get(cls.__name__, "")
    return _Names(named, tuple(bits), first.get(0, "0"), macro)


_SYNONYMS: Final = frozenset(("O_NDELAY",))


def __getattr__(name: str) -> Any:
    if name[:1].isupper():
        try:
            return family(name)
        except KeyError:
            pass
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
