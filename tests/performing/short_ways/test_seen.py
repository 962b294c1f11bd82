"""fsync and the like, and sysinfo, are answered by the core, as their families answer them, where nobody is told of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families
from proctor.policy import loads
from proctor.supervisor.world import KernelWorld
from tests.performing.families.test_quiet import PROGRAM
from tests.performing.limits.test_resources import LIMIT, group

__all__ = ["group"]

CALLS = 300
TRIES = int(os.environ.get("PROCTOR_RACES", "2000"))

POLICY = """
default = "allow"
[[rule]]
name = "quiet"
calls = ["fsync", "fdatasync", "sync", "syncfs", "msync", "sync_file_range"]
perform = true
"""
MANY = f"""
    import errno, os, sys
    def came(number):
        try:
            return os.fsync(number)
        except OSError as error:
            return errno.errorcode[error.errno]
    file, reads = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), os.pipe()[0]
    print({{came(file) for _ in range({CALLS})}}, {{came(99) for _ in range({CALLS})}}, {{came(reads) for _ in range({CALLS})}})
"""


def python(code: str, *args: object) -> list[str]:
    return [sys.executable, "-ISc", textwrap.dedent(code), *map(str, args)]


def counting(handler: proctor.Handler) -> list[str]:
    """The calls that it is asked about, from now on."""
    asked: list[str] = []
    function = handler.function

    def ask(call: proctor.Call) -> Any:
        asked.append(call.name)
        return function(call)

    handler.function = ask
    return asked


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("written", ["policy", "python"])
def test_no_handler_is_asked(native: bool, written: str, tmp_path: Path) -> None:
    policy = loads(POLICY)
    ours = written == "policy"
    handlers = policy.handlers() if ours else [families.quiet()]
    asked, counters = counting(handlers[0]), proctor.Counters()
    done = proctor.run(
        python(MANY, tmp_path / "file"), handlers, world=KernelWorld(native=native), capture_output=True, check=True,
        observers=[counters], timeout=60, filter=policy.filter() if ours else None,
    )  # fmt: skip
    assert done.stdout == b"{None} {'EBADF'} {'EINVAL'}\n"
    # pipes are the kernel's to refuse; others are asked about until it is known who calls, and where the first stalls
    assert asked.count("fsync") < 2 * CALLS if native else asked.count("fsync") == 3 * CALLS
    assert {kind: count for (_, name, kind), count in counters.table().items() if name == "fsync"} == {
        "perform": 2 * CALLS, "perform EBADF": CALLS,
    }  # fmt: skip


@pytest.mark.parametrize("native", [True, False])
def test_comes_out_as_in_the_kernel(native: bool, tmp_path: Path) -> None:
    """Of every kind of descriptor."""
    program = python(PROGRAM, tmp_path)
    natively = subprocess.run(program, capture_output=True, check=True, timeout=60)
    quiet = proctor.run(
        program, [families.quiet()], world=KernelWorld(native=native), capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert quiet.stdout == natively.stdout


def test_descriptors_are_those_of_the_thread(tmp_path: Path) -> None:
    """Which may have a table of its own."""
    program = """
        import ctypes, errno, os, sys, threading
        libc = ctypes.CDLL(None, use_errno=True)
        file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        said = []
        def fsync(number):
            said.append(errno.errorcode[ctypes.get_errno()] if libc.fsync(number) else 0)
        def alone():
            libc.unshare(0x400)  # CLONE_FILES
            os.dup2(file, 70)
            for _ in range(20):
                fsync(70)
        thread = threading.Thread(target=alone)
        thread.start(), thread.join()
        for _ in range(20):
            fsync(70)
        print(said == [0] * 20 + ["EBADF"] * 20)
    """
    done = proctor.run(
        python(program, tmp_path / "file"),
        [families.quiet()],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == b"True\n"


def test_a_descriptor_is_looked_at_once(tmp_path: Path) -> None:
    """A pipe, and a file that is but a path, in turns under one number: it is never a file that is written to."""
    program = """
        import ctypes, errno, os, sys, threading
        libc = ctypes.CDLL(None, use_errno=True)
        os.close(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT))
        path, pipe, over = os.open(sys.argv[1], os.O_PATH), os.pipe()[0], False
        os.dup2(path, 70)
        def change():
            while not over:
                os.dup2(pipe, 70), os.dup2(path, 70)
        thread = threading.Thread(target=change)
        thread.start()
        said = set()
        for _ in range(int(sys.argv[2])):
            said.add(errno.errorcode[ctypes.get_errno()] if libc.fsync(70) else 0)
        over = True
        thread.join()
        print(said <= {"EBADF", "EINVAL"}, said)
    """
    done = proctor.run(
        python(program, tmp_path / "file", TRIES),
        [families.quiet()],
        capture_output=True,
        check=True,
        timeout=300,
    )
    assert done.stdout.startswith(b"True"), done.stdout


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    proctor.run(
        python(MANY, tmp_path / "file"), [families.quiet()], capture_output=True, check=True
    )
    assert len(os.listdir("/proc/self/fd")) == before


ASKED = f"""
    import ctypes, errno, mmap, os, struct, sys
    libc = ctypes.CDLL(None, use_errno=True)
    def total():
        buffer = ctypes.create_string_buffer(112)
        assert libc.sysinfo(buffer) == 0
        found = struct.unpack_from("@l9L", buffer.raw)
        return found[4] * struct.unpack_from("@I", buffer.raw, 104)[0]
    before = {{total() for _ in range({CALLS})}}
