"""Users whose descriptors cannot be closed: nobody else waits for that."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proctor.agent import accepting, dropping, lingering
from proctor.agent.accepting import Acceptor
from proctor.agent.control import Control
from proctor.agent.sockets import Peer
from tests.support.lingering import lingering as lingering_socket
from tests.support.stuck import without_flush

from .clients import connect, gone, hand_over
from .running import RunningAgent, eventually

Start = Callable[..., RunningAgent]

LATE = 70010


@pytest.mark.parametrize("count", [1, 3])
def test_who_has_too_much_that_is_not_closed_is_not_let_in(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And who comes after him does not wait, nor does he for what he sent."""
    loop = asyncio.new_event_loop()
    told: list[str] = []
    came: list[socket.socket] = []
    peers = iter([Peer(1, LATE, LATE)] * count + [Peer(1, os.getuid(), 0)])
    monkeypatch.setattr(accepting, "peer_of", lambda sock: next(peers))
    monkeypatch.setitem(dropping.dropped._left, LATE, dropping.MOST)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0proctor-{os.getpid()}-late-{count}")
        listening.listen()
        listening.setblocking(False)
        acceptor = Acceptor(
            loop, listening, [LATE, os.getuid()], lambda sock, *_: came.append(sock), told.append
        )
        clients = [connect(listening.getsockname()) for _ in range(count + 1)]
        readers = []
        for client in clients[:count]:
            sent, reader = lingering_socket()
            with sent:
                socket.send_fds(client, [b"x"], [sent.fileno()])
            readers.append(reader)
        loop._run_once()  # type: ignore[attr-defined]
        assert len(came) == 1 and acceptor._pause is None
        assert [f"what user {LATE} sent cannot be closed" in each for each in told] == [
            True
        ] * count
        for client in clients[:count]:
            client.settimeout(60)
            assert gone(client)
        acceptor.close()
        for each in (*clients, *came, *readers):
            each.close()
    loop.close()


def test_what_comes_with_a_question_to_the_agent_holds_up_only_its_user() -> None:
    """Nobody has use for it there."""
    user = 70005
    loop = asyncio.new_event_loop()
    nothing: Any = None
    control = Control(loop, nothing, nothing, nothing, "/the/log")
    sent, reader = lingering_socket()
    ours, theirs = socket.socketpair()
    with ours, reader:
        theirs.setblocking(False)
        with sent:
            socket.send_fds(ours, [b'{"do": '], [sent.fileno()])
        ours.send(b'"log"}\n')
        control.connected(theirs, Peer(1, user, user))
        (task,) = control._tasks
        loop.run_until_complete(task)
        assert dropping.dropped.left(user) > 0  # somebody else waits, not we
        assert json.loads(ours.recv(1000)) == {"monitor": os.getpid(), "log": "/the/log"}
        while reader.recv(1 << 20):
            pass
        eventually(lambda: not dropping.dropped.left(user))
    loop.close()


def test_strangers_do_not_wait_for_what_they_sent() -> None:
    """Nor for a process that could not be had to close it."""
    turning = dropping.TurningAway()
    for _ in range(2):
        ours, theirs = socket.socketpair()
        sent, reader = lingering_socket()
        with sent:
            socket.send_fds(ours, [b"x"], [sent.fileno()])
        turning.close(LATE, theirs)
        ours.settimeout(60)
        assert gone(ours)
        ours.close()
        reader.close()
    assert turning._mother is not None
    turning._mother.close()
    ours, theirs = socket.socketpair()
    turning.close(LATE, theirs)
    ours.settimeout(60)
    assert gone(ours)
    ours.close()


SENDS = """
import os, socket, sys
where, file = sys.argv[1:]
sock = socket.socket(socket.AF_UNIX)
fd = os.open(file, os.O_RDONLY)
os.setuid(65534)
sock.connect(where)
socket.send_fds(sock, [b"nonsense"], [fd])
sock.shutdown(socket.SHUT_WR)
sock.recv(1)
"""


@pytest.mark.root
@pytest.mark.parametrize("how", ["killed", "replaced", "ended"])
def test_a_monitor_that_cannot_die_holds_up_nobody(
    how: str, place: Path, agent: Start, tmp_path: Path
) -> None:
    """No signal ends the flush of a file whose FUSE server does not answer it."""
    stuck = without_flush(os.fsencode(tmp_path))
    users = place / "users.sock"
    try:
        running = agent("--oci", f"{users},uid=65534,mode=0666")
        old = running.serving
        # not opened here: whoever executes a program closes it, and waits
        file = str(tmp_path / "mnt/file")
        sender = subprocess.Popen([sys.executable, "-S", "-c", SENDS, str(users), file])
        stuck.wait(1)
        if how == "ended":
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(60) == 0
        else:
            with hand_over(running.socket, "web", "sleep", "1000") as target:
                running.heard("served")
                if how == "killed":
                    os.kill(old, signal.SIGKILL)
                else:
                    running.process.send_signal(signal.SIGHUP)
                running.heard("took over 1 containers")
                assert running.serving != old
                assert [each["container"] for each in running.ask(do="ps")["containers"]] == ["web"]
                target.kill()
                target.wait(30)
            # who is replaced ends by itself
            assert lingering.lingers(old) == (-signal.SIGKILL if how == "killed" else 0)
    finally:
        stuck.close()
    sender.kill()
    sender.wait()


#: Sends a file with the first byte of a state, and nothing after that.
HOLDS = """
import os, socket, sys
file = os.open(sys.argv[2], os.O_RDONLY)
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
socket.send_fds(sock, [b"{"], [file])
print("sent", flush=True)
sock.recv(1)
"""
ASKS = """
default = "allow"
[[rule]]
name = "rooms"
calls = ["mkdir", "mkdirat"]
ask = { how = "command", run = ["/bin/echo", "allow"], timeout = 60, default = "EXDEV" }
"""


@pytest.mark.root
def test_a_users_file_holds_up_no_question(place: Path, agent: Start, tmp_path: Path) -> None:
    """Whoever is asked is a program that the monitor starts, and what is open there is closed as that begins: it would
    wait for the file's server, and so would the monitor."""
    (place / "policies/default.toml").write_text(ASKS)
    stuck = without_flush(os.fsencode(tmp_path))
    users = place / "users.sock"
    try:
        running = agent("--oci", f"{users},uid=65534,mode=0666")
        file = str(tmp_path / "mnt/file")
        sender = subprocess.Popen(
            [sys.executable, "-S", "-c", HOLDS, str(users), file], stdout=subprocess.PIPE
        )
        assert sender.stdout is not None and sender.stdout.readline() == b"sent\n"
        stuck.wait(1)  # which the monitor closes, and has not kept
        call = f"import os; os.mkdir({str(place)!r} + '/x')"
        with hand_over(running.socket, "web", sys.executable, "-S", "-c", call) as target:
            assert target.wait(60) == 0, running.said  # as answered, and not the default
    finally:
        stuck.close()
    sender.kill()
    sender.wait()
    sender.stdout.close()


def test_what_lives_does_not_linger(tmp_path: Path) -> None:
    assert lingering.lingers(os.getpid()) is None
    child = subprocess.Popen(["sleep", "1000"])
    assert lingering.lingers(child.pid) is None
    child.kill()
    pidfd = os.pidfd_open(child.pid)
    select.select([pidfd], [], [])
    os.close(pidfd)
    assert lingering.lingers(child.pid) == -9
    child.wait()
    assert lingering.lingers(child.pid) is None
