"""How many user namespaces a container may make.

PROCTOR_TRIES and PROCTOR_SEED are as for test_random.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import proctor
from proctor import families
from tests.performing.support.containers import PYTHON

PROGRAM = Path(__file__).parents[1] / "at_random" / "random_userns.py"
TRIES = int(os.environ.get("PROCTOR_TRIES", "40"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))

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


def test_each_container_has_a_count_of_its_own() -> None:
    """Two at a time under one rule: what one has made is not the other's."""
    code = CODE.replace("\n# clone(2) itself", "\nsys.stdout.flush(); input()\n# clone(2) itself")
    rule = families.userns(most=2)
    begun = [
        proctor.spawn(
            [sys.executable, "-ISc", code], [rule], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [each.communicate(b"\n", timeout=60)[0].decode() for each in begun]
    if "EPERM" in said[0]:
        pytest.skip("no user namespaces here")
    assert said == ["0 0 0 ENOSPC 0\n-1 ENOSPC\nENOSYS\nthread\n0\n"] * 2


ENTERED = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def tried(call, *args):
    return errno.errorcode[ctypes.get_errno()] if call(*args) else 0
def made():
    back, out = os.pipe()
    held, hold = os.pipe()
    child = os.fork()
    if not child:
        os.close(hold)
        os.write(out, str(tried(libc.unshare, 0x10000000)).encode())
        os.read(held, 1)
        os._exit(0)
    os.close(held)
    return child, os.read(back, 16), hold
child, said, hold = made()
namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
for kind in (0x10000000, 0):
    entering = os.fork()
    if not entering:
        print(tried(libc.setns, namespace, kind), os.readlink("/proc/self/ns/user") == os.readlink(f"/proc/{child}/ns/user"), flush=True)
        os._exit(0)
    os.waitpid(entering, 0)
os.close(hold)
print(said, made()[1])
"""


@pytest.mark.parametrize("refused", [False, True])
def test_those_that_are_entered_are_not_counted(refused: bool) -> None:
    """setns(2) makes none, and may be refused."""
    no = proctor.Handler(["setns"], lambda call: proctor.deny(1), label="who is in stays in")
    done = proctor.run(
        [sys.executable, "-ISc", ENTERED],
        [families.userns(most=1), *([no] if refused else [])],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    if "b'EPERM'" in done.stdout:
        pytest.skip("no user namespaces here")
    each = "EPERM False\n" if refused else "0 True\n"
    assert done.stdout == f"{each * 2}b'0' b'ENOSPC'\n", done.stderr


@pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
def test_what_is_counted_is_made_as_natively(user: bool) -> None:
    """Flags of all sorts: what the call says, which namespaces are others then, and with which rights."""
    command = [PYTHON, "-ISc", PROGRAM.read_text(), str(SEED), str(TRIES)]
    who = {"user": 1000, "group": 1000, "extra_groups": []} if user else {}
    natively = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        **who,  # type: ignore[call-overload]
    )
    who = {"uid": 1000, "gid": 1000, "groups": ()} if user else {}
    counted = proctor.run(
        command,
        [families.userns(most=1 << 20)],
        capture_output=True,
        text=True,
        timeout=300,
        **who,  # type: ignore[arg-type]
    )
    assert counted.returncode == 0, counted.stderr
    assert len(natively.stdout.splitlines()) >= TRIES
    pairs = zip(natively.stdout.splitlines(), counted.stdout.splitlines(), strict=False)
    wrong = [f"{one}\n{other}" for one, other in pairs if one != other]
    assert not wrong, "\n".join(wrong[:20])
    assert natively.stdout == counted.stdout
