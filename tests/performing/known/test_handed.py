"""What is made or truncated where a journal is kept is handed to its caller by whoever does that, and is what the kernel gives."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.kernel.journal import Journal
from proctor.kernel.progress import Progress
from proctor.performing import Performers
from proctor.performing.paths import opening
from proctor.syscalls import tables
from proctor.syscalls.architectures import native
from tests.performing.support.containers import PYTHON

pytestmark = pytest.mark.timeout(120)

#: Each path with each flags, and what becomes of it.
PROGRAM = """
import ctypes, errno, fcntl, itertools, json, os, sys
os.chdir(sys.argv[1])
if int(sys.argv[2]) >= 0: os.setgroups([]), os.setresgid(*[int(sys.argv[2])] * 3), os.setresuid(*[int(sys.argv[2])] * 3)
libc = ctypes.CDLL(None, use_errno=True)
PATHS = ("new", "file", "file/", "dir", "dir/", "dir/.", "dir/new", "no/new", "link", "dangling", "loop", "fifo", "", "/dev/null",
         "short", "sealed", sys.argv[1] + "/new", "x" * 256)
FLAGS = [making | access | more
         for making in (os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_CREAT | os.O_TRUNC, os.O_CREAT | os.O_EXCL | os.O_TRUNC)
         for access in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
         for more in (0, os.O_CLOEXEC | os.O_NONBLOCK, os.O_NOFOLLOW | os.O_APPEND, os.O_DIRECTORY)]
def write(name, data):
    fd = libc.syscall(NUMBER_OF_OPENAT, -100, name.encode(), os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(fd, data), os.close(fd)
def stage():
    for name in os.listdir("."):
        if name == "dir":
            for each in os.listdir(name): os.unlink("dir/" + each)
        else: os.unlink(name)
    if not os.path.isdir("dir"): os.mkdir("dir")
    write("file", b"before"), write("short", b"s"), write("sealed", b"x"), os.chmod("sealed", 0o444)
    os.symlink("file", "link"), os.symlink("made", "dangling"), os.symlink("loop", "loop"), os.mkfifo("fifo")
def seen(fd):
    if fd < 0: return errno.errorcode[ctypes.get_errno()]
    status = os.fstat(fd)
    kept = oct(status.st_mode), status.st_size, fcntl.fcntl(fd, fcntl.F_GETFL), fcntl.fcntl(fd, fcntl.F_GETFD)
    os.close(fd)
    return fd, *kept
NUMBER_OF_OPENAT, NUMBER_OF_OPENAT2 = map(int, sys.argv[3:])
said = []
for number, (path, flags) in enumerate(itertools.product(PATHS, FLAGS)):
    if path == "fifo" and not flags & os.O_NONBLOCK: continue
    if number % 9 == 0 or path == "fifo": stage()
    os.umask(0o22 if number % 2 else 0o077)
    if number % 3:
        fd = libc.syscall(NUMBER_OF_OPENAT, -100, path.encode(), flags, 0o666 if number % 4 else 0o444)
    else:
        how = (ctypes.c_uint64 * 3)(flags, 0o640 if flags & os.O_CREAT else 0, number % 2 * 8)
        fd = libc.syscall(NUMBER_OF_OPENAT2, -100, path.encode(), how, 24)
    found = sorted((name, os.lstat(name).st_size, oct(os.lstat(name).st_mode)) for name in os.listdir(".") if name != "dir")
    said.append((path, flags, seen(fd), found))
print(json.dumps(said))
"""


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("user", [-1, pytest.param(1000, marks=pytest.mark.root)])
def test_it_is_what_the_kernel_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool, user: int
) -> None:
    """To who is what the monitor is, and to another user; by name and by its own link."""
    handed: list[None] = []
    real = opening._hand

    def counted(*given: Any, **more: Any) -> Any:
        handed.append(None)
        return real(*given, **more)

    monkeypatch.setattr(opening, "_hand", counted)
    numbers = [str(tables.number(name, native())) for name in ("openat", "openat2")]
    for each in (tmp_path, *tmp_path.parents):
        if each.name.startswith("pytest-"):
            each.chmod(0o755)
    said = []
    for supervised in (False, True):
        place = tmp_path / ("two" if supervised else "one")
        place.mkdir()
        os.chown(place, user, user)
        words = [PYTHON, "-ISc", PROGRAM, str(place), str(user), *numbers]
        said.append(json.loads(_run(words, supervised, asked).replace(str(place), "PLACE")))
    differ = [both for both in zip(*said, strict=True) if both[0] != both[1]]
    assert not differ, f"{len(differ)} differ:\n" + "\n".join(map(str, differ[:8]))
    assert len(handed) > 100


INTERRUPTED = """
import ctypes, os, signal, sys
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGALRM, lambda *_: None), signal.siginterrupt(signal.SIGALRM, False)
before = os.listdir("/proc/self/fd")
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
said = []
for number in range(200):
    fd = libc.syscall(int(sys.argv[2]), -100, b"made", os.O_TRUNC | os.O_CREAT * (number % 2 == 0), 0o600)
    said.append(-ctypes.get_errno() if fd < 0 else 0)
    if fd >= 0: os.close(fd)
signal.setitimer(signal.ITIMER_REAL, 0)
print(set(said), len(os.listdir("/proc/self/fd")) - len(before))
"""


@pytest.mark.parametrize("waits", [False, True])
def test_who_is_interrupted_has_no_descriptor_that_it_does_not_know_of(
    tmp_path: Path, waits: bool
) -> None:
    """Callers that signals take out of a call, as those of runtimes are that set no flag, and those that wait."""
    number = str(tables.number("openat", native()))
    words = [PYTHON, "-ISc", INTERRUPTED, str(tmp_path), number]
    assert _run(words, True, False, waits).split() == ["{0}", "0"]


def _run(words: list[str], supervised: bool, asked: bool, waits: bool = True) -> str:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    rules = [proctor.Rule(("openat", "openat2"), proctor.actions.NOTIFY)]
    program = proctor.Filter(rules).compile().code if supervised else None
    target = proctor.launch(words, program=program, fds=[(writer, 1)], wait_killable=waits)
    os.close(writer)
    allow = (lambda argument, path: True) if asked else None
    handler = proctor.Handler(("openat", "openat2"), lambda call: proctor.perform(allow=allow))
    performers, journal, table = Performers(), Journal.create(16), Progress.create()
    performers.executors.progress = journal.progress = table
    supervisor = proctor.Supervisor([handler], performer=performers)
    try:
        if supervised:
            supervisor.add(proctor.Listener(target.take_listener()), journal=journal)
            supervisor.start()
        with open(reader) as out:
            text = out.read()
        assert target.wait(30) == 0
        return text
    finally:
        target.kill(), target.close()
        supervisor.close(), performers.close()
        journal.close(), table.close()
