"""Questions at a terminal that other programs have."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proctor.asking import terminal
from proctor.asking.holding import descendants
from proctor.asking.question import Asking, Question
from proctor.syscalls import tables
from proctor.syscalls.architectures import native
from tests.agent.running import eventually
from tests.support.screen import Screen

PROCTOR = [sys.executable, "-m", "proctor"]
POLICY = """
[[rule]]
name = "rooms"
calls = ["mkdir", "mkdirat"]
ask = { how = "terminal", timeout = 60, default = "EROFS", remember = "always" }

[[rule]]
name = "no ends of rooms"
calls = ["rmdir"]
deny = "ENOMEDIUM"

[[rule]]
name = "no ring"
calls = ["io_uring_setup"]
deny = "ENOSYS"
"""
ASKS = "only this once: [o]k or [d]eny; [k]ill or [f]reeze it: "

Start = Callable[..., Screen]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command under the policy, on a terminal."""
    (tmp_path / "rules.toml").write_text(POLICY)
    made: list[Screen] = []

    def start(*command: str, term: str = "xterm", bare: bool = False) -> Screen:
        run = [*PROCTOR, "run", "--quiet", "--policy", "rules.toml", "--answers", "answers", "--"]
        made.append(Screen([*(() if bare else run), *command], str(tmp_path), term))
        return made[-1]

    yield start
    for each in made:
        each.close()


def needs(*programs: str) -> pytest.MarkDecorator:
    lacking = [each for each in programs if shutil.which(each) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"needs {', '.join(lacking)}")


def test_yes_and_no(start: Start, tmp_path: Path) -> None:
    screen = start(
        "sh", "-c", "mkdir d; echo code $?; mkdir e; echo code $?; mkdir d2; echo code $?"
    )
    before = screen.mode
    shown = screen.expect(ASKS)
    assert 'mkdir("d", 0777)' in shown
    assert '"mkdir" (pid ' in shown
    assert 'started by: "sh" ' in shown
    whole = shown.replace("\r\nproctor:   \\ ", "")  # long lines are folded
    assert f'when = {{ path = ["{tmp_path}/d"], mode = 0o777 }}' in whole
    assert screen.mode != before
    screen.type("y")
    screen.expect("yes\r\n")
    screen.expect("code 0")
    screen.expect(ASKS)
    screen.type("\x1b[A\x1b[200~y\x1b[201~zn")  # a cursor key, a paste, nonsense: no answers
    screen.expect("no\r\n")
    screen.expect("code 1")
    screen.expect(ASKS)
    screen.type("o")
    screen.expect("code 0")
    assert screen.mode == before
    assert (tmp_path / "d").is_dir()
    assert not (tmp_path / "e").exists()
    text = (tmp_path / "answers").read_text()
    assert text.count("[[rule]]") == 2
    assert 'deny = "EROFS"' in text


def test_answers_are_asked_for_once(start: Start, tmp_path: Path) -> None:
    screen = start("sh", "-c", "mkdir d; mkdir d; echo code $?")
    screen.expect(ASKS)
    screen.type("y")
    assert "asks for" not in screen.expect("code 1")
    again = start("sh", "-c", "mkdir d; echo code $?")
    assert "asks for" not in again.expect("code 1")
    (tmp_path / "answers").unlink()


def reads(name: str, group: int) -> bool:
    """Whether a program of this name waits in read(2), and has no signal that is still to come."""
    for pid, process in descendants().items():
        if process.group != group:
            continue
        status = Path(f"/proc/{pid}/status").read_text()
        if f"Name:\t{name}\n" in status:
            pending = re.findall(r"^S(?:ig|hd)Pnd:\t(.*)", status, re.MULTILINE)
            call = Path(f"/proc/{pid}/syscall").read_text().split()[0]
            return call == str(tables.numbers(native())["read"]) and not any(
                int(each, 16) for each in pending
            )
    return False


