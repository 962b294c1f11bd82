"""Usual calls are decided, answered and written down by the engine's own code: as by the long way."""

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
from proctor.observe.jsonlog import JsonLog, to_file
from proctor.policy import Policy, loads
from proctor.supervisor.deciding import Decider
from proctor.supervisor.world import KernelWorld
from tests.policy.test_policy_hostile_memory import PROGRAM as STALLING
from tests.policy.test_policy_hostile_memory import needs_userfaultfd
from tests.support.stalling import World, stall

pytestmark = pytest.mark.timeout(120)

RULES = """
on_error = "EXDEV"
[[rule]]
name = "by what it leads to"
calls = ["openat", "mkdirat", "unlinkat", "readlink"]
when = { path = ["TOP/closed/**", "TOP/li?t/[ab]*", "**/named"] }
deny = "EROFS"

[[rule]]
name = "by its text"
calls = ["openat", "mkdirat"]
when = { path_text = ["**/../**", "rel*"] }
deny = "EXDEV"

[[rule]]
name = "by a register"
calls = ["openat"]
when = { path = "TOP/open/**", flags = { all = ["O_APPEND"] } }
return = 77

[[rule]]
name = "who calls"
calls = ["symlink"]
when = { path = "TOP/**", caller = { uid = UID } }
deny = "ENOTTY"

[[rule]]
name = "all else"
calls = ["openat", "mkdirat", "unlinkat", "readlink", "symlink", "openat2"]
allow = "unsafe: a test"
"""

#: Calls of all sorts, again and again: the first of each is learnt from.
PROGRAM = r"""
import ctypes, errno, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
top = os.fsencode(sys.argv[1])
os.chdir(top)
def call(*arguments):
    result = libc.syscall(*(each if isinstance(each, bytes) else ctypes.c_long(each) for each in arguments))
    number = ctypes.get_errno()
    if result >= 0 and arguments[0] in (257, 437) and result != 77:
        os.close(result)
    return "fine" if result >= 0 and result != 77 else result if result == 77 else errno.errorcode[number]
here = os.open("open", os.O_DIRECTORY)
paths = [b"/", b".", b"", b"..", b"open/x", b"open/missing", b"missing/x", b"closed/x", b"./closed//x", b"open/../closed/x",
         b"link/x", b"dangling", b"list/a1", b"list/z", b"named", b"loop", b"rel1", b"/proc/self/status",
         b"/proc/self/cwd/closed/x", b"o" * 255, b"o" * 256, b"x/" * 2047 + b"x",
         b"x" * 5000, b"\xff\xfe", "gr\u00fc\u00df".encode(), b'quo"ted', b"back\\slash", b"new\nline", b"open/x/", b"x" * 1024, b"x" * 1025,
         top + b"/closed/x", top + b"/open/x", top + b"/link/x", top + b"/closed"]
for round in range(3):
    for path in paths:
        found = [call(257, -100, path, flags, 0o600) for flags in (0, 0o2000, 0o400000, 0o10000000)]
        found += [call(257, here, path, 0, 0), call(257, -1, path, 0, 0), call(257, 1 << 32, path, 0, 0)]
        found += [call(258, -100, path, 0o700)]
        if not path.startswith((b"/", b"..")) or path.startswith(top):  # nothing of anybody else's
            found += [call(263, -100, path, 0), call(263, -100, path, 0x200), call(88, b"x", path)]
        found += [call(89, path, bytes(64), 64)]
        found += [call(437, -100, path, struct.pack("QQQ", 0, 0, 0), 24)]
        print(path[:40], *found)
    for address in (0, 1, 1 << 46, (1 << 64) - 1):
        print(call(257, -100, address - (1 << 64 if address >> 63 else 0), 0, 0))
"""


def made(top: Path) -> Path:
    for name in ("open", "closed", "list"):
        (top / name).mkdir()
    for name in ("open/x", "closed/x", "list/a1", "list/z", "named", "rel1"):
        (top / name).write_text("")
    (top / "link").symlink_to("closed")
    (top / "dangling").symlink_to("closed/none")
    (top / "loop").symlink_to("loop")
    return top


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(each) for each in log.read_text().splitlines()]


def timeless(log: Path) -> list[dict[str, Any]]:
    """What does not differ from one run to the next."""
    heap = '0x[0-9a-f]{6,8}(?= [(]E|", "error"|[,)])'  # of an interpreter that is loaded at a fixed place
    text = re.sub(
        f"pid [0-9]+, id 0x[0-9a-f]+|0x[57][0-9a-f]{{11}}|{heap}|/proc/[0-9]+",
        "...",
        log.read_text(),
    )
    found = [json.loads(each) for each in text.splitlines()]
    for line in found:
        for key in ("time", "tid", "pid", "microseconds"):
            line.pop(key, None)
    return found


