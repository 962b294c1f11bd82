"""What a program sees of its machine is what its cgroups leave it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families
from proctor.call.verdict import Answer, Deny
from proctor.observe.events import Outcome, Trouble
from proctor.performing.limits import resources, shares
from tests.performing.support.callers import ARCH, Performers, caller

LIMIT = 200 << 20
CGROUPS = Path("/sys/fs/cgroup")


def python(code: str, *args: object) -> list[str]:
    return [sys.executable, "-I", "-c", textwrap.dedent(code), *map(str, args)]


@pytest.fixture
def group() -> Iterator[list[str]]:
    """A command that runs another one in a cgroup with 200 MiB and the time of one processor."""
    if os.geteuid() or not (CGROUPS / "memory/memory.limit_in_bytes").exists():
        pytest.skip("no cgroups of version 1 to make")
    made = []
    try:
        for controller, files in (
            ("memory", {"memory.limit_in_bytes": LIMIT}),
            ("cpu", {"cpu.cfs_period_us": 100000, "cpu.cfs_quota_us": 90000}),
            ("pids", {}),
        ):
            own = next(
                line.rpartition(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines()
                if controller in line.split(":")[1].split(",")
            )  # fmt: skip
            place = CGROUPS / controller / own.strip("/") / f"proctor-{os.getpid()}"
            try:
                place.mkdir()
                made.append(place)
                for name, value in files.items():
                    (place / name).write_text(str(value))
            except OSError as error:
                pytest.skip(f"no cgroup can be made: {error}")
        joins = " && ".join(f"echo $$ > {place}/cgroup.procs" for place in made)
        yield ["sh", "-c", f'{joins} && exec "$@"', "sh"]
    finally:
        for place in made:
            place.rmdir()


SEEN = """
    import ctypes, os, struct
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(112)
    assert libc.sysinfo(buffer) == 0
    uptime, a, b, c, total, free, shared, buffers, swap, freeswap, procs, pad, high, freehigh, unit = struct.unpack("@l9LHHLLI", buffer.raw[:108])
    print(total * unit, 0 < free <= total, procs < 10, abs(uptime - float(open("/proc/uptime").read().split()[0])) < 100, len(os.sched_getaffinity(0)))
    for size in (0, 1, 3, 8, 64, 128):
        mask = ctypes.create_string_buffer(b"\\xff" * 128, 128)
        print(libc.sched_getaffinity(0, size, mask), mask.raw[:1])
"""


def test_memory_processes_and_processors_are_the_cgroups(group: list[str]) -> None:
    seen = proctor.run(
        [*group, *python(SEEN)], [families.resources()], capture_output=True, timeout=60
    )
    lines = seen.stdout.decode().splitlines()
    assert lines[0] == f"{LIMIT} True True True 1", seen.stderr
    natively = subprocess.run([*group, *python(SEEN)], capture_output=True, timeout=60, check=True)
    sizes = [line.split()[0] for line in natively.stdout.decode().splitlines()[1:]]
    assert [line.split()[0] for line in lines[1:]] == sizes
    nproc = proctor.run([*group, "nproc"], [families.resources()], capture_output=True, timeout=60)
    assert nproc.stdout == b"1\n"


@pytest.mark.parametrize("inside", [[], ["unshare", "-pf"]], ids=["here", "in a pid namespace"])
def test_a_thread_that_names_itself_has_the_cgroups_processors(
    group: list[str], inside: list[str]
) -> None:
    """pthread_getaffinity_np(3) of pthread_self(3); a parent's and another thread's are the kernel's."""
    code = """
    import os, threading
    def own():
        print(len(os.sched_getaffinity(threading.get_native_id())), len(os.sched_getaffinity(0)), flush=True)
    own()
    thread = threading.Thread(target=own); thread.start(); thread.join()
    parent = os.getpid()
    child = os.fork()
    if not child: print(len(os.sched_getaffinity(parent)), flush=True); os._exit(0)
    os.waitpid(child, 0)
    """
    seen = proctor.run(
        [*group, *inside, *python(code)], [families.resources()], capture_output=True, timeout=60
    )
    count = len(os.sched_getaffinity(0))
    assert seen.stdout.decode().split() == ["1", "1", "1", "1", f"{count}"], seen.stderr


