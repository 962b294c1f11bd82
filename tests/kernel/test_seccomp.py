"""seccomp(2) by hand, each try in a process of its own."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from proctor.kernel import abi, seccomp

TRIES = """
import ctypes, os
from proctor.kernel import abi, seccomp
from proctor.filter.rules import Filter
from proctor.filter.actions import ALLOW
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
allow = Filter([], ALLOW).compile().code
def tried(code, flags):
    try: return seccomp.load(code, flags)
    except OSError as problem: return -problem.errno
print(tried(allow, 0), tried(allow, abi.SECCOMP_FILTER_FLAG_LOG), tried(allow[:-1], 0), tried(b"", 0), tried(bytes(8 << 16), 0))
fd = tried(allow, abi.SECCOMP_FILTER_FLAG_NEW_LISTENER)
print(os.readlink(f"/proc/self/fd/{fd}"), os.get_inheritable(fd), tried(allow, abi.SECCOMP_FILTER_FLAG_NEW_LISTENER))
"""


def test_loading_filters() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRIES], capture_output=True, text=True, timeout=60, check=False
    )
    wrong, above = -errno.EINVAL, -errno.EBUSY
    said = f"0 0 {wrong} {wrong} {wrong}\nanon_inode:seccomp notify False {above}\n"
    assert done.stdout == said, done.stderr


def test_what_the_kernel_offers() -> None:
    assert seccomp.notif_sizes() == abi.NOTIF_SIZES
    assert not any(map(seccomp.flag_problem, ("TSYNC", "LOG", "NEW_LISTENER")))


def test_a_flag_that_no_kernel_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(abi.FILTER_FLAGS, "NONE", 1 << 31)
    assert seccomp.flag_problem("NONE") == errno.EINVAL
