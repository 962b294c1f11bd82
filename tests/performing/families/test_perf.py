"""Events of a container's own threads, by allow-list, without the kernel's side."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import proctor
from proctor import families
from tests.performing.support.containers import told

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make containers"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="has numbers of x86-64"),
]

CODE = r"""
import fcntl, time
def event(kind, config, pid=0, cpu=-1, group=-1, flags=8, bits=0, samples=0, size=128, tail=b""):
    attr = bytearray(max(size, 48))
    struct.pack_into("=IIQ", attr, 0, kind, size, config)
    struct.pack_into("=QQQ", attr, 24, samples, 0, bits)
    made = libc.syscall(298, ctypes.create_string_buffer(bytes(attr) + tail), pid, cpu, group, ctypes.c_ulong(flags))
    if made < 0:
        raise OSError(ctypes.get_errno(), "perf_event_open")
    return made
def count(*args, **more):
    fd = event(*args, **more)
    sum(range(100000))
    number = int.from_bytes(os.read(fd, 8), "little")
    results.append([os.readlink(f"/proc/self/fd/{fd}"), number > 0, fcntl.fcntl(fd, fcntl.F_GETFD)])
    return fd
leader = count(1, 1)                                # task-clock
count(1, 1, group=leader, flags=0)
child = os.fork()
if not child:
    import signal; signal.pause()
os.close(event(1, 1, child))
results.append("own child")
tried(event, 1, 2)                                  # page-faults: not named
tried(event, 1, 1, int(sys.argv[1]))                # a number of the host's
tried(event, 1, 1, -1, 0)                           # a whole processor
tried(event, 1, 1, 0, -1, 999)
tried(event, 1, 1, 0, -1, 0)                        # no event
tried(event, 1, 1, 0, -1, -1, 4)                    # a cgroup
tried(event, 1, 1, bits=1 << 29)                    # symbols of the kernel
tried(event, 1, 1, samples=1 << 19)                 # physical addresses
tried(event, 1, 1, size=8)
tried(event, 1, 1, size=5000)
tried(event, 1, 1, size=300)
attr = bytearray(300); struct.pack_into("=IIQ", attr, 0, 1, 300, 1); attr[299] = 1
libc.syscall(298, ctypes.create_string_buffer(bytes(attr)), 0, -1, -1, 0)
results.append(errno.errorcode[ctypes.get_errno()])
os.kill(child, 9)
"""


def test_what_is_counted() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        seen = told(
            CODE,
            other.pid,
            handlers=[families.perf(events=["task-clock"])],
            namespaces=("mnt", "pid"),
        )
    finally:
        other.kill()
        other.wait()
    event = "anon_inode:[perf_event]"
    assert seen[:3] == [[event, True, 1], [event, True, 0], "own child"]
    assert seen[3:-2] == [
        "EACCES", "ESRCH", "EACCES", "EBADF", "EBADF", "EINVAL", "EACCES", "EACCES", "E2BIG", "E2BIG",
    ]  # fmt: skip
    assert isinstance(seen[-2], int) and seen[-1] == "E2BIG"


ORDER = """
libc.syscall.restype = ctypes.c_long
def tell(size, flags, where=None):
    room = ctypes.create_string_buffer(struct.pack("=IIQ", 1, size, 9).ljust(4096, b"\\xff"), 4096)
    libc.syscall(298, room if where is None else ctypes.c_long(where), 0, -1, -1, flags)
    results.append((errno.errorcode[ctypes.get_errno()], *struct.unpack_from("=I", room.raw, 4)))
for size in (8, 1 << 13, 4096):
    tell(size, 0); tell(size, 2); tell(size, 16)
tell(0, 2, 1); tell(0, 16, 1)
"""


def test_what_is_wrong_with_the_structure_comes_before_what_the_rule_refuses() -> None:
    """And the kernel's size is put where another one was."""
    natively = told(ORDER)
    assert natively[0][0] == "E2BIG" and natively[0][1] >= 64
    assert told(ORDER, handlers=[families.perf(events=["task-clock"])]) == natively


def test_no_event_that_is_none() -> None:
    with pytest.raises(proctor.PolicyError, match='did you mean "cpu-clock"'):
        families.perf(events=["cpu-clok"])
