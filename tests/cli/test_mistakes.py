"""Wrong words on the command line, and what is behind them: one line that says so, and the status."""

from __future__ import annotations

import argparse
import json
import os
import socket
import threading
from pathlib import Path

import pytest

from proctor import cli
from proctor.cli.say import finish

from .conftest import Run
from .test_streams import shell

ASKS = """[[rule]]
name = "who makes them"
calls = ["mkdir", "mkdirat"]
ask = { how = "terminal", remember = "always" }
"""
RULES = '[[rule]]\nname = "none"\ncalls = ["mkdir", "mkdirat"]\ndeny = "EPERM"\n'


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files that are not what they are taken for."""
    (tmp_path / "asks.toml").write_text(ASKS)
    (tmp_path / "rules.toml").write_text(RULES)
    (tmp_path / "directory").mkdir()
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "number.json").write_text('{"defaultAction": 5}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "bytes.json").write_bytes(b"\xff\0")
    with open(tmp_path / "huge.json", "wb") as file:
        file.truncate(1 << 40)
    return tmp_path


@pytest.mark.parametrize(
    ("how", "file", "says"),
    [
        ("base", "missing.json", "missing.json: No such file or directory"),
        ("base", "", '"": No such file or directory'),
        ("union", "directory", "directory: Is a directory"),
        (
            "union",
            "list.json",
            "list.json: the profile is no seccomp profile: it holds no JSON object",
        ),
        ("union", "number.json", 'number.json: defaultAction: unknown action "5"'),
        ("intersect", "deep.json", "deep.json: the profile is not JSON: maximum recursion depth"),
        ("intersect", "bytes.json", "bytes.json: the profile is not JSON: "),
        ("intersect", "huge.json", "huge.json: larger than 16777216 bytes; that is no profile"),
    ],
)
def test_what_is_no_profile(run: Run, files: Path, how: str, file: str, says: str) -> None:
    done = run("profile", "rules.toml", f"--{how}", file)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"proctor: {says}")


def test_a_profile_may_come_through_a_pipe(run: Run, files: Path) -> None:
    """As a shell's ``<(...)`` makes it, which can be read once."""
    os.mkfifo(files / "pipe")
    said = '{"defaultAction": "SCMP_ACT_ALLOW"}'
    thread = threading.Thread(target=(files / "pipe").write_text, args=(said,))
    thread.start()
    done = run("profile", "rules.toml", "--base", "pipe")
    thread.join(30)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["defaultAction"] == "SCMP_ACT_ALLOW"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--answers", "a.toml"], "--answers and --unattended are for rules that ask"),
        (["--unattended"], "--answers and --unattended are for rules that ask"),
        (["--policy", "asks.toml", "--answers", ""], '--answers "": no place for a file'),
        (["--policy", "asks.toml", "--answers", "no/a"], "--answers no/a: no place for a file"),
        (["--delegate", ""], "--delegate wants system calls or groups of them"),
        (["--delegate", ","], "--delegate wants system calls or groups of them"),
        (["--delegate", "mkdirr"], 'there is no system call "mkdirr"; did you mean "mkdir"?'),
        (["--agent", ""], 'no agent launches at "": '),
        (["--agent", "rules.toml"], "no agent launches at rules.toml: Connection refused"),
        (["--agent", "x" * 200], f"no agent launches at {'x' * 200}: AF_UNIX path too long"),
    ],
)
def test_what_run_is_told_wrong(run: Run, files: Path, words: list[str], says: str) -> None:
    done = run("run", *words, "--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    *warnings, line = done.stderr.splitlines()
    assert line.startswith(f"proctor: {says}")
    assert all("io_uring does what" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("run --polcy x -- true", '--polcy; did you mean "--policy"?'),
        ("run --Summary=x -- true", '--Summary=x; did you mean "--summary"?'),
        ("run -x -- true", "-x"),
        ("logs --folow", '--folow; did you mean "--follow"?'),
        ("doctor jsn", "jsn"),
    ],
)
def test_a_mistyped_option_is_told_what_was_meant(run: Run, words: str, says: str) -> None:
    line = run(*words.split()).stderr.splitlines()[-1]
    assert line.endswith(f": error: no such option or argument: {says}")


