"""systemd as the keeper, played by a manager that does as sd_notify(3) says."""

from __future__ import annotations

import errno
import os
import select
import shlex
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
from tests.agent.clients import connect, filtered, hand_over, state
from tests.agent.running import eventually
from tests.agent.test_lxc_door import Monitor
from tests.process.test_delegation import rooms

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
        #: Names of what was let go, so far, each with what was left of its kind.
        self.let_go: list[tuple[str, int]] = []
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(place / "notify"))
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()
        self.process: subprocess.Popen[bytes] | None = None
        self.errors = open(place / "errors", "a+")  # noqa: SIM115

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
                    kind = name.split()[0]
                    self.let_go.append((name, sum(each.startswith(kind) for each in self.store)))
            else:  # BARRIER: what counts is that it is closed
                message.close()

    def hang_up(self) -> None:
        """Drop what hung up, as the manager does at any time."""
        poll = select.poll()
        for fd in self.store.values():
            if not os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:"):
                poll.register(fd, 0)
        over = [fd for fd, _ in poll.poll(0)]
        for name in [name for name, fd in self.store.items() if fd in over]:
            os.close(self.store.pop(name))

    def start(self, *options: str) -> None:
        """Start the service with what is in the store."""
        ready = self.said.count("READY=1")
        self.begin(*options)
        eventually(lambda: self.said.count("READY=1") > ready, 60)

    def begin(self, *options: str) -> None:
        """Start it, and wait for nothing."""
        ours, theirs = socket.socketpair()
        names, fds = list(self.store), list(self.store.values())
        with ours, theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-c", BECOME, str(theirs.fileno()), str(len(fds)), ":".join(names),
                    "agent", "--keeper", "systemd", "--policy-dir", str(self.place / "policies"),
                    "--oci", str(self.place / "oci.sock"), "--control", str(self.place / "control.sock"),
                    *options,
                ],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "NOTIFY_SOCKET": str(self.place / "notify"), "WATCHDOG_USEC": "200000"},
                stderr=self.errors,
            )  # fmt: skip
            for fd in fds:
                socket.send_fds(ours, [b"x"], [fd])

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
        self.errors.close()
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
        progress = os.fstat(manager.store["progress@0"]).st_ino
        for number, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 0)):
            assert manager.end(number) == status
            manager.start()
        # and nothing is let go that the next one needs: of a connection all is kept in another way
        spent = ("policies ", "silent ", "arriving ")
        assert not [name for name, _ in manager.let_go if not name.startswith(spent)]
        assert os.fstat(manager.store["progress@0"]).st_ino == progress
        assert target.wait(100) == 0
    eventually(lambda: not any(name.startswith("listener ") for name in manager.store))
    assert any(name.startswith("socket ") for name in manager.store)


def test_what_a_runtime_said_before_it_hung_up_is_heard(manager: Manager) -> None:
    """The manager drops connections that hang up, and while no monitor is there nobody has read them."""
    manager.start()
    made = "import os\ntry: os.mkdir('/tmp/forbidden-x')\nexcept OSError as problem: os._exit(problem.errno)"
    with (
        filtered(sys.executable, "-c", made) as target,
        connect(str(manager.place / "oci.sock")) as sock,
    ):
        eventually(lambda: "silent 1@0" in manager.store)
        manager.end(signal.SIGKILL)
        listener = target.take_listener()
        scm.send(sock, state("late"), [listener])
        os.close(listener)
        sock.close()
        manager.hang_up()
        manager.start()
        assert target.wait(100) == errno.EROFS
    eventually(lambda: not any(name.startswith(("silent ", "listener ")) for name in manager.store))


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


def test_nothing_is_let_go_for_what_takes_its_place(manager: Manager) -> None:
    """A monitor that is killed in between would leave neither to the next."""
    path = str(manager.place / "lxc.sock")
    manager.start("--lxc", path)
    script = "for n in 1 2 3; do mkdir /tmp/forbidden-$n; done"
    asking = Monitor(path, filtered("sh", "-c", script))

    def control(*words: str) -> str:
        words = (sys.executable, "-m", "proctor", *words)
        socket = ("--control", str(manager.place / "control.sock"))
        return subprocess.run([*words, *socket], capture_output=True, text=True, check=True).stdout

    try:
        asking.ask()
        assert asking.answer() == (0, -30, 0)
        assert "monitor" in control("ps")  # it is known whose they are, since a moment
        (manager.place / "policies/other.toml").write_text('default = "allow"\n')
        control("policy", "reload")
        assert (
            manager.let_go.pop(0)[0] == "silent 1@0"
        )  # which is a connection whose question was heard by now
        eventually(lambda: manager.let_go)
        ((name, left),) = manager.let_go
        assert name == "policies 1@0" and left == 1
        asking.ask()
        assert asking.answer() == (0, -30, 0)
        manager.end(signal.SIGKILL)
        # who was killed before it let go of the last policies left both
        manager.store["policies 1@0"] = os.memfd_create("policies")
        manager.start("--lxc", path)
        assert [name for name in manager.store if "policies" in name] == ["policies 3@0"]
        assert "monitor" in control("ps"), "also before it asks again"
        asking.ask()
        assert asking.answer() == (0, -30, 0)
    finally:
        asking.close()
    eventually(lambda: not any(name.startswith(("connection", "known")) for name in manager.store))


