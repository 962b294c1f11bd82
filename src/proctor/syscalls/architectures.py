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

import os
import sys
from typing import Final

from proctor.errors import FilterError
from proctor.kernel import abi

#: Of this machine, whose kernel judges sizes by it; elsewhere than on Linux what most machines have.
PAGE_SIZE: Final = os.sysconf("SC_PAGE_SIZE") if sys.platform == "linux" else 4096
_64BIT: Final = 0x80000000
_LITTLE: Final = 0x40000000
_N32: Final = 0x20000000


class Architecture:
    """One ABI of system calls.  (A plain class: every start of proctor makes all of them.)"""

    __slots__ = (
        "audit", "big_endian", "bits", "column", "family", "go", "listener", "lxc", "name", "others",
        "scmp", "word",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        audit: int,
        *below: str,
        word: int = 0,
        column: str = "",
        scmp: str = "",
        lxc: str | None = None,
        go: str = "",
        others: str = "",
        listener: bool = True,
    ) -> None:
        self.name = name
        #: ``seccomp_data.arch``.  x32 shares x86_64's, and has bit 30 in the number.
        self.audit = audit
        #: Whether the more significant half of a register comes first in ``seccomp_data``.
        self.big_endian = not audit & _LITTLE
        #: Bits of a register that count: a 64-bit process that makes a call of a 32-bit ABI (``int
        #: 0x80``) shows filters its whole registers, of which the kernel then uses the lower half.
        self.bits = 64 if audit & _64BIT else 32
        #: Size in bytes of a program's pointers and longs.  On x32 and n32 it is 4, and most calls
        #: are those of 64 bits all the same: see :class:`proctor.syscalls.signatures.Signature`.
        self.word = word or self.bits // 8
        #: The column of the number table (:mod:`proctor.syscalls.tables_data`).
        self.column = column or name
        #: What a kernel of that architecture also runs, itself first.  x32 is left out beside x86_64
        #: on purpose: hardly any kernel of today has it, so it gets a verdict of its own.
        self.family = ("x86_64", "i386", "x32") if name == "x32" else (name, *below)
        #: libseccomp's and OCI's word, without SCMP_ARCH_.
        self.scmp = scmp or name.upper()
        #: LXC's heading; empty where it has none.
        self.lxc = self.scmp.lower() if lxc is None else lxc
        #: libseccomp-golang's word: what ``arches`` of Docker's profiles says.
        self.go = go or self.scmp.lower()
        #: What uname(2) and GOARCH say, where that is another word.
        self.others = tuple(others.split())
        #: Whether a listener of ours can be there.  Where it cannot, calls are decoded and filters
        #: are compiled all the same: for traces and for profiles that go to another machine.  On
        #: MIPS and PowerPC ioctl numbers are made otherwise than :mod:`proctor.kernel.abi` has them.
        self.listener = listener

    def __repr__(self) -> str:
        return f"<architecture {self.name}>"


_MIPS, _PPC, _PPC64, _S390 = 8, 20, 21, 22  # EM_*, include/uapi/linux/elf-em.h

#: By name.
ARCHITECTURES: Final[dict[str, Architecture]] = {
    each.name: each
    for each in (
        Architecture("x86_64", abi.AUDIT_ARCH_X86_64, "i386", go="amd64"),
        Architecture("i386", abi.AUDIT_ARCH_I386, scmp="X86", others="386 i486 i586 i686"),
        Architecture("x32", abi.AUDIT_ARCH_X86_64, word=4),
        Architecture("aarch64", 183 | _64BIT | _LITTLE, "arm", lxc="arm64", go="arm64"),
        Architecture("arm", 40 | _LITTLE, others="armv5tel armv6l armv7l armv8l"),
        Architecture("riscv64", 243 | _64BIT | _LITTLE, lxc=""),
        Architecture("loongarch64", 258 | _64BIT | _LITTLE, go="loong64"),
        Architecture("ppc64le", _PPC64 | _64BIT | _LITTLE, column="ppc64", others="ppc64el", listener=False),
        Architecture("ppc64", _PPC64 | _64BIT, "ppc", listener=False),
        Architecture("ppc", _PPC, listener=False),
        Architecture("s390x", _S390 | _64BIT, "s390"),
        Architecture("s390", _S390),
        Architecture("mips64", _MIPS | _64BIT, "mips64n32", "mips", listener=False),
        Architecture("mips64n32", _MIPS | _64BIT | _N32, word=4, others="mips64p32", listener=False),
        Architecture("mips", _MIPS, listener=False),
        Architecture(
            "mipsel64", _MIPS | _64BIT | _LITTLE, "mipsel64n32", "mipsel",
            column="mips64", others="mips64le", listener=False,
        ),
        Architecture(
            "mipsel64n32", _MIPS | _64BIT | _LITTLE | _N32,
            word=4, column="mips64n32", others="mips64p32le", listener=False,
        ),
        Architecture("mipsel", _MIPS | _LITTLE, column="mips", others="mipsle", listener=False),
    )
}  # fmt: skip

_AUDIT_NAMES: Final[dict[int, str]] = {
    each.audit: each.name for each in ARCHITECTURES.values() if each.name != "x32"
}


def canonical(word: str | None) -> str:
    """Our name for an architecture, from anybody's word for it; None is this process's.

    :raises FilterError: nobody's word for an architecture we know.
    """
    if word is None:
        return native()
    if word in ARCHITECTURES:
        return word
    short = word.removeprefix("SCMP_ARCH_").lower()
    for each in ARCHITECTURES.values():
        if short in (each.name, each.scmp.lower(), each.lxc or each.name, each.go, *each.others):
            return each.name
    raise FilterError(f"unknown architecture {word!r}; there are {', '.join(ARCHITECTURES)}")


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
    import struct

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
