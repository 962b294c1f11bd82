"""``proctor run --agent``: commands of our own, served by an agent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proctor.kernel import scm
from tests.agent.clients import connect, filtered, gone
from tests.agent.running import RunningAgent, eventually
from tests.agent.test_takeover import STORM

Start = Callable[..., RunningAgent]


@pytest.fixture
def running(agent: Start, place: Path) -> Iterator[RunningAgent]:
    yield agent("--run", str(place / "run.sock"))


def command(running: RunningAgent, *words: str) -> list[str]:
    """What runs a command by the agent."""
    return [sys.executable, "-m", "proctor", "run", "--agent", f"{running.place}/run.sock", *words]


def run(running: RunningAgent, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        command(running, *words), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.root
def test_a_command_is_decided_by_the_agents_policy(running: RunningAgent, place: Path) -> None:
    """Paths, devices, constants; and its output, its exit status and its name are what they are."""
    script = (
        f"mknod {place}/null c 1 3 && echo hello > {place}/null && echo device; mkdir {place}/made && "
        "echo made; mkdir /tmp/forbidden-7; chmod 700 .; exit 7"
    )
    done = run(running, "--name", "mine", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (7, "device\nmade\n"), done
    assert "Read-only file system" in done.stderr and "No medium found" in done.stderr
    assert "modes are as they are" in running.heard("ENOMEDIUM")
    running.heard('ended: container "mine"')


def test_descriptors_of_the_shells_are_the_commands(running: RunningAgent) -> None:
    """And nobody else's: the pipe ends when the command has ended."""
    reader, writer = os.pipe()
    program = f"import os; os.write({writer}, b'hello')"
    words = command(running, "--", sys.executable, "-c", program)
    done = subprocess.run(words, pass_fds=[writer], timeout=60, check=False)
    os.close(writer)
    with open(reader) as file:
        assert (done.returncode, file.read()) == (0, "hello")


def test_it_ends_as_the_command_does(running: RunningAgent) -> None:
    assert run(running, "--", "sh", "-c", "kill -9 $$").returncode == -9
    assert run(running, "--", "proctor-has-no-such-command").returncode == 127
    assert run(running, "--", "/etc/passwd").returncode == 126
    assert run(running, "--", "true").returncode == 0


def test_a_program_s_name_may_be_any_bytes(running: RunningAgent, place: Path) -> None:
    """The container has its name from it, and the agent is told that in JSON."""
    program = place / os.fsdecode(b"odd-\xff")
    program.symlink_to(sys.executable)
    done = run(running, "--", str(program), "-IS", "-c", "print(7)")
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr
    running.heard("odd-\N{REPLACEMENT CHARACTER}-")


