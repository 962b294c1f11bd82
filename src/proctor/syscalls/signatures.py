"""Argument names, roles and widths of every system call.

:func:`signature` answers for one call of one architecture; :mod:`proctor.syscalls.signatures_data`
is the table.  Decoding (:class:`proctor.call.Call`), conditions on arguments by name
(:class:`proctor.filter.Condition`) and every listing use this one table.

Roles
    ===========  ======================================================================
    fd           a descriptor of the caller (``-1`` for none)
    dirfd        a directory descriptor or ``AT_FDCWD``; belongs to the next path
    path         NUL-terminated path, resolved by the kernel
    string       NUL-terminated bytes that are not a path; family: its length rule
    strings      NULL-terminated array of strings (argv, envp)
    flags        bits of a family in :mod:`proctor.syscalls.flags`
    cmd          one number of a family
    mode         file type and permission bits (``umode_t``: 16 bits)
    dev          device number as the kernel's user interface encodes it (32 bits)
    sockaddr     socket address that is read; family: the argument that holds its length
    socklen      that length
    iovec        array of (base, length); family: the argument that holds its count
    iovcnt       that count
    struct       pointer to a structure that is read; family: its name
    timespec     pointer to a ``struct timespec`` that is read
    pointer      memory that is written, or read in a way the table does not describe;
                 family: what a log shows of it
    address      an address that is not dereferenced (mmap, brk)
    size         a length in bytes
    offset       a position or length in a file, signed
    pid uid gid  identities, numbers as the *caller's* namespaces count
    signal       a signal number
    clock        a ``clockid_t``
    int uint long ulong u64 i64   plain numbers
    ===========  ======================================================================

Nothing is parsed before it is asked for: importing this costs next to nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from proctor.syscalls.architectures import ARCHITECTURES

#: Tables of :mod:`proctor.syscalls.signatures_data` by architecture, the most particular first.
_TABLES: Final = {
    "x86_64": ("COMMON",),
    "i386": ("STRUCTURED", "UID16", "WORD32", "COMMON"),
    "x32": ("ONE_REGISTER", "COMMON"),
    "aarch64": ("BACKWARDS_CLONE", "COMMON"),
    "arm": ("ARM", "UID16", "WORD32", "COMMON"),
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

_M64: Final = (1 << 64) - 1

#: Roles whose value is an address in the caller's memory.
POINTER_ROLES: Final = frozenset(
    ("path", "string", "strings", "sockaddr", "iovec", "struct", "timespec", "pointer")
)

# Usual type of a role.
_TYPES: Final = {
    "fd": "i32", "dirfd": "i32", "flags": "u32", "cmd": "u32", "mode": "u16", "dev": "u32",
    "socklen": "i32", "iovcnt": "ulong", "size": "ulong", "offset": "long", "pid": "i32",
    "uid": "u32", "gid": "u32", "signal": "i32", "clock": "i32", "int": "i32", "uint": "u32",
    "long": "long", "ulong": "ulong", "u64": "u64", "i64": "i64", "address": "ulong",
}  # fmt: skip

# Roles with one family for all calls.
_FAMILIES: Final = {"clock": "ClockId", "signal": "Signal", "mode": "FileMode"}


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

    @property
    def mask(self) -> int:
        """The bits of :attr:`reg` that count, for conditions in a filter."""
        return (1 << min(self.bits, 32 if self.reg_high >= 0 else 64)) - 1

    def value(self, raw: tuple[int, ...]) -> int:
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

    ``word`` is the size in bytes of pointers and longs in structures it points to (4 or 8): on x32
    and n32 that depends on the call.
    """

    name: str
    abi: str
    args: tuple[Arg, ...]
    word: int = 8

    @property
    def time32(self) -> bool:
        """Whether its times are of 32 bits, unless it is a ``…_time64``."""
        return self.word == 4 and self.abi != "x32"

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


def names(abi: str = "x86_64") -> list[str]:
    """Every call with a signature on ``abi``, sorted (some have no number there)."""
    found: set[str] = set()
    for table in _TABLES[abi]:
        found.update(_table(table))
    return sorted(found)


def _table(name: str) -> dict[str, str]:
    """Call name -> its line, split once."""
    table = _lines.get(name)
    if table is None:
        from proctor.syscalls import signatures_data

        text: str = getattr(signatures_data, name)
        table = {}
        for line in text.splitlines():
            if line:
                call, _, rest = line.partition(":")
                table[call] = rest
        _lines[name] = table
    return table


def _make(name: str, abi: str) -> Signature | None:
    from proctor.syscalls.signatures_data import COMPAT
    from proctor.syscalls.tables import numbers

    bits = ARCHITECTURES[abi].bits
    word = 4 if bits == 32 or name in COMPAT.get(abi, ()) else 8
    for table in _TABLES[abi]:
        line = _table(table).get(name)
        if line is not None:
            if table == "WORD32" and bits == 64 and name not in numbers(abi):
                return None  # what a 64-bit architecture kept of its 32-bit past has a number
            return Signature(name, abi, _parse(line, word, abi), word)
    return None


def _parse(line: str, word: int, abi: str) -> tuple[Arg, ...]:
    big_endian, narrow = ARCHITECTURES[abi].big_endian, ARCHITECTURES[abi].bits == 32
    args: list[Arg] = []
    reg = 0
    for item in line.split():
        name, _, rest = item.partition(":")
        nullable = rest.endswith("?")
        rest = rest.rstrip("?")
        rest, _, kind = rest.partition("@")
        role, _, family = rest.partition("/")
        kind = kind or _TYPES.get(role, "ulong")
        high = -1
        first, count = reg, 1
        if kind == "pair" and not narrow:
            kind = "i64"  # one register where registers are wide enough
        if kind == "pair":
            first += first % 2 and abi in _EVEN
            count = 2
            bits, signed, high = 64, role == "offset", first if big_endian else first + 1
        elif kind in ("long", "ulong"):
            bits, signed = word * 8, kind == "long"
        else:
            bits, signed = int(kind[1:]), kind[0] == "i"
        reg = first + count
        if reg > 6:
            break  # the other arguments are on the caller's stack (MIPS o32)
        low = reg - 1 if high == first else first
        of = family or _FAMILIES.get(role)
        args.append(Arg(name, role, of, bits, signed, nullable, low, high))
    return tuple(args)
