"""stat, access and readlink as the core does them: nobody is asked, and memory is filled as the kernel fills it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families
from proctor.supervisor.world import KernelWorld
from tests.performing.short_ways.test_doing import by_user, ran
from tests.performing.short_ways.test_seen import counting
from tests.performing.support.containers import PYTHON

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs the host's root"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="has numbers of x86-64"),
]

MANY = """
import ctypes, os, sys, zlib
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None)
room = ctypes.create_string_buffer(4096)
os.symlink("file", "link")
open("file", "w").close()
for _ in range(300):
    for path in (b"file", b"missing"):
        libc.syscall(4, path, room), libc.syscall(6, path, room), libc.syscall(262, -100, path, room, 0x100)
        libc.syscall(332, -100, path, 0, 0x7FF, room), libc.syscall(21, path, 4), libc.syscall(269, -100, path, 2)
        libc.syscall(439, -100, path, 4, 0), libc.syscall(439, -100, path, 4, 0x200)
    libc.syscall(89, b"link", room, 9), libc.syscall(267, -100, b"link", room, 9)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for each in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(each, 0o755)
    os.chown(tmp_path, 1000, 1000)
    return tmp_path


@pytest.mark.parametrize("native", [True, False])
def test_no_handler_is_asked_and_each_is_counted(native: bool, place: Path) -> None:
    handler = families.stat()
    asked = counting(handler)
    counted = ran(MANY, place, handler, world=KernelWorld(native=native))
    for name in ("stat", "lstat", "statx", "access", "faccessat"):
        assert counted[name]["perform"] >= 300 and counted[name]["perform ENOENT"] >= 300, name
    assert counted["faccessat2"]["perform"] >= 600 and counted["readlinkat"]["perform"] >= 300
    all_of_them = sum(sum(each.values()) for each in counted.values())
    assert len(asked) < all_of_them / 2 if native else len(asked) == all_of_them


#: What is filled, and what is said, where memory is not there, may not be written to, or is of two mappings; and numbers that are too
#: large, too small, or have something above their 32 bits.
ODD = """
import ctypes, os, sys, zlib
os.chdir(sys.argv[1])
os.symlink("file" * 20, "link"), os.symlink("dir", "to-dir"), os.mkdir("dir"), os.symlink("loop", "loop")
os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o640))
os.utime("file", (5, 5))
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.syscall.restype, libc.syscall.argtypes = ctypes.c_long, [ctypes.c_long] * 7
room = libc.mmap(None, 5 * 4096, 3, 0x22, -1, 0)
hidden = libc.mmap(None, 4096, 3, 0x22, -1, 0)
# read-only, nothing, writable, of another mapping that is writable too
assert libc.mprotect(ctypes.c_void_p(room), 4096, 1) == 0 and libc.munmap(ctypes.c_void_p(room + 4096), 4096) == 0
fd = os.memfd_create("other")
os.ftruncate(fd, 4096)
assert libc.mmap(room + 3 * 4096, 4096, 3, 0x11, fd, 0) == room + 3 * 4096
assert libc.mprotect(ctypes.c_void_p(hidden), 4096, 2) == 0  # which x86 reads all the same
places = [room + 100, room + 4096, room + 2 * 4096 - 3, room + 2 * 4096, room + 3 * 4096 - 3, room + 4 * 4096 - 70, hidden, 0, -1, 1 << 63]
PATHS = (b"file", b"link", b"to-dir", b"to-dir/", b"dir", b"dir/", b".", b"..", b"/", b"missing", b"file/", b"file/x", b"loop", b"", b"x" * 256)
texts = {path: ctypes.create_string_buffer(path) for path in PATHS}
said = []
which, steps = 0, int(sys.argv[2])
def call(number, *args):
    global which
    which += 1
    if which % steps:
        return
    ctypes.memset(room + 2 * 4096, 7, 3 * 4096)
    ctypes.set_errno(0)
    done = libc.syscall(number, *args, *[0] * (6 - len(args)))
    held = ctypes.string_at(room + 2 * 4096, 3 * 4096)
    if number in (4, 6, 262, 332):  # numbers and times differ; it ends with zeros
        held = len(held.rstrip(bytes([7])))
    said.append((number, done, ctypes.get_errno(), held if isinstance(held, int) else zlib.crc32(held)))
for path, text in texts.items():
    at = ctypes.addressof(text)
    for to in places:
        call(4, at, to), call(6, at, to)
        for flags in (0, 0x100, 0x800, 0x1000, 0x1100, 0x400, 1 << 32, 0x6000, 0x2000):
            call(262, -100, at, to, flags)
            for mask in (0, 0x7FF, 1 << 31, 1 << 32 | 0x7FF):
                call(332, -100, at, flags, mask, to)
        for size in (0, 1, 3, 79, 80, 81, 4096, 4097, 1 << 31, (1 << 31) - 1, 1 << 32, (1 << 32) + 5, -1):
            call(89, at, to, size), call(267, -100, at, to, size), call(267, 1 << 32 | 0xFFFFFF9C, at, to, size)
    for mode in (0, 1, 2, 4, 7, 8, -1, 1 << 32, (1 << 32) | 4):
        call(21, at, mode), call(269, -100, at, mode)
        for flags in (0, 0x100, 0x200, 0x300, 0x1000, 1 << 32, 4):
            call(439, -100, at, mode, flags)
for each in said:
    print(*each)
"""


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", ["user", "own", "container"])
def test_memory_is_filled_as_the_kernel_fills_it(kind: str, native: bool, tmp_path: Path) -> None:
    owner = 100000 if kind == "container" else 1000
    out: list[list[str]] = []
    who: dict[str, Any] = {"user": 1000, "group": 1000, "extra_groups": []}
    for each in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(each, 0o755)
    for which in range(2):
        top = tmp_path / f"{which}"
        top.mkdir()
        os.chown(top, owner, owner)
        # what the core does not do takes ten times as long: some of it will do, all is for make test-races
        steps = "1" if native or "PROCTOR_TRIES" in os.environ else "7"
        command = [PYTHON, "-ISc", ODD, str(top), steps]
        world = KernelWorld(native=native)
        how: dict[str, Any] = {
            "capture_output": True,
            "timeout": 2900,
        }
        if kind == "container":
            handlers = [families.stat()] if which else []
            done: Any = proctor.run(
                command, handlers, userns=[(0, 100000, 65536)], world=world, **how
            )
        elif not which:
            done = subprocess.run(command, check=False, **how, **who)
        elif kind == "user":
            done = proctor.run(
                command, [families.stat()], uid=1000, gid=1000, groups=(), world=world, **how
            )
        else:
            done = by_user(who, command, handlers=[families.stat()], world=world)
        assert done.returncode == 0, done.stderr
        out.append(done.stdout.decode().splitlines())
    natively, performed = out
    assert sum(line.split()[2] == "0" for line in natively) > 500 // int(steps)
    assert len(natively) == len(performed)
    wrong = [
        f"{one} | {other}" for one, other in zip(natively, performed, strict=True) if one != other
    ]
    assert not wrong, f"{len(wrong)} differ\n" + "\n".join(wrong[:20])
