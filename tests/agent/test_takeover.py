"""Monitors die, and nobody notices but the keeper."""

from __future__ import annotations

import errno
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import proctor
from proctor.agent.keeper import Keeper
from proctor.agent.keeping import Item, KeptBy
from proctor.errors import ProctorError
from proctor.kernel import scm
from proctor.policy import loads
from proctor.process.performing import LazyPerformer
from tests.agent.clients import filtered, hand_over
from tests.agent.running import RunningAgent, eventually, opening
from tests.agent.runtimes import Runtime

Start = Callable[..., RunningAgent]

#: Calls that are denied with ENOMEDIUM (123) by the policy, from several threads until a file is there; whatever else
#: comes is counted, and is the exit status.
STORM = """
import os, sys, threading
odd = []
def call():
    while not os.path.exists(sys.argv[1]):
        try:
            os.chmod("/tmp", 0o1777)
            odd.append(0)
        except OSError as problem:
            if problem.errno != 123:
                odd.append(problem.errno)
threads = [threading.Thread(target=call) for _ in range(4)]
for each in threads: each.start()
for each in threads: each.join()
os._exit(min(len(odd), 100))
"""


@pytest.mark.parametrize("spare", [False, True])
def test_no_call_is_lost_when_monitors_die(agent: Start, spare: bool, tmp_path: Path) -> None:
    """Every call gets its answer, in a storm, while one monitor after another is killed."""
    running = agent(spare=spare)
    over = tmp_path / "over"
    with hand_over(running.socket, "storm", sys.executable, "-c", STORM, str(over)) as target:
        running.heard("served")
        for _ in range(3):
            before = len([line for line in running.said if "took over" in line])
            os.kill(running.serving, signal.SIGKILL)
            running.heard("took over", before + 1)
        over.touch()
        assert target.wait(100) == 0
    running.heard("ended: container")


#: Opens are performed, those that make something, too.
OPENS = """
default = "allow"
[[rule]]
name = "opens"
calls = ["open", "openat"]
perform = true
"""
#: Opens a FIFO whose other end comes later, to read, or to write and to make it if it lacks.
WAITS = """
import ctypes, os, sys
makes = sys.argv[2] == "make"
fd = ctypes.CDLL(None, use_errno=True).open(sys.argv[1].encode(), os.O_WRONLY | os.O_CREAT if makes else os.O_RDONLY, 0o600)
os._exit(ctypes.get_errno() if fd < 0 else 0 if makes else os.read(fd, 100) != b"word")
"""


@pytest.mark.parametrize("what", ["look", "make"])
def test_what_only_looks_is_performed_again(agent: Start, place: Path, what: str) -> None:
    """A call that its monitor died over is none that the caller sees fail, where it has done nothing: what is to be made is there."""
    (place / "policies/default.toml").write_text(OPENS)
    running = agent()
    fifo = place / "fifo"
    os.mkfifo(fifo)
    command = sys.executable, "-c", WAITS, str(fifo), what
    with hand_over(running.socket, "one", *command, names=("openat",)) as target:
        eventually(opening)
        before = opening()
        os.kill(running.serving, signal.SIGKILL)
        running.heard("took over")
        eventually(lambda: opening() - before)  # who is dying would take the other end with him
        with open(fifo, "wb" if what == "look" else "rb") as pipe:
            if what == "look":
                pipe.write(b"word")
        assert target.wait(100) == 0


def test_a_monitor_is_replaced_on_purpose(agent: Start, tmp_path: Path) -> None:
    """SIGHUP: the next one is ready before the old one ends, and no call is lost either."""
    running = agent()
    over = tmp_path / "over"
    with hand_over(running.socket, "storm", sys.executable, "-c", STORM, str(over)) as target:
        running.heard("served")
        for times in (1, 2, 3):
            os.kill(running.process.pid, signal.SIGHUP)
            running.heard("took over", times)
            running.heard("is replaced", times)  # by us: no end that anybody should look into
        over.touch()
        assert target.wait(100) == 0


