"""All tests, in parts, several at once: what performs and what runs containers waits for the kernel, what simulates computes.

    python -m tools.in_parts [PYTEST ARGUMENTS]

A part is the files of a folder, or some of them, in a pytest of its own that remembers its own failures, for --last-failed.  Whatever
it says is passed on at once, with the part's name before it; a failure is told when it happens (tools/at_once.py).
A part of which the arguments choose no test is no failure, unless no other one has any either.  Arguments that name files
are for one pytest alone.  PROCTOR_TEST_JOBS is how many parts run at once: by default one more than there are processors.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

TESTS = Path("tests")
#: Files of a part, at most: what is left at the end is to be small.  Folders of a few are taken together: each pytest takes a
#: second to begin.
MOST, FEW = 16, 5
SMALL = "tests/small"
#: These take longest, so they begin first.
FIRST = ("tests/agent", "tests/model")
NONE = 5  # pytest: no tests were collected
JOBS = int(os.environ.get("PROCTOR_TEST_JOBS", "0")) or len(os.sched_getaffinity(0)) + 1
#: Arguments after which a first failure is the last.
STOPS = ("-x", "--exitfirst", "--maxfail")


def parts() -> dict[str, list[str]]:
    """The parts by name, and their files, in the order in which they begin."""
    folders: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        folders.setdefault(str(path.parent), []).append(str(path))
    small = [name for name, files in folders.items() if len(files) <= FEW]
    folders[SMALL] = [file for name in small for file in folders.pop(name)]
    found = {}
    for folder in sorted(folders, key=lambda name: (name not in FIRST, name)):
        files = folders[folder]
        pieces = -(-len(files) // MOST)
        for piece in range(pieces):
            name = folder.replace("/", "-") + (f"-{piece + 1}" if pieces > 1 else "")
            found[name] = files[piece::pieces]
    return found


class Run:
    """The parts that are left, and what became of the others."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.left = parts()
        self.became: dict[str, tuple[int, float]] = {}
        self._one = threading.Lock()

    def work(self) -> None:
        """One part after the other, until none is left."""
        stops = any(each.startswith(STOPS) for each in self.arguments)
        while True:
            with self._one:
                failed = any(status not in (0, NONE) for status, _ in self.became.values())
                if not self.left or (stops and failed):
                    return
                name = next(iter(self.left))
                files = self.left.pop(name)
            began = time.monotonic()
            status = self.part(name, files)
            with self._one:
                self.became[name] = status, time.monotonic() - began

    def part(self, name: str, files: list[str]) -> int:
        """How that part ended; each line of it is passed on."""
        command = [
            sys.executable, "-u", "-m", "pytest", "-q", "-p", "tools.at_once",
            "-o", f"cache_dir=.pytest_cache/{name}", *files, *self.arguments,
        ]  # fmt: skip
        ran = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
        )
        assert ran.stdout is not None
        passing_on = threading.Thread(target=self.pass_on, args=(name, ran.stdout), daemon=True)
        passing_on.start()
        ran.wait()
        # What a test left behind may hold the other end: then all that is of interest was read.
        passing_on.join(10)
        return ran.returncode

    def pass_on(self, name: str, said: IO[str]) -> None:
        for line in said:
            with self._one:
                print(f"{name} | {line}", end="", flush=True)


def main(arguments: list[str]) -> int:
    if any(Path(each.partition("::")[0]).exists() for each in arguments):
        return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode
    run = Run(arguments)
    threads = [threading.Thread(target=run.work) for _ in range(JOBS)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, (status, took) in sorted(run.became.items(), key=lambda item: -item[1][1]):
        print(f"{took:7.1f} s  {name}" + (f": exit {status}" if status not in (0, NONE) else ""))
    print(f"{time.monotonic() - began:7.1f} s  all, {JOBS} parts at once")
    statuses = {status for status, _ in run.became.values()}
    return NONE if statuses == {NONE} else int(bool(statuses - {0, NONE}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
