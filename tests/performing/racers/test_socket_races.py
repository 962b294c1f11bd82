"""Racers of the socket families: addresses that are exchanged while they are connected, sent or bound to, by
calls of 64 bits, of i386 and of its socketcall.

PROCTOR_RACES says how many tries each has (make test-races).  What was reached is seen from outside.
"""

from __future__ import annotations

import errno
import os
import platform
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import proctor
from proctor import families
from tests.performing.support.callers import compiled
from tests.performing.support.containers import inside
from tests.support.processes import eventually

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of other ids want the host's root"),
    pytest.mark.timeout(3000),
]
TRIES = int(os.environ.get("PROCTOR_RACES", "1000"))
WIDTHS = (64, 32, 102) if platform.machine() == "x86_64" else (64,)


@pytest.fixture(scope="module")
def program() -> Iterator[str]:
    with compiled("socket_racer") as made:
        yield made


class Server:
    """One on loopback that counts who comes."""

    def __init__(self, kind: int, family: int = socket.AF_INET, port: int = 0) -> None:
        self.came = 0
        self.sock = socket.socket(family, kind)
        self.sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", port))
        self.port = self.sock.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            self.sock.listen(4096)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                if self.sock.type == socket.SOCK_DGRAM:
                    if self.sock.recvfrom(9)[1] is None:  # it was shut down
                        return
                else:
                    one, _ = self.sock.accept()
                    one.close()
            except OSError:
                return
            self.came += 1

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RD)
        self.thread.join()
        self.sock.close()


@contextmanager
def servers(*kinds: tuple[int, int]) -> Iterator[list[Server]]:
    made: list[Server] = []
    try:
        for kind, family in kinds:
            made.append(Server(kind, family))
        yield made
    finally:
        for each in made:
            try:
                each.close()
            except OSError as error:  # a socket of datagrams is connected to nobody
                assert error.errno == errno.ENOTCONN
                each.thread.join()
                each.sock.close()


def race(program: str, kind: str, width: int, call: str, when: str, ports: list[int]) -> int:
    """How many of the calls were made."""
    family = {"connect": families.connect, "bind": families.bind, "send": families.send}[call]
    calls = ["sendto", "sendmsg", "sendmmsg"] if call == "send" else [call]
    handlers = [
        family(when={"address": when}, network="host"),
        proctor.Handler([*calls, "socketcall"], lambda call: proctor.deny(errno.ECONNREFUSED)),
    ]
    done = inside(
        [program, kind, str(width), str(TRIES), *map(str, ports)], handlers,
        namespaces=("mnt", "net"), timeout=2900,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "won" not in done.stdout
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["connect", "length"])
def test_nobody_else_is_connected_to(program: str, kind: str, width: int) -> None:
    family = socket.AF_INET6 if kind == "length" else socket.AF_INET
    stream = socket.SOCK_STREAM
    with servers((stream, socket.AF_INET), (stream, family)) as (allowed, other):
        when = f"inet:127.0.0.1:{allowed.port}"
        made = race(program, kind, width, "connect", when, [allowed.port, other.port])
        eventually("all that were made have come", lambda: allowed.came >= made)
    assert made and other.came == 0


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["sendto", "sendmsg"])
def test_nobody_else_is_sent_anything(program: str, kind: str, width: int) -> None:
    datagram = (socket.SOCK_DGRAM, socket.AF_INET)
    with servers(datagram, datagram) as (allowed, other):
        when = f"inet:127.0.0.1:{allowed.port}"
        assert race(program, kind, width, "send", when, [allowed.port, other.port])
    assert allowed.came and not other.came


@pytest.mark.parametrize("width", WIDTHS)
def test_nobody_else_sends_it(program: str, width: int) -> None:
    command = [program, "says", str(width), str(TRIES), "0", "0"]
    done = inside(command, [families.send()], namespaces=("mnt", "pid"), timeout=2900)
    assert (done.returncode, done.stderr) == (0, "")
    assert "won" not in done.stdout
    assert 0 < int(done.stdout.split()[-1]) <= TRIES + 1


@pytest.mark.parametrize("width", WIDTHS)
def test_no_other_port_is_bound(program: str, width: int) -> None:
    free = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as one:
            free.append(one.getsockname()[1])
    assert race(program, "bind", width, "bind", f"inet:127.0.0.1:{free[0]}", free)


@pytest.mark.parametrize("width", WIDTHS)
def test_whoever_looks_and_lets_run_is_beaten(program: str, width: int) -> None:
    """The racer does what it is for: a monitor that has the kernel read the address again loses."""

    @proctor.on("connect", "socketcall")
    def look(call: proctor.Call) -> proctor.Verdict:
        if call.name == "socketcall" and call.registers[0] != 3:
            return proctor.let_run()
        if call.addr.port != allowed.port:
            return proctor.deny(errno.ECONNREFUSED)
        return proctor.let_run_unsafe("to be beaten")

    kinds = [(socket.SOCK_STREAM, socket.AF_INET)] * 2
    with servers(*kinds) as (allowed, other):
        ports = [allowed.port, other.port]
        command = [program, "connect", str(width), "20000", *map(str, ports)]
        proctor.run(command, [look], check=True, capture_output=True, timeout=600)
    assert other.came