#: As STORM, slower and by one thread, until a file is there.
UNTIL = """
import os, sys, time
odd = 0
while not os.path.exists(sys.argv[1]):
    try:
        os.chmod("/tmp", 0o1777)
        odd += 1
    except OSError as problem:
        odd += problem.errno != 123
    time.sleep(0.01)
os._exit(min(odd, 100))
"""
#: What makes of the proctor on disk one of another version, and one of before there were versions.
OTHERS = {
    "later": "import proctor.agent.keeping as keeping\nkeeping.VERSION = 2\n",
    "earlier": """
import proctor.agent.keeping as keeping
class KeptBy(keeping.KeptBy):
    def first(self):
        return bool(self._receive()[0]["first"])
    def take_over(self):
        self._sock.settimeout(None)
        keeping.scm.send(self._sock, b'{"ready": true}')
        return self._receive()
keeping.KeptBy = KeptBy
""",
}
SAYS = {
    "later": "this agent's keeper has version 1 of what keepers and monitors say to each other, the monitor version 2",
    "earlier": "has no version of what keepers and monitors say to each other, its keeper version 1: it is given",
}


@pytest.mark.parametrize("spare", [False, True])
@pytest.mark.parametrize("other", list(OTHERS))
def test_one_of_another_version_takes_nothing_over(
    agent: Start, place: Path, other: str, spare: bool
) -> None:
    """It says so; whoever serves goes on, and is replaced once there is one of its own version."""
    (place / "disk").mkdir()
    running = agent(spare=spare, by=["env", f"PYTHONPATH={place}/disk"])
    command = (sys.executable, "-c", UNTIL, str(place / "over"))
    with hand_over(running.socket, "storm", *command) as target:
        running.heard("served")
        serving = running.serving
        (place / "disk/sitecustomize.py").write_text(OTHERS[other])
        os.kill(running.process.pid, signal.SIGHUP)
        running.heard(SAYS[other])
        running.heard("ended with status")
        eventually(lambda: running.monitors == [serving])  # no spare either: it would be no other
        assert running.serving == serving
        (place / "disk/sitecustomize.py").unlink()
        os.kill(running.process.pid, signal.SIGHUP)
        running.heard("took over 1 containers")
        (place / "over").touch()
        assert target.wait(100) == 0


