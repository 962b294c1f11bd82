"""Questions to commands, sockets and addresses; answers that hold; what becomes of containers."""

from __future__ import annotations

import errno
import http.server
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.asking import acting
from proctor.asking.asker import Asker
from proctor.asking.question import Answer, Asking, Question
from proctor.call.ports import ContainerPort
from proctor.policy import Policy, loads
from proctor.policy.asking import Asks
from proctor.supervisor.ports import Later
from proctor.syscalls import tables
from proctor.syscalls.architectures import native
from tests.agent.running import eventually

RULE = '[[rule]]\nname = "rooms"\ncalls = ["mkdir", "mkdirat"]\nask = {{ how = {} }}\n'
RING = '[[rule]]\nname = "ring"\ncalls = ["io_uring_setup"]\ndeny = "ENOSYS"\n'


class Told(list[str]):
    """Trouble."""

    def __call__(self, text: str) -> None:
        self.append(text)


def run(
    policy: Policy, *command: str, answers: Path | None = None, told: Told | None = None
) -> tuple[int, str, str]:
    def file(whose: Policy | ContainerPort) -> str | None:
        return None if answers is None or whose is not policy else str(answers)

    asks = Asks(Asker(unattended=True, trouble=str if told is None else told), file)
    done = proctor.run(
        list(command), policy.handlers(asks), filter=policy.filter(), capture_output=True, text=True,
        **policy.supervisor_options(),
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


Say = Callable[[bytes], "bytes | None"]


class Listener:
    """Answers at a socket by a function, each connection on a thread of its own."""

    def __init__(self, path: str, say: Say) -> None:
        self.asked: list[dict[str, Any]] = []
        self.gone = threading.Semaphore(0)
        self._say = say
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(path)
        self._sock.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as lines:
            line = lines.readline()
            self.asked.append(json.loads(line))
            answer = self._say(line)
            if answer is not None:
                try:
                    sock.sendall(answer)
                except OSError:
                    pass  # it reads no more
            try:
                sock.recv(1)
            except ConnectionResetError:
                pass
            self.gone.release()

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Callable[[Say], Listener]]:
    """Listens at ``tmp_path/ask``."""
    made: list[Listener] = []

    def listen(say: Say) -> Listener:
        made.append(Listener(f"{tmp_path}/ask", say))
        return made[-1]

    yield listen
    for each in made:
        each.close()


def policy(tmp_path: Path, *more: str, rule: str = RULE) -> Policy:
    said = ", ".join([f'"socket", at = "{tmp_path}/ask"', *more])
    return loads(rule.format(said) + RING)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"allow\n", 0),
        (b'{"answer": "allow"}\n', 0),
        (b"deny\n", errno.EPERM),
        (b'{"answer": "EROFS"}\n', errno.EROFS),
        (b'{"answer": "allow", "remember": "always"}\n', errno.EPERM),
        (b'{"answer": "allow", "delay": -1}\n', errno.EPERM),
        (b'{"answer": "allow", "delay": true}\n', errno.EPERM),
        (b'{"answer": "allow", "because": 1}\n', errno.EPERM),
        (b'{"answer": ["allow"]}\n', errno.EPERM),
        (b'{"answer": "EXIT"}\n', errno.EPERM),
        (b"{" * 60000 + b"\n", errno.EPERM),
        (b"allow" * 40000, errno.EPERM),
        (b"\xff\xfe\n", errno.EPERM),
        (b"\n", errno.EPERM),
    ],
    ids=range(14),
)
def test_a_socket(at: Any, tmp_path: Path, answer: bytes, code: int) -> None:
    listener = at(lambda line: answer)
    told = Told()
    made = f"import os\ntry: os.mkdir({str(tmp_path / 'd')!r})\nexcept OSError as e: raise SystemExit(e.errno)"
    assert run(policy(tmp_path), "python3", "-c", made, told=told)[0] == code
    (asked,) = listener.asked
    assert asked["call"] == f'mkdir("{tmp_path}/d", 0777)'
    assert asked["paths"] == {"path": f"{tmp_path}/d"}
    assert asked["caller"]["comm"].startswith("python3")
    assert asked["caller"]["uid"] == os.geteuid()
    assert os.getpid() in [each["pid"] for each in asked["parents"]]
    assert "mkdir" in loads('default = "EPERM"\n' + asked["tip"]).calls
    nonsense = code == errno.EPERM and answer != b"deny\n"
    assert bool(told) == nonsense, told
    if nonsense:
        assert "answered nonsense" in told[0]
        assert told[0].isprintable()


