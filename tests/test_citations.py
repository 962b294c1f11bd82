"""What the project cites can be followed from it: no code names that no file here defines."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
CONFORMANCE = re.compile(r"\bC\d{3}\b")
#: Letters with a number are names of facts somewhere else; these are words of their trade.
CODE_NAME = re.compile(r"\((?:[ABDEFGHIJKL]\d{1,2}(?:\.\d)?)(?:[,;][^)]*)?\)|\bG\d{1,2}\b")
ELSEWHERE = re.compile(r"\b\d{3}_[0-9a-f]{16}\b")


def texts() -> list[Path]:
    """Tracked text files, this one aside."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=TOP, capture_output=True, check=True, timeout=60
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a checkout, or without git")
    found = [TOP / name.decode() for name in listed.split(b"\0") if name]
    kinds = (".py", ".pyi", ".c", ".h", ".md", ".toml")
    return [
        path for path in found if path.suffix in kinds and path.exists() and path != Path(__file__)
    ]


def defined() -> set[str]:
    """The conformance numbers that tests carry."""
    return {
        f"C{number}"
        for path in (TOP / "tests").rglob("test_*.py")
        for number in re.findall(r"def test_c(\d{3})", path.read_text(encoding="utf-8"))
    }


def test_every_conformance_number_is_a_tests() -> None:
    known = defined()
    assert len(known) > 100
    for path in texts():
        unknown = set(CONFORMANCE.findall(path.read_text(encoding="utf-8"))) - known
        assert not unknown, f"{path}: {sorted(unknown)}"


def test_no_code_names_and_no_files_that_are_not_here() -> None:
    for path in texts():
        text = path.read_text(encoding="utf-8")
        found = [match[0] for match in CODE_NAME.finditer(text)] + ELSEWHERE.findall(text)
        assert not found, f"{path}: {found}"
