"""Compiles the victim, once for as long as its source stays the same."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("victim.c")
BINARY = Path(__file__).parent / "build" / "victim"
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread"]


def build() -> Path:
    """The victim, compiled if the source is newer than the binary.

    Linked statically where libc allows it: it starts faster and calls less on its way.

    :raises FileNotFoundError: no C compiler here.
    :raises subprocess.CalledProcessError: it does not compile; the output says why."""
    if BINARY.exists() and BINARY.stat().st_mtime >= SOURCE.stat().st_mtime:
        return BINARY
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise FileNotFoundError("no C compiler (cc or gcc) to build the victim with")
    BINARY.parent.mkdir(exist_ok=True)
    # A second test run may be building too: each writes its own file, the last one stays.
    made = BINARY.with_name(f"victim.{os.getpid()}")
    base = [compiler, *FLAGS, "-o", str(made), str(SOURCE)]
    try:
        if subprocess.run([*base, "-static"], capture_output=True, check=False).returncode != 0:
            subprocess.run(base, check=True)
        made.replace(BINARY)
    finally:
        made.unlink(missing_ok=True)
    return BINARY
