"""What an agent costs a container: a call through ``proctor agent``, beside the floor of a loop in C on the
same kind of listener; many idle listeners; memory; and how long a take-over takes.

Everything is measured in turns, so that whatever else the machine does falls on all.

    python bench/agent.py [--rounds N] [--calls N] [--idle N]
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import proctor
from proctor.agent.control import ask
from proctor.kernel import scm

#: Seconds after which what does not come never will.
PATIENCE = 120.0
HERE = Path(__file__).resolve().parent
#: chmod is not in it, and is let run; fchmodat is refused, and remembered for ``proctor why``.
POLICY = """
default = "allow"
[[rule]]
name = "modes are as they are"
calls = ["fchmodat"]
deny = "ENOMEDIUM"
report = true
"""
#: Prints the median time of a chmod, in microseconds.
CALLER = """
import ctypes, sys, time
syscall = ctypes.CDLL(None, use_errno=True).syscall
call = (90, b"/nowhere", 0) if sys.argv[2] == "chmod" else (268, -100, b"/nowhere", 0)
times = []
for _ in range(int(sys.argv[1])):
    began = time.perf_counter_ns()
    syscall(*call)
    times.append(time.perf_counter_ns() - began)
print(sorted(times)[len(times) // 2] / 1000)
"""
#: Memory whose amount has nothing to do with who else runs the same Python just then.
OWN = ("Pss_Anon:", "Pss_Shmem:")


def state(id: str) -> bytes:
    return json.dumps({"fds": ["seccompFd"], "state": {"id": id}}).encode()


class Agent:
    """One, in a directory of its own."""

    def __init__(self, place: Path, *options: str) -> None:
        self.place = place
        policies = place / "policies"
        policies.mkdir(parents=True)
        (policies / "default.toml").write_text(POLICY)
        self.oci, self.control = str(place / "oci.sock"), str(place / "control.sock")
        # what it says goes to a file: a pipe that nobody reads would stop it
        with open(place / "said", "w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proctor", "agent", "--policy-dir", str(policies), "--oci", self.oci,
                 "--control", self.control, *options],
                stderr=said,
            )  # fmt: skip
        until = time.monotonic() + PATIENCE
        while "ready" not in (place / "said").read_text():
            if self.process.poll() is not None or time.monotonic() > until:
                self.process.kill()
                raise SystemExit(f"no agent: {(place / 'said').read_text()}")
            time.sleep(0.05)

    def ask(self) -> dict[str, Any]:
        """What it says of itself, however long others have the processors."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return ask(self.control, do="ps")
            except proctor.ProctorError:
                if time.monotonic() > until:
                    raise

    def serves(self, count: int) -> None:
        """Wait until it has so many containers."""
        until = time.monotonic() + PATIENCE
        while (found := len(self.ask()["containers"])) < count:
            if time.monotonic() > until:
                raise SystemExit(f"{found} of {count} containers are served")
            time.sleep(0.05)

    def has(self, id: str) -> None:
        """Wait until it has this one."""
        until = time.monotonic() + PATIENCE
        while all(row["container"] != id for row in self.ask()["containers"]):
            if time.monotonic() > until:
                raise SystemExit(f"{id} is not served")
            time.sleep(0.05)

    def has_a_spare(self) -> None:
        """Wait until a second monitor is there, and has loaded all that it does: it sleeps, and takes no time any more."""
        until = time.monotonic() + PATIENCE
        serving, before = self.monitor(), None
        while time.monotonic() < until:
            pid = self.process.pid
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            spares = [child for child in children if int(child) != serving]
            fields = [Path(f"/proc/{each}/stat").read_text().rpartition(")")[2] for each in spares]
            now = [each.split()[:1] + each.split()[11:13] for each in fields]  # proc_pid_stat(5)
            if now and now == before and now[0][0] == "S":
                return
            before = now
            time.sleep(0.3)
        raise SystemExit("there is no spare")

    def bring(self, listener: int, id: str) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.oci)
            scm.send(sock, state(id), [listener])

    def monitor(self) -> int:
        return int(self.ask()["monitor"])

    def memory(self, *kinds: str) -> float:
        """MiB that it and its keeper have to themselves or by their share, of these kinds (/proc/PID/smaps_rollup)."""
        total = 0
        for pid in (self.process.pid, self.monitor()):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(kinds):
                    total += int(line.split()[1])
        return total / 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def target(*command: str, out: int | None = None) -> Iterator[proctor.Target]:
    program = (
        proctor.Filter([proctor.Rule(("chmod", "fchmodat"), proctor.actions.NOTIFY)]).compile().code
    )
    with open(os.devnull, "r+b") as null:
        fds = [(null.fileno(), 0), (null.fileno() if out is None else out, 1), (2, 2)]
        fds = [(os.dup(fd), to) for fd, to in fds]
        made = proctor.launch(list(command), program=program, fds=fds)
        for fd, _ in fds:
            os.close(fd)
    try:
        yield made
    finally:
        made.kill()
        made.wait(None)
        made.close()


def measure(calls: int, call: str, serve: object) -> float:
    """Median of a chmod whose listener ``serve`` is given."""
    reading, writing = os.pipe()
    with target(sys.executable, "-c", CALLER, str(calls), call, out=writing) as caller:
        os.close(writing)
        listener = caller.take_listener()
        serve(listener)  # type: ignore[operator]
        with open(reading, "rb") as answers:
            return float(answers.read())


def in_c(listener: int) -> None:
    subprocess.Popen([str(HERE / "build" / "answer")], stdin=listener, stdout=subprocess.DEVNULL)
    os.close(listener)


def build() -> None:
    (HERE / "build").mkdir(exist_ok=True)
    subprocess.run(
        [
            "gcc",
            "-O2",
            "-Wall",
            "-Wextra",
            "-o",
            str(HERE / "build/answer"),
            str(HERE / "answer.c"),
        ],
        check=True,
    )


#: Makes calls, and tells of each when it began and when it had its answer.
TELLS = """
import os, struct, time
while True:
    began = time.monotonic()
    try: os.chmod("/nowhere", 0)
    except OSError: pass
    os.write(1, struct.pack("dd", began, time.monotonic()))
"""


def take_over(agent: Agent, number: int) -> float:
    """Milliseconds from the end of the monitor until the next one has answered a call that waited."""
    reading, writing = os.pipe()
    with target(sys.executable, "-c", TELLS, out=writing) as caller:
        os.close(writing)
        listener = caller.take_listener()
        agent.bring(listener, f"taken-over-{number}")
        os.close(listener)
        agent.has(f"taken-over-{number}")
        agent.has_a_spare()
        pidfd = os.pidfd_open(agent.monitor())
        began = time.monotonic()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        died, told = 0.0, b""
        while True:
            ready = select.select([reading, *([] if died else [pidfd])], [], [])[0]
            if reading in ready:
                told += os.read(reading, 65536)
            if pidfd in ready:
                died = time.monotonic()
            ends = [end for _, end in struct.iter_unpack("dd", told[: len(told) // 16 * 16])]
            if died and ends[-1:] > [died]:  # what was answered before then was so by the dead one
                break
        os.close(pidfd)
    os.close(reading)
    return (next(end for end in ends if end > died) - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--idle", type=int, default=1000)
    options = parser.parse_args()
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        raise SystemExit(
            "without chrt: agents inherit it, and are then measured before all others, which wait"
        )
    build()
    with ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proctor-bench-")))
        plain = Agent(top / "plain")
        stack.callback(plain.stop)
        seen = Agent(top / "seen", "--metrics", "127.0.0.1:9464")
        stack.callback(seen.stop)
        crowd = Agent(top / "crowd")
        stack.callback(crowd.stop)
        alone, before = crowd.memory("Pss:"), crowd.memory(*OWN)
        with target("sleep", "1000") as idle:
            listener = idle.take_listener()
            for number in range(options.idle):
                crowd.bring(listener, f"idle-{number}")
            os.close(listener)
            crowd.serves(options.idle)
            each = (crowd.memory(*OWN) - before) * 1024 / options.idle

            def through(agent: Agent) -> object:
                def serve(listener: int) -> None:
                    agent.bring(listener, "measured")
                    os.close(listener)

                return serve

            ways = {
                "a loop in C": ("chmod", in_c),
                "agent": ("chmod", through(plain)),
                "agent with metrics": ("chmod", through(seen)),
                f"agent with {options.idle} idle listeners": ("chmod", through(crowd)),
                "agent that refuses, and remembers why": ("fchmodat", through(plain)),
            }
            found: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(options.rounds):
                for name, (call, serve) in ways.items():
                    found[name].append(measure(options.calls, call, serve))
            over = {
                name: [take_over(agent, number) for number in range(options.rounds)]
                for name, agent in (("take-over", plain), (f"take-over of {options.idle}", crowd))
            }
        least = statistics.median(found["a loop in C"])
        for name, times in found.items():
            median = statistics.median(times)
            print(f"{name:<40} {median:8.1f} us  {median / least:5.2f}x")
        print(f"{'memory, without a container':<40} {alone:8.1f} MiB")
        print(f"{'memory of an idle listener':<40} {each:8.1f} KiB")
        for name, times in over.items():
            print(
                f"{name:<40} {statistics.median(times):8.0f} ms  {times[0]:5.0f} ms the first time"
            )


if __name__ == "__main__":
    main()
