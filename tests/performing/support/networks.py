"""Network namespaces, servers on loopback, and a program's output with and without somebody in between."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ctypes import CDLL, get_errno
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from proctor.call.call import Call
from proctor.call.verdict import Perform
from proctor.performing.networks.connecting import ConnectWay
from proctor.syscalls import tables
from proctor.syscalls.architectures import native
from tests.support.processes import blocked_in, tree

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 1
RANDOM = Path(__file__).parents[1] / "at_random" / "random_sockets.py"


def loopback_up() -> None:
    """Have a loopback interface in this network namespace."""
    with socket.socket() as sock:
        name = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack_from("h", fcntl.ioctl(sock, SIOCGIFFLAGS, name.ljust(40, b"\0")), 16)[
            0
        ]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP).ljust(40, b"\0"))


def within(network: str, what: Callable[[], T]) -> T:
    """What it returns, called in a network namespace: sockets stay there, this process does not.

    :param network: a path of it."""

    def there() -> T:
        with open(network, "rb") as file:
            if CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                raise OSError(get_errno(), "setns")
        return what()

    with ThreadPoolExecutor(1) as thread:  # which goes with its namespace
        return thread.submit(there).result()


def an_executor_waits(call: str) -> bool:
    """Whether an executor of this process is in a system call now."""
    number = tables.number(call, native())
    return any(_is_executor(pid) and blocked_in(pid, number) for pid in tree(os.getpid()))


def _is_executor(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_bytes() == b"proctor-perform\n"
    except OSError:
        return False  # it has ended meanwhile


@contextmanager
def connects_in_turns() -> Iterator[None]:
    """Of four connects that have a short way three go it, if they are of somebody who is known already: two in one native
    call, one step by step."""
    way, turns = ConnectWay.way, itertools.cycle((True, False, True, None))

    def sometimes(self: ConnectWay, listener: Any) -> Any:
        native = way(self, listener)

        def go(call: Call, wish: Perform) -> Any:
            turn = next(turns)
            return None if turn is None else native(call, wish) if turn else self.go(call, wish)

        return go

    with mock.patch.object(ConnectWay, "way", sometimes):
        yield


def in_new_network(function: str, *args: Any) -> Any:
    """What ``module:function`` returns, called in a process of its own in an empty network with a
    loopback interface."""
    done = subprocess.run(
        [
            "unshare",
            "--net",
            sys.executable,
            "-m",
            "tests.performing.support.networks",
            function,
            json.dumps(args),
        ],
        capture_output=True,
        check=False,
        timeout=2900,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.splitlines()[-1])


class Servers:
    """Servers on loopback that accept and drop: TCP and UDP, of IPv4 and IPv6; socket files in a
    directory, and an abstract name."""

    def __init__(self) -> None:
        self.top = tempfile.mkdtemp(prefix="sockets-", dir="/var/tmp")
        os.chmod(self.top, 0o777)
        self._held: list[socket.socket] = []
        self.ports = []
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                sock = socket.socket(family, kind)
                # none that the kernel picks: to such a one of its own a socket may be connected by chance
                self.ports.append(7101 + len(self.ports))
                sock.bind((host, self.ports[-1]))
                self._serve(sock)
        for name, kind in (("stream", 1), ("datagram", 2), ("locked", 1), ("shut/stream", 1)):
            os.makedirs(os.path.dirname(os.path.join(self.top, name)), exist_ok=True)
            sock = socket.socket(socket.AF_UNIX, kind)
            sock.bind(os.path.join(self.top, name))
            os.chmod(os.path.join(self.top, name), 0o600 if name == "locked" else 0o777)
            self._serve(sock)
        os.chmod(os.path.join(self.top, "shut"), 0o700)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(b"\0abstract")
        self._serve(sock)
        Path(self.top, "file").touch()
        os.mkdir(os.path.join(self.top, "deep"))
        os.symlink("stream", os.path.join(self.top, "link"))
        os.symlink("loop", os.path.join(self.top, "loop"))

    def _serve(self, sock: socket.socket) -> None:
        self._held.append(sock)
        if sock.type == socket.SOCK_DGRAM:
            threading.Thread(target=self._drop, args=(sock,), daemon=True).start()
            return
        sock.listen(50)
        threading.Thread(target=self._accept, args=(sock,), daemon=True).start()

    @staticmethod
    def _accept(sock: socket.socket) -> None:
        while True:
            connection, _ = sock.accept()
            threading.Thread(target=Servers._drop, args=(connection,), daemon=True).start()

    @staticmethod
    def _drop(sock: socket.socket) -> None:
        while sock.recv(1 << 17) or sock.type == socket.SOCK_DGRAM:
            pass

    def program(self, seed: int, count: int, which: str, width: int = 64) -> list[str]:
        """argv of the program that makes random calls; no sanitizer's run-time stands its pointers."""
        ports = map(str, self.ports)
        return [
            "env",
            "-u",
            "LD_PRELOAD",
            sys.executable,
            "-I",
            str(RANDOM),
            str(seed),
            str(count),
            which,
            str(width),
            self.top,
            *ports,
        ]

    def close(self) -> None:
        import shutil

        shutil.rmtree(self.top, ignore_errors=True)


def main() -> None:
    from importlib import import_module

    module, _, name = sys.argv[1].partition(":")
    loopback_up()
    print(json.dumps(getattr(import_module(module), name)(*json.loads(sys.argv[2]))), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
