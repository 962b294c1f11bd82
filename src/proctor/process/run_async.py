"""``run`` and ``spawn`` for asyncio programs.

``async def`` handlers run on *your* event loop, so they may await whatever you have there; receiving
and answering stay on a thread of the supervisor's, so a busy loop delays only the verdicts that
it owes.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from proctor.kernel.threads import quiet_thread
from proctor.process.child import Process
from proctor.process.run import Asked, spawn
from proctor.process.streams import Streams
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
            async with await proctor.spawn_async(["cat"], stdin=proctor.PIPE, stdout=proctor.PIPE) as process:
                assert isinstance(process, proctor.AsyncProcess)
                process.stdin.write(b"one\\n")
                assert await process.stdout.readline() == b"one\\n"
                return await process.communicate(b"two\\n")

        import asyncio
        assert asyncio.run(main()) == (b"two\\n", None)

    Like :class:`asyncio.subprocess.Process`, with :class:`Process`'s ``poll`` and ``close``.  As a context manager it
    closes its pipes, waits for the command, and then closes the supervisor, as :class:`Process` does.
    """

    def __init__(self, process: Process, streams: Streams) -> None:
        #: The same command through the blocking interface; its pipes are this one's.
        self.process = process
        self._streams = streams

    @property
    def args(self) -> Any:
        """The command, as it was given."""
        return self.process.args

    @property
    def pid(self) -> int:
        """The command's process id."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, ``-n`` for death by signal n; None while not known to have ended."""
        return self.process.returncode

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        """Its standard input, if that is PIPE."""
        return self._streams.stdin

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """Its standard output, if that is PIPE."""
        return self._streams.readers[1]

    @property
    def stderr(self) -> asyncio.StreamReader | None:
        """Its standard error, if that is PIPE."""
        return self._streams.readers[2]

    def poll(self) -> int | None:
        """The return code if the command has ended, else None."""
        return self.process.poll()

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

    async def communicate(self, input: bytes | None = None) -> tuple[bytes | None, bytes | None]:
        """Feed ``input``, read both outputs to their end, wait; as asyncio's."""
        return await self._communicate(input, None)

    async def _communicate(
        self, data: bytes | None, timeout: float | None
    ) -> tuple[bytes | None, bytes | None]:
        ended = asyncio.ensure_future(self.wait())
        try:
            return await self._streams.communicate(data, timeout, ended)
        finally:
            ended.cancel()

    def send_signal(self, number: int) -> None:
        """Send a signal to the command, by its pidfd."""
        self.process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    async def close(self) -> None:
        """Kill the command if it still runs, close pipes and supervisor; idempotent."""
        self._streams.close()
        # in a thread: closing waits for the supervisor, which may wait for a coroutine of this loop
        await _in_a_thread(self.process.close)

    async def __aenter__(self) -> AsyncProcess:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._streams.finish()
                await self.wait()
        finally:
            await self.close()

    def __repr__(self) -> str:
        return f"<AsyncProcess pid {self.pid} {self.args!r} returncode {self.returncode}>"


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _in_a_thread(function: Callable[[], object], then: Callable[[], object] = bool) -> None:
    """As :func:`asyncio.to_thread`, in a thread that nobody else waits for: those of the loop's own are few, and are the
    handlers' as well, for whom the command waits.

    :param then: what the thread does after that, for which nobody waits."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if over.done():  # whoever waited was cancelled
            return
        if error is None:
            over.set_result(None)
        else:
            over.set_exception(error)

    def work() -> None:
        raised: BaseException | None = None
        try:
            function()
        except BaseException as error:
            raised = error
        try:
            loop.call_soon_threadsafe(settle, raised)
        except RuntimeError:
            pass  # the loop is closed: nobody waits
        then()

    quiet_thread(work, "proctor-async")
    await over


def _outlive(pidfds: Iterable[int]) -> None:
    for fd in pidfds:
        poller = select.poll()  # select(2) takes no number beyond 1023
        poller.register(fd, select.POLLIN)
        poller.poll()
        os.close(fd)


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

    bound: list[int] = []  # a pidfd, if the command dies with the thread that launches it

    def begin() -> None:
        made.append(spawn(argv, handlers, **options))
        if options.get("die_with_monitor"):
            bound.append(os.dup(made[0].target.pidfd))
        if not settled.acquire(blocking=False):
            made[0].close()

    try:
        # in a thread: execve may be among the supervised calls, its handler a coroutine of this loop
        await _in_a_thread(begin, lambda: _outlive(bound))
    except BaseException:
        if not settled.acquire(blocking=False):
            await _in_a_thread(made[0].close)
        raise
    try:
        return AsyncProcess(made[0], await Streams.connect(made[0]))
    except BaseException:
        await _in_a_thread(made[0].close)
        raise


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

    Being cancelled, by :func:`asyncio.timeout` say, ends the command, as ``timeout`` does.
    """
    asked = Asked(argv, options)
    process = await spawn_async(argv, handlers, **asked.options)
    try:
        said = await process._communicate(asked.data, asked.timeout)
    finally:
        await process.close()
    return asked.completed(process.returncode, said)
