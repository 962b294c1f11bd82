"""Job control through proctor run, on a pseudo-terminal: what a person at a shell sees.

Commands under test are Python and bash's ``read``: a shell that has just forked loses a Ctrl-C that
comes before its child's exec, with or without us.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.screen import Screen

from .conftest import COMMAND

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
BASH = ["bash", "--norc", "--noprofile", "-i"]


@pytest.fixture
def shell() -> Iterator[Screen]:
    """bash, in which the tests start proctor as a job."""
    terminal = Screen(BASH, ".", term="dumb")
    terminal.expect("PROMPT> ")
    yield terminal
    terminal.type("exit\n")
    terminal.close()


RUN = " ".join([*COMMAND, "run", "--"])
#: Says that it has started, then repeats lines.
READER = f"{sys.executable} -IS {Path(__file__).with_name('reader.py')}"


@needs_bash
def test_ctrl_c_kills_the_command_and_the_shell_sees_it(shell: Screen) -> None:
    shell.type(f"{RUN} {READER}\n")
    shell.expect("started")
    shell.type("\x03")
    shell.expect("PROMPT> ")
    shell.type("echo st''atus=$?\n")
    shell.expect("status=130")


@needs_bash
def test_ctrl_c_handled_by_the_command_stays_with_it(shell: Screen) -> None:
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
def test_ctrl_z_stops_and_fg_goes_on(shell: Screen) -> None:
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
    terminal = Screen([*COMMAND, "run", "--", *BASH], ".", term="dumb")
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


@needs_bash
def test_a_shell_that_is_suspended_leaves_the_terminal_to_the_one_that_started_it(
    shell: Screen,
) -> None:
    """It stops itself by SIGSTOP, and the terminal still is its own: nobody else would hear a key."""
    shell.type(f"PS1='INNER> ' {RUN} {' '.join(BASH)}\n")
    shell.expect("INNER> ")
    for _ in range(2):
        shell.type("suspend\n")
        shell.expect("Stopped")
        shell.expect("PROMPT> ")
        shell.type("fg\n")
        shell.expect("bash")
        shell.type(f"{READER}\n")  # it can read, and has jobs again
        shell.expect("started")
        shell.type("\x03")
        shell.expect("INNER> ")
    shell.type("exit 4\n")
    shell.expect("PROMPT> ")
    shell.type("echo st''atus=$?\n")
    shell.expect("status=4")
