"""Standard input and output of a supervised command, on an event loop."""

from __future__ import annotations

import asyncio
import time
from typing import IO, TYPE_CHECKING, Any

from proctor.process.pipes import LOOK, Leaks

if TYPE_CHECKING:
    from proctor.process.child import Process


class Streams:
    """The pipes of a command as asyncio has them; made by :meth:`connect`, which takes them over."""

    def __init__(self, process: Process) -> None:
        self._process = process
        #: Those of the process, which has them no more.
        self._pipes = process.give_pipes()
        self._transports: dict[int, asyncio.BaseTransport] = {}
        #: What a writer hears its end by has a reader, to which nothing refers otherwise.
        self._deaf = asyncio.StreamReader()
        self.stdin: asyncio.StreamWriter | None = None
        self.readers: list[asyncio.StreamReader | None] = [None, None, None]

    @classmethod
    async def connect(cls, process: Process) -> Streams:
        """Have the running loop read and write them."""
        made = cls(process)
        try:
            for number, pipe in enumerate(made._pipes):
                if pipe is not None:
                    await made._connect(number, pipe)
        except BaseException:
            made.close()
            raise
        return made

    async def _connect(self, number: int, pipe: IO[bytes]) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader() if number else self._deaf
        protocol = asyncio.StreamReaderProtocol(reader)
        if number:
            self.readers[number] = reader
            self._transports[number], _ = await loop.connect_read_pipe(lambda: protocol, pipe)
        else:
            transport, _ = await loop.connect_write_pipe(lambda: protocol, pipe)
            self._transports[number] = transport
            self.stdin = asyncio.StreamWriter(transport, protocol, None, loop)

    async def communicate(
        self, data: bytes | None, timeout: float | None, ended: asyncio.Future[int]
    ) -> tuple[bytes | None, bytes | None]:
        """Write ``data``, read both outputs, wait for the command.

        :param ended: done once the command has ended.
        :raises subprocess.TimeoutExpired: after ``timeout`` seconds, with what was read until then; the
            command runs on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        read: list[list[bytes]] = [[], [], []]
        awaited: set[asyncio.Future[Any]] = {ended, asyncio.ensure_future(self._feed(data))}
        awaited |= {
            asyncio.ensure_future(_read(reader, read[number]))
            for number, reader in enumerate(self.readers)
            if reader is not None
        }
        leaks = Leaks(self._process, self._pipes)
        try:
            pending = awaited
            while pending:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    from subprocess import TimeoutExpired

                    said = self._joined(read)
                    raise TimeoutExpired(self._process.args, timeout or 0.0, *said)
                patience = LOOK if left is None else min(left, LOOK)
                done, pending = await asyncio.wait(
                    pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                for each in done:
                    each.result()
                if not done:
                    self._give_up(leaks)
        finally:
            for each in awaited:
                if each is not ended:
                    each.cancel()
        return self._joined(read)

    async def _feed(self, data: bytes | None) -> None:
        if self.stdin is None:
            return
        try:
            if data:
                self.stdin.write(data)
                await self.stdin.drain()
            self.stdin.close()
            await self.stdin.wait_closed()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it does not want more, as a shell pipe would have it

    def _give_up(self, leaks: Leaks) -> None:
        """Nothing more comes of a pipe whose other end only we have."""
        numbers = [number for number, each in self._transports.items() if not each.is_closing()]
        for number in leaks.found(numbers):
            _close(self._transports[number])
            reader = self.readers[number]
            if reader is not None:
                reader.feed_eof()

    def _joined(self, read: list[list[bytes]]) -> tuple[bytes | None, bytes | None]:
        out, err = (
            None if self.readers[number] is None else b"".join(read[number]) for number in (1, 2)
        )
        return out, err

    def finish(self) -> None:
        """Let the command read what was written, and its end; what it writes is not read any more."""
        for number, each in self._transports.items():
            if number:
                each.close()
            elif self.stdin is not None:
                self.stdin.close()

    def close(self) -> None:
        """Close all of them, with what was not written.  Idempotent."""
        for each in self._transports.values():
            _close(each)
        for number, pipe in enumerate(self._pipes):
            if pipe is not None and number not in self._transports:
                pipe.close()


def _close(transport: asyncio.BaseTransport) -> None:
    # asyncio's own cannot be aborted once they are closed, and then have nothing to write
    if isinstance(transport, asyncio.WriteTransport) and transport.get_write_buffer_size():
        transport.abort()
    else:
        transport.close()


async def _read(reader: asyncio.StreamReader, into: list[bytes]) -> None:
    while chunk := await reader.read(65536):
        into.append(chunk)
