"""Who asks an executor stays on its processor for as long as that takes, and the executor follows; nobody else does."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

import proctor
from proctor import families
from proctor.performing.executing.processes import Executor
from proctor.performing.executing.requests import Request
from proctor.performing.executing.steps import Steps
from tests.performing.executing.test_executor import executor, mother

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
os.sched_setaffinity(0, {int(sys.argv[2])})
for _ in range(40):
    os.getppid()
    for _ in range(10):
        os.mkdir("d"), os.rmdir("d")
"""


def executors() -> list[int]:
    """Who performs for us, and the mother of these."""
    found = [os.getpid()]
    for each in found:
        for task in os.listdir(f"/proc/{each}/task"):
            found += map(int, Path(f"/proc/{each}/task/{task}/children").read_text().split())
    return [each for each in found if Path(f"/proc/{each}/comm").read_text() == "proctor-perform\n"]


@pytest.mark.skipif(os.geteuid() != 0, reason="has a caller that is somebody else")
def test_whoever_asks_is_where_it_was(tmp_path: Path) -> None:
    """Also where answers come from another processor."""
    first, *_, last = sorted(ALL)
    for each in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(each, 0o755)
    os.chown(tmp_path, 1000, 1000)
    seen: list[set[int]] = []

    def see(call: proctor.Call) -> None:
        seen.append(
            os.sched_getaffinity(0)
        )  # of the thread that decides, as the caller is on the last
        for one in executors():
            os.sched_setaffinity(one, {first})

    performs = [families.names(), proctor.Handler(["getppid"], see)]
    command = ["/usr/bin/python3", "-ISc", MANY, str(tmp_path), str(last)]
    proctor.run(command, performs, uid=1000, gid=1000, groups=(), check=True, timeout=60)
    assert len(seen) == 40
    assert all(each == ALL for each in seen)
    assert os.sched_getaffinity(0) == ALL
