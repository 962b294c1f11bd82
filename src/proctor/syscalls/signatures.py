"""Argument names, roles and widths of every system call.

:func:`signature` answers for one call of one architecture; :mod:`proctor.syscalls.signatures_data`
is the table.  Decoding (:class:`proctor.call.Call`), conditions on arguments by name
(:class:`proctor.filter.Condition`) and every listing use this one table.

What many arguments mean depends on another one, the command of fcntl or prctl:
:meth:`Signature.of` gives the signature for one call's registers:

    >>> known = signature("fcntl")
    >>> isinstance(known, Signature), isinstance(known.args[0], Arg)
    (True, True)
    >>> [arg.name for arg in known.of((3, 6, 0x1000, 0, 0, 0)).args]
    ['fd', 'op', 'flock']

Roles
    ===========  ======================================================================
    fd           a descriptor of the caller (``-1`` for none)
    dirfd        a directory descriptor or ``AT_FDCWD``; belongs to the next path
    path         NUL-terminated path, resolved by the kernel
    string       NUL-terminated bytes that are not a path; family: its length rule
    strings      NULL-terminated array of strings (argv, envp)
    bytes        bytes that are read; family: how many at most; count: how many
    flags        bits of a family in :mod:`proctor.syscalls.flags`
    cmd          one number of a family
    htons        the same in network order (16 bits)
    mode         file type and permission bits (``umode_t``: 16 bits)
    dev          device number as the kernel's user interface encodes it (32 bits)
    sockaddr     socket address that is read; count: the argument that holds its length
    socklen      that length
    iovec        array of (base, length); count: the argument that holds how many
    iovcnt       that count
    struct       pointer to a structure, or a number, that is read; count: its size, if it is told
    array        pointer to several of them; count: how many
    out          memory that is filled: family and count as for ``struct`` and ``array``; ``data``
                 is bytes.  The value is the address
    inout        memory that is read and filled: the value is what it holds before
    pointer      memory that is written, or read in a way the table does not describe;
                 family: what a log shows of it
    registers    pointer to the words that are the arguments of the call in ``family``
    address      an address that is not dereferenced (mmap, brk)
    sigset       a set of signals in a register
    size         a length in bytes
    offset       a position or length in a file, signed
    pages        such a position in units of 4096 bytes
    pid uid gid  identities, numbers as the *caller's* namespaces count
    key          a key's or keyring's serial number
    signal       a signal number
    clock        a ``clockid_t``
    int uint long ulong u64 i64   plain numbers; ``hex`` is one that is shown in hexadecimal
    ===========  ======================================================================

Nothing is parsed before it is asked for: importing this costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from proctor.records import NamedTuple
from proctor.syscalls.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from proctor.syscalls import flags

__all__ = ["Arg", "Signature", "signature"]

#: Roles whose value is an address in the caller's memory.
POINTER_ROLES: Final = frozenset(
    ("path", "string", "strings", "bytes", "sockaddr", "iovec", "struct", "array", "out", "inout",
     "pointer", "registers")
)  # fmt: skip
#: Those that are followed: their value is what is there.
READ_ROLES: Final = POINTER_ROLES - {"out", "pointer", "registers"}

# Usual type of a role.
_TYPES: Final = {
    "fd": "i32", "dirfd": "i32", "flags": "u32", "cmd": "u32", "mode": "u16", "dev": "u32",
    "socklen": "i32", "iovcnt": "ulong", "size": "ulong", "offset": "long", "pid": "i32",
    "uid": "u32", "gid": "u32", "signal": "i32", "clock": "i32", "int": "i32", "uint": "u32",
    "long": "long", "u64": "u64", "i64": "i64", "hex": "u32", "key": "i32", "htons": "i32",
}  # fmt: skip

# Roles with one family for all calls.
_FAMILIES: Final = {
    "clock": "ClockId", "signal": "Signal", "mode": "FileMode", "key": "KeySpec",
}  # fmt: skip


class Arg(NamedTuple):
    """One argument of one call.

    ``bits`` is how much of the register the kernel looks at (16, 32 or 64) and ``signed`` how it
    extends that: what lies above is garbage and must be masked off before comparing.  ``reg`` is
    the register (0..5); where a 64-bit value comes in two registers of a 32-bit architecture,
    ``reg_high`` is the one with its upper half, else -1.
    """

    name: str
    role: str
    family: str | None
    bits: int
    signed: bool
    nullable: bool
    reg: int
    reg_high: int = -1
    counted_by: str | None = (
        None  #: the argument with its length or number of elements, or that number
    )
    when: flags.When | None = None  #: what the kernel looks at it for; None for always

    @property
    def mask(self) -> int:
        """The bits of :attr:`reg` that count, for conditions in a filter."""
        return (1 << min(self.bits, 32 if self.reg_high >= 0 else 64)) - 1

    def value(self, raw: Sequence[int]) -> int:
        """The number the kernel sees, from the six raw registers."""
        number = raw[self.reg]
        if self.reg_high >= 0:
            number = (number & 0xFFFFFFFF) | (raw[self.reg_high] & 0xFFFFFFFF) << 32
        bits = self.bits
        number &= (1 << bits) - 1
        if self.signed and number >> (bits - 1):
            number -= 1 << bits
        elif bits == 16 and number == 0xFFFF and self.role in ("uid", "gid"):
            number = 0xFFFFFFFF  # the kernel widens the 16-bit "unchanged" (low2highuid)
        return number


class Signature(NamedTuple):
    """Argument names, roles and widths of one call on one architecture.

    ``word`` is the size in bytes of pointers and longs in structures it points to (4 or 8).
    ``block`` is there where the arguments are words in memory: ``reg`` counts those, and the block's
    value is their address.
    """

    name: str
    abi: str
    args: tuple[Arg, ...]
    word: int = 8
    block: Arg | None = None
    choice: Choice | None = None

    def of(self, registers: Sequence[int]) -> Signature:
        """The signature of a call with these registers: what follows a command is as that command has
        it, and socketcall and ipc are the call that they stand for.

        :param registers: all six, or for a :attr:`block` its words."""
        known = self
        while known.choice is not None:
            arg, made = known.choice.arg, known.choice.made
            number = arg.value(registers) & known.choice.mask
            found = made.get(number)
            if found is None:
                break
            if isinstance(found, str):
                found = made[number] = _made(known, arg, found)
            known = found
            if known.block is not self.block:
                break  # what else it depends on is in memory
        return known

    def __contains__(self, name: object) -> bool:
        """Whether the call has an argument of this name."""
        return any(a.name == name for a in self.args)

    def arg(self, name: str) -> Arg | None:
        """The argument of this name."""
        for a in self.args:
            if a.name == name:
                return a
        return None

    def first(self, role: str) -> Arg | None:
        """The first argument with this role."""
        for a in self.args:
            if a.role == role:
                return a
        return None

    def with_role(self, role: str) -> tuple[Arg, ...]:
        """All arguments with this role, in order."""
        return tuple(a for a in self.args if a.role == role)

    def dirfd_of(self, path: Arg) -> Arg | None:
        """The descriptor that ``path`` is relative to: the dirfd argument right before it."""
        index = self.args.index(path)
        before = self.args[index - 1] if index else None
        return before if before is not None and before.role == "dirfd" else None


class Choice:
    """What a signature depends on: an argument, which of its bits count, and what there is for each
    number: a line of the table, or what was made of it."""

    __slots__ = ("arg", "made", "mask")

    def __init__(self, arg: Arg, mask: int, made: dict[int, Signature | str]) -> None:
        self.arg, self.mask, self.made = arg, mask, made


_known: dict[tuple[str, str], Signature | None] = {}
_lines: dict[str, dict[str, str]] = {}


def signature(name: str, abi: str = "x86_64") -> Signature | None:
    """What the registers of ``name`` mean on ``abi``; None for a call nobody knows.

    :param name: as in the kernel's tables (``pread64``, ``newfstatat``, ``umount2``).
    :param abi: a name of :mod:`proctor.syscalls.architectures`.
    :raises ValueError: for any other.
    """
    key = (name, abi)
    try:
        return _known[key]
    except KeyError:
        if abi not in _TABLES:
            raise ValueError(f"no signatures for {abi!r}; there are {', '.join(_TABLES)}") from None
        made = _known[key] = _make(name, abi)
        return made


#: Tables of :mod:`proctor.syscalls.signatures_data` by architecture, the most particular first.
_TABLES: Final = {
    "x86_64": ("COMMON",),
    "i386": ("STRUCTURED", "UID16", "BACKWARDS_CLONE", "WORD32", "COMMON"),
    "x32": ("ONE_REGISTER", "COMMON"),
    "aarch64": ("BACKWARDS_CLONE", "COMMON"),
    "arm": ("ARM", "UID16", "BACKWARDS_CLONE", "WORD32", "COMMON"),
    "riscv64": ("RISCV64", "BACKWARDS_CLONE", "COMMON"),
    "loongarch64": ("COMMON",),
    **dict.fromkeys(("ppc64le", "ppc64"), ("POWERPC", "BACKWARDS_CLONE", "COMMON", "WORD32")),
    "ppc": ("POWERPC", "BACKWARDS_CLONE", "WORD32", "COMMON"),
    "s390x": ("S390X", "COMMON", "WORD32"),
    "s390": ("S390", "S390X", "STRUCTURED", "UID16", "WORD32", "COMMON"),
    **dict.fromkeys(("mips64", "mipsel64"), ("MIPS", "BACKWARDS_CLONE", "COMMON", "WORD32")),
    **dict.fromkeys(("mips64n32", "mipsel64n32"), ("MIPS", "BACKWARDS_CLONE", "COMMON", "WORD32")),
    **dict.fromkeys(
        ("mips", "mipsel"), ("MIPS_O32", "MIPS", "BACKWARDS_CLONE", "WORD32", "COMMON")
    ),
}

#: Where a 64-bit value in two registers begins at an even one.
_EVEN: Final = frozenset(("arm", "ppc", "mips", "mipsel"))


def _table(name: str) -> dict[str, str]:
    """Call name -> its line, split once."""
    table = _lines.get(name)
    if table is None:
        from proctor.syscalls import signatures_data

        table = _lines[name] = {}
        text: str = getattr(signatures_data, name)
        for line in text.replace("\n ", " ").splitlines():
            calls, _, rest = line.partition(":")
            for call in calls.split():
                table[call] = rest
    return table


def _line(name: str, abi: str) -> str | None:
    """The line of a call: its own, or that of the call that it is but for wider ids or times."""
    from proctor.syscalls.tables import numbers

    for table in _TABLES[abi]:
        line = _table(table).get(name)
        if line is not None:
            if table == "WORD32" and ARCHITECTURES[abi].bits == 64 and name not in numbers(abi):
                return None  # what a 64-bit architecture kept of its 32-bit past has a number
            return line
    if name in numbers(abi):
        if name.endswith("32"):
            return _table("COMMON").get(name[:-2])
        if name.endswith("64"):
            return _wide(_table("COMMON").get(_narrow(name)))
    return None


def _narrow(name: str) -> str:
    return name.removesuffix("64").removesuffix("_time")


def _wide(line: str | None) -> str | None:
    """The same arguments with 64-bit times."""
    for each in ("timespec", "itimerspec", "timex", "file_time"):
        line = line and line.replace(f"/{each}", f"/{each}64")
    return line


def _make(name: str, abi: str) -> Signature | None:
    from proctor.syscalls.signatures_data import COMPAT

    line = _line(name, abi)
    if line is None:
        return None
    word = 4 if ARCHITECTURES[abi].bits == 32 or name in COMPAT.get(abi, ()) else 8
    return _with_choice(Signature(name, abi, _parse(line, word, abi), word), 0)


def _parse(line: str, word: int, abi: str, before: tuple[Arg, ...] = ()) -> tuple[Arg, ...]:
    """The arguments that a line tells, in the registers after those of ``before``."""
    big_endian, narrow = ARCHITECTURES[abi].big_endian, ARCHITECTURES[abi].bits == 32
    args: list[Arg] = []
    reg = 1 + max((max(each.reg, each.reg_high) for each in before), default=-1)
    families = {each.name: each.family for each in before}
    for item in line.split():
        name, _, rest = item.partition(":")
        rest, _, when = rest.partition("~")
        nullable = rest.endswith("?")
        rest, _, kind = rest.rstrip("?").partition("@")
        rest, _, count = rest.partition("*")
        role, _, family = rest.partition("/")
        kind = kind or _TYPES.get(role, "ulong")
        if kind == "pair" and not narrow:
            kind = "i64"  # one register where registers are wide enough
        first, taken, high = reg, 1, -1
        if kind == "position":  # preadv(2): two longs, the lower half first everywhere
            taken, high = 2, reg + 1 if word == 4 else -1
        elif kind == "halves":
            taken, high = 2, reg
        elif kind == "pair":
            first += first % 2 and abi in _EVEN
            taken, high = 2, first if big_endian else first + 1
        if kind in ("position", "halves", "pair"):
            bits, signed = 64, role == "offset"
        elif kind in ("long", "ulong"):
            bits, signed = word * 8, kind == "long"
        else:
            bits, signed = int(kind[1:]), kind[0] == "i"
        reg = first + taken
        if reg > 6:
            break  # the other arguments are on the caller's stack (MIPS o32)
        families[name] = family = family or _FAMILIES.get(role, "")
        condition = None
        if when:
            from proctor.syscalls import flags

            condition = flags.when(when, families.get, abi)
        low = reg - 1 if high == first else first
        args.append(
            Arg(
                name,
                role,
                family or None,
                bits,
                signed,
                nullable,
                low,
                high,
                count or None,
                condition,
            )
        )
    return tuple(args)


# Commands ---------------------------------------------------------------------------------------


def _commands() -> dict[str, str]:
    """``call argument`` -> its words and what follows them, one a line."""
    table = _lines.get("COMMANDS")
    if table is None:
        from proctor.syscalls.signatures_data import COMMANDS

        table = _lines["COMMANDS"] = {}
        calls, argument = [""], ""
        for line in COMMANDS.replace("\n  ", " ").splitlines():
            if line[:1] == " ":
                for call in calls:
                    table[f"{call} {argument}"] += line + "\n"
            elif line:
                *calls, argument = line.split()
                table.update((f"{call} {argument}", "") for call in calls)
    return table


def _with_choice(known: Signature, first: int) -> Signature:
    """The signature with what its arguments depend on, if one from the ``first`` on is a command."""
    for arg in known.args[first:]:
        if arg.role == "registers":
            return known._replace(choice=Choice(arg, 0, {0: f"={arg.family} {arg.name}"}))
        if known.name == "socketcall":
            from proctor.syscalls.multiplex import MEMBERS

            members = MEMBERS.items()
            made = {number: f"={name} args" for name, (via, number) in members if via == known.name}
            return known._replace(choice=Choice(arg, arg.mask, dict(made)))
        wide = known.name != (own := _narrow(known.name)) and f"{own} {arg.name}" in _commands()
        lines = _commands().get(f"{own if wide else known.name} {arg.name}")
        if lines:
            return known._replace(choice=_chosen_by(known, arg, lines, wide))
    return known


def _chosen_by(known: Signature, arg: Arg, lines: str, wide: bool) -> Choice:
    from proctor.syscalls import flags

    family, mask, shift = arg.family or "", arg.mask, 0
    if known.name == "ipc":  # a version is above it
        mask = 0xFFFF
    for field in flags.fields(family)[:1]:
        family, mask, shift = field.family, field.mask & mask, field.shift
    numbers = flags.members(family, known.abi)
    made: dict[int, Signature | str] = {}
    for line in lines.splitlines():
        words, _, rest = line.partition(":")
        for word in words.split():
            for name in (word, f"{word}_PRIVATE"):
                if name in numbers:
                    told = rest.replace("{}", word.lower())
                    made[numbers[name] << shift & mask] = (_wide(told) or "") if wide else told
    return Choice(arg, mask, made)


def _made(known: Signature, arg: Arg, line: str) -> Signature:
    """The signature that a line of :data:`~proctor.syscalls.signatures_data.COMMANDS` tells."""
    word, abi = known.word, known.abi
    call, *places = line.split() or [""]
    if call[:1] == "=":
        name = call[1:]
        line = _table("COMMON").get(name) or _table("WORD32").get(name) or ""
        args = _parse(line, word, abi)
        block = known.arg(places[0])
        if block is None:  # the inner call's registers are these of ours
            args = tuple(each._replace(reg=int(at)) for each, at in zip(args, places, strict=False))
        return _with_choice(Signature(name, abi, args, word, block), 0)
    index = known.args.index(arg) + 1
    args = known.args[:index] + _parse(line.removesuffix("..."), word, abi, known.args[:index])
    if line.endswith("..."):
        args += known.args[len(args) :]
    return _with_choice(known._replace(args=args, choice=None), index)