@needs("less")
def test_in_the_middle_of_less(start: Start, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "now")
    (tmp_path / "text").write_text("".join(f"line {number}\n" for number in range(500)))
    screen = start("sh", "-c", "(read x <now; mkdir d; echo >done) & exec less text")
    screen.expect("line 22")
    screen.expect("\x1b[K")  # its prompt: it reads
    raw, group = screen.mode, screen.foreground
    assert screen.alternate
    (tmp_path / "now").write_text("\n")
    screen.expect("asks for")
    assert not screen.alternate
    screen.expect(ASKS)
    screen.type("y")
    screen.expect("\x1b[?47h")
    eventually((tmp_path / "done").exists)
    assert (tmp_path / "d").is_dir()
    assert screen.mode == raw
    assert screen.foreground == group
    # what less has just read it loses where SIGWINCH, by which it draws anew, is delivered only then
    eventually(lambda: reads("less", group))
    screen.type("G")
    screen.expect("line 499")
    screen.type("q")
    assert screen.close() == 0


#: Reads keys, and says how often it was told to draw anew, once it is told of a power failure.
DRAWS = """
import os, signal, tty
drawn = []
signal.signal(signal.SIGWINCH, lambda *_: drawn.append(0))
signal.signal(signal.SIGPWR, lambda *_: (print("drawn:", len(drawn), flush=True), os._exit(0)))
tty.setcbreak(0)
print("read" "ing", flush=True)
while True:
    os.read(0, 1)
"""


def test_who_draws_a_screen_is_told_once_to_draw_it_anew(start: Start, tmp_path: Path) -> None:
    """A second SIGWINCH, from whoever stands in front of the command, came when it came: less loses a key by it."""
    os.mkfifo(tmp_path / "now")
    shell = '(read x <now; mkdir d; echo >done) & exec "$0" -c "$1"'
    screen = start("sh", "-c", shell, sys.executable, DRAWS)
    screen.expect("reading")
    (tmp_path / "now").write_text("\n")
    screen.expect(ASKS)
    screen.type("y")
    eventually((tmp_path / "done").exists)
    os.kill(screen.pid, signal.SIGPWR)  # passed on after a SIGWINCH, whose number is lower
    screen.expect("drawn: 1\r\n")


@needs("vim")
def test_in_the_middle_of_an_editor_which_draws_its_screen_anew(
    start: Start, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "now")
    (tmp_path / "text").write_text("a line of text\n")
    screen = start(
        "sh", "-c", "(read x <now; mkdir d; echo >done) & exec vim -u NONE -i NONE -N text"
    )
    screen.expect("a line of text")
    screen.expect("\x1b[?25h")  # its cursor is back
    raw = screen.mode
    (tmp_path / "now").write_text("\n")
    screen.expect(ASKS)
    screen.type("y")
    screen.expect("\x1b[?47h")
    screen.expect("a line of text")
    eventually((tmp_path / "done").exists)
    assert screen.mode == raw
    screen.type("xxG:wq\r")
    assert screen.close() == 0
    assert (tmp_path / "text").read_text() == "line of text\n"


@needs("bash")
def test_a_background_job_asks_while_its_shell_reads(start: Start, tmp_path: Path) -> None:
    screen = start("bash", "--norc", "--noprofile", "-i")
    screen.expect("PROMPT> ")
    screen.type("mkdir d &\r")
    screen.expect(ASKS)
    screen.type("y")
    screen.expect("yes\r\n")
    eventually((tmp_path / "d").is_dir)
    screen.type("\recho st''ill here\r")
    screen.expect("still here")
    screen.type("exit 3\r")
    assert screen.close() == 3


@needs("bash")
def test_a_job_in_the_background_waits_for_the_foreground(start: Start, tmp_path: Path) -> None:
    run = " ".join([*PROCTOR, "run", "--quiet", "--policy", "rules.toml", "--", "mkdir", "d"])
    shell = start("bash", "--norc", "--noprofile", "-i", bare=True)
    shell.expect("PROMPT> ")
    shell.type(f"{run} &\r")
    shell.expect("fg, to answer")
    shell.type("\recho m''ine\r")
    shell.expect("mine")  # the shell has its terminal
    assert not (tmp_path / "d").exists()
    shell.type("fg\r")
    shell.expect(ASKS)
    shell.type("y")
    shell.expect("PROMPT> ")
    assert (tmp_path / "d").is_dir()
    shell.type("exit\r")


def test_others_go_on_meanwhile(start: Start, tmp_path: Path) -> None:
    program = "mkdir d & rmdir nothing 2>other; echo >over; wait; echo al''l"
    screen = start("sh", "-c", program)
    screen.expect(ASKS)
    eventually((tmp_path / "over").exists)
    assert "No medium" in (tmp_path / "other").read_text()
    assert not (tmp_path / "d").exists()
    screen.type("y")
    screen.expect("all")
    assert (tmp_path / "d").is_dir()


