"""What README.md has a reader try first: a full disk, and what a program asks of the kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import proctor
from examples.full_disk import Disk

ROOT = Path(__file__).parents[2]
PROCTOR = [sys.executable, "-m", "proctor"]
WRITES = """
with open("file", "wb", 0) as file:
    for _ in range(5):
        file.write(bytes(300_000))
"""


def test_the_disk_is_full_at_a_megabyte(tmp_path: Path) -> None:
    words = ["run", "--handlers", str(ROOT / "examples" / "full_disk.py"), "--"]
    with open(tmp_path / "said", "wb") as said:  # a file, too
        done = subprocess.run(
            [*PROCTOR, *words, sys.executable, "-c", WRITES],
            check=False, cwd=tmp_path, stderr=said,
        )  # fmt: skip
    assert done.returncode == 1
    assert "No space left on device" in (tmp_path / "said").read_text()
    assert (tmp_path / "file").stat().st_size == 900_000


def test_each_disk_is_its_own(tmp_path: Path) -> None:
    full, empty = Disk(left=0), Disk(left=2_000_000)
    for disk, code in ((full, 1), (empty, 0)):
        words = [sys.executable, "-c", WRITES]
        done = proctor.run(words, [disk.write], cwd=tmp_path, stderr=proctor.DEVNULL)
        assert done.returncode == code
    assert empty.left == 500_000


def test_a_trace_has_each_call_as_strace_writes_it(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    words = ["run", "--policy", str(ROOT / "examples" / "trace.toml"), "--log", str(log), "--"]
    done = subprocess.run(
        [*PROCTOR, *words, sys.executable, "-c", "import os; os.mkdir('x', 0o700); os.rmdir('x')"],
        check=False, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    calls = [json.loads(line)["call"] for line in log.read_text().splitlines()]
    assert calls[0].startswith("execve(")
    made = calls.index('mkdir("x", 0700)')
    assert calls[made + 1] == 'rmdir("x")'