@pytest.mark.parametrize(
    ("verb", "said", "what"),
    [
        (
            "ps",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "what answers at it is no agent of this version",
        ),
        ("ps", b"[" * 100_000 + b"\n", "what answers at it is no agent of this version"),
        ("top", b"[1]\n", "what answers at it is no agent of this version"),
        ("top", b"{}\n", "what answers at it is no agent of this version"),
        ("why x", b"{}\n", "what answers at it is no agent of this version"),
        ("logs", b"{}\n", "what answers at it is no agent of this version"),
        ("policy resolve x", b"{}\n", "what answers at it is no agent of this version"),
        ("policy reload", b'{"error": "not\\u001b today"}\n', "not\\u001B today"),
        ("ps", b"", "the agent at it does not answer us; who may ask is its --control"),
    ],
)
def test_whoever_else_answers_is_no_agent(
    run: Run, tmp_path: Path, verb: str, said: bytes, what: str
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "it"))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        done = run(*verb.split(), "--control", "it")
        thread.join(30)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"proctor: {what}\n")


@pytest.mark.parametrize(
    ("where", "says"),
    [("none", "No such file"), ("", "Invalid argument"), ("x" * 200, "AF_UNIX path too long")],
)
def test_nobody_answers(run: Run, where: str, says: str) -> None:
    done = run("ps", "--control", where)
    shown = where or '""'
    assert done.returncode == 2
    assert done.stderr.startswith(f"proctor: no agent answers at {shown}: {says}")
    assert done.stderr.endswith("; is proctor agent running, with that --control?\n")
    assert len(done.stderr.splitlines()) == 1


def test_what_is_no_log(run: Run, tmp_path: Path) -> None:
    record = {"event": "call", "call": "mkdir", "verdict": "deny", "errno": "EPERM"}
    odd = [5, [], "text", {}, {**record, "time": "now"}, {**record, "time": 1e300}, {"event": []}]
    (tmp_path / "log").write_text(
        "\n".join(map(json.dumps, odd)) + "\nno JSON\n" + "[" * 100_000 + "\n"
    )
    done = run("logs", "--file", "log")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("--:--:--  mkdir: deny EPERM\n") == 2
    os.truncate(tmp_path / "log", 0)
    with open(tmp_path / "log", "r+b") as file:
        file.truncate(64 << 20)
    done = run("logs", "--file", "log")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "proctor: log: a line is longer than 16777216 characters: no log\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--policy-dir", "none", "--listener", "/x"], "none: No such file or directory"),
        (["--policy-dir", "", "--listener", "/x"], '"": No such file or directory'),
        (["--policy-dir", "p", "--listener", "/x"], "no: No such file or directory; is NRI on"),
        (
            ["--policy-dir", "p", "--listener", "/x", "--base", "no"],
            "no: No such file or directory",
        ),
    ],
)
def test_what_nri_is_told_wrong(run: Run, tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "p").mkdir()
    os.mkfifo(tmp_path / "p" / "pipe.toml")  # nobody waits for who would write there
    (tmp_path / "p" / "directory.toml").mkdir()
    done = run("nri", *words, "--socket", "no")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"proctor: {says}") and "still holds" not in line


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--agent", "no.sock", "--name", "\udcff", "--", "true"),
        ("run", "--agent", "no.sock", "--metadata", "\udcff", "--", "true"),
        ("profile", "p.toml", "--metadata", "\udcff"), ("why", "\udcff"), ("logs", "\udcff"), ("policy", "resolve", "\udcff"),
    ],
)  # fmt: skip
def test_what_no_agent_can_be_told(run: Run, words: tuple[str, ...]) -> None:
    """It would be malformed JSON to the agent, which is no word for whoever typed it."""
    done = run(*words)
    assert (done.returncode, done.stdout) == (125 if words[0] == "run" else 2, "")
    assert '"\\uDCFF" is not UTF-8' in done.stderr


@pytest.mark.parametrize("words", [("nri", "--policy-dir", "p"), ("profile", "p.toml")])
def test_runtimes_are_told_where_the_agent_is_from_anywhere(
    run: Run, words: tuple[str, ...]
) -> None:
    done = run(*words, "--listener", "relative/oci.sock")
    assert (done.returncode, done.stdout) == (2, "")
    assert '--listener: "relative/oci.sock": runtimes want an absolute path' in done.stderr


