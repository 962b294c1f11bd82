"""The test tools themselves: nothing survives a test, and what would is noticed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import bpf
from tests.support.constants import NR
from tests.support.harness import Victim
from tests.support.kernel import NEW_LISTENER, Raw
from tests.support.lab import Child, Lab
from tests.support.pipes import VictimDied
from tests.support.processes import TookTooLong, children, descriptors, eventually, state

GETPPID = bpf.notify("getppid")


@pytest.fixture
def other(victim_binary: int) -> Lab:
    """A lab to be closed by the test itself."""
    return Lab(victim_binary)


def test_a_forgotten_descriptor_fails_the_test(other: Lab) -> None:
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        with pytest.raises(AssertionError, match="left open"):
            other.close()
    finally:
        os.close(read)
        os.close(write)


def test_a_descriptor_of_others_that_was_closed_fails_the_test(victim_binary: int) -> None:
    read, write = os.pipe2(os.O_CLOEXEC)
    other = Lab(victim_binary)
    os.close(read)
    with pytest.raises(AssertionError, match="closed by the test"):
        other.close()
    os.close(write)


def test_every_process_of_a_test_ends_with_it(other: Lab) -> None:
    before = children()
    victim, _ = other.listener(GETPPID)
    stopped = victim.fork()
    orphan = stopped.fork()
    waiting = victim.fork()
    own_session = victim.fork()
    own_session.must("setsid")
    waiting.begin_blocked("getppid")
    os.kill(stopped.pid, signal.SIGSTOP)
    stopped.wait_state("T")
    victim.kill()
    deaf = other.victim()
    number = deaf.install(GETPPID, NEW_LISTENER).value
    assert number > 0
    deaf.begin_blocked("getppid")  # waits for itself: nobody else has the listener
    mortals = [victim, stopped, orphan, waiting, own_session, deaf]
    other.close()
    assert [state(actor.pid) for actor in mortals] == [""] * len(mortals)
    assert children() == before


HANGING = """
import pytest
from tests.conftest import lab, victim_binary
from tests.support import bpf
from tests.support.kernel import Raw

@pytest.mark.timeout(1, method="signal")
def test_hangs(lab):
    victim, listener = lab.listener(bpf.notify("getppid"))
    child = victim.fork()
    child.begin_blocked("getppid")
    print("pids", victim.pid, child.pid)
    Raw().recv(listener)
    Raw().recv(listener)
"""


def test_a_test_that_hangs_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    file = tmp_path / "test_hanging.py"
    file.write_text(HANGING)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    run = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(file)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Timeout" in run.stdout
    pids = next(line for line in run.stdout.splitlines() if line.startswith("pids "))
    assert [state(int(pid)) for pid in pids.split()[1:]] == ["", ""]


def test_threads_that_still_block_are_freed(other: Lab, raw: Raw) -> None:
    _, listener = other.listener(GETPPID)
    reader = other.thread(lambda: raw.recv(listener)).blocked(NR["ioctl"])
    other.close()
    assert reader.done()


def test_victims_do_not_outlive_a_killed_test_run(lab: Lab, victim_binary: int) -> None:
    def test_run(us: Child) -> None:
        victim = Victim(binary=victim_binary)
        child = victim.fork()
        child.listen(GETPPID)
        child.begin_blocked("getppid")
        us.tell([victim.pid, child.pid])
        us.wait_for_parent()

    run = lab.child(test_run)
    pids = run.hear()
    os.kill(run.pid, signal.SIGKILL)
    # Their parent is gone, and so are the pipes and the listener: they end by themselves.
    eventually("all victims end", lambda: all(state(pid) in ("", "Z") for pid in pids))


def test_a_victim_inherits_nothing_unasked(lab: Lab) -> None:
    leak = lab.own(os.open("/dev/null", os.O_RDONLY))
    os.set_inheritable(leak, True)
    victim = lab.victim({leak: 77})
    found = descriptors(victim.pid)
    assert set(found) == {0, 1, 2, 77, 199, *range(200, 216)}


def test_many_victims_at_once(lab: Lab) -> None:
    # Our descriptors grow past the numbers that victims use for their pipes.
    victims = [lab.victim({lab.pipe()[0]: 60}) for _ in range(25)]
    assert max(descriptors(os.getpid())) > 215
    for victim in victims:
        assert victim.call("getpid") == (victim.pid, 0)
        found = descriptors(victim.pid)
        pipes = {found[number] for number in (60, 199, *range(200, 216))}
        assert len(pipes) == 18
        assert all(pipe.startswith("pipe:") for pipe in pipes)


def test_a_dead_victim_is_told_from_a_slow_one(lab: Lab) -> None:
    victim = lab.victim()
    pending = victim.begin("ppoll")
    with pytest.raises(TookTooLong, match="state 'S'"):
        pending.result(0.05)
    assert not pending.settled("ppoll")
    os.kill(victim.pid, signal.SIGTERM)
    with pytest.raises(VictimDied, match="gone"):
        pending.result()


def test_an_unknown_command_is_refused(lab: Lab) -> None:
    victim = lab.victim()
    with pytest.raises(AssertionError, match="does not understand"):
        victim.command("dance").result()
    assert victim.call("getpid") == (victim.pid, 0)


def test_memory_larger_than_a_pipe(lab: Lab) -> None:
    victim = lab.victim()
    data = bytes(range(256)) * 150
    address = victim.place(data)
    assert victim.peek(address, len(data)) == data


def test_descriptors_travel_between_victims(lab: Lab) -> None:
    one, two = socket.socketpair()
    with one, two:
        sender = lab.victim({one.fileno(): 60})
        receiver = lab.victim({two.fileno(): 60})
    receiving = receiver.recv_fd(60).blocked("recvmsg")
    number = sender.install(GETPPID, NEW_LISTENER).value
    assert sender.send_fd(60, number).result() == (1, 0)
    arrived = receiving.result().value
    assert descriptors(receiver.pid)[arrived] == "anon_inode:seccomp notify"


def test_a_child_that_fails_says_why(lab: Lab) -> None:
    def fails(_: Child) -> None:
        raise ValueError("on purpose")

    with pytest.raises(AssertionError, match="on purpose"):
        lab.child(fails).result()
