"""What a performed connect costs, beside a loop in C that makes it by pidfd_getfd(2), and what a socket costs
that was replaced: redis-benchmark from an empty network against the same in the server's own.

Builds ``bench/sockets.c``; everything in turns.  Prints medians; figures are kept in docs/benchmarks.md.

    python bench/sockets.py [--rounds N] [--calls N]

Wants root; redis for the last line.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import proctor
from proctor import families
from proctor.filter.actions import ALLOW, NOTIFY
from proctor.filter.rules import Filter, Rule
from proctor.kernel.launch import launch
from proctor.kernel.listener import Listener

HERE = Path(__file__).parent
PROGRAM = HERE / "sockets"
CONNECT = Filter([Rule(("connect",), NOTIFY)], ALLOW)


def connects(port: int, calls: int) -> list[str]:
    return [str(PROGRAM), "connects", str(port), str(calls)]


def in_c(command: list[str], how: str) -> float:
    """Microseconds of one connect that a loop in C makes."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    started = launch(command, program=CONNECT.compile().code, fds=((0, 0), (writer, 1), (2, 2)))
    os.close(writer)
    with Listener(started.take_listener()) as listener:
        listener.set_flags(1)
        server = subprocess.Popen(
            [str(PROGRAM), "serve", how],
            preexec_fn=lambda: os.dup2(listener.fileno(), 3),  # noqa: PLW1509
            pass_fds=(3,) if listener.fileno() == 3 else (),
            close_fds=False,
        )
    with open(reader) as output:
        took = float(output.read())
    started.wait(30)
    started.close()
    server.wait(30)
    return took / 1000


def in_proctor(command: list[str], network: str | None) -> float:
    done = proctor.run(
        command, [families.connect(network=network)], capture_output=True, check=True
    )
    return float(done.stdout) / 1000


def natively(command: list[str]) -> float:
    return float(subprocess.run(command, capture_output=True, check=True).stdout) / 1000


def in_turns(rounds: int, *measures: Callable[[], float]) -> list[float]:
    turns = [[each() for each in measures] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*turns, strict=True)]


def requests(command: list[str]) -> float:
    """Requests per second that redis-benchmark tells."""
    out = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return float(out.strip().splitlines()[-1].split(",")[1].strip('"'))


def through_redis(rounds: int) -> tuple[float, float] | None:
    """Requests per second, directly and from an empty network."""
    if not shutil.which("redis-server"):
        return None
    with socket.socket() as free, tempfile.TemporaryDirectory() as top:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        server = subprocess.Popen(
            ["redis-server", "--port", port, "--save", "", "--dir", top], stdout=subprocess.DEVNULL
        )
        bench = ["redis-benchmark", "-p", port, "-t", "get", "-n", "50000", "-c", "10", "--csv"]
        try:
            while subprocess.run(
                ["redis-cli", "-p", port, "ping"], capture_output=True, check=False
            ).returncode:
                pass
            code = (
                "import sys, proctor; from proctor import families; done = proctor.run(['unshare', '--net', "
                "*sys.argv[1:]], [families.connect(network='host')], capture_output=True, check=True);"
                "sys.stdout.buffer.write(done.stdout)"
            )  # fmt: skip
            ours = [sys.executable, "-c", code, *bench]
            direct, swapped = in_turns(rounds, lambda: requests(bench), lambda: requests(ours))
            return direct, swapped
        finally:
            server.terminate()
            server.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=1000)
    options = parser.parse_args()
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wextra", "-o", str(PROGRAM), f"{PROGRAM}.c"], check=True
    )
    peer = subprocess.Popen([str(PROGRAM), "peer"], stdout=subprocess.PIPE, text=True)
    try:
        assert peer.stdout is not None
        here = connects(int(peer.stdout.readline()), options.calls)
        there = ["unshare", "--net", *here]
        native, own, ours, other, swapped = in_turns(
            options.rounds,
            lambda: natively(here),
            lambda: in_c(here, "own"),
            lambda: in_proctor(here, None),
            lambda: in_c(there, "other"),
            lambda: in_proctor(there, "host"),
        )
    finally:
        peer.kill()
        peer.wait()
    print(f"{'connect to loopback':<44} {'C':>9} {'proctor':>10} {'ratio':>7}")
    print(f"{'natively':<44} {native:>6.1f} µs")
    for name, floor, mine in (
        ("the caller's own socket", own, ours),
        ("into another network", other, swapped),
    ):
        print(f"{name:<44} {floor:>6.1f} µs {mine:>7.1f} µs {mine / floor:>6.2f}x  ≤ 2x")
    redis = through_redis(options.rounds)
    if redis is not None:
        direct, replaced = redis
        print(
            f"{'redis-benchmark GET, requests/s':<44} {direct:>9.0f} {replaced:>10.0f} {replaced / direct:>6.2f}x  ≥ 0.97x"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
