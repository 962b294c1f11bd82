"""Who sits above this process with the one listener that the kernel allows, as far as can be told."""

from __future__ import annotations

import os
from typing import Final

from proctor.errors import ProctorError
from proctor.process import asking

#: Where runtimes leave a file in a container: podman, Docker.
_MARKS: Final = ("run/.containerenv", ".dockerenv")
#: Inode of the machine's first pid namespace: PROC_PID_INIT_INO of include/linux/proc_ns.h.
_FIRST: Final = 0xEFFFFFFC


def who_is_above(root: str = "/", release: str = "") -> str:
    """What is known of the listener above, and what helps, in a sentence.

    :param root: where files are looked for.
    :param release: of the kernel; our own by default.
    """
    from proctor.process.above import above

    try:
        fd = above()
    except ProctorError as problem:
        if os.environ.get(asking.VARIABLE):
            return str(problem)
    else:
        return (
            f"a proctor run or proctor agent, which takes others in by descriptor {fd}: proctor run registers with "
            "it (docs/delegation.md)"
        )
    if "microsoft" in (release or os.uname().release).lower():
        # https://github.com/microsoft/WSL/issues/9548
        return (
            "WSL2's own init, where its networking is mirrored: networkingMode=nat in .wslconfig, then "
            "wsl --shutdown"
        )
    if _in_container(root):
        return (
            "most likely the agent of this container's runtime, since the container's seccomp profile has a "
            "listener: have that agent decide (rules in the policy that proctor agent has for this "
            "container), or start the container with a profile without SCMP_ACT_NOTIFY and run proctor in it, or "
            "have the agent serve the command instead (proctor run --agent, on the host), which takes others in "
            f"({asking.VARIABLE} is not set)"
        )
    return f"not known: one that takes nobody in ({asking.VARIABLE} is not set)"


def _in_container(root: str) -> bool:
    """Whether a runtime left its mark, or our pid namespace is not the machine's first."""
    if any(os.path.exists(os.path.join(root, name)) for name in _MARKS):
        return True
    try:
        return os.stat(os.path.join(root, "proc/self/ns/pid")).st_ino != _FIRST
    except OSError:
        return False
