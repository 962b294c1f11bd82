"""Closing what users sent: who is not trusted has it closed by others, and who has too much that cannot be closed is not let
in."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from proctor.agent.owners import is_trusted
from proctor.kernel.closing import Closers

#: Most descriptors of one user that are being closed before no more is taken from him; each may have a thread.
MOST: Final = 256

#: By user.
dropped: Final = Closers()


def drop(uid: int, fds: Iterable[int]) -> None:
    """Close what that user sent."""
    if not is_trusted(uid):
        dropped.close(fds, uid)
        return
    for fd in fds:
        os.close(fd)


def is_late(uid: int) -> bool:
    """Whether that user has too much that is not closed."""
    return dropped.left(uid) >= MOST
