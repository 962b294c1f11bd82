"""Uses of options, good and bad; only types are looked at, by test_options.py.

A line that mypy must refuse ends in ``# refused: `` and what it says there.
"""

from __future__ import annotations

import errno
import subprocess

import proctor


@proctor.on("mkdir", deadline=1.0)
def handler(call: proctor.Call) -> proctor.Verdict:
    return proctor.deny(errno.EROFS)


async def coroutines() -> None:
    done: subprocess.CompletedProcess[str] = await proctor.run_async(
        ["true"], [handler], check=True
    )
    process = await proctor.spawn_async(["true"], pass_fds=[3], workers=2)
    code: int = await process.wait()
    out: tuple[bytes | None, bytes | None] = await process.communicate(b"")
    if process.stdin is not None and process.stdout is not None:
        process.stdin.write(await process.stdout.readline())
    print(done, code, out)
    await proctor.run_async(["true"], worker=2)  # refused: Unexpected keyword argument "worker"
    await proctor.spawn_async(["true"], cwd=3)  # refused: Argument "cwd" to "spawn_async"


def commands() -> None:
    proctor.run(["true"], [handler], input="x", timeout=2.5, text=True, env={"A": "b"}, umask=0o22)
    proctor.run([b"true"], namespaces=["user", "mnt"], userns=[(0, 1000, 1)], stdin=proctor.DEVNULL)
    proctor.spawn(["true"], stdout=proctor.PIPE, stderr=proctor.STDOUT, new_session=True)
    proctor.run(["true"], performing={"nested": "allow", "limit": 3}, observers=[print])
    proctor.run(["true"], enviroment={})  # refused: Unexpected keyword argument "enviroment"
    proctor.run(["true"], timeout="1")  # refused: Argument "timeout" to "run"
    proctor.run(["true"], performing={"nested": "maybe"})  # refused: Argument "performing" to "run"
    proctor.run(["true"], default=proctor.deny)  # refused: Argument "default" to "run"
    proctor.spawn(["true"], timeout=1.0)  # refused: Unexpected keyword argument "timeout"
    proctor.spawn(["true"], uid="root")  # refused: Argument "uid" to "spawn"
    proctor.spawn(["true"], program=b"")  # refused: Unexpected keyword argument "program"


def launches() -> None:
    proctor.launch(["true"], program=b"", fds={0: 0}, cwd="/")
    proctor.launch(["true"], stdin=0)  # refused: Unexpected keyword argument "stdin"


class Disk:
    left = 2

    @proctor.on("write")
    def fills_up(self, call: proctor.Call) -> proctor.Verdict | None:
        self.left -= 1
        return proctor.deny(errno.ENOSPC) if self.left < 0 else None

    @proctor.on("mkdir")
    async def later(self, call: proctor.Call) -> proctor.Verdict:
        return proctor.perform()

    @proctor.on("mkdir")  # refused: incompatible type
    def wrong(self, call: proctor.Call) -> int:
        return 3


def methods() -> None:
    proctor.run(["true"], [Disk().fills_up, Disk().later])
