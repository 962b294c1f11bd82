"""Job control through proctor run, on a pseudo-terminal: what a person at a shell sees.

Commands under test are Python and bash's ``read``: a shell that has just forked loses a Ctrl-C that
comes before its child's exec, with or without us.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import COMMAND

LIMIT = 10.0


class Terminal:
    """An interactive bash on a pseudo-terminal; ``expect`` waits for text, with a hard limit."""

    def __init__(self, argv: list[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(PS1="PROMPT> ", TERM="dumb", HISTFILE="")
            os.execvp(argv[0], argv)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, text: str) -> str:
        """Wait until ``text`` appears; returns what came before it, both are then forgotten."""
        end = time.monotonic() + LIMIT
        while text not in self.seen:
            left = end - time.monotonic()
            ready = left > 0 and select.select([self.fd], [], [], left)[0]
            assert ready, f"no {text!r} on the terminal, but {self.seen!r}"
            try:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(
                    f"the terminal closed before {text!r}: {self.seen!r}"
                ) from None
        before, _, self.seen = self.seen.partition(text)
        return before

    def close(self) -> int:
        """End it; its exit status."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            end = time.monotonic() + LIMIT
            pidfd = os.pidfd_open(self.pid) if pid == 0 else -1
            if pid == 0:
                while not select.select([pidfd], [], [], 0.2)[0]:
                    try:  # it may wait for room to write its farewell
                        if select.select([self.fd], [], [], 0)[0]:
                            self.seen += os.read(self.fd, 65536).decode(errors="replace")
                    except OSError:
                        pass
                    if time.monotonic() > end:
                        os.kill(self.pid, signal.SIGKILL)
                os.close(pidfd)
                _, status = os.waitpid(self.pid, 0)
        finally:
            os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
BASH = ["bash", "--norc", "--noprofile", "-i"]


@pytest.fixture
def shell() -> Iterator[Terminal]:
    """bash, in which the tests start proctor as a job."""
    terminal = Terminal(BASH)
    terminal.expect("PROMPT> ")
    yield terminal
    terminal.type("exit\n")
    terminal.close()


RUN = " ".join([*COMMAND, "run", "--"])
#: Says that it has started, then repeats lines.
READER = f"{sys.executable} -IS {Path(__file__).with_name('reader.py')}"


@needs_bash
def test_ctrl_c_kills_the_command_and_the_shell_sees_it(shell: Terminal) -> None:
    shell.type(f"{RUN} {READER}\n")
    shell.expect("started")
    shell.type("\x03")
    shell.expect("PROMPT> ")
    shell.type("echo st''atus=$?\n")
    shell.expect("status=130")


@needs_bash
def test_ctrl_c_handled_by_the_command_stays_with_it(shell: Terminal) -> None:
    shell.type(
        f"{RUN} bash -c 'trap \"echo cau''ght; exit 5\" INT; echo sta''rted; while :; do read line; done'\n"
    )
    shell.expect("started")
    shell.type("\x03")
    shell.expect("caught")
    shell.expect("PROMPT> ")
    shell.type("echo st''atus=$?\n")
    shell.expect("status=5")


@needs_bash
def test_ctrl_z_stops_and_fg_goes_on(shell: Terminal) -> None:
    shell.type(f"{RUN} sh -c 'echo sta''rted; read line; echo re''ad $line'\n")
    shell.expect("started")
    shell.type("\x1a")
    shell.expect("Stopped")
    shell.expect("PROMPT> ")
    shell.type("fg\n")
    shell.expect("'\r\n")  # fg repeats the command line
    shell.type("hello\n")
    shell.expect("read hello")
    shell.expect("PROMPT> ")


@needs_bash
def test_interactive_bash_has_job_control() -> None:
    terminal = Terminal([*COMMAND, "run", "--", *BASH])
    terminal.expect("PROMPT> ")
    assert "no job control" not in terminal.seen
    terminal.type(f"{READER}\n")
    terminal.expect("started")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.expect("PROMPT> ")
    terminal.type("jobs; echo li''sted\n")
    assert "reader.py" in terminal.expect("listed\r\n")
    terminal.type("fg\n")
    terminal.expect("reader.py")
    terminal.type("again\n")
    terminal.expect("read again")
    terminal.type("\x03")
    terminal.expect("PROMPT> ")
    terminal.type("echo st''atus=$?\n")
    terminal.expect("status=130")
    terminal.type("exit 9\n")
    assert terminal.close() == 9
