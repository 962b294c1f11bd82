"""The files about the machine, as they are for a caller: what its cgroups leave of memory, swap, processors and
processes, and how long its pid namespace has been there.

What no cgroup tells is the machine's: load, and the time that processors spent.  ``sysinfo`` is made of the same
numbers (:mod:`proctor.performing.limits.resources`), so the two agree.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, Final

from proctor.kernel.thread import stat_of
from proctor.performing.identities.cgroups import directories
from proctor.performing.limits.shares import Share, briefly, number, processors, share, text
from proctor.performing.trouble import Said

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.kernel.standing import Standing
    from proctor.performing.task import Task

_KIB: Final = 1024
#: Of /proc/meminfo, what memory.stat tells: names of version 2 and 1.
_STATISTICS: Final = {
    "Active(anon)": ("active_anon", "total_active_anon"), "Inactive(anon)": ("inactive_anon", "total_inactive_anon"),
    "Active(file)": ("active_file", "total_active_file"), "Inactive(file)": ("inactive_file", "total_inactive_file"),
    "Cached": ("file", "total_cache"), "Shmem": ("shmem", "total_shmem"), "AnonPages": ("anon", "total_rss"),
    "Mapped": ("file_mapped", "total_mapped_file"), "Dirty": ("file_dirty", "total_dirty"),
    "Writeback": ("file_writeback", "total_writeback"), "Unevictable": ("unevictable", "total_unevictable"),
    "SReclaimable": ("slab_reclaimable", ""), "SUnreclaim": ("slab_unreclaimable", ""), "Slab": ("slab", ""),
    "KReclaimable": ("slab_reclaimable", ""), "KernelStack": ("kernel_stack", ""), "PageTables": ("pagetables", ""),
}  # fmt: skip
#: What is no memory in use.
_AS_IT_IS: Final = ("Hugepagesize", "VmallocTotal", "VmallocUsed", "VmallocChunk", "CommitLimit")


def shown(task: Task, place: bytes) -> bytes:
    """What is in a file.

    :raises Said: it is none of those (ENOENT)."""
    make = FILES.get(place)
    if make is None:
        raise Said(errno.ENOENT, f"{os.fsdecode(place)} is no file that limits are shown in")
    return make(task).encode()


@briefly
def meminfo(cgroups: bytes, mine: Share) -> dict[str, int]:
    """Numbers of /proc/meminfo, in bytes (of huge pages, their number).

    :param cgroups: the text of the caller's ``/proc/TID/cgroup``."""
    real: dict[str, int] = {}
    for line in _machine("meminfo").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        real[name] = int(words[0]) * (_KIB if words[1:] else 1)
    total = real["MemTotal"]
    if mine.memory is not None and mine.memory < total:
        total, free = mine.memory, max(0, min(real["MemFree"], mine.memory - mine.used))
        told = _statistics(cgroups)
        for name, size in real.items():
            if name in _STATISTICS and told:
                real[name] = next((told[each] for each in _STATISTICS[name] if each in told), 0)
            elif name not in _AS_IT_IS and not name.startswith("DirectMap"):
                real[name] = min(size, total)
        cached = real["Active(file)"] + real["Inactive(file)"]
        real |= {
            "MemTotal": total, "MemFree": free, "Buffers": 0, "Cached": min(real["Cached"], total - free),
            "MemAvailable": min(total, free + cached, real.get("MemAvailable", total)),
            "Active": real["Active(anon)"] + real["Active(file)"],
            "Inactive": real["Inactive(anon)"] + real["Inactive(file)"],
        }  # fmt: skip
    if mine.swap is not None and mine.swap < real["SwapTotal"]:
        real["SwapTotal"] = mine.swap
        real["SwapFree"] = max(0, min(real["SwapFree"], mine.swap - mine.swap_used))
        real["SwapCached"] = min(real.get("SwapCached", 0), mine.swap)
    return real


def _statistics(cgroups: bytes) -> dict[str, int]:
    """memory.stat of the innermost cgroup with such a file."""
    for controller in (b"memory", b""):
        for place in directories(cgroups, controller):
            lines = (text(place, b"memory.stat") or "").splitlines()
            if lines:
                return {name: int(value) for name, value in (line.split() for line in lines)}
    return {}


@briefly
def load() -> list[str]:
    """The words of /proc/loadavg."""
    return _machine("loadavg").split()


def uptime(standing: Standing) -> float:
    """Seconds as CLOCK_BOOTTIME has them in a time namespace of the caller's own; else since the first process of its
    pid namespace began; since the machine did, where that is the monitor's own, or cannot be told."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) + _since(standing))


@briefly
def _since(standing: Standing) -> float:
    """What that is more than CLOCK_BOOTTIME of ours."""
    shift = _shift(standing.tid)
    if shift is not None:
        return shift
    begun = _begun(standing.tid)
    return 0.0 if begun is None else -begun


def _shift(tid: int) -> float | None:
    """By how much the clocks since the boot go before ours in the caller's time namespace (time_namespaces(7)); None
    if that is ours, or another one than its children will have, of which alone the kernel tells."""
    theirs, ours = f"/proc/{tid}", "/proc/self"
    try:
        inside = os.readlink(f"{theirs}/ns/time")
        if inside == os.readlink(f"{ours}/ns/time"):
            return None
        if inside != os.readlink(f"{theirs}/ns/time_for_children"):
            return None
        return _offset(theirs) - _offset(ours)
    except OSError:
        return None  # the kernel has none, or it is gone


def _offset(process: str) -> float:
    """Of CLOCK_BOOTTIME, from the first time namespace's."""
    with open(f"{process}/timens_offsets", encoding="ascii") as file:
        words = next(line.split() for line in file if line.split()[0] in ("boottime", "7"))
    return int(words[1]) + int(words[2]) / 1e9


