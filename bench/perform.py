"""What a performed call costs, as ratios within one run.

Builds ``bench/perform.c``, loops in C that open on a caller's behalf, and measures them and proctor in
turns, so that whatever else the machine does falls on both.  Prints a table of medians; figures and the
command that made them are kept in docs/benchmarks.md.

    python bench/perform.py [--rounds N] [--calls N]

Device nodes and other identities take root.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import proctor
from proctor import families
from proctor.filter.actions import ALLOW, NOTIFY
from proctor.filter.rules import Filter, Rule
from proctor.kernel.launch import launch
from proctor.kernel.listener import Listener

HERE = Path(__file__).resolve().parent
PROGRAM = HERE / "build" / "perform"
PATH = "/etc/hostname"
MAP = [(0, 100000, 65536)]
NAMES = ("mkdirat", "unlinkat", "renameat2")


class Took(NamedTuple):
    """Microseconds of one call in one run: the median, the 99th percentile, the first."""

    median: float
    most: float
    first: float


def build() -> None:
    PROGRAM.parent.mkdir(exist_ok=True)
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(PROGRAM), str(HERE / "perform.c")],
        check=True,
    )


def took(text: bytes | str, *, failing: bool = False) -> Took:
    """What the target printed.

    :param failing: its calls may fail."""
    median, most, first, failed = map(int, text.split())
    assert failing or not failed, f"{failed} calls failed"
    return Took(median / 1e3, most / 1e3, first / 1e3)


def natively(*command: str) -> Took:
    return took(subprocess.run(command, capture_output=True, check=True).stdout)


def in_c(mode: str, calls: int) -> Took:
    """A loop in C answers."""
    return took(answered_in_c(mode, "open", str(calls), PATH))


def answered_in_c(mode: str, *what: str, waiting: int = 0, receivers: int = 1) -> bytes:
    """What a target printed that a loop in C answers.

    :param receivers: by so many threads.
    :param waiting: it is told once so many opens are left unanswered."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    told, tell = os.pipe2(os.O_CLOEXEC)
    program = Filter([Rule(("openat", *NAMES), NOTIFY)], ALLOW).compile().code
    started = launch(
        [str(PROGRAM), *what],
        program=program,
        fds=((told, 0), (writer, 1), (2, 2)),
    )
    os.close(writer)
    os.close(told)
    listener = Listener(started.take_listener())
    listener.set_flags(1)
    loop = subprocess.Popen(
        [str(PROGRAM), "serve", mode, str(receivers)],
        preexec_fn=lambda: os.dup2(listener.fileno(), 3),  # noqa: PLW1509
        pass_fds=(3,) if listener.fileno() == 3 else (),
        close_fds=False,
        stdout=subprocess.PIPE,
    )
    listener.close()
    assert loop.stdout is not None
    loop.stdout.read(waiting)
    os.write(tell, b"\n")
    os.close(tell)
    with open(reader, "rb") as file:
        text = file.read()
    started.wait(30)
    started.close()
    loop.wait(30)
    loop.stdout.close()
    return text


def beside_in_c(waiting: int, calls: int) -> tuple[float, float]:
    """As :func:`beside`, answered by a loop in C, which lets the others wait."""
    fifo = "/nowhere/fifo"  # nobody opens it
    text = answered_in_c("waits", "beside", str(waiting), str(calls), PATH, fifo, waiting=waiting)
    before, meanwhile, ended = map(int, text.split())
    assert not ended, f"{ended} opens did not wait"
    return before / 1e3, meanwhile / 1e3


@proctor.on("openat", "mknodat")
def performs(call: proctor.Call) -> proctor.Verdict:
    return proctor.perform()


@proctor.on("openat", "mknodat")
def performs_by_path(call: proctor.Call) -> proctor.Verdict:
    return proctor.perform(lambda argument, path: not path.startswith(b"/secret/"))


def in_proctor(handler: Any, *command: str, **options: Any) -> Took:
    return took(proctor.run(command, [handler], capture_output=True, **options).stdout)


def beside(waiting: int, calls: int, program: str, **options: Any) -> tuple[float, float]:
    """Microseconds of others' opens, before so many opens wait in a FIFO, and meanwhile."""
    containers: list[proctor.Container] = []

    @proctor.on("openat", performs=True)
    def performed(call: proctor.Call) -> proctor.Verdict:
        if not containers:
            containers.append(call.container)
        return proctor.perform()

    fifo = os.path.join(os.path.dirname(program), "fifo")
    if not os.path.exists(fifo):
        os.mkfifo(fifo)
        os.chmod(fifo, 0o666)
    most = waiting + 100
    with proctor.spawn(
        (program, "beside", str(waiting), str(calls), PATH, fifo),
        [performed],
        stdin=proctor.PIPE,
        stdout=proctor.PIPE,
        quotas=proctor.Quotas(performers=most),
        performing={"limit": most},
        **options,
    ) as process:
        while not containers or process.supervisor.taken(containers[0]) != (waiting, 0):
            time.sleep(0.01)
        before, meanwhile, ended = map(int, process.communicate(b"\n")[0].split())
        assert not ended, f"{ended} opens did not wait"
    return before / 1e3, meanwhile / 1e3


