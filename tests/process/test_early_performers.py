"""The executors' mother is started while the command starts, where calls will be performed."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.policy import loads
from proctor.process.performing import LazyPerformer
from proctor.process.run import PIPE
from tests.cli.conftest import COMMAND

pytestmark = pytest.mark.timeout(60)

POLICY = '[[rule]]\nname = "o"\ncalls = ["creat"]\nperform = true\n'
WAITS = ["sh", "-c", "read x"]


@proctor.on("creat", performs=True)
def performs(call: proctor.Call) -> proctor.Verdict:
    return proctor.perform()


@proctor.on("creat")
def denies(call: proctor.Call) -> proctor.Verdict:
    return proctor.deny(errno.EPERM)


def pool(process: proctor.Process) -> Any:
    """The mother of executors that a process started, once its starting thread is through."""
    lazy = process.supervisor._decider._performer
    assert isinstance(lazy, LazyPerformer)
    for thread in threading.enumerate():
        if thread.name == "proctor-performers":
            thread.join(30)
    return None if lazy._performers is None else lazy._performers.executors.mother


def test_handlers_say_whether_they_perform() -> None:
    """A policy's do so by themselves; nobody reads anybody's code for it."""
    rules = loads(POLICY)
    assert any(handler.performs for handler in rules.handlers())
    other = loads('[[rule]]\nname = "d"\ncalls = ["creat"]\ndeny = 1\n')
    assert not any(handler.performs for handler in other.handlers())
    assert performs.performs
    assert not proctor.on("creat")(performs.function).performs


@pytest.mark.parametrize("which", ["function", "policy", "none"])
def test_performers_are_there_before_the_first_call(which: str) -> None:
    options: dict[str, Any] = {}
    handlers = [performs if which == "function" else denies]
    if which == "policy":
        rules = loads(POLICY)
        handlers, options = rules.handlers(), {"filter": rules.filter()}
    with proctor.spawn(WAITS, handlers, stdin=PIPE, **options) as process:
        made = pool(process)
        if which == "none":
            assert made is None
        else:
            assert made._control is not None
            # started, with a process behind it that lives
            assert Path(f"/proc/self/fdinfo/{made._pidfd}").read_text().find("Pid:\t-1") < 0
        assert process.stdin is not None
        process.stdin.close()


def test_a_performer_that_counts_as_false_is_one() -> None:
    class Empty(list[int]):
        def __call__(self, call: proctor.Call, verdict: proctor.Verdict) -> proctor.Verdict:
            return proctor.deny(errno.EXDEV)

    script = "import os\ntry: os.open('/nowhere', os.O_CREAT)\nexcept OSError as e: print(e.errno)"
    handler = proctor.on("openat", when=proctor.Condition("flags", "&=", os.O_CREAT, os.O_CREAT))(
        lambda call: proctor.perform()
    )
    done = proctor.run(
        [sys.executable, "-I", "-S", "-c", script],
        [handler],
        performer=Empty(),
        capture_output=True,
    )
    assert done.stdout == b"%d\n" % errno.EXDEV


def test_the_asyncio_twin_starts_them_too() -> None:
    async def main() -> None:
        async with await proctor.spawn_async(WAITS, [performs], stdin=PIPE) as target:
            assert (await asyncio.to_thread(pool, target.process))._control is not None
            assert target.stdin is not None
            target.stdin.close()

    asyncio.run(main())


def child(pid: int, comm: str) -> int:
    """The child of a process that has this name; 0 while there is none."""
    for each in filter(str.isdigit, os.listdir("/proc")):
        try:
            name, _, rest = (
                Path(f"/proc/{each}/stat").read_text().partition(" (")[2].rpartition(") ")
            )
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if name == comm and int(rest.split()[1]) == pid:
            return int(each)
    return 0


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not true():
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.001)  # to look again, not to wait for something


def test_proctor_run_starts_them_too_and_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(POLICY)
    with subprocess.Popen(
        [*COMMAND, "run", "--policy", "p.toml", "--", *WAITS], stdin=subprocess.PIPE, cwd=tmp_path
    ) as process:
        until(lambda: child(process.pid, "proctor-perform") > 0)
        pidfd = os.pidfd_open(child(process.pid, "proctor-perform"))
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
    import select

    assert select.select([pidfd], [], [], 30)[0], "the performers outlive the run"
    os.close(pidfd)


def test_commands_shorter_than_the_start_leave_nothing() -> None:
    rules = loads(POLICY)
    before = None
    for _ in range(12):
        done = proctor.run(["true"], rules.handlers(), filter=rules.filter())
        assert done.returncode == 0
        for thread in threading.enumerate():
            if thread.name == "proctor-performers":
                thread.join(30)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        now = len(os.listdir("/proc/self/fd"))
        before = before or now
        assert now == before


def test_a_command_that_ends_while_the_code_is_loaded_has_no_executor_started() -> None:
    """What performs is loaded by its first call, which takes longer than many a command."""

    class Ends(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            over.append(lazy._performers is not None)
            return len(over) > 1  # the command is over at the second look

    over: list[bool] = []
    lazy = LazyPerformer({})
    lazy._ends = Ends()
    lazy.start_early()
    for thread in threading.enumerate():
        if thread.name == "proctor-performers":
            thread.join(30)
    try:
        assert over == [False, True]
        assert lazy._performers is not None and lazy._performers.executors.mother._control is None
    finally:
        lazy.close()
