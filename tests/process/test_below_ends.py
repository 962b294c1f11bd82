"""When a supervisor below another one is over: when nobody of its subtree is left, however they leave."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os
from proctor.kernel import raw
from proctor.process import above
from proctor.process.standing import standing

raw.adopt_orphans()
(leave, left), (go, gone) = os.pipe(), os.pipe()
parent = os.fork()
if not parent:
    os.close(left)
    if not os.fork():
        os.close(gone)
        os.read(go, 1)
        os._exit(0)
    os.read(leave, 1)
    os._exit(0)

class Target:
    pid, status = parent, None
    def poll(self):
        if self.status is None:
            reaped, status = os.waitpid(parent, os.WNOHANG)
            self.status = status if reaped else None
        return self.status

def seen(before=above.children):
    found = before()
    if parent in found:  # it ends, and leaves its child to us, when it was seen whom we have
        os.write(left, b"1")
        os.waitid(os.P_PID, parent, os.WEXITED | os.WNOWAIT)
    return found

above.children = seen
one = object.__new__(above.Delegated)
one._target, one._least = Target(), standing(os.getpid()).filters
print(one.wait(0))
os.write(gone, b"1")
print(one.wait(20))
"""


def test_whoever_is_left_while_it_is_looked_is_waited_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("False\nTrue\n", "")
