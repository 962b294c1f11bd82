"""A spawn_async() that is cancelled leaves no command behind that nobody knows of."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from typing import Any

import pytest

import proctor
from proctor.process import run_async as asyncapi

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("begun", [False, True])
def test_cancelled_while_it_starts(monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    entered, release, started = threading.Event(), threading.Event(), threading.Event()
    pidfds: list[int] = []
    reader, writer = os.pipe2(os.O_CLOEXEC)
    real = asyncapi.spawn

    def spawn(*args: Any, **options: Any) -> proctor.Process:
        process = real(*args, **options)
        started.set()
        return process

    monkeypatch.setattr(asyncapi, "spawn", spawn)

    def slow(call: proctor.Call) -> proctor.Verdict:
        if not pidfds:
            pidfds.append(os.pidfd_open(call.tid))
        entered.set()
        release.wait(30)
        return proctor.let_run()

    async def main() -> None:
        handler = proctor.on("execve")(slow)
        task = asyncio.create_task(proctor.spawn_async(["cat"], [handler], stdin=reader))
        await asyncio.to_thread(entered.wait, 30)
        if begun:  # and this loop does not know yet
            release.set()
            assert started.wait(30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()

    try:
        asyncio.run(main())
        assert select.select(pidfds, [], [], 30)[0], "the command still runs"
    finally:
        for fd in (reader, writer, *pidfds):
            os.close(fd)