#: mkdir until it is no call any more.
UNTIL_NONE = (
    "import errno, os\n"
    "while True:\n"
    "    try: os.mkdir('/tmp/forbidden-1')\n"
    "    except OSError as problem:\n"
    "        if problem.errno != errno.EROFS: os._exit(problem.errno == errno.ENOSYS and 9)\n"
)


@pytest.mark.parametrize("version", ["version 2", "no version"])
def test_what_another_version_left_is_left_to_it(
    manager: Manager, place: Path, version: str
) -> None:
    """The service says so and ends; all is still in the store, and calls wait for whoever understands it."""
    manager.start()
    command = (sys.executable, "-c", CALLS)
    with hand_over(str(place / "oci.sock"), "storm", *command) as target:
        eventually(lambda: sum(name.startswith("listener ") for name in manager.store) == 3)
        manager.end(signal.SIGKILL)
        mine = manager.store.pop("version 1@0")
        if version != "no version":
            manager.store[f"{version}@0"] = mine
        store = dict(manager.store)
        manager.begin()
        assert manager.process is not None and manager.process.wait(60) > 0
        assert manager.store == store
        said = (place / "errors").read_text()
        assert f"what the service manager keeps has {version} of what" in said, said
        assert "Trace" not in said
        manager.store.pop(f"{version}@0", None)
        manager.store["version 1@0"] = mine
        manager.start()
        assert target.wait(100) == 0
    assert manager.store["version 1@0"] == mine, "it was there all the time"


def test_a_listener_that_cannot_be_taken_over_keeps_nobody_waiting(
    manager: Manager, place: Path
) -> None:
    """Its journal is none that is understood: whoever calls there hears that nobody answers, instead of nothing."""
    manager.start()
    command = (sys.executable, "-c", UNTIL_NONE)
    with hand_over(str(place / "oci.sock"), "storm", *command) as target:
        eventually(lambda: sum(name.startswith("listener ") for name in manager.store) == 3)
        # else the state is heard once more, by which it came, and it is served anew
        eventually(lambda: not any(name.startswith("silent ") for name in manager.store))
        manager.end(signal.SIGKILL)
        (journal,) = (
            name for name in manager.store if name.startswith("listener ") and name.endswith("@1")
        )
        os.close(manager.store[journal])
        manager.store[journal] = os.memfd_create("nothing")
        manager.start()
        assert target.wait(100) == 9
    # what the agent says is written by a thread of its own: it may come after what it let go of
    eventually(lambda: "its calls get ENOSYS" in (place / "errors").read_text())
    assert f"{journal.removesuffix('@1')} cannot be taken over" in (place / "errors").read_text()
    eventually(lambda: not any(name.startswith("listener ") for name in manager.store))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_those_below_go_on_by_the_store(manager: Manager, how: int) -> None:
    """A supervisor below a command decides on, one that ended meanwhile lets nothing through, and others register."""
    place = manager.place
    (place / "policies/default.toml").write_text(rooms("EROFS", "**/outer*"))
    (place / "inner.toml").write_text(rooms("ENOSPC", "**/inner*"))
    for name in ("ready", "again", "orphan", "late"):
        os.mkfifo(place / name)
    manager.start("--run", str(place / "run.sock"))
    proctor = shlex.join(
        [sys.executable, "-m", "proctor", "run", "--quiet", "--policy", "inner.toml"]
    )
    orphans = "setsid sh -c 'echo >orphan; read x <late; mkdir inner-late' & echo $PPID >pid; exec sleep 1000"
    lives = "echo >ready; read x <again; mkdir inner1 outer1 free1"
    process = subprocess.Popen(
        [sys.executable, "-m", "proctor", "run", "--agent", f"{place}/run.sock", "--", "sh", "-c",
         f"{proctor} -- sh -c {shlex.quote(orphans)} & {proctor} -- sh -c {shlex.quote(lives)}; "
         f"{proctor} -- mkdir inner2; mkdir inner3 && echo beside; wait"],
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    for name in ("ready", "orphan"):
        (place / name).read_text()
    assert sum(name.startswith("inner listener ") for name in manager.store) == 2 * 3
    assert manager.end(how) == (0 if how == signal.SIGTERM else -how)
    os.kill(int((place / "pid").read_text()), signal.SIGKILL)
    manager.hang_up()
    manager.start("--run", str(place / "run.sock"))
    (place / "again").write_text("\n")
    (place / "late").write_text("\n")
    text, _ = process.communicate(timeout=60)
    for room, why in (
        ("inner1", "No space left on device"), ("outer1", "Read-only file system"),
        ("inner2", "No space left on device"), ("inner-late", "Function not implemented"),
    ):  # fmt: skip
        assert f"{room}’: {why}" in text, text
    assert (place / "free1").is_dir() and (place / "inner3").is_dir() and "beside" in text
    eventually(lambda: not any(" listener " in f" {name}" for name in manager.store))


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
