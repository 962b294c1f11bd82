"""Boot other kernels in emulated machines and run the comparison and the tests on them.

For each kernel: `proctor doctor`, which features it has (tests/model/probed.py), steps of the model
against it (tests/model/compare.py), and the tests of some directories.  Kernels come from apt; they
are downloaded and unpacked, never installed.  Needs Linux on x86-64, Debian's tools (apt, dpkg),
QEMU and the environment of the project; neither root nor KVM.

With --arch the machine is another one: its Python and all else it runs are unpacked from packages, too,
and the project is compiled for it here.

A kernel is named [?]VERSION[@WHERE]: "6.1" from the system's own sources, "5.10@bullseye" from
another suite of the same mirror, "5.4@FILE" from the sources of an apt list of yours, "@sid" the
newest there; after "?" it may be missing.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path

from tools.kernels import architectures, foreign, image, machine, packages
from tools.kernels.report import Outcome, table

sys.dont_write_bytecode = True
TREE = Path(__file__).resolve().parents[2]

TESTS = ("tests/kernel", "tests/supervisor", "tests/performing", "tests/process")
#: What may be otherwise on another architecture, by part: such machines are slow, to begin with tests as well.
FOREIGN_TESTS = {
    "conformance": "tests/conformance",
    "kernel": "tests/kernel",
    "calls": "tests/syscalls tests/call",
    "performers": "tests/performing/executing/test_performers.py tests/performing/executing/test_executor.py",
    "open": "tests/performing/families/test_open_differential.py tests/performing/short_ways/test_short.py",
    "mknod": "tests/performing/families/test_mknod.py tests/performing/short_ways/test_nodes.py",
    "mount": "tests/performing/mounts/test_mount.py",
    "sockets": "tests/performing/networks/test_connect.py",
    "stat": "tests/performing/families/test_stat.py tests/performing/families/test_xattr.py",
    "signals": "tests/performing/executing/test_long.py",
}


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", choices=architectures.ALL, default="amd64",
                        help="of the machine (%(default)s)")  # fmt: skip
    parser.add_argument(
        "kernels", nargs="*", metavar="KERNEL",
        help="default: " + "; ".join(f"{key}: {' '.join(a.kernels)}" for key, a in architectures.ALL.items()),
    )  # fmt: skip
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proctor-kernels"
    parser.add_argument(
        "--cache", type=Path, default=cache, help="where everything is kept (%(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, help="to compare (10000; none on others, which the model is not of)"
    )
    parser.add_argument(
        "--compare", action="append", default=[], metavar="OPTION", help="for model.compare"
    )
    parser.add_argument(
        "--profile", default="", help="release that the model is to be (the kernel's own)"
    )
    parser.add_argument("--tests", action="append", metavar="PATH",
                        help='to run inside; "" for none (default: some directories)')  # fmt: skip
    parser.add_argument("--part", action="append", choices=FOREIGN_TESTS, metavar="PART",
                        help=f"on another architecture, only this one: {' '.join(FOREIGN_TESTS)}")  # fmt: skip
    parser.add_argument(
        "--pytest", action="append", default=[], metavar="OPTION", help="for pytest"
    )
    parser.add_argument("--run", action="append", default=[], metavar="COMMAND",
                        help="run this in the machine, first; its output is in the console's log")  # fmt: skip
    parser.add_argument("--only", action="store_true", help="only what --run says")
    parser.add_argument("--processors", type=int, default=2, help="of the machine (%(default)s)")
    parser.add_argument(
        "--limit", type=float, default=3600, help="seconds for one part (%(default)s)"
    )
    parser.add_argument(
        "--table", action="store_true", help="only print the kept results as a table"
    )
    chosen = parser.parse_args()
    chosen.arch = architectures.ALL[chosen.arch]
    native = chosen.arch is architectures.AMD64
    try:
        chosen.kernels = [packages.parse(text) for text in chosen.kernels or chosen.arch.kernels]
    except ValueError as problem:
        parser.error(str(problem))
    if chosen.steps is None:
        chosen.steps = 10_000 if native else 0
    if chosen.tests is None:
        parts = chosen.part or FOREIGN_TESTS
        chosen.tests = TESTS if native else [FOREIGN_TESTS[each] for each in parts]
    chosen.tests = [path for path in chosen.tests if path]
    chosen.cache = chosen.cache.resolve()
    return chosen


def one(wanted: packages.Wanted, chosen: argparse.Namespace) -> Outcome | None:
    """One kernel; None if it may be missing and is."""
    try:
        kernel = packages.fetch(wanted, chosen.cache, chosen.arch)
    except packages.NotThere as problem:
        print(
            f"{wanted}: {'not there, which may be' if wanted.optional else 'NOT THERE'}: {problem}",
            flush=True,
        )
        if wanted.optional:
            return None
        raise
    plan = {
        key: getattr(chosen, key)
        for key in ("steps", "compare", "profile", "tests", "pytest", "limit", "run", "only")
    } | {"slowness": 10 * chosen.arch.slowness}
    work = chosen.cache / "runs" / kernel.release
    work.mkdir(parents=True, exist_ok=True)
    busy = open(work / "busy", "w", encoding="ascii")  # noqa: SIM115 - held until it is forgotten
    fcntl.flock(busy, fcntl.LOCK_EX)  # another run may be at this kernel
    if chosen.arch is architectures.AMD64:
        system, native = image.own(), image.built(TREE)
    else:
        system = foreign.system(chosen.arch, chosen.cache)
        native = foreign.built(chosen.arch, TREE, chosen.cache)
    base = system.archive(chosen.cache / "systems" / chosen.arch.name)
    archive = work / "project.cpio"
    system.project(
        TREE, native | kernel.files(), archive,
        {
            "/init.sh": (TREE / "tools/kernels/init.sh").read_bytes(),
            "/run.json": json.dumps(plan).encode(),
        },
    )  # fmt: skip
    outcome = Outcome(kernel)
    print(f"{kernel.release}: {kernel.package}", flush=True)
    for event in machine.boot(
        chosen.arch, kernel.vmlinuz, [base, archive], work,
        processors=chosen.processors, patience=chosen.limit + 120,
    ):  # fmt: skip
        line = outcome.take(event)
        if line:
            print(f"{kernel.release}:   {line}", flush=True)
        if event.get("code"):
            print(event["text"], flush=True)
        if not chosen.only:
            keep(outcome, work / "result.json")
    archive.unlink()
    outcome.finish()
    return outcome


def keep(outcome: Outcome, place: Path) -> None:
    """What is known by now, for --table; of an earlier run what this one did not do again."""
    before = json.loads(place.read_text()) if place.exists() else {}
    place.write_text(json.dumps(outcome.as_dict(before.get("parts", {})), indent=1))


def main() -> int:
    """The command: 0 if all went well on all kernels, 1 if not, 2 if it could not be tried."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print("test-kernels: needs Linux on x86-64", file=sys.stderr)
        return 2
    chosen = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # and no machine is left behind
    chosen.cache.mkdir(parents=True, exist_ok=True)
    if not chosen.table:
        code, began = 0, time.monotonic()
        for wanted in chosen.kernels:
            try:
                outcome = one(wanted, chosen)
            except packages.NotThere:
                code = 1
                continue
            except image.Missing as problem:
                print(f"test-kernels: {problem}", file=sys.stderr)
                return 2
            if outcome is not None and outcome.problems:
                print(f"{outcome.release}: FAILED: {'; '.join(outcome.problems)}", flush=True)
                code = 1
        print(f"{time.monotonic() - began:.0f} s in all")
    found = sorted(chosen.cache.glob("runs/*/result.json"))
    print(table([json.loads(path.read_text()) for path in found]))
    return 0 if chosen.table else code


if __name__ == "__main__":
    sys.exit(main())
