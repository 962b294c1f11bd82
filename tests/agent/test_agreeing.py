"""The agent says where a container's filter and its policy disagree."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proctor.agent.agreeing import disagreements, profile_of
from proctor.policy import loads
from proctor.policy.profile import profile
from tests.agent.clients import connect, filtered, state
from tests.agent.running import RunningAgent

NODES = loads('[[rule]]\nname = "nodes"\ncalls = ["mknod", "mknodat"]\nperform = true\n')


def bundle(place: Path, *entries: tuple[str, str], default: str = "ALLOW") -> Path:
    syscalls: list[dict[str, Any]] = [
        {"names": [name], "action": f"SCMP_ACT_{action}"} for name, action in entries
    ]
    seccomp = {"defaultAction": f"SCMP_ACT_{default}", "syscalls": syscalls}
    (place / "config.json").write_text(json.dumps({"linux": {"seccomp": seccomp}}))
    return place


def said(place: Path, *entries: tuple[str, str], **more: str) -> list[str]:
    found = profile_of(str(bundle(place, *entries, **more)))
    assert found is not None
    return disagreements(NODES, found)


def test_what_is_written_for_a_policy_agrees_with_it() -> None:
    assert disagreements(NODES, profile(NODES)) == []


def test_what_is_not_notified_and_what_is_for_nothing(tmp_path: Path) -> None:
    (line,) = said(tmp_path, ("mknod", "NOTIFY"))
    assert "does not notify mknodat (allow there)" in line
    (line,) = said(tmp_path, ("mknod", "NOTIFY"), ("mknodat", "ERRNO"))
    assert "(errno(EPERM) there)" in line
    (line,) = said(tmp_path, ("mknod", "NOTIFY"), ("mknodat", "NOTIFY"), ("kill", "NOTIFY"))
    assert "notifies kill" in line


@pytest.mark.parametrize("kind", ["none", "text", "fifo", "link", "large", "directory"])
def test_bundles_that_are_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.json"
    if kind == "text":
        path.write_bytes(b"\xff{nonsense")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "large":
        path.write_bytes(b" " * (5 << 20))
    elif kind == "directory":
        path.mkdir()
    assert profile_of(str(tmp_path)) is None
    assert profile_of("\0") is None


@pytest.mark.root
def test_the_agent_says_so(agent: Callable[..., RunningAgent], place: Path) -> None:
    running = agent()
    made = bundle(place, ("mkdir", "NOTIFY"))
    target = filtered("sleep", "1000")
    listener = target.take_listener()
    told = json.loads(state("web\x1b[2J"))
    told["state"]["bundle"] = str(made)
    from proctor.kernel import scm

    with connect(running.socket) as sock:
        scm.send(sock, json.dumps(told).encode(), [listener])
    os.close(listener)
    line = running.heard("does not notify")
    assert "chmod" in line
    assert "mknod" in line
    assert "\x1b" not in line
    target.kill()
    target.wait(30)
