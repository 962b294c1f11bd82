"""Where a path leads, as a value."""

from __future__ import annotations

import os

from proctor.errors import NotResolved
from proctor.records import NamedTuple


class FileId(NamedTuple):
    """Which file on which mount: equal ones are the same, as long as somebody keeps it open."""

    device: int
    inode: int
    mount: int


def file_id(fd: int) -> FileId:
    """What a descriptor of ours refers to (statx(2), which tells mounts since Linux 5.8)."""
    from proctor.kernel.raw import file_identity

    return FileId._make(file_identity(fd))


def not_resolved(number: int, path: bytes) -> NotResolved:
    """What is raised where a path cannot be followed by the monitor."""
    return NotResolved(number, f"{path!r} cannot be followed by the monitor: {os.strerror(number)}")


class Look(NamedTuple):
    """What a path argument led to when somebody looked."""

    path: bytes
    #: What was there; None if nothing was.
    file: FileId | None


class Located:
    """A place: what is there, pinned, or the pinned directory in which there is nothing yet.

    Its descriptors are its own, until :meth:`close`; that of a call is closed with the call.

    :ivar path: absolute path as the caller's root sees it, without symbolic links.  It starts with
        ``(unreachable)``, as in getcwd(2), if no path from the caller's root leads there: then it
        matches no pattern that starts with a slash.
    :ivar pin: ``O_PATH`` descriptor of the thing itself (of a symbolic link, if it is not followed);
        -1 if nothing is there.
    :ivar parent: ``O_PATH`` descriptor of the directory that it is in, where the call is about a name
        in it (mkdir, unlink, rename...) or nothing is there; else -1.
    :ivar name: that name; ``b""`` without ``parent``, and ``b"."`` for an entry that has none (``/``).
    :ivar must_be_directory: a slash came behind that name.
    """

    __slots__ = ("_stat", "must_be_directory", "name", "parent", "path", "pin")

    def __init__(
        self,
        path: bytes,
        *,
        pin: int = -1,
        parent: int = -1,
        name: bytes = b"",
        stat: os.stat_result | None = None,
        must_be_directory: bool = False,
    ) -> None:
        self.path = path
        self.pin = pin
        self.parent = parent
        self.name = name
        self.must_be_directory = must_be_directory
        self._stat = stat

    @property
    def stat(self) -> os.stat_result | None:
        """Of what is there, not followed; None if nothing is."""
        if self._stat is None and self.pin >= 0:
            self._stat = os.fstat(self.pin)
        return self._stat

    @property
    def exists(self) -> bool:
        """Whether something was there when it was looked up."""
        return self._stat is not None or self.pin >= 0

    @property
    def reachable(self) -> bool:
        """Whether :attr:`path` leads there from the caller's root."""
        return self.path.startswith(b"/")

    def close(self) -> None:
        """Close :attr:`pin` and :attr:`parent`.  Idempotent."""
        for fd in (self.pin, self.parent):
            if fd >= 0:
                os.close(fd)
        self.pin = self.parent = -1

    def __enter__(self) -> Located:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Located {self.path!r}{'' if self.exists else ' (nothing there)'}>"