def test_nobody_answers_in_time_and_whoever_was_asked_is_told(at: Any, tmp_path: Path) -> None:
    listener = at(lambda line: None)
    rules = policy(tmp_path, 'timeout = 0.3, default = "EROFS"')
    code, _, err = run(rules, "mkdir", f"{tmp_path}/d")
    assert code == 1
    assert "Read-only" in err
    assert listener.gone.acquire(timeout=30)


def test_nobody_is_there(tmp_path: Path) -> None:
    told = Told()
    code, _, err = run(policy(tmp_path), "mkdir", f"{tmp_path}/d", told=told)
    assert code == 1
    assert "not permitted" in err
    assert "No such file" in told[0]


def test_a_caller_that_ends_is_asked_about_no_longer(at: Any, tmp_path: Path) -> None:
    asked = threading.Event()
    listener = at(lambda line: asked.set())
    rules = policy(tmp_path)
    asks = Asks(Asker(unattended=True))
    command = ["sh", "-c", f"mkdir {tmp_path}/d & echo $!; wait; exec sleep 1000"]
    with proctor.spawn(
        command, rules.handlers(asks), filter=rules.filter(), stdout=proctor.PIPE
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert asked.wait(30)
        os.kill(pid, signal.SIGKILL)
        assert listener.gone.acquire(timeout=30)
        process.kill()


def test_questions_that_are_open_are_counted_of_all_containers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proctor.asking.asker._MOST", 3)
    monkeypatch.setattr(Asker, "_work", lambda self, which: None)  # nobody gets to it
    asker = Asker(unattended=True)
    question = Question(
        "mkdir()", {}, "", "", "rooms", {}, (), "", Asking("command", ("/bin/true",))
    )

    def ask(container: str) -> Any:
        return asker.ask(
            question, container, lambda answer: answer.by, lambda: None, lambda answer: None, lambda: True
        )  # type: ignore[arg-type, return-value]  # fmt: skip

    asked = [ask(name) for name in ("a", "a", "b", "c", "b", "c")]  # each has a share
    try:
        assert asked[4:] == ["default: too many questions"] * 2
        assert all(isinstance(each, Later) for each in asked[:4])
    finally:
        for each in asked[:4]:
            each.cancel()


def test_who_asks_much_is_waited_for_by_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    go, heard = threading.Event(), threading.Event()

    def answer(self: Asker, pending: Any) -> Answer:
        if pending.question.container == "busy":
            go.wait(60)
        else:
            heard.set()
        return Answer(0)

    monkeypatch.setattr(Asker, "_answer", answer)
    asker = Asker(unattended=True)

    def ask(container: str) -> Any:
        question = Question(
            "mkdir()", {}, container, "", "rooms", {}, (), "", Asking("command", ("/bin/true",))
        )
        return asker.ask(
            question, container, lambda answer: answer.by, lambda: None, lambda answer: None, lambda: True
        )  # type: ignore[arg-type, return-value]  # fmt: skip

    waiting = [ask("busy") for _ in range(128)]
    try:
        waiting.append(ask("quiet"))
        assert heard.wait(30)
    finally:
        go.set()
        for each in waiting:
            each.cancel()


def test_what_is_allowed_is_what_was_shown(at: Any, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "way").symlink_to("good")

    def swap(line: bytes) -> bytes:
        (tmp_path / "way").unlink()
        (tmp_path / "way").symlink_to("bad")
        return b"allow\n"

    at(swap)
    code, _, err = run(policy(tmp_path), "mkdir", f"{tmp_path}/way/d")
    assert code == 1
    assert "Permission denied" in err
    assert not (tmp_path / "bad/d").exists()
    assert not (tmp_path / "good/d").exists()


def test_a_path_that_leads_nowhere_is_not_asked_about(at: Any, tmp_path: Path) -> None:
    listener = at(lambda line: b"allow\n")
    code, _, err = run(policy(tmp_path), "mkdir", f"{tmp_path}/none/d")
    assert code == 1
    assert "No such file" in err
    assert not listener.asked


def test_callers_are_asked_about_at_the_same_time(at: Any, tmp_path: Path) -> None:
    """As many as are asked at once have to be there before any is answered."""
    together = threading.Barrier(8)

    def say(line: bytes) -> bytes:
        together.wait(30)
        return b"allow\n"

    at(say)
    program = f"for n in 1 2 3 4 5 6 7 8; do mkdir {tmp_path}/d$n & done; wait"
    assert run(policy(tmp_path), "sh", "-c", program)[0] == 0
    assert len(list(tmp_path.glob("d?"))) == 8


def test_too_many_questions_have_the_default(at: Any, tmp_path: Path) -> None:
    go = threading.Event()

    def say(line: bytes) -> bytes:
        go.wait(30)
        return b"allow\n"

    at(say)
    refused = threading.Semaphore(0)

    def count(event: proctor.Outcome) -> None:
        if "too many questions" in str(getattr(event.verdict, "reason", "")):
            refused.release()

    count.events = (proctor.Outcome,)  # type: ignore[attr-defined]
    rules = policy(tmp_path, rule="limit = 200\n" + RULE)  # all are performed at once, then
    program = (
        "import os, threading\n"
        "def make(n):\n"
        f"    try: os.mkdir({str(tmp_path)!r} + f'/d{{n}}')\n"
        "    except PermissionError: pass\n"
        "ts = [threading.Thread(target=make, args=(n,)) for n in range(140)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]"
    )
    with proctor.spawn(
        ["python3", "-c", program], rules.handlers(Asks(Asker(unattended=True))),
        filter=rules.filter(), observers=[count], **rules.supervisor_options(),
    ) as process:  # fmt: skip
        for _ in range(12):
            assert refused.acquire(timeout=60)
        go.set()
        assert process.wait(60) == 0
    assert len(list(tmp_path.glob("d*"))) == 128


def test_answers_that_hold(at: Any, tmp_path: Path) -> None:
    listener = at(lambda line: b"allow\n" if b"/good" in line else b"deny\n")
    kept = tmp_path / "kept/answers.toml"
    rules = policy(tmp_path, 'remember = "always"', 'default = "EROFS"')
    program = f"cd {tmp_path}; mkdir good; rmdir good; mkdir good; mkdir bad; mkdir bad"
    _, _, err = run(rules, "sh", "-c", program, answers=kept)
    assert err.count("Read-only") == 2
    assert len(listener.asked) == 2
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    again = loads('default = "EPERM"\n' + kept.read_text())
    assert [each.name for each in again.rules if not each.implied] == [
        "allow mkdir",
        "refuse mkdir",
    ]
    run(rules, "sh", "-c", f"rmdir {tmp_path}/good; mkdir {tmp_path}/good", answers=kept)
    assert len(listener.asked) == 2
    # A person edits it: only what is still there holds.
    kept.write_text("# nothing\n")
    run(rules, "sh", "-c", f"rmdir {tmp_path}/good; mkdir {tmp_path}/good", answers=kept)
    assert len(listener.asked) == 3
    kept.write_text("no policy\n")
    told = Told()
    run(rules, "mkdir", f"{tmp_path}/good", answers=kept, told=told)
    assert any("kept/answers.toml:1" in each for each in told)


def test_a_remembered_path_is_that_path_and_no_link_that_leads_there_later(
    at: Any, tmp_path: Path
) -> None:
    listener = at(lambda line: b"allow\n" if b"/one/d" in line else b"deny\n")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    rules = policy(tmp_path, 'remember = "container"')
    program = f"cd {tmp_path}; ln -s one way; mkdir way/d; rm way; ln -s two way; mkdir way/d"
    run(rules, "sh", "-c", program)
    assert (tmp_path / "one/d").is_dir()
    assert not (tmp_path / "two/d").exists()
    assert len(listener.asked) == 2


def test_registers_alone_are_shown_where_a_call_runs(at: Any, tmp_path: Path) -> None:
    rule = '[[rule]]\nname = "r"\ncalls = ["chdir"]\nask = {{ how = {} }}\n'
    listener = at(lambda line: b"allow\n")
    program = f"import os; os.chdir({str(tmp_path)!r}); print(os.getcwd())"
    assert run(policy(tmp_path, rule=rule), sys.executable, "-c", program)[1] == f"{tmp_path}\n"
    shown = listener.asked[0]["call"]
    assert shown.startswith("chdir(0x")
    assert listener.asked[0]["paths"] == {}
    unsafe = policy(tmp_path, 'unsafe = "a test"', rule=rule)
    assert run(unsafe, sys.executable, "-c", program)[1] == f"{tmp_path}\n"
    assert listener.asked[1]["call"] == f'chdir("{tmp_path}")'


def test_a_command(tmp_path: Path) -> None:
    def asks(text: str, *words: str) -> Policy:
        (tmp_path / "ask").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "ask").chmod(0o700)
        run = json.dumps([f"{tmp_path}/ask", *words])
        return loads(RULE.format(f'"command", run = {run}, timeout = 20') + RING)

    made = str(tmp_path / "d")
    told = Told()
    assert run(asks('read line; echo "$1"', "allow"), "mkdir", made)[0] == 0
    os.rmdir(made)
    assert run(asks("exec <&-; echo allow"), "mkdir", made)[0] == 0  # it reads nothing
    os.rmdir(made)
    assert run(asks("cat; exit 3"), "mkdir", made, told=told)[0] == 1
    assert "ended with 3" in told[0]
    assert run(asks("head -c 200000 /dev/zero"), "mkdir", made, told=told)[0] == 1
    (tmp_path / "ask").chmod(0o600)
    policy = loads(RULE.format(f'"command", run = ["{tmp_path}/ask"]') + RING)
    assert run(policy, "mkdir", made, told=told)[0] == 1
    assert "Permission" in told[-1]


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    (tmp_path / "ask").write_text(f"#!/bin/sh\nsleep 1000 &\necho $! >{tmp_path}/pid\nwait\n")
    (tmp_path / "ask").chmod(0o700)
    said = f'"command", run = ["{tmp_path}/ask"], timeout = 1, default = "allow"'
    assert run(loads(RULE.format(said) + RING), "mkdir", f"{tmp_path}/d")[0] == 0
    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: not os.path.exists(f"/proc/{pid}") or "\nState:\tZ" in _status(pid))


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "\nState:\tZ"


