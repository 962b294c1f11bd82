"""Nobody reads what proctor says, or the target stopped the terminal: others are served, and it ends."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.screen import Screen

from .conftest import COMMAND, Run

pytestmark = pytest.mark.timeout(60)

#: rmdir is refused at length, on the thread that receives; mkdir is somebody else's call.
HANDLERS = """
import errno
import proctor

@proctor.on("rmdir")
def refuse(call):
    return proctor.deny(errno.EROFS, "because " + "x" * 900)

@proctor.on("mkdir")
def serve(call):
    return proctor.answer(0)
"""
PROGRAM = """
import os, sys, termios
if "stop" in sys.argv:
    termios.tcflow(2, termios.TCOOFF)
for _ in range(200):
    try: os.rmdir("/x")
    except OSError: pass
os.mkdir("never")
with open("said", "w") as file:
    file.write("served")
"""


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe of one page that nobody reads."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield writer
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("where", ["stderr", "log", "both"])
def test_a_pipe_that_nobody_reads(tmp_path: Path, unread: int, where: str) -> None:
    (tmp_path / "h.py").write_text(HANDLERS)
    log = [] if where == "stderr" else ["--log", f"/proc/self/fd/{unread}"]
    done = subprocess.run(
        [*COMMAND, "run", "--handlers", "h.py", *log, "--", sys.executable, "-IS", "-c", PROGRAM],
        stderr=subprocess.DEVNULL if where == "log" else unread, pass_fds=[unread], timeout=40,
        check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0
    assert (tmp_path / "said").read_text() == "served"


def test_a_log_ends_with_what_nobody_read_dropped(tmp_path: Path, unread: int) -> None:
    """The other place has everything all the same."""
    (tmp_path / "h.py").write_text(HANDLERS)
    done = subprocess.run(
        [*COMMAND, "run", "--handlers", "h.py", "--log", "log", "--", sys.executable, "-IS", "-c",
         PROGRAM], stderr=unread, timeout=40, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0
    calls = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert sum(each.get("syscall") == "rmdir" for each in calls) == 200


def test_a_terminal_that_the_target_stopped(tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text(HANDLERS)
    os.mkfifo(tmp_path / "ended")
    line = (
        f"cd {tmp_path}; {' '.join(COMMAND)} run --handlers h.py --log log -- "
        f"{sys.executable} -IS -c '{PROGRAM}' stop; echo $? >ended"
    )
    terminal = Screen(["sh", "-c", line], os.getcwd(), "dumb")
    try:
        assert (tmp_path / "ended").read_text() == "0\n"  # it ends, while the terminal is stopped
        assert (tmp_path / "said").read_text() == "served"
        log = (tmp_path / "log").read_text()
        assert log.count('"syscall": "rmdir"') == 200
    finally:
        terminal.close()


def test_one_handlers_mistake_is_told_once_then_counted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text(HANDLERS.replace("proctor.deny(", "proctor.dney("))
    command = ["--", sys.executable, "-IS", "-c", PROGRAM]
    done = run("run", "--handlers", "h.py", *command)
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert all(line.startswith("proctor: ") for line in lines)
    assert sum("Traceback" in line for line in lines) == 1
    told = [line for line in lines if "handler refuse (h.py:7): AttributeError: " in line]
    assert told[0].endswith("; answered: deny EPERM") and " on rmdir(" in told[0]
    assert [line.rpartition("; answered: deny EPERM")[2] for line in told[1:]] == [
        " (10 times so far)", " (100 times so far)", " (200 times in all)"
    ]  # fmt: skip
    assert len(lines) < 30
    done = run("run", "--debug", "--quiet", "--handlers", "h.py", *command)
    assert done.stderr.count("Traceback") == 200


def test_a_reason_is_told_without_a_policy_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text(HANDLERS)
    told = run("run", "--handlers", "h.py", "--", "rmdir", "/x").stderr
    assert 'proctor: rmdir("/x"): deny EROFS: because xxx' in told
    assert "because" not in run("run", "--quiet", "--handlers", "h.py", "--", "rmdir", "/x").stderr
