"""Memory whose size nobody changes: whoever else holds it could cut it off, and then all that is mapped is SIGBUS."""

from __future__ import annotations

import os
from typing import Final

#: F_ADD_SEALS, F_GET_SEALS and, of include/uapi/linux/fcntl.h, F_SEAL_SEAL, F_SEAL_SHRINK and F_SEAL_GROW (Linux 3.17).
_ADD_SEALS, _GET_SEALS = 1033, 1034
_SEALS: Final = 0x1 | 0x2 | 0x4


def is_sealed(memory: int) -> bool:
    """Whether nobody can change its size.

    :raises OSError: it is no memfd."""
    return _fcntl(memory, _GET_SEALS) & _SEALS == _SEALS


def sealed(name: str, size: int, head: bytes = b"") -> int:
    """A memfd whose size nobody can change, which takes only the memory that is used; the asker's to close.

    :param head: what is in it first."""
    memory = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.truncate(memory, size)
        os.pwrite(memory, head, 0)
        _fcntl(memory, _ADD_SEALS, _SEALS)
        return memory
    except BaseException:
        os.close(memory)
        raise


def _fcntl(fd: int, what: int, value: int = 0) -> int:
    import fcntl  # which other platforms, where only memory is a journal, have not

    return fcntl.fcntl(fd, what, value)
