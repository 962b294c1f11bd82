"""The LXC door: by a client written from LXC's documentation, and by LXC itself."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

import proctor
from proctor.agent import dropping
from proctor.agent.doors import lxc, lxc_question
from proctor.agent.doors.lxc import LxcDoor
from proctor.agent.keeping import Item
from proctor.agent.owners import Claimed
from proctor.agent.sockets import Peer, peer_of
from proctor.errors import ProctorError
from proctor.kernel import abi, scm
from tests.agent.clients import connect, filtered, gone
from tests.agent.lxc import attach
from tests.agent.running import RunningAgent, eventually
from tests.agent.runtimes import make_rootfs, missing, remove_cgroup
from tests.support.lingering import lingering

Start = Callable[..., RunningAgent]


def test_a_monitor_whose_words_cannot_be_read_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It can keep the lock of its memory, for which whoever reads /proc/PID/cmdline waits."""
    refused: list[str] = []
    agent: Any = SimpleNamespace(
        keep_connection=lambda sock, held, *more, **how: "connection 1",
        forget=lambda name: None,
        supervisor=SimpleNamespace(unwatch=lambda fd: None),
    )
    goes_on = threading.Event()
    # its parent may be anybody, whom one may not look at
    another = subprocess.Popen(["sleep", "1000"])
    silent, others = Peer(os.getpid(), 12345, 1), Peer(another.pid, 54321, 1)

    def name_of(pid: int) -> str:
        assert threading.current_thread() is not threading.main_thread()
        return "one" if pid != silent.pid or goes_on.wait(60) else ""

    monkeypatch.setattr(lxc, "_name_of", name_of)
    loop = asyncio.new_event_loop()
    door = LxcDoor(loop, "/run/lxc.sock", agent, refused.append)
    theirs = []

    def connects(peer: Peer) -> None:
        mine, his = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.append(his)
        mine.setblocking(False)
        his.send(b"no question")
        door.connected(mine, peer)

    def until(count: int) -> None:
        while len(refused) < count:
            loop.call_later(0.001, loop.stop)
            loop.run_forever()

    try:
        for _ in range(lxc._LOOKING + 1):
            connects(silent)
        until(1)
        assert "does not come to light" in refused[0]
        connects(others)
        until(2)
        assert f"user {others.uid}" in refused[1] and "a question of LXC has" in refused[1]
        goes_on.set()
        until(2 + lxc._LOOKING)
        assert all("a question of LXC has" in each for each in refused[1:])
    finally:
        goes_on.set()
        door.close()
        loop.close()
        for each in theirs:
            each.close()
        another.kill()
        another.wait()


def test_what_is_kept_beside_a_connection_is_counted() -> None:
    """Each has a memfd, so that half as many connections are a user's share; and it is given back with them."""
    refused: list[str] = []
    containers: Any = SimpleNamespace(
        keep_connection=lambda sock, held, *more, **how: "connection 1",
        forget=lambda name: None,
        supervisor=SimpleNamespace(unwatch=lambda fd: None),
    )
    loop = asyncio.new_event_loop()
    door = LxcDoor(loop, "/run/lxc.sock", containers, refused.append)
    door._most = 5
    theirs = []

    def connects() -> None:
        mine, his = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.append(his)
        mine.setblocking(False)
        door.connected(mine, peer_of(mine))

    try:
        connects()
        connects()
        assert refused == []
        connects()
        assert "this user has 5 connections and descriptors, and gets no more" in refused.pop()
        assert gone(theirs[2])
        door.leave(next(iter(door._connections)))
        connects()
        assert refused == []
    finally:
        door.close()
        loop.close()
        for each in theirs:
            each.close()


