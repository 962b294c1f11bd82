"""Agents and runtimes for tests; nothing of them is left."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.agent.running import RunningAgent
from tests.agent.runtimes import Runtime, make_rootfs, missing

#: Rules that tests are made of, each of which must be seen to hold.
NO_ROOMS = """
[[rule]]
name = "no such rooms"
calls = ["mkdir", "mkdirat"]
when = { path = "/tmp/forbidden*" }
deny = "EROFS"
"""
DEVICES = """
[[rule]]
name = "harmless devices"
calls = ["mknod", "mknodat"]
when = { type = "char", device = ["1:3", "1:5"] }
perform = true
"""
MODES = """
[[rule]]
name = "modes are as they are"
calls = ["chmod", "fchmodat"]
deny = "ENOMEDIUM"
"""
OTHER_ROOMS = """
[[rule]]
name = "other rooms"
calls = ["mkdir", "mkdirat"]
allow = "unsafe: a test"
"""
POLICY = f'default = "allow"\n{NO_ROOMS}{OTHER_ROOMS}{DEVICES}{MODES}report = true\n'


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

    def start(*options: str, spare: bool = False, by: Sequence[str] = ()) -> RunningAgent:
        made.append(RunningAgent(place, *options, spare=spare, by=by))
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
