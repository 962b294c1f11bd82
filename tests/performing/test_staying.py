"""Who asks an executor stays on its processor for as long as that takes, and the executor follows; nobody else does."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import proctor
from proctor import families
from proctor.performing.executing.processes import Executor
from proctor.performing.executing.steps import Request, Steps

from .test_executor import executor, mother

__all__ = ["executor", "mother"]
ALL = os.sched_getaffinity(0)
#: ANYWHERE and PROCESSOR of executor.h, and where struct head has them.
ANYWHERE, PROCESSOR, WHERE = 0, 2, 16
pytestmark = pytest.mark.skipif(len(ALL) == 1, reason="has one processor")


def seeing(*first: str) -> Request:
    """Where it may run, after these calls that fail."""
    steps = Steps()
    for call in first:
        steps.call(call, 0, 0, 0, 0, 0, bad=0)
    mask = steps.scratch(128)
    made = steps.call("sched_getaffinity", 0, 128, mask)
    steps.want(mask)
    steps.end(made)
    return steps.freeze()


def told(executor: Executor, request: Request, where: int) -> set[int]:
    packet = bytearray(request.fill())
    if struct.unpack_from("=I", packet, WHERE)[0] == ANYWHERE:  # as the core does it
        struct.pack_into("=I", packet, WHERE, where)
    executor.sock.send(packet)
    reply = executor.sock.recv(request.most)
    bits = int.from_bytes(reply[-128:], "little")
    return {cpu for cpu in range(1024) if bits >> cpu & 1}


def test_it_goes_where_it_is_asked_from_and_back(executor: Executor) -> None:
    first, *_, last = sorted(ALL)
    plain, begets = seeing(), seeing("execveat")
    assert told(executor, plain, PROCESSOR + last) == ALL  # once it has replied
    assert told(executor, plain, PROCESSOR + first) == {last}
    assert told(executor, plain, PROCESSOR + first) == {first}
    # what it begins is to be anywhere
    assert told(executor, begets, PROCESSOR + last) == ALL
    assert told(executor, plain, PROCESSOR + last) == ALL
    assert told(executor, plain, ANYWHERE) == ALL
    # no such processor
    assert told(executor, plain, PROCESSOR + 1023) == ALL
    assert told(executor, plain, 0xFFFFFFFF) == ALL


MANY = """
import os, sys
os.chdir(sys.argv[1])
for _ in range(2000):
    os.mkdir("d"), os.rmdir("d")
print(sorted(os.sched_getaffinity(0)))
"""


@pytest.fixture
def busy() -> Iterator[None]:
    yield
    assert os.sched_getaffinity(0) == ALL


@pytest.mark.skipif(os.geteuid() != 0, reason="has a caller that is somebody else")
def test_whoever_asks_is_where_it_was(tmp_path: Path, busy: None) -> None:
    for each in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(each, 0o755)
    os.chown(tmp_path, 1000, 1000)
    seen: set[frozenset[int]] = set()

    def see(call: proctor.Call) -> None:
        seen.add(frozenset(os.sched_getaffinity(0)))  # of the thread that decides

    done = proctor.run(
        ["sh", "-c", 'python3 -ISc "$1" "$2"', "sh", MANY, str(tmp_path)],
        [families.names(), proctor.Handler(["getcwd", "getppid"], see)], uid=1000, gid=1000, groups=(), stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    assert done.stdout.decode().split("\n")[0] == str(sorted(ALL))
    for task in os.listdir("/proc/self/task"):
        assert os.sched_getaffinity(int(task)) == ALL
    assert seen <= {frozenset(ALL)}