def test_what_came_with_a_question_that_was_answered_holds_up_only_its_user() -> None:
    """The kernel would close what is not received as well: for whoever takes the question out."""
    loop = asyncio.new_event_loop()
    containers: Any = SimpleNamespace(supervisor=SimpleNamespace(unwatch=lambda fd: None))
    door = LxcDoor(loop, "/run/lxc.sock", containers, str)
    sent, reader = lingering()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    user = 70002
    connection = lxc._Connection(door, theirs, Peer(1, user, user), lxc_question.Begun())
    scm.send(ours, bytes(lxc_question.SIZE), [sent.fileno()])
    sent.close()
    connection._take_out()
    assert dropping.dropped.left(user) > 0  # somebody else waits, not we
    while reader.recv(1 << 20):
        pass
    eventually(lambda: not dropping.dropped.left(user))
    connection.close()
    for each in (ours, reader):
        each.close()
    loop.close()


class Containers:
    """Decides at once: "Read-only file system"."""

    def __init__(self) -> None:
        self.decided: list[int] = []
        self.disconnected = 0

    def connect(self, *facts: object) -> Any:
        return self

    def disconnect(self, held: object) -> None:
        self.disconnected += 1

    @property
    def container(self) -> Any:
        return self

    @property
    def supervisor(self) -> Any:
        return self

    def elsewhere(self, port: Any, container: object, begun: Any) -> Any:
        return SimpleNamespace(submit=partial(self.decide, port, begun), close=port.close)

    def decide(self, port: Any, kept: Any, asked: Any, **how: bool) -> None:
        self.decided.append(asked.id)
        port.send(asked.id, 0, -30, 0)
        kept.clear(asked)

    def receive_from(self, fd: int, receive: object) -> None:
        raise OSError(errno.ENOSPC, "as many as there may be are waited for: the loop does it")

    def unwatch(self, fd: int) -> None:
        pass

    def keep_connection(
        self, sock: object, held: object, *more: int, name: str = "", came_by: str = ""
    ) -> str:
        return name or "connection 1"

    def forget(self, name: str) -> None:
        pass


class Pair:
    """LXC's monitor that has asked, and what a keeper has of the connection."""

    def __init__(self, place: Path, *command: str) -> None:
        path = str(place / "pair.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(path)
            listening.listen()
            self.lxc = Monitor(path, filtered(*command))
            self.kept, _ = listening.accept()
        self.begun = os.memfd_create("begun")
        self.lxc.ask()

    def take_over(self, containers: Any, until: Callable[[], object]) -> None:
        """What the next monitor does with it, until then."""
        loop = asyncio.new_event_loop()
        door = LxcDoor(loop, "/run/lxc.sock", containers, lambda why: None)
        sock = self.kept.dup()
        sock.setblocking(False)
        known: Any = SimpleNamespace(facts=None)
        item = Item("connection 1", (-1, -1, os.dup(self.begun)))

        async def goes_on() -> None:
            for _ in range(1000):
                if until():
                    return
                await asyncio.sleep(0.01)
            raise TimeoutError

        try:
            door.restored(sock, peer_of(sock), item, known)
            loop.run_until_complete(goes_on())
        finally:
            door.close()
            loop.close()

    def dies(self, where: Any, what: str) -> None:
        """A monitor takes over, and is killed before it does that."""
        child = os.fork()
        if child == 0:
            try:
                setattr(where, what, lambda *rest: os.kill(os.getpid(), signal.SIGKILL))
                self.take_over(Containers(), lambda: False)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL

    def close(self) -> None:
        os.close(self.begun)
        self.kept.close()
        self.lxc.close()


@pytest.fixture
def pair(place: Path) -> Iterator[Pair]:
    made = Pair(place, "sh", "-c", "for n in 1 2 3 4 5; do mkdir /tmp/forbidden-$n; done")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("where", "what", "sent"),
    [
        (os, "lseek", False),
        (os, "pwrite", False),
        (os, "sendfile", False),
        (lxc._Connection, "_take_out", True),
    ],
)
def test_each_question_gets_one_answer(pair: Pair, where: Any, what: str, sent: bool) -> None:
    """Also by monitors that are killed while they answer, anywhere: one more would be taken for the answer to the next
    question."""
    containers = Containers()
    for _ in range(2):  # what is there of the answer before does not matter
        pair.dies(where, what)
        if sent:
            assert pair.lxc.answer() == (0, -30, 0)
            pair.lxc.ask()
        pair.take_over(containers, lambda: containers.decided)
        assert containers.decided.pop() == pair.lxc.id and not containers.decided
        assert pair.lxc.answer() == (0, -30, 0)
        pair.lxc.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            pair.lxc.sock.recv(1)
        pair.lxc.sock.settimeout(20)
        pair.lxc.ask()


