"""Deadlines in rule files, explained, and on the real kernel."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

import proctor
from proctor.performing.untaken import UNTAKEN
from proctor.policy import Policy, loads

pytestmark = pytest.mark.timeout(60)


def rule(body: str, name: str = "r") -> str:
    return f'[[rule]]\nname = "{name}"\n{body}\n'


#: A call that interpreters do not make: on a busy machine they would be late, too, and not begin.
PERFORMED = rule('calls = ["openat2"]\nperform = true')
PRELUDE = """
import ctypes, errno, os, struct, sys, threading
libc = ctypes.CDLL(None, use_errno=True)

def openat2(path):
    how = struct.pack("=QQQ", os.O_RDONLY, 0, 0)
    made = libc.syscall(437, -100, path.encode(), how, len(how))
    return errno.errorcode[ctypes.get_errno()] if made < 0 else "opened"
"""


def run(policy: Policy, program: str, *arguments: str) -> tuple[str, list[tuple[str, str, str]]]:
    seen: list[tuple[str, str, str]] = []
    done = proctor.run(
        [sys.executable, "-S", "-c", PRELUDE + program, *arguments],
        policy.handlers(), filter=policy.filter(), capture_output=True, text=True, timeout=30,
        observers=[
            proctor.outcomes(
                lambda o: seen.append((o.decided_by, str(o.verdict), str(o.verdict.reason)))
            )
        ],
        **policy.supervisor_options(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), seen


OPEN = "print(openat2(sys.argv[1]))"


@pytest.mark.parametrize(
    ("text", "errno_name"),
    [
        ('deadline = 0.3\non_deadline = "ETIMEDOUT"\n' + PERFORMED, "ETIMEDOUT"),
        ("deadline = 0.3\n" + PERFORMED, "EPERM"),
        # a rule's own goes before the one at the top, be it shorter or longer
        ('deadline = 3000\non_deadline = "ETIME"\n' + PERFORMED + "deadline = 0.3\n", "ETIME"),
        ('on_deadline = "ETIME"\n' + PERFORMED + "deadline = 0.3\n", "ETIME"),
    ],
)
def test_an_open_that_waits_for_its_peer_is_ended(
    tmp_path: Path, text: str, errno_name: str
) -> None:
    """Nobody ever opens the other end of the FIFO."""
    os.mkfifo(tmp_path / "fifo")
    out, seen = run(loads(text), OPEN, str(tmp_path / "fifo"))
    assert out == errno_name
    assert seen == [("deadline", f"deny {errno_name}", "on_deadline: not decided in time")]


def test_a_longer_deadline_of_a_rule_holds(tmp_path: Path) -> None:
    """The peer comes only when the shorter one at the top is over, which another call shows."""
    os.mkfifo(tmp_path / "fifo")
    os.mkfifo(tmp_path / "other")
    policy = loads(
        'deadline = 0.2\non_deadline = "ETIME"\n'
        + rule('calls = ["openat"]\nperform = true\ndeadline = 1000', "long")
        + rule('calls = ["openat2"]\nperform = true', "short")
    )
    program = (
        "opened = threading.Thread(target=lambda: print(os.open(sys.argv[1], os.O_RDONLY) >= 0))\n"
        "opened.start()\n"
        "print(openat2(sys.argv[2]), flush=True)\n"
        "os.close(os.open(sys.argv[1], os.O_WRONLY)); opened.join()\n"
    )
    out, _ = run(policy, program, str(tmp_path / "fifo"), str(tmp_path / "other"))
    assert out.split("\n") == ["ETIME", "True"]


def test_what_rules_give_reaches_the_handlers() -> None:
    policy = loads(
        "deadline = 7\n"
        + rule('calls = ["open"]\nperform = true\ndeadline = 2.5', "a")
        + rule('calls = ["mknod"]\nperform = true', "b")
        + rule('calls = ["kill"]\ndeny = 1\nreport = true', "c")
    )
    found = {h.names: h.deadline for h in policy.handlers()}
    of_itself = tuple(call for each in UNTAKEN for call in each.calls)
    assert found == {("open",): 2.5, ("mknod", "kill", *of_itself): None}
    # a rule that says nothing has what the other rules about the call give
    policy = loads(
        rule('calls = ["open", "creat"]\nwhen = { path = "/x/*" }\nperform = true\ndeadline = 2.5', "a")
        + rule('calls = ["open", "creat", "mknod"]\nperform = true', "b")
    )  # fmt: skip
    found = {h.names: h.deadline for h in policy.handlers()}
    assert found == {("open", "creat"): 2.5, ("mknod", *of_itself): None}


def test_a_deadline_and_its_errno_reach_the_supervisor() -> None:
    policy = loads("deadline = 7\n" + rule('calls = ["open"]\nperform = true', "a"))
    options = policy.supervisor_options()
    assert options["deadline"] == 7
    assert options["on_deadline"].errno == errno.EPERM


def test_more_waiting_calls_than_workers_all_meet_their_deadline(tmp_path: Path) -> None:
    """Those that no worker has taken yet, too; and calls that are decided at once go on meanwhile."""
    os.mkfifo(tmp_path / "fifo")
    policy = loads(
        'on_deadline = "ETIME"\n'
        + PERFORMED
        + "deadline = 0.4\n"
        + rule('calls = ["getppid"]\nreturn = 42', "quick")
    )
    program = (
        "said = []\n"
        "def wait(): said.append(openat2(sys.argv[1]))\n"
        "threads = [threading.Thread(target=wait) for _ in range(50)]\n"
        "for each in threads: each.start()\n"
        "print(os.getppid())\n"
        "for each in threads: each.join()\n"
        "print(len(said), *set(said))\n"
    )
    out, seen = run(policy, program, str(tmp_path / "fifo"))
    assert out.split("\n") == ["42", "50 ETIME"]
    assert sum(by == "deadline" for by, _, _ in seen) == 50
