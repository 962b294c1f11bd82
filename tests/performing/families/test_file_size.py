"""truncate beyond the caller's RLIMIT_FSIZE, natively and performed: the kernel's order of errors, and its signal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import proctor
from proctor import families
from tests.performing.support.callers import open_directory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mark files append-only")

PROGRAM = """
import ctypes, errno, os, resource, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(sys.argv[1])
if sys.argv[2:]:
    os.setgroups([]), os.setresgid(1000, 1000, 1000), os.setresuid(1000, 1000, 1000)
signals = []
signal.signal(signal.SIGXFSZ, lambda *_: signals.append("SIGXFSZ"))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for name in (b"free", b"long", b"append", b"others", b"program", b"fifo", b"dir", b"missing"):
    for length in (4097, 9000, 1 << 62, 1 << 63, 4096):
        failed = libc.truncate(name, ctypes.c_long(length)) and ctypes.get_errno()
        size = os.stat(name).st_size if name not in (b"missing", b"dir") else 0
        print(name, length, errno.errorcode.get(failed), signals, size)
        signals.clear()
"""
ASKED = [
    families.attributes(when={"path": "/**"}),
    families.attributes(),
]


@pytest.fixture
def place() -> Iterator[Path]:
    with open_directory() as top:
        here = Path(os.fsdecode(top))
        here.chmod(0o755)
        for name in ("free", "long", "append", "others"):
            (here / name).write_bytes(b"")
            (here / name).chmod(0o600 if name == "others" else 0o666)
        (here / "program").write_bytes(Path("/bin/sleep").read_bytes())
        (here / "program").chmod(0o777)
        (here / "dir").mkdir()
        os.mkfifo(here / "fifo")
        marked = subprocess.run(["chattr", "+a", here / "append"], capture_output=True, check=False)
        if marked.returncode:
            pytest.skip("this file system has no append-only files")
        try:
            yield here
        finally:
            subprocess.run(["chattr", "-a", here / "append"], check=True)


@pytest.mark.parametrize("user", [[], ["1000"]], ids=["root", "user"])
def test_what_else_is_wrong_comes_first(place: Path, user: list[str]) -> None:
    told = []
    with subprocess.Popen([place / "program", "600"]) as running:
        try:
            for handlers in ([], [families.attributes()], ASKED):
                for name in ("free", "long", "others"):
                    os.truncate(place / name, 10000 if name == "long" else 0)
                done = proctor.run(
                    [sys.executable, "-Ic", PROGRAM, str(place), *user],
                    handlers,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                told.append(done.stdout.splitlines())
        finally:
            running.kill()
    assert told[1] == told[0]
    assert told[2] == told[0]
    assert sum("SIGXFSZ" in each for each in told[0]) >= 4
    assert sum("append" in each and "EPERM" in each for each in told[0]) == 4
