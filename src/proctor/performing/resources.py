"""What a cgroup lets its members have; see :mod:`proctor.performing.families.resources`."""

from __future__ import annotations

import errno
import hashlib
import os
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from proctor.call.verdict import answer, deny, let_run
from proctor.performing.cgroups import directories
from proctor.performing.steps import Request, Steps

if TYPE_CHECKING:
    from proctor.call.verdict import Verdict
    from proctor.performing.task import Task, Work

_UTSNAME: Final = ("sysname", "nodename", "release", "version", "machine", "domainname")
_LENGTH: Final = 65  # __NEW_UTS_LEN + 1
_GRND_ALL, _GRND_RANDOM, _GRND_INSECURE = 7, 2, 4
#: More random bytes at once are given in parts (getrandom(2) lets that be above 256).
_MOST_RANDOM: Final = 1 << 20


class Share(NamedTuple):
    """What a caller's cgroups leave it of the machine; None where they set no limit."""

    memory: int | None
    #: Of that, in use.
    used: int
    swap: int | None
    swap_used: int
    processors: int | None
    processes: int | None


def share(cgroups: bytes) -> Share:
    """The least of all cgroups from the caller's upwards, of version 1 and 2.

    :param cgroups: the text of ``/proc/TID/cgroup``."""
    memory: list[tuple[int, int]] = []
    swap: list[tuple[int, int]] = []
    processors: list[int] = []
    for place in directories(cgroups, b"memory"):
        limit, used = (
            _number(place, b"memory.limit_in_bytes"),
            _number(place, b"memory.usage_in_bytes"),
        )
        if limit is not None and limit < 1 << 60:  # as good as none, rounded to pages
            memory.append((limit, used or 0))
            both = _number(place, b"memory.memsw.limit_in_bytes")
            if both is not None and both < 1 << 60:
                all_used = _number(place, b"memory.memsw.usage_in_bytes") or 0
                swap.append((max(0, both - limit), max(0, all_used - (used or 0))))
    for place in directories(cgroups, b""):
        limit = _number(place, b"memory.max")
        if limit is not None:
            memory.append((limit, _number(place, b"memory.current") or 0))
        limit = _number(place, b"memory.swap.max")
        if limit is not None:
            swap.append((limit, _number(place, b"memory.swap.current") or 0))
        quota, _, period = (_text(place, b"cpu.max") or "max").partition(" ")
        if quota.isdigit() and period.isdigit():
            processors.append(-(-int(quota) // int(period)))
    for place in directories(cgroups, b"cpu"):
        quota1, period1 = _number(place, b"cpu.cfs_quota_us"), _number(place, b"cpu.cfs_period_us")
        if quota1 is not None and quota1 > 0 and period1:
            processors.append(-(-quota1 // period1))
    counted = [
        _number(places[0], b"pids.current")
        for places in (directories(cgroups, b"pids"), directories(cgroups, b""))
        if len(places) > 1  # the root's is everybody's
    ]
    least, used = min(memory, default=(None, 0))
    most, swap_used = min(swap, default=(None, 0))
    found = [each for each in counted if each is not None]
    time = min(processors, default=None)
    return Share(least, used, most, swap_used, time, found[0] if found else None)


def _text(directory: bytes, name: bytes) -> str | None:
    try:
        with open(os.path.join(directory, name), encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return None  # this controller, or its file, is not there


def _number(directory: bytes, name: bytes) -> int | None:
    text = _text(directory, name)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


# sysinfo, sched_getaffinity -----------------------------------------------------------------------


def sysinfo(task: Task) -> Verdict:
    """As ``do_sysinfo`` of kernel/sys.c, of what the caller's cgroups leave."""
    mine = share(task.cgroups)
    with open("/proc/meminfo", encoding="ascii") as file:
        lines = (line.replace(":", " ").split() for line in file)
        real = {words[0]: int(words[1]) << 10 for words in lines}
    with open("/proc/loadavg", encoding="ascii") as file:
        load = file.read().split()
    with open("/proc/uptime", encoding="ascii") as file:
        uptime = int(float(file.read().split()[0]))
    total, free = _clipped(real["MemTotal"], real["MemFree"], mine.memory, mine.used)
    swap, swap_free = _clipped(real["SwapTotal"], real["SwapFree"], mine.swap, mine.swap_used)
    unit = 1
    values = {
        "totalram": total, "freeram": free, "sharedram": min(real["Shmem"], total),
        "bufferram": min(real["Buffers"], total), "totalswap": swap, "freeswap": swap_free,
    }  # fmt: skip
    known = task.call.signature
    if known is not None and known.word == 4 and max(total, swap) >> 32:
        unit = 4096  # compat_sys_sysinfo: in pages, where bytes do not fit
        values = {name: value // unit for name, value in values.items()}
    procs = int(load[3].partition("/")[2]) if mine.processes is None else mine.processes
    writes = task.call.fill(
        "info", uptime=uptime, loads=tuple(int(float(each) * 65536) for each in load[:3]),
        procs=min(procs, 65535), mem_unit=unit, **values,
    )  # fmt: skip
    return answer(0, writes=writes)


def _clipped(total: int, free: int, limit: int | None, used: int) -> tuple[int, int]:
    if limit is None or limit >= total:
        return total, free
    return limit, max(0, min(free, limit - used))


def affinity(task: Task) -> Verdict:
    """As ``sched_getaffinity`` of kernel/sched/syscalls.c: of the caller itself, no more processors than its
    cgroups have time for.  Others' are the kernel's."""
    call = task.call
    pid, size = call.args.pid, call.args.cpusetsize
    count = share(task.cgroups).processors
    if pid or count is None:
        return let_run()
    known = call.signature
    word = 8 if known is None else known.word
    possible = _possible()
    if size * 8 < possible or size % word:
        return deny(errno.EINVAL)
    chosen = sorted(os.sched_getaffinity(call.tid))[:count]
    length = min(size, -(-possible // (8 * word)) * word)
    mask = sum(1 << number for number in chosen).to_bytes(length, "little")
    if known is not None and call.frame is not None and call.frame.byteorder == "big":
        words = [mask[at : at + word][::-1] for at in range(0, length, word)]
        mask = b"".join(words)
    return answer(length, writes=call.fill("mask", mask))


@cache
def _possible() -> int:
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        return int(file.read().strip().replace(",", "-").rpartition("-")[2]) + 1


# uname, getrandom -----------------------------------------------------------------------------------


def uname(task: Task, names: dict[str, str]) -> Work:
    """What an executor in the caller's UTS namespace is told, but for these names."""
    asking = _uname()
    if task.elsewhere():
        from proctor.performing.trouble import Moved

        raise Moved
    reply = yield from task.session.ask(asking)
    reply.close()
    said = reply.parts[0]
    fields = {
        name: said[_LENGTH * at : _LENGTH * (at + 1)].partition(b"\0")[0]
        for at, name in enumerate(_UTSNAME)
    }
    fields |= {name: value.encode() for name, value in names.items()}
    data = b"".join(fields[name].ljust(_LENGTH, b"\0") for name in _UTSNAME)
    return answer(0, writes=task.call.fill("buf", data))


@cache
def _uname() -> Request:
    steps = Steps()
    names = steps.scratch(_LENGTH * len(_UTSNAME))
    steps.call("uname", names)
    steps.want(names)
    return steps.freeze()


def random(task: Task, seed: str) -> Verdict:
    """Bytes that are the same in every run that asks for the same in the same order."""
    size, flags = task.call.args.buflen, task.call.registers[2] & 0xFFFFFFFF
    if (
        flags & ~_GRND_ALL
        or flags & (_GRND_RANDOM | _GRND_INSECURE) == _GRND_RANDOM | _GRND_INSECURE
    ):
        return deny(errno.EINVAL)
    size = min(size, _MOST_RANDOM)
    number = task.host.drawn(task.call, seed)
    data = hashlib.shake_256(b"%d\0%s" % (number, seed.encode())).digest(size)
    return answer(size, writes=task.call.fill("buf", data) if size else ())
