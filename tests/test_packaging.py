"""What is packed: an sdist has all that the native parts are built of."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]


def test_an_sdist_has_all_that_is_compiled(tmp_path: Path) -> None:
    """A header that is missing is missed only by whoever builds from it."""
    pytest.importorskip("setuptools")
    tree, made = tmp_path / "tree", tmp_path / "made"
    ignored = shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__", "executor")
    shutil.copytree(TOP / "src", tree / "src", ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, tree)
    command = [sys.executable, "setup.py", "-q", "sdist", "-d", str(made)]
    subprocess.run(command, cwd=tree, capture_output=True, check=True, timeout=100)
    (packed,) = made.iterdir()
    with tarfile.open(packed) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    native = {str(path.relative_to(TOP)) for path in (TOP / "src").rglob("*.[ch]")}
    assert native
    assert native <= names, sorted(native - names)