@pytest.mark.parametrize(("status", "code"), [(200, 0), (500, 1), (302, 1)])
def test_an_address(tmp_path: Path, status: int, code: int) -> None:
    asked: list[dict[str, Any]] = []

    class Site(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(b'{"answer": "allow", "delay": 0.01}')

        def log_message(self, format: str, *args: Any) -> None:
            pass

    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{site.server_port}/ask?now"
        rules = loads(RULE.format(f'"http", at = "{address}"') + RING)
        assert run(rules, "mkdir", f"{tmp_path}/d")[0] == code
    finally:
        site.shutdown()
        thread.join()
        site.server_close()
    assert asked[0]["rule"] == "rooms"


# Containers ------------------------------------------------------------------------------------------


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Path]:
    """A cgroup (version 2)."""
    top = tmp_path / "cgroups"
    top.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if subprocess.run(["mount", "-t", "cgroup2", "none", top], check=False).returncode:
        pytest.skip("needs cgroups of version 2")
    made = top / f"proctor-asking-{os.getpid()}"
    made.mkdir()
    try:
        yield made
        (made / "cgroup.freeze").write_text("0")
        (made / "cgroup.kill").write_text("1")
        eventually(lambda: "populated 0" in (made / "cgroup.events").read_text())
    finally:
        made.rmdir()
        subprocess.run(["umount", top], check=True)


