"""A policy is asked about what is pinned, and the call told what it acts on."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from proctor.call.path.located import FileId
from proctor.call.path.procfs import TOO_LONG
from proctor.call.verdict import deny
from proctor.performing.paths import pins
from proctor.performing.trouble import Refused

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Perform
    from proctor.performing.paths import filestat


def file_of(status: filestat.Status) -> FileId:
    """Which file it is."""
    return FileId(os.makedev(*status.device), status.inode, status.mount)


def act_on(call: Call, named: pins.Named) -> None:
    """A rule has allowed what is pinned."""
    call.acts_on("path", named.path, file_of(named.status))


def permit(
    call: Call, wish: Perform, argument: str, path: bytes, status: filestat.Status | None
) -> None:
    """Ask about what is pinned: see :meth:`proctor.performing.task.Task.permit`.

    :raises Refused: it may not be."""
    file = None if status is None else file_of(status)
    call.acts_on(argument, path, file)
    if wish.allow is not None and path.startswith(pins.UNSAID):
        raise Refused(deny(errno.EACCES, f"no rule can be asked about it: {TOO_LONG}"))
    refused = call.contradiction(argument, path, file) or wish.refusal(argument, path)
    if refused is not None:
        raise Refused(refused)