def _begun(tid: int) -> float | None:
    """When, by CLOCK_BOOTTIME, the first process of the caller's pid namespace began."""
    pid, first = tid, None
    try:
        inside = os.readlink(f"/proc/{pid}/ns/pid")
        if inside == os.readlink("/proc/self/ns/pid"):
            return None
        while pid and os.readlink(f"/proc/{pid}/ns/pid") == inside:
            words = stat_of(pid)
            first, pid = int(words[19]), int(words[1])
    except OSError:
        pass  # whoever is above may not be looked at, or is gone
    return None if first is None else first / os.sysconf("SC_CLK_TCK")


def _machine(name: str) -> str:
    with open(f"/proc/{name}", encoding="ascii", errors="replace") as file:
        return file.read()


# The files ----------------------------------------------------------------------------------------


def _meminfo(task: Task) -> str:
    cgroups = task.cgroups
    lines = []
    for name, value in meminfo(cgroups, share(cgroups)).items():
        count = name.startswith("HugePages_")
        shown = value if count else value // _KIB
        lines.append(f"{name + ':':<16}{shown:>8}{'' if count else ' kB'}\n")
    return "".join(lines)


def _cpuinfo(task: Task) -> str:
    """Of s390x and others, where it is no list of paragraphs, it stays what it is."""
    chosen = processors(task.call.tid, task.cgroups)
    found = _machine("cpuinfo")
    kept, others = [], []
    for each in found.split("\n\n"):
        name, _, value = each.partition("\n")[0].partition(":")
        if name.strip() != "processor" or not value.strip().isdigit():
            others.append(each)
        elif int(value) in chosen:
            kept.append(each)
    return "\n\n".join([*kept, *others]) if kept else found


def _stat(task: Task) -> str:
    chosen = [f"cpu{each}" for each in processors(task.call.tid, task.cgroups)]
    lines = _machine("stat").splitlines()
    kept = [line for line in lines if line[:3] == "cpu" and line.split()[0] in chosen]
    sums = [
        sum(column) for column in zip(*(map(int, line.split()[1:]) for line in kept), strict=False)
    ]
    rest = [line for line in lines if line[:3] != "cpu"]
    if shift := _shift(
        task.call.tid
    ):  # when processes began is told by the caller's clock, from this on
        begun = (line.split() for line in rest)
        rest = [
            f"btime {int(words[1]) - round(shift)}" if words[0] == "btime" else " ".join(words)
            for words in begun
        ]
    return "\n".join([f"cpu  {' '.join(map(str, sums))}", *kept, *rest]) + "\n"


def _uptime(task: Task) -> str:
    up, count = uptime(task.standing), len(processors(task.call.tid, task.cgroups))
    spent = _spent(task.cgroups)
    if spent is None:
        idle = float(_machine("uptime").split()[1]) * count / max(1, os.cpu_count() or 1)
    else:
        idle = up * count - spent
    return f"{up:.2f} {min(max(0.0, idle), up * count):.2f}\n"


def _spent(cgroups: bytes) -> float | None:
    """Seconds of processor time that the caller's cgroup took; None if it is the root, or not told."""
    places = directories(cgroups, b"")
    if len(places) > 1:
        for line in (text(places[0], b"cpu.stat") or "").splitlines():
            name, _, value = line.partition(" ")
            if name == "usage_usec":
                return int(value) / 1e6
    places = directories(cgroups, b"cpuacct")
    used = number(places[0], b"cpuacct.usage") if len(places) > 1 else None
    return None if used is None else used / 1e9


def _loadavg(task: Task) -> str:
    one, five, fifteen, counts, _ = load()
    mine = share(task.cgroups).processes
    running, _, threads = counts.partition("/")
    if mine is not None:
        running, threads = str(min(int(running), mine)), str(mine)
    last = task.caller.nspid[-1]
    return f"{one} {five} {fifteen} {running}/{threads} {last}\n"


def _online(task: Task) -> str:
    """As ``%*pbl`` of lib/vsprintf.c writes it."""
    ranges: list[list[int]] = []
    for each in processors(task.call.tid, task.cgroups):
        if ranges and each == ranges[-1][1] + 1:
            ranges[-1][1] = each
        else:
            ranges.append([each, each])
    return ",".join(f"{a}-{b}" if a < b else f"{a}" for a, b in ranges) + "\n"


#: Those that are known, by their paths.
FILES: Final[dict[bytes, Callable[[Task], str]]] = {
    b"/proc/meminfo": _meminfo,
    b"/proc/cpuinfo": _cpuinfo,
    b"/proc/stat": _stat,
    b"/proc/uptime": _uptime,
    b"/proc/loadavg": _loadavg,
    b"/sys/devices/system/cpu/online": _online,
    b"/sys/devices/system/cpu/present": _online,
}
