"""Nice values, real-time priorities and io classes of a container's own threads, and of nobody else's."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from proctor import families
from proctor.performing.families import scheduling
from tests.performing.support.callers import Performers, caller
from tests.performing.support.containers import told

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make containers")

CODE = """
import signal, threading
param = os.sched_param
def ioprio(who, value):
    if libc.syscall(251, 1, who, value):
        raise OSError(ctypes.get_errno(), "ioprio_set")
def setattr(pid, policy, nice, priority, size=56, flags=0):
    data = struct.pack("=IIQiIQQQII", size, policy, flags, nice, priority, 0, 0, 0, 0, 0)
    if libc.syscall(314, pid, data, 0):
        raise OSError(ctypes.get_errno(), "sched_setattr")
def seen(pid):
    return [os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid), os.sched_getparam(pid).sched_priority]
child = os.fork()
if not child:
    signal.pause()
for pid in (0, child):
    tried(os.setpriority, os.PRIO_PROCESS, pid, -5)
    tried(os.setpriority, os.PRIO_PROCESS, pid, -6)
    tried(seen, pid)
    tried(os.sched_setscheduler, pid, os.SCHED_RR, param(10))
    tried(os.sched_setscheduler, pid, os.SCHED_FIFO, param(11))
    tried(seen, pid)
    tried(os.sched_setparam, pid, param(9))
    tried(os.sched_setscheduler, pid, os.SCHED_OTHER, param(0))
    tried(setattr, pid, os.SCHED_BATCH, -4, 0)
    tried(setattr, pid, os.SCHED_BATCH, -7, 0)
    tried(setattr, pid, os.SCHED_OTHER, 0, 0, 40)
    tried(setattr, pid, 6, 0, 0)
    tried(seen, pid)
    tried(ioprio, pid, 1 << 13 | 3)
    tried(ioprio, pid, 2 << 13 | 3)
tried(os.setpriority, os.PRIO_PROCESS, int(sys.argv[1]), 5)
tried(os.sched_setscheduler, int(sys.argv[1]), os.SCHED_IDLE, param(0))
tried(os.setpriority, os.PRIO_PROCESS, 999999, 5)
tried(os.sched_setscheduler, -1, os.SCHED_IDLE, param(0))
tried(os.sched_setscheduler, 0, os.SCHED_RR, param(100))
os.kill(child, 9)
"""
EACH = [
    None, "EACCES", [-5, 0, 0], None, "EPERM", [-5, 2, 10], None, None, None, "EPERM", "E2BIG", "EINVAL", [-4, 3, 0],
]  # fmt: skip


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """What these tests know of numbers is of programs that nobody made nice."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    except PermissionError:
        pytest.skip("this was started nice, and only root can change that")
    yield
    os.setpriority(os.PRIO_PROCESS, 0, before)


@pytest.mark.parametrize("own_pids", [True, False])
@pytest.mark.parametrize("io", [True, False])
def test_within_bounds_and_within_the_container(own_pids: bool, io: bool) -> None:
    # somebody of the host's, whose number means somebody else inside, or nobody
    other = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        handler = families.scheduling(nice=-5, priority=10, io=io)
        spaces = ("mnt", "pid") if own_pids else ("mnt",)
        seen = told(CODE, other.pid, handlers=[handler], namespaces=spaces)
        strangers: list[Any] = ["ESRCH"] * 2 if own_pids else ["EPERM"] * 2
        expected = [*EACH, None if io else "EPERM", None] * 2
        assert seen == [*expected, *strangers, "ESRCH", "EINVAL", "EINVAL"]
        assert os.getpriority(os.PRIO_PROCESS, other.pid) == os.getpriority(os.PRIO_PROCESS, 0)
        assert os.sched_getscheduler(other.pid) == os.sched_getscheduler(0)
    finally:
        other.kill()
        other.wait()


KEPT = """
def setattr(policy, nice, priority, flags):
    data = struct.pack("=IIQiIQQQII", 56, policy, flags, nice, priority, 0, 0, 0, 0, 0)
    if libc.syscall(314, 0, data, 0):
        raise OSError(ctypes.get_errno(), "sched_setattr")
def seen():
    return [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.sched_getparam(0).sched_priority]
tried(setattr, 0, -5, 0, 8)
tried(setattr, 0, -6, 0, 8)
tried(setattr, os.SCHED_BATCH, 0, 0, 16)
tried(seen)
os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(3))
tried(setattr, 0, 0, 10, 8)
tried(setattr, 0, 0, 11, 8)
tried(setattr, os.SCHED_FIFO, 0, 10, 16)
tried(setattr, 0, 0, 0, 24)
tried(seen)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="has numbers of x86")
def test_what_is_left_as_it_is_is_within_bounds() -> None:
    """SCHED_FLAG_KEEP_POLICY and SCHED_FLAG_KEEP_PARAMS, with which the kernel leaves the policy, too."""
    seen = told(KEPT, handlers=[families.scheduling(nice=-5, priority=10)])
    assert seen == [
        None, "EPERM", None, [-5, 0, 0], None, "EPERM", "EPERM", None, [-5, 2, 10],
    ]  # fmt: skip


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="has numbers of x86")
@pytest.mark.parametrize("io", [True, False])
def test_to_whoever_may_set_it_nobody_is_nobody(io: bool) -> None:
    code = """
