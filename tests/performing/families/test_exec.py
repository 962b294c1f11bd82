"""Programs by path, interpreter, words and parents; and nobody gets another one to run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families, policy
from proctor.performing import watching
from tests.performing.support.callers import compiled, open_directory
from tests.support.processes import eventually

TRIES = int(os.environ.get("PROCTOR_RACES", "2000")) // 10
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="holding a caller wants CAP_SYS_PTRACE"),
    pytest.mark.timeout(3000),
]

NO_PUSH = """
[[rule]]
name = "no push"
calls = ["execve", "execveat"]
when = { argv = "* ** push **" }
deny = "EACCES"

[[rule]]
name = "no bash"
calls = ["execve", "execveat"]
when = { path = "**/bash" }
deny = "EACCES"

[[rule]]
name = "no uname in make"
calls = ["execve", "execveat"]
when = { path = "**/uname", parents = "**/make" }
deny = "EACCES"

[[rule]]
name = "others, as they were seen"
calls = ["execve", "execveat"]
perform = true
"""


def run(rules: str, command: list[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    made = policy.loads(rules)
    how: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120, **options}
    return proctor.run(command, made.handlers(), filter=made.filter(), **how)


@pytest.fixture
def place() -> Iterator[Path]:
    with open_directory() as top:
        here = Path(os.fsdecode(top))
        for name, text in {
            "plain": '#!/bin/sh\necho plain "$@"\n',
            "bashed": "#!/bin/bash\necho bashed\n",
            "by-env": "#!/usr/bin/env bash\necho bashed\n",
            "nested": f"#!{here}/plain  one word \necho nested\n",
            "cut": f"#!/{'x' * 300}\n",
            "empty": "#!   \n",
        }.items():
            (here / name).write_text(text)
            (here / name).chmod(0o755)
        (here / "Makefile").write_text(
            "all:\n\t@uname; git push; git status --short nothing || true\n"
        )
        shutil.copy(shutil.which("echo") or "/bin/echo", here / "copy-of-git")
        yield here


@pytest.mark.parametrize(
    ("script", "runs"),
    [
        ("git --version", True),
        ("git push", False),
        ("git -C elsewhere push origin", False),
        ("env git push", False),
        ("env -i PATH=/usr/bin:/bin git --version", True),
        ("echo push | xargs git", False),
        ("./copy-of-git push", False),  # a copy has the same words
        ("./copy-of-git status", True),
        ("./plain push", False),
        ("./plain a", True),
        ("./bashed", False),
        ("./by-env", False),
        ("./nested a", True),
        ("uname", True),
        ("exec uname", True),
        ('python3 -ISc \'import os; os.execv("/bin/bash", ["x"])\'', False),
        ("(git --version && git push) | cat", None),
    ],
)
def test_what_runs(place: Path, script: str, runs: bool | None) -> None:
    if "git" in re.split(r"\W+", script) and not shutil.which("git"):
        pytest.skip("no git")
    script = script.replace(
        "python3", "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
    )
    natively = subprocess.run(
        ["sh", "-c", script], cwd=place, capture_output=True, text=True, check=False
    )
    done = run(NO_PUSH, ["sh", "-c", script], cwd=place)
    if runs:
        assert (done.returncode, done.stdout, done.stderr) == (
            natively.returncode,
            natively.stdout,
            natively.stderr,
        )
    else:
        assert "ermission denied" in done.stderr
    if runs is None:
        assert done.stdout.startswith("git version")


@pytest.mark.skipif(not (shutil.which("make") and shutil.which("git")), reason="no make, or no git")
def test_from_make(place: Path) -> None:
    done = run(NO_PUSH, ["make", "-s"], cwd=place)
    assert done.stderr.count("Permission denied") == 2, done
    assert "not a git repository" in done.stderr


def test_errors_are_the_kernels(place: Path) -> None:
    code = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def said(number, *args):
    ctypes.set_errno(0)
    print(libc.syscall(number, *args), errno.errorcode.get(ctypes.get_errno()))
words = (ctypes.c_char_p * 3)(b"a", b"b", None)
fd = os.open("plain", os.O_RDONLY)
for path in (b"missing", b"plain/x", b".", b"", b"Makefile", b"cut", b"empty", b"x" * 5000):
    said(59, path, words, None)
    said(322, -100, path, words, None, 0)
said(59, 0, words, None)
said(59, 1, words, None)
said(59, b"plain", ctypes.c_void_p(8), None)
said(322, 99, b"plain", words, None, 0)
said(322, -100, b"plain", words, None, 0x40)
said(322, 99, b"", words, None, 0x1000)
said(322, -100, b"cut", words, None, 0x10000)  # AT_EXECVE_CHECK, which looks at the file alone
said(322, fd, b"", words, None, 0x1000) if os.fork() == 0 else os.wait()
"""
    program = [sys.executable, "-ISc", code]
    natively = subprocess.run(program, cwd=place, capture_output=True, text=True, check=False)
    done = proctor.run(
        program, [families.exec()], cwd=place, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == natively.stdout.splitlines(), done.stderr


def test_first_lines_are_read_as_the_kernel_reads_them(place: Path) -> None:
    """Where nothing ends them, or blanks, NULs and the end of what is looked at do."""
    code = """
import os, subprocess
echo = b"#!/bin/echo"
for number, head in enumerate((
    echo, echo + b" ", echo + b" \\n", echo + b" a ", echo + b"\\ta b\\t\\n", echo + b"\\0", echo + b"\\0x\\n", echo + b"\\t\\0x\\n",
    echo + b" a\\0b", echo + b" " + b"y" * 300, echo + b" " + b"y" * 243, echo + b" " + b"y" * 242 + b" z",
    b"#!" + b" " * 244 + b"/bin/echo", b"#!" + b" " * 245 + b"/bin/echo", b"#!" + b" " * 244 + b"/bin/echo\\n",
    b"#!", b"#! ", b"#!\\0x", b"#!\\n", b"#!" + b" " * 300,
)):
    path = f"head{number}"
    with open(path, "wb") as file:
        file.write(head)
    os.chmod(path, 0o755)
    try:
        done = subprocess.run([path, "word"], capture_output=True, executable=f"./{path}")
        print(number, done.returncode, done.stdout)
    except OSError as error:
        print(number, error.errno)
"""
    program = [sys.executable, "-ISc", code]
    natively = subprocess.run(program, cwd=place, capture_output=True, text=True, check=False)
    assert len(natively.stdout.splitlines()) == 20, natively.stderr
    done = proctor.run(
        program, [families.exec()], cwd=place, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == natively.stdout.splitlines(), done.stderr


def test_who_is_held_goes_on_where_the_listener_was_closed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitor ends while somebody's exec fails: the kernel has answered."""
    add = watching.Watchers.add

    def closed() -> bool:
        raise ValueError("this listener is closed")

    def added(self: watching.Watchers, watcher: watching._Watcher) -> None:
        watcher.waits = closed
        add(self, watcher)

    monkeypatch.setattr(watching.Watchers, "add", added)
    done = run(NO_PUSH, ["sh", "-c", "./plain a; ./empty 2>&-; echo b"], cwd=place)
    assert done.stdout.split() == ["plain", "a", "b"], done


def test_where_nobody_can_wait_it_is_ended(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does it stay stopped, nor does it run unseen."""
    started = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if self.name.startswith("exec of"):
            raise RuntimeError("can't start new thread")
        started(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    before = len(os.listdir("/proc/self/fd"))
    done = run("", ["true"], cwd=place)
    assert done.returncode == 0  # nothing is held
    with pytest.raises(OSError):  # as where its program is refused
        run(NO_PUSH, ["./plain", "a"], cwd=place)
    eventually("nothing left open", lambda: len(os.listdir("/proc/self/fd")) == before)


def test_descriptors_and_set_user_id_are_as_without(place: Path) -> None:
    """execveat of an open script; and who is held is not less than who is not."""
    suid = place / "suid"
    shutil.copy(shutil.which("id") or "/usr/bin/id", suid)
    suid.chmod(0o4755)
    code = """
import ctypes, os
fd = os.open("plain", os.O_RDONLY)
os.set_inheritable(fd, True)  # its interpreter opens it again
words = (ctypes.c_char_p * 3)(b"a", b"b", None)
if os.fork() == 0:
    ctypes.CDLL(None).syscall(322, fd, b"", words, None, 0x1000)
os.wait()
os.setresuid(1000, 1000, 1000)
os.execv("./suid", ["id", "-u"])
"""
    program = [sys.executable, "-ISc", code]
    done = proctor.run(
        program, [families.exec()], cwd=place, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "plain b\n0\n", done.stderr


def test_a_traced_caller_is_refused(place: Path) -> None:
    code = """
import ctypes, os
if os.fork() == 0:
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)
    try:
        os.execv("/bin/true", ["true"])
    except OSError as error:
        os._exit(error.errno)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = proctor.run(
        [sys.executable, "-ISc", code],
        [families.exec()],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "1\n", done.stderr


# Racers -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def racer() -> Iterator[str]:
    with compiled("exec_racer") as made:
        yield made


RULES = """
[[rule]]
name = "not this"
calls = ["execve", "execveat"]
when = { WHEN }
deny = "EACCES"

[[rule]]
name = "others"
calls = ["execve", "execveat"]
perform = { freeze = FREEZE }
"""
GAMES = {
    "words": ("status", "push", 'argv = "program push"'),
    "vm": ("status", "push", 'argv = "program push"'),
    "thread": ("status", "push", 'argv = "program push"'),
    "link": ("./program", "./bad", 'path = "**/bad"'),
    "script": ("./good-script", "./bad-script", 'path = "**/bad"'),
}


def race(racer: str, place: Path, kind: str, freeze: str, tries: int) -> dict[str, int]:
    good, bad, when = GAMES[kind]
    shutil.copy(racer, place / "program")
    # This one is what may not run, whatever its words are.
    (place / "bad.c").write_text("int main(void) { return 7; }")
    subprocess.run(["gcc", "-o", place / "bad", place / "bad.c"], check=True)
    for name in ("good", "bad"):
        interpreter = place / ("program" if name == "good" else "bad")
        (place / f"{name}-script").write_text(f"#!{interpreter}\n")
        (place / f"{name}-script").chmod(0o755)
    os.symlink(good, place / "link")
    rules = RULES.replace("WHEN", when).replace("FREEZE", freeze)
    done = run(rules, [racer, kind, str(tries), good, bad], cwd=place, timeout=2900)
    assert done.returncode == 0, done.stderr
    return {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", done.stdout)}


@pytest.mark.parametrize("kind", GAMES)
def test_nobody_gets_another_program_to_run(racer: str, place: Path, kind: str) -> None:
    counts = race(racer, place, kind, "true", TRIES)
    assert not counts["won"], counts
    assert counts["ran"] and counts["refused"] + counts["killed"], counts


def test_the_racer_wins_where_nobody_is_held(racer: str, place: Path) -> None:
    for _ in range(20):
        if race(racer, place, "words", "false", 100)["won"]:
            return
        os.unlink(place / "link")
    pytest.fail("the racer never wins")


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
def test_who_cannot_hold_refuses() -> None:
    code = (
        "import proctor; from proctor import families; from proctor.performing import Performers\n"
        "try: proctor.run(['true'], [families.exec()], performer=Performers(on_trouble=print))\n"
        "except proctor.LaunchError as error: print(error)"
    )
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-all", sys.executable, "-c", code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "freeze needs CAP_SYS_PTRACE" in done.stdout, done
    assert "Operation not permitted" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="runs as another user")
def test_what_may_not_be_run_is_not_read() -> None:
    """What a file names as its interpreter is nothing to whoever may neither read nor run it."""
    code = """
import errno, os, sys
for name in ("lost", "there", "binary", "public"):
    try:
        os.execv(f"{sys.argv[1]}/{name}", [name])
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
    with open_directory() as top:
        place = Path(os.fsdecode(top))
        for name, text in (("lost", "#!/nowhere"), ("there", "#!/bin/true"), ("binary", "x")):
            (place / name).write_text(text + "\n")
            (place / name).chmod(0o700)
        (place / "public").write_text("#!/nowhere\n")
        (place / "public").chmod(0o755)
        natively, performed = (
            proctor.run(
                ["/usr/bin/python3", "-I", "-c", code, str(place)], handlers, capture_output=True,
                timeout=60, uid=4242, gid=4242, groups=(),
            ).stdout.decode().split()
            for handlers in ([proctor.Handler(["getcpu"], lambda call: proctor.let_run())], [families.exec()])
        )  # fmt: skip
    assert performed == natively == ["EACCES", "EACCES", "EACCES", "ENOENT"]
