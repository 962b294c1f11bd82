"""What supervision costs, as ratios within one run.

Builds ``bench/floor.c``, the loop that nobody can beat, and measures it and proctor in turns, so that
whatever else the machine does falls on both.  Prints a table of medians; figures and the command
that made them are kept in docs/benchmarks.md.

    python bench/roundtrip.py [--rounds N] [--calls N]
"""

from __future__ import annotations

import argparse
import errno
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import proctor
from proctor.filter.actions import ALLOW, NOTIFY
from proctor.filter.rules import Condition, Filter, Rule
from proctor.kernel.journal import Journal
from proctor.kernel.launch import launch
from proctor.kernel.listener import Listener

HERE = Path(__file__).resolve().parent
FLOOR = HERE / "floor"
GETPPID, OPENAT = 110, 257
TEXT = "/etc/hostname"


def build() -> None:
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wextra", "-o", str(FLOOR), str(HERE / "floor.c")], check=True
    )


def target(program: bytes | None, nr: int, calls: int, sync: bool) -> tuple[object, Listener, int]:
    """Start `floor calls` under a filter; returns (target, listener, reading end of its output)."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    started = launch(
        [str(FLOOR), "calls", str(nr), str(calls), TEXT],
        program=program,
        fds=((0, 0), (writer, 1), (2, 2)),
    )
    os.close(writer)
    listener = Listener(started.take_listener()) if program is not None else None
    if sync and listener is not None:
        listener.set_flags(1)
    return started, listener, reader  # type: ignore[return-value]


def result(started: object, reader: int) -> float:
    with open(reader, "rb") as file:
        text = file.read()
    started.wait(30)  # type: ignore[attr-defined]
    started.close()  # type: ignore[attr-defined]
    return float(text)


def in_c(program: bytes, nr: int, calls: int, mode: str, sync: bool) -> float:
    started, listener, reader = target(program, nr, calls, sync)
    loop = subprocess.Popen(
        [str(FLOOR), "serve", mode],
        preexec_fn=lambda: os.dup2(listener.fileno(), 3),  # noqa: PLW1509
        pass_fds=(3,) if listener.fileno() == 3 else (),
        close_fds=False,
    )
    listener.close()
    took = result(started, reader)
    loop.wait(30)
    return took


def in_python(
    program: bytes,
    nr: int,
    calls: int,
    handler: proctor.Handler,
    sync: bool,
    journal: Journal | None = None,
) -> float:
    started, listener, reader = target(program, nr, calls, sync)
    with proctor.Supervisor([handler]) as supervisor:
        supervisor.add(listener, journal=journal)
        supervisor.start()
        return result(started, reader)


REFUSED = proctor.deny(errno.EPERM)


@proctor.on("getppid")
def constant(call: proctor.Call) -> proctor.Verdict:
    return REFUSED


@proctor.on("openat")
def read_path(call: proctor.Call) -> proctor.Verdict:
    return REFUSED if call.path else proctor.let_run()


class Pair(NamedTuple):
    """Medians of the floor and of ours, and the median of their ratios round by round: what else
    the machine does falls on neighbours alike."""

    floor: float
    ours: float
    ratio: float


def in_turns(rounds: int, floor: Callable[[], float], ours: Callable[[], float]) -> Pair:
    """Both measures, taken in turns."""
    pairs = [(floor(), ours()) for _ in range(rounds)]
    return Pair(
        statistics.median(one for one, _ in pairs),
        statistics.median(two for _, two in pairs),
        statistics.median(two / one for one, two in pairs),
    )


def unnotified(rounds: int, calls: int, floor: list[Rule] | None) -> Pair:
    """An un-notified call under 300 rules (half with argument conditions), and under the rules of
    ``floor``, or without a filter."""
    from proctor.syscalls import tables

    names = [name for name in sorted(tables.numbers("x86_64")) if name not in
             ("getppid", "execve", "write", "exit_group", "clock_gettime")][:300]  # fmt: skip
    rules = [
        Rule((name,), NOTIFY, (Condition(0, "==", 0xDEAD0000 + at),) if at % 2 else (
            Condition(1, "==", 1 << 40), Condition(2, "==", 0x77777)), label=name)
        for at, name in enumerate(names)
    ]  # fmt: skip
    program = Filter(rules, ALLOW).compile().code

    def run(code: bytes | None) -> float:
        started, listener, reader = target(code, GETPPID, calls, False)
        if listener is None:
            return result(started, reader)
        with proctor.Supervisor([]) as supervisor:
            supervisor.add(listener)
            supervisor.start()
            return result(started, reader)

    least = None if floor is None else Filter(floor, ALLOW).compile().code
    return in_turns(rounds, lambda: run(least), lambda: run(program))


def startup(rounds: int) -> Pair:
    """Milliseconds of /bin/true, and of proctor run -- /bin/true."""

    # as installed: with its modules compiled, which the first, untimed run sees to
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

    def timed(command: list[str]) -> Callable[[], float]:
        subprocess.run(command, check=True, env=env)

        def one() -> float:
            start = time.perf_counter()
            subprocess.run(command, check=True, env=env)
            return (time.perf_counter() - start) * 1e3

        return one

    proctor_command = str(Path(sys.executable).with_name("proctor"))
    return in_turns(
        rounds, timed(["/bin/true"]), timed([proctor_command, "run", "--", "/bin/true"])
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=20000)
    options = parser.parse_args()
    build()
    rounds, calls = options.rounds, options.calls
    getppid = Filter([Rule(("getppid",), NOTIFY)], ALLOW).compile().code
    openat = Filter(
        [Rule(("openat",), NOTIFY, (Condition("flags", "==", 0), Condition(0, "&=", 0xFFFFFF9C, 0xFFFFFFFF)))], ALLOW
    ).compile().code  # fmt: skip
    print(f"{'measure':<44} {'floor':>10} {'proctor':>10} {'ratio':>7}  wanted")

    def line(what: str, pair: Pair, scale: float, unit: str, wanted: str) -> None:
        floor, ours = pair.floor / scale, pair.ours / scale
        print(f"{what:<44} {floor:>8.2f}{unit} {ours:>8.2f}{unit} {pair.ratio:>6.2f}x  {wanted}")

    for sync in (False, True):
        how = "synchronous wake-up" if sync else "default flags"
        pair = in_turns(
            rounds,
            lambda: in_c(getppid, GETPPID, calls, "deny", sync),  # noqa: B023
            lambda: in_python(getppid, GETPPID, calls, constant, sync),  # noqa: B023
        )
        line(f"constant answer, {how}", pair, 1e3, "µs", "≤ 1.50x")
        pair = in_turns(
            rounds,
            lambda: in_c(openat, OPENAT, calls, "path", sync),  # noqa: B023
            lambda: in_python(openat, OPENAT, calls, read_path, sync),  # noqa: B023
        )
        line(f"path read and denied, {how}", pair, 1e3, "µs", "≤ 2.00x")
    journal = Journal.create()
    pair = in_turns(
        rounds * 2,
        lambda: in_python(getppid, GETPPID, calls, constant, True),
        lambda: in_python(getppid, GETPPID, calls, constant, True, journal),
    )
    more = (pair.ratio - 1) * pair.floor
    line(
        "constant answer with a journal, and without",
        pair,
        1e3,
        "µs",
        f"≤ 0.30 µs more: {more / 1e3:.2f}",
    )
    journal.close()
    pair = unnotified(rounds * 3, calls * 20, [Rule(("mknod",), NOTIFY)])
    line("un-notified call, 300 rules or one", pair, 1e3, "µs", "≤ 1.03x")
    pair = unnotified(rounds * 3, calls * 20, None)
    line("un-notified call, 300 rules or no filter", pair, 1e3, "µs", "≤ 1.10x")
    pair = startup(rounds * 3)
    more = pair.ours - pair.floor
    line("proctor run -- /bin/true or /bin/true", pair, 1, "ms", f"≤ 60 ms more: {more:.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
