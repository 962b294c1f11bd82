"""The log for programs is what docs/log.md says: its examples and real logs obey its schema."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.observe.events import ContainerAdded, ContainerEnded, Dropped, TakenOver, Trouble
from proctor.observe.jsonlog import JsonLog, record, to_file
from proctor.observe.lines import Lines
from proctor.policy import loads
from proctor.supervisor.container import Container
from proctor.testing import FakeCall

jsonschema = pytest.importorskip("jsonschema")

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "log.md").read_text(encoding="utf-8")
SCHEMA = json.loads(re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)[0])
EXAMPLES = re.findall(r"```jsonl\n(.*?)```", TEXT, re.DOTALL)[0].splitlines()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def valid(found: Any) -> Any:
    """A line that obeys the schema, which it is here as well."""
    VALIDATOR.validate(json.loads(json.dumps(found)))
    return found


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert VALIDATOR.is_valid(
        {"version": 1, "event": "dropped", "time": 1, "place": "x", "lines": 2}
    )


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_obey_it(line: str) -> None:
    valid(json.loads(line))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"event": "calls"}, {"time": "now"}, {"verdict": "deny EACCES"},
        {"result": "EACCES"}, {"unheard": 1}, {"call": "two\nlines"}, {"errno": None},
        {"verdict": "answer"},
    ],
)  # fmt: skip
def test_the_schema_can_be_violated(change: dict[str, Any]) -> None:
    call = json.loads(next(line for line in EXAMPLES if '"deny"' in line))
    assert VALIDATOR.is_valid(call)
    assert not VALIDATOR.is_valid(call | change)


def test_every_key_of_the_schema_is_explained() -> None:
    """In the table of calls or in that of events."""
    explained = set(re.findall(r"`(\w+)`", TEXT.partition("### Arguments")[0]))
    keys = set(SCHEMA["$defs"]["call"]["properties"]) | set(SCHEMA["properties"])
    for each in SCHEMA["oneOf"][1:]:
        keys |= set(each["properties"])
    assert keys <= explained


@pytest.mark.parametrize(
    "event",
    [
        ContainerAdded(Container("web", labels={"tenant": "blue"})),
        ContainerEnded(Container(), "closed"),
        TakenOver(Container("web"), 3),
        Trouble("a sentence", "place", 10),
        Dropped("standard error", 4),
    ],
)
def test_events_are_records(event: Any) -> None:
    valid(record(event))


PROGRAM = r"""
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, *arguments):
    try: what(*arguments)
    except OSError: pass
attempt(os.mkdir, b"\xff\xfe", 0o750)
attempt(os.mkdir, "x" * 4000)
attempt(os.rmdir, "/rule")
attempt(os.rmdir, "/run")
attempt(os.rmdir, "/fails")
libc.rmdir(ctypes.c_void_p(8))
attempt(os.open, "link/hosts", os.O_RDONLY | os.O_NOFOLLOW)
attempt(os.kill, os.getpid(), 0)
with socket.socket(socket.AF_UNIX) as peer:
    attempt(peer.connect, b"\0abstract\0name")
