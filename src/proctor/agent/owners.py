"""Whether a process is a user's, and whose user namespace it is in: what a runtime claims is looked at
before it is served."""

from __future__ import annotations

import os

from proctor.call.caller import Caller
from proctor.errors import CallError, CallGone, ProctorError


def owner_userns(pid: int, uid: int) -> tuple[int, ...]:
    """Inode numbers of user namespaces in which rights were given by the container's owner: that of
    its process, if ``uid`` made it in our own.

    Of root's, and our own, nothing is said: root's runtimes may make a container of any process, and
    what our user made is known to performers (``nested``).

    :param pid: as the runtime says; 0 if it does not know.
    :raises ProctorError: the process is not that user's.
    """
    if pid <= 0 or uid in (0, os.geteuid()):
        return ()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ()  # and with it its calls
    except PermissionError:
        pass  # it is there
    try:
        with Caller(pid, None, 0) as process:
            mine = os.stat("/proc/self/ns/user").st_ino
            if process.userns_origin() == (mine, uid):
                return (process.userns,)
            if process.userns == mine and process.uids.real == uid:
                return ()
    except CallGone:
        return ()
    except (CallError, OSError) as problem:
        raise ProctorError(f"process {pid} cannot be looked at: {problem}") from None
    raise ProctorError(f"process {pid} is not one of user {uid}")
