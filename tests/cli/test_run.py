"""proctor run: what goes in comes out unchanged, and mistakes are one sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import COMMAND, Run

HANDLER = """
import errno, proctor

@proctor.on("mkdir", "mkdirat")
def refuse(call):
    return proctor.deny(errno.EXDEV, "no directories today")
"""


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_c131_exit_codes_pass_through(run: Run, code: int) -> None:
    done = run("run", "--", "sh", "-c", f"exit {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT])
def test_fatal_signals_pass_through(run: Run, number: int) -> None:
    done = run("run", "--", "sh", "-c", f"kill -{int(number)} $$")
    assert done.returncode == -number


def test_standard_streams_pass_through(run: Run) -> None:
    done = run("run", "--", "sh", "-c", "cat; echo problem >&2", input="text")
    assert (done.stdout, done.stderr) == ("text", "problem\n")


def test_environment_and_directory_pass_through(run: Run, tmp_path: Path) -> None:
    done = run("run", "--", "sh", "-c", 'echo "$MARK"; pwd', env={**os.environ, "MARK": "here"})
    assert done.stdout.splitlines() == ["here", str(tmp_path)]


def test_ignored_signals_stay_ignored(run: Run) -> None:
    """nohup(1) works around us, and Python's own ignoring of SIGPIPE is not passed on."""
    mask = "awk '/SigIgn/ {print $2}' /proc/self/status"
    plain = subprocess.run(["sh", "-c", mask], capture_output=True, text=True, check=True)
    assert run("run", "--", "sh", "-c", mask).stdout == plain.stdout
    ignoring = "trap '' HUP; exec \"$@\""
    done = subprocess.run(
        ["sh", "-c", ignoring, "sh", *COMMAND, "run", "--", "sh", "-c", mask],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert int(done.stdout, 16) & 1 << (signal.SIGHUP - 1)


@pytest.mark.parametrize("options", [[], ["--handlers", "handlers.py"]])
def test_blocked_signals_stay_blocked(run: Run, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "handlers.py").write_text(HANDLER)
    blocked = {signal.SIGTERM, signal.SIGCHLD, signal.SIGRTMIN + 1}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        done = run("run", *options, "--", "awk", "/SigBlk/ {print $2}", "/proc/self/status")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert int(done.stdout, 16) == sum(1 << (number - 1) for number in blocked | before)


def test_signals_sent_to_us_reach_the_command() -> None:
    script = "trap 'echo got; exit 7' USR1; echo ready; while :; do read x; done"
    with subprocess.Popen(
        [*COMMAND, "run", "--", "sh", "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "got\n"
        assert process.wait(30) == 7


def test_waits_for_descendants_under_the_filter(run: Run, tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLER)
    script = (
        "(read x < fifo; mkdir late 2>&1 | grep -o 'cross-device') & echo done; (echo > fifo) &"
    )
    os.mkfifo(tmp_path / "fifo")
    done = run("run", "--handlers", "handlers.py", "--", "sh", "-c", script)
    assert done.returncode == 0
    assert "cross-device" in done.stdout
    assert not (tmp_path / "late").exists()


def test_a_call_that_nothing_performs_is_told(run: Run, tmp_path: Path) -> None:
    """A handler's mistake, which its program may never tell of."""
    (tmp_path / "h.py").write_text(
        "import proctor\n@proctor.on('sethostname')\ndef f(call):\n    return proctor.perform()\n"
    )
    code = "import ctypes; print(ctypes.CDLL(None).sethostname(b'', -1))"
    done = run("run", "--handlers", "h.py", "--", sys.executable, "-c", code)
    assert (done.returncode, done.stdout) == (0, "-1\n")
    assert "deny ENOSYS: nothing here performs sethostname\n" in done.stderr


def test_handlers_answer_and_log(run: Run, tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLER)
    done = run(
        "run", "--handlers", "handlers.py", "--log", "calls.jsonl", "--summary", "--", "mkdir", "x"
    )
    assert done.returncode == 1
    assert "cross-device" in done.stderr
    assert "refused EXDEV" in done.stderr
    lines = (tmp_path / "calls.jsonl").read_text().splitlines()
    (record,) = map(json.loads, lines)
    assert record["syscall"] in ("mkdir", "mkdirat")
    assert (record["verdict"], record["errno"]) == ("deny", "EXDEV")
    assert record["reason"] == "no directories today"
    assert record["args"]["path"] == "x" and '"x"' in record["call"]


def test_policy_refusal_is_told_on_standard_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        'version = 1\n[[rule]]\nname = "no dirs"\ncalls = ["mkdir", "mkdirat"]\n'
        'deny = "EROFS"\nreport = true\n'
    )
    done = run("run", "--policy", "p.toml", "--", "mkdir", "x")
    assert done.returncode == 1
    assert "no dirs" in done.stderr
    assert "Read-only file system" in done.stderr
    assert (
        run("run", "--quiet", "--policy", "p.toml", "--", "mkdir", "x").stderr.count("no dirs") == 0
    )


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["run"], 125, "what shall run?"),
        (["run", "--"], 125, "what shall run?"),
        (["run", "--polcy", "x", "--", "true"], 125, "--polcy"),
        (["run", "--policy"], 125, "expected one argument"),
        (["doctor", "--polcy"], 2, "--polcy"),
        (["run", "--", "/nonexistent/program"], 127, "No such file"),
        (["run", "--", "no-such-program-anywhere"], 127, "PATH"),
        (["run", "--", "/etc"], 126, "Permission denied"),
        (["run", "--", "/etc/passwd"], 126, "Permission denied"),
        (["run", "--policy", "missing.toml", "--", "true"], 125, "missing.toml"),
        (["run", "--policy", "broken.toml", "--", "true"], 125, "broken.toml:2:"),
        (["run", "--policy", "typo.toml", "--", "true"], 125, "mknodat"),
        (["run", "--policy", "/etc", "--", "true"], 125, "/etc"),
        (["run", "--policy", "", "--", "true"], 125, "not a file name"),
        (["run", "--handlers", "", "--", "true"], 125, "not a file name"),
        (["run", "--policy", "p.toml", "--policy", "q.toml", "--", "true"], 125, "given twice"),
        (["run", "--handlers", "h.py", "--handlers=h.py", "--", "true"], 125, "given twice"),
        (["run", "--handlers", "good.py", "--log", "", "--", "true"], 125, "--log"),
        (["run", "--handlers", "throws.py", "--", "true"], 125, "throws.py:2: E: z"),
        (["run", "--handlers", "missing.py", "--", "true"], 125, "missing.py"),
        (["run", "--handlers", "broken.py", "--", "true"], 125, "broken.py"),
        (["run", "--handlers", "empty.py", "--", "true"], 125, "empty.py"),
        (["run", "--log", "/nonexistent/log", "--handlers", "good.py", "--", "true"], 125, "log"),
        (["run", "--handlers", "condition.py", "--", "true"], 125, "condition.py:2: 'mode'"),
        (["run", "--userns=zero", "--", "true"], 125, "--userns"),
        (["run", "--userns=", "--", "true"], 125, "--userns="),
        (["run", "--userns=²:1", "--", "true"], 125, "--userns"),
        (["run", "--userns=4294967290:6", "--", "true"], 125, "4294967294"),
        (["run", "--userns=18446744073709551616:1", "--", "true"], 125, "4294967294"),
        (["run", f"--userns=0:{'9' * 5000}", "--", "true"], 125, "4294967294"),
        (["nonsense"], 2, "invalid choice"),
        ([], 2, "VERB"),
    ],
)
def test_bad_input_is_one_sentence(
    run: Run, tmp_path: Path, words: list[str], status: int, said: str
) -> None:
    (tmp_path / "broken.toml").write_text("version = 1\n[[rule\n")
    (tmp_path / "typo.toml").write_text(
        'version = 1\n[[rule]]\nname = "a"\ncalls = ["mknodta"]\ndeny = "EPERM"\n'
    )
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "good.py").write_text(HANDLER)
    (tmp_path / "throws.py").write_text("class E(BaseException): pass\nraise E('z')\n")
    (tmp_path / "condition.py").write_text(
        'import proctor\n@proctor.on("mkdir", when=("mode", "==", 0))\ndef f(call): ...\n'
    )
    done = run(*words)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_handler_bug_is_logged_and_the_target_goes_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bug.py").write_text(
        'import proctor\n@proctor.on("mkdir", "mkdirat")\ndef bug(call):\n    return 1 / 0\n'
    )
    done = run("run", "--handlers", "bug.py", "--", "mkdir", "x")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "Operation not permitted" in done.stderr