def options_of(rules: Policy) -> dict[str, Any]:
    """For a world of ours."""
    given = {"filter": rules.filter(), **rules.supervisor_options()}
    given.pop("workers", None)
    return given


def ran(
    top: Path, native: bool, handlers: list[proctor.Handler] | None = None
) -> tuple[str, Any, Any]:
    """What a program prints, what the log says, and what was counted."""
    top.mkdir()
    log, counters = top / "log", proctor.Counters()
    rules = loads(RULES.replace("TOP", str(made(top))).replace("UID", str(os.getuid())))
    lines = to_file(str(log), print)
    given = options_of(rules)
    done = proctor.run(
        [sys.executable, "-IS", "-c", PROGRAM, str(top)],
        rules.handlers() if handlers is None else handlers,
        observers=[JsonLog(lines, containers=False), counters],
        world=KernelWorld(native=native),
        capture_output=True,
        **(given if handlers is None else {}),
    )
    assert done.returncode == 0, done.stderr
    assert lines.close(30)
    return done.stdout.decode(), timeless(log), counters.table()


def compared(tmp_path: Path, handlers: list[proctor.Handler] | None = None) -> list[dict[str, Any]]:
    """The lines, after it was seen that both engines say the same."""
    # Of one name, in turns: so that all they are told is the same.
    out, lines, counts = ran(tmp_path / "t", True, handlers)
    (tmp_path / "t").rename(tmp_path / "first")
    other_out, other_lines, other_counts = ran(tmp_path / "t", False, handlers)
    assert out == other_out
    for mine, theirs in zip(lines, other_lines, strict=True):
        assert mine == theirs
    assert counts == other_counts
    return lines


def test_policies_decide_and_tell_the_same(tmp_path: Path) -> None:
    lines = compared(tmp_path)
    assert {line["verdict"] for line in lines} >= {"deny", "let run", "answer"}
    assert sum("paths" in line for line in lines) > 300
    assert {line.get("rule") for line in lines} >= {
        "by what it leads to", "by its text", "by a register", "all else", "who calls",
    }  # fmt: skip


def test_handlers_are_told_of_the_same(tmp_path: Path) -> None:
    def decide(call: proctor.Call) -> Any:
        if call.name == "openat" and call.flags & os.O_APPEND:
            return proctor.deny(errno.EPERM, "for good")
        if call.name == "mkdirat":
            return proctor.deny(errno.EROFS) if call.path else proctor.answer(3)
        if call.name == "unlinkat":
            return proctor.deny(errno.ENOTTY) if call.where() else proctor.let_run_unsafe("seen")
        if call.name == "readlink":
            return proctor.deny(errno.EIO, call.caller.exe.decode())
        return proctor.let_run()

    names = ("openat", "mkdirat", "unlinkat", "readlink", "symlink", "openat2")
    lines = compared(tmp_path, [proctor.Handler(names, decide, label="mine")])
    assert {line.get("verdict") for line in lines} >= {"answer", "deny", "let run"}


def test_without_a_log_they_are_counted(tmp_path: Path) -> None:
    top = tmp_path / "t"
    tables = []
    for native in (True, False):
        top.mkdir()
        rules = loads(RULES.replace("TOP", str(made(top))).replace("UID", str(os.getuid())))
        counters = proctor.Counters()
        given = options_of(rules)
        done = proctor.run(
            [sys.executable, "-IS", "-c", PROGRAM, str(top)], rules.handlers(),
            observers=[counters], world=KernelWorld(native=native), capture_output=True, **given,
        )  # fmt: skip
        tables.append((done.stdout, counters.table()))
        top.rename(tmp_path / f"{native}")
    assert tables[0] == tables[1]


def test_registers_are_the_targets_to_choose(tmp_path: Path) -> None:
    """More sets of them than are remembered."""
    program = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for mode in range(3000):
    libc.syscall(ctypes.c_long(258), ctypes.c_long(-100), sys.argv[1].encode(), ctypes.c_long(mode))
    assert ctypes.get_errno() == 30, mode
"""
    rules = loads(
        '[[rule]]\nname = "r"\ncalls = ["mkdirat"]\nwhen = { path = "/no*" }\ndeny = "EROFS"\n'
        '[[rule]]\nname = "s"\ncalls = ["mkdirat"]\nallow = "unsafe: a test"\n'
    )
    counters = proctor.Counters()
    done = proctor.run(
        [sys.executable, "-IS", "-c", program, "/nowhere"], rules.handlers(), filter=rules.filter(),
        observers=[counters], **rules.supervisor_options(),
    )  # fmt: skip
    assert done.returncode == 0
    assert counters.table() == {("", "mkdirat", "deny EROFS"): 3000}


STALL = """
[[rule]]
name = "late"
calls = ["mkdir"]
when = { path = "/usr/late*" }
deny = "EROFS"

