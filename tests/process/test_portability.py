"""What decides and decodes imports on any platform: without the core, without Linux's own modules."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import proctor.call
import proctor.filter
import proctor.model
import proctor.policy
import proctor.supervisor
import proctor.testing

ROOT = Path(__file__).resolve().parents[2]

#: Rooms of which every module must import.
ROOMS = (
    proctor.call, proctor.filter, proctor.model, proctor.policy, proctor.supervisor, proctor.testing,
)  # fmt: skip
ALONE = (
    "proctor",
    "proctor.kernel",
    "proctor.kernel.abi",
    "proctor.errors",
    "proctor.kernel.memory",
    "proctor.kernel.notification",
)


def modules() -> list[str]:
    found = list(ALONE)
    for room in ROOMS:
        found.append(room.__name__)
        found += [each.name for each in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")]
    return [name for name in found if name.rpartition(".")[2] != "__main__"]


def elsewhere(code: str) -> subprocess.CompletedProcess[str]:
    """Run code on the poorer platform of tests/testing/elsewhere.py."""
    start = "from tests.testing import elsewhere\n"
    return subprocess.run(
        [sys.executable, "-c", f"{start}elsewhere.impoverish()\n{code}"],
        check=False, capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip


def test_every_module_imports() -> None:
    """Each in turn, all problems at once."""
    done = elsewhere(
        f"""
import importlib
for name in {modules()!r}:
    try:
        importlib.import_module(name)
    except BaseException as problem:
        print(name, type(problem).__name__, problem)
"""
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize(
    "name",
    ["proctor", "proctor.filter", "proctor.call.call", "proctor.testing",
     "proctor.supervisor.pyengine", "proctor.supervisor.supervisor", "proctor.supervisor.handlers",
     "proctor.model.kernel.machine", "proctor.model.draw.life"],
)  # fmt: skip
def test_it_imports_first_of_all(name: str) -> None:
    """In a process of its own, so that no import before it helped."""
    done = elsewhere(f"import {name}")
    assert done.returncode == 0, done.stderr


def test_the_public_names_that_need_no_kernel() -> None:
    done = elsewhere(
        """
import proctor
kernel = {"AsyncProcess", "DEVNULL", "Listener", "PIPE", "Process", "STDOUT", "filter_for", "launch", "run",
          "run_async", "spawn", "spawn_async", "Target"}
for name in set(proctor.__all__) - kernel:
    getattr(proctor, name)
@proctor.on("mkdir")
def handler(call):
    return proctor.deny(1)
rule = proctor.Rule(("mkdir",), __import__("proctor.filter.actions").filter.actions.NOTIFY)
print(len(proctor.Filter([rule]).compile()))
"""
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_the_poorer_platform_is_poorer() -> None:
    for name in ("proctor.kernel._core", "fcntl", "pwd"):
        done = elsewhere(f"import {name}")
        assert done.returncode != 0
        assert f"No module named {name!r} (elsewhere)" in done.stderr
    done = elsewhere("import os, select; os.O_PATH if hasattr(os, 'O_PATH') else select.epoll")
    assert "has no attribute 'epoll'" in done.stderr
