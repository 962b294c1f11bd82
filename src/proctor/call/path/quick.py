"""The usual path, in one native call (``_core.find``): the kernel walks, and the pin is asked for its name.

Only what comes out the same whoever looks is taken from there.  Everything else is left to the walk,
step by step (:mod:`proctor.call.path.walk`): what meets a magic link or ends on a procfs, where
``self`` would be the monitor; relative paths from above the caller's root; dangling links; every error.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from proctor.call.path.located import Located
from proctor.errors import CallGone

if TYPE_CHECKING:
    from proctor.call.path.resolve import CallerView
    from proctor.call.ports import ValidityPort


def find(
    view: CallerView, path: bytes, dirfd: int, follow: bool, entry: bool, resolve: int
) -> Located | None:
    """See :func:`proctor.call.path.resolve.locate`; None for what is left to the walk."""
    from proctor.kernel._core import find as native

    if resolve:
        return None
    try:
        root = view.root()
        base = root if path.startswith(b"/") else view.dir_fd(dirfd)
        found = native(0, root, base, path, follow, entry, True, -1, 0)
    except OSError:
        return None
    if found is None:
        return None
    there, pin, parent, _ = found
    name = there.rpartition(b"/")[2] if parent >= 0 else b""
    slash = parent >= 0 and path.endswith(b"/")
    return Located(there, pin=pin, parent=parent, name=name, must_be_directory=slash)


def find_name(
    tid: int, path: bytes, dirfd: int, follow: bool, entry: bool, listener: ValidityPort, id: int
) -> bytes | None:
    """What the thread ``tid``'s root calls the place; None for what is left to the walk.  Nothing of the
    caller's is kept: its root and directory are looked up for this.

    :raises CallGone: the caller is gone."""
    from proctor.kernel._core import find as native
    from proctor.kernel.thread import ProcFiles

    ProcFiles.check()
    try:
        found = native(tid, -1, dirfd, path, follow, entry, False, listener.fileno(), id)
    except OSError as error:
        if error.errno != errno.ENOENT:
            return None  # the listener is closed, which comes out elsewhere
        raise CallGone().about(pid=tid, notif_id=id) from None
    return None if found is None else found[0]
