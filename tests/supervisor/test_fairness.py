"""What one container does to others, in counts: who floods, and who holds all that it may."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.kernel.launch import launch
from proctor.performing import Performers
from proctor.supervisor.container import Container, Quotas
from proctor.supervisor.world import KernelWorld
from tests.support.stalling import await_threads

pytestmark = pytest.mark.timeout(240)
GETPPID = "110"
FLOOD = 64
CALLS = 200
#: Answers of a flood for each of somebody else's: what waits of it is received at once, in two rounds
#: at most, and meanwhile answered again; anything beyond would grow with the length of the run.
SHARE = 4 * FLOOD


class Machine:
    """A supervisor, and what runs under it."""

    def __init__(self, world: KernelWorld, performers: Performers | None = None) -> None:
        self.supervisor = proctor.Supervisor(world=world, performer=performers).start()
        self._made: list[tuple[Any, int]] = []

    def start(
        self, container: Container, *argv: str, cwd: str = "/", first: bool = False
    ) -> Iterator[str]:
        """What it prints, line by line.

        :param first: its main thread has a processor as soon as it wants one, if we may say so: where a
            machine is busy, how often others are answered before it calls again would be the kernel's doing, and not ours."""
        assert container.handlers is not None
        program = proctor.filter_for(container.handlers)
        assert program is not None
        reader, writer = os.pipe2(os.O_CLOEXEC)
        target = launch(argv, program=program.compile().code, fds=((writer, 1),), cwd=cwd)
        os.close(writer)
        self._made.append((target, reader))
        if first:
            with suppress(PermissionError):
                policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
                os.sched_setscheduler(target.pid, policy, os.sched_param(1))
        self.supervisor.add(proctor.Listener(target.take_listener()), container)
        with open(reader, closefd=False) as file:
            yield from (line.rstrip() for line in file)

    def close(self) -> None:
        for target, reader in self._made:
            target.kill()
            target.close()
            os.close(reader)
        self.supervisor.close()
        await_threads()  # the last to speak to a listener closes it


@pytest.fixture
def machine(make_world: Callable[..., KernelWorld]) -> Iterator[Machine]:
    with Performers() as performers:
        made = Machine(make_world(), performers)
        try:
            yield made
        finally:
            made.close()


# Floods -------------------------------------------------------------------------------------------------


def flooding(cost: int) -> tuple[proctor.Handler, list[int]]:
    """A handler that answers each call with its argument; and how often it was asked, then at each call of
    somebody who does not flood (all of whose arguments but the first are not 0) how often before that.

    :param cost: what it computes for those who flood."""
    counts = [0]

    def answer(call: proctor.Call) -> proctor.Verdict:
        if call.registers[0]:
            counts.append(counts[0])
        else:
            counts[0] += 1
            sum(range(cost))
        return proctor.answer(call.registers[0])

    return proctor.Handler(("getppid",), answer), counts


def share(counts: list[int]) -> float:
    """How many of the flood's calls were answered for each of the other one's, from its first to its last."""
    _, *at = counts
    assert len(at) >= CALLS - 1
    return (at[-1] - at[0]) / (CALLS - 1)


@pytest.mark.parametrize("cost", [0, 10_000], ids=["cheap", "costly"])
def test_a_flood_leaves_other_containers_their_share(
    machine: Machine, caller: str, cost: int
) -> None:
    handler, counts = flooding(cost)
    flood, other = Container("flood", [handler]), Container("other", [handler])
    words = "flood", str(FLOOD), GETPPID, "stay"
    assert next(machine.start(flood, caller, *words)) == "go"
    assert list(machine.start(other, caller, "loop", str(CALLS), GETPPID, first=True)) == ["ok"]
    assert 0 < share(counts) < SHARE


