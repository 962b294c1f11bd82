"""The end in order, on purpose: what is in flight is waited for; and a monitor replaced by a command."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.clients import hand_over
from tests.agent.running import RunningAgent, eventually
from tests.asking.test_programs import Listener

Start = Callable[..., RunningAgent]

ASKS = """
[[rule]]
name = "rooms"
calls = ["mkdir", "mkdirat"]
ask = {{ how = "socket", at = "{place}/ask", timeout = 60, default = "EXDEV" }}
"""


class Slow:
    """Somebody who is asked, and thinks until he is told to answer."""

    def __init__(self, place: Path) -> None:
        (place / "policies/default.toml").write_text(ASKS.format(place=place))
        self.answers = threading.Event()
        self.was_asked = threading.Event()
        self._listener = Listener(f"{place}/ask", self._answer)

    def _answer(self, line: dict[str, object]) -> bytes:
        self.was_asked.set()
        assert self.answers.wait(60)
        return b"allow\n"

    def close(self) -> None:
        """Answers, and is gone."""
        self.answers.set()
        self._listener.close()


@pytest.fixture
def slow(place: Path) -> Iterator[Slow]:
    made = Slow(place)
    yield made
    made.close()


def test_what_is_in_flight_is_waited_for(agent: Start, place: Path, slow: Slow) -> None:
    """SIGTERM: nobody is let in any more, but who was asked still decides; and then all is let go."""
    running = agent("--drain", "60")
    with hand_over(running.socket, "asks", "mkdir", str(place / "made")) as target:
        assert slow.was_asked.wait(30)
        running.process.send_signal(signal.SIGTERM)
        running.heard("stops; calls in flight are waited for: 1, at most 60 seconds")
        slow.answers.set()
        assert target.wait(30) == 0 and (place / "made").is_dir()
        assert running.process.wait(30) == 0


@pytest.mark.parametrize("how", ["twice", "in time"])
def test_who_is_asked_in_vain_is_not_waited_for_longer(
    agent: Start, place: Path, slow: Slow, how: str
) -> None:
    running = agent("--drain", {"twice": "60", "in time": "0.2"}[how])
    with hand_over(running.socket, "asks", "mkdir", str(place / "made")) as target:
        assert slow.was_asked.wait(30)
        running.process.send_signal(signal.SIGTERM)
        running.heard("calls in flight are waited for: 1")
        if how == "twice":
            running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0
        assert target.wait(30) == 1 and not (place / "made").exists()


def test_a_monitor_is_replaced_by_a_command(agent: Start) -> None:
    """It returns when the new one serves; the containers are those that were there."""
    running = agent()
    with hand_over(running.socket, "stays", "sleep", "1000") as target:
        running.heard("served")
        old = running.serving
        command = [sys.executable, "-m", "proctor", "agent", "--upgrade", "--control"]
        done = subprocess.run(
            [*command, running.control], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert (
            done.stderr == f"proctor: monitor {running.serving} has taken over from monitor {old}\n"
        )
        assert running.ask(do="ps")["containers"][0]["container"] == "stays"
        target.kill()
        target.wait(30)


def test_one_that_nobody_keeps_cannot_be(agent: Start) -> None:
    running = agent("--keeper", "none")
    command = [sys.executable, "-m", "proctor", "agent", "--upgrade", "--control"]
    done = subprocess.run([*command, running.control], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--keeper none" in done.stderr


@pytest.mark.parametrize("keeper", ["own", "none"])
def test_a_pid_file(agent: Start, place: Path, keeper: str) -> None:
    """Is there once it serves, names whoever is to get signals, and goes; a link there is not followed."""
    file, other = place / "pid", place / "other"
    other.write_text("somebody's")
    (place / "pid.new").symlink_to(other)
    running = agent("--pid-file", str(file), "--keeper", keeper)
    eventually(file.exists)
    assert file.read_text() == f"{running.process.pid}\n"
    assert other.read_text() == "somebody's"
    if keeper == "own":  # it is the keeper's: with a monitor nothing changes
        os.kill(running.serving, signal.SIGKILL)
        running.heard("took over")
        assert file.read_text() == f"{running.process.pid}\n"
    os.kill(int(file.read_text()), signal.SIGTERM)
    assert running.process.wait(30) == 0 and not file.exists()


def test_a_pid_file_that_cannot_be_is_said(agent: Start, place: Path) -> None:
    with pytest.raises(AssertionError, match="pid: No such file or directory"):
        agent("--pid-file", str(place / "nowhere/pid"))


def scrape(path: str) -> bytes:
    """What a socket answers to a request of Prometheus' kind."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(path)
        try:
            sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            with sock.makefile("rb") as answer:
                return answer.read()
        except (BrokenPipeError, ConnectionResetError):
            return b""


def test_metrics_by_a_socket(agent: Start, place: Path, slow: Slow) -> None:
    """Its next monitor has it, too; what waits is seen, and afterwards how long it did."""
    path = str(place / "metrics.sock")
    running = agent("--metrics", path)
    with hand_over(running.socket, "asks", "mkdir", str(place / "made")) as target:
        assert slow.was_asked.wait(30)
        assert b'proctor_in_flight{policy="default"} 1.0' in scrape(path)
        began = time.monotonic()
        slow.answers.set()
        assert target.wait(30) == 0
    took = b'proctor_answer_seconds_count{policy="default"} 1.0'
    eventually(lambda: took in scrape(path))
    text = scrape(path).decode()
    (line,) = [each for each in text.splitlines() if each.startswith("proctor_answer_seconds_sum")]
    assert 0 < float(line.split()[-1]) < time.monotonic() - began + 60
    os.kill(running.serving, signal.SIGKILL)
    running.heard("took over")
    assert b"proctor_policy_generation" in scrape(path)


def test_metrics_of_a_socket_are_not_for_everybody(agent: Start, place: Path) -> None:
    path = str(place / "metrics.sock")
    agent("--metrics", f"{path},uid={os.getuid() + 1},mode=0666")
    assert scrape(path) == b""
