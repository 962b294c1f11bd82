"""The asyncio twins: streams, and that nobody waits for a thread that he holds up himself."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import subprocess
import sys
import threading

import pytest

import proctor
from proctor import DEVNULL, PIPE, STDOUT

pytestmark = pytest.mark.timeout(60)
MKDIRS = ("mkdir", "mkdirat")


@pytest.fixture(autouse=True)
def nothing_is_left() -> object:
    before = len(os.listdir("/proc/self/fd"))
    threads = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(20)
        assert not thread.is_alive(), thread
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@proctor.on(*MKDIRS)
async def read_only(call: proctor.Call) -> proctor.Verdict:
    await asyncio.sleep(0)
    return proctor.deny(errno.EROFS)


def test_streams_are_asyncios() -> None:
    async def main() -> None:
        async with await proctor.spawn_async(["cat"], stdin=PIPE, stdout=PIPE) as process:
            assert process.stdin is not None and process.stdout is not None
            assert process.stderr is None
            assert (process.poll(), process.args) == (None, ["cat"])
            for line in (b"one\n", b"two\n"):
                process.stdin.write(line)
                await process.stdin.drain()
                assert await process.stdout.readline() == line
            assert await process.communicate(b"three\n") == (b"three\n", None)
            assert (process.poll(), await process.wait()) == (0, 0)

    asyncio.run(main())


def test_more_than_pipes_hold_goes_through_them() -> None:
    data = os.urandom(1 << 21)
    script = "tee /dev/stderr; mkdir nowhere/x 2>/dev/null || echo refused"

    async def main() -> None:
        process = await proctor.spawn_async(
            ["sh", "-c", script], [read_only], stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        assert await process.communicate(data) == (data + b"refused\n", data)
        await process.close()
        await process.close()

    asyncio.run(main())


def test_input_that_is_not_wanted_is_no_error() -> None:
    async def main() -> None:
        done = await proctor.run_async(["true"], input=bytes(1 << 21), stdout=PIPE, stderr=STDOUT)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", None)

    asyncio.run(main())


def test_leaving_closes_the_pipes_and_waits() -> None:
    async def main() -> None:
        async with await proctor.spawn_async(["cat"], stdin=PIPE, stdout=PIPE) as process:
            assert process.stdin is not None
            process.stdin.write(b"x")
        assert process.returncode in (0, -signal.SIGPIPE, 1)
        async with await proctor.spawn_async(["yes"], stdout=PIPE, stderr=DEVNULL) as process:
            pass
        assert process.returncode in (-signal.SIGPIPE, 1)

    asyncio.run(main())


def test_timeout_ends_the_command_and_has_what_was_said() -> None:
    script = "echo begun; echo trouble >&2; exec sleep 600"

    async def main() -> None:
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            await proctor.run_async(["sh", "-c", script], capture_output=True, timeout=1.0)
        assert caught.value.output in (
            b"",
            b"begun\n",
        )  # a busy machine's shell may not have got there
        assert caught.value.stderr in (b"", b"trouble\n")

    asyncio.run(main())


@pytest.mark.parametrize("supervised", [False, True])
def test_being_cancelled_ends_the_command(supervised: bool) -> None:
    pidfds: list[int] = []

    async def main() -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        handlers = [read_only] if supervised else []
        loop, begun = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(reader, begun.set)
        words = ["sh", "-c", "echo $$; exec sleep 600"]
        task = asyncio.create_task(proctor.run_async(words, handlers, stdout=writer))
        await begun.wait()
        loop.remove_reader(reader)
        pidfds.append(os.pidfd_open(int(os.read(reader, 99))))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await asyncio.to_thread(select.select, pidfds, [], [], 30))[0]
        os.close(reader)
        os.close(writer)

    try:
        asyncio.run(main())
    finally:
        for fd in pidfds:
            os.close(fd)


def test_handlers_have_the_loops_own_threads_for_themselves() -> None:
    """More commands than the executor has threads, and each of their handlers wants one."""

    @proctor.on(*MKDIRS, "execve")
    async def asks(call: proctor.Call) -> proctor.Verdict | None:
        name = call.name
        await asyncio.to_thread(bool)
        return None if name == "execve" else proctor.deny(errno.EROFS)

    async def main() -> list[int]:
        from concurrent.futures import ThreadPoolExecutor

        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        words = ["mkdir", "nowhere/x"]
        runs = [proctor.run_async(words, [asks], stderr=DEVNULL) for _ in range(6)]
        return [each.returncode for each in await asyncio.gather(*runs)]

    assert asyncio.run(main()) == [1] * 6


def test_a_command_that_dies_with_its_monitor_outlives_its_start() -> None:
    async def main() -> None:
        words = [sys.executable, "-c", "print(input())"]
        async with await proctor.spawn_async(
            words, die_with_monitor=True, stdin=PIPE, stdout=PIPE
        ) as process:
            assert await process.communicate(b"here\n") == (b"here\n", None)
        assert process.returncode == 0

    asyncio.run(main())
