"""What a cgroup lets its members have; see :mod:`proctor.performing.families.resources`."""

from __future__ import annotations

import errno
import math
import time
from functools import cache
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import Answer, answer, deny, let_run_unsafe
from proctor.kernel import raw
from proctor.performing.limits import machine
from proctor.performing.limits.shares import Recall, processors, share
from proctor.syscalls.architectures import PAGE_SIZE

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.families.resources import Options
    from proctor.performing.performers import Performers

KERNELS: Final = "the kernel's answer is what the caller is to have"
_GRND_ALL, _GRND_RANDOM, _GRND_INSECURE = 7, 2, 4
#: More random bytes at once are given in parts (getrandom(2) lets that be above 256).
_MOST_RANDOM: Final = 1 << 20
_MOST_AT_ONCE: Final = 0x7FFFF000  # MAX_RW_COUNT
_RECALL: Final = Recall()


def seen(call: Call, standing: Standing, options: Options, host: Performers) -> Verdict:
    """What is said to all calls but uname.

    :raises CallGone: the thread is dead."""
    if call.name == "sysinfo":
        return sysinfo(call, standing)
    if call.name == "sched_getaffinity":
        return affinity(call, standing)
    return random(call, options.seed, host) if options.seed else let_run_unsafe(KERNELS)


# sysinfo, sched_getaffinity -----------------------------------------------------------------------


def sysinfo(call: Call, standing: Standing) -> Verdict:
    """As ``do_sysinfo`` of kernel/sys.c, of what the caller's cgroups leave.

    :raises CallGone: the thread is dead."""
    cgroups, exactly = standing.cgroups(), machine.uptime(standing)
    uptime = math.ceil(exactly)
    about = cgroups, call.abi, uptime
    told = _RECALL(about, lambda: _sysinfo(call, cgroups, uptime))
    until = min(_RECALL.until(about), time.monotonic() + uptime - exactly)
    standing.recalled = call.arch << 32 | call.nr & 0xFFFFFFFF, cgroups, told, until
    return Answer(0, "", ((call.words[0], told),))


def _sysinfo(call: Call, cgroups: bytes, uptime: int) -> bytes:
    mine = share(cgroups)
    real = machine.meminfo(cgroups, mine)
    load = machine.load()
    total, swap = real["MemTotal"], real["SwapTotal"]
    unit = 1
    values = {
        "totalram": total, "freeram": real["MemFree"], "sharedram": real["Shmem"], "bufferram": real["Buffers"],
        "totalswap": swap, "freeswap": real["SwapFree"],
    }  # fmt: skip
    known = call.signature
    if known is not None and known.word == 4 and max(total, swap) >> 32:
        unit = PAGE_SIZE  # compat_sys_sysinfo: in pages, where bytes do not fit
        values = {name: value // unit for name, value in values.items()}
    procs = int(load[3].partition("/")[2]) if mine.processes is None else mine.processes
    ((_, data),) = call.fill(
        "info", uptime=uptime, loads=tuple(int(float(each) * 65536) for each in load[:3]),
        procs=min(procs, 65535), mem_unit=unit, **values,
    )  # fmt: skip
    return data


def affinity(call: Call, standing: Standing) -> Verdict:
    """As ``sched_getaffinity`` of kernel/sched/syscalls.c: of the caller itself, no more processors than its
    cgroups have time for, also by its number (``pthread_getaffinity_np``, and so OpenMP).  Others' are the kernel's."""
    pid, size = call.args.pid, call.args.cpusetsize
    cgroups = standing.cgroups()
    if share(cgroups).processors is None or (pid and pid != call.caller.nspid[-1]):
        return let_run_unsafe(KERNELS)
    known = call.signature
    word = 8 if known is None else known.word
    possible = _possible()
    if (size * 8 & 0xFFFFFFFF) < possible or size % word:
        return deny(errno.EINVAL)
    chosen = processors(call.tid, cgroups)
    length = min(size, _mask_size())
    mask = sum(1 << number for number in chosen).to_bytes(length, "little")
    if known is not None and call.frame is not None and call.frame.byteorder == "big":
        words = [mask[at : at + word][::-1] for at in range(0, length, word)]
        mask = b"".join(words)
    return answer(length, writes=call.fill("mask", mask))


_mask_size: Final = cache(raw.mask_size)


@cache
def _possible() -> int:
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        return int(file.read().strip().replace(",", "-").rpartition("-")[2]) + 1


# getrandom ------------------------------------------------------------------------------------------


def random(call: Call, seed: str, host: Performers) -> Verdict:
    """Bytes that are the same in every run that asks for the same in the same order."""
    size, flags = call.args.buflen, call.registers[2] & 0xFFFFFFFF
    if (
        flags & ~_GRND_ALL
        or flags & (_GRND_RANDOM | _GRND_INSECURE) == _GRND_RANDOM | _GRND_INSECURE
    ):
        return deny(errno.EINVAL)
    address = call.address("buf")
    if not raw.is_users(address, min(size, _MOST_AT_ONCE)):
        return deny(errno.EFAULT)
    # what comes before that which cannot be written (get_random_bytes_user of drivers/char/random.c)
    wanted = min(size, _MOST_RANDOM)
    size = call.room(address, wanted) if wanted else 0
    if size < min(wanted, 1):
        return deny(errno.EFAULT)
    import hashlib

    number = host.counted(call, ("seed", seed))
    data = hashlib.shake_256(b"%d\0%s" % (number, seed.encode())).digest(size)
    return answer(size, writes=((address, data),) if size else ())
