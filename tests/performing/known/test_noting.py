"""What the next monitor knows of a call is what executors say of its changes: so each has one that they know as such."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families
from proctor.kernel.journal import Journal
from proctor.kernel.launch import launch
from proctor.kernel.progress import Progress
from proctor.performing import Performers, noting
from proctor.performing.executing.processes import Executor
from proctor.performing.families import CALLS, NOTED
from proctor.supervisor.world import KernelWorld
from proctor.syscalls import tables
from proctor.syscalls.architectures import native
from tests.performing.support.containers import PYTHON

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes a container's ids")

#: Those whose monitors are killed over them in test_known_by_the_next.py, or other names of such a one, and one that moves what
#: such a one made.
ELSEWHERE = {"connect", "mount", "move_mount", "sendto", "sendmsg", "sendmmsg", *CALLS["open"]}
#: All others, by their numbers here; what is there of before is "old".
PROGRAM = """
import ctypes, errno, json, os, struct, sys
os.chdir(sys.argv[1])
NUMBERS = json.loads(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
held = []
def text(value):
    held.append(ctypes.create_string_buffer(value))
    return ctypes.addressof(held[-1])
os.close(os.open("old", os.O_CREAT, 0o644))
fd, here = os.open("old", os.O_RDWR), -100
old, name, value = text(b"old"), text(b"trusted.one"), text(b"1")
long = text(struct.pack("=QII", value, 1, 0))
def new(kind=None):
    made = f"new{len(held)}"
    if kind == "dir":
        os.mkdir(made)
    elif kind:
        os.close(os.open(made, os.O_CREAT, 0o644))
    return text(made.encode())
CALLS = {
    "chmod": (old, 0o600), "fchmodat": (here, old, 0o600), "fchmodat2": (here, old, 0o600, 0), "chown": (old, 1, 1),
    "lchown": (old, 1, 1), "fchownat": (here, old, 1, 1, 0), "utime": (old, 0), "utimes": (old, 0), "futimesat": (here, old, 0),
    "utimensat": (here, old, 0, 0), "truncate": (old, 1), "mknod": (new(), 0o10600, 0), "mknodat": (here, new(), 0o10600, 0),
    "mkdir": (new(), 0o700), "mkdirat": (here, new(), 0o700), "rmdir": (new("dir"),), "unlink": (new("file"),),
    "unlinkat": (here, new("file"), 0), "rename": (new("file"), new()), "renameat": (here, new("file"), here, new()),
    "renameat2": (here, new("file"), here, new(), 0), "link": (old, new()), "linkat": (here, old, here, new(), 0),
    "symlink": (old, new()), "symlinkat": (old, here, new()), "setxattr": (old, name, value, 1, 0), "removexattr": (old, name),
    "lsetxattr": (old, name, value, 1, 0), "lremovexattr": (old, name), "fsetxattr": (fd, name, value, 1, 0),
    "fremovexattr": (fd, name), "setxattrat": (here, old, 0, name, long, 16), "removexattrat": (here, old, 0, name),
}
assert not set(NUMBERS) - set(CALLS), set(NUMBERS) - set(CALLS)
for call, arguments in CALLS.items():
    if call in NUMBERS and libc.syscall(NUMBERS[call], *map(ctypes.c_ulong, arguments)) != 0:
        said = errno.errorcode[ctypes.get_errno()]
        assert said == "ENOSYS", (call, said)
        print(call)
"""


def test_each_has_a_change_that_its_executor_says_something_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing: set[str] = set()
    asks = noting.asks

    def watched(call: Any, request: Any, *executors: Any) -> None:
        if request.noted:
            changing.add(call.name)
        asks(call, request, *executors)

    monkeypatch.setattr(noting, "asks", watched)
    numbers = {
        name: number
        for name, number in tables.numbers(native()).items()
        if name in NOTED - ELSEWHERE
    }
    os.chown(tmp_path, 100000, 100000)
    for each in (tmp_path, *tmp_path.parents):
        if each.name.startswith("pytest-"):
            each.chmod(0o755)
    done = proctor.run(
        [PYTHON, "-ISc", PROGRAM, str(tmp_path), json.dumps(numbers)],
        [families.names(), families.attributes(), families.mknod(), families.xattr(names=["trusted.*"])],
        userns=[(0, 100000, 65536)], world=KernelWorld(native=False), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert changing == set(numbers) - set(done.stdout.split())


DONE = """
import errno, os, socket, sys
os.chdir(sys.argv[1])
one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
other.setblocking(False)
for what, *args in (os.mkdir, "made"), (os.rename, "made", "moved"), (os.symlink, "x", "moved/link"), (one.sendto, b"four", None):
    if what == one.sendto:
        what, args = one.sendmsg, [[b"four"]]
    try:
        what(*args)
        said = "done"
    except OSError as error:
        said = errno.errorcode[error.errno]
    print(said)
print(os.listdir("moved"), other.recv(9))
try:
    other.recv(9)
except BlockingIOError:
    print("once")
"""


@pytest.mark.parametrize("kept", [True, False])
def test_what_was_done_by_who_died_at_it_is_told_as_the_next_monitor_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """Where nobody would know it is EIO: it may be done, and programs do again what is EINTR."""
    tmp_path.chmod(0o777)
    for each in (tmp_path, *tmp_path.parents[:2]):
        each.chmod(each.stat().st_mode | 0o055)
    changing: set[Executor] = set()
    asks, answered, replied = noting.asks, Executor._answered, Executor.reply

    def watched(call: Any, request: Any, *executors: Any) -> None:
        changing.update(executors if request.noted else ())
        asks(call, request, *executors)

    def lost(executor: Executor, reply: Any) -> Any:
        """It has made the change, and is killed before it says so."""
        if reply is not None and executor in changing:
            changing.clear()
            reply.close()
            os.kill(executor.pid, signal.SIGKILL)
            executor.wait_for_end(10)
            executor._unheard(0, b"")
        return reply

    def at_once(self: Executor, heard: Any) -> Any:
        return lost(self, answered(self, heard))

    def later(self: Executor, request: Any, *, wait: bool) -> Any:
        return lost(self, replied(self, request, wait=wait))

    monkeypatch.setattr(noting, "asks", watched)
    monkeypatch.setattr(Executor, "_answered", at_once)
    monkeypatch.setattr(Executor, "reply", later)
    troubles: list[str] = []
    performers = Performers(nested="allow", on_trouble=troubles.append)
    journal, table = Journal.create(), Progress.create()
    if kept:
        performers.executors.progress = journal.progress = table
    names = ["mkdir", "rename", "symlink", "sendmsg"]
    program = proctor.Filter([proctor.Rule(names, proctor.actions.NOTIFY)]).compile().code
    read, write = os.pipe()
    target = launch(
        [PYTHON, "-ISc", DONE, str(tmp_path)],
        program=program,
        namespaces=("user",),
        fds=((write, 1),),
    )
    os.close(write)
    handlers = [families.names(), families.send()]
    with (
        performers,
        proctor.Supervisor(
            handlers, performer=performers, world=KernelWorld(native=False)
        ) as supervisor,
    ):
        listener = proctor.Listener(target.take_listener())
        supervisor.add(listener, journal=journal if kept else None)
        supervisor.start()
        with open(read) as said:
            told = said.read().split("\n")
        target.wait()
        target.close()
    table.close()
    assert told == [*["done" if kept else "EIO"] * 4, "['link'] b'four'", "once", ""]
    assert len(troubles) == 4