def test_an_answer_to_which_lxc_may_not_wait_is_not_sent(pair: Pair) -> None:
    """LXC waited for too long, has answered itself, and asks the next question; the monitor that takes over does not
    know since when it was asked."""
    pair.lxc.listener.send(pair.lxc.id, 0, -38, 0)
    pair.lxc.ask()
    containers = Containers()
    pair.take_over(containers, lambda: containers.disconnected)
    assert gone(pair.lxc.sock)


def test_a_fault_of_ours_hangs_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads: LXC would wait for the answer, and its container with it."""

    class Receives(Containers):
        receive: Callable[[], object] | None = None
        forgotten = ""

        def receive_from(self, fd: int, receive: Any) -> None:
            self.receive = receive

        def forget(self, name: str) -> None:
            self.forgotten = name

    def fails(data: bytes) -> NoReturn:
        raise RuntimeError("a fault")

    containers = Receives()

    def over() -> bool:
        receive, containers.receive = containers.receive, None
        if receive is not None:
            monkeypatch.setattr(lxc, "parse", fails)
            assert pair.lxc.answer() == (0, -30, 0)
            pair.lxc.ask()
            assert receive() is None
        return bool(containers.disconnected)

    pair.take_over(containers, over)
    assert containers.forgotten == "connection 1", "neither does the keeper have it"


def test_lxc_is_told_of_who_is_gone(pair: Pair) -> None:
    """What would open a descriptor there finds nobody, and answers nothing; LXC asks nothing else until it is answered."""

    class Opens(Containers):
        def decide(self, port: Any, kept: Any, asked: Any, **how: bool) -> None:
            self.decided.append(asked.id)
            pair.lxc.target.kill()
            pair.lxc.target.wait(30)
            assert port.addfd(asked.id, pair.kept.fileno(), send=True) is None
            kept.clear(asked)

    containers = Opens()
    pair.take_over(containers, lambda: containers.disconnected)
    assert gone(pair.lxc.sock)


class Monitor:
    """What LXC's monitor does: it receives, asks, and gives the answer on."""

    def __init__(self, path: str, target: proctor.Target) -> None:
        self.target = target
        self.listener = proctor.Listener(target.take_listener())
        self.sock = connect(path, socket.SOCK_SEQPACKET)

    def question(self, cookie: bytes = b"my-cookie", **wrong: int) -> tuple[bytes, list[int]]:
        """The next call, as LXC writes it down."""
        call = self.listener.recv()
        assert call is not None
        self.id = call.id
        head = struct.pack(
            "=QiiHHH2xQ", wrong.get("reserved", 0), wrong.get("monitor", os.getpid()), self.target.pid,
            wrong.get("size", 80), 24, 64, wrong.get("length", len(cookie)),
        )  # fmt: skip
        notification = abi.SECCOMP_NOTIF.pack(
            call.id, wrong.get("pid", call.pid), call.flags, call.nr, call.arch, call.ip, *call.args
        )
        answer = abi.SECCOMP_NOTIF_RESP.pack(call.id, 0, 0, 0)
        fds = [
            os.open(f"/proc/{call.pid}", os.O_DIRECTORY | os.O_RDONLY),
            os.open(f"/proc/{call.pid}/mem", os.O_RDWR),
        ]
        return head + notification + answer + cookie, fds

    def ask(self, **how: int) -> None:
        data, fds = self.question(**how)
        scm.send(self.sock, data, [*fds, self.listener.fileno()])
        for fd in fds:
            os.close(fd)

    def answer(self) -> tuple[int, int, int]:
        """What came back, which the kernel is then told."""
        data = self.sock.recv(4096)
        assert len(data) == 136
        id, value, error, flags = struct.unpack_from("=QqiI", data, 112)
        assert id == self.id
        self.listener.send(id, value, error, flags)
        return value, error, flags

    def close(self) -> None:
        self.sock.close()
        self.listener.close()
        self.target.kill()
        self.target.wait(30)
        self.target.close()


