"""Other names of the same call where an architecture has it in several widths.

32-bit architectures have ``chown32`` beside ``chown``, ``mmap2``, ``fcntl64``, ``…_time64``: who says the one
name means the others too.  64-bit ones with a 32-bit past kept some of them.

    >>> variants("chown", "i386"), variants("clock_gettime", "arm"), variants("chown", "x86_64")
    (('chown32',), ('clock_gettime64',), ())
"""

from __future__ import annotations

from typing import Final

from proctor.syscalls.tables import numbers

_SUFFIXES: Final = ("32", "64", "_time64")
#: Those that are not made of the name and a suffix.
_OTHERS: Final[dict[str, tuple[str, ...]]] = {
    "mmap": ("mmap2",),
    "newfstatat": ("fstatat64",),
    "lseek": ("_llseek",),
    "select": ("_newselect",),
    "umount2": ("umount",),
    "getrlimit": ("ugetrlimit",),
    "fadvise64": ("fadvise64_64", "arm_fadvise64_64"),
    "sync_file_range": ("sync_file_range2",),
}


def variants(call: str, arch: str) -> tuple[str, ...]:
    """The names beside ``call`` under which ``arch`` has it; x86_64 has it under one."""
    known, plain = numbers(arch), numbers("x86_64")
    names = (*(call + suffix for suffix in _SUFFIXES), *_OTHERS.get(call, ()))
    return tuple(name for name in names if name in known and name not in plain)


def plain(name: str) -> tuple[str, ...]:
    """The names that ``name`` may be a variant of, on some architecture.

    >>> plain("chown32"), plain("ugetrlimit"), plain("chown")
    (('chown',), ('getrlimit',), ())
    """
    return (
        *(name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)),
        *(call for call, others in _OTHERS.items() if name in others),
    )
