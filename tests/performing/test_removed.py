"""What was removed where it came from, and is still there where it is mounted: rules know it by the path that leads
there, not by the kernel's name for it, which is that path and `` (deleted)``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .callers import open_directory
from .test_seeking import UNSAFE, rules

PREPARE = """
set -e
mount -t tmpfs none .
cd "$PWD"
echo secret > source
: > kept
: > place
mount --bind source place
rm source
ln -s place 'place (deleted)'
echo other > 'other (deleted)'
chmod 755 .
exec "$@"
"""
PROGRAM = """
import errno, os, sys
os.setgroups([])
if len(sys.argv) > 2: os.setresuid(1234, 1234, 1234)
for name in ("place", "place (deleted)", "other (deleted)", "kept"):
    for path in (name, f"{sys.argv[1]}/{name}"):
        try: os.close(os.open(path, os.O_RDONLY)); print(path.startswith("/"), name, "ok")
        except OSError as error: print(path.startswith("/"), name, errno.errorcode[error.errno])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize("who", [[], ["user"]], ids=["own", "user"])
@pytest.mark.parametrize("then", ["perform = true", UNSAFE], ids=["performed", "let run"])
def test_it_is_known_by_its_path(tmp_path: Path, who: list[str], then: str) -> None:
    calls = 'calls = ["open", "openat"]'
    with open_directory() as place:
        top = os.fsdecode(place)
        refused = f'when = {{ path = ["{top}/place", "{top}/other (deleted)"] }}\ndeny = "EXDEV"'
        policy = tmp_path / "policy.toml"
        policy.write_text("version = 1\n" + rules(f"{calls}\n{refused}", f"{calls}\n{then}"))
        run = [sys.executable, "-m", "proctor", "run", "--policy", str(policy), "--"]
        program = [sys.executable, "-I", "-S", "-c", PROGRAM, top, *who]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", PREPARE, "sh", *run, *program],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    said = [line.split(" ", 1)[1] for line in done.stdout.splitlines()]
    assert said == [
        f"{name} {'ok' if name == 'kept' else 'EXDEV'}"
        for name in ("place", "place (deleted)", "other (deleted)", "kept")
        for _ in range(2)
    ]
