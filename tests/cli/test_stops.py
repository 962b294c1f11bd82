"""Stops of the command, and of one process of it: when proctor stops along, and who is served meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.screen import Screen

from .conftest import COMMAND

pytestmark = pytest.mark.timeout(60)

HANDLER = """
import errno
import proctor

@proctor.on("mkdir", "mkdirat")
def no_directories(call):
    return proctor.deny(errno.EXDEV)
"""

#: What a shell does for a job in the foreground, and a word for everything that becomes of it.
SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
terminal = os.isatty(0)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    if terminal:
        os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
print("job", job, flush=True)
while True:
    _, status = os.waitpid(job, os.WUNTRACED | os.WCONTINUED)
    if os.WIFSTOPPED(status):
        print("stopped by", os.WSTOPSIG(status), flush=True)
    elif os.WIFCONTINUED(status):
        print("goes on", flush=True)
    else:
        print("ended with", os.waitstatus_to_exitcode(status), flush=True)
        break
"""

#: The first process of a tree is stopped by its child, or somebody else, while the child makes a
#: supervised call; then the child continues it.
PROGRAM = """
import os, signal, sys
number, session, stays = int(sys.argv[1]), "session" in sys.argv, "stays" in sys.argv
leader = os.getpid()
def state():
    with open(f"/proc/{leader}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2][:1]
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
if os.fork() == 0:
    if session:
        os.setsid()
    print("started", os.getpid(), flush=True)
    if number:
        os.kill(leader, number)
    while state() != b"T":
        os.sched_yield()
    try:
        os.mkdir("never")
    except OSError as error:
        print("served:", error.errno, flush=True)
    if stays:
        signal.sigwait({signal.SIGUSR1})
    os.kill(leader, signal.SIGCONT)
    os._exit(0)
os.wait()
"""
SERVED = "served: 18"


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    """proctor with a handler, and the program under it, behind the shell."""
    (tmp_path / "handlers.py").write_text(HANDLER)

    def made(*arguments: str) -> list[str]:
        run = [*COMMAND, "run", "--handlers", str(tmp_path / "handlers.py"), "--"]
        program = [sys.executable, "-IS", "-c", PROGRAM, *arguments]
        return [sys.executable, "-IS", "-c", SHELL, *run, *program]

    return made


@pytest.fixture
def on_terminal() -> Iterator[Callable[[list[str]], Screen]]:
    """Start a shell on a terminal of its own."""
    made: list[Screen] = []

    def start(argv: list[str]) -> Screen:
        made.append(Screen(argv, os.getcwd(), "dumb"))
        return made[-1]

    yield start
    for terminal in made:
        terminal.close()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN])
def test_without_a_terminal_a_stop_is_nobody_elses(
    command: Callable[..., list[str]], number: int
) -> None:
    """There is nobody who would continue us; the group is not orphaned, so the command does stop."""
    done = subprocess.run(
        command(str(int(number))), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        timeout=30, check=False, start_new_session=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[2:] == [SERVED, "ended with 0"]


def test_sigstop_on_a_terminal_is_nobody_elses(
    command: Callable[..., list[str]], on_terminal: Callable[[list[str]], Screen]
) -> None:
    """A debugger's, say: no shell asked for it."""
    terminal = on_terminal(command(str(int(signal.SIGSTOP))))
    said = terminal.expect("ended with 0")
    assert SERVED in said
    assert "stopped" not in said


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU])
def test_job_control_sees_a_stopped_job_and_others_are_served(
    command: Callable[..., list[str]],
    on_terminal: Callable[[list[str]], Screen],
    number: int,
) -> None:
    terminal = on_terminal(command(str(int(number)), "stays"))
    all_through_a_stop(terminal, number)


def all_through_a_stop(terminal: Screen, number: int) -> None:
    """Others are served while the job is stopped; whoever continues the command continues the job."""
    terminal.expect("started ")
    child = int(terminal.expect("\r\n"))
    if number == 0:
        number = signal.SIGTSTP
        terminal.type("\x1a")
    said = terminal.expect(f"stopped by {int(number)}")
    if SERVED not in said:
        terminal.expect(SERVED)
    os.kill(child, signal.SIGUSR1)
    terminal.expect("goes on")
    terminal.expect("ended with 0")