[[rule]]
name = "all"
calls = ["mkdir", "rmdir"]
allow = "unsafe: a test"
"""


@needs_userfaultfd
@pytest.mark.parametrize("content", [b"/usr/late1\0", b"/usr\0"])
@pytest.mark.parametrize("log", [True, False])
def test_whoever_stalls_is_answered_and_written_down_once(
    tmp_path: Path, content: bytes, log: bool
) -> None:
    """Its memory waits while the interpreter's lock is given up: another thread receives, and what this
    one then says is neither lost nor said twice."""
    learnt = "[call(83, ctypes.addressof(kept), 0) for _ in range(3)]"
    others = f"print(*{learnt}, *{learnt})"
    program = STALLING.replace("CONTENT", repr(content)).replace("OTHERS", others)
    program = program.replace("HOSTILE", "call(83, address, 0)")
    # Learnt before, so that it is the native way that stalls.
    program = program.replace(
        "hostile = threading",
        f"kept = ctypes.create_string_buffer(b'/none/x')\n{learnt}\nhostile = threading",
    )
    rules, counters = loads(STALL), proctor.Counters()
    lines = to_file(str(tmp_path / "log"), print)
    done = proctor.run(
        [sys.executable, "-S", "-c", program], rules.handlers(), filter=rules.filter(),
        observers=[counters, *([JsonLog(lines, containers=False)] if log else [])],
        capture_output=True, timeout=60, **rules.supervisor_options(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    late = "EROFS" if b"late" in content else "EEXIST"
    assert done.stdout.decode().split() == ["ENOENT"] * 6 + [late]
    assert lines.close(30)
    denied = counters.table().get(("", "mkdir", "deny EROFS"), 0)
    assert (denied, sum(counters.table().values())) == (int(late == "EROFS"), 10)
    if log:
        found = [line for line in lines_of(tmp_path / "log") if line["args"]["path"] != "/none/x"]
        assert [line["args"]["path"] for line in found] == [content[:-1].decode()]
        assert found[0]["delivered"]
        assert len(lines_of(tmp_path / "log")) == 10


def test_what_a_container_is_called_may_change(tmp_path: Path) -> None:
    seen: list[int] = []

    def decide(call: proctor.Call) -> proctor.Verdict:
        seen.append(1)
        if len(seen) == 3:
            call.container.labels = {"of": "b"}  # type: ignore[misc]
        return proctor.deny(errno.EROFS)

    lines = to_file(str(tmp_path / "log"), print)
    code = "import os\nfor n in range(5):\n try: os.mkdir('/x')\n except OSError: pass"
    proctor.run(
        [sys.executable, "-IS", "-c", code], [proctor.Handler(["mkdir"], decide)],
        observers=[JsonLog(lines, containers=False)],
    )  # fmt: skip
    assert lines.close(30)
    told = [line.get("labels") for line in lines_of(tmp_path / "log")]
    assert told == [None, None, *[{"of": "b"}] * 3]


def test_whoever_is_overtaken_before_its_call_waits_goes_on_with_it_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread asks whether its caller is the one of the call before, and stalls there; that call comes
    to its end meanwhile."""
    overtaken, over = threading.Event(), threading.Event()
    put: list[bytes] = []

    class Slow(World):
        def born_since(self, tid: int, when: float) -> bool:
            if not over.is_set():
                stall()
                overtaken.set()
                assert over.wait(30)
            return False

    def observe(outcome: Any) -> None:
        if outcome.call.path == b"/1":
            stall()
            assert overtaken.wait(30)

    finish, begin = Decider._finish, Decider._put

    def _finish(self: Decider, job: Any) -> None:
        finish(self, job)
        if job.call._values.get("path") == b"/1":
            over.set()

    def _put(self: Decider, job: Any) -> None:
        put.append(job.call.name.encode())
        begin(self, job)

    monkeypatch.setattr(Decider, "_finish", _finish)
    monkeypatch.setattr(Decider, "_put", _put)
    code = (
        "import os\nfor n in '12':\n try: os.mkdir('/' + n)\n except OSError as e: print(e.errno)"
    )
    refuse = proctor.Handler(["mkdir"], lambda call: proctor.deny(30 + int(call.path[1:])))
    done = proctor.run(
        [sys.executable, "-IS", "-c", code], [refuse], observers=[proctor.outcomes(observe)],
        world=Slow(), capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == [b"31", b"32"]
    assert not put