def in_group(group: Path, program: str) -> list[str]:
    return ["sh", "-c", f"echo $$ >{group}/cgroup.procs; {program}"]


@pytest.mark.parametrize("killable", [True, False])
@pytest.mark.parametrize("how", ["rule", "answer"])
def test_freeze(at: Any, tmp_path: Path, group: Path, how: str, killable: bool) -> None:
    """Once, also where whoever freezes interrupts the call, as under the filters of most runtimes: the kernel makes it
    again when it goes on."""
    if how == "rule":
        rules = loads('[[rule]]\nname = "r"\ncalls = ["mkdir", "mkdirat"]\nfreeze = true\n' + RING)
    else:
        at(lambda line: b"freeze\n")
        rules = policy(tmp_path)
    command = in_group(group, f"mkdir {tmp_path}/d; echo code $? >{tmp_path}/code")
    asks = Asks(Asker(unattended=True))
    with proctor.spawn(
        command, rules.handlers(asks), filter=rules.filter(), wait_killable=killable
    ) as process:
        eventually(lambda: "frozen 1" in (group / "cgroup.events").read_text())
        assert not (tmp_path / "code").exists()
        (group / "cgroup.freeze").write_text("0")
        process.wait(30)
    assert (tmp_path / "code").read_text() == "code 1\n"
    assert not (tmp_path / "d").exists()


