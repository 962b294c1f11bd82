"""A runtime's connection outlives the monitor, wherever that dies between its beginning and the container's."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import itertools
import os
import select
import signal
import socket
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proctor.agent.doors.oci import OciDoor
from proctor.agent.keeper import Keeper
from proctor.agent.keeping import Item, KeptBy, look_into
from proctor.agent.sockets import peer_of
from proctor.kernel import scm
from tests.agent.clients import connect, filtered, gone, hand_over, state
from tests.agent.running import RunningAgent, eventually
from tests.agent.test_lxc_door import Monitor
from tests.agent.test_takeover import answer

Start = Callable[..., RunningAgent]

#: Has a monitor kill itself before or behind a function of its own, once a file is there, which is gone then.
KILLS = """
import importlib, os, signal, sys
if "--kept-by" in sys.orig_argv:
    armed, module, path, when = ARGUMENTS
    owner = importlib.import_module(module)
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    real = getattr(owner, name)
    def die():
        try:
            os.unlink(armed)
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
    def planted(*args, **how):
        if when == "before":
            die()
        try:
            return real(*args, **how)
        finally:
            if when == "behind":
                die()
    setattr(owner, name, planted)
"""
#: Makes a directory that the policy denies, waits for a file, and makes it again: what came of both.
TWICE = """
import os, sys
def made():
    try: os.mkdir("/tmp/forbidden-x")
    except OSError as problem: return problem.errno
    return 0
first = made()
open(sys.argv[1], "wb").close()
open(sys.argv[2], "rb").close()
os._exit(first if first == made() else 255)
"""
KEPT = "proctor.agent.kept Keeps."
AGENT = "proctor.agent.agent Agent."
OCI = "proctor.agent.doors.oci "
LXC = "proctor.agent.doors.lxc "
BOTH = [
    "proctor.agent.keeping KeptBy._answer before",
    f"{KEPT}accept behind",
    f"{KEPT}forget before",
    f"{KEPT}forget behind",
]
STREAM = [
    f"{OCI}_Arriving.__init__ behind",
    f"{OCI}_Arriving.read before",
    f"{OCI}OciDoor.look before",
    f"{OCI}parse behind",
    f"{AGENT}_keep before",
    f"{AGENT}_keep behind",
    f"{AGENT}_serve before",
    f"{AGENT}_serve behind",
    f"{OCI}_Arriving._begin before",
    f"{OCI}_Arriving.close behind",
]
#: Of one that comes in pieces.
PIECES = [
    f"{KEPT}keep_arriving before",
    f"{KEPT}keep_arriving behind",
    "proctor.agent.doors.text Text.receive before",
    "proctor.agent.doors.text Text.receive behind",
]
DATAGRAM = [
    f"{KEPT}keep_connection before",
    f"{KEPT}keep_connection behind",
    f"{LXC}_Connection.read before",
    f"{LXC}LxcDoor.ask before",
    f"{LXC}LxcDoor.ask behind",
]


class Planted:
    """An agent whose monitor dies at a point, once."""

    def __init__(self, start: Start, place: Path, point: str, *options: str) -> None:
        self.armed = place / "armed"
        (place / "planted").mkdir()
        arguments = (str(self.armed), *point.split())
        code = KILLS.replace("ARGUMENTS", repr(arguments))
        (place / "planted/sitecustomize.py").write_text(code)
        self.agent = start(*options, by=["env", f"PYTHONPATH={place}/planted"])
        self.agent.ask(do="ps")  # the policies' texts are kept by then
        self._fds = f"/proc/{self.agent.process.pid}/fd"
        self._before = len(os.listdir(self._fds))

    def arm(self) -> None:
        self.armed.touch()

    def died(self) -> None:
        """It has, and the next one serves."""
        self.agent.heard("ended with status -9")
        self.agent.heard("took over")
        assert not self.armed.exists()

    def keeps_nothing(self) -> None:
        """All that it kept of a container is let go."""
        eventually(lambda: len(os.listdir(self._fds)) == self._before)


@pytest.mark.parametrize("point", BOTH + STREAM + PIECES)
def test_a_state_is_heard_by_the_next_monitor(agent: Start, place: Path, point: str) -> None:
    """Whole, once, with its listener."""
    planted = Planted(agent, place, point)
    fifos = [str(place / name) for name in ("one", "other")]
    for each in fifos:
        os.mkfifo(each)
    planted.arm()
    first = 1 if point in PIECES else None
    command = (sys.executable, "-c", TWICE, *fifos)
    with hand_over(planted.agent.socket, "web", *command, first=first) as target:
        planted.died()
        with open(fifos[0], "rb"):
            pass
        rows = planted.agent.ask(do="ps")["containers"]
        assert [(row["container"], row["listeners"]) for row in rows] == [("web", 1)]
        with open(fifos[1], "wb"):
            pass
        assert target.wait(60) == errno.EROFS
    planted.keeps_nothing()


@pytest.mark.parametrize("point", BOTH + DATAGRAM)
def test_a_question_is_heard_by_the_next_monitor(agent: Start, place: Path, point: str) -> None:
    """It is answered, and so is the one behind it."""
    lxc = str(place / "lxc.sock")
    planted = Planted(agent, place, point, "--lxc", lxc)
    fifos = [str(place / name) for name in ("one", "other")]
    for each in fifos:
        os.mkfifo(each)
    planted.arm()
    asks = Monitor(lxc, filtered(sys.executable, "-c", TWICE, *fifos))
    try:
        asks.ask()
        planted.died()
        assert asks.answer() == (0, -errno.EROFS, 0)
        with open(fifos[0], "rb"):
            pass
        rows = planted.agent.ask(do="ps")["containers"]
        assert [row["listeners"] for row in rows] == [1]
        with open(fifos[1], "wb"):
            pass
        asks.ask()
        assert asks.answer() == (0, -errno.EROFS, 0)
        assert asks.target.wait(60) == errno.EROFS
    finally:
        asks.close()
    planted.keeps_nothing()


def test_a_state_in_pieces_is_heard_by_the_next_monitor(agent: Start, place: Path) -> None:
    """Larger than any socket's room, and with its listener behind something else: one monitor after another has a piece of it."""
    running = agent()
    before = len(os.listdir(f"/proc/{running.process.pid}/fd"))
    more = {"id": "pieces", "annotations": {str(n): "x" * 1000 for n in range(1000)}}
    data = state("pieces", fds=["other", "seccompFd"], state=more)
    with (
        filtered("mkdir", "/tmp/forbidden-x") as target,
        connect(running.socket) as sock,
        open(os.devnull) as null,
    ):
        listener = target.take_listener()
        scm.send(sock, data[:20], [null.fileno(), listener])
        os.close(listener)
        ends = [20, 4096, 300_000, len(data) - 1, len(data)]
        for times, (at, end) in enumerate(itertools.pairwise(ends), 1):
            eventually(lambda: not unread(sock))
            os.kill(running.serving, signal.SIGKILL)
            running.heard("took over", times)
            sock.sendall(data[at:end])
        running.heard('served: container "pieces"')
        assert gone(sock)  # it was read, so that nobody is told of a reset
        assert target.wait(60) == 1
    running.heard('ended: container "pieces"')
    eventually(lambda: len(os.listdir(f"/proc/{running.process.pid}/fd")) <= before + 1)


