"""A monitor is replaced on purpose, and no caller notices: what is being performed is brought to its end, or begun anew."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

import proctor
from proctor.kernel import scm
from tests.agent.clients import connect, filtered, state
from tests.agent.running import RunningAgent, eventually, opening

Start = Callable[..., RunningAgent]

PERFORMED = """
default = "allow"
[[rule]]
name = "what is performed"
calls = ["open", "openat", "mkdir", "mkdirat"]
when = {{ path = "{place}/**" }}
perform = true
[[rule]]
name = "all else"
calls = ["open", "openat", "mkdir", "mkdirat"]
allow = "unsafe: a test"
"""

#: Opens a FIFO and says with which errno, once: the C library does not try again, as Python does.
OPENS = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.open(sys.argv[1].encode(), 0)
print(ctypes.get_errno() if fd < 0 else open(fd).read(), flush=True)
"""

#: Makes directories of its own, each once, from several threads; every errno is counted, and is the exit status.
MAKES = """
import ctypes, os, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
odd = []
def make(which):
    for number in range(int(sys.argv[2])):
        if libc.mkdir(f"{sys.argv[1]}/{which}.{number}".encode(), 0o755):
            odd.append(ctypes.get_errno())
threads = [threading.Thread(target=make, args=[which]) for which in range(4)]
for each in threads: each.start()
for each in threads: each.join()
print(odd, flush=True)
os._exit(min(len(odd), 100))
"""


@pytest.fixture
def running(agent: Start, place: Path) -> RunningAgent:
    (place / "policies/default.toml").write_text(PERFORMED.format(place=place))
    return agent("--drain", "1")


@pytest.fixture
def calls() -> Iterator[Callable[..., tuple[proctor.Target, TextIO]]]:
    """Starts a program whose opens and mkdirs are notified to an agent."""
    made: list[tuple[proctor.Target, TextIO]] = []
    rule = proctor.Rule(("open", "openat", "mkdir", "mkdirat"), proctor.actions.NOTIFY)
    program = proctor.Filter([rule]).compile().code

    def start(running: RunningAgent, script: str, *words: str) -> tuple[proctor.Target, TextIO]:
        out, theirs = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        target = proctor.launch(
            [sys.executable, "-S", "-c", script, *words],
            program=program,
            fds=[(null, 0), (theirs, 1), (null, 2)],
        )
        os.close(theirs)
        os.close(null)
        listener = target.take_listener()
        with connect(running.socket) as sock:
            scm.send(sock, state("calls"), [listener])
        os.close(listener)
        made.append((target, os.fdopen(out)))
        return made[-1]

    yield start
    for target, said in made:
        target.kill()
        target.wait(30)
        said.close()


def replace(running: RunningAgent) -> None:
    """By the next one, as a user does."""
    before = len([line for line in running.said if "took over" in line])
    os.kill(running.process.pid, signal.SIGHUP)
    running.heard("took over", before + 1)


@pytest.mark.root
def test_what_waits_goes_on_with_the_next_monitor(
    running: RunningAgent, place: Path, calls: Callable[..., tuple[proctor.Target, TextIO]]
) -> None:
    """An open of a FIFO is performed anew, and ends as if nothing had been."""
    os.mkfifo(place / "fifo")
    target, said = calls(running, OPENS, str(place / "fifo"))
    for _ in range(2):
        eventually(opening)
        replace(running)
    with open(place / "fifo", "w") as file:
        file.write("here it is")
    assert said.read() == "here it is\n"
    assert target.wait(30) == 0
    assert not [line for line in running.said if "when this monitor was replaced" in line]


def test_nothing_is_done_twice_and_nothing_is_interrupted(
    running: RunningAgent, place: Path, calls: Callable[..., tuple[proctor.Target, TextIO]]
) -> None:
    """A storm of calls, each of which could not be made a second time."""
    target, said = calls(running, MAKES, str(place), "400")
    running.heard("served")
    replaced = 0
    while target.poll() is None and replaced < 4:
        replace(running)
        replaced += 1
    assert replaced
    assert said.read() == "[]\n"
    assert len(list(place.glob("?.*"))) == 1600


@pytest.mark.root
def test_a_monitor_that_does_not_leave_is_killed(
    running: RunningAgent, place: Path, calls: Callable[..., tuple[proctor.Target, TextIO]]
) -> None:
    """It is stopped: what it performed is as if it had died of itself, and this only opens what is there."""
    os.mkfifo(place / "fifo")
    _, said = calls(running, OPENS, str(place / "fifo"))
    eventually(opening)
    before = opening()
    os.kill(running.serving, signal.SIGSTOP)
    replace(running)
    eventually(lambda: opening() - before)  # who is dying would take the other end with him
    with open(place / "fifo", "w") as file:
        file.write("here it is")
    assert said.read() == "here it is\n"


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGKILL])
def test_a_silent_connection_is_the_next_monitors(running: RunningAgent, how: int) -> None:
    """As crun's, which connects when a container is created, and sends when it is started."""
    keeper = f"/proc/{running.process.pid}/fd"
    running.ask(do="ps")  # the policies' texts are kept by then
    before = len(os.listdir(keeper))
    with connect(running.socket) as sock, connect(running.socket) as other:
        if how == signal.SIGHUP:
            replace(running)
        else:
            eventually(lambda: len(os.listdir(keeper)) == before + 2)
            os.kill(running.serving, signal.SIGKILL)
            running.heard("took over")
        with filtered("mkdir", "/tmp/x/y") as target:
            listener = target.take_listener()
            scm.send(sock, state("late"), [listener])
            os.close(listener)
            running.heard('served: container "late"')
            assert target.wait(30) == 1
        other.shutdown(socket.SHUT_WR)
        assert select.select([other], [], [], 30)[0] and other.recv(1) == b""
    running.heard('ended: container "late"')
    eventually(lambda: len(os.listdir(keeper)) == before)
