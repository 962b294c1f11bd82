"""Programs of ours that another user runs, also where our interpreter is in a directory that is root's alone."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def by_user(user: int, script: str) -> list[str]:
    """The words by which root runs a shell's script as a user who may walk to what it needs: in a mount namespace of its own."""
    needed = sorted({str(Path(each).resolve()) for each in (sys.base_prefix, sys.prefix, ROOT)})
    shut = [each for path in needed for each in reversed(Path(path).parents) if not _is_open(each)]
    lines = ["set -e", "umask 022", "mount --make-rprivate /"]
    if shut:
        held = [path for path in needed if Path(path).is_relative_to(shut[0])]
        lines.append("mount -t tmpfs none /mnt")
        for number, path in enumerate(held):
            lines.append(f"mkdir /mnt/{number}; mount --bind {shlex.quote(path)} /mnt/{number}")
        lines.append(f"mount -t tmpfs -o mode=755 none {shlex.quote(str(shut[0]))}")
        for number, path in enumerate(held):
            at = shlex.quote(path)
            lines.append(f"mkdir -p {at}; mount --bind /mnt/{number} {at}")
    words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "sh", "-c", script]
    return ["unshare", "-m", "sh", "-c", "\n".join([*lines, f"exec {shlex.join(words)}"])]


def _is_open(directory: Path) -> bool:
    return bool(os.stat(directory).st_mode & 0o001)
