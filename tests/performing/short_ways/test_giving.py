"""Callers that call at once: what was opened for one is given by another thread, while whoever receives goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.kernel.journal import Journal
from proctor.kernel.launch import launch
from proctor.observe.jsonlog import JsonLog, to_file
from proctor.performing import Performers
from proctor.policy import loads
from tests.performing.support.containers import PYTHON
from tests.support.processes import eventually
from tests.support.tracing import detach, seize_and_interrupt, wait_stopped

#: Processes that open a file again and again until a line comes; each sees what it got, under which number, and what is left
#: open.  Those that are `full` have no room for it.  Printed: opens, and refusals, of all of them.
PROGRAM = """
import errno, mmap, os, resource, sys
path, callers, full = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
over, status = mmap.mmap(-1, 4096), os.stat(path)
pipes = [os.pipe() for _ in range(callers)]
for i, (_, writer) in enumerate(pipes):
    if os.fork() == 0:
        free = os.dup(0)
        os.close(free)
        opened = refused = 0
        if i < full:
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
        while not over[0]:
            try:
                fd = os.open(path, os.O_RDONLY)
            except OSError as failed:
                assert failed.errno == errno.EMFILE and i < full
                refused += 1
            else:
                assert fd == free and i >= full and not os.get_inheritable(fd)
                assert os.path.samestat(os.fstat(fd), status)
                os.close(fd)
                opened += 1
        os.write(writer, b"%d %d " % (opened, refused))
        os._exit(0)
sys.stdin.readline()
over[0] = 1
for _ in pipes:
    assert os.wait()[1] == 0
said = [tuple(map(int, os.read(reader, 100).split())) for reader, _ in pipes]
print(*(sum(each) for each in zip(*said)))
"""

RULES = """version = 1
[[rule]]
name = "closed"
calls = ["openat"]
when = { path = "/root/.secrets/**" }
deny = "EACCES"

[[rule]]
name = "open"
calls = ["openat"]
perform = true
"""


def handler(call: proctor.Call) -> proctor.Verdict:
    return proctor.perform()


def ruled() -> tuple[list[Any], dict[str, Any]]:
    policy = loads(RULES)
    return list(policy.handlers()), {**policy.supervisor_options(), "filter": policy.filter()}


HANDLER = proctor.Handler(["openat"], handler, performs=True)
BY = {"a handler": lambda: ([HANDLER], {}), "rules": ruled}
OTHER = {"uid": 1000, "gid": 1000, "groups": ()}


@pytest.fixture
def file(place: bytes) -> str:
    path = os.fsdecode(place) + "/file"
    Path(path).write_text("content")
    os.chmod(path, 0o644)
    return path


def handed(supervisor: proctor.Supervisor) -> int:
    loop: Any = supervisor._engine._loop  # type: ignore[attr-defined]
    return int(loop.handed)


@pytest.mark.parametrize(
    ("by", "full", "options"),
    [
        ("a handler", 0, {}),
        ("a handler", 1, {}),
        ("a handler", 4, {}),
        ("rules", 0, {}),
        ("rules", 1, {}),
        ("a handler", 0, OTHER),
        ("a handler", 1, OTHER),
        ("rules", 0, OTHER),
    ],
)
def test_callers_at_once_get_what_they_asked_for(
    by: str, full: int, options: dict[str, Any], file: str
) -> None:
    """And it is counted exactly, also where it comes out later that a caller cannot be given anything."""
    if options and os.geteuid() != 0:
        pytest.skip("another identity takes root")
    handlers, more = BY[by]()
    counters = proctor.Counters()
    with proctor.spawn(
        [PYTHON, "-ISc", PROGRAM, file, "4", str(full)],
        handlers,
        observers=[counters],
        stdin=proctor.PIPE,
        stdout=proctor.PIPE,
        **more,
        **options,
    ) as process:
        eventually("calls are handed over", lambda: handed(process.supervisor) >= 50, 60)
        opened, refused = map(int, process.communicate(b"\n", 60)[0].split())
        assert process.returncode == 0
    table = {key[2]: count for key, count in counters.table().items()}
    assert (opened > 0, refused > 0) == (full < 4, full > 0)
    assert table.get("perform EMFILE", 0) == refused
    # what python opens for itself is there, too; each call that was handed over would be one more
    assert opened <= table["perform"] < opened + 50
    assert set(table) <= {"perform", "perform EMFILE", "perform ENOENT", "perform ENOTDIR"}


@pytest.mark.parametrize("by", BY)
def test_who_is_told_waits_for_what_came_of_it(by: str, file: str, place: bytes) -> None:
    """A log says whether somebody was there to hear an answer, so none is left to others."""
    handlers, more = BY[by]()
    counters, log = proctor.Counters(), os.fsdecode(place) + "/log"
    lines = to_file(log, print)
    with proctor.spawn(
        [PYTHON, "-ISc", PROGRAM, file, "4", "0"],
        handlers,
        observers=[JsonLog(lines, containers=False), counters],
        stdin=proctor.PIPE,
        stdout=proctor.PIPE,
        **more,
    ) as process:
        eventually("calls are performed", lambda: sum(counters.table().values()) >= 500, 60)
        process.communicate(b"\n", 60)
        assert process.returncode == 0
        assert handed(process.supervisor) == 0
    lines.close(30.0, 30.0)
    told = [json.loads(line) for line in Path(log).read_text().splitlines()]
    assert len(told) == sum(counters.table().values())


@pytest.mark.parametrize("by", BY)
def test_ends_in_the_middle(by: str, file: str) -> None:
    """Whose supervision ends while they call get what was opened, or ENOSYS, and nothing besides."""
    handlers, more = BY[by]()
    code = PROGRAM.replace("errno.EMFILE and i < full", "errno.ENOSYS").replace(
        "refused += 1", "over[0] = refused = 1"
    )
    for _ in range(5):
        process = proctor.spawn(
            [PYTHON, "-ISc", code, file, "4", "0"],
            handlers,
            stdin=proctor.PIPE,
            stdout=proctor.PIPE,
            **more,
        )
        with process:
            eventually("calls are handed over", lambda p=process: handed(p.supervisor) >= 20, 60)
            process.supervisor.close()
            opened, _ = map(int, process.communicate(b"\n", 60)[0].split())
            assert opened >= 20 and process.returncode == 0


#: Dies in an answer, whosever that is, once calls were handed over.
MONITOR = """
import ctypes, signal, struct, sys, time
import proctor
from proctor.kernel.journal import Journal
from proctor.performing import Performers
from tests.performing.short_ways.test_giving import BY, handed

