"""What one notified open costs by what is done with it, in one run and in turns.

Builds ``bench/floor.c`` and ``bench/perform.c``, whose target opens one short path again and again, and takes the
time of each call.  Beside proctor stand loops in C that do the least that can be done, and ``strace -f
--seccomp-bpf``, which people know.  Prints medians of the runs' medians; figures and the command that made
them are kept in docs/benchmarks.md.

    python bench/percall.py [--rounds N] [--calls N] [--only TEXT]

Another identity takes root.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import perform
import roundtrip

import proctor
from proctor.filter.actions import ALLOW, NOTIFY
from proctor.filter.rules import Filter, Rule
from proctor.kernel.launch import launch
from proctor.kernel.listener import Listener
from proctor.observe.jsonlog import JsonLog, to_file
from proctor.policy import loads

PATH = perform.PATH
#: What is refused instead where the path is to be let run.
OTHERS = "/root/.secrets/**"
REFUSED = proctor.deny(errno.EACCES)
RULES = """version = 1
[[rule]]
name = "closed"
calls = ["openat"]
when = {{ {key} = "{pattern}" }}
deny = "EACCES"

[[rule]]
name = "open"
calls = ["openat"]
{yes}
"""
LET_RUN = 'allow = "unsafe: a benchmark that nobody races"'


class Measure(NamedTuple):
    """One line of the table: medians of a run, in microseconds, and what bounds it."""

    name: str
    run: Callable[[], perform.Took]
    #: Microseconds at most.
    most: float | None = None
    #: Most times the measure of that name.
    times: tuple[float, str] | None = None


@proctor.on("openat")
def constant(call: proctor.Call) -> proctor.Verdict:
    return REFUSED


@proctor.on("openat")
def read_path(call: proctor.Call) -> proctor.Verdict:
    return REFUSED if call.path else proctor.let_run()


@proctor.on("openat")
def performs(call: proctor.Call) -> proctor.Verdict:
    return proctor.perform()


class Bench:
    """The measures, for a target that makes so many calls in each run."""

    def __init__(self, scratch: Path, calls: int) -> None:
        target = str(scratch / "target")
        source = str(perform.HERE / "perform.c")
        # Without a loader, whose opens would be refused as well.
        subprocess.run(["gcc", "-O2", "-static", "-o", target, source], check=True)
        self.target = (target, "open", str(calls), PATH)
        self.log = str(scratch / "log")
        self.traced = str(scratch / "traced")

    def natively(self, *before: str) -> perform.Took:
        """Natively, or as the argument of another command."""
        done = subprocess.run([*before, *self.target], capture_output=True, check=True)
        return perform.took(done.stdout, failing=True)

    def in_c(self, mode: str) -> perform.Took:
        """A loop in C answers."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        program = Filter([Rule(("openat",), NOTIFY)], ALLOW).compile().code
        started = launch(list(self.target), program=program, fds=((0, 0), (writer, 1), (2, 2)))
        os.close(writer)
        with Listener(started.take_listener()) as listener:
            listener.set_flags(1)
            loop = subprocess.Popen(
                [str(roundtrip.FLOOR), "serve", mode],
                preexec_fn=lambda: os.dup2(listener.fileno(), 3),  # noqa: PLW1509
                pass_fds=(3,) if listener.fileno() == 3 else (),
                close_fds=False,
            )
        with open(reader, "rb") as file:
            text = file.read()
        started.wait(30)
        started.close()
        loop.wait(30)
        return perform.took(text, failing=True)

    def supervised(self, *handlers: Any, log: bool = False, **options: Any) -> perform.Took:
        """proctor answers, with a log if asked for."""
        lines = None
        if log:
            lines = to_file(self.log, print)
            options["observers"] = [JsonLog(lines, containers=False)]
        done = proctor.run(self.target, handlers, capture_output=True, **options)
        if lines is not None:
            lines.close(30.0, 30.0)
            os.unlink(self.log)
        return perform.took(done.stdout, failing=True)

    def ruled(
        self,
        pattern: str = PATH,
        key: str = "path",
        log: bool = False,
        yes: str = LET_RUN,
        **options: Any,
    ) -> perform.Took:
        """A policy decides that refuses what matches a pattern."""
        policy = loads(RULES.format(key=key, pattern=pattern, yes=yes))
        options |= policy.supervisor_options()
        return self.supervised(*policy.handlers(), log=log, filter=policy.filter(), **options)

    def measures(self) -> list[Measure]:
        """All of them, floors first."""
        c, c_path, strace = "C loop, constant", "C loop that reads the path", "strace --seccomp-bpf"
        plain = "constant answer"
        tracer = (
            "strace", "-f", "--seccomp-bpf", "-e", "trace=openat", "-o", self.traced,
        )  # fmt: skip
        found = [
            Measure("natively", self.natively),
            Measure(c, lambda: self.in_c("deny")),
            Measure(c_path, lambda: self.in_c("path")),
            Measure(plain, lambda: self.supervised(constant), times=(1.4, c)),
            Measure(
                "constant answer, counted",
                lambda: self.supervised(constant, observers=[proctor.Counters()]),
                times=(1.1, plain),
            ),
            Measure("constant answer, log", lambda: self.supervised(constant, log=True), 12),
            Measure("path read by a handler", lambda: self.supervised(read_path)),
            Measure(
                "rule on the path's text", lambda: self.ruled(PATH, "path_text"), times=(2, c_path)
            ),
            Measure("rule on the path, deny", self.ruled, 14, (0.7, strace)),
            Measure("rule on the path, let run", lambda: self.ruled(OTHERS), 14, (0.7, strace)),
            Measure("rule on the path, let run, log", lambda: self.ruled(OTHERS, log=True)),
            Measure("performed", lambda: self.supervised(performs)),
            Measure("performed by a rule", lambda: self.ruled(OTHERS, yes="perform = true")),
            Measure(
                "performed by a rule, log",
                lambda: self.ruled(OTHERS, log=True, yes="perform = true"),
            ),
        ]
        if os.geteuid() == 0:
            found.append(
                Measure(
                    "rule on the path, deny, another identity",
                    lambda: self.ruled(userns=perform.MAP),
                    35,
                )
            )
        if shutil.which("strace"):
            found.insert(3, Measure(strace, lambda: self.natively(*tracer)))
        return found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--only", default="", help="measures with this in their names, and floors")
    options = parser.parse_args()
    roundtrip.build()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        os.chmod(place, 0o755)
        measures = Bench(Path(place), options.calls).measures()
        floors = {each.times[1] for each in measures if each.times is not None}
        chosen = [each for each in measures if options.only in each.name or each.name in floors]
        found: dict[str, list[perform.Took]] = {each.name: [] for each in chosen}
        for _ in range(options.rounds):
            for each in chosen:
                found[each.name].append(each.run())
    print(f"{'measure':<44} {'median':>9} {'99 %':>9}  wanted")
    medians = {name: statistics.median(one.median for one in took) for name, took in found.items()}
    for each in chosen:
        most = statistics.median(one.most for one in found[each.name])
        bounds = [] if each.most is None else [f"≤ {each.most:g} µs"]
        if each.times is not None and each.times[1] in medians:
            times, floor = each.times
            ratio = medians[each.name] / medians[floor]
            bounds.append(f"{ratio:.2f}x of {floor}, ≤ {times:g}x")
        print(f"{each.name:<44} {medians[each.name]:>7.2f}µs {most:>7.1f}µs  {'; '.join(bounds)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