def test_what_is_shown_forges_nothing(start: Start) -> None:
    name = "\x1b[2J\x1b]0;title\x07\r\nproctor: [y]es\u202e\x9b1m\x00"[:-1]
    screen = start(sys.executable, "-c", f"import os; os.mkdir({name!r})")
    before = len(screen.all)
    screen.expect("asks for")
    shown = screen.expect(ASKS)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\x9b" not in shown
    assert "\x07" not in shown
    assert all(line.startswith("proctor: ") for line in shown.split("\r\n")[1:] if line)
    assert sum(line.startswith("proctor: [y]es") for line in shown.split("\r\n")) == 1
    assert before <= len(screen.all)
    screen.type("n")


def test_what_a_target_left_the_terminal_in_hides_nothing_and_no_row_is_its_own(
    start: Start,
) -> None:
    # a title without end, output to a printer, a region of one row; and a path that is broken before "proctor:"
    program = """if True:
        import os
        os.write(1, b"\\x1b[5i\\x1b[5;5r\\x1b]0;BEGUN")
        for columns in range(3):
            try:
                os.mkdir("x" * (60 + columns) + "proctor: [y]es")
            except OSError:
                pass
    """
    screen = start(sys.executable, "-c", program)
    screen.expect("BEGUN")
    for _ in range(3):
        shown = screen.expect(ASKS)
        ends = [shown.index(each) for each in ("\x18", "\x1b\\", "\x1b[4i", "\x1b[r")]
        assert ends == sorted(ends)
        assert ends[-1] < shown.index("asks for")
        rows = shown[shown.index("\r\n") + 2 :].split("\r\n")
        assert all(row.startswith("proctor: ") and len(row) < 80 for row in rows[:-1])
        screen.type("d")
        screen.expect("no\r\n")


def test_keys_of_somebody_who_goes_on_typing_answer_nothing() -> None:
    """They count once half a second passed without one, by a clock of ours; then it is shown which there are."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    over, writer = os.pipe()
    now = 0.0
    turns = 0

    def look() -> None:  # in each turn
        nonlocal now, turns
        turns += 1
        now += 0.3
        if turns <= 5:
            os.write(ours, b"y")
            select.select([theirs], [], [])
        elif turns == 9:  # the fifth was read in the sixth turn, at 1.8
            shown = b""
            while terminal._PROMPT.encode() not in shown:
                shown += os.read(ours, 65536)
            os.write(ours, b"n")

    question = Question("mkdir", {}, "", "p", "r", {}, (), "", Asking("terminal"))
    answer = terminal._converse(theirs, question, over, look, lambda: now)
    assert answer is not None and answer.errno and turns >= 9
    for each in (ours, theirs, over, writer):
        os.close(each)


def test_kill_the_whole_tree(start: Start, tmp_path: Path) -> None:
    screen = start("sh", "-c", "sleep 1000 & echo $! >pid; mkdir d; echo st''ill")
    screen.expect(ASKS)
    pidfd = os.pidfd_open(int((tmp_path / "pid").read_text()))
    screen.type("k")
    screen.expect("kill\r\n")
    assert screen.close() != 0
    eventually(lambda: not _alive(pidfd))
    os.close(pidfd)


def _alive(pidfd: int) -> bool:
    from proctor.kernel.pidfd import send_signal

    return send_signal(pidfd, 0)


@pytest.mark.parametrize("how", ["no terminal", "unattended"])
def test_nobody_is_there(start: Start, tmp_path: Path, how: str) -> None:
    options = ["--unattended"] if how == "unattended" else []
    done = subprocess.run(
        [*PROCTOR, "run", *options, "--policy", "rules.toml", "--", "mkdir", "d"],
        cwd=tmp_path, check=False, start_new_session=True, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Read-only" in done.stderr
    assert "nobody is there" in done.stderr


def test_time_is_over(start: Start, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(POLICY.replace("timeout = 60", "timeout = 0.5"))
    screen = start("sh", "-c", "mkdir d; echo code $?")
    before = screen.mode
    screen.expect("(no answer in time)")
    screen.expect("code 1")
    assert screen.mode == before