handlers, _ = BY[sys.argv[3]]()
supervisor = proctor.Supervisor(handlers, performer=Performers().start())
supervisor.add(proctor.Listener(int(sys.argv[1])), journal=Journal(int(sys.argv[2])))
supervisor.start()
while handed(supervisor) < 50:
    time.sleep(0.001)
steps = (
    (0x20, 0, 0, 0), (0x15, 0, 3, 16), (0x20, 0, 0, 24), (0x15, 0, 1, 0xC0182101), (6, 0, 0, 0x80000000),
    (6, 0, 0, 0x7FFF0000),
)
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
assert libc.syscall(317, 1, 1, struct.pack("@HP", len(steps), ctypes.addressof(code))) == 0  # seccomp, all threads
signal.pause()
"""


@contextmanager
def callers(code: str, file: str) -> Iterator[tuple[int, Callable[[], tuple[int, int]]]]:
    """Four that open a file: their listener, its taker's, and what ends them and has how many opened, and were refused."""
    rules = proctor.filter_for([HANDLER])
    assert rules is not None
    (stdin, tell), (told, stdout) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    target = launch(
        [PYTHON, "-ISc", code, file, "4", "0"],
        program=rules.compile().code,
        fds=((stdin, 0), (stdout, 1), (2, 2)),
    )
    os.close(stdin)
    os.close(stdout)

    def end() -> tuple[int, int]:
        os.write(tell, b"\n")
        with open(told, closefd=False) as out:
            opened, refused = map(int, out.read().split())
        assert target.wait(60) == 0
        return opened, refused

    try:
        yield target.take_listener(), end
    finally:
        target.kill()
        target.close()
        os.close(tell)
        os.close(told)


@pytest.mark.parametrize("by", BY)
def test_what_was_handed_over_is_in_the_journal(by: str, file: str) -> None:
    """Whoever serves next answers what was given, and gives what was not.  (Who dies at once after a caller had put it into
    its table cannot have written that down.)"""
    code = PROGRAM.replace("fd == free", "fd >= free")
    handlers, _ = BY[by]()
    journal = Journal.create(64)
    with callers(code, file) as (listener, end), proctor.Listener(listener) as mine:
        fds = listener, journal.fileno()
        done = subprocess.run(
            [sys.executable, "-c", MONITOR, *map(str, fds), by],
            pass_fds=fds,
            check=False,
            timeout=120,
        )
        assert done.returncode == -signal.SIGSYS
        assert list(journal.pending())
        with (
            Performers() as performers,
            proctor.Supervisor(handlers, performer=performers) as supervisor,
        ):
            supervisor.add(mine, journal=journal)
            supervisor.start()
            eventually("calls are handed over", lambda: handed(supervisor) >= 50, 60)
            opened, refused = end()
            assert opened >= 100 and not refused
        assert not list(journal.pending())
    journal.close()


#: Steps to the end; says when somebody gives, and once that has stopped at a call, that two hundred steps were made.
STEPPING = """
import sys
import proctor
from proctor.performing import Performers
from tests.performing.short_ways.test_giving import HANDLER, handed

supervisor = proctor.Supervisor([HANDLER], performer=Performers().start())
supervisor.add(proctor.Listener(int(sys.argv[1])))

while not handed(supervisor):
    supervisor.step(0.1)
print("gives", flush=True)
sys.stdin.readline()
for _ in range(200):  # in some of the first it is left one
    supervisor.step(0.01)
print("stepped", flush=True)
while supervisor.listeners:
    supervisor.step(0.1)
supervisor.close()
"""


def giver_of(process: int) -> int:
    """The thread that gives; it takes its name when it first runs, and is left calls before."""

    def named() -> int:
        for each in Path(f"/proc/{process}/task").iterdir():
            try:
                if (each / "comm").read_text() == "proctor-gives\n":
                    return int(each.name)
            except FileNotFoundError:
                pass
        return 0

    return eventually("somebody gives", named)


def test_a_slow_caller_does_not_keep_who_steps(file: str) -> None:
    """Whoever gives waits for it; whoever receives, step by step, does not: two hundred such waits outlast any patience."""
    with callers(PROGRAM, file) as (listener, end):
        monitor = subprocess.Popen(
            [sys.executable, "-c", STEPPING, str(listener)],
            pass_fds=[listener],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        os.close(listener)
        try:
            assert monitor.stdin is not None and monitor.stdout is not None
            assert monitor.stdout.readline() == b"gives\n"
            giver = giver_of(monitor.pid)
            seize_and_interrupt(giver)  # as if the caller were so slow
            wait_stopped(giver)
            monitor.stdin.write(b"\n")
            monitor.stdin.flush()
            assert monitor.stdout.readline() == b"stepped\n"
            detach(giver)
            opened, refused = end()
            assert opened and not refused
            assert monitor.wait(60) == 0
        finally:
            monitor.kill()
            monitor.communicate()
