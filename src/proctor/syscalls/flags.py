"""Flag and number families: what the bits of an argument are called.

``proctor.syscalls.flags.OpenFlag``, ``MountFlag``, ``AddressFamily``... are :class:`enum.IntFlag` and
:class:`enum.IntEnum` classes whose members have the kernel's names (``OpenFlag.O_CREAT``).  Making
an enum class is slow, so each family is made when first used; importing this module makes none.
:data:`FAMILY_NAMES` lists them.

Values are x86's.  aarch64, arm and ppc64le number some ``O_*`` (and ppc64le some ``MAP_*``,
``MCL_*``) differently: :func:`family` takes the architecture for that.  What else differs on other
machines is not corrected: terminal ioctls of ppc64le (``TCGETS``...), ``PTRACE_*`` requests below
0x4200, and x86's own families (``ArchPrctl``).
"""

from __future__ import annotations

from enum import KEEP, Enum, IntEnum, IntFlag
from typing import Any, NamedTuple

_made: dict[tuple[str, str], type[Enum]] = {}
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
    from proctor.syscalls.flags_data import DIFFERENT

    _, text = _family_texts()[name]
    found: dict[str, int] = {}
    for item in text.split():
        constant, _, number = item.partition("=")
        found[constant] = int(number, 0)
    found.update(DIFFERENT.get((name, abi), {}))
    return found


def family(name: str, abi: str = "x86_64") -> type[Enum]:
    """The enum class of a family.

    :param abi: where the constants differ from x86's, a class of its own with the same name.
    :raises KeyError: there is no such family.
    """
    from proctor.syscalls.flags_data import DIFFERENT

    key = (name, abi if (name, abi) in DIFFERENT else "x86_64")
    made = _made.get(key)
    if made is None:
        bits, _ = _family_texts()[name]
        base: Any = Flags if bits else Number
        made = base(name, members(name, key[1]), module=__name__, qualname=name)
        _made[key] = made
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


def text_of(value: Flags) -> str:
    """The names of the bits, joined by ``|``; unknown bits in hexadecimal."""
    cls = type(value)
    names = _names.get(cls)
    if names is None:
        names = _names[cls] = _order(cls)
    rest = int(value)
    parts: list[str] = []
    mask = _SUBFIELDS.get(cls.__name__, 0)
    if mask:
        low = rest & mask
        name = names.low.get(low)
        if name is not None or low:
            parts.append(name or f"{low:#x}")
        rest &= ~mask
    number_mask, spelling, only_with = _NUMBERS.get(cls.__name__, (0, "", 0))
    inner = rest & number_mask if rest & only_with == only_with else 0
    rest &= ~inner
    found: list[tuple[int, str]] = []
    for number, name in names.bits:
        if rest & number == number:
            found.append((number, name))
            rest &= ~number
    found.sort()
    parts.extend([name for _, name in found])
    if inner:
        parts.append(spelling.format(inner // (number_mask & -number_mask)))
    if rest:
        parts.append(f"{rest:#x}")
    return "|".join(parts) if parts else names.low.get(0, "0")


class _Names(NamedTuple):
    """A family, ready for writing: bits with most of them first, and what low numbers are called."""

    bits: tuple[tuple[int, str], ...]  # O_SYNC before O_DSYNC
    low: dict[int, str]


_names: dict[type, _Names] = {}


def _order(cls: type[Flags]) -> _Names:
    first: dict[int, str] = {}
    for name, member in cls.__members__.items():
        if name != "O_NDELAY":
            first.setdefault(int(member), name)
    bits = [(number, name) for number, name in first.items() if number and name not in _MASKS]
    bits.sort(key=lambda item: -item[0].bit_count())
    return _Names(tuple(bits), first)


# Where the lowest bits of a flag word are a number with names, not bits.
_SUBFIELDS = {"OpenFlag": 3, "SockType": 0xF, "MapFlag": 0xF}
# Where some bits are a number without names, how that is written, and the bits it counts with.
_NUMBERS = {
    "MapFlag": (0xFC000000, "{}<<MAP_HUGE_SHIFT", 0x40000),
    "MemfdFlag": (0xFC000000, "{}<<MFD_HUGE_SHIFT", 4),
    "IpcFlag": (0o777, "0{:o}", 0),
    "ShmFlag": (0o777, "0{:o}", 0),
    "SwapFlag": (0x7FFF, "{}", 0x8000),
}
_MASKS = frozenset(("O_ACCMODE", "O_NDELAY"))


def __getattr__(name: str) -> Any:
    if name == "FAMILY_NAMES":
        return family_names()
    if name[:1].isupper():
        try:
            return family(name)
        except KeyError:
            pass
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