def test_a_keeper_that_stands_still_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has not answered it answers later, and from then on all is as it was."""
    monkeypatch.setattr("proctor.agent.keeping._PATIENCE", 0.05)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    keeper = Keeper([], [], lambda text: None)
    kept_by = KeptBy(ours)
    with open(os.devnull) as null:
        for name in ("listener 1", "listener 2"):
            with pytest.raises(ProctorError, match=f"{name} may not be kept: the keeper does not"):
                kept_by.keep(name, [null.fileno()])
        kept_by.forget("listener 1")
        answering = answer(keeper, theirs, 3)
        answering.join(20)
        monkeypatch.setattr("proctor.agent.keeping._PATIENCE", 20)
        answering = answer(keeper, theirs, 2)
        kept_by.keep("listener 3", [null.fileno()])
        monkeypatch.setattr(keeper, "_most", 3)
        with pytest.raises(ProctorError, match="listener 4 is not kept"):
            kept_by.keep("listener 4", [null.fileno()])
        answering.join(20)
    assert list(keeper._kept) == ["listener 2", "listener 3"]
    for item in keeper._kept.values():
        item.close()
    ours.close()
    theirs.close()


def test_what_was_known_of_a_container_is_known_again(agent: Start) -> None:
    """Its age, its policy; and it is forgotten when it ends."""
    running = agent()
    with hand_over(running.socket, "kept", "sleep", "1000") as target:
        running.heard("served")
        before = running.ask(do="ps")["containers"]
        os.kill(running.serving, signal.SIGKILL)
        running.heard("took over 1 containers")
        after = running.ask(do="ps")["containers"]
        assert after == before and after[0]["container"] == "kept"
        descriptors = running.descriptors
        target.kill()
        target.wait(30)
        running.heard('ended: container "kept"')
        eventually(lambda: running.descriptors <= descriptors - 3)


def test_policies_that_hold_outlive_those_on_disk(agent: Start, place: Path) -> None:
    """The file is no policy any more when the next monitor comes: what held still holds."""
    running = agent()
    (place / "policies/default.toml").write_text("nonsense")
    os.kill(running.serving, signal.SIGKILL)
    running.heard("took over")
    with hand_over(running.socket, "late", "mkdir", "/tmp/forbidden-9") as target:
        assert target.wait(30) == 1
    assert "no such rooms" in running.heard("forbidden-9")


def test_an_exec_after_a_take_over_is_of_the_same_container(agent: Start, runtime: Runtime) -> None:
    running = agent()
    bundle = runtime.bundle(running.socket, "/bin/sleep", "1000", metadata="m")
    assert runtime.run(bundle, "web-1", "--detach").returncode == 0
    running.heard('served: container "web-1"')  # crun does not wait for that
    os.kill(running.serving, signal.SIGKILL)
    running.heard("took over 1 containers")
    done = runtime.do("exec", "web-1", "/bin/mkdir", "/tmp/forbidden-2")
    assert "Read-only file system" in done.stdout + done.stderr
    # counted once it is answered
    eventually(lambda: [row["refused"] for row in running.ask(do="ps")["containers"]] == [1])


def test_an_agent_that_cannot_begin_says_so_and_ends(agent: Start, place: Path) -> None:
    (place / "policies/default.toml").write_text("nonsense")
    with pytest.raises(AssertionError, match=r"default\.toml:1"):
        agent()


def test_the_end_is_in_order(agent: Start) -> None:
    """SIGTERM: what waits is answered, nothing is left, and the exit status is 0."""
    running = agent()
    monitors = running.monitors
    with hand_over(running.socket, "left", "sleep", "1000") as target:
        running.heard("served")
        assert running.stop() == 0
        assert not any(os.path.exists(f"/proc/{pid}") for pid in monitors)
        target.kill()
        target.wait(30)


@pytest.mark.parametrize("spare", [False, True])
def test_who_ends_begins_nothing(agent: Start, spare: bool) -> None:
    """A SIGHUP that comes with SIGTERM, as a service manager may send it, is no reason to stay."""
    running = agent(spare=spare)
    running.process.send_signal(signal.SIGSTOP)
    running.process.send_signal(signal.SIGTERM)
    running.process.send_signal(signal.SIGHUP)
    running.process.send_signal(signal.SIGCONT)
    assert running.process.wait(30) == 0


@pytest.mark.parametrize("performs", [False, True])
def test_nothing_of_a_listener_waits_for_the_garbage_collector(performs: bool) -> None:
    """Its journal has a descriptor of its own."""
    policy = loads(
        'version = 1\ndefault = "allow"\n'
        '[[rule]]\nname = "one"\ncalls = ["mkdir", "mkdirat"]\nwhen = { path = "/no*" }\ndeny = "EROFS"\n'
        '[[rule]]\nname = "others"\ncalls = ["mkdir", "mkdirat"]\nperform = true\n'
    )
    performer = LazyPerformer({}) if performs else None
    supervisor = proctor.Supervisor(policy.handlers(), performer=performer, seeker=performer)
    gc.collect()
    gc.disable()
    try:
        with supervisor, filtered("mkdir", "/nowhere", "/nor/here") as target:
            supervisor.start()
            journal = proctor.Journal.create(16)
            supervisor.add(proctor.Listener(target.take_listener()), journal=journal)
            journal.close()
            kept = weakref.ref(journal)
            del journal
            target.wait(30)
            assert supervisor.wait(30)
            eventually(lambda: kept() is None)
    finally:
        gc.enable()
        if performer is not None:
            performer.close()


def test_what_is_forgotten_is_closed_by_then() -> None:
    """Whoever closes a user's connection last may have to wait for him, and the keeper must not."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kept = os.dup(theirs.fileno())
    keeper = Keeper([], [Item("connection 1", (kept,))], lambda text: None)
    answering = answer(keeper, theirs, 2)
    kept_by = KeptBy(ours)
    scm.send(ours, b'{"serves": true}')
    kept_by.forget("connection 1")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kept)
    answering.join(20)
    ours.close()
    theirs.close()


