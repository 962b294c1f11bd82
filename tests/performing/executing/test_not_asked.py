"""An executor that a call was to ask, and did not, is free for another one, whose answer is not the first one's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import proctor
from proctor.kernel.journal import Journal
from proctor.kernel.progress import Progress

pytestmark = [pytest.mark.timeout(120), pytest.mark.root]

#: Until it is killed over "last": of the call "first" nothing is asked of whom its slot names.
MONITOR = """
import os, signal, sys, threading
import proctor
from proctor.kernel.journal import Journal
from proctor.kernel.progress import Progress
from proctor.performing import Performers
from proctor.performing.networks.connecting import ConnectWay
from proctor.performing.executing.processes import Executor
listener, journal, table = map(int, sys.argv[1:4])
kind, kills = sys.argv[4], sys.argv[5] == "dies"
stopped = set()

def say(word):
    os.write(1, word.encode() + b"\\n")

def lend_for(self, standing, look, call, *more, real=Executor.lend_for):
    if call.id in stopped:  # as its user may
        os.kill(self.pid, signal.SIGSTOP)
    found = real(self, standing, look, call, *more)
    if call.id in stopped:
        say("late" if found[0] is None else "in time")
    return found

def connect(self, call, *more, real=ConnectWay._connect):
    said = real(self, call, *more)
    if call.id in stopped:  # before the long way begins
        say("late" if said is None else "said")
        threading.Event().wait()
    return said

Executor.lend_for, ConnectWay._connect = lend_for, connect

def decide(call):
    which = {b"first": "first", 998: "first", b"last": "last", 999: "last"}.get(
        call.args["path"] if kind == "mknodat" else call.registers[0]
    )
    if kills and which == "last":
        os.kill(os.getpid(), signal.SIGKILL)
    if kills and which == "first":
        stopped.add(call.id)
    return proctor.perform()

performers = Performers(nested="allow")
performers.executors.progress = Progress(table)
kept = Journal(journal)
kept.progress = performers.executors.progress
supervisor = proctor.Supervisor([proctor.Handler((kind,), decide)], performer=performers)
supervisor.add(proctor.Listener(listener), journal=kept)
supervisor.start()
signal.pause()
"""
#: One makes the call "first", when its way is known; another one is served meanwhile.
TARGET = """
import ctypes, errno, os, socket, stat, struct, sys
os.chdir(sys.argv[1])
server = socket.create_server(("127.0.0.1", 0))
address = struct.pack("=H", 2) + struct.pack(">H", server.getsockname()[1]) + bytes([127, 0, 0, 1]) + bytes(8)
libc = ctypes.CDLL(None, use_errno=True)
def call(name):
    if sys.argv[2] == "mknodat":
        failed = libc.mknodat(-100, name.encode(), 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    else:
        number = {"first": 998, "last": 999}.get(name) or socket.socket().detach()
        failed = libc.connect(number, address, 16)
    return ctypes.get_errno() if failed else 0
def child(*names):
    if os.fork() == 0:
        said = [call(name) for name in names]
        os.write(1, f"{said[-1]} {os.path.lexists(names[-1])}\\n".encode())
        os._exit(0)
call("a"), call("b")
child("c", "d", "first")
sys.stdin.readline()
os.write(1, f"{call('other')}\\n".encode())
child("last")
os.wait(), os.wait()
"""


@pytest.mark.parametrize(
    ("kind", "first", "last"),
    [("mknodat", "0 True", "0 True"), ("connect", "9 False", "9 False")],
)
def test_what_another_call_came_to_is_not_the_answer(
    tmp_path: Path, kind: str, first: str, last: str
) -> None:
    """A lender that is given back since the caller's executor takes its time, and an executor to which no socket could be sent."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o777)
    program = proctor.Filter([proctor.Rule((kind,), proctor.actions.NOTIFY)]).compile().code
    (asks, go), (heard, says) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    target = proctor.launch(
        [sys.executable, "-c", TARGET, str(place), kind], program=program, fds=[(asks, 0), (says, 1)],
        namespaces=("user",) if kind == "mknodat" else (),
    )  # fmt: skip
    os.close(asks), os.close(says)
    listener, journal, table = target.take_listener(), Journal.create(16), Progress.create()
    fds = (listener, journal.fileno(), table.fd)

    def monitor(how: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", MONITOR, *map(str, fds), kind, how]
        return subprocess.Popen(argv, pass_fds=fds, stdout=subprocess.PIPE, text=True)

    with open(heard) as out, monitor("dies") as dies:
        try:
            assert dies.stdout is not None and dies.stdout.readline() == "late\n"
            os.write(go, b"\n")
            assert out.readline() == "0\n"
            assert dies.wait(60) == -9
            with monitor("lives") as lives:
                try:
                    assert sorted(out.read().splitlines()) == sorted((first, last))
                finally:
                    lives.kill()
        finally:
            dies.kill()
            target.kill(), target.close()
            journal.close(), table.close()
            os.close(listener), os.close(go)
