"""Who sits above this process with the one listener that the kernel allows, as far as can be told."""

from __future__ import annotations

import os

from proctor.errors import ProctorError


def who_is_above(root: str = "/", release: str = "") -> str:
    """What is known of the listener above, and what helps, in a sentence.

    :param root: where files are looked for.
    :param release: of the kernel; our own by default.
    """
    from proctor.process.above import above

    try:
        fd = above()
    except ProctorError as problem:
        why = str(problem)
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
    if any(
        os.path.exists(os.path.join(root, name)) for name in ("run/.containerenv", ".dockerenv")
    ):
        return (
            "most likely the agent of this container's runtime: its seccomp profile has a listener; take "
            "a profile without SCMP_ACT_NOTIFY, or have that agent (proctor agent) decide"
        )
    return f"not known ({why})"
