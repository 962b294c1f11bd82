"""How many user namespaces a container may make."""

from __future__ import annotations

import sys

import pytest

import proctor
from proctor import families

CODE = """
import ctypes, errno, os, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def made(flags):
    child = os.fork()
    if not child:
        os._exit(ctypes.get_errno() if libc.unshare(flags) else 0)
    return errno.errorcode.get(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
print(made(0x400), made(0x10000000), made(0x10000000 | 0x400), made(0x10000000), made(0x400))
# clone(2) itself, and what libraries make of clone3
child = libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)
if child == 0:
    os._exit(0)
print(child, errno.errorcode[ctypes.get_errno()])
libc.syscall(435, 0, 0)
print(errno.errorcode[ctypes.get_errno()])
thread = threading.Thread(target=print, args=["thread"]); thread.start(); thread.join()
print(subprocess.run(["true"]).returncode)
"""


@pytest.mark.parametrize("most", [2, 0])
def test_no_more_than_so_many(most: int) -> None:
    done = proctor.run(
        [sys.executable, "-ISc", CODE],
        [families.userns(most=most)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "EPERM" in done.stdout:
        pytest.skip("no user namespaces here")
    made = "0 0 0 ENOSPC 0" if most else "0 ENOSPC ENOSPC ENOSPC 0"
    assert done.stdout == f"{made}\n-1 ENOSPC\nENOSYS\nthread\n0\n", done.stderr
    with pytest.raises(proctor.PolicyError, match="most is a number"):
        families.userns(most=-1)
