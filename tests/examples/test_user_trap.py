"""The sample programs of docs/mechanism.md: bind mounts below one directory, and nowhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("mount") is None, reason="no mount(8)"),
]

SCRIPT = """
cd "$1"
mount --bind "$1/a" "$1/b" && ls "$1/b"
mount --bind /etc "$1/b" 2>/dev/null || echo "outside: refused"
mount --bind "$1/out/ssl" "$1/b" 2>/dev/null || echo "by a link: refused"
mount --bind "$1/a/../../../etc" "$1/b" 2>/dev/null || echo "dots: refused"
mount -t tmpfs none "$1/b" 2>/dev/null || echo "no bind mount: refused"
unshare --mount --propagation unchanged mount --bind "$1/a" "$1/b" 2>/dev/null || echo "elsewhere: refused"
ls "$1/b"
"""
WANTED = [
    "inside", "outside: refused", "by a link: refused", "dots: refused", "no bind mount: refused",
    "elsewhere: refused", "inside",
]  # fmt: skip


@pytest.mark.parametrize("name", ["user_trap.py", "user_trap_short.py"])
def test_mounts_below_are_made_and_others_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "inside").touch()
    (tmp_path / "out").symlink_to("/etc")
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, EXAMPLES / name, tmp_path, "sh", "-c", SCRIPT, "sh", tmp_path],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if not line.startswith("mount by thread")]
    assert (done.returncode, lines) == (0, WANTED), done.stdout + done.stderr
    assert os.listdir(tmp_path / "b") == []  # the mounts were in a namespace of their own


def test_what_leads_nowhere_keeps_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    from user_trap import pin  # type: ignore[import-not-found]

    (tmp_path / "file").touch()
    before = os.listdir("/proc/self/fd")
    for name in ("missing", "missing/below", "file/below"):
        with pytest.raises(OSError):
            pin(f"{tmp_path}/{name}", os.fspath(tmp_path))
    assert os.listdir("/proc/self/fd") == before


def test_the_sample_stays_under_a_hundred_lines() -> None:
    assert len((EXAMPLES / "user_trap.py").read_text(encoding="utf-8").splitlines()) < 100