def in_turns(rounds: int, *measures: Callable[[], Took]) -> Sequence[Took]:
    """Medians of all measures, taken in turns."""
    found = [[measure() for measure in measures] for _ in range(rounds)]
    return [
        Took(*(statistics.median(each) for each in zip(*column, strict=True)))
        for column in zip(*found, strict=True)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--names", action="store_true", help="only calls about names")
    options = parser.parse_args()
    build()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        os.chmod(place, 0o755)
        program = shutil.copy(PROGRAM, place)
        nodes = os.path.join(place, "nodes")
        os.mkdir(nodes)
        opens = (program, "open", str(options.calls), PATH)
        other: dict[str, Any] = {"userns": MAP if os.geteuid() == 0 else True}
        print(
            f"{'measure':<52} {'floor':>9} {'proctor':>9} {'99 %':>9} {'first':>9}  ratio  wanted"
        )

        def line(what: str, floor: Took, ours: Took, wanted: str) -> None:
            ratio = ours.median / floor.median
            print(
                f"{what:<52} {floor.median:>7.1f}µs {ours.median:>7.1f}µs {ours.most:>7.1f}µs "
                f"{ours.first:>7.0f}µs {ratio:>6.2f}x  {wanted}",
                flush=True,
            )

        for what, mode, handler, more, wanted in (
            ()
            if options.names
            else (
                ("open, own identity", "own", performs, {}, "≤ 2x"),
                ("the same beside a loop that looks likewise", "exactly", performs, {}, ""),
                ("open, own identity, rule on its path", "own", performs_by_path, {}, ""),
                ("open, another identity", "hop", performs, other, "≤ 1.6x"),
                (
                    "open, another identity, rule on its path",
                    "twice",
                    performs_by_path,
                    other,
                    "≤ 1.6x",
                ),
            )
        ):
            floor, ours = in_turns(
                options.rounds,
                lambda: in_c(mode, options.calls),  # noqa: B023
                lambda: in_proctor(handler, *opens, **more),  # noqa: B023
            )
            line(what, floor, ours, wanted)
        for where in ("/dev/shm", "/var/tmp"):
            with tempfile.TemporaryDirectory(dir=where) as memory:
                os.chmod(memory, 0o777)
                for mode, more, wanted in (("own", {}, "≤ 2x"), ("hop", other, "≤ 1.6x")):
                    for name in ("unlink", "mkdir", "rename"):
                        changes = (program, name, str(options.calls), memory)
                        exactly = "exactly" if mode == "own" else "exactly-hop"
                        floor, alike, ours = in_turns(
                            options.rounds,
                            lambda: took(answered_in_c(mode, *changes[1:])),  # noqa: B023
                            lambda: took(answered_in_c(exactly, *changes[1:])),  # noqa: B023
                            lambda: in_proctor(families.names(), *changes, **more),  # noqa: B023
                        )
                        who = "own identity" if mode == "own" else "another identity"
                        line(f"{name} in {where}, {who}", floor, ours, wanted)
                        line("  the same beside a loop that looks likewise", alike, ours, "")
        if options.names:
            return 0
        with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
            creates = (program, "make", str(options.calls), memory)
            floor, ours = in_turns(
                options.rounds, lambda: natively(*creates), lambda: in_proctor(performs, *creates)
            )
        line("a file made on a tmpfs, own identity", floor, ours, "")
        for mode in ("own", "hop"):
            for receivers in (1, 2):
                one, four = (
                    took(
                        answered_in_c(
                            mode, "many", callers, str(options.calls), PATH, receivers=receivers
                        )
                    )
                    for callers in ("1", "4")
                )
                print(
                    f"{f'one caller or four, in C, {mode}, receivers: {receivers}':<52} "
                    f"{one.median:>7.1f}µs {four.median:>7.1f}µs {'':>29} {one.median / four.median:>6.2f}x",
                    flush=True,
                )
        for what, more in (("own", {}), ("another", other)):
            one, four = in_turns(
                options.rounds,
                *(
                    partial(
                        in_proctor,
                        performs,
                        program,
                        "many",
                        callers,
                        str(options.calls),
                        PATH,
                        **more,
                    )
                    for callers in ("1", "4")
                ),
            )
            print(
                f"{f'one caller or four at a time, {what} identity':<52} {one.median:>7.1f}µs "
                f"{four.median:>7.1f}µs {'':>29} {one.median / four.median:>6.2f}x  ≥ 1.5x",
                flush=True,
            )
        for waiting in (1, 64, 1000):
            for what, measure in (
                ("a loop in C", partial(beside_in_c, waiting, options.calls)),
                ("own identity", partial(beside, waiting, options.calls, program)),
                ("another identity", partial(beside, waiting, options.calls, program, **other)),
            ):
                found = [measure() for _ in range(options.rounds)]
                before, meanwhile = (statistics.median(each) for each in zip(*found, strict=True))
                print(
                    f"{f'others, while {waiting} opens wait, {what}':<52} {before:>7.1f}µs "
                    f"{meanwhile:>7.1f}µs {'':>19} {meanwhile / before:>6.2f}x  ≤ 1.3x",
                    flush=True,
                )
        if os.geteuid() == 0:
            os.chown(nodes, 100000, 100000)
            makes = (program, "mknod", str(options.calls // 5), nodes)
            floor, ours = in_turns(
                options.rounds,
                lambda: natively(*makes),
                lambda: in_proctor(performs, *makes, **other),
            )
            line("mknod of a device, another identity", floor, ours, "≤ 100 µs")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
