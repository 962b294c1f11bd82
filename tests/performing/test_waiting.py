"""Performed calls that wait for the target itself: no bound of ours stands between them and their end."""

from __future__ import annotations

import sys

import proctor

#: More opens wait than there are workers; each one's other end is opened by a performed call, too.
FIFOS = """
import os, sys, threading
count = int(sys.argv[1])
names = [f"fifo{n}" for n in range(count)]
for name in names:
    os.mkfifo(name)
def read(name):
    with open(name, "rb", buffering=0) as file:
        assert file.read(9) == name.encode()[:9]
readers = [threading.Thread(target=read, args=(name,)) for name in names]
for reader in readers:
    reader.start()
for name in names:
    with open(name, "wb", buffering=0) as file:
        file.write(name.encode())
for reader in readers:
    reader.join()
print("all")
"""


@proctor.on("open", "openat", "creat")
def performed(call: proctor.Call) -> proctor.Verdict:
    return proctor.perform()


def test_more_opens_wait_in_fifos_than_there_are_workers(tmp_path: object) -> None:
    done = proctor.run(
        [sys.executable, "-ISc", FIFOS, "40"], [performed], workers=2, userns=True, cwd=str(tmp_path),
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"all\n", b"")


def test_what_waits_ends_with_its_caller(tmp_path: object) -> None:
    """Nobody ever opens the other end: a signal ends the wait."""
    program = "import os, signal; os.mkfifo('f'); signal.alarm(1); open('f')"
    done = proctor.run(
        [sys.executable, "-ISc", program], [performed], userns=True, cwd=str(tmp_path),
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == -14
