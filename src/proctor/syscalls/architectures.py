"""Architectures: what filters, numbers, signatures and profiles need to know of each.

An architecture here is what the kernel calls an ABI of system calls: i386 and x32 are of their own
beside x86_64.  Names are strace's and audit(8)'s, of MIPS libseccomp's (``mips`` is o32, ``mips64``
n64); :func:`canonical` also takes the OCI names (``SCMP_ARCH_X86``), the kernel's (``arm64``), Go's
(``amd64``) and LXC's.

    >>> canonical("SCMP_ARCH_X86"), canonical("loong64")
    ('i386', 'loongarch64')
    >>> ARCHITECTURES["s390x"].big_endian, ARCHITECTURES["s390x"].family
    (True, ('s390x', 's390'))

Sources: ``include/uapi/linux/audit.h`` (numbers) and ``arch/*/include/uapi/asm/ioctl.h`` of Linux
6.16; seccomp_arch_add(3); ``libcontainer/seccomp/config.go`` of runc; lxc.container.conf(5).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from proctor.errors import FilterError
from proctor.kernel import abi

_64BIT: Final = 0x80000000
_LITTLE: Final = 0x40000000
_N32: Final = 0x20000000


class Architecture(NamedTuple):
    """One ABI of system calls."""

    name: str
    #: ``seccomp_data.arch``.  x32 shares x86_64's, and has bit 30 in the number.
    audit: int
    #: Bits of a register that count: a 64-bit process that makes a call of a 32-bit ABI (``int
    #: 0x80``) shows filters its whole registers, of which the kernel then uses the lower half.
    bits: int
    #: Size in bytes of a program's pointers and longs.  On x32 and n32 it is 4, and most calls are
    #: those of 64 bits all the same: see :class:`proctor.syscalls.signatures.Signature`.
    word: int
    #: The column of the number table (:mod:`proctor.syscalls.tables_data`).
    column: str
    #: What a kernel of that architecture also runs, itself first.  x32 is left out beside x86_64 on
    #: purpose: hardly any kernel of today has it, so it gets a verdict of its own.
    family: tuple[str, ...]
    #: libseccomp's and OCI's word, without SCMP_ARCH_.
    scmp: str
    #: LXC's heading; empty where it has none.
    lxc: str
    #: libseccomp-golang's word: what ``arches`` of Docker's profiles says.
    go: str
    #: What uname(2) and GOARCH say, where that is another word.
    others: tuple[str, ...]
    #: Whether a listener of ours can be there.  Where it cannot, calls are decoded and filters are
    #: compiled all the same: for traces and for profiles that go to another machine.  On MIPS and
    #: PowerPC ioctl numbers are made otherwise than our :mod:`proctor.kernel.abi` has them.
    listener: bool

    @property
    def big_endian(self) -> bool:
        """Whether the more significant half of a register comes first in ``seccomp_data``."""
        return not self.audit & _LITTLE


def _made(
    name: str,
    audit: int,
    *family: str,
    word: int = 0,
    column: str = "",
    scmp: str = "",
    lxc: str | None = None,
    go: str = "",
    others: str = "",
    listener: bool = True,
) -> Architecture:
    bits = 64 if audit & _64BIT else 32
    scmp = scmp or name.upper()
    return Architecture(
        name, audit, bits, word or bits // 8, column or name, (name, *family), scmp,
        scmp.lower() if lxc is None else lxc, go or scmp.lower(), tuple(others.split()), listener,
    )  # fmt: skip


_MIPS, _PPC, _PPC64, _S390 = 8, 20, 21, 22  # EM_*, include/uapi/linux/elf-em.h

#: By name.
ARCHITECTURES: Final[dict[str, Architecture]] = {
    each.name: each
    for each in (
        _made("x86_64", abi.AUDIT_ARCH_X86_64, "i386", go="amd64"),
        _made("i386", abi.AUDIT_ARCH_I386, scmp="X86", others="386 i486 i586 i686"),
        _made("x32", abi.AUDIT_ARCH_X86_64, word=4)._replace(family=("x86_64", "i386", "x32")),
        _made("aarch64", 183 | _64BIT | _LITTLE, "arm", lxc="arm64", go="arm64"),
        _made("arm", 40 | _LITTLE, others="armv5tel armv6l armv7l armv8l"),
        _made("riscv64", 243 | _64BIT | _LITTLE, lxc=""),
        _made("loongarch64", 258 | _64BIT | _LITTLE, go="loong64"),
        _made("ppc64le", _PPC64 | _64BIT | _LITTLE, column="ppc64", others="ppc64el", listener=False),
        _made("ppc64", _PPC64 | _64BIT, "ppc", listener=False),
        _made("ppc", _PPC, listener=False),
        _made("s390x", _S390 | _64BIT, "s390"),
        _made("s390", _S390),
        _made("mips64", _MIPS | _64BIT, "mips64n32", "mips", listener=False),
        _made("mips64n32", _MIPS | _64BIT | _N32, word=4, others="mips64p32", listener=False),
        _made("mips", _MIPS, listener=False),
        _made(
            "mipsel64", _MIPS | _64BIT | _LITTLE, "mipsel64n32", "mipsel",
            column="mips64", others="mips64le", listener=False,
        ),
        _made(
            "mipsel64n32", _MIPS | _64BIT | _LITTLE | _N32,
            word=4, column="mips64n32", others="mips64p32le", listener=False,
        ),
        _made("mipsel", _MIPS | _LITTLE, column="mips", others="mipsle", listener=False),
    )
}  # fmt: skip

_WORDS: Final[dict[str, str]] = {
    word: each.name
    for each in ARCHITECTURES.values()
    for word in (each.name, each.scmp.lower(), each.lxc, each.go, *each.others)
    if word
}
_AUDIT_NAMES: Final[dict[int, str]] = {
    each.audit: each.name for each in ARCHITECTURES.values() if each.name != "x32"
}


def canonical(word: str | None) -> str:
    """Our name for an architecture, from anybody's word for it; None is this process's.

    :raises FilterError: nobody's word for an architecture we know.
    """
    if word is None:
        return native()
    name = word if word in ARCHITECTURES else _WORDS.get(word.removeprefix("SCMP_ARCH_").lower())
    if name is None:
        raise FilterError(f"unknown architecture {word!r}; there are {', '.join(ARCHITECTURES)}")
    return name


def arch_of(audit: int, nr: int = 0) -> str:
    """The architecture of a call, from the two words of ``seccomp_data``.

    Returns a key of :data:`ARCHITECTURES`, or the number in hexadecimal for an unknown one (then
    :func:`proctor.syscalls.tables.name` says None for every number).
    """
    # -1 is no x32 call: it is how a tracer skips a call, and filters see it again as such.
    if audit == abi.AUDIT_ARCH_X86_64 and abi.X32_SYSCALL_BIT <= nr & 0xFFFFFFFF < 0xFFFFFFFF:
        return "x32"
    return _AUDIT_NAMES.get(audit) or f"{audit:#x}"


def native() -> str:
    """The architecture of this process; x86_64 where we do not know it."""
    import os
    import struct
    import sys

    try:
        machine = ARCHITECTURES[canonical(os.uname().machine)]
    except (AttributeError, FilterError):  # no uname: not Linux
        return "x86_64"
    name = machine.name
    if name.startswith("mips") and sys.byteorder == "little":  # uname says mips for both
        name = name.replace("mips", "mipsel", 1)
    word = struct.calcsize("P")
    return next(
        (each for each in ARCHITECTURES[name].family if ARCHITECTURES[each].word == word), name
    )