def test_nested_supervision_is_explained(run: Run, tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLER)
    outer = ["run", "--handlers", "handlers.py", "--no-delegate", "--", *COMMAND]
    done = run(*outer, "run", "--handlers", "handlers.py", "--", "true")
    assert done.returncode == 125
    assert "another seccomp listener" in done.stderr
    # without handlers the inner one needs no listener
    assert run(*outer, "run", "--", "sh", "-c", "exit 3").returncode == 3


def test_killing_the_monitor_kills_the_command(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLER)
    with subprocess.Popen(
        [*COMMAND, "run", "--handlers", "handlers.py", "--", "sh", "-c", "echo $$; read x"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        pidfd = os.pidfd_open(pid)
        process.kill()
        process.wait(30)
        import select

        assert select.select([pidfd], [], [], 30)[0], "the command outlived its monitor"
        os.close(pidfd)


def test_a_right_that_is_lacking_is_told_although_the_rule_said_perform(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "p.toml").write_text(
        'version = 1\n[[rule]]\nname = "devices"\ncalls = ["mknod", "mknodat"]\n'
        'when = { type = "char" }\nperform = true\n'
    )
    powerless = ["setpriv", "--bounding-set=-mknod", "mknod"]
    done = run("run", "--userns", "--policy", "p.toml", "--", *powerless, "null", "c", "1", "3")
    assert done.returncode == 1
    assert "deny EPERM: char 1:3" in done.stderr
    # what the kernel would have said to anybody needs no words of ours
    done = run("run", "--userns", "--policy", "p.toml", "--", "mknod", "no/where", "c", "1", "3")
    assert done.returncode == 1
    assert "proctor" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_before_the_command_runs_end_us_without_a_page(tmp_path: Path, number: int) -> None:
    """A handler file that takes its time, and somebody who does not."""
    (tmp_path / "slow.py").write_text("print('begun', flush=True)\ninput()\n")
    with subprocess.Popen(
        [*COMMAND, "run", "--handlers", "slow.py", "--", "true"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=tmp_path,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.wait(30) == -number
        assert process.stderr.read() == ""


def test_real_time_signals_reach_the_command() -> None:
    number = signal.SIGRTMIN + 3
    program = (
        "import signal\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}])\n"
        "print('ready', flush=True)\n"
        f"assert signal.sigwait([{int(number)}]) == {int(number)}\n"
    )
    with subprocess.Popen(
        [*COMMAND, "run", "--", sys.executable, "-S", "-c", program], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(30) == 0


def test_an_environment_that_no_shell_makes(run: Run) -> None:
    """execve(2) takes any strings; what Python knows of them is passed on as it is."""
    program = (
        "import ctypes, os, sys\n"
        "argv = [os.fsencode(word) for word in sys.argv[1:]]\n"
        "env = [k + b'=' + os.environb.get(k, b'') for k in (b'PATH', b'PYTHONPATH')] + [b'=C:=x', b'novalue', b'D=1', b'\\xff=\\xfe', b'=', b'']\n"
        "def strings(of): return (ctypes.c_char_p * (len(of) + 1))(*of, None)\n"
        "ctypes.CDLL(None).execve(argv[0], strings(argv), strings(env))\n"
    )
    command = [*COMMAND, "run", "--", "cat", "/proc/self/environ"]
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    seen = done.stdout.split(b"\0")
    assert {b"D=1", b"\xff=\xfe", b"=C:=x"} <= set(seen) or {b"D=1", b"\xff=\xfe", b"="} <= set(
        seen
    )


@pytest.mark.parametrize(
    ("policy", "status", "said"),
    [
        ('[[rule]]\nname = "k"\ncalls = ["execve"]\ndeny = "EPERM"\n', 126,
         ': Operation not permitted (by the policy: rule "k": EPERM)'),
        ('[[rule]]\nname = "k"\ncalls = ["execve"]\nkill = true\n', 126,
         ': Operation canceled (by the policy: rule "k": kill)'),
        ('default = "ENOENT"\n', 127,
         ": No such file or directory (by the policy: no rule; default: ENOENT)"),
        # the file is not there, whatever the rule says of other calls
        ('[[rule]]\nname = "k"\ncalls = ["mkdir", "mkdirat"]\ndeny = "ENOENT"\n', 127, ": No such file or directory"),
    ],
)  # fmt: skip
def test_a_policy_that_refuses_the_command_itself(
    run: Run, tmp_path: Path, policy: str, status: int, said: str
) -> None:
    (tmp_path / "p.toml").write_text(policy)
    done = run("run", "--policy", "p.toml", "--", "/nonexistent/program")
    assert done.returncode == status
    assert done.stderr.splitlines()[-1].endswith(said)


@pytest.mark.parametrize("options", [[], ["--handlers", "handlers.py"]])
def test_started_by_somebody_who_ignores_sigchld(tmp_path: Path, options: list[str]) -> None:
    """The kernel reaps for such a process, and nobody learns how its children ended."""
    (tmp_path / "handlers.py").write_text(HANDLER)
    mask = [
        "awk",
        "/SigIgn/ {print $2} END {exit 3}",
        "/proc/self/status",
    ]  # no shell: it resets it
    seen = []
    for before in ([], [*COMMAND, "run", *options, "--"]):
        done = subprocess.run(
            [*before, *mask], capture_output=True, text=True, check=False, timeout=60,
            cwd=tmp_path,
            preexec_fn=lambda: (
                signal.signal(signal.SIGCHLD, signal.SIG_IGN),
                signal.signal(signal.SIGUSR2, signal.SIG_IGN),
            ),
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (3, "")
        # 32 and 33 are the C library's own, which takes them back when there are threads
        seen.append(int(done.stdout, 16) & ~(0b11 << 31))
    assert seen[0] == seen[1]
    assert seen[0] & 1 << (signal.SIGCHLD - 1)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--log", "a\nb\033[2J/x", "--handlers", "handlers.py", "--", "true"],
        ["run", "--policy", "a\nb\033[2J/x", "--", "true"],
        ["run", "--userns=1\n:\033[2J", "--", "true"],
        ["run", "--no\nsuch\033[2J", "--", "true"],
        ["run", "--", "a\nb\033[2J"],
        ["run", "--handlers", "reason.py", "--policy", "p.toml", "--", "mkdir", "x"],
    ],
)  # fmt: skip
def test_what_is_quoted_does_nothing_to_a_terminal(
    run: Run, tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "handlers.py").write_text(HANDLER)
    (tmp_path / "reason.py").write_text(HANDLER.replace("today", "a\\nb\\033[2J"))
    (tmp_path / "p.toml").write_text("")
    done = run(*words)
    said = [line for line in done.stderr.splitlines() if "proctor" in line and "usage" not in line]
    assert len(said) == 1
    assert "\\n" in said[0] and ("\\u001B[2J" in said[0] or "\\x1b[2J" in said[0])
    assert done.stderr.replace("\n", "").isprintable()


def test_what_is_late_is_told(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "p.toml").write_text(
        'deadline = 0.3\non_deadline = "ETIMEDOUT"\n[[rule]]\nname = "p"\ncalls = ["open", "openat"]\n'
        'when = { flags = { all = ["O_CREAT"] } }\nperform = true\n'
    )
    done = run("run", "--policy", "p.toml", "--", "sh", "-c", ": >fifo")
    assert done.returncode == 2
    # anywhere in a line: sh writes its own in pieces
    assert done.stderr.count("): deny ETIMEDOUT: on_deadline: not decided in time\n") == 1
    assert "proctor: openat(" in done.stderr