def unread(sock: socket.socket) -> int:
    """What the other side has not taken out (SIOCOUTQ, unix(7): with what the kernel keeps beside it)."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


class Containers:
    """Takes all, and keeps nothing."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.forgotten: list[str] = []
        self.kept: list[tuple[str, int]] = []

    def admit(self, facts: Any, listener: int, **more: Any) -> None:
        self.names.append(facts.id)
        os.close(listener)

    def keep_arriving(self, connection: str, boxed: int) -> None:
        self.kept.append((connection, len(look_into(boxed).fds)))

    def forget(self, name: str) -> None:
        self.forgotten.append(name)


@pytest.fixture
def door() -> Iterator[tuple[OciDoor, Containers, asyncio.AbstractEventLoop, list[str]]]:
    loop = asyncio.new_event_loop()
    containers, told = Containers(), []
    made = OciDoor(loop, "/oci.sock", containers, told.append)  # type: ignore[arg-type]
    yield made, containers, loop, told
    made.close()
    loop.close()


def test_small_pieces_are_taken_out_before_there_is_no_room_for_more(door: Any) -> None:
    """They fill the socket when hardly any bytes are there."""
    made, containers, loop, told = door
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours.setblocking(False)
    with filtered("true") as target:
        listener = target.take_listener()
        data = state("small", note="x" * 3000)
        scm.send(ours, data[:1], [listener])
        os.close(listener)
        sent = 1
        with pytest.raises(BlockingIOError):
            while sent < len(data):
                sent += ours.send(data[sent : sent + 1])
        assert sent < len(data)  # the rest has no room
        made.connected(theirs, peer_of(theirs), "silent 1")
        writer = select.poll()
        writer.register(ours, select.POLLOUT)
        while sent < len(data):
            if writer.poll(0):
                sent += ours.send(data[sent:])
            loop._run_once()
        while not containers.names:
            loop._run_once()
        assert (containers.names, containers.forgotten, told) == (["small"], ["silent 1"], [])
        assert containers.kept == [("silent 1", 2)]  # memory and the listener; of no sender
        assert ours.recv(1) == b""
    ours.close()


