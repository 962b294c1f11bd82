"""The node of a block device for a FUSE server: where it is opened once, and nobody's afterwards.

Whoever has a say about the server's mount namespace may come upon that (before Linux 7.0 by its neighbour, NS_MNT_GET_NEXT): root of
the container.  By what is its own there it would have a device for writing that it has for reading alone, and a loop device when
that is bound to somebody else's image.  So the node is on a file system of the monitor's; only what may be written to is the caller's, so that the
server, which has no other rights, can open it; and once it has, or has not, nobody may.  What was opened meanwhile keeps its loop
device bound to what it was.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from proctor.kernel import raw
from proctor.syscalls import tables
from proctor.syscalls.architectures import native

NAME: Final = "image"
_FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC = 1, 1
_SET_STRING, _CREATE = 1, 6  # FSCONFIG_* of include/uapi/linux/mount.h
_NOSUID_NOEXEC: Final = 2 | 8  # MOUNT_ATTR_*
_OPTIONS: Final = {b"mode": b"700", b"size": b"4k", b"nr_inodes": b"2"}


@contextmanager
def node(device: int, owner: tuple[int, int] | None) -> Iterator[int]:
    """A descriptor of a mount that is nowhere, in which there is a node of that :data:`NAME`.

    :param owner: user and group, who may read and write; None: whoever has the name may read.
    :raises OSError: it cannot be made."""
    top = _tmpfs()
    try:
        os.mknod(NAME, stat.S_IFBLK, device, dir_fd=top)
        os.chmod(NAME, 0o444 if owner is None else 0o600, dir_fd=top)
        if owner is not None:
            os.chown(NAME, *owner, dir_fd=top)
        yield top
    finally:
        with suppress(FileNotFoundError):  # in this order: its owner may change its mode
            os.chown(NAME, 0, 0, dir_fd=top)
            os.chmod(NAME, 0, dir_fd=top)
        os.close(top)


def _tmpfs() -> int:
    context = _call("fsopen", b"tmpfs\0", _FSOPEN_CLOEXEC)
    try:
        for key, value in _OPTIONS.items():
            _call("fsconfig", context, _SET_STRING, key + b"\0", value + b"\0", 0)
        _call("fsconfig", context, _CREATE, None, None, 0)
        return _call("fsmount", context, _FSMOUNT_CLOEXEC, _NOSUID_NOEXEC)
    finally:
        os.close(context)


def _call(name: str, *arguments: int | bytes | None) -> int:
    return raw.call(tables.number(name, native()), *arguments)