def answer(keeper: Keeper, sock: socket.socket, messages: int) -> threading.Thread:
    """A thread that has the keeper hear so many messages of a monitor."""
    monitor: Any = SimpleNamespace(
        sock=sock, send=lambda word, fds=(): scm.send(sock, json.dumps(word).encode(), fds)
    )

    def hear() -> None:
        for _ in range(messages):
            select.select([sock], [], [], 20)  # as the keeper does: it receives what is there
            keeper._message(monitor)

    made = threading.Thread(target=hear)
    made.start()
    return made


def test_what_a_keeper_has_no_room_for_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitor is told, what had that name stays, and the next is kept again."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    told: list[str] = []
    keeper = Keeper([], [], told.append)
    answering = answer(keeper, theirs, 3)
    kept_by = KeptBy(ours)
    with open(os.devnull) as null:
        kept_by.keep("policies", [null.fileno()])
        monkeypatch.setattr(keeper, "_most", 3)
        with pytest.raises(ProctorError, match="policies is not kept: the keeper may have no more"):
            kept_by.keep("policies", [null.fileno()])
        monkeypatch.setattr(keeper, "_most", 10_000)
        kept_by.keep("listener 1", [null.fileno()])
    answering.join(20)
    assert list(keeper._kept) == ["policies", "listener 1"]
    for item in keeper._kept.values():
        assert len(item.fds) == 1
        item.close()
    ours.close()
    theirs.close()


def test_a_keeper_without_a_monitor_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """None can be started at first: what is kept stays, and the next one serves with it."""
    told: list[str] = []
    tries: list[object] = []
    real = subprocess.Popen

    def start(*words: Any, **how: Any) -> object:
        tries.append(words)
        if len(tries) == 1:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return real(*words, **how)

    monkeypatch.setattr(subprocess, "Popen", start)
    status = Keeper([sys.executable, "-c", "raise SystemExit(7)"], [], told.append).run()
    assert status == 7 and len(tries) == 2
    assert told == ["no monitor can be started: Resource temporarily unavailable"]


def test_one_that_is_to_be_replaced_before_it_serves_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that was on its way, of which something is to be heard just then, is given up for the new one, which
    cannot be started at first."""
    told: list[str] = []
    keeper = Keeper([sys.executable, "-c", "raise SystemExit(7)"], [], told.append, give_up=20)
    real = subprocess.Popen
    tries: list[object] = []

    def start(*words: Any, **how: Any) -> object:
        tries.append(words)
        if len(tries) == 1:
            os.kill(os.getpid(), signal.SIGHUP)
            return real([sys.executable, "-c", "import time; time.sleep(60)"])
        if len(tries) == 2:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return real(*words, **how)

    monkeypatch.setattr(subprocess, "Popen", start)
    assert keeper.run() == 7 and len(tries) == 3


def test_whoever_starts_an_agent_may_have_a_low_limit(agent: Start) -> None:
    """The keeper, too, takes what it may have: it has three descriptors of each container."""
    # of its own, not of ours while it starts: whoever runs many tests has more open than that
    running = agent(by=["sh", "-c", 'ulimit -Sn 40; exec "$@"', "sh"])
    targets = [hand_over(running.socket, f"c-{number}", "sleep", "1000") for number in range(20)]
    running.heard("served", 20)
    os.kill(running.serving, signal.SIGKILL)
    running.heard("took over 20 containers")
    for each in targets:
        each.kill()
        each.wait(30)
        each.close()
