"""What an agent tells: to those who ask it, in its log, to Prometheus."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proctor.agent import scraped
from proctor.agent.metrics import Metrics, TimedPerformer
from proctor.agent.policies import Book
from proctor.agent.refusals import Refusals
from proctor.agent.serve import Server
from proctor.agent.settings import Settings
from proctor.call.verdict import answer, deny, perform
from proctor.observe.events import Outcome
from proctor.observe.observers import Observers
from proctor.supervisor.ports import Later
from proctor.testing import FakeTarget
from tests.agent.clients import connect, gone, hand_over
from tests.agent.running import RunningAgent, eventually

Start = Callable[..., RunningAgent]


def proctor(running: RunningAgent, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proctor", *words, "--control", running.control],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def container(running: RunningAgent, id: str, script: str = ":") -> Iterator[None]:
    """One that has run a script, and goes on."""
    with hand_over(
        running.socket, id, "sh", "-c", f"{script}; chmod 1777 /tmp; exec sleep 1000"
    ) as it:
        running.heard("ENOMEDIUM")
        yield
        it.kill()
        it.wait(30)


def test_ps_lists_what_is_served(agent: Start) -> None:
    running = agent()
    assert proctor(running, "ps").stdout.split() == [
        "CONTAINER",
        "POLICY",
        "LISTENERS",
        "REFUSED",
        "SINCE",
        "WHAT",
    ]
    with container(running, "web-1\x1b[2J"):
        done = proctor(running, "ps")
        line = done.stdout.splitlines()[1].split()
        assert line[1:4] == ["default", "1", "1"], done.stdout
        assert "\x1b" not in done.stdout
        (row,) = json.loads(proctor(running, "ps", "--json").stdout)
        assert row["container"] == "web-1\x1b[2J" and row["labels"]["door"] == "oci"


def test_why_says_what_was_refused_and_what_would_let_it(agent: Start) -> None:
    running = agent()
    script = "mkdir /tmp/forbidden-1; mkdir /tmp/forbidden-1"
    with container(running, "web-1", script):
        done = proctor(running, "why", "web")
        assert done.returncode == 0
        assert 'mkdir("/tmp/forbidden-1", 0777): deny EROFS (2 times)' in done.stdout
        assert 'rule "no such rooms"; would be allowed by' in done.stdout
        lines = done.stdout.splitlines()
        start = lines.index("        [[rule]]")
        rule = tomllib.loads("\n".join(lines[start : start + 5]))["rule"][0]
        assert rule["when"] == {"path": ["/tmp/forbidden-1"]}, "it is a rule to be pasted"
        assert "modes are as they are" in done.stdout
        found = json.loads(proctor(running, "why", "web-1", "--json").stdout)
        assert found["refusals"][0]["times"] == 2 and "[[rule]]" in found["refusals"][0]["tip"]
    running.heard("ended: container")
    done = proctor(running, "why", "web-1")  # those that are over are asked about most
    assert "forbidden-1" in done.stdout
    done = proctor(running, "why", "web-2")
    assert done.returncode == 2 and 'no container "web-2" is served here' in done.stderr


def test_a_container_whose_refusals_are_many_is_remembered_in_bounds(agent: Start) -> None:
    running = agent()
    with container(running, "web-1", "for n in $(seq 100); do mkdir /tmp/forbidden-$n; done"):
        found = running.ask(do="why", container="web-1")["refusals"]
        assert len(found) == 32
        assert "forbidden-100" in found[-2]["call"]


def test_policies_are_resolved_and_reloaded(agent: Start, place: Path) -> None:
    running = agent()
    with container(running, "web-1"):
        done = proctor(running, "policy", "resolve", "web-1")
        head, _, text = done.stdout.partition("\n")
        path = place / "policies/default.toml"
        assert head == f"# web-1 has the policy {path}: there is no containers.toml"
        held = path.read_text()
        assert text == held
        # what is refused does not hold: what does is printed
        path.write_text("default = 1")
        running.ask(do="reload")
        running.heard("what held before still holds")
        for _ in range(2):  # whoever asks is told, also of what was told before
            done = proctor(running, "policy", "reload")
            assert done.returncode == 1 and "what held before still holds" in done.stderr
        told = json.loads(proctor(running, "policy", "reload", "--json").stdout)
        assert len(told["problems"]) == 1 and str(path) in told["problems"][0]
        found = json.loads(proctor(running, "policy", "resolve", "web-1", "--json").stdout)
        assert found["text"] == held and found["policy"] == str(path)
        path.write_text(held)
        (place / "policies/containers.toml").write_text(
            '[[container]]\npolicy = "default"\nid = "x"\n'
            '[[container]]\npolicy = "default"\nid = "web-*"\n'
        )
        assert proctor(running, "policy", "reload").returncode == 0
        done = proctor(running, "policy", "resolve", "web-1")
        assert "[[container]] number 2 of containers.toml" in done.stdout
        (place / "policies/containers.toml").write_text(
            '[[container]]\npolicy = "default"\nid = "x"\n'
        )
        assert proctor(running, "policy", "reload").returncode == 0
        done = proctor(running, "policy", "resolve", "web-1")
        assert done.returncode == 1 and done.stdout.startswith("none: no [[container]]")


def test_who_may_not_ask_gets_nothing(agent: Start, place: Path) -> None:
    running = agent("--control", f"{place / 'control.sock'},uid=12345")
    done = proctor(running, "ps")
    assert done.returncode == 2 and "does not answer us" in done.stderr


@pytest.mark.parametrize(
    "request_", [b"nonsense\n", b'{"do": "dance"}\n', b'{"do": "ps", "more": 1}\n', b"{}\n"]
)
def test_nonsense_is_answered_with_an_error(agent: Start, request_: bytes) -> None:
    running = agent()
    with connect(running.control) as sock, sock.makefile("rb") as answers:
        sock.sendall(request_)
        assert "error" in json.loads(answers.readline())
    with connect(running.control) as sock:
        sock.sendall(b"x" * 200_000)
        assert gone(sock)
    assert running.ask(do="ps")["containers"] == []


def test_nobody_to_ask(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proctor", "ps", "--control", str(place / "none")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "no agent answers at" in done.stderr


def test_the_log_has_every_call_and_may_be_rotated(agent: Start, place: Path) -> None:
    log = place / "log.jsonl"
    running = agent("--log", str(log))

    def calls(file: Path) -> list[str]:
        records = [json.loads(line) for line in file.read_text().splitlines()]
        return [each["container"] for each in records if each["event"] == "call"]

    with container(running, "one"):
        eventually(lambda: calls(log) == ["one"])
    record = next(
        each for each in map(json.loads, log.read_text().splitlines()) if each["event"] == "call"
    )
    assert record["verdict"] == "deny" and record["labels"]["policy"] == "default"
    log.rename(place / "log.1")
    with container(running, "two"):
        eventually(lambda: log.exists() and calls(log) == ["two"])
    os.kill(running.serving, signal.SIGKILL)
    running.heard("took over")
    with hand_over(running.socket, "three", "chmod", "1777", "/tmp") as target:
        target.wait(30)
    eventually(lambda: calls(log) == ["two", "three"])
    shown = proctor(running, "logs", "three").stdout
    assert 'fchmodat(AT_FDCWD, "/tmp", 01777): deny ENOMEDIUM' in shown, shown
    assert "added" in shown and "two" not in shown


def test_a_log_shows_each_rule_to_add_once(place: Path) -> None:
    """Of each container, as long as it stays the same; a loop that is refused filled screens."""

    def refused(container: str, device: str) -> str:
        tip = f'[[rule]]\nname = "allow {device}"'
        reason = (
            f'rule "none"; would be allowed by, before rule "none": {tip.replace(chr(10), " ")}'
        )
        record = {"event": "call", "container": container, "call": "mknod", "verdict": "deny"}
        return json.dumps({**record, "time": 1, "errno": "EPERM", "reason": reason, "tip": tip})

    log = place / "log"
    them = [("a", "8:0"), ("a", "8:0"), ("a", "8:1"), ("b", "8:0"), ("a", "8:0")]
    log.write_text("".join(refused(*each) + "\n" for each in them))
    done = subprocess.run(
        [sys.executable, "-m", "proctor", "logs", "--file", log], capture_output=True, text=True, check=True
    )  # fmt: skip
    shown = [line.partition(" ")[2] for line in done.stdout.splitlines()]
    short = 'mknod: deny EPERM: rule "none"'
    full = short + '; would be allowed by, before rule "none": [[rule]] name = "allow '
    assert shown == [f'a {full}8:0"', f"a {short}", f'a {full}8:1"', f'b {full}8:0"', f"a {short}"]


def test_a_log_is_followed(agent: Start, place: Path) -> None:
    log = place / "log.jsonl"
    running = agent("--log", str(log))
    with subprocess.Popen(
        [sys.executable, "-m", "proctor", "logs", "-f", "--control", running.control, "--json"],
        stdout=subprocess.PIPE, text=True,
    ) as following:  # fmt: skip
        assert following.stdout is not None
        for id in ("one", "two"):
            with hand_over(running.socket, id, "chmod", "1777", "/tmp") as target:
                target.wait(30)
            for line in following.stdout:
                record = json.loads(line)
                if record["event"] == "ended":
                    break
            assert record["container"] == id
            log.rename(place / f"log.{id}")
        following.kill()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_prometheus_may_ask(agent: Start) -> None:
    port = free_port()
    running = agent("--metrics", f"127.0.0.1:{port}")

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            return str(answer.read().decode())

    with container(running, "one", "mkdir /tmp/forbidden-1; mkdir /tmp/forbidden-1"):
        text = metrics()
        assert 'proctor_calls_total{call="mkdir",policy="default",verdict="deny EROFS"} 2.0' in text
        assert 'proctor_listeners{policy="default"} 1.0' in text
        assert "proctor_policy_generation" in text and "process_open_fds" in text
        os.kill(running.serving, signal.SIGKILL)
        running.heard("took over")
        assert 'proctor_containers{policy="default"} 1.0' in metrics()
    if shutil.which("promtool") is not None:
        done = subprocess.run(
            ["promtool", "check", "metrics"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_what_takes_a_while_is_counted_whatever_way_it_went() -> None:
    """Also a call that whoever is asked first has begun to perform, and waits for."""
    metrics = Metrics(asked=True)
    assert metrics.timed is not None
    reading, writing = os.pipe()
    last = answer(7)
    said: list[Any] = [None, deny(errno.ENOENT), 0, Later(reading, lambda: last, bool)]

    class Way:
        found = None

        def __call__(self, call: Any, wish: Any) -> Any:
            return said.pop(0)

    class Performer:
        is_harmless_again = None

        def ordinary(self, name: str, listener: object, begins: object) -> Way:
            return Way()

    performer: Any = Performer()
    way = metrics.timed(performer).ordinary("openat")
    call = FakeTarget().call("openat", -100, 0, 0)
    sample = metrics.registry.get_sample_value

    def now() -> tuple[float | None, float | None]:
        count = sample("proctor_performing_seconds_count", {"policy": ""})
        return sample("proctor_performing"), count

    assert [way(call, perform()) for _ in range(3)] == [None, deny(errno.ENOENT), 0]
    assert now() == (0, None)
    later = way(call, perform())
    assert isinstance(later, Later) and now() == (1, 0)
    assert later.resume() is last and now() == (0, 1)
    os.close(reading), os.close(writing)


@pytest.mark.parametrize(("address", "timed"), [(None, False), (("127.0.0.1", 0), True)])
def test_nothing_is_timed_for_nobody(
    tmp_path: Path, address: tuple[str, int] | None, timed: bool
) -> None:
    (tmp_path / "default.toml").write_text('default = "allow"\n')
    book = Book(str(tmp_path))
    book.load()
    loop = asyncio.new_event_loop()
    server = Server(loop, Settings(str(tmp_path), metrics=address), book)
    try:
        performer = server.agent.supervisor._decider._performer
        assert isinstance(performer, TimedPerformer) == timed
        counters = server.agent.supervisor._decider.observers.counters
        assert counters is not None and (counters._told is not None) == timed
    finally:
        server.close()
        loop.close()


def test_who_asks_for_metrics_has_so_many_threads(agent: Start) -> None:
    """Whoever is silent makes room for others; what he has sent says nothing in our log."""
    port = free_port()
    running = agent("--metrics", f"127.0.0.1:{port}")
    before = len(os.listdir(f"/proc/{running.serving}/task"))
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    for each in silent[::2]:
        each.send(b"GET /")
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert "proctor_containers" in answer.read().decode()
    most = before + scraped.MOST + 1
    eventually(lambda: len(os.listdir(f"/proc/{running.serving}/task")) <= most)
    for each in silent:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
        each.close()
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert answer.status == 200
    assert not any("Error" in line for line in running.said)


def test_a_port_that_is_taken_is_said(agent: Start) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with pytest.raises(AssertionError, match="in use"):
            agent("--metrics", f"127.0.0.1:{sock.getsockname()[1]}")


def test_the_log_names_the_policy_that_held(agent: Start, place: Path) -> None:
    """Also once another one holds for the same container."""
    log = place / "log.jsonl"
    running = agent("--log", str(log))

    def policies() -> list[str]:
        records = [json.loads(line) for line in log.read_text().splitlines()]
        return [each["labels"]["policy"] for each in records if each["event"] == "call"]

    script = "chmod 1777 /tmp; read line; chmod 1777 /tmp"
    with hand_over(
        running.socket, "one", "sh", "-c", f"{script}; while :; do {script}; done"
    ) as it:
        eventually(lambda: policies()[:1] == ["default"])
        (place / "policies/other.toml").write_text((place / "policies/default.toml").read_text())
        (place / "policies/containers.toml").write_text('default = "other"\n')
        running.ask(do="reload")
        eventually(lambda: policies()[-1] == "other")
        it.kill()
        it.wait(30)
    running.heard("ended: container")


def test_a_flood_of_refusals_is_not_looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one that was is told, and how many there were; a moment later it is looked at again."""
    now = [1000.0]
    monkeypatch.setattr("proctor.agent.refusals.time.time", lambda: now[0])
    looked: list[int] = []
    made = [0]

    def describe(call: Any, read: bool) -> str:
        looked.append(made[0])
        return f"mkdir({made[0]})"

    monkeypatch.setattr("proctor.call.call.Call.describe", describe)
    refusals = Refusals()
    target = FakeTarget()
    told = Observers([refusals], threading.Lock())
    verdict = deny(errno.EROFS, "no rooms")

    def refuse(name: str) -> None:
        made[0] += 1
        call = target.call(name, "x", 0o755)
        text = told.look(call, verdict, read=True)[0] != ""
        assert told.looks(call, verdict) == text
        outcome = Outcome(call, verdict, "", True, 1.0, 1.5, call.container)
        told.tell_outcome(outcome._replace(text=f"mkdir({made[0]})" if text else ""))

    for _ in range(20):
        refuse("mkdir")
    assert looked == [1, 2, 4, 8, 16]
    refuse("chmod")  # another one is looked at at once
    assert looked[-1] == 21
    now[0] += 2
    refuse("mkdir")
    assert looked[-1] == 22
    (first, second) = refusals.of(target.call("mkdir", "x", 0).container)
    assert (first.times, second.times, second.call) == (1, 21, "mkdir(22)")
