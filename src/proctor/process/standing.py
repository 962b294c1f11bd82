"""Where a process stands: its parents, and how many filters it has (proc_pid_status(5))."""

from __future__ import annotations

import os
from typing import Final

from proctor.records import NamedTuple

#: Times that the line of parents is read, while parents end.
_TRIES: Final = 16
_SYS_ADMIN: Final = 1 << 21  # capabilities(7), linux/capability.h


class Standing(NamedTuple):
    """Of one thread."""

    tgid: int
    ppid: int
    #: Filters of the thread (Linux 5.9); never fewer, and inherited.
    filters: int
    #: Its numbers, from our pid namespace to its own.
    numbers: tuple[int, ...]
    zombie: bool
    #: Whether no program that it executes gets rights that it lacks, or rights over its user namespace
    #: are its own: whoever comes of it has no more.
    heads: bool


def standing(tid: int) -> Standing | None:
    """Of a thread, by its number here; None if there is none."""
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # the name comes first, and has no newline: proc_task_name() escapes it (fs/proc/array.c)
    found = dict(line.split(b":", 1) for line in text.split(b"\n") if b":" in line)
    try:
        return Standing(
            int(found[b"Tgid"]),
            int(found[b"PPid"]),
            int(found[b"Seccomp_filters"]),
            tuple(int(word) for word in found[b"NSpid"].split()),
            found[b"State"].split()[0] in (b"Z", b"X"),
            found[b"NoNewPrivs"].strip() == b"1" or bool(int(found[b"CapEff"], 16) & _SYS_ADMIN),
        )
    except KeyError:
        return None


def lineage(tid: int) -> list[Standing] | None:
    """The thread's standing, its parent's, and so on; None if it is gone.

    Each parent was that while its own line was read: its child names it before and after, and a number
    that was given to another process meanwhile would have another parent in its place.
    """
    for _ in range(_TRIES):
        here = standing(tid)
        if here is None:
            return None
        line, number = [here], tid
        while line[-1].ppid:
            parent = standing(line[-1].ppid)
            again = standing(number)
            if parent is None or again is None or again.ppid != line[-1].ppid:
                break
            number = line[-1].ppid
            line.append(parent)
        else:
            return line
    return None


def children() -> list[int]:
    """Our own, zombies among them."""
    found: list[int] = []
    for _ in range(
        _TRIES if os.path.exists("/proc/thread-self/children") else 0
    ):  # CONFIG_PROC_CHILDREN
        found.clear()
        try:
            for thread in os.listdir("/proc/self/task"):
                with open(f"/proc/self/task/{thread}/children", "rb") as file:
                    found += map(int, file.read().split())
            return list(dict.fromkeys(found))
        except (
            FileNotFoundError,
            ProcessLookupError,
        ):  # a thread has just ended: another one has its children
            pass
    me = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            here = standing(int(name))
            if here is not None and here.ppid == me:
                found.append(int(name))
    return list(dict.fromkeys(found))
