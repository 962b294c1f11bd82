"""What identity files in /proc say, as values: parsing only, nothing is opened here."""

from __future__ import annotations

import os
from typing import Final

from proctor.call.decode.values import NO_LIMIT, Limits
from proctor.kernel.thread import stat_fields
from proctor.records import NamedTuple
from proctor.syscalls import flags

#: Capability numbers by name (linux/capability.h).
CAPABILITIES: Final = flags.members("Capability")


class Ids(NamedTuple):
    """The four user or group ids of a thread, in *our* user namespace; those that have no number
    here read as the overflow id (65534)."""

    real: int
    effective: int
    saved: int
    fs: int


class Capabilities(NamedTuple):
    """Capability sets as bit masks, relative to the thread's own user namespace."""

    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int

    def has(self, capability: int | str) -> bool:
        """Whether a capability (number, or name as in ``"CAP_MKNOD"``) is in the effective set.

        :raises KeyError: no capability has that name."""
        number = capability if isinstance(capability, int) else CAPABILITIES[capability]
        return bool(self.effective >> number & 1)


class Status:
    """The text of ``/proc/TID/status``: lines by their keys, found when asked for.

    The process's name, which comes first and is its own to choose, cannot forge a line: the kernel
    escapes newlines in it (``proc_task_name`` in fs/proc/array.c), and the first line with a key
    counts.
    """

    __slots__ = ("_text",)

    def __init__(self, text: bytes) -> None:
        self._text = b"\n" + text

    def line(self, key: str) -> bytes | None:
        """What stands behind ``key:``, without the white space around it; None if nothing does."""
        text = self._text
        mark = b"\n" + key.encode() + b":"
        at = text.find(mark)
        if at < 0:
            return None
        end = text.find(b"\n", at + 1)
        return text[at + len(mark) : end if end >= 0 else len(text)].strip(b"\t ")

    def numbers(self, key: str, base: int = 10) -> tuple[int, ...] | None:
        """The numbers of a line; None where there is no such line."""
        line = self.line(key)
        return None if line is None else tuple([int(word, base) for word in line.split()])


class Stat(NamedTuple):
    """Of ``/proc/TID/stat``, what nothing else tells."""

    #: Device number of the controlling terminal, as :func:`os.makedev` makes them; 0 for none.
    tty: int
    #: When the thread started, in clock ticks since the machine did.
    started: int


def parse_stat(data: bytes) -> Stat:
    """Fields 7 and 22 of a stat file (proc_pid_stat(5))."""
    fields = stat_fields(data)
    terminal = int(fields[4]) & 0xFFFFFFFF  # new_encode_dev(): 12 bits of major in the middle
    minor = terminal & 0xFF | terminal >> 12 & 0xFFF00
    return Stat(os.makedev(terminal >> 8 & 0xFFF, minor) if terminal else 0, int(fields[19]))


def parse_limits(data: bytes) -> dict[str, Limits]:
    """A limits file (fs/proc/base.c): ``"Max open files"`` and the like to soft and hard limit."""
    found: dict[str, Limits] = {}
    for line in data.decode("ascii", "replace").splitlines()[1:]:
        name, numbers = line[:26].strip(), line[26:].split()[:2]
        if len(numbers) == 2:
            soft, hard = (NO_LIMIT if each == "unlimited" else int(each) for each in numbers)
            found[name] = Limits(soft, hard)
    return found


class IdRange(NamedTuple):
    """One line of a user namespace's map: ``length`` ids from ``inside`` on are those from
    ``outside`` on, as whoever opened the map counts (user_namespaces(7))."""

    inside: int
    outside: int
    length: int


def parse_id_map(data: bytes) -> tuple[IdRange, ...]:
    """A uid_map or gid_map file."""
    return tuple([IdRange(*[int(word) for word in line.split()]) for line in data.splitlines()])


#: The map of the initial user namespace, and of those in which every id has its number.
WHOLE_MAP: Final = (IdRange(0, 0, 0xFFFFFFFF),)


def parse_arguments(data: bytes) -> tuple[bytes, ...]:
    """The strings of a cmdline file, each ended by NUL."""
    return tuple(data.removesuffix(b"\0").split(b"\0")) if data else ()


def parse_cgroups(data: bytes) -> dict[str, bytes]:
    """``0::/path`` and ``4:cpu,cpuacct:/path`` lines; names are escaped by the kernel."""
    found: dict[str, bytes] = {}
    for line in data.split(b"\n"):
        parts = line.split(b":", 2)
        if len(parts) == 3:
            found.setdefault(parts[1].decode("utf-8", "surrogateescape"), parts[2])
    return found
