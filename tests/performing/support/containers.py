"""Programs in an unprivileged container: its root is a range of the host's ids, its namespaces are its
own, and its calls are performed through a real filter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import proctor
from proctor.supervisor.handlers import Handler
from tests.performing.support.callers import CLONE_NEWNS, unshare

#: One that every user can run: the interpreter of the tests may be in somebody's home.
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
NAMESPACES = ("mnt", "uts", "ipc")
#: What every program begins with: results are printed by :func:`tried` and come out of :func:`told`.
PRELUDE = """
import ctypes, errno, json, os, stat, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
results = []
def tried(what, *args, **more):
    try:
        got = what(*args, **more)
    except OSError as error:
        got = errno.errorcode[error.errno]
    results.append(got.hex() if isinstance(got, bytes) else got)
    return got
def mount(source, target, kind, flags=0, data=None):
    if libc.mount(source, target, kind, ctypes.c_ulong(flags), data):
        raise OSError(ctypes.get_errno(), "mount")
def umount(target, flags=0):
    if libc.umount2(target, flags):
        raise OSError(ctypes.get_errno(), "umount")
"""


def inside(
    command: Sequence[str | bytes],
    handlers: Iterable[Handler],
    *,
    first: int = 100000,
    namespaces: Sequence[str] = NAMESPACES,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a command as root of a container, ids from ``first`` on."""
    how: dict[str, Any] = {"timeout": 500, "capture_output": True, "text": True, **options}
    return proctor.run(
        command, list(handlers), userns=[(0, first, 65536)], namespaces=namespaces, **how
    )  # fmt: skip


def told(
    program: str, *args: object, handlers: Iterable[Handler] = (), **options: Any
) -> list[Any]:
    """What a Python program in a container tells by ``tried``."""
    text = f"{PRELUDE}\n{program}\nprint(json.dumps(results))\n"
    done = inside([PYTHON, "-ISc", text, *map(str, args)], handlers, **options)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def container(top: bytes, *steps: Callable[[], object]) -> Callable[[], None]:
    """Set a caller up to be in a mount namespace of its own, in this directory."""

    def setup() -> None:
        unshare(CLONE_NEWNS)
        os.chdir(top)
        for step in steps:
            step()

    return setup
