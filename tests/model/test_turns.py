"""The victims of the comparison go before their driver, and it does without where they may not."""

from __future__ import annotations

import os
import platform
import signal
from collections import Counter

import pytest

from tests.model.compare import run
from tests.model.operations.tasks import born
from tests.model.probed import missing
from tests.model.real import Real
from tests.model.turns import Turns
from tests.model.twins import World
from tests.support.pipes import Pipes
from tests.support.processes import state

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        (platform.system(), platform.machine()) != ("Linux", "x86_64") or os.geteuid() != 0,
        reason="the victims are driven by root on Linux x86-64",
    ),
]


def _forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("tests.model.turns.os.sched_setscheduler", refuse)


def _allowed() -> bool:
    child = os.fork()
    if child == 0:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


@pytest.fixture
def world():
    before = os.sched_getaffinity(0)
    world = World(remove=missing())
    yield world
    world.close()
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not _allowed(), reason="nobody may be real-time here")
def test_everybody_of_a_victim_goes_first_on_our_processor(world: World):
    child = born(world, world.main, "fork", False)
    thread = born(world, child, "thread", False)
    (ours,) = os.sched_getaffinity(0)
    for twin in (world.main, child, thread):
        assert os.sched_getscheduler(twin.actor.gtid) == os.SCHED_FIFO
        assert os.sched_getaffinity(twin.actor.gtid) == {ours}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.skipif(not _allowed(), reason="nobody may be real-time here")
def test_a_command_is_carried_out_before_we_look(world: World):
    """Not one look finds anybody running, and the reply is there at once."""
    real = world.real
    for _ in range(500):
        real.tell(real.main, "call", 39, pokes=[])  # getpid
        assert real.main.letter() == "S"
        real.pipes.pump()
        real.collect()
        assert real.main.reply == ["r", str(real.main.gpid), "0"]


@pytest.mark.skipif(not _allowed(), reason="nobody may be real-time here")
def test_a_victim_in_a_loop_is_ended_by_the_kernel(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.model.turns.RUNAWAY", 1)
    pipes = Pipes({2: 2}, None)
    turns = Turns(pipes.pid)
    try:
        pipes.reply(0, pipes.pid, 10)
        assert turns.first
        pipes.write(0, "repeat", f"{1 << 62} 39")  # getpid, again and again
        assert pipes.dead(60)
    finally:
        turns.close()
        if state(pipes.pid) != "Z":
            os.kill(pipes.pid, signal.SIGKILL)
        status = os.waitpid(pipes.pid, 0)[1]
        pipes.close()
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_where_it_is_not_allowed_nobody_is_moved(monkeypatch: pytest.MonkeyPatch):
    _forbid(monkeypatch)
    before = os.sched_getaffinity(0)
    real = Real()
    try:
        assert os.sched_getaffinity(0) == before
        assert os.sched_getaffinity(real.main.gpid) == before
        assert os.sched_getscheduler(real.main.gpid) == os.SCHED_OTHER
    finally:
        real.close()


def test_the_worlds_agree_without_an_order_of_turns(monkeypatch: pytest.MonkeyPatch):
    _forbid(monkeypatch)
    counts: Counter[str] = Counter()
    assert run(1000, 2_000_000, counts=counts) == ""
    assert counts.total() >= 1000


def test_who_ran_between_two_looks_is_not_at_rest(world: World):
    actor = world.real.main
    if actor._runs().split() == [b"0", b"0", b"0"]:
        pytest.skip("this kernel does not count how often tasks run")
    assert world.real.settle() == {0: "idle"}
    assert actor.rested()
    world.real.ask(actor, "call", 39)
    world.real.settle()
    actor.look()
    assert actor.rested()
    seen = actor._seen
    world.real.ask(actor, "call", 39)
    assert actor.letter() == seen[0]
    assert not actor.rested()
