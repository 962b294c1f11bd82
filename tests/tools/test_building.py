"""setup.py: what is missing is said, and a newer compiler's warnings are no errors but for who changes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build(tmp_path: Path, compiler: Path, **env: str) -> str:
    """What building with that compiler says as it fails."""
    pytest.importorskip("setuptools")
    words = [
        "build_ext",
        "--build-lib",
        str(tmp_path / "lib"),
        "--build-temp",
        str(tmp_path / "temp"),
    ]
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", *words], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "CC": str(compiler), "PROCTOR_STRICT": "", **env},
    )  # fmt: skip
    assert done.returncode == 1
    return done.stderr


def test_without_a_compiler_it_is_said_what_to_install(tmp_path: Path) -> None:
    assert "apt install gcc python3-dev" in build(tmp_path, tmp_path / "no-such-compiler")


@pytest.mark.parametrize("strict", ["", "1"])
def test_warnings_are_errors_for_who_changes_it(tmp_path: Path, strict: str) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/words\nexit 1\n')
    compiler.chmod(0o755)
    assert "apt install gcc python3-dev" in build(tmp_path, compiler, PROCTOR_STRICT=strict)
    words = (tmp_path / "words").read_text().split()
    assert "-Wall" in words
    assert ("-Werror" in words) == bool(strict)