@pytest.mark.parametrize(
    "arch", [ARCH, pytest.param("i386", marks=pytest.mark.skipif(ARCH != "x86_64", reason="has no calls of i386"))]
)  # fmt: skip
def test_as_much_of_a_mask_is_filled_as_the_kernel_fills(
    arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as many processors as it was built for, if it was built so; lengths are counted in 32 bits."""
    monkeypatch.setattr(resources, "share", lambda _: shares.Share(None, 0, None, 0, 1, None))
    room, sizes = b"\xff" * 4096, (0, 1, 4, 8, 12, 16, 32, 64, 100, 128, 4096, 1 << 29, 1 << 29 | 8)
    wide = () if arch == "i386" else (1 << 32, 1 << 32 | 8)
    with Performers() as performers, caller(arch=arch) as one:
        for size in (*sizes, *wide):
            args = ("sched_getaffinity", 0, size, room)
            assert one.performed(performers, *args) == one.natively(*args), size
            verdict = performers.perform(one.call(*args))
            assert isinstance(verdict, Deny | Answer)
            if isinstance(verdict, Answer):
                assert sum(verdict.writes[0][1]) and len(verdict.writes[0][1]) == verdict.value


def test_uptime_is_never_behind_the_clock() -> None:
    """Begun seconds count (``do_sysinfo`` of kernel/sys.c)."""
    code = """
        import ctypes, struct, time
        libc = ctypes.CDLL(None, use_errno=True)
        room, told = ctypes.create_string_buffer(112), []
        for _ in range(30):
            before = time.clock_gettime(time.CLOCK_BOOTTIME)
            libc.sysinfo(room)
            (uptime,) = struct.unpack_from("@l", room.raw)
            told.append(before <= uptime < time.clock_gettime(time.CLOCK_BOOTTIME) + 1)
        print(all(told))
    """
    for handlers in ([], [families.resources()]):
        done = proctor.run(python(code), handlers, capture_output=True, timeout=60)
        assert done.stdout == b"True\n", done.stderr


def test_without_limits_it_is_the_machines() -> None:
    code = """
        import os
        print(os.sched_getaffinity(0), os.uname())
    """
    done = proctor.run(python(code), [families.resources()], capture_output=True, timeout=60)
    assert done.stdout.decode() == f"{os.sched_getaffinity(0)} {os.uname()}\n", done.stderr


def test_what_is_left_to_the_kernel_is_let_run() -> None:
    """Also in the first call of a thread, who is looked at then."""
    told: list[Any] = []
    code = """
        import os
        os.getrandom(1), os.sched_getaffinity(0)
    """
    done = proctor.run(
        python(code),
        [families.resources()],
        capture_output=True,
        timeout=60,
        observers=[told.append],
    )
    outcomes = [each for each in told if isinstance(each, Outcome)]
    assert done.returncode == 0 and {"getrandom", "sched_getaffinity"} <= {
        each.call.name for each in outcomes
    }
    assert [each for each in outcomes if isinstance(each.verdict, Deny)] == []
    assert [each for each in told if isinstance(each, Trouble)] == []


def test_names_of_the_machine() -> None:
    renamed = families.resources(release="2.6.32", machine="vax")
    done = proctor.run(
        ["unshare", "--uts", "sh", "-c", "hostname inside; uname -srnm"], [renamed], capture_output=True, timeout=60
    )  # fmt: skip
    if not done.stdout:
        pytest.skip(f"no UTS namespace: {done.stderr!r}")
    assert done.stdout == b"Linux inside 2.6.32 vax\n"


@pytest.mark.parametrize("personality", [0x0008, 0x0020000, 0x0020008])
def test_names_are_those_of_a_personality(personality: int) -> None:
    code = f"""
        import ctypes, os
        for each in ({personality}, 0, {personality}):
            ctypes.CDLL(None).personality(each)
            print(os.uname())
    """
    natively = proctor.run(python(code), capture_output=True, timeout=60)
    renamed = families.resources(version="x")
    done = proctor.run(python(code), [renamed], capture_output=True, timeout=60)
    assert done.stdout.decode() == natively.stdout.decode().replace(os.uname().version, "x")
    first, second, third = done.stdout.splitlines()
    assert first == third != second


def test_random_bytes_come_from_a_seed() -> None:
    code = """
        import errno, os
        print(os.getrandom(8).hex(), os.getrandom(300).hex(), len(os.getrandom(0)))
        for flags in (8, 6):
            try:
                os.getrandom(1, flags)
            except OSError as error:
                print(errno.errorcode[error.errno])
    """

    def drawn(**how: Any) -> bytes:
        handler = families.resources(**how)
        command = ["env", "PYTHONHASHSEED=0", *python(code)]
        done = proctor.run(command, [handler], capture_output=True, timeout=60)
        assert done.stdout.endswith(b"0\nEINVAL\nEINVAL\n"), done.stderr
        out: bytes = done.stdout
        return out

    assert drawn(seed="a") == drawn(seed="a") != drawn(seed="b")
    assert drawn() != drawn()


def test_as_many_random_bytes_come_as_fit() -> None:
    """Up to what cannot be written, and EFAULT where that is none of them, as natively."""
    code = """
        import ctypes, mmap, os
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        page = mmap.PAGESIZE
        short = os.memfd_create("short")  # of which more is mapped than there is
        os.ftruncate(short, page + 10)
        file = libc.mmap(None, ctypes.c_size_t(4 * page), 3, 1, short, ctypes.c_long(0)) + 2 * page
        area = libc.mmap(None, ctypes.c_size_t(4 * page), 3, 0x22, -1, ctypes.c_long(0))
        libc.munmap(ctypes.c_void_p(area + 2 * page), ctypes.c_size_t(page))
        libc.mprotect(ctypes.c_void_p(area), ctypes.c_size_t(page), 1)
        last = (1 << 47) - 2 * page  # of what programs have on x86-64
        libc.mmap(ctypes.c_void_p(last), ctypes.c_size_t(page), 3, 0x100022, -1, ctypes.c_long(0))
        ends = file - 1, file - 100, file - page - 1, file, file + page
        for at in (*ends, last + page - 8, *(area + 2 * page - fits for fits in (0, 1, 8, 31, 64, 100, 4096)), area + page - 1, 0, 1 << 63, 1,
                   (1 << 47) - 4097, (1 << 47) - 4096, (1 << 47) - 4095, (1 << 47) - 1, 1 << 47, 1 << 55, 1 << 56, (1 << 64) - 1):
            for size in (0, 1, 8, 32, 33, 65, 256, 5000, 1 << 40, (1 << 64) - 1):
                ctypes.set_errno(0)
                print(libc.getrandom(ctypes.c_void_p(at), ctypes.c_size_t(size), 0), ctypes.get_errno())
    """
    said = [
        proctor.run(python(code), handlers, capture_output=True, timeout=60)
        for handlers in ([], [families.resources(seed="a")])
    ]
    assert said[0].stdout == said[1].stdout, said[1].stderr
    assert said[0].stdout.count(b"-1 14") > 20 and b"\n4096 0\n" in said[0].stdout


def test_version_2_is_read_from_the_innermost_to_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, outer = tmp_path / "a/b", tmp_path / "a"
    inner.mkdir(parents=True)
    for place, files in (
        (inner, {"memory.max": "max", "memory.swap.max": "0", "cpu.max": "max 100000", "pids.current": "3"}),
        (outer, {"memory.max": str(LIMIT), "memory.current": "4096", "cpu.max": "150000 100000"}),
    ):  # fmt: skip
        for name, value in files.items():
            (place / name).write_text(value + "\n")

    def directories(cgroups: bytes, controller: bytes) -> list[bytes]:
        return [] if controller else [bytes(each) for each in (inner, outer, tmp_path)]

    monkeypatch.setattr(shares, "directories", directories)
    assert shares.share(b"0::/a/b\n") == shares.Share(LIMIT, 4096, 0, 0, 2, 3)
