"""``proctor run`` below a command that an agent serves: both have their say, also when monitors die."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import proctor
from proctor.agent import delegating
from proctor.agent.keeping import Nobody
from proctor.kernel.abi import SECCOMP_NOTIF
from proctor.kernel.journal import Journal
from proctor.kernel.notification import Notification
from proctor.kernel.progress import NOTHING, UNKNOWN, Progress
from proctor.process.below import Below
from proctor.process.inner import Inner, Question, Rank
from tests.agent.running import RunningAgent, eventually, opening
from tests.process.test_delegation import HOSTILE, rooms
from tests.support.others import by_user

pytestmark = pytest.mark.timeout(300)

Start = Callable[..., RunningAgent]
PROCTOR = [sys.executable, "-m", "proctor", "run", "--quiet"]


@pytest.fixture
def running(agent: Start, place: Path) -> RunningAgent:
    (place / "policies/default.toml").write_text(rooms("EROFS", "**/outer*"))
    (place / "inner.toml").write_text(rooms("ENOSPC", "**/inner*"))
    return agent("--run", str(place / "run.sock"))


def outer(running: RunningAgent, script: str, *more: str) -> subprocess.Popen[str]:
    """A script by the agent."""
    words = [*PROCTOR[:-1], "--agent", f"{running.place}/run.sock", *more, "--", "sh", "-c", script]
    return subprocess.Popen(
        words, cwd=running.place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def inner(script: str, policy: str = "inner.toml") -> str:
    """The words for a script below."""
    return shlex.join([*PROCTOR, "--policy", policy, "--", "sh", "-c", script])


def said(process: subprocess.Popen[str]) -> str:
    """What it says until its end."""
    text, _ = process.communicate()
    return text


def test_both_decide_the_agent_first(running: RunningAgent, place: Path) -> None:
    """For the subtree alone; a second one beside it, which goes on when the first has ended, and nothing is left."""
    script = (
        f"{inner('mkdir outer1; mkdir inner1; mkdir free && echo free; exit 5')}; echo ended $?; "
        f"mkdir inner2 && echo after; {inner('mkdir inner3')}; {sys.executable} -m proctor doctor"
    )
    said(outer(running, script.replace("mkdir free", "true")))
    os.rmdir(place / "inner2")
    before = running.descriptors
    text = said(outer(running, script))
    assert "outer1’: Read-only file system" in text and "inner1’: No space left on device" in text
    assert "free\nended 5\nafter\n" in text and "inner3’: No space left on device" in text
    assert "agent, which takes others in by descriptor" in text
    assert not (place / "inner1").exists() and (place / "inner2").is_dir()
    eventually(lambda: running.descriptors <= before)


def test_calls_that_only_those_below_are_about(running: RunningAgent, place: Path) -> None:
    """The agent's filter notifies them if it is asked to; and takes nobody in if it is told so."""
    (place / "modes.toml").write_text(
        '[[rule]]\nname = "m"\ncalls = ["chmod", "fchmodat", "fchmodat2"]\nperform = true\n'
    )
    script = inner("chmod 700 .", "modes.toml")
    assert "does not see chmod" in said(outer(running, script))
    assert said(outer(running, script, "--delegate", "chmod,fchmodat,fchmodat2")) == ""
    assert "PROCTOR_ABOVE is not set" in said(outer(running, inner("true"), "--no-delegate"))
    assert "no_such" in said(outer(running, script, "--delegate", "no_such"))