@pytest.fixture
def running(agent: Start, place: Path) -> RunningAgent:
    return agent("--lxc", str(place / "lxc.sock"))


@contextmanager
def monitor(running: RunningAgent, *command: str) -> Iterator[Monitor]:
    made = Monitor(str(running.place / "lxc.sock"), filtered(*command))
    yield made
    made.close()


def test_a_question_is_answered(running: RunningAgent) -> None:
    """One after another, by the policy; the container is known, and over with the connection."""
    script = "mkdir /tmp/forbidden-1; mkdir /tmp/forbidden-2; exec chmod 1777 /tmp"
    with monitor(running, "sh", "-c", script) as asking:
        for error in (30, 30, 123):
            asking.ask()
            assert asking.answer() == (0, -error, 0)
        eventually(lambda: running.ask(do="ps")["containers"][0]["refused"] == 3)
        (row,) = running.ask(do="ps")["containers"]
        assert row["labels"]["door"] == "lxc" and row["listeners"] == 1
    running.heard("ended: container")
    eventually(lambda: running.ask(do="ps")["containers"] == [])


def test_the_cookie_chooses_the_policy(agent: Start, place: Path) -> None:
    (place / "policies/containers.toml").write_text(
        '[[container]]\npolicy = "default"\ncookie = "my-*"\n'
    )
    running = agent("--lxc", str(place / "lxc.sock"))
    with monitor(running, "mkdir", "/tmp/forbidden-1") as asking:
        asking.ask()
        assert asking.answer() == (0, -30, 0)