def test_ctrl_z_leaves_other_sessions_served(
    command: Callable[..., list[str]], on_terminal: Callable[[list[str]], Screen]
) -> None:
    """A process in a session of its own is none of the terminal's."""
    all_through_a_stop(on_terminal(command("0", "session", "stays")), 0)


@pytest.mark.parametrize("options", [[], ["--handlers", "handlers.py"]])
def test_stopping_and_going_on_by_signals_sent_to_us(
    tmp_path: Path, on_terminal: Callable[[list[str]], Screen], options: list[str]
) -> None:
    """kill -TSTP and kill -CONT, as a job scheduler does it: the command stops, and we with it."""
    (tmp_path / "handlers.py").write_text(HANDLER)
    options = [option.replace("handlers.py", str(tmp_path / "handlers.py")) for option in options]
    command = ["sh", "-c", "echo ready; read x; exit 9"]
    terminal = on_terminal(
        [sys.executable, "-IS", "-c", SHELL, *COMMAND, "run", *options, "--", *command]
    )
    terminal.expect("job ")
    terminal.expect("ready")
    (job,) = children(terminal.pid)
    for _ in range(2):
        os.kill(job, signal.SIGTSTP)
        terminal.expect(f"stopped by {int(signal.SIGTSTP)}")
        os.kill(job, signal.SIGCONT)
        terminal.expect("goes on")
    terminal.type("\n")
    terminal.expect("ended with 9")


def children(pid: int) -> list[int]:
    """Of the process's first thread."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.parametrize("by", ["Ctrl-Z", "kill -TSTP"])
def test_who_wants_his_terminal_back_from_a_command_that_sigstop_stopped_has_it(
    on_terminal: Callable[[list[str]], Screen], by: str
) -> None:
    """The command hears of no further stop; it goes on when its job does."""
    command = ["sh", "-c", "echo ready $$; kill -STOP $$; echo back"]
    terminal = on_terminal([sys.executable, "-IS", "-c", SHELL, *COMMAND, "run", "--", *command])
    terminal.expect("ready ")
    stopped = int(terminal.expect("\r\n"))
    while Path(f"/proc/{stopped}/stat").read_bytes().rpartition(b") ")[2][:1] != b"T":
        os.sched_yield()
    (job,) = children(terminal.pid)
    if by == "Ctrl-Z":
        terminal.type("\x1a")
    else:
        os.kill(job, signal.SIGTSTP)
    terminal.expect(f"stopped by {int(signal.SIGTSTP)}")
    os.kill(job, signal.SIGCONT)
    # the command may be back before the shell hears that its job goes on
    assert "back" in terminal.expect("ended with 0")


def test_who_stopped_with_the_command_goes_on_when_that_is_killed(
    tmp_path: Path, on_terminal: Callable[[list[str]], Screen]
) -> None:
    (tmp_path / "handlers.py").write_text(HANDLER)
    terminal = on_terminal(
        [sys.executable, "-IS", "-c", SHELL, *COMMAND, "run", "--handlers",
         str(tmp_path / "handlers.py"), "--", "sh", "-c", "echo ready $$; read x"]
    )  # fmt: skip
    terminal.expect("ready ")
    command = int(terminal.expect("\r\n"))
    terminal.type("\x1a")
    terminal.expect("stopped by")
    os.kill(command, signal.SIGKILL)
    terminal.expect("ended with -9")


def test_two_processes_end_together(
    tmp_path: Path, on_terminal: Callable[[list[str]], Screen]
) -> None:
    """Whichever of them is killed: nobody is left, the command included."""
    import select

    (tmp_path / "handlers.py").write_text(HANDLER)
    for victim in ("job", "monitor"):
        terminal = on_terminal(
            [sys.executable, "-IS", "-c", SHELL, *COMMAND, "run", "--handlers",
             str(tmp_path / "handlers.py"), "--", "sh", "-c", "echo ready $$; read x"]
        )  # fmt: skip
        terminal.expect("ready ")
        command = int(terminal.expect("\r\n"))
        (job,) = children(terminal.pid)
        (monitor,) = children(job)
        pidfds = [os.pidfd_open(pid) for pid in (job, monitor, command)]
        os.kill(job if victim == "job" else monitor, signal.SIGKILL)
        terminal.expect("ended with -9")
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], 30)[0], f"outlives {victim}"
            os.close(pidfd)
