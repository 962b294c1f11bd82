"""All of this on a poorer platform: no native core, and nothing that Windows or macOS lack."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

HERE = Path(__file__).parent
PORTABLE = (
    "test_documentation.py",
    "test_examples.py",
    "test_fake_call.py",
    "test_fake_policy.py",
    "test_fake_run.py",
    "test_fake_tree.py",
)


def test_everything_here_runs_without_linux(tmp_path: Path) -> None:
    """Every test of these files passes in a process without the core, fcntl, epoll, O_PATH..."""
    settings = tmp_path / "pytest.ini"
    settings.write_text("[pytest]\n")
    path = os.pathsep.join([str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-c", str(settings), "--rootdir", str(HERE),
         "--confcutdir", str(HERE),
         "-p", "no:cacheprovider", "-p", "no:timeout", "-p", "no:hypothesispytest",
         "-p", "no:faulthandler", "-p", "tests.testing.elsewhere", *(str(HERE / name) for name in PORTABLE)],
        env={**os.environ, "PYTHONPATH": path, "PYTEST_ADDOPTS": ""},
        check=False, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    # memfd_create (twice) and O_PATH: the poorer platform is in force.
    assert len(skipped) == 3, skipped


def test_installing_elsewhere_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """``pip install`` on macOS or Windows: what is native is Linux's, the rest is Python."""
    made: list[dict[str, Any]] = []
    stub = SimpleNamespace(
        Extension=lambda *_, **__: "core", setup=lambda **named: made.append(named)
    )
    command = SimpleNamespace(build_ext=type("build_ext", (), {}))
    monkeypatch.setitem(sys.modules, "setuptools", stub)
    monkeypatch.setitem(sys.modules, "setuptools.command", SimpleNamespace(build_ext=command))
    monkeypatch.setitem(sys.modules, "setuptools.command.build_ext", command)
    for platform, core, commands in (
        ("linux", ["core"], ["build_ext"]),
        ("darwin", [], []),
        ("win32", [], []),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        runpy.run_path(str(HERE.parents[1] / "setup.py"))
        options = made.pop()
        assert options["ext_modules"] == core
        assert list(options["cmdclass"]) == commands  # which would build the executor
