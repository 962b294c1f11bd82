"""Agents and runtimes for tests; nothing of them is left."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.running import RunningAgent
from tests.agent.runtimes import Runtime, make_rootfs, missing

POLICY = """
default = "allow"

[[rule]]
name = "no such rooms"
calls = ["mkdir", "mkdirat"]
when = { path = "/tmp/forbidden*" }
deny = "EROFS"

[[rule]]
name = "other rooms"
calls = ["mkdir", "mkdirat"]
allow = "unsafe: a test"

[[rule]]
name = "harmless devices"
calls = ["mknod", "mknodat"]
when = { type = "char", device = ["1:3", "1:5"] }
perform = true

[[rule]]
name = "modes are as they are"
calls = ["chmod", "fchmodat"]
deny = "ENOMEDIUM"
report = true
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that another user, as root of a container is, can walk through."""
    made = Path(tempfile.mkdtemp(prefix="proctor-"))
    made.chmod(0o755)
    (made / "policies").mkdir()
    (made / "policies/default.toml").write_text(POLICY)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def agent(place: Path) -> Iterator[Callable[..., RunningAgent]]:
    """Starts agents."""
    made: list[RunningAgent] = []

    def start(*options: str, spare: bool = False) -> RunningAgent:
        made.append(RunningAgent(place, *options, spare=spare))
        return made[-1]

    yield start
    for each in made:
        each.stop()


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest, place: Path) -> Iterator[Runtime]:
    """A real runtime, with a file system for its containers."""
    lacks = missing(request.param, "runc", "busybox", "unshare")
    if lacks:
        pytest.skip(f"needs {lacks}")
    make_rootfs(place)
    made = Runtime(request.param, place)
    yield made
    made.clean()