def test_a_question_survives_the_monitor_that_had_it(agent: Start, place: Path) -> None:
    """It is left in the socket, and the socket with the keeper."""
    running = agent("--lxc", str(place / "lxc.sock"))
    script = "for n in 1 2 3; do mkdir /tmp/forbidden-$n; done"
    with monitor(running, "sh", "-c", script) as asking:
        asking.ask()
        assert asking.answer() == (0, -30, 0)
        old = running.serving
        os.kill(old, signal.SIGSTOP)
        asking.ask()
        os.kill(old, signal.SIGKILL)
        assert asking.answer() == (0, -30, 0)
        running.heard("took over 1 containers")
        asking.ask()
        assert asking.answer() == (0, -30, 0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"reserved": 7}, "reserved"),
        ({"monitor": 1}, "asks in the name of 1"),
        ({"size": 88}, "structures have"),
        ({"length": 1 << 40}, "a cookie of"),
        ({"length": 3}, "a cookie of"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_what_is_wrong_is_refused(
    running: RunningAgent, wrong: dict[str, int], says: str, first: bool
) -> None:
    """Also by a connection whose first questions were good, which the loop does not receive any more."""
    with monitor(running, "sh", "-c", "for n in 1 2 3; do mkdir /tmp/forbidden-$n; done") as asking:
        for _ in range(0 if first else 2):
            asking.ask()
            assert asking.answer() == (0, -30, 0)
        asking.ask(**wrong)
        assert gone(asking.sock)
    running.heard(says)


@pytest.mark.root
def test_a_user_cannot_say_that_another_thread_calls(agent: Start, place: Path) -> None:
    """Who receives notifications himself can write whose they are; the kernel says no more then than that
    his own listener has such a call.  A thread of root's, of another user's, or one of his that became root's by a
    program is not his; his own are, also in a user namespace of his."""
    path = str(place / "lxc.sock")
    running = agent("--lxc", f"{path},uid=4242,mode=666")
    with subprocess.Popen(["sleep", "100"]) as victim:
        try:
            for pid, namespaces in ((victim.pid, ()), (os.getpid(), ()), (0, ()), (0, ("user",))):
                asked = _as_user(4242, partial(_ask, path, pid, namespaces))
                assert asked == ("hung up" if pid else "(0, -30, 0)")
                if pid:
                    running.heard(f"thread {pid} is not one of user 4242")
        finally:
            victim.kill()


@pytest.mark.root
def test_who_gains_rights_by_a_program_is_no_users() -> None:
    """Not even if all its ids are his: it has not given up to gain more."""
    peer = Peer(os.getpid(), 4242, 4242)
    command = ["sleep", "100"]
    how = {"uid": 4242, "gid": 4242, "groups": ()}
    for no_new_privs, mine in ((True, True), (False, False)):
        with proctor.launch(command, no_new_privs=no_new_privs, **how) as target:  # type: ignore[arg-type]
            try:
                Claimed(target.pid, peer, ()).close()
            except ProctorError:
                assert not mine
            else:
                assert mine
            pinned = Claimed(target.pid, peer, ()) if mine else None
            target.kill()
            target.wait(30)
            assert pinned is None or not pinned.lives()


def _ask(path: str, pid: int, namespaces: tuple[str, ...]) -> str:
    asking = Monitor(path, filtered("mkdir", "/tmp/forbidden-1", namespaces=namespaces))
    try:
        if not pid:
            asking.ask()
            return str(asking.answer())
        asking.ask(pid=pid)
        return "hung up" if gone(asking.sock) else "answered"
    finally:
        asking.close()


def _as_user(uid: int, what: Callable[[], str]) -> str:
    """What a process of a user's comes to."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "failed"
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: it writes maps of ids
            said = what()
        except BaseException as error:
            said = repr(error)
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with open(reading) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


def test_wrong_descriptors_and_sizes_are_refused(running: RunningAgent) -> None:
    before = running.descriptors
    with monitor(running, "mkdir", "/tmp/forbidden-1") as asking:
        data, fds = asking.question()
        for sent, with_these in (
            (data, fds),
            (data, [*fds, fds[0]]),
            (data[:100], fds),
            (b"x", []),
        ):
            with connect(str(running.place / "lxc.sock"), socket.SOCK_SEQPACKET) as sock:
                scm.send(sock, sent, with_these)
                assert gone(sock)
        with connect(str(running.place / "lxc.sock"), socket.SOCK_SEQPACKET) as sock:
            scm.send(sock, data + b"x" * 10_000, fds)
            assert gone(sock)
        for fd in fds:
            os.close(fd)
    eventually(lambda: running.descriptors <= before + 1)


def test_whoever_hangs_up_between_two_questions_is_forgotten(running: RunningAgent) -> None:
    """Where the loop receives, and where whoever decides does."""
    for questions in (1, 2):
        with monitor(running, "sh", "-c", "for n in 1 2 3; do mkdir /tmp/forbidden-$n; done") as it:
            for _ in range(questions):
                it.ask()
                assert it.answer() == (0, -30, 0)
        running.heard("ended: container")
        eventually(lambda: running.ask(do="ps")["containers"] == [])


def test_idle_connections_hold_up_nobody(running: RunningAgent) -> None:
    path = str(running.place / "lxc.sock")
    idle = [connect(path, socket.SOCK_SEQPACKET) for _ in range(200)]
    with monitor(running, "mkdir", "/tmp/forbidden-1") as asking:
        asking.ask()
        assert asking.answer() == (0, -30, 0)
    for each in idle:
        each.close()


def test_every_call_has_a_deadline_below_lxcs() -> None:
    from proctor.agent.deciding import asks, handlers
    from proctor.policy import loads

    ask = asks(None, str)
    policy = loads('deadline = 100\n[[rule]]\nname = "r"\ncalls = ["mkdir"]\nperform = true\n')
    assert {each.deadline for each in handlers(policy, ask)} == {100.0}
    assert {each.deadline for each in handlers(policy, ask, lxc_question.DEADLINE)} == {
        lxc_question.DEADLINE
    }


def test_a_question_shorter_than_its_parts_is_none() -> None:
    for size in (0, 31, 32, 135):
        with pytest.raises(ProctorError):
            lxc.parse(bytes(size))


@pytest.mark.root
def test_lxc_itself(agent: Start, place: Path) -> None:
    """A device is made, a directory is refused; in the container and by what is attached to it.  Configured by
    deploy/lxc, on top of what LXC's own profile denies."""
    lacks = missing("lxc-start", "lxc-attach", "busybox", "newuidmap")
    if lacks:
        pytest.skip(f"needs {lacks}")
    rootfs = make_rootfs(place)
    init = rootfs / "init.sh"
    init.write_text("#!/bin/sh\nexec sleep 1000\n")
    init.chmod(0o755)
    profile = [sys.executable, "-m", "proctor", "profile", str(place / "policies/default.toml")]
    profile += ["--format", "lxc", "--base", "/usr/share/lxc/config/common.seccomp"]
    written = subprocess.run(profile, stdout=subprocess.PIPE, check=True, text=True).stdout
    assert "finit_module errno 1" in written and "mkdir notify" in written
    (place / "lxc.seccomp").write_text(written)
    deployed = (Path(__file__).parents[2] / "deploy/lxc/proctor.conf").read_text()
    for where in ("/etc/proctor", "/run/proctor"):
        deployed = deployed.replace(f"{where}/lxc.s", f"{place}/lxc.s")
    (place / "proctor.conf").write_text(deployed)
    config = place / "config"
    config.write_text(f"""
lxc.include = /usr/share/lxc/config/common.conf
lxc.include = /usr/share/lxc/config/userns.conf
lxc.uts.name = proctor-test
lxc.rootfs.path = dir:{rootfs}
lxc.idmap = u 0 100000 65536
lxc.idmap = g 0 100000 65536
lxc.net.0.type = empty
lxc.apparmor.profile = unconfined
lxc.init.cmd = /init.sh
lxc.include = {place}/proctor.conf
lxc.seccomp.notify.cookie = my-cookie
""")
    running = agent("--lxc", str(place / "lxc.sock"))
    name = f"proctor-test-{os.getpid()}"
    lxc_path = ["-P", str(place / "state")]
    (place / "state").mkdir()

    def inside(*command: str) -> str:
        return attach(place, *lxc_path, "-n", name, words=command).stdout

    # LXC calls newuidmap as root, too, which wants root's line in these files: in this mount namespace
    ids = place / "ids"
    ids.write_text("root:100000:65536\n")
    bind = f'for file in /etc/subuid /etc/subgid; do mount --bind {ids} $file; done; exec "$@"'
    start = ["unshare", "--mount", "sh", "-c", bind, "sh", "lxc-start", *lxc_path, "-d", "-n", name]
    start += ["-f", str(config), "-l", "ERROR", "-o", str(place / "log")]
    done = subprocess.run(start, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"LXC starts no container here: {(place / 'log').read_text()[-500:]}")
    try:
        assert inside("mknod", "/tmp/null", "c", "1", "3") == ""
        assert "1,   3" in inside("ls", "-l", "/tmp/null")
        assert "Operation not permitted" in inside("mknod", "/tmp/disk", "b", "8", "0")
        assert "Read-only file system" in inside("mkdir", "/tmp/forbidden-1")
        assert inside("mkdir", "/tmp/room") == ""
        (row,) = running.ask(do="ps")["containers"]
        assert row["container"] == name
        os.kill(running.serving, signal.SIGKILL)
        assert "Read-only file system" in inside("mkdir", "/tmp/forbidden-2")
    finally:
        subprocess.run(["lxc-stop", *lxc_path, "-k", "-n", name], timeout=60, check=False)
        cgroups = Path("/sys/fs/cgroup")  # a .lxc of lxc-attach's keeps LXC from removing its own
        for left in cgroups.glob(f"**/lxc.*.{name}"):
            eventually(lambda left=left: remove_cgroup(left))  # type: ignore[misc]
        for shared in cgroups.glob("**/lxc.pivot"):
            remove_cgroup(shared)  # unless another container is there
    running.heard("ended: container")
