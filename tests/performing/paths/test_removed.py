"""What was removed where it came from, and is still there where it is mounted: rules know it by the path that leads
there, not by the kernel's name for it, which is that path and `` (deleted)``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import proctor
from tests.performing.paths.test_seeking import UNSAFE, rules
from tests.performing.support.callers import open_directory
from tests.performing.support.containers import PYTHON

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


SWAPS = """
import ctypes, errno, os, sys
top, libc = os.fsencode(sys.argv[1]), ctypes.CDLL(None, use_errno=True)
assert not libc.unshare(0x20000)  # CLONE_NEWNS
assert not libc.mount(b"none", b"/", None, 0x4000 | 1 << 18, None)  # MS_REC | MS_PRIVATE
assert not libc.mount(top + b"/source", top + b"/place", None, 0x1000, None)  # MS_BIND
os.unlink(top + b"/source")
for _ in range(300): os.close(os.open(top, os.O_RDONLY))  # the first calls are slow
for _ in range(30):
    os.close(os.open(top + b"/file", os.O_CREAT | os.O_WRONLY, 0o600))
    for _ in range(4): os.close(os.open(top + b"/file", os.O_RDONLY))
    os.symlink("place", top + b"/link")
    os.rename(top + b"/link", top + b"/file")
    try: print(os.read(os.open(top + b"/file", os.O_RDONLY), 9))
    except OSError as error: assert error.errno == errno.EACCES, error
    os.unlink(top + b"/file")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_path_that_was_allowed_and_leads_there_now_is_asked_about_as_any_other() -> None:
    """A rule's word is foreseen for what was of that very name; what is found there instead has a name that nobody has
    walked yet."""
    with open_directory() as top:
        for name in (b"source", b"place"):
            with open(top + b"/" + name, "wb") as file:
                file.write(b"secret")
        asked: set[bytes] = set()

        def allow(argument: str, path: bytes) -> bool:
            asked.add(path)
            return path != top + b"/place"

        handler = proctor.Handler(["openat"], lambda call: proctor.perform(allow))
        command = [PYTHON, "-IS", "-c", SWAPS, os.fsdecode(top)]
        done = proctor.run(command, [handler], check=True, capture_output=True, timeout=60)
    assert done.stdout == b""
    assert top + b"/place" in asked and not any(path.endswith(b" (deleted)") for path in asked)
