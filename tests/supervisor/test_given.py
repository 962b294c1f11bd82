"""A descriptor that is handed over is the caller's alone when it goes on."""

from __future__ import annotations

import os
import sys

import proctor

PROGRAM = """
import os, select
reader = os.getppid()
poll = select.poll()
poll.register(reader, select.POLLIN)
late = 0
for _ in range(1500):
    os.close(os.getppid())
    late += poll.poll(0) != [(reader, select.POLLHUP)]
print(late)
"""


def test_nobody_else_keeps_a_writer_open() -> None:
    """Otherwise a reader sees the end late, and a program that was just written cannot be run (ETXTBSY)."""
    reader, writer = os.pipe()

    given: list[int] = []

    @proctor.on("getppid")
    def give(call: proctor.Call) -> proctor.Verdict:
        given.append(call.tid)
        if len(given) == 1:
            return proctor.hand_over(reader, close=False)
        return proctor.hand_over(os.open(f"/proc/self/fd/{reader}", os.O_WRONLY))

    os.close(writer)
    try:
        done = proctor.run([sys.executable, "-c", PROGRAM], [give], capture_output=True)
    finally:
        os.close(reader)
    assert (done.returncode, done.stdout) == (0, b"0\n"), done.stderr
