"""What one user of an agent's doors can have of it, others being there."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import proctor
from proctor.agent import serve
from proctor.agent.doors.launches import LaunchDoor
from proctor.agent.doors.turned_away import AT_ONCE, TurnedAway
from proctor.agent.facts import Facts
from proctor.agent.held import BYTES, LISTENERS, weight
from proctor.agent.sockets import Peer
from proctor.kernel import scm
from tests.agent.clients import connect, filtered, gone, hand_over, state
from tests.agent.running import RunningAgent, eventually

Start = Callable[..., RunningAgent]


@pytest.mark.root
def test_a_user_has_so_many_listeners_and_no_more(agent: Start, place: Path) -> None:
    """He needs one process for all of them; and what another one brings is served."""
    users = f"{place}/users.sock"
    running = agent("--oci", f"{users},uid=65534,mode=0666")
    with filtered("sleep", "1000") as target, hand_over(running.socket, "web", "true") as first:
        first.wait(30)
        listener = target.take_listener()
        pid = os.fork()
        if pid == 0:
            try:
                os.setresuid(65534, 65534, 65534)
                for _ in range(LISTENERS + 1):
                    with connect(users) as sock:
                        # always the same id: what is replaced is served as well
                        scm.send(sock, state("mine", pid=0), [listener])
                        assert gone(sock)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.close(listener)
        running.heard(f"this user has {LISTENERS} listeners, and gets no more")
        before = running.descriptors
        with hand_over(running.socket, "other", "sleep", "1000") as other:
            running.heard('served: container "other"')
            other.kill()
            other.wait(30)
        target.kill()
        target.wait(30)
    eventually(lambda: running.descriptors < before - LISTENERS)


@pytest.mark.root
def test_what_a_user_says_of_his_containers_is_so_long_and_no_longer(
    agent: Start, place: Path
) -> None:
    """It is kept for each of them, here and for the next monitor; what belongs to one that was served before has that one's."""
    users = f"{place}/users.sock"
    running = agent("--oci", f"{users},uid=65534,mode=0666")

    def bring(id: str, status: str, listener: int, annotations: dict[str, str]) -> None:
        said = {"id": id, "status": status, "pid": 0, "annotations": annotations}
        with connect(users) as sock:
            data = state(id, pid=0, state=said)
            scm.send(sock, data[:100], [listener])
            sock.sendall(data[100:])
            assert gone(sock)

    long = {"x": "A" * (BYTES // 10)}
    with filtered("sleep", "1000") as target, hand_over(running.socket, "web", "true") as first:
        first.wait(30)
        listener = target.take_listener()
        pid = os.fork()
        if pid == 0:
            try:
                os.setresuid(65534, 65534, 65534)
                bring("long", "creating", listener, long)
                for _ in range(8):
                    bring("long", "running", listener, {})
                bring("another", "creating", listener, long)
                bring("short", "creating", listener, {})
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.close(listener)
        running.heard('served: container "short"')
        refused = [line for line in running.said if f"longer than {BYTES} bytes together" in line]
        assert len(refused) == 1 and '"another"' in refused[0]
        target.kill()
        target.wait(30)


def test_short_texts_weigh_what_they_take() -> None:
    """Of 4 MiB of these there were some 100 MiB here."""
    many = {f"{number:x}": "" for number in range(10_000)}
    taken = sum(map(sys.getsizeof, many)) + sys.getsizeof(many)
    assert weight(Facts(door="oci", socket="", uid=1, id="x", annotations=many)) >= taken


def test_lines_of_a_log_are_not_as_long_as_a_runtime_likes() -> None:
    """Each has what is known of its container."""
    said = {"io.kubernetes.pod.namespace": "A" * 4_000_000, "io.kubernetes.cri.image-name": "b"}
    labels = Facts(door="oci", socket="", uid=1, id="x", annotations=said).labels()
    assert labels == {"door": "oci", "uid": "1", "namespace": "A" * 512, "image": "b"}


def test_a_signal_is_heard_whatever_threads_have_to_say() -> None:
    """Hundreds of listeners that end at the same time fill the pipe by which they wake the loop."""
    loop: Any = asyncio.new_event_loop()
    before = signal.getsignal(signal.SIGUSR2)
    try:
        with suppress(BlockingIOError):
            while True:
                loop._csock.send(b"\0")
        serve._on_signal(loop, signal.SIGUSR2, loop.stop)
        late = loop.call_later(20, loop.stop)
        os.kill(os.getpid(), signal.SIGUSR2)
        loop.run_forever()
        assert loop.time() < late.when()
    finally:
        signal.signal(signal.SIGUSR2, before)
        loop.close()


def test_who_wants_a_filter_has_it_in_his_users_turn() -> None:
    """To make one takes a while: one at a time, of each user; and what is said often counts once."""
    made: list[tuple[int, str]] = []
    seen: list[int] = []
    loop = asyncio.new_event_loop()

    def filter(facts: Any, more: Any) -> proctor.Filter:
        made.append((facts.uid, facts.id))
        seen.append(len(more))
        if len(made) == 1:
            loop.call_soon(seen.append, -1)  # has its turn between
        return proctor.Filter([])

    commands: Any = SimpleNamespace(filter=filter)
    door = LaunchDoor(loop, "/run.sock", commands, print)
    clients = []
    for uid, id in ((1, "a"), (1, "b"), (1, "c"), (2, "d")):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        scm.send(theirs, b'{"id": "%b", "delegate": ["%%file", "%%file", "mkdir"]}' % id.encode())
        door.connected(ours, Peer(os.getpid(), uid, uid))
        clients.append(theirs)
    while len(made) < 4:
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert made == [(1, "a"), (2, "d"), (1, "b"), (1, "c")]
    assert seen == [2, -1, 2, 2, 2]
    for each in clients:
        said = scm.receive(each)
        assert b"program" in said.data
        said.close()
        each.close()
    door.close()
    loop.close()


def test_who_does_not_wait_for_its_filter_is_not_heard() -> None:
    loop = asyncio.new_event_loop()
    commands: Any = SimpleNamespace(filter=lambda facts, more: proctor.Filter([]))
    refused: list[str] = []
    door = LaunchDoor(loop, "/run.sock", commands, refused.append)
    others, more = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for one in (others, ours):
        one.setblocking(False)
        door.connected(one, Peer(os.getpid(), 1, 1))
    scm.send(more, b'{"id": "first"}')
    for _ in range(2):
        scm.send(theirs, b'{"id": "x"}')
    for _ in range(10):
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert len(refused) == 1 and "more before he is answered" in refused[0]
    for each in (more, theirs):
        each.close()
    door.close()
    loop.close()


def test_who_is_refused_again_and_again_fills_no_log() -> None:
    """Of each user some lines at once, and then one in a second, which is not as long as he likes."""
    told: list[str] = []
    now = 0.0
    away = TurnedAway(told.append, lambda: now)
    for number in range(1000):
        away(f"user 7 (process {number}): {'x' * 60_000}")
    assert len(told) == AT_ONCE and max(map(len, told)) < 2000
    away("user 8 (process 1): nonsense")
    assert told.pop() == "user 8 (process 1): nonsense"
    now = 1.0
    for number in range(1000):
        away(f"user 7 (process {number}): nonsense")
    assert told[AT_ONCE:] == [
        f"user 7 (process 0): nonsense; {1000 - AT_ONCE} others before were not told of"
    ]
    for user in range(10_000):  # of user namespaces
        away(f"user {user} may not connect here (process 1)")
    assert len(away._told) <= 256


@pytest.mark.root
def test_who_is_refused_by_a_thousand_processes_hides_no_trouble(agent: Start, place: Path) -> None:
    """Trouble is counted by what it is about, and the numbers in it are not that."""
    users = f"{place}/users.sock"
    running = agent("--oci", f"{users},uid=65534,mode=0666")
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(65534, 65534, 65534)
            for number in range(2 * AT_ONCE):
                with connect(users) as sock:
                    sock.sendall(b'{"state": {"id": "%d"}}' % number)
                    assert gone(sock)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with connect(running.socket) as sock:
        sock.sendall(b"nonsense}")
        assert gone(sock)
    running.heard("user 0")
    refused = [line for line in running.said if "user 65534" in line]
    assert AT_ONCE <= len(refused) < 2 * AT_ONCE
