"""What a log says of a call is the same by the short way and by the long one, and of its caller what is."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import proctor
from proctor.call.structured import structured
from proctor.observe import facts as module
from proctor.observe.callers import Callers
from proctor.observe.facts import facts
from proctor.observe.jsonlog import JsonLog, to_file
from proctor.testing import FakeCall, FakeTarget

NAMES = ["open", "openat", "mkdir", "rename", "renameat2", "readlink", "stat", "chdir", "getpid", "mount",
         "execve", "fcntl", "connect", "utimensat", "newfstatat", "symlinkat", "ioctl", "faccessat2"]  # fmt: skip
PATHS = st.one_of(
    st.sampled_from([b"", b"/etc/hosts", b'"\\', b"\xff\xfe", b"caf\xc3\xa9", b"\t", b"a" * 1025]),
    st.sampled_from([b"<hole 0>", b"<hole 1>", b"\\u0041", b"%s{0}"]),
    st.binary(max_size=20).map(lambda each: each.replace(b"\0", b"")),
)


def said(call: proctor.Call, *, read: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(f"{{{facts(call, Callers(), read=read)}}}")
    return found


@given(
    name=st.sampled_from(NAMES),
    registers=st.lists(
        st.sampled_from([0, 1, 7, 0o100, 0x8000000000000241, 2**64 - 100, 0xFFFFFFFF]),
        min_size=6, max_size=6,
    ),
    paths=st.lists(PATHS, min_size=2, max_size=2),
    null=st.booleans(),
)  # fmt: skip
@example("rename", [0] * 6, [b"<hole 1>", b"<hole 0>"], False)
def test_the_short_way_says_what_the_long_one_says(
    name: str, registers: list[int], paths: list[bytes], null: bool
) -> None:
    target = FakeTarget()
    known, nr = FakeCall(name).signature, FakeCall(name).nr
    assert known is not None
    for arg, path in zip([a for a in known.args if a.role == "path"], paths, strict=False):
        registers[arg.reg] = 0 if null else target.memory.place(path + b"\0")
    for read in (True, False):
        found = said(FakeCall(nr, *registers, target=target), read=read)
        call = FakeCall(nr, *registers, target=target)
        text = call.describe(read)
        assert found["call"] == text
        assert found["args"] == json.loads(json.dumps(structured(call, read=read)))


def test_what_is_remembered_is_bounded() -> None:
    for flags in range(3 * module._SETS):
        said(FakeCall("open", "/x", flags, 0))
    (shown,) = [
        each for each in module._shown.values() if each is not None and each._known.name == "open"
    ]
    assert 0 < len(shown._made) <= module._SETS
    for number in range(5000, 5000 + 2 * module._CALLS):
        said(FakeCall(number))
    assert len(module._shown) <= module._CALLS


PROGRAM = """
import ctypes, os, sys, threading
libc = ctypes.CDLL(None)
def made(path):
    try: os.mkdir(path)
    except OSError: pass
made("/first")
libc.prctl(15, b"re\\\\na\\nmed", 0, 0, 0)
made("/renamed")
thread = threading.Thread(target=lambda: (libc.prctl(15, b"of a thread", 0, 0, 0), made("/thread")))
thread.start(); thread.join()
made("/after")
if os.fork() == 0:
    made("/child")
    os.execv(sys.argv[1], ["mkdir", "/executed"])
os.wait()
"""


def test_each_line_has_who_it_was_then(tmp_path: Path) -> None:
    """prctl(2) and execve(2) change what a thread is called between two of its calls."""
    mkdir = os.path.realpath("/bin/mkdir")
    refuse = proctor.Handler(["mkdir", "mkdirat"], lambda call: proctor.deny(17))
    log = tmp_path / "log"
    lines = to_file(str(log), print)
    done = proctor.run(
        [sys.executable, "-c", PROGRAM, mkdir], [refuse],
        observers=[JsonLog(lines, containers=False)], stderr=proctor.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0
    assert lines.close(30)
    found = {}
    for each in map(json.loads, log.read_text().splitlines()):
        found[each["args"]["path"]] = (each["comm"], each["exe"], each["tid"], each["pid"])
    python = os.path.realpath(sys.executable)
    first = found["/first"][2]
    assert found["/first"] == (os.path.basename(sys.executable)[:15], python, first, first)
    assert found["/renamed"] == ("re\\\\na\\nmed", python, first, first)
    assert found["/thread"][:2] == ("of a thread", python)
    assert found["/thread"][3] == first != found["/thread"][2]
    assert found["/after"] == found["/renamed"]
    child = found["/child"][2]
    assert found["/child"] == ("re\\\\na\\nmed", python, child, child) and child != first
    assert found["/executed"] == ("mkdir", mkdir, child, child)


def waiting(name: bytes) -> int:
    """A child of that name, that waits."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(15, name, 0, 0, 0)
        os.write(writer, b"x")
        signal.pause()
        os._exit(0)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def name_of(callers: Callers, pid: int, *, valid: bool = True) -> str:
    call: Any = SimpleNamespace(tid=pid, valid=lambda: valid)
    told = callers.told(call)
    return str(json.loads(f"{{{told}}}")["comm"]) if told else ""


def test_a_number_that_is_somebody_elses_by_now() -> None:
    callers = Callers()
    assert callers.native  # the core holds a descriptor, from when it is loaded
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        first = waiting(b"first")
        assert name_of(callers, first) == "first"
        end(first)
        try:
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(first - 1))
        except OSError:
            pytest.skip("numbers cannot be chosen here")
        second = waiting(b"second")
        try:
            assert name_of(callers, second) == "second"
        finally:
            end(second)
        # nobody's, or a stranger's by now
        assert name_of(callers, first) not in ("first", "second")
        if second == first:
            break
    else:
        pytest.skip("others always took the number")
    callers.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_is_said_of_one_who_is_gone_and_nothing_kept() -> None:
    callers = Callers()
    assert callers.native  # the core holds a descriptor, from when it is loaded
    before = len(os.listdir("/proc/self/fd"))
    assert name_of(callers, os.getpid(), valid=False) == ""
    assert name_of(callers, 0) == ""
    assert len(os.listdir("/proc/self/fd")) == before
    many = [waiting(b"one of many") for _ in range(70)]
    try:
        assert {name_of(callers, pid) for pid in many * 2} == {"one of many"}
        assert len(os.listdir("/proc/self/fd")) <= before + 2 * 64
    finally:
        for pid in many:
            end(pid)
        callers.close()
    assert len(os.listdir("/proc/self/fd")) == before
