"""What a caller and those that it comes of run."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from proctor.errors import NotPermitted
from proctor.kernel.thread import stat_fields

if TYPE_CHECKING:
    from proctor.call.caller import Caller

#: A family that is longer than this has made itself so.
_MOST: Final = 1024
_TRIES: Final = 8


def programs(caller: Caller) -> tuple[bytes, ...]:
    """The program of the caller, that of its parent, and so on, up to the monitor or the first process; as the
    kernel names them now.

    A process whose parent died comes of whoever took it in.

    :raises NotPermitted: one of them may not be looked at.
    :raises CallGone: the caller is gone."""
    if not caller.parent:
        return (caller.exe,)
    for _ in range(_TRIES):
        found, child, pid = [caller.exe], caller.tid, _one(caller.tid)[1]
        try:
            while pid and pid != os.getpid() and len(found) < _MOST:
                program, above = _one(pid)
                if _one(child)[1] != pid:
                    break  # its parent died, and the number may be another's
                if program is not None:
                    found.append(program)
                child, pid = pid, above
            else:
                caller.check()
                return tuple(found)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                why = f"process {pid}, which the caller comes of, may not be looked at"
                raise NotPermitted(error.errno, why) from None
        caller.check()
    raise NotPermitted(errno.EAGAIN, "those that the caller comes of come and go")


def _one(pid: int) -> tuple[bytes | None, int]:
    """(its program, None for one that is dead and not waited for; its parent)."""
    place = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            program: bytes | None = os.readlink(b"exe", dir_fd=place)
        except FileNotFoundError:
            program = None
        fd = os.open(b"stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)
        try:
            words = stat_fields(os.read(fd, 4096))
        finally:
            os.close(fd)
        return program, int(words[1])
    finally:
        os.close(place)
