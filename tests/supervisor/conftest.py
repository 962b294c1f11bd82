"""Supervisors on both engines, and a target that makes calls when told."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import proctor
from proctor.observe.logger import flush
from proctor.supervisor.world import KernelWorld
from tests.support.stalling import World, await_threads

#: How much longer everything may take here than on a machine that is not emulated.
SLOWNESS = float(os.environ.get("PROCTOR_TEST_SLOWNESS", "1"))
SOURCE = Path(__file__).with_name("caller.c")


@pytest.fixture(scope="session")
def caller(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The compiled target."""
    place = tmp_path_factory.mktemp("caller")
    place.chmod(0o755)
    binary = place / "caller"
    subprocess.run(
        ["gcc", "-O1", "-Wall", "-Wextra", "-pthread", "-o", str(binary), str(SOURCE)], check=True
    )
    return str(binary)


@pytest.fixture(params=["native", "python"])
def make_world(request: pytest.FixtureRequest) -> Callable[..., KernelWorld]:
    """Worlds on the native engine and on the one in plain Python: the same tests run on both."""
    return lambda **options: World(native=request.param == "native", **options)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    left = {}
    for fd in set(os.listdir("/proc/self/fd")) - before:
        try:
            left[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            pass  # an event loop's thread is just ending
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass  # those that died with nobody to wait for them
    assert not [link for link in left.values() if "seccomp" in link or "pidfd" in link], left


@pytest.fixture
def start(
    caller: str, make_world: Callable[..., KernelWorld]
) -> Iterator[Callable[..., proctor.Process]]:
    """Start the caller with a script of calls and handlers; killed and closed at the end."""
    made: list[proctor.Process] = []

    def go(
        *script: str,
        handlers: list[proctor.Handler],
        world: dict[str, object] | None = None,
        **options: object,
    ) -> proctor.Process:
        process = proctor.spawn(
            [caller, *script],
            handlers,
            stdin=-1,
            stdout=-1,
            world=make_world(**(world or {})),
            **options,
        )  # type: ignore[arg-type]
        made.append(process)
        return process

    yield go
    for process in made:
        process.close()
    await_threads()  # the last to speak to a listener closes it


def lines(process: proctor.Process) -> list[str]:
    """What the caller printed, to its end; and what was logged until then is in the log."""
    out, _ = process.communicate(timeout=30 * SLOWNESS)
    assert flush(30 * SLOWNESS)
    return (out or b"").decode().splitlines()