@pytest.mark.parametrize("word", ["owner={}", "owner=0:{}", "uid={}"])
@pytest.mark.parametrize("number", ["4294967295", "99999999999", "9" * 5000])
def test_an_id_of_nobody_owns_no_socket(run: Run, tmp_path: Path, word: str, number: str) -> None:
    """The last of 32 bits left the socket whose it was, and what is more was a traceback (chown(2))."""
    pytest.importorskip("msgspec")
    place = f"{tmp_path}/oci.sock,{word.format(number)}"
    done = run(
        "agent", "--policy-dir", ".", "--control", "none", "--keeper", "none", "--oci", place
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.endswith("user and group ids end at 4294967294\n")


@pytest.mark.parametrize("verb", ["run", "agent"])
def test_a_log_that_nobody_reads_is_not_waited_for(run: Run, tmp_path: Path, verb: str) -> None:
    """A FIFO without a reader, of which open(2) says nothing for ever."""
    pytest.importorskip("msgspec")
    os.mkfifo(tmp_path / "pipe")
    words = {
        "run": ("--", "true"),
        "agent": ("--policy-dir", ".", "--control", "none", "--oci", f"{tmp_path}/oci.sock"),
    }[verb]
    done = run(verb, "--log", "pipe", *words)
    assert done.returncode == {"run": 125, "agent": 2}[verb]
    assert done.stderr.endswith("proctor: --log pipe: nobody reads from this FIFO\n")
    assert done.stderr.count("\n") == 1


def test_an_agent_whose_sockets_directory_is_not_there(run: Run, tmp_path: Path) -> None:
    """Whose it is, and what makes it."""
    pytest.importorskip("msgspec")
    missing = tmp_path / "missing"
    words = ("--policy-dir", str(tmp_path), "--control", "none", "--oci", f"{missing}/oci.sock")
    done = run("agent", *words)
    assert (done.returncode, done.stderr) == (
        2,
        f'proctor: socket "{missing}/oci.sock": its directory is not there: mkdir -p "{missing}"\n',
    )


def test_an_agents_other_socket_launches_nothing(run: Run, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{tmp_path}/oci.sock")
        sock.listen()
        done = run("run", "--agent", f"{tmp_path}/oci.sock", "--", "true")
    assert done.returncode == 125
    assert done.stderr.endswith("; what is wanted is the socket of its --run\n")


def test_a_profile_says_what_it_notifies(run: Run, tmp_path: Path) -> None:
    """Which need not be what the policy's author thinks of: its order may not be one of a profile's."""
    (tmp_path / "nodes.toml").write_text(RULES.replace("deny = ", "report = true\ndeny = "))
    done = run("profile", "nodes.toml")
    assert (done.returncode, done.stderr) == (
        2,
        "proctor: the profile notifies mkdir, mkdirat: say with --listener where the runtime finds the agent\n",
    )


@pytest.mark.parametrize("options", ["", "--quiet --policy rules.toml"])
def test_a_low_limit_of_open_files_is_named_and_no_file_of_ours(files: Path, options: str) -> None:
    """From as many as Python itself takes, to enough."""
    for most in range(5, 40):
        done = shell(f'ulimit -n {most}; "$@" run {options} -- echo hello', files)
        if done.returncode == 0:
            assert done.stdout == "hello\n"
            break
        (line,) = done.stderr.splitlines()
        assert (done.returncode, done.stdout, line[:9]) == (125, "", "proctor: "), line
        assert (
            "Too many open files" in line and "(raise the limit of open files: ulimit -n)" in line
        )
        assert ".py" not in line, line
    else:
        raise AssertionError("it never ran")


@pytest.mark.parametrize("trouble", [2, 125])
def test_a_want_of_memory_is_one_sentence(trouble: int, capfd: pytest.CaptureFixture[str]) -> None:
    def verb(options: object) -> int:
        raise MemoryError

    assert cli._do(argparse.Namespace(verb=verb, trouble=trouble)) == trouble
    finish()
    said = capfd.readouterr().err
    assert said.startswith("proctor: out of memory") and len(said.splitlines()) == 1


CLOCKS = """\
import proctor


@proctor.on("clock_gettime", "close")
def clock(call):
    return proctor.let_run()
"""


def test_handlers_that_are_probably_not_meant(run: Run, tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text(CLOCKS)
    done = run("run", "--handlers", "h.py", "--", "true")
    assert (done.returncode, done.stderr.splitlines()) == (
        0,
        [
            'proctor: h.py: handler "clock" is about clock_gettime, which most programs do by the vDSO, without the call '
            "being made, so it is not asked",
            'proctor: h.py: handler "clock" has close wait for it: programs do not try it again when a signal interrupts '
            "the wait for an answer, and the descriptor stays open",
        ],
    )
    assert run("run", "--quiet", "--handlers", "h.py", "--", "true").stderr == ""