libc.syscall(-5)
"""


def read(path: Path) -> list[dict[str, Any]]:
    return [valid(json.loads(line)) for line in path.read_text().splitlines()]


def test_real_calls_obey_it_and_say_what_happened(tmp_path: Path) -> None:
    @proctor.on("rmdir")
    def rmdir(call: proctor.Call) -> proctor.Verdict | None:
        if call.path == b"/run":
            return proctor.let_run_unsafe("a test")
        if call.path == b"/fails":
            raise ValueError("x" * 2000 + "\n")
        return None if call.path == b"/rule" else proctor.deny(errno.EPERM)

    @proctor.on("mkdir", "kill", "connect")
    def others(call: proctor.Call) -> proctor.Verdict:
        return proctor.answer(0) if call.name == "kill" else proctor.deny(errno.EROFS, "ro")

    policy = loads(
        '[[rule]]\nname = "no rmdir"\ncalls = ["rmdir"]\ndeny = "EBUSY"\nreport = true\n'
        f'[[rule]]\nname = "hosts"\ncalls = ["openat"]\nwhen = {{ path = "{tmp_path}/etc/*" }}\n'
        'perform = true\n[[rule]]\nname = "rest"\ncalls = ["openat"]\nallow = "unsafe: a test"\n'
    )
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "hosts").write_text("")
    (tmp_path / "link").symlink_to("etc")
    writer = to_file(str(tmp_path / "log"), broken=print)
    done = proctor.run(
        [sys.executable, "-IS", "-c", PROGRAM], [rmdir, others, *policy.handlers()],
        filter=policy.filter(extra_notify=[rmdir, others]), cwd=tmp_path,
        observers=[JsonLog(writer)],
    )  # fmt: skip
    assert done.returncode == 0
    assert writer.close(30)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    records = read(tmp_path / "log")
    assert [each["event"] for each in records if each["event"] != "call"][:1] == ["added"]
    calls = [each for each in records if each["event"] == "call"]
    assert all(each["pid"] == each["tid"] for each in calls)
    assert {Path(each["exe"]).name.partition(".")[0] for each in calls} >= {"python3"}

    def call(name: str, number: int = 0) -> dict[str, Any]:
        return [each for each in calls if each["syscall"] == name][number]

    first, second = call("mkdir"), call("mkdir", 1)
    assert first["args"] == {"path": {"hex": "fffe"}, "mode": "0750"}
    assert (first["verdict"], first["errno"], first["result"]) == ("deny", "EROFS", -errno.EROFS)
    assert (first["reason"], first["by"]) == ("ro", others.label)
    assert second["args"]["path"] == "x" * 4000
    ruled, ran, failed, bad = (call("rmdir", number) for number in range(4))
    assert (ruled["rule"], ruled["by"], ruled["errno"]) == ("no rmdir", "policy", "EBUSY")
    assert "allow rmdir" in ruled["tip"]
    assert (ran["verdict"], ran["unsafe"], ran["result"]) == ("let run", True, None)
    assert failed["error"].startswith("ValueError: xxx") and len(failed["error"]) < 600
    assert bad["args"]["path"] == {"address": "0x8", "error": "EFAULT"}
    assert bad["error"].startswith("MemoryUnreadable")
    opened = next(each for each in calls if each["args"].get("path") == "link/hosts")
    assert (opened["verdict"], opened["rule"], opened["result"]) == ("perform", "hosts", None)
    assert opened["paths"] == {"path": f"{tmp_path}/etc/hosts"}
    assert "O_NOFOLLOW" in opened["args"]["flags"]
    killed = call("kill")
    assert (killed["verdict"], killed["result"]) == ("answer", 0) and "errno" not in killed
    assert call("connect")["args"]["addr"] == {
        "kind": "abstract", "path": "abstract\x00name", "family": 1
    }  # fmt: skip
    troubles = [each for each in records if each["event"] == "trouble"]
    assert len(troubles) == 2  # the mistake, and the pointer


def test_callers_that_are_gone_obey_it(tmp_path: Path) -> None:
    process: list[proctor.Process] = []

    @proctor.on("rmdir")
    def slow(call: proctor.Call) -> proctor.Verdict:
        process[0].kill()
        process[0].wait(20)
        return proctor.answer(1)

    writer = to_file(str(tmp_path / "log"), broken=print)
    told = threading.Event()
    reader, end = os.pipe()
    with proctor.spawn(
        ["sh", "-c", "read x; exec rmdir /x"],
        [slow],
        stdin=reader,
        observers=[JsonLog(writer), proctor.outcomes(lambda outcome: told.set())],
    ) as started:
        process.append(started)
        os.close(reader)
        os.write(end, b"\n")
        os.close(end)
        assert told.wait(30)
    assert writer.close(30)
    _, call, _ = read(tmp_path / "log")
    assert (call["delivered"], call["result"], call["verdict"]) == (False, None, "answer")


def test_trouble_is_logged_the_first_the_tenth_time() -> None:
    class Writer:
        place = "here"

        def __init__(self) -> None:
            self.lines: list[Any] = []

        def put(self, line: str) -> None:
            self.lines.append(json.loads(line))

    writer: Any = Writer()
    log = JsonLog(writer)
    for times in range(1, 21):
        log(Trouble("t", "p", times))
    assert [line["times"] for line in writer.lines] == [1, 10]


def test_the_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(code, {})
    first, *calls, last = read(tmp_path / "calls.jsonl")
    assert (first["event"], last["event"]) == ("added", "ended")
    assert {each["event"] for each in calls} == {"call"}
    assert calls[0]["syscall"] == "execve"


def test_threads_that_tell_of_other_containers_do_not_mix_them_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is kept of the last line's container may be another thread's by the time it is written."""

    def outcome(container: Container) -> proctor.Outcome:
        call = FakeCall("getpid")
        return proctor.Outcome(call, proctor.answer(1), "mine", True, 1.0, 1.5, container)

    one, two = Container("one"), Container("two")
    log = JsonLog(Lines(2, "nowhere"))
    lines: list[str] = []

    class Clock:
        """Another thread's turn comes when it is asked."""

        def time(self) -> float:
            if not lines:
                lines.append("")
                lines[0] = log.line(outcome(two))
            return 1.0

    monkeypatch.setattr("proctor.observe.jsonlog.time", Clock())
    lines.append(log.line(outcome(one)))
    assert [json.loads(line)["container"] for line in lines] == ["two", "one"]
