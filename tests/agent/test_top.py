"""``proctor top``: rates from one answer to the next, and what is shown of them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proctor.cli.top import Rates, tables_of
from tests.agent.clients import hand_over
from tests.agent.running import RunningAgent
from tests.support.screen import Screen

rich_console = pytest.importorskip("rich.console")


def answer(count: int, time: float, monitor: int = 1) -> dict[str, Any]:
    calls = [{"policy": "p", "call": "mkdir", "verdict": "deny EPERM", "count": count}]
    row = {
        "container": "[red]web\x1b[2J", "labels": {"policy": "p"}, "waiting": 3, "threads": 2,
        "refused": 5, "listeners": 1,
    }  # fmt: skip
    return {"monitor": monitor, "time": time, "calls": calls, "containers": [row]}


def test_rates_are_of_one_monitor() -> None:
    rates = Rates()
    key = ("p", "mkdir", "deny EPERM")
    assert rates.since(answer(10, 100.0)) == {}
    assert rates.since(answer(30, 104.0)) == {key: 5.0}
    assert rates.since(answer(30, 105.0)) == {}
    assert rates.since(answer(1000, 106.0, monitor=2)) == {}
    assert rates.since(answer(1001, 107.0, monitor=2)) == {key: 1.0}


def test_what_containers_are_called_is_no_markup() -> None:
    out = io.StringIO()
    console = rich_console.Console(file=out, width=100)
    for table in tables_of(answer(1, 1.0), {("p", "mkdir", "deny EPERM"): 2.5}):
        console.print(table)
    text = out.getvalue()
    assert "[red]web\\u001B[2J" in text
    assert "\x1b" not in text
    assert "2.5 calls/s" in text


def test_an_agent_is_watched(agent: Callable[..., RunningAgent], place: Path) -> None:
    running = agent()
    with hand_over(
        running.socket, "web-1", "sh", "-c", "mkdir /tmp/forbidden-1; exec sleep 1000"
    ) as it:
        running.heard("EROFS")
        done = subprocess.run(
            [sys.executable, "-m", "proctor", "top", "--control", running.control],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        found = json.loads(done.stdout)
        (row,) = found["containers"]
        assert (row["container"], row["refused"], row["waiting"]) == ("web-1", 1, 0)
        assert {"policy": "default", "call": "mkdir", "verdict": "deny EROFS", "count": 1} in found[
            "calls"
        ]
        top = [
            sys.executable,
            "-m",
            "proctor",
            "top",
            "--control",
            running.control,
            "--every",
            "0.1",
        ]
        screen = Screen(top, str(place))
        before = screen.mode
        screen.expect("web-1")
        screen.expect("web-1")
        screen.type("\x03")
        screen.expect("\x1b[?1049l")
        assert not screen.alternate
        assert screen.mode == before
        assert screen.close() == 0
        it.kill()
        it.wait(30)
