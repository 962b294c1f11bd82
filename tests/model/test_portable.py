"""The model runs anywhere: no native core, no Linux-only module, no privilege."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "pwd", "grp", "termios") or name.endswith("._core"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.platform = "elsewhere"

from proctor.kernel import abi
from proctor.model.kernel.machine import Kernel
from proctor.model.kernel.program import Program

rows = [(0x20, 0, 0, 0), (0x15, 0, 1, 110), (0x06, 0, 0, 0x7FC00000), (0x06, 0, 0, 0x7FFF0000)]
monitor = Program(Kernel("6.18"))
listener = monitor.listen(b"".join(abi.SOCK_FILTER.pack(*row) for row in rows))
child = monitor.fork()
child.call("getppid")
request = monitor.recv(listener)
monitor.send(listener, request.id, 7)
assert child.result == 7
print("ran", [name for name in sys.modules if name.endswith("._core")])
"""


def test_the_model_runs_without_the_native_core_and_linux_only_modules():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("ran []\n", "")
