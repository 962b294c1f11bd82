"""Many containers, idle ones and such that come and go: what the agent has of them is in proportion, and
nothing stays.  Processes with a filter stand for containers; tools/test-agent takes thousands."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agent.clients import hand_over
from tests.agent.running import RunningAgent, eventually
from tests.agent.runtimes import missing

LISTENERS = int(os.environ.get("PROCTOR_LISTENERS", "150"))
VISITS = int(os.environ.get("PROCTOR_VISITS", "120"))
#: Threads that may be made where the machine has no time for those that are there; they stay, and wait for more.
WORKERS = 10
#: Sleeps, and takes little memory for it.
_PAUSE = "#include <unistd.h>\nint main(void) { return pause(); }\n"


def memory(running: RunningAgent) -> int:
    """KiB that keeper and monitors have by themselves, also by their share in what they have together.  What they have
    of files is theirs by how many others run the same Python just then: megabytes come and go with those."""
    total = 0
    for pid in (running.process.pid, *running.monitors):
        with open(f"/proc/{pid}/smaps_rollup") as file:
            own = [line for line in file if line.startswith(("Pss_Anon:", "Pss_Shmem:"))]
        total += sum(int(line.split()[1]) for line in own)
    return total


def threads(running: RunningAgent) -> int:
    """How many keeper and monitors have."""
    pids = (running.process.pid, *running.monitors)
    return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids)


@pytest.fixture
def pause(place: Path) -> str:
    lacks = missing("gcc")
    if lacks:
        pytest.skip(f"needs {lacks}")
    words = ["gcc", "-Os", "-static", "-x", "c", "-", "-o", f"{place}/pause"]
    subprocess.run(words, input=_PAUSE.encode(), check=True)
    return f"{place}/pause"


@pytest.mark.root
def test_idle_listeners_cost_little_and_hold_up_nobody(
    agent: Callable[..., RunningAgent], pause: str
) -> None:
    """Each has its policy; one more container is answered; and with them goes what they took."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    running = agent()
    with hand_over(running.socket, "first", "mkdir", "/tmp/forbidden-1") as target:
        assert target.wait(60) == 1
    running.heard('ended: container "first"')
    before, fds, tasks = memory(running), running.descriptors, threads(running)
    with ExitStack() as stack:
        for number in range(LISTENERS):
            target = stack.enter_context(hand_over(running.socket, f"idle-{number}", pause))
            assert target.executed(60)
        eventually(lambda: len(running.ask(do="ps")["containers"]) == LISTENERS, 120)
        each = (memory(running) - before) / LISTENERS
        assert each < 16, f"{each:.1f} KiB for each listener"
        assert threads(running) < tasks + WORKERS
        with hand_over(running.socket, "last", "mkdir", "/tmp/forbidden-2") as target:
            assert target.wait(60) == 1
    eventually(lambda: not running.ask(do="ps")["containers"], 120)
    eventually(lambda: running.descriptors <= fds, 60)
    assert threads(running) < tasks + WORKERS


@pytest.mark.root
def test_containers_that_come_and_go_leave_nothing(agent: Callable[..., RunningAgent]) -> None:
    """Descriptors, threads, processes and memory stay as they are."""
    running = agent()

    def visits(count: int) -> None:
        for number in range(count):
            with hand_over(
                running.socket, f"visit-{number}", "mkdir", "/tmp/forbidden-3"
            ) as target:
                assert target.wait(60) == 1
        eventually(lambda: not running.ask(do="ps")["containers"], 60)

    visits(VISITS // 2 + min(256, VISITS // 2))  # so many are remembered for proctor why
    processes = running.monitors
    before, fds, tasks = memory(running), running.descriptors, threads(running)
    visits(VISITS // 2)
    eventually(lambda: running.descriptors <= fds, 60)
    assert running.monitors == processes and threads(running) < tasks + WORKERS
    assert memory(running) - before < 2048, "KiB more than half way"