def test_it_waits_for_all_that_the_command_leaves_behind(
    running: RunningAgent, place: Path
) -> None:
    """As without an agent: until nobody uses the filter any more."""
    fifo = place / "fifo"
    os.mkfifo(fifo)
    late = f"(read x < {fifo}; mkdir /tmp/forbidden-8; echo late) &"
    started = subprocess.Popen(
        command(running, "--", "sh", "-c", late),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    running.heard("served")
    assert started.poll() is None
    fifo.write_text("go\n")
    said, _ = started.communicate(timeout=30)
    assert "Read-only file system" in said and "late" in said
    assert started.returncode == 0


def test_the_metadata_chooses_the_policy_and_none_is_said(agent: Start, place: Path) -> None:
    policies = place / "policies"
    (policies / "strict.toml").write_text(
        '[[rule]]\nname = "rooms"\ncalls = ["mkdir", "mkdirat"]\ndeny = "EACCES"\n'
    )
    (policies / "containers.toml").write_text(
        '[[container]]\npolicy = "strict"\nmetadata = "tenant-*"\ndoor = "run"\n'
    )
    running = agent("--run", str(place / "run.sock"))
    done = run(running, "--metadata", "tenant-7", "--", "mkdir", str(place / "x"))
    assert done.returncode == 1 and "Permission denied" in done.stderr
    done = run(running, "--", "true")
    assert done.returncode == 125
    assert "no [[container]] of containers.toml fits it" in done.stderr


def test_without_an_agent_it_says_so(place: Path) -> None:
    words = [sys.executable, "-m", "proctor", "run", "--agent", f"{place}/none.sock", "--", "true"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 125
    assert done.stderr == (
        f"proctor: no agent launches at {place}/none.sock: No such file or directory\n"
    )


@pytest.mark.parametrize("words", [["--policy", "x.toml"], ["--summary"], ["--limit", "3"]])
def test_what_the_agent_decides_is_not_said_here(place: Path, words: list[str]) -> None:
    made = [sys.executable, "-m", "proctor", "run", "--agent", "x", *words, "--", "true"]
    done = subprocess.run(made, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 125 and f"{words[0]} cannot go with --agent" in done.stderr


def test_no_call_is_lost_when_monitors_die(running: RunningAgent, tmp_path: Path) -> None:
    """And whoever launched it still knows its end from its middle."""
    over = tmp_path / "over"
    words = command(running, "--name", "storm", "--", sys.executable, "-c", STORM, str(over))
    with subprocess.Popen(words) as started:
        try:
            running.heard("served")
            for times in (1, 2, 3):
                os.kill(running.serving, signal.SIGKILL)
                running.heard("took over", times)
        finally:
            over.touch()
        assert started.wait(100) == 0
    running.heard('ended: container "storm"')


def test_nothing_is_left_of_commands_that_are_over(running: RunningAgent) -> None:
    assert run(running, "--", "mkdir", "/tmp/forbidden-1").returncode == 1
    before = running.descriptors
    for _ in range(5):
        assert run(running, "--", "mkdir", "/tmp/forbidden-1").returncode == 1
    eventually(lambda: running.descriptors <= before)


@pytest.mark.parametrize(
    "said",
    [
        b"nonsense",
        b'{"id": ""}',
        b'{"id": 7}',
        b'{"id": "' + b"x" * 2000 + b'"}',
        b'{"id": "x", "more": 1}',
        b'{"pid": 1}',
    ],
)
def test_nonsense_is_refused(running: RunningAgent, said: bytes) -> None:
    with connect(f"{running.place}/run.sock", socket.SOCK_SEQPACKET) as sock:
        scm.send(sock, said)
        assert "error" in json.loads(scm.receive(sock).data)
        assert gone(sock)
    assert run(running, "--", "true").returncode == 0


def test_wrong_descriptors_are_refused_and_closed(running: RunningAgent) -> None:
    """None, one, two that are no listener, a hundred."""
    before = running.descriptors
    null = os.open(os.devnull, os.O_RDONLY)
    for count in (0, 1, 2, 100):
        with connect(f"{running.place}/run.sock", socket.SOCK_SEQPACKET) as sock:
            scm.send(sock, b'{"id": "x"}')
            assert "program" in json.loads(scm.receive(sock, 1 << 18).data)
            scm.send(sock, b'{"pid": 1}', [null] * count)
            assert "error" in json.loads(scm.receive(sock).data)
            assert gone(sock)
    os.close(null)
    eventually(lambda: running.descriptors <= before)


def test_what_tells_the_end_is_a_pipe(running: RunningAgent) -> None:
    """It is closed where nobody may wait."""
    with (
        filtered("true") as target,
        connect(f"{running.place}/run.sock", socket.SOCK_SEQPACKET) as sock,
        open(os.devnull) as file,
    ):
        listener = target.take_listener()
        scm.send(sock, b'{"id": "x"}')
        scm.receive(sock, 1 << 18)
        scm.send(sock, json.dumps({"pid": target.pid}).encode(), [listener, file.fileno()])
        os.close(listener)
        assert "is no pipe but" in json.loads(scm.receive(sock).data)["error"]


def test_who_is_silent_holds_up_nobody(running: RunningAgent) -> None:
    path = f"{running.place}/run.sock"
    idle = [connect(path, socket.SOCK_SEQPACKET) for _ in range(300)]
    assert run(running, "--", "true").returncode == 0
    for each in idle:
        each.close()


def test_a_user_may_not_bring_processes_of_others(agent: Start, place: Path) -> None:
    """A user who may connect, and a command that is not his."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    running = agent("--run", f"{place}/run.sock,uid=65534,mode=0666")
    with filtered("sleep", "1000") as target:
        listener = target.take_listener()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setresuid(65534, 65534, 65534)
            with connect(f"{place}/run.sock", socket.SOCK_SEQPACKET) as sock:
                scm.send(sock, b'{"id": "x"}')
                scm.receive(sock, 1 << 18)
                scm.send(sock, json.dumps({"pid": target.pid}).encode(), [listener, writer])
                os._exit("is not one of user 65534" not in scm.receive(sock).data.decode())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        for each in (listener, reader, writer):
            os.close(each)
        assert running.ask(do="ps")["containers"] == []
