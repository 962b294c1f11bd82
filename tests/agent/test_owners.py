"""Whose process a number is that a runtime sends."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from proctor.agent import owners
from proctor.agent.doors import oci
from proctor.agent.owners import Named, owner_userns
from proctor.agent.sockets import Peer, peer_of
from proctor.kernel.pidfd import number_of

from .clients import filtered, state


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection whose peer we are."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_what_comes_of_the_peer_is_pinned(pair: tuple[socket.socket, socket.socket]) -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        try:
            for pid in (child.pid, os.getpid()):
                with Named.said(pid, pair[0], "web") as named:
                    assert named.pid == pid == number_of(named.pidfd)
        finally:
            child.kill()
            child.wait()
        with Named.said(child.pid, pair[0], "web") as named:
            assert named.pid == 0  # gone
    for nobody in (0, 1 << 30):
        with Named.said(nobody, pair[0], "web") as named:
            assert named.pid == 0


@pytest.mark.root
@pytest.mark.parametrize(
    ("group", "known"),
    [("/web", True), ("/a/docker-web.scope", True), ("/lxc.payload.web/x", True), ("/x:runc:web", True),
     ("/webs", False), ("/aweb", False), ("/web-1.scope", False), ("/", False)],
)  # fmt: skip
def test_what_does_not_come_of_it_is_known_by_its_group(
    group: str,
    known: bool,
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Process 1 is not ours: a number that was another's, or is one of another pid namespace."""

    def groups(path: str, **more: Any) -> io.StringIO:
        assert path == "/proc/1/cgroup"
        return io.StringIO(f"1:name=x:/\n0::{group}\n")

    monkeypatch.setattr(owners, "open", groups, raising=False)
    with Named.said(1, pair[0], "web") as named:
        assert named.pid == known


@pytest.mark.root
def test_a_peer_that_is_gone_has_no_descendants() -> None:
    script = (
        "import socket, subprocess, sys; s = socket.socket(socket.AF_UNIX); s.connect(chr(0) + sys.argv[1]); "
        "print(subprocess.Popen(['sleep', '1000'], stdout=subprocess.DEVNULL).pid)"
    )
    with socket.socket(socket.AF_UNIX) as listening:
        name = f"proctor-{os.getpid()}-owners"
        listening.bind(f"\0{name}")
        listening.listen()
        done = subprocess.run(
            [sys.executable, "-S", "-c", script, name],
            check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        child = int(done.stdout)
        connection, _ = listening.accept()
        try:
            with connection, Named.said(child, connection, "web") as named:
                assert named.pid == 0
        finally:
            os.kill(child, 9)


@pytest.mark.root
def test_a_strange_number_gives_no_rights(pair: tuple[socket.socket, socket.socket]) -> None:
    """Of a runtime of root's: what has the number now is in a pid namespace of a user namespace's, and would be
    believed."""
    ours, theirs = pair
    theirs.setblocking(False)
    loop = asyncio.new_event_loop()
    found: list[tuple[int, ...]] = []

    def admit(facts: object, listener: int, *, fresh: bool, process: Named, came_by: str) -> None:
        os.close(listener)
        found.append(owner_userns(process, 0))

    containers: Any = SimpleNamespace(admit=admit)
    door = oci.OciDoor(loop, "/x", containers, pytest.fail)
    # as of a runtime whose container's first process has ended: not ours
    script = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL).pid)"
    words = ["unshare", "-U", "-r", "-p", "-f", "--kill-child", "sleep", "1000"]
    done = subprocess.run(
        ["setsid", sys.executable, "-S", "-c", script, *words],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    stranger = int(done.stdout)
    try:
        inner: list[str] = []
        while not inner:
            with open(f"/proc/{stranger}/task/{stranger}/children") as file:
                inner = file.read().split()
        with filtered("true") as target:
            listener = target.take_listener()
            socket.send_fds(ours, [state("x", pid=int(inner[0]))], [listener])
            os.close(listener)
            door.connected(theirs, peer_of(theirs))
            while not found:
                loop._run_once()  # type: ignore[attr-defined]
            target.kill()
    finally:
        os.kill(stranger, 9)
    assert found == [(os.stat("/proc/self/ns/user").st_ino,)]
    door.close()
    loop.close()
    assert Peer(os.getpid(), 0, 0) == peer_of(ours)
