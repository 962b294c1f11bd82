"""systemd as the keeper, played by a manager that does as sd_notify(3) says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proctor.agent.systemd import Store
from proctor.errors import ProctorError
from proctor.kernel import scm
from tests.agent.clients import hand_over
from tests.agent.running import eventually

#: Takes descriptors from a socket, puts them where a service finds them, and becomes it.
BECOME = """
import fcntl, os, socket, sys
sock, count, names = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
fds = []
while len(fds) < count:
    fds += socket.recv_fds(sock, 1, 1)[1]
high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200) for fd in fds]
for place, fd in enumerate(high):
    os.dup2(fd, 3 + place)
for fd in range(3 + count, 200):
    try: os.close(fd)
    except OSError: pass
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), LISTEN_FDNAMES=names)
os.execv(sys.executable, [sys.executable, "-m", "proctor", *sys.argv[4:]])
"""


class Manager:
    """A service manager with one service: proctor agent."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.store: dict[str, int] = {}
        self.said: list[str] = []
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(place / "notify"))
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()
        self.process: subprocess.Popen[bytes] | None = None

    def _listen(self) -> None:
        while True:
            message = scm.receive(self.sock)
            words = dict(line.split("=", 1) for line in message.data.decode().splitlines())
            if "STOP" in words:
                return
            self.said.append(message.data.decode())
            name = words.get("FDNAME", "")
            assert ":" not in name and name.isprintable() and len(name) <= 255
            if "FDSTORE" in words:
                (fd,) = message.fds
                assert name not in self.store
                self.store[name] = fd
            elif "FDSTOREREMOVE" in words:
                if name in self.store:
                    os.close(self.store.pop(name))
            else:  # BARRIER: what counts is that it is closed
                message.close()

    def start(self) -> None:
        """Start the service with what is in the store."""
        ours, theirs = socket.socketpair()
        ready = self.said.count("READY=1")
        names, fds = list(self.store), list(self.store.values())
        with ours, theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-c", BECOME, str(theirs.fileno()), str(len(fds)), ":".join(names),
                    "agent", "--keeper", "systemd", "--policy-dir", str(self.place / "policies"),
                    "--oci", str(self.place / "oci.sock"), "--control", str(self.place / "control.sock"),
                ],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "NOTIFY_SOCKET": str(self.place / "notify"), "WATCHDOG_USEC": "200000"},
            )  # fmt: skip
            for fd in fds:
                socket.send_fds(ours, [b"x"], [fd])
            eventually(lambda: self.said.count("READY=1") > ready, 60)

    def end(self, number: int) -> int:
        """End the service by a signal, whose store stays."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"STOP=1", str(self.place / "notify"))
        self.thread.join(30)
        self.sock.close()
        for fd in self.store.values():
            os.close(fd)


@pytest.fixture
def manager(place: Path) -> Iterator[Manager]:
    made = Manager(place)
    yield made
    made.close()


CALLS = (
    "import os, sys\n"
    "odd = 0\n"
    "for _ in range(8000):\n"
    "    try: os.chmod('/tmp', 0o1777); odd += 1\n"
    "    except OSError as problem: odd += problem.errno != 123\n"
    "os._exit(min(odd, 100))\n"
)


def test_a_service_that_is_killed_or_restarted_loses_no_call(manager: Manager) -> None:
    manager.start()
    command = (sys.executable, "-c", CALLS)
    with hand_over(str(manager.place / "oci.sock"), "storm", *command) as target:
        eventually(lambda: sum(name.startswith("listener ") for name in manager.store) == 3)
        for number, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 0)):
            assert manager.end(number) == status
            manager.start()
        assert target.wait(100) == 0
    eventually(lambda: not any(name.startswith("listener ") for name in manager.store))
    assert any(name.startswith("socket ") for name in manager.store)


def test_a_listener_that_hung_up_meanwhile_is_forgotten(manager: Manager) -> None:
    """The manager drops it from the store; its journal and its record go as well."""
    manager.start()
    with hand_over(str(manager.place / "oci.sock"), "short", "sleep", "1000") as target:
        eventually(lambda: sum(name.startswith("listener ") for name in manager.store) == 3)
        manager.end(signal.SIGKILL)
        target.kill()
        target.wait(30)
    (hung,) = [
        name for name in manager.store if name.endswith("@0") and name.startswith("listener")
    ]
    os.close(manager.store.pop(hung))
    manager.start()
    eventually(lambda: not any(name.startswith("listener ") for name in manager.store))


def test_signs_of_life_are_given(manager: Manager) -> None:
    manager.start()
    eventually(lambda: manager.said.count("WATCHDOG=1") > 2)


def test_sockets_of_a_unit_are_used(manager: Manager) -> None:
    """deploy/systemd/proctor-agent.socket: what connects before the service runs waits for it."""
    path = str(manager.place / "oci.sock")
    with socket.socket(socket.AF_UNIX) as unit:
        unit.bind(path)
        unit.listen()
        inode = os.stat(path).st_ino
        manager.store["proctor-agent.socket"] = os.dup(unit.fileno())
        with hand_over(path, "early", "mkdir", "/tmp/forbidden-1") as target:
            manager.start()
            assert target.wait(60) == 1
        assert not any(name.startswith(f"socket {path}") for name in manager.store)
        assert manager.end(signal.SIGTERM) == 0
        assert os.stat(path).st_ino == inode
        with hand_over(path, "between", "mkdir", "/tmp/forbidden-2") as target:
            manager.start()
            assert target.wait(60) == 1


def test_without_a_manager_it_says_so() -> None:
    with pytest.raises(ProctorError, match="NOTIFY_SOCKET"):
        Store({})
    with pytest.raises(ProctorError, match="/nowhere"):
        Store({"NOTIFY_SOCKET": "/nowhere"})


def test_a_manager_that_does_not_read_is_trouble(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proctor.agent.systemd._PATIENCE", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(place / "notify"))
        store = Store({"NOTIFY_SOCKET": str(place / "notify")})
        with open("/dev/null") as null, pytest.raises(ProctorError, match="does not read"):
            store.keep("policies", [null.fileno()])