def test_what_could_not_be_frozen_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next call that is the same; the last one was not interrupted."""
    monkeypatch.setattr(acting, "cgroup_of", lambda call: "/nowhere")
    rules = loads('[[rule]]\nname = "r"\ncalls = ["mkdirat"]\nfreeze = true\n' + RING)
    number = tables.numbers(native())["mkdirat"]
    said: list[str] = []

    def hear(event: proctor.Outcome) -> None:
        said.append(str(getattr(event.verdict, "reason", "")))

    hear.events = (proctor.Outcome,)  # type: ignore[attr-defined]
    again = f"import ctypes\nfor _ in range(3): ctypes.CDLL(None).syscall({number}, -1, b'/nowhere/x', 0)"
    with proctor.spawn(
        [sys.executable, "-IS", "-c", again], rules.handlers(), filter=rules.filter(), observers=[hear],
        wait_killable=False,
    ) as process:  # fmt: skip
        assert process.wait(30) == 0
    assert len(said) == 3 and all("No such file" in each for each in said), said


@pytest.mark.parametrize("own", [True, False], ids=["cgroup", "tree"])
def test_kill_the_container(tmp_path: Path, request: pytest.FixtureRequest, own: bool) -> None:
    rules = loads('[[rule]]\nname = "r"\ncalls = ["mkdir", "mkdirat"]\nkill = "container"\n' + RING)
    program = f"sleep 1000 & echo $!; mkdir {tmp_path}/d; echo still"
    command = in_group(request.getfixturevalue("group"), program) if own else ["sh", "-c", program]
    with proctor.spawn(
        command, rules.handlers(), filter=rules.filter(), stdout=proctor.PIPE
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert process.wait(30) == -signal.SIGKILL
        eventually(lambda: "\nState:\tZ" in _status(pid))
        assert process.stdout.read() == b""


def test_we_freeze_nobody_with_whom_we_share_a_cgroup(tmp_path: Path) -> None:
    rules = loads('[[rule]]\nname = "r"\ncalls = ["mkdir", "mkdirat"]\nfreeze = true\n' + RING)
    said: list[str] = []

    def hear(event: proctor.Outcome) -> None:
        said.append(str(getattr(event.verdict, "reason", "")))

    hear.events = (proctor.Outcome,)  # type: ignore[attr-defined]
    done = proctor.run(
        ["mkdir", f"{tmp_path}/d"], rules.handlers(), filter=rules.filter(), observers=[hear],
        stderr=proctor.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1
    assert any("cannot be frozen" in each for each in said)


def test_delay(tmp_path: Path) -> None:
    import time

    rules = loads(
        '[[rule]]\nname = "r"\ncalls = ["mkdir", "mkdirat"]\ndeny = "EROFS"\ndelay = 0.3\n' + RING
    )
    began = time.monotonic()
    code, _, err = run(rules, "mkdir", f"{tmp_path}/d")
    assert code == 1
    assert "Read-only" in err
    assert time.monotonic() - began >= 0.3
