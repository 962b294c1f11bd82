"""The usual path, in one native call (``_core.find``, ``_core.where``): the kernel walks, and the pin is asked for its name.

Only what comes out the same whoever looks is taken from there.  Everything else is left to the walk,
step by step (:mod:`proctor.call.path.walk`): what meets a magic link or ends on a procfs, where
``self`` would be the monitor; relative paths from above the caller's root; dangling links; every error.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proctor.call.path.located import Located
from proctor.kernel.thread import ProcFiles

if TYPE_CHECKING:
    from proctor.call.path.resolve import CallerView


def find(
    view: CallerView, path: bytes, dirfd: int, follow: bool, entry: bool, resolve: int
) -> Located | None:
    """See :func:`proctor.call.path.resolve.locate`; None for what is left to the walk."""
    if resolve:
        return None
    from proctor.kernel import _core

    try:
        root = view.root()
        base = root if path.startswith(b"/") else view.dir_fd(dirfd)
        found = _core.find(root, base, path, follow, entry)
    except OSError:
        return None
    if found is None:
        return None
    there, pin, parent = found
    name = there.rpartition(b"/")[2] if parent >= 0 else b""
    slash = parent >= 0 and path.endswith(b"/")
    return Located(there, pin=pin, parent=parent, name=name, must_be_directory=slash)


def _first_where(*arguments: Any) -> tuple[bytes, bytes | int | None]:
    """See that numbers in notifications are those of /proc, once in each process, and load the core:
    this module is importable where there is none."""
    global where  # noqa: PLW0603 - replaces itself
    from proctor.kernel import _core

    ProcFiles.check()
    where = _core.where
    return where(*arguments)


#: ``_core.where``.  :raises OSError: see there; ENOSYS without a procfs of our pid namespace.
where: Callable[..., tuple[bytes, bytes | int | None]] = _first_where


def _after_fork() -> None:
    global where  # noqa: PLW0603 - the child may be in another pid namespace
    where = _first_where


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