def ioprio(who, value):
    if libc.syscall(251, 1, who, value):
        raise OSError(ctypes.get_errno(), "ioprio_set")
for value in (1 << 13 | 3, 4 << 13):
    tried(ioprio, 999999, value)
"""
    seen = told(code, handlers=[families.scheduling(io=io)])
    assert seen == ["ESRCH" if io else "EPERM", "EINVAL"]


SIZES = """
for size, flags in ((0, 0), (47, 0), (48, 0), (48, 96), (56, 0), (64, 0), (4096, 0), (4097, 0), (M32, 0)):
    room = ctypes.create_string_buffer(struct.pack("=IIQ", size, 0, flags), 8192)
    failed = libc.syscall(314, 0, room, 0) and errno.errorcode[ctypes.get_errno()]
    results.append((size, failed, *struct.unpack_from("=I", room.raw)))
room = ctypes.create_string_buffer(b"\1" * 4096, 4096)
struct.pack_into("=I", room, 0, 4096)
results.append((libc.syscall(314, 0, room, 0), ctypes.get_errno(), *struct.unpack_from("=II", room.raw)))
""".replace("M32", str((1 << 32) - 1))


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="has numbers of x86")
def test_sizes_that_are_none_are_told_the_kernels() -> None:
    """A program finds out so what the kernel knows; one of the first size has no clamps."""
    natively = told(SIZES)
    assert [47, "E2BIG", 56] in natively or [47, "E2BIG", 48] in natively
    assert told(SIZES, handlers=[families.scheduling()]) == natively


def test_without_bounds_nothing_is_lent() -> None:
    code = """
os.setpgid(0, 0)
tried(os.setpriority, os.PRIO_PROCESS, 0, -1)
tried(os.setpriority, os.PRIO_PROCESS, 0, 3)
tried(os.setpriority, os.PRIO_PGRP, 0, 4)
tried(os.sched_setscheduler, 0, os.SCHED_BATCH, os.sched_param(0))
tried(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))
"""
    assert told(code, handlers=[families.scheduling()]) == ["EACCES", None, None, None, "EPERM"]


def test_nice_values_that_are_none_are_the_nearest() -> None:
    code = (
        CODE.partition("child =")[0]
        + """
for nice in (-30, 30, -0x80000000):
    tried(setattr, 0, os.SCHED_BATCH, nice, 0)
    tried(seen, 0)
"""
    )
    most = [[-20, 3, 0], [19, 3, 0], [-20, 3, 0]]
    seen = told(code, handlers=[families.scheduling(nice=-20)])
    assert seen == [each for one in most for each in (None, one)]
    refused = told(code, handlers=[families.scheduling(nice=-19)])
    assert refused == ["EPERM", [0, 0, 0], None, most[1], "EPERM", most[1]]


@pytest.mark.parametrize("how", [{"nice": 1}, {"nice": -21}, {"priority": 100}, {"io": 1}])
def test_what_is_no_bound(how: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"nice is|priority is|io is"):
        families.scheduling(**how)


def test_the_right_is_not_lent_for_who_has_the_number_by_then(
    performers: Performers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that was meant is gone, and its number is another one's already."""
    child = os.fork()
    if not child:
        os._exit(0)
    pidfd = os.pidfd_open(child)
    os.waitpid(child, 0)
    with caller(maps="0 100000 65536") as one:
        monkeypatch.setattr(scheduling, "thread", lambda task, number: (one.tid, pidfd))
        wish = scheduling.Options(nice=-5)
        assert one.performed(performers, "setpriority", 0, 7, -5, options=wish) == (
            "errno",
            errno.ESRCH,
        )
        assert os.getpriority(os.PRIO_PROCESS, one.tid) == 0
        own = os.pidfd_open(one.tid)
        monkeypatch.setattr(scheduling, "thread", lambda task, number: (one.tid, own))
        assert one.performed(performers, "setpriority", 0, 7, -5, options=wish) == ("value", 0)
        assert os.getpriority(os.PRIO_PROCESS, one.tid) == -5
    os.close(own)
    os.close(pidfd)
