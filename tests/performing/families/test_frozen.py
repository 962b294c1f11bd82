"""A file system that is frozen: whoever makes something there waits for whoever thaws it, and nobody else does."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.performing.paths.test_seeking import rules, run
from tests.performing.support.callers import open_directory

pytestmark = [pytest.mark.timeout(120), pytest.mark.root]

PROGRAM = """
import fcntl, select, signal, subprocess
top = sys.argv[1]
libc.unshare(0x20000)
libc.mount(b"none", b"/", None, 0x44000, None)
os.mkdir(f"{top}/frozen")
subprocess.run(["mount", "-o", "loop", f"{top}/image", f"{top}/frozen"], check=True)
frozen = os.open(f"{top}/frozen", os.O_RDONLY)
os.fchmod(frozen, 0o777)
os.chmod(top, 0o777)
def make(path): os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
make(f"{top}/frozen/before")
make(f"{top}/before")
ours, theirs = os.pipe()
FREEZE, THAW = 0xC0045877, 0xC0045878
held = []
signal.signal(signal.SIGUSR1, lambda *args: None)
fcntl.ioctl(frozen, FREEZE, 0)
try:
    for number in range(6):
        held.append(os.fork())
        if not held[-1]:
            make(f"{top}/frozen/{number}")
            os.write(theirs, b"x")
            os._exit(0)
    for number in range(300):
        make(f"{top}/{number}")
        os.close(os.open(f"{top}/{number}", os.O_RDONLY))
        for each in held[1:]:
            os.kill(each, signal.SIGUSR1)
    print("others", len(os.listdir(top)), "waiting", not select.select([ours], [], [], 0)[0])
    os.kill(held[0], signal.SIGKILL)
finally:
    fcntl.ioctl(frozen, THAW, 0)
    said = [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in held]
print(said[1:], said[0] in (0, -9), sorted(os.listdir(f"{top}/frozen"))[1:6])
"""


@pytest.fixture
def tree() -> Iterator[Path]:
    if shutil.which("mkfs.ext4") is None or not os.path.exists("/dev/loop-control"):
        pytest.skip("no ext4 or no loop devices here")
    with open_directory() as path:
        top = Path(os.fsdecode(path))
        with open(top / "image", "wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", top / "image"], check=True)
        yield top


def test_whoever_makes_something_there_holds_nobody_else(tree: Path) -> None:
    """Made by the monitor's own thread, or by executors: both wait where no signal ends it, and what is made is not made
    once more for a caller who has one to take."""
    said = run(rules('calls = ["openat"]\nperform = true'), PROGRAM, tree, timeout=90)
    assert said[0] == "others 303 waiting True"
    assert said[1].startswith("[0, 0, 0, 0, 0] True ['1', '2', '3', '4', '5'")
