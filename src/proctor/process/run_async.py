"""``run`` and ``spawn`` for asyncio programs.

``async def`` handlers run on *your* event loop, so they may await whatever you have there; receiving
and answering stay on a thread of the supervisor's, so a busy loop delays only the verdicts that
it owes.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from proctor.process.child import Process
from proctor.process.run import run as run_blocking
from proctor.process.run import spawn
from proctor.supervisor.handlers import Handler
from proctor.supervisor.world import KernelWorld

if TYPE_CHECKING:
    import subprocess
    from typing import Unpack

    from proctor.kernel.plan import StrOrBytes
    from proctor.process.options import RunOptions, SpawnOptions


class AsyncProcess:
    """A supervised command in an asyncio program; made by :func:`spawn_async`.

    ::

        async def main():
            process = await proctor.spawn_async(["sleep", "60"])
            assert isinstance(process, proctor.AsyncProcess)
            process.kill()
            return await process.wait()

        import asyncio
        assert asyncio.run(main()) == -9
    """

    def __init__(self, process: Process) -> None:
        #: The same command through the blocking interface.
        self.process = process

    @property
    def pid(self) -> int:
        """The command's process id."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, ``-n`` for death by signal n; None while not known to have ended."""
        return self.process.returncode

    async def wait(self) -> int:
        """Wait for the command itself, not for its descendants."""
        code = self.process.poll()
        if code is not None:
            return code
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        # a pidfd is readable once the process is a zombie (pidfd_open(2)); a copy of it, since
        # close() may come from elsewhere while we wait
        fd = os.dup(self.process.target.pidfd)
        try:
            loop.add_reader(fd, _resolve, ended)
            await ended
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        return self.process.wait()

    def send_signal(self, number: int) -> None:
        """Send a signal to the command, by its pidfd."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    async def close(self) -> None:
        """Kill the command if it still runs, close pipes and supervisor; idempotent."""
        # in a thread: closing waits for the supervisor, which may wait for a coroutine of this loop
        await asyncio.to_thread(self.process.close)

    async def __aenter__(self) -> AsyncProcess:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self.wait()
        finally:
            await self.close()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _use_this_loop(options: SpawnOptions) -> None:
    if options.get("world") is None:
        loop, workers = asyncio.get_running_loop(), options.pop("workers", None)
        options["world"] = (
            KernelWorld(loop=loop) if workers is None else KernelWorld(loop=loop, workers=workers)
        )


async def spawn_async(
    argv: Sequence[StrOrBytes],
    handlers: Iterable[Handler] = (),
    **options: Unpack[SpawnOptions],
) -> AsyncProcess:
    """:func:`proctor.spawn`, with ``async def`` handlers on the running loop.

    ::

        async def main():
            async with await proctor.spawn_async(["true"]) as process:
                return await process.wait()

        import asyncio
        assert asyncio.run(main()) == 0

    Being cancelled ends the command, once it has begun.
    """
    _use_this_loop(options)
    settled = threading.Lock()  # whoever comes second, the command or we, finds it taken
    made: list[Process] = []

    def begin() -> None:
        made.append(spawn(argv, handlers, **options))
        if not settled.acquire(blocking=False):
            made[0].close()

    try:
        # in a thread: execve may be among the supervised calls, its handler a coroutine of this loop
        await asyncio.to_thread(begin)
    except BaseException:
        if not settled.acquire(blocking=False):
            threading.Thread(target=made[0].close).start()
        raise
    return AsyncProcess(made[0])


async def run_async(
    argv: Sequence[StrOrBytes],
    handlers: Iterable[Handler] = (),
    **options: Unpack[RunOptions],
) -> subprocess.CompletedProcess[Any]:
    """:func:`proctor.run`, with ``async def`` handlers on the running loop.

    ::

        import asyncio
        done = asyncio.run(proctor.run_async(["echo", "hello"], capture_output=True))
        assert done.stdout == b"hello\\n"

    Being cancelled does not end the command; use ``timeout``, or :func:`spawn_async`.
    """
    _use_this_loop(options)
    return await asyncio.to_thread(run_blocking, argv, handlers, **options)