"""


@pytest.mark.parametrize("native", [True, False])
def test_what_was_said_is_said_again(native: bool) -> None:
    handler, counters = families.resources(), proctor.Counters()
    asked = counting(handler)
    done = proctor.run(
        python(ASKED + "    print(before)"), [handler], world=KernelWorld(native=native), capture_output=True, check=True,
        observers=[counters], timeout=60,
    )  # fmt: skip
    memory = Path("/proc/meminfo").read_text()
    total = memory.partition("MemTotal:")[2].split()[0]
    assert eval(done.stdout) == {int(total) << 10}
    ((_, count),) = [
        (kind, count) for (_, name, kind), count in counters.table().items() if name == "sysinfo"
    ]
    assert CALLS <= count <= CALLS + 2  # C libraries ask, too
    assert asked.count("sysinfo") < CALLS if native else asked.count("sysinfo") == count


def test_whoever_moves_is_told_of_his_new_cgroup_at_once(group: list[str]) -> None:
    program = """
    for place in sys.argv[1:]:
        with open(f"{place}/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
    print(before, total())
    """
    places = re.findall(r"> (\S+)/cgroup.procs", group[2])
    done = proctor.run(
        python(ASKED + program, *places),
        [families.resources()],
        capture_output=True,
        check=True,
        timeout=60,
    )
    before, after = done.stdout.decode().rsplit(" ", 1)
    assert int(after) == LIMIT
    assert LIMIT not in eval(before)


def test_it_is_told_to_the_program_that_asks() -> None:
    """Which may be another one in the same thread by now, whose memory is another's; whose parent shares what was its own."""
    program = """
    if len(sys.argv) == 2:
        child = os.posix_spawn(sys.executable, [*sys.orig_argv, "again"], os.environ)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if len(sys.argv) == 3:
        os.execv(sys.executable, [*sys.orig_argv, "again"])
    print(min(before) > 0, len(before))
    """
    done = proctor.run(
        python(ASKED + program, "once"),
        [families.resources()],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == b"True 1\n"


def test_memory_that_cannot_be_written_to() -> None:
    program = """
    def came(address):
        return libc.sysinfo(ctypes.c_void_p(address)), errno.errorcode.get(ctypes.get_errno())
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    reads, none, writes, both = [libc.mmap(None, size, rights, 0x22, -1, 0) for size, rights in ((4096, 1), (4096, 0), (4096, 2), (8192, 3))]
    libc.mprotect(ctypes.c_void_p(both + 4096), 4096, 1)
    print([came(at) for at in (0, 1, 1 << 63, reads, none, writes, both, both + 4096 - 112, both + 4096 - 8)])
    print(ctypes.string_at(reads, 4096) == bytes(4096), ctypes.string_at(both, 112) != bytes(112))
    """
    command = python(ASKED + program)
    natively = subprocess.run(command, capture_output=True, check=True, timeout=60)
    done = proctor.run(command, [families.resources()], capture_output=True, check=True, timeout=60)
    assert done.stdout == natively.stdout
    assert natively.stdout.count(b"EFAULT") >= 5
