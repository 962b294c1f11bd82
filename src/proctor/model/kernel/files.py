"""Open files, descriptor tables, and passing descriptors from task to task.

A :class:`File` is an open file description: counted by descriptors, by messages in flight and by
calls in progress; when the last reference goes, its ``kind`` is told, which for a listener answers
every waiting call.

Sources: ``fs/file.c`` (``get_unused_fd_flags``, ``receive_fd``, ``receive_fd_replace``,
``do_close_on_exec``), ``net/core/scm.c``, ``kernel/pid.c`` (``pidfd_getfd``), Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from proctor.model.kernel.errors import BrokenCount
from proctor.model.kernel.linux import EBADF, ECONNRESET, EMFILE, O_PATH

if TYPE_CHECKING:
    from proctor.model.kernel.waits import WaitQueue


class Inside(Protocol):
    """What a special file is: it can be polled, and is told when its last reference goes."""

    def poll(self) -> int: ...
    def queue(self) -> WaitQueue | None: ...
    def release(self) -> None: ...


class File:
    """An open file description (``struct file``)."""

    __slots__ = ("flags", "inside", "label", "offset", "refs")

    def __init__(self, label: str = "file", flags: int = 0, inside: Inside | None = None) -> None:
        self.label = label
        #: Open flags; O_PATH is the one that matters (ADDFD refuses it, C064).
        self.flags = flags
        #: What it is, for listeners, epolls, sockets and pidfds; None for an ordinary file.
        self.inside = inside
        #: Shared by everybody who has it (C071).
        self.offset = 0
        self.refs = 0

    def __repr__(self) -> str:
        return f"<{self.label} refs={self.refs}>"

    def get(self) -> File:
        """One reference more (``get_file``).

        Source: ``include/linux/fs.h`` 6.12.
        """
        self.refs += 1
        return self

    def put(self) -> None:
        """One reference less (``fput``); the last one releases.

        :raises BrokenCount: if there was none.

        Source: ``fs/file_table.c`` 6.12.
        """
        if self.refs <= 0:
            raise BrokenCount(f"{self.label} was released more often than it was taken")
        self.refs -= 1
        if self.refs == 0 and self.inside is not None:
            self.inside.release()


class FdTable:
    """``struct files_struct``: numbers to files, shared by threads (and CLONE_FILES children)."""

    __slots__ = ("cloexec", "lowest", "slots", "users")

    def __init__(self) -> None:
        self.slots: dict[int, File] = {}
        self.cloexec: set[int] = set()
        #: No free number is below this.
        self.lowest = 0
        #: Tasks that use the table.
        self.users = 1

    def copy(self) -> FdTable:
        """fork(2): the same files under the same numbers (``dup_fd``).

        Source: ``fs/file.c`` 6.12.
        """
        made = FdTable()
        made.slots = {fd: file.get() for fd, file in self.slots.items()}
        made.cloexec = set(self.cloexec)
        made.lowest = self.lowest
        return made

    def unused(self, limit: int) -> int:
        """The lowest free number below ``limit``, or -EMFILE (``get_unused_fd_flags``).

        Source: ``fs/file.c`` 6.12 ``alloc_fd``.
        """
        fd = self.lowest
        slots = self.slots
        while fd in slots:
            fd += 1
        self.lowest = fd
        return fd if fd < limit else -EMFILE

    def install(self, fd: int, file: File, cloexec: bool = False) -> None:
        """Put ``file`` at ``fd``, which must be free; takes a reference.

        Source: ``fs/file.c`` 6.12 ``fd_install``.
        """
        self.slots[fd] = file.get()
        if cloexec:
            self.cloexec.add(fd)
        else:
            self.cloexec.discard(fd)

    def get(self, fd: int, path_too: bool = False) -> File | None:
        """``fget``: the file at ``fd``; an O_PATH one only if asked for."""
        file = self.slots.get(fd)
        if file is not None and file.flags & O_PATH and not path_too:
            return None
        return file

    def receive(self, file: File, limit: int, cloexec: bool) -> int:
        """``receive_fd``: the lowest free number, or -EMFILE.

        Source: ``fs/file.c`` 6.12.
        """
        fd = self.unused(limit)
        if fd >= 0:
            self.install(fd, file, cloexec)
        return fd

    def receive_at(self, fd: int, file: File, limit: int, cloexec: bool) -> int:
        """``receive_fd_replace``: at ``fd``, closing what was there; -EBADF beyond the limit.

        Source: ``fs/file.c`` 6.12 ``replace_fd``; C066, C068.
        """
        if fd >= limit:
            return -EBADF
        old = self.slots.get(fd)
        self.install(fd, file, cloexec)
        if old is not None:
            old.put()
        return fd

    def close(self, fd: int) -> int:
        """close(2).

        Source: ``fs/open.c`` 6.12; ``fs/file.c`` 6.12.
        """
        file = self.slots.pop(fd, None)
        if file is None:
            return -EBADF
        self.cloexec.discard(fd)
        self.lowest = min(self.lowest, fd)
        file.put()
        return 0

    def close_on_exec(self) -> None:
        """``do_close_on_exec``.

        Source: ``fs/file.c`` 6.12.
        """
        for fd in sorted(self.cloexec):
            self.close(fd)

    def leave(self) -> None:
        """One task less uses the table; the last one closes everything (``exit_files``).

        Source: ``fs/file.c`` 6.12 ``put_files_struct``.
        """
        self.users -= 1
        if self.users == 0:
            for fd in sorted(self.slots):
                self.close(fd)


class Socket:
    """One end of a socket pair: messages with files in flight (SCM_RIGHTS)."""

    __slots__ = ("closed", "error", "messages", "peer")

    def __init__(self) -> None:
        self.peer: Socket = self
        #: (bytes, files) that were sent to this end; each file is a reference.
        self.messages: list[tuple[bytes, list[File]]] = []
        self.closed = False
        #: What the next call on it fails with: ECONNRESET if the peer went without reading.
        self.error = 0

    def poll(self) -> int:
        """Not modelled: sockets are only passed through."""
        return 0

    def queue(self) -> WaitQueue | None:
        """Not modelled."""
        return None

    def failed(self) -> int:
        """The error that waits for the next call, which takes it away (``sock_error``).

        Source: ``include/net/sock.h`` 6.12.
        """
        error, self.error = self.error, 0
        return -error

    def release(self) -> None:
        """Closed: what was in flight to this end is let go (``unix_release_sock``).

        Source: ``net/unix/af_unix.c`` 6.12.
        """
        self.closed = True
        if self.messages:
            self.peer.error = ECONNRESET
        messages, self.messages = self.messages, []
        for _, files in messages:
            for file in files:
                file.put()


def socketpair() -> tuple[File, File]:
    """socketpair(2): two files, each the other's peer.

    Source: ``net/unix/af_unix.c`` 6.12 ``unix_socketpair``.
    """
    one, two = Socket(), Socket()
    one.peer, two.peer = two, one
    return File("socket", inside=one), File("socket", inside=two)
