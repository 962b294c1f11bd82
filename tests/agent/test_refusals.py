"""Refusals that are like others are counted where they are answered, and told of now and then."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

import proctor
from proctor.agent.refusals import Refusal, Refusals
from proctor.observe.events import ContainerEnded, Outcome
from proctor.policy.loader import loads

#: All chmods come to the same, mkdirs by their path; and how often a way is gone is said to it.
POLICY = """
default = "allow"
[[rule]]
name = "modes are as they are"
calls = ["chmod"]
deny = "ENOMEDIUM"
report = true
[[rule]]
name = "no nodes"
calls = ["mknod"]
deny = "EXDEV"
report = true
[[rule]]
name = "no such rooms"
calls = ["mkdir"]
when = { path = "/tmp/forbidden-*" }
deny = "EROFS"
[[rule]]
name = "other rooms"
calls = ["mkdir"]
allow = "unsafe: a test's"
"""
SCRIPT = """
import ctypes, errno
syscall = ctypes.CDLL(None, use_errno=True).syscall
def refused(number, path, *more):
    assert syscall(number, path, *more) == -1
    return ctypes.get_errno()
for n in range(1000):
    assert refused(90, b"/tmp/a", 0o600) == errno.ENOMEDIUM
    if n % 2:
        assert refused(90, b"/tmp/b", 0o600) == errno.ENOMEDIUM
    assert refused(83, b"/tmp/forbidden-a", 0o700) == errno.EROFS
    if n % 4 == 0:
        assert refused(83, b"/tmp/forbidden-b", 0o700) == errno.EROFS
    assert refused(133, b"/tmp/node", 0o020600, 0x103) == errno.EXDEV
    if n % 5 == 0:
        assert refused(133, b"/tmp/node", 0o060600, 0x700) == errno.EXDEV
"""


class Told(Refusals):
    """Counts what it is told, and keeps what it showed at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes = 0
        self.shown: list[Refusal] = []

    def __call__(self, event: Outcome | ContainerEnded) -> None:
        self.outcomes += isinstance(event, Outcome)
        if isinstance(event, ContainerEnded):
            self.shown = self.of(event.container)
        super().__call__(event)


def run(script: str, *others: Any, policy: str = POLICY) -> Told:
    told = Told()
    loaded = loads(policy)
    done = proctor.run(
        [sys.executable, "-c", script],
        loaded.handlers(),
        filter=loaded.filter(),
        observers=[told, *others],
    )
    assert done.returncode == 0
    return told


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of calls are x86_64's")
def test_each_is_counted_with_those_that_are_like_it() -> None:
    counters = proctor.Counters()
    told = run(SCRIPT, counters)
    rows = {(each.call.split('"')[1], each.verdict): each for each in told.shown}
    modes = rows.pop(("/tmp/a", "deny ENOMEDIUM"), None) or rows.pop(("/tmp/b", "deny ENOMEDIUM"))
    assert modes.times == 1500, "they are one kind, by the rule to be added"
    times = {path: row.times for (path, _), row in rows.items() if path != "/tmp/node"}
    assert times == {"/tmp/forbidden-a": 1000, "/tmp/forbidden-b": 250}
    for path in times:
        assert f'"{path}"' in rows[path, "deny EROFS"].tip
    nodes = {each.times: each for each in told.shown if each.verdict == "deny EXDEV"}
    assert set(nodes) == {1000, 200}, "another device is another kind"
    assert "char 1:3" in nodes[1000].tip and "block 7:0" in nodes[200].tip
    table = {
        call: count for (_, call, verdict), count in counters.table().items() if "deny" in verdict
    }
    assert table == {"chmod": 1500, "mkdir": 1250, "mknod": 1200}
    assert told.outcomes < 150, "few of 3,950 are told of"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of calls are x86_64's")
def test_what_was_forgotten_is_told_of_anew() -> None:
    """More kinds than are remembered, in turns: none is counted where nobody looks any more."""
    script = """
import ctypes
syscall = ctypes.CDLL(None).syscall
for n in range(40):
    for times in range(8):
        assert syscall(83, b"/tmp/forbidden-%d" % n, 0o700) == -1
for times in range(8):
    assert syscall(83, b"/tmp/forbidden-0", 0o700) == -1
"""
    told = run(script)
    assert len(told.shown) == 32 and {each.times for each in told.shown} == {8}
    assert "forbidden-0" in told.shown[-1].call and told.shown[-1].last >= told.shown[-2].last


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of calls are x86_64's")
def test_somebody_else_who_wants_to_know_is_told_of_each() -> None:
    seen: list[str] = []
    observer = proctor.outcomes(lambda outcome: seen.append(outcome.call.name))
    told = run(SCRIPT, observer)
    assert told.outcomes == 1500 + 1250 + 1200 <= len(seen)
    assert sum(each.times for each in told.shown) == told.outcomes


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of calls are x86_64's")
@pytest.mark.parametrize("rule", ["", 'when = { path = "/tmp/forbidden-*" }'], ids=["all", "path"])
def test_what_memory_says_is_not_counted_by_registers(rule: str) -> None:
    """The rule to be added names what was in memory: what else was at the same address is another kind."""
    policy = f"""
default = "allow"
[[rule]]
name = "no such names"
calls = ["setxattr"]
{rule}
deny = "EROFS"
report = true
"""
    if rule:
        policy += """
[[rule]]
name = "other places"
calls = ["setxattr"]
allow = "unsafe: a test's"
"""
    script = """
import ctypes
syscall = ctypes.CDLL(None).syscall
path, name = b"/tmp/forbidden-a", ctypes.create_string_buffer(32)
for word, times in ((b"trusted.often", 12), (b"trusted.once", 1), (b"trusted.often", 8)):
    name.value = word
    for _ in range(times):
        assert syscall(188, path, name, b"", 0, 0) == -1
"""
    told = run(script, policy=policy)
    times = {each.tip.split('names = ["')[1].split('"')[0]: each.times for each in told.shown}
    assert times == {"trusted.often": 20, "trusted.once": 1}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of calls are x86_64's")
def test_what_a_path_says_is_not_counted_by_registers() -> None:
    policy = """
default = "allow"
[[rule]]
name = "nothing there"
calls = ["creat"]
deny = "EROFS"
report = true
"""
    script = """
import ctypes
syscall, path = ctypes.CDLL(None).syscall, ctypes.create_string_buffer(32)
for word, times in ((b"/tmp/forbidden", 12), (b"/dev/loop7", 1)):
    path.value = word
    for _ in range(times):
        assert syscall(85, path, 0o600) == -1
"""
    told = run(script, policy=policy)
    assert sorted(each.times for each in told.shown) == [1, 12]
    assert ["loops" in each.tip for each in told.shown] == [False, True]