def kept_by(keeper: Keeper, asks: int) -> tuple[KeptBy, socket.socket, Any]:
    """A monitor's side of a keeper that hears so many questions."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made = KeptBy(ours)
    scm.send(theirs, b'{"first": true, "version": 1, "accepts": true}')
    assert made.first()
    return made, theirs, answer(keeper, theirs, asks)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"\0proctor-test-{os.getpid()}")
        made.listen()
        made.setblocking(False)
        yield made


def test_a_keeper_accepts(listening: socket.socket) -> None:
    item = Item("socket /oci.sock", (os.dup(listening.fileno()),))
    keeper = Keeper([], [item], str)
    monitor, theirs, answering = kept_by(keeper, 4)
    with connect(listening.getsockname()) as client, theirs:
        connection, name = monitor.accept("socket /oci.sock", "silent 1") or (None, "")
        assert connection is not None and name == "silent 1"
        with pytest.raises(BlockingIOError):
            monitor.accept("socket /oci.sock", "silent 2")
        assert monitor.accept("socket /other.sock", "silent 2") is None
        assert list(keeper._kept) == ["socket /oci.sock", "silent 1"]
        client.sendall(b"x")
        assert connection.recv(1) == b"x"
        connection.close()
        monitor.forget("silent 1")
        assert gone(client)
    answering.join(20)
    item.close()


def test_what_a_keeper_has_no_room_for_is_the_monitors_alone(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = Item("socket /oci.sock", (os.dup(listening.fileno()),))
    keeper = Keeper([], [item], str)
    monkeypatch.setattr(keeper, "_most", 3)
    monitor, theirs, answering = kept_by(keeper, 1)
    with connect(listening.getsockname()) as client, theirs:
        connection, name = monitor.accept("socket /oci.sock", "silent 1") or (None, "silent 1")
        assert connection is not None and name == ""
        answering.join(20)
        assert list(keeper._kept) == ["socket /oci.sock"]
        connection.close()
        assert gone(client)
    item.close()


def test_what_a_keeper_accepts_late_is_not_lost(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitor accepts for itself while it stands still, and is told that it is owed something."""
    monkeypatch.setattr("proctor.agent.keeping._PATIENCE", 0.05)
    item = Item("socket /oci.sock", (os.dup(listening.fileno()),))
    keeper = Keeper([], [item], str)
    monitor, theirs, answering = kept_by(keeper, 0)
    with connect(listening.getsockname()) as client, theirs:
        assert not monitor.owes
        assert monitor.accept("socket /oci.sock", "silent 1") is None
        assert monitor.owes
        answer(keeper, theirs, 1).join(20)
        connection, name = monitor.accept("socket /oci.sock", "silent 2") or (None, "")
        assert connection is not None and name == "silent 1" and not monitor.owes
        client.sendall(b"x")
        assert connection.recv(1) == b"x"
        connection.close()
    answering.join(20)
    item.close()
    keeper._kept["silent 1"].close()


def test_what_is_accepted_late_is_no_other_sockets(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which has other users and another protocol."""
    monkeypatch.setattr("proctor.agent.keeping._PATIENCE", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind("")  # a name that the kernel picks
        other.listen()
        items = [
            Item("socket /oci.sock", (os.dup(listening.fileno()),)),
            Item("socket /lxc.sock", (os.dup(other.fileno()),)),
        ]
        keeper = Keeper([], items, str)
        monitor, theirs, answering = kept_by(keeper, 0)
        with connect(listening.getsockname()), theirs:
            assert monitor.accept("socket /oci.sock", "silent 1") is None
            answer(keeper, theirs, 1).join(20)
            monkeypatch.setattr("proctor.agent.keeping._PATIENCE", 20)
            asked = answer(keeper, theirs, 1)
            with pytest.raises(BlockingIOError):
                monitor.accept("socket /lxc.sock", "silent 2")
            asked.join(20)
            assert monitor.owes
            connection, name = monitor.accept("socket /oci.sock", "silent 3") or (None, "")
            assert connection is not None and name == "silent 1" and not monitor.owes
            connection.close()
        answering.join(20)
        for item in items:
            item.close()
        keeper._kept["silent 1"].close()


def test_a_keeper_of_before_does_not_accept() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monitor = KeptBy(ours)
    scm.send(theirs, b'{"first": true, "version": 1}')
    assert monitor.first()
    assert monitor.accept("socket /oci.sock", "silent 1") is None
    assert not select.select([theirs], [], [], 0)[0]  # it is not asked
    ours.close()
    theirs.close()
