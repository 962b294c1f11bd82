"""What the command has of whoever started proctor: descriptors of the shell's, and its environment."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from .conftest import COMMAND
from .test_streams import shell

PERFORMS = '[[rule]]\nname = "o"\ncalls = ["openat"]\nperform = true\n'
WAYS = ("", "--handlers h.py", "--policy p.toml --quiet")


@pytest.mark.parametrize("options", WAYS)
def test_descriptors_of_the_shells_are_the_commands(tmp_path: Path, options: str) -> None:
    """As ``cat <(...)`` and make's jobserver want it: under their numbers, and no others."""
    (tmp_path / "p.toml").write_text(PERFORMS)
    (tmp_path / "in").write_text("hello\n")
    line = "cat <&8 >&7; cat /dev/fd/8; for n in 4 5 6 7 8 9; do [ -e /proc/$$/fd/$n ] && echo $n; done"
    done = shell(
        f"\"$@\" run --no-delegate {options} -- sh -c '{line}; exit 0' 7>out 8<in", tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["hello", "7", "8"]
    assert (tmp_path / "out").read_text() == "hello\n"


def test_descriptors_of_the_shells_pass_two_of_us(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(PERFORMS)
    ours = '"$@" run --quiet --policy p.toml'
    done = shell(
        f"echo hello > in; {ours} -- sh -c '{ours} -- cat /dev/fd/8' sh \"$@\" 8<in", tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("options", [[], ["--quiet", "--policy", "p.toml"]])
def test_nobody_of_ours_is_the_other_end_of_a_pipe(
    tmp_path: Path, options: list[str], terminal: bool
) -> None:
    """Its reader meets the end when the command has closed it, though the command goes on."""
    (tmp_path / "p.toml").write_text(PERFORMS)
    reader, writer = os.pipe()
    master, slave = os.openpty()

    def own_terminal() -> None:
        if terminal:  # where we are two processes, for a shell's job control
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    program = f"import os, sys; open(os.devnull); os.close({writer}); sys.stdin.read(1)"
    words = [*COMMAND, "run", *options, "--", sys.executable, "-c", program]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        pass_fds=[writer],
        cwd=tmp_path,
        preexec_fn=own_terminal,  # noqa: PLW1509 - no threads here
    ) as running:
        os.close(writer)
        told, _, _ = select.select([reader], [], [], 60)
        found = os.read(reader, 1) if told else None
        still = running.poll()
        running.communicate(b"go\n")
    for fd in (reader, master, slave):
        os.close(fd)
    assert (found, still, running.returncode) == (b"", None, 0)


@pytest.mark.parametrize("given", [{}, {"LC_CTYPE": "C"}, {"LC_CTYPE": "C.UTF-8"}, {"LC_ALL": "C"}])
def test_the_environment_is_as_it_was_given(given: dict[str, str]) -> None:
    """Where no locale is set, the interpreter that runs us sets one (PEP 538)."""
    done = subprocess.run(
        [*COMMAND, "run", "--no-delegate", "--", "/usr/bin/env"],
        env=given, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert dict(line.split("=", 1) for line in done.stdout.splitlines()) == given
