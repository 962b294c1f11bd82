"""A descriptor that a handler took and kept cannot make run() wait for ever, nor without a word."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import proctor
from proctor.observe.events import Trouble
from proctor.process import pipes

pytestmark = pytest.mark.timeout(60)


class Hears:
    """Keeps what trouble there is."""

    events = (Trouble,)

    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, event: Trouble) -> None:
        self.said.append(event.text)


@pytest.fixture
def taken() -> Iterator[list[int]]:
    """Descriptors that somebody forgot."""
    made: list[int] = []
    yield made
    for fd in made:
        os.close(fd)


def test_what_the_call_owns_is_no_leak() -> None:
    looked: list[int] = []

    @proctor.on("write")
    def look(call: proctor.Call) -> proctor.Verdict:
        looked.append(call.fd(call.args.fd))
        return proctor.let_run_unsafe("only a look")

    hears = Hears()
    done = proctor.run(["echo", "hi"], [look], capture_output=True, observers=[hears])
    assert (done.stdout, hears.said) == (b"hi\n", [])
    assert looked


def leaking(taken: list[int], number: int) -> proctor.Handler:
    @proctor.on("write")
    def keep(call: proctor.Call) -> proctor.Verdict:
        if not taken:
            taken.append(call.take_fd(number))
        return proctor.let_run_unsafe("only a look")

    return keep


@pytest.mark.parametrize("asyncio_twin", [False, True])
def test_an_output_that_is_kept_ends_all_the_same(taken: list[int], asyncio_twin: bool) -> None:
    hears = Hears()
    options: dict[str, Any] = {"capture_output": True, "observers": [hears]}
    handler = leaking(taken, 1)
    if asyncio_twin:
        done = asyncio.run(proctor.run_async(["echo", "hi"], [handler], **options))
    else:
        done = proctor.run(["echo", "hi"], [handler], **options)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hi\n", b"")
    (said,) = hears.said
    assert said.startswith(
        f"stdout of ['echo', 'hi'] is still open here, as descriptor {taken[0]},"
    )


@pytest.mark.parametrize("asyncio_twin", [False, True])
def test_an_input_that_is_kept_ends_all_the_same(taken: list[int], asyncio_twin: bool) -> None:
    hears = Hears()
    data = b"x" * (1 << 20)  # more than a pipe takes
    options: dict[str, Any] = {"input": data, "stdout": -3, "observers": [hears]}
    if asyncio_twin:
        done = asyncio.run(proctor.run_async(["echo", "hi"], [leaking(taken, 0)], **options))
    else:
        done = proctor.run(["echo", "hi"], [leaking(taken, 0)], **options)
    assert done.returncode == 0
    (said,) = hears.said
    assert said.startswith("stdin of")


def test_a_descendant_that_holds_the_pipe_is_waited_for(
    taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As subprocess does, and it is no leak of ours, though we have it as well."""
    program = (
        "import os, sys\n"
        "os.write(1, b'first\\n')\n"
        "leader = os.getpid()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    while os.getppid() == leader: os.sched_yield()\n"
        "    for _ in range(3):\n"
        "        os.read(int(sys.argv[1]), 1)  # we have looked once more\n"
        "        os.write(1, b'late\\n')\n"
    )
    looks, looked = os.pipe()
    found = pipes.Leaks.found

    def looking(self: Any, those: list[Any]) -> list[Any]:
        lost = found(self, those)
        if self._process.poll() is not None:
            os.write(looked, b"x")
        return lost

    monkeypatch.setattr(pipes.Leaks, "found", looking)
    hears = Hears()
    try:
        done = proctor.run(
            [sys.executable, "-ISc", program, str(looks)], [leaking(taken, 1)],
            capture_output=True, observers=[hears], pass_fds=[looks],
        )  # fmt: skip
    finally:
        os.close(looks)
        os.close(looked)
    assert done.stdout == b"first\n" + b"late\n" * 3
    assert len(hears.said) == 1


def test_nothing_is_left_behind(taken: list[int]) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    proctor.run(["echo", "hi"], [leaking(taken, 1)], capture_output=True, observers=[Hears()])
    assert len(os.listdir("/proc/self/fd")) == before + len(taken)


LOOKS: dict[str, Callable[[proctor.Call], Any]] = {
    "path": lambda call: call.path,
    "valid": lambda call: call.valid(),
    "fd": lambda call: call.fd(0),
    "caller": lambda call: call.caller.fd_path(0),
    "copied": lambda call: call.copied(call.registers[0], 8),
    "place": lambda call: call.place(0, at=9),
    "perform": lambda call: proctor.perform(),
    "fails": lambda call: {}["nothing"],
}


@pytest.mark.parametrize("look", LOOKS)
def test_whoever_is_at_a_call_when_all_ends_meets_that_its_caller_is_gone(look: str) -> None:
    """What a handler makes of that is no trouble; a mistake of its own is."""
    began, ended = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    @proctor.on("mkdir")
    def slow(call: proctor.Call) -> proctor.Verdict:
        threads.append(threading.current_thread())
        began.set()
        assert ended.wait(30)
        said = LOOKS[look](call)
        return said if look == "perform" else proctor.deny(errno.EPERM)

    hears = Hears()
    process = proctor.spawn(
        [sys.executable, "-Ic", "import os; os.mkdir('/')"], [slow], observers=[hears]
    )
    assert began.wait(30)
    process.close()
    ended.set()
    threads[0].join(30)
    assert not threads[0].is_alive()
    assert len(hears.said) == (look == "fails"), hears.said


SPAWNER = """
import gc, os, sys, threading
import proctor

@proctor.on("mkdir", "openat", performs=True)
def handler(call):
    return proctor.deny(30) if call.name == "mkdir" else proctor.perform()

def size():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return len(os.listdir("/proc/self/fd")), threading.active_count(), file.read().split()

proctor.run(["cat", "/dev/null"], [handler])  # what is kept for good is kept by then
before = size()
for name in sys.argv[1:]:
    process = proctor.spawn(["sh", "-c", "read go; mkdir x"], [handler], stdin=proctor.PIPE, stderr=-3)
    if name == "waited for":
        process.communicate(b"go")
        assert process.returncode == 1
        del process
    else:
        pid, stdin = process.pid, process.stdin
        del process
        gc.collect()
        with stdin:
            stdin.write(b"go")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1, "it was served no longer"
gc.collect()
for thread in threading.enumerate():
    if thread.name == "proctor-end":
        thread.join()
assert size() == before, (before, size())
with proctor.spawn(["true"], [handler]) as process:
    supervisor = process.supervisor
    process.wait()
    del process
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name == "proctor-end"]
"""


def test_who_is_held_by_nobody_leaves_nothing() -> None:
    """As of subprocess.Popen: neither threads nor descriptors, nor what performs; and is served to its end."""
    words = [sys.executable, "-c", SPAWNER, "waited for", "left alone"]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
