"""All tests in parts: none is left out, and a failure is told while others still run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import in_parts

TOP = Path(__file__).parents[2]
TESTS = """
import os
def test_fails():
    print("a word of its own")
    assert "one" == "another"
def test_waits():
    assert open(os.environ["HEARD"]).read() == "heard"
"""


def test_each_file_is_in_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    parts = in_parts.parts()
    files = [file for part in parts.values() for file in part]
    assert sorted(files) == sorted(str(path) for path in Path("tests").rglob("test_*.py"))
    assert all(0 < len(part) <= in_parts.MOST for part in parts.values())


def test_a_failure_is_told_when_it_happens(tmp_path: Path) -> None:
    """The other test waits until it was heard."""
    (tmp_path / "test_it.py").write_text(TESTS)
    os.mkfifo(tmp_path / "heard")
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-p", "tools.at_once", "-p", "no:cacheprovider",
         "--rootdir", tmp_path, tmp_path / "test_it.py"],
        cwd=TOP, stdout=subprocess.PIPE, text=True, env={**os.environ, "HEARD": str(tmp_path / "heard")},
    ) as ran:  # fmt: skip
        assert ran.stdout is not None
        told = ""
        while "a word of its own\n" not in told.partition("Captured stdout")[2]:
            told += ran.stdout.readline()
        (tmp_path / "heard").write_text("heard")
        told += ran.stdout.read()
    assert ran.returncode == 1
    assert told.count(">       assert") == 1 and "1 failed, 1 passed" in told


def test_a_part_without_tests_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    for statuses, says in (((0, 5), 0), ((5, 5), 5), ((0, 1), 1), ((5, 2), 1), ((0, -11), 1)):
        left = iter(statuses)
        monkeypatch.setattr(in_parts, "parts", lambda: {"one": ["a"], "two": ["b"]})
        monkeypatch.setattr(in_parts, "JOBS", 1)
        monkeypatch.setattr(in_parts.Run, "part", lambda self, name, files, left=left: next(left))
        assert in_parts.main([]) == says