def test_monitors_die_and_both_still_decide(running: RunningAgent, place: Path) -> None:
    """Between calls, and while one is being decided below; the next one takes new ones in, too."""
    (place / "slow.py").write_text(
        "import errno, os, proctor\n"
        "@proctor.on('mkdir', 'mkdirat')\n"
        "def slow(call):\n"
        "    open('asked', 'w').close()\n"
        "    with open('go'): pass\n"
        "    return proctor.deny(errno.EDQUOT)\n"
    )
    for each in ("go", "next", "killed"):
        os.mkfifo(place / each)
    slow = shlex.join([*PROCTOR, "--handlers", "slow.py", "--", "mkdir", "waits"])
    under = f"mkdir inner1; echo >next; read x <killed; mkdir inner2; mkdir outer2; {slow}; mkdir free && echo free"
    process = outer(running, inner(under))
    (place / "next").read_text()
    os.kill(running.serving, signal.SIGKILL)
    running.heard("took over 1 containers")
    (place / "killed").write_text("\n")
    eventually((place / "asked").exists)
    os.kill(running.serving, signal.SIGKILL)
    running.heard("took over 1 containers", 2)

    def over() -> bool:  # whoever is asked may go on, as often as that is
        try:
            os.close(os.open(place / "go", os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            pass  # nobody waits
        return process.poll() is not None

    eventually(over)
    text = said(process)
    assert text.count("No space left on device") == 2, text
    assert "outer2’: Read-only file system" in text and "Disk quota exceeded" in text
    assert text.endswith("free\n")


@pytest.mark.root
def test_all_of_it_is_an_ordinary_users(place: Path) -> None:
    """The agent, whose monitor dies, who is launched by it, and who registers."""
    (place / "policies/default.toml").write_text(rooms("EROFS", "**/outer*"))
    (place / "inner.toml").write_text(rooms("ENOSPC", "**/inner*"))
    place.chmod(0o777)
    program = f"{sys.executable} -m proctor"
    under = (
        "mkdir outer1 inner1; kill -9 $(cat /proc/$KEEPER/task/$KEEPER/children); "
        "mkdir outer2 inner2 free && echo never; mkdir free2 && echo free"
    )
    script = f"""
    {program} agent --policy-dir policies --run {place}/run.sock --control none --no-spare --verbose 2>said &
    export KEEPER=$!
    until grep -q ready said || ! kill -0 $KEEPER; do sleep 0.05; done
    {program} run --agent run.sock -- sh -c {shlex.quote(inner(under))}
    kill $KEEPER; wait $KEEPER; echo ended $?; cat said
    """
    done = subprocess.run(
        by_user(65534, script), cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    text = done.stdout
    for number in (1, 2):
        assert f"outer{number}’: Read-only file system" in text, text
        assert f"inner{number}’: No space left on device" in text, text
    assert "\nfree\nended 0\n" in text and "never" not in text, text
    assert "took over 1 containers" in text, text


def test_who_ends_while_nobody_looks_lets_nothing_through(
    running: RunningAgent, place: Path
) -> None:
    """The monitor is killed, then the one below; what that wanted is ENOSYS in what it leaves, and in all that comes
    after, for the next monitors, too."""
    for each in ("ready", "killed"):
        os.mkfifo(place / each)
    late = "echo $PPID >pid; setsid sh -c 'echo >ready; read x <killed; mkdir late; mkdir later' & exec sleep 1000"
    process = outer(running, f"{inner(late)}; mkdir beside && echo beside")
    (place / "ready").read_text()
    os.kill(running.process.pid, signal.SIGSTOP)  # no next monitor yet
    monitor = running.monitors[0]
    os.kill(monitor, signal.SIGKILL)
    os.kill(int((place / "pid").read_text()), signal.SIGKILL)
    os.kill(running.process.pid, signal.SIGCONT)
    running.heard("took over 1 containers")
    os.kill(running.serving, signal.SIGKILL)
    running.heard("took over 1 containers", 2)
    (place / "killed").write_text("\n")
    text = said(process)
    assert text.count("Function not implemented") == 2 and "beside\n" in text, text
    assert not (place / "late").exists() and (place / "beside").is_dir()


def test_what_is_performed_below(running: RunningAgent, place: Path) -> None:
    """By whoever is below, with its own rights."""
    (place / "policies/default.toml").write_text('default = "allow"\n')
    running.ask(
        do="reload"
    )  # an ordinary user's agent cannot read what performs, so no rule may be about paths
    (place / "performs.py").write_text(
        "import proctor\n"
        "@proctor.on('mkdir', 'mkdirat', performs=True)\n"
        "def made(call):\n"
        "    return proctor.perform()\n"
    )
    words = shlex.join([*PROCTOR, "--handlers", "performs.py", "--", "sh", "-c",
                        "mkdir one && mkdir two && ls -d one two"])  # fmt: skip
    text = said(outer(running, words, "--delegate", "mkdir,mkdirat"))
    assert "one\ntwo\n" in text, text


#: Strange things: what the agent would have to wait for, or be led astray by.
STRANGE = """
null = os.open(os.devnull, os.O_RDWR)
for data in (b"x", b"[]", b"{}", b'{"calls": 7}', b"[" * 5000, b'{"calls": null}', b"x" * 65536):
    assert "error" in register(data)[1], data
scm.send(way, b"{}", [null])
scm.send(way, b"", [null] * 8)
scm.send(way, b"x" * 150000)
many = [register(b'{"calls": ["mkdir", "no_such_call"]}') for _ in range(70)]
print("served", sum("served" in said for _, said in many), flush=True)
for ours, _ in many:
    ours.close()
# one that another process made, and by a process that is none
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
pid = os.fork()
if not pid:
    scm.send(way, b'{"calls": ["mkdir"]}', [theirs.fileno()])
    os._exit(0)
os.waitpid(pid, 0)
theirs.close()
print(scm.receive(ours).data.decode(), flush=True)
import struct
from array import array
for pid in (1, os.getppid()):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        way.sendmsg([b'{"calls": ["mkdir"]}'], [
            (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [theirs.fileno()])),
            (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("iII", pid, os.getuid(), os.getgid())),
        ])
    except PermissionError:
        print("cannot be", flush=True)
        continue
    theirs.close()
    print(scm.receive(ours).data.decode(), flush=True)
# a thousand, whose other end would block
for _ in range(1000):
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    way.setblocking(True)
    scm.send(way, b'{"calls": []}', [b.fileno()])
"""


def test_hostile_ones_below(running: RunningAgent, place: Path) -> None:
    """Nonsense, pids of others, thousands: others are served meanwhile, and in the end nothing is left of it."""
    (place / "hostile.py").write_text(HOSTILE + STRANGE)
    said(outer(running, inner("mkdir inner2")))
    before = running.descriptors
    process = outer(running, f"{sys.executable} hostile.py; mkdir outer1; mkdir free && echo free")
    for _ in range(3):
        assert "outer2’: Read-only" in said(outer(running, "mkdir outer2"))
    text = said(process)
    assert "served 64\n" in text and "outer1’: Read-only" in text and "free\n" in text, text
    assert text.count("cannot be") == 3, text  # looked at, or claimed
    eventually(lambda: running.descriptors <= before)


def test_a_file_that_nobody_closes_holds_up_nobody(running: RunningAgent, place: Path) -> None:
    """What comes and is no connection is closed where nobody waits; its sender is looked at when that is done."""
    (place / "hostile.py").write_text(
        HOSTILE + "a, b = os.pipe()\nscm.send(way, b'{}', [b])\nos.close(b)\n"
        "print(os.read(a, 1), register(b'{\"calls\": []}')[1])\n"
    )
    text = said(outer(running, f"{sys.executable} hostile.py"))
    assert "b''" in text and "served" in text, text


@pytest.mark.root
def test_what_was_begun_below_is_not_performed_twice(running: RunningAgent, place: Path) -> None:
    """The monitor dies while one below waits in an open that it performs: EINTR, as of what the agent performs."""
    (place / "policies/default.toml").write_text('default = "allow"\n')
    running.heard("policies changed")
    (place / "opens.toml").write_text(
        '[[rule]]\nname = "opens"\ncalls = ["open", "openat"]\nperform = true\n'
    )
    os.mkfifo(place / "fifo")
    script = shlex.join([*PROCTOR, "--policy", "opens.toml", "--", "cat", "fifo"])
    process = outer(running, script, "--delegate", "open,openat")
    eventually(opening)
    os.kill(running.serving, signal.SIGKILL)
    assert "fifo: Interrupted system call" in said(process)


def test_nothing_is_known_of_what_is_performed_below() -> None:
    """Whoever begins there says nothing in the journal, so that a call that only a journal makes harmless is not made again."""
    journal, progress_table = Journal.create(4), Progress.create()
    journal.progress = progress_table
    slot, raw = journal.place()
    assert raw is not None
    raw[:] = SECCOMP_NOTIF.pack(9, 1, 0, 83, 0xC000003E, *[0] * 7)
    journal.received(slot, 1.0)
    noted = Notification(9, 1, 83, 0xC000003E, (0,) * 6, 0, 0, slot)
    listener = SimpleNamespace(journal=journal.buffer)
    call: Any = SimpleNamespace(id=9, _notification=noted, _listener=listener, name="mkdir")
    journal.performs(noted)
    assert [each.known for each in journal.pending()] == [NOTHING]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    below = Inner(Rank(os.getpid(), frozenset(), 1, 1, 0), ours, os.pidfd_open(os.getpid()))
    caller: Any = SimpleNamespace()
    question = Question(
        call, caller, [below], proctor.let_run(), lambda: journal.performs(noted), proctor.let_run
    )
    question._may_perform()
    assert [each.known for each in journal.pending()] == [UNKNOWN]
    question.close(), below.let_go(), theirs.close()
    journal.close(), progress_table.close()


def test_only_so_many_are_below_one_users_commands_and_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever commands they are below; those that are gone make room."""
    monkeypatch.setattr(delegating, "_EACH", 2)
    monkeypatch.setattr(delegating, "_ALL", 3)
    monkeypatch.setattr(Below, "_rank", lambda self, pid, pidfd, calls: Rank(pid, calls, 99, 1, 0))
    loop = asyncio.new_event_loop()
    supervisor: Any = SimpleNamespace(reroute=lambda container: None)
    delegations = delegating.Delegations(loop, Nobody(), supervisor)
    ways: dict[str, socket.socket] = {}
    for name, uid in (("a", "7"), ("b", "7"), ("c", "8"), ("d", "8")):
        ours, ways[name] = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        container = proctor.Container(name, labels={"uid": uid})
        delegations.begin(f"listener {name}", delegating.Way(ours, frozenset(), 1), container)
    register = (
        "import socket, sys; way = socket.socket(fileno=int(sys.argv[1])); "
        "mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
        'socket.send_fds(way, [b\'{"calls": ["mkdir"]}\'], [theirs.fileno()]); '
        "print(mine.recv(4096).decode(), flush=True); sys.stdin.read()"
    )

    def below(name: str) -> tuple[str, subprocess.Popen[str]]:
        """What one is told that registers."""
        way = ways[name].fileno()
        made = subprocess.Popen(
            [sys.executable, "-S", "-c", register, str(way)],
            pass_fds=[way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        asked.append(made)
        assert made.stdout is not None
        said: list[str] = []
        reading = threading.Thread(target=lambda: said.append(made.stdout.readline()))  # type: ignore[union-attr]
        reading.start()
        while not said:
            loop.call_later(0.01, int)
            loop._run_once()  # type: ignore[attr-defined]
        reading.join(30)
        return said[0], made

    asked: list[subprocess.Popen[str]] = []
    assert "served" in below("a")[0]
    _, second = below("b")
    assert "2 are below those of user 7 already" in below("b")[0]
    assert "served" in below("c")[0]
    assert "3 are below all already" in below("d")[0]
    second.kill()
    second.wait(30)
    assert "served" in below("d")[0]
    delegations.close_all_but()
    for each in asked:
        each.kill()
        each.communicate(timeout=30)
    for way in ways.values():
        way.close()
    loop.close()