@pytest.mark.parametrize("cost", [0, 10_000], ids=["cheap", "costly"])
def test_a_flood_leaves_others_of_its_container_their_share(
    machine: Machine, caller: str, cost: int
) -> None:
    """The kernel's queue is one, and each thread waits in it once."""
    handler, counts = flooding(cost)
    words = "flood", str(FLOOD), GETPPID, "loop", str(CALLS), GETPPID
    said = machine.start(Container("flood", [handler]), caller, *words, first=True)
    assert [next(said), next(said)] == ["go", "ok"]
    assert 0 < share(counts) < SHARE


# All that one may hold ----------------------------------------------------------------------------------

#: Holds what it can: handlers that do not return, memory that does not answer, FIFOs that nobody opens.
GREEDY = """
import ctypes, fcntl, mmap, os, struct, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(*arguments):
    return libc.syscall(*map(ctypes.c_long, arguments))
uffd = call(323, 0o2000000)
fcntl.ioctl(uffd, 0xC018AA3F, bytearray(struct.pack("=QQQ", 0xAA, 0, 0)))
page = mmap.mmap(-1, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
fcntl.ioctl(uffd, 0xC020AA00, bytearray(struct.pack("=QQQQ", address, 4096, 1, 0)))
os.mkfifo("fifo")
def hold(what, count):
    for _ in range(count):
        threading.Thread(target=what, daemon=True).start()
hold(lambda: os.open("fifo", os.O_RDONLY), 12)
hold(lambda: call(83, address, 0), 2)
os.read(uffd, 32)
print("holds", flush=True)
hold(lambda: call(110), 12)
time.sleep(1000)
"""
#: The same calls, none of which takes long.
MODEST = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
for number in range(int(sys.argv[1])):
    assert libc.syscall(ctypes.c_long(110)) == 7
    try:
        os.mkdir(f"made{number}")
    except OSError as error:
        assert error.errno == 18, error
    else:
        raise AssertionError("it was made")
    fd = os.open(f"new{number}", os.O_RDWR | os.O_CREAT)
    os.close(fd)
print("all")
"""


def _userfaultfd() -> bool:
    fd = ctypes.CDLL(None).syscall(ctypes.c_long(323), os.O_CLOEXEC)
    if fd >= 0:
        os.close(fd)
    return fd >= 0 and os.uname().machine == "x86_64"


@pytest.mark.skipif(
    os.geteuid() != 0 or not _userfaultfd(), reason="takes a userfaultfd of our own"
)
def test_who_holds_all_that_it_may_takes_nothing_from_another(
    machine: Machine, tmp_path: Path
) -> None:
    """By slow handlers, hostile memory and FIFOs at once; all of it is held until the other one is done."""
    release, entered = threading.Event(), threading.Semaphore(0)

    def slow(call: proctor.Call) -> proctor.Verdict:
        entered.release()
        release.wait(200)
        return proctor.answer(7)

    def refuse(call: proctor.Call) -> proctor.Verdict:
        return proctor.deny(18 if call.path else 1)

    def open_it(call: proctor.Call) -> proctor.Verdict:
        return proctor.perform()

    def handlers(first: Callable[[proctor.Call], proctor.Verdict]) -> list[proctor.Handler]:
        return [
            proctor.Handler(("getppid",), first),
            proctor.Handler(("mkdir",), refuse),
            proctor.Handler(("openat",), open_it, performs=True),
        ]

    greedy = Container("greedy", handlers(slow), quotas=Quotas(workers=4))
    modest = Container("modest", handlers(lambda call: proctor.answer(7)))
    places = [tmp_path / name for name in ("greedy", "modest")]
    for place in places:
        place.mkdir()
    python = [sys.executable, "-ISc"]
    try:
        taking = machine.start(greedy, *python, GREEDY, cwd=str(places[0]))
        assert next(taking) == "holds"
        assert entered.acquire(timeout=60)
        said = machine.start(modest, *python, MODEST, "100", cwd=str(places[1]))
        assert list(said) == ["all"]
        assert len(list(places[1].iterdir())) == 100
    finally:
        release.set()
