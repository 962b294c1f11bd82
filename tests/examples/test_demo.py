"""The demonstration, run as `make demo` runs it once everything is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo" / "demo.py"


@pytest.mark.skipif(os.geteuid() != 0, reason="making device nodes needs root on the host")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_everything_is_shown_as_root() -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT" not in re.findall(r"^   (\w+) ", done.stdout, re.MULTILINE)
    assert "null is character device 1:3, owned by container root" in done.stdout
    assert 'rule "no block devices"; would be allowed by' in done.stdout
    assert re.search(r"mknodat\s+performed\s+15 ", done.stdout)
    assert re.search(r"mknodat\s+refused EPERM\s+2 ", done.stdout)


def test_an_ordinary_user_is_told_what_is_left_out() -> None:
    """As root: in a child that gives its rights up, with an interpreter that it can reach."""
    command = [sys.executable, str(DEMO)]
    env = dict(os.environ)
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv to give root up")
        ordinary = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        env["PYTHONPATH"] = str(ROOT / "src")
        for python, prefix in ((sys.executable, sys.prefix), ("/usr/bin/python3", "/usr")):
            # it must be able to start itself again: setpriv could still start it with root's rights
            script = (
                "import proctor.kernel._core, subprocess, sys\n"
                "subprocess.run([sys.executable, '-c', ''], check=True); print(sys.prefix)"
            )
            trial = [*ordinary, python, "-c", script]
            done = subprocess.run(
                trial, capture_output=True, text=True, cwd="/", env=env, check=False
            )
            if done.stdout.strip() == prefix:
                break
        else:
            pytest.skip("no interpreter that has the project is in the reach of another user")
        command = [*ordinary, python, str(DEMO)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd="/", env=env
    )
    assert done.returncode == 77, done.stdout + done.stderr
    assert done.stdout.count("needs root on the host") == 3
    assert "Proctor Demo Linux" in done.stdout


def test_the_handler_file_has_twenty_lines() -> None:
    assert len((DEMO.with_name("os_release.py")).read_text().splitlines()) <= 20
