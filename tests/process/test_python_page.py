"""docs/python.md: each program runs, and prints what is below it; those of other pages run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
TEXT = PAGE.read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```\n(?:\n```\n(.*?)```\n)?", TEXT, re.DOTALL)


@pytest.mark.parametrize(
    "number", range(len(PROGRAMS)), ids=[f"line {TEXT[: TEXT.index(p)].count(chr(10))}" for p, _ in PROGRAMS]
)  # fmt: skip
def test_a_program_of_the_page(number: int, tmp_path: Path) -> None:
    program, prints = PROGRAMS[number]
    words = [sys.executable, "-c", program]
    if "import pytest" not in program.replace(", ", "\nimport "):
        assert prints, "what it prints is to be shown"
    else:
        (tmp_path / "test_it.py").write_text(program)
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == prints or "1 passed" in done.stdout


def test_there_are_as_many_as_readers_look_for() -> None:
    assert len(PROGRAMS) >= 13


OTHERS = [
    pytest.param(program, id=f"{page.name} {number}")
    for page in (*PAGE.parent.glob("families/*.md"), *(PAGE.parent / f"{n}.md" for n in ("families", "log", "policy")))
    for number, program in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]  # fmt: skip


@pytest.mark.parametrize("program", OTHERS)
def test_a_program_of_another_page_runs(program: str, tmp_path: Path) -> None:
    if "families.exec()" in program and os.geteuid():
        pytest.skip("a program that is held until it was seen takes CAP_SYS_PTRACE")
    done = subprocess.run(
        [sys.executable, "-c", program.replace("/tmp/", f"{tmp_path}/")], cwd=tmp_path,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_other_pages_have_some() -> None:
    assert len(OTHERS) >= 18
