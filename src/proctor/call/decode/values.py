"""Decoded argument values that are more than a number: modes, device numbers, times, signal sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from proctor.records import NamedTuple
from proctor.syscalls import flags

S_IFMT: Final = 0o170000
NO_LIMIT: Final = 0xFFFFFFFFFFFFFFFF  #: RLIM64_INFINITY
UTIME_NOW: Final = 0x3FFFFFFF
UTIME_OMIT: Final = 0x3FFFFFFE


class Mode(int):
    """File type and permission bits (``umode_t``: the kernel keeps 16 bits)."""

    __slots__ = ()

    @property
    def type(self) -> int:
        """The file type, an ``S_IF*`` number; 0 if none was given (mknod then makes a regular file)."""
        return self & S_IFMT

    @property
    def permissions(self) -> int:
        """Permission, set-id and sticky bits."""
        return self & 0o7777

    @property
    def is_device(self) -> bool:
        """Whether it is a character or block device."""
        return self & S_IFMT in (0o020000, 0o060000)

    def __str__(self) -> str:
        kind = flags.decode("FileType", self & S_IFMT)
        if type(kind) is int:  # none, or one that there is not
            return f"0{int(self):02o}"
        return f"{kind}|0{self & 0o7777:03o}"

    def __repr__(self) -> str:
        return f"<Mode {self}>"


class Device(int):
    """A device number in the encoding of system calls (``new_encode_dev``: 12 bits of major, 20 of
    minor, in 32).  Equal to its register; :func:`os.makedev` of libc encodes differently beyond
    those widths, so make numbers to compare with :meth:`make`."""

    __slots__ = ()

    @classmethod
    def make(cls, major: int, minor: int) -> Device:
        """The number of device ``major``:``minor``.

        :raises ValueError: they do not fit into 12 and 20 bits."""
        if not 0 <= major < 1 << 12 or not 0 <= minor < 1 << 20:
            raise ValueError(f"device {major}:{minor}: major has 12 bits, minor 20")
        return cls(major << 8 | minor & 0xFF | (minor & 0xFFF00) << 12)

    @property
    def major(self) -> int:
        """Major number, 0..4095."""
        return self >> 8 & 0xFFF

    @property
    def minor(self) -> int:
        """Minor number, 0..1048575."""
        return self & 0xFF | self >> 12 & 0xFFF00

    def __str__(self) -> str:
        return f"{self.major}:{self.minor}"

    def __repr__(self) -> str:
        return f"<Device {self}>"


class Timespec(NamedTuple):
    """A ``struct timespec``; not checked for sense."""

    sec: int
    nsec: int

    def __float__(self) -> float:
        return self.sec + self.nsec / 1e9

    def __str__(self) -> str:
        return f"{{tv_sec={self.sec}, tv_nsec={self.nsec}}}"


class FileTime(Timespec):
    """A time that utimensat(2) sets, or UTIME_NOW, or UTIME_OMIT."""

    __slots__ = ()

    def __str__(self) -> str:
        if self.nsec == UTIME_NOW:
            return "UTIME_NOW"
        return "UTIME_OMIT" if self.nsec == UTIME_OMIT else super().__str__()


class Limits(NamedTuple):
    """``struct rlimit``: soft and hard limit, unsigned; all ones is "no limit"."""

    soft: int
    hard: int

    def __str__(self) -> str:
        return f"{{rlim_cur={_limit(self.soft)}, rlim_max={_limit(self.hard)}}}"


def _limit(number: int) -> str:
    if number == NO_LIMIT:
        return "RLIM64_INFINITY"
    return f"{number // 1024}*1024" if number > 1024 and number % 1024 == 0 else str(number)


class Address(int):
    """An address that is not followed."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{int(self):#x}" if self else "NULL"

    def __repr__(self) -> str:
        return f"<Address {self}>"


class CapabilitySet(int):
    """Capabilities as bits: bit 21 is CAP_SYS_ADMIN."""

    __slots__ = ()

    def __contains__(self, number: int) -> bool:
        return number >= 0 and bool(self >> number & 1)

    def __str__(self) -> str:
        found = [flags.decode("Capability", bit) for bit in range(64) if self >> bit & 1]
        return "|".join(f"1<<{each}" for each in found) or "0"

    def __repr__(self) -> str:
        return f"<CapabilitySet {self}>"


class SignalSet(int):
    """A set of signals as the kernel keeps it: bit ``n - 1`` is signal ``n``."""

    __slots__ = ()

    def __contains__(self, number: int) -> bool:
        return 0 < number <= 64 and bool(self >> (number - 1) & 1)

    def __iter__(self) -> Iterator[int]:
        return iter([number for number in range(1, 65) if self >> (number - 1) & 1])

    def __str__(self) -> str:
        shown, lead = list(self), ""
        if len(shown) >= 42:  # as strace does: what is missing says more
            shown, lead = [number for number in range(1, 65) if number not in self], "~"
        return f"{lead}[{' '.join(signal_name(number)[3:] for number in shown)}]"

    def __repr__(self) -> str:
        return f"<SignalSet {self}>"


def signal_name(number: int) -> str:
    """A signal as the kernel counts them (libc keeps two real-time signals for itself)."""
    known = flags.decode("Signal", number)
    if known is not number and str(known).startswith("SIG"):
        return str(known)
    if number == 32:
        return "SIGRTMIN"
    return f"SIGRT_{number - 32}" if 32 < number <= 64 else str(number)
