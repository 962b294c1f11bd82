"""Racers for what is said in structures and by descriptors: scheduling, events, device programs, flags of files.

PROCTOR_RACES says how many tries each has (make test-races).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proctor import families
from proctor.supervisor.handlers import Handler
from tests.performing.support.callers import compiled, open_directory
from tests.performing.support.containers import inside

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of other ids want the host's root"),
    pytest.mark.timeout(3000),
]
TRIES = int(os.environ.get("PROCTOR_RACES", "300"))


@pytest.fixture(scope="module")
def program() -> Iterator[str]:
    with compiled("struct_racer") as made:
        yield made


@pytest.fixture
def top() -> Iterator[Path]:
    with open_directory() as path:
        top = Path(os.fsdecode(path))
        for name, owner in (("own", 100000), ("hosts", 0)):
            (top / name).touch()
            os.chown(top / name, owner, owner)
        os.chown(top, 100000, 100000)
        try:
            yield top
        finally:
            for name in ("own", "hosts"):
                subprocess.run(["chattr", "-ia", top / name], check=False, capture_output=True)


def race(top: Path, handler: Handler, program: str, kind: str, *words: str) -> int:
    """How many of the calls were made."""
    command = [program, kind, str(TRIES), *words]
    done = inside(command, [handler], cwd=str(top), timeout=2900)
    assert done.returncode == 0, done.stderr
    assert "won" not in done.stdout
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("kind", ["nice", "policy"])
def test_no_other_priority_is_had(program: str, top: Path, kind: str) -> None:
    assert race(top, families.scheduling(nice=-5), program, kind)


def test_no_other_event_is_counted(program: str, top: Path) -> None:
    assert race(top, families.perf(events=["dummy"]), program, "event")


def test_no_other_program_is_loaded(program: str, top: Path) -> None:
    assert race(top, families.bpf(), program, "program")


def test_no_other_flag_is_set(program: str, top: Path) -> None:
    _flags_or_skip(top)
    assert race(top, families.fsflags(flags=["immutable"]), program, "flags", str(top / "own"))


@pytest.mark.parametrize("kind", ["file", "path"])
def test_no_other_file_is_made_immutable(program: str, top: Path, kind: str) -> None:
    _flags_or_skip(top)
    own, hosts = str(top / "own"), str(top / "hosts")
    made = race(top, families.fsflags(flags=["immutable"]), program, kind, own, hosts)
    said = subprocess.run(["lsattr", hosts], capture_output=True, text=True, check=True).stdout
    assert "i" not in said.split()[0]
    if not made and kind == "path":
        pytest.skip("this kernel has no file_setattr")
    assert made


def _flags_or_skip(top: Path) -> None:
    if subprocess.run(["chattr", "+i", top / "own"], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no such flags")
    subprocess.run(["chattr", "-i", top / "own"], check=True)
