"""Threads that are pinned from one call of theirs to the next, so that it costs little to see that
somebody still is who he was.

All that :attr:`Caller.key <proctor.call.caller.Caller.key>` is made of is read anew for each call, through
descriptors that stay open: two files of ``/proc/TID`` are read again in place, three links are looked at.
A descriptor of a file in ``/proc/TID`` refers to that thread and no other: once it is dead the kernel
answers ESRCH, also when its number is somebody else's.  So as long as a notification is valid, the
thread that is known under its caller's number and still answers is its caller.

What is not looked at here is left to whoever is about to do something that it decides: the net, ipc, uts,
cgroup, pid and time namespaces (:meth:`Standing.namespaces`).
"""

from __future__ import annotations

import os
import resource
import threading
from typing import TYPE_CHECKING, Any, Final

from proctor.errors import CallGone
from proctor.kernel import raw

if TYPE_CHECKING:
    from collections.abc import Callable

_PIN: Final = os.O_PATH | os.O_CLOEXEC
_AT_FDCWD: Final = -100
_LONGEST: Final = 4096
_MORE: Final = 1 << 20
#: Threads that are known at the same time.
_MOST: Final = 32  # three descriptors each
_OTHER_NAMESPACES: Final = ("net", "ipc", "uts", "cgroup")


class Standing:
    """One thread, and what was found out about it.

    :ivar kept: whatever its owner keeps for as long as the thread is who it was.
    :ivar proc: its ``/proc/TID``, an O_PATH descriptor.
    """

    __slots__ = (
        "_cgroup", "_label", "_others", "_seen", "_status", "_text", "kept", "proc", "tid",
    )  # fmt: skip

    def __init__(self, tid: int, *, labels: bool) -> None:
        """
        :param labels: whether a security module labels threads here.
        :raises OSError: there is no such thread, or it may not be looked at.
        """
        self.tid = tid
        self.kept: Any = None
        self.proc = self._status = self._cgroup = self._label = -1
        self._text = b""
        try:
            self.proc = os.open(b"/proc/%d" % tid, _PIN | os.O_DIRECTORY)
            self._status = self._open(b"status")
            self._cgroup = self._open(b"cgroup")
            if labels:
                self._label = self._open(b"attr/current")
            self._seen = self._look()
            self._others = self.namespaces()
        except BaseException:
            self.close()
            raise

    def _open(self, name: bytes) -> int:
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc)

    def close(self) -> None:
        """Let go of it.  Idempotent."""
        for fd in (self.proc, self._status, self._cgroup, self._label):
            if fd >= 0:
                os.close(fd)
        self.proc = self._status = self._cgroup = self._label = -1

    def _look(self) -> tuple[bytes, str, str, tuple[int, int, int], bytes, bytes]:
        text = os.pread(self._status, _LONGEST, 0)
        if len(text) == _LONGEST:  # thousands of groups; given whole to whoever has room
            text = os.pread(self._status, _MORE, 0)
        self._text = text
        # ids, then FDSize, which is none of it; groups; and the capabilities
        uid, size = text.index(b"\nUid:"), text.index(b"\nFDSize:")
        groups, numbers = text.index(b"\nGroups:"), text.index(b"\nNStgid:")
        caps, rest = text.index(b"\nCapInh:"), text.index(b"\nSeccomp:")
        return (
            text[uid:size] + text[groups:numbers] + text[caps:rest],
            os.readlink("ns/user", dir_fd=self.proc),
            os.readlink("ns/mnt", dir_fd=self.proc),
            raw.file_identity_at(self.proc, b"root"),
            os.pread(self._cgroup, _LONGEST, 0),
            os.pread(self._label, _LONGEST, 0) if self._label >= 0 else b"",
        )

    def unchanged(self) -> bool:
        """Whether the thread is who it was, where it was.  Its notification is to be checked after
        that: it says whose thread this is."""
        try:
            return self._look() == self._seen
        except (OSError, ValueError):  # it is dead, or exiting
            return False

    @property
    def identity(self) -> tuple[object, ...]:
        """All of it: equal for threads with the same rights in the same place."""
        return self._seen, self._others

    def namespaces(self) -> tuple[str, ...]:
        """Its other namespaces, as the kernel names them.

        :raises OSError: it is dead."""
        return tuple([os.readlink("ns/" + kind, dir_fd=self.proc) for kind in _OTHER_NAMESPACES])

    def still_there(self) -> bool:
        """Whether these are what they were."""
        try:
            return self.namespaces() == self._others
        except OSError:
            return False

    # What every call may ask, at the last look ---------------------------------------------------

    @property
    def umask(self) -> int:
        """File mode creation mask."""
        at = self._text.index(b"\nUmask:\t") + 8
        return int(self._text[at : self._text.index(b"\n", at)], 8)

    def place(self, dirfd: int) -> int | None:
        """A new O_PATH descriptor of its working directory, or of what it has open as ``dirfd``; None if
        that is nothing.

        :raises CallGone: it is dead.
        :raises OSError: it may not be looked at, or our descriptors are all used."""
        if dirfd == _AT_FDCWD:
            name = b"cwd"
        elif dirfd < 0:
            return None
        else:
            name = b"fd/%d" % dirfd
        try:
            return os.open(name, _PIN, dir_fd=self.proc)
        except ProcessLookupError:
            raise CallGone from None
        except FileNotFoundError:
            if dirfd == _AT_FDCWD:
                raise CallGone from None
            return None

    def has_room(self, counted: Callable[[], bool]) -> bool:
        """Whether its descriptor table takes one more, by RLIMIT_NOFILE.

        :param counted: finds that out by counting; asked where the size of the table does not tell.
        """
        try:
            limit = resource.prlimit(self.tid, resource.RLIMIT_NOFILE)[0]
        except OSError:
            return counted()
        at = self._text.index(b"\nFDSize:\t") + 9
        size = int(self._text[at : self._text.index(b"\n", at)])
        # numbers from there on are free
        return size < limit or limit == resource.RLIM_INFINITY or counted()


class Standings:
    """Those that are known, by their numbers; thread-safe."""

    __slots__ = ("_known", "_lock")

    def __init__(self) -> None:
        self._known: dict[int, Standing] = {}
        self._lock = threading.Lock()

    def take(self, tid: int) -> Standing | None:
        """The standing of a thread, for the asker alone: it is given back, or closed."""
        with self._lock:
            return self._known.pop(tid, None)

    def give_back(self, standing: Standing) -> None:
        """Know it for its next call; the longest not heard of is forgotten."""
        with self._lock:
            before = self._known.pop(standing.tid, None)
            self._known[standing.tid] = standing
            oldest = self._known.pop(next(iter(self._known))) if len(self._known) > _MOST else None
        for each in (before, oldest):
            if each is not None:
                each.close()

    def close(self) -> None:
        """Forget them all."""
        with self._lock:
            known, self._known = self._known, {}
        for each in known.values():
            each.close()
