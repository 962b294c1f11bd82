"""What the monitor does itself, for callers that are what it is.

Where caller and monitor have the same ids, capabilities, root directory, user and mount namespace, label
and groups, nobody has to become anybody: what the monitor may do is what the caller may do.  That they
are the same is seen anew with each call (:mod:`proctor.kernel.standing`), of both: a monitor may change
its identity, too.

This module is about what is opened; names and attributes are changed so by the core alone
(``kernel/core/acting/ourselves.c``), on file systems that lie on no other one.

The monitor's threads must not wait for anybody's FIFO, device, lease or FUSE server, and nothing may
happen before that is known.  So what a path leads to is pinned first, through what the kernel has in
memory (RESOLVE_CACHED), and what it has not is looked up name by name in directories whose file system asks nobody; if it is a regular file or a directory of a file system that opens such things
without asking anybody, it is opened by its own link.  What is not there yet is made in its pinned directory, by a thread that has the
caller's umask for it, and nobody else's (``kernel/core/acting/making.c``); what is made may have to be looked for on a
disk.  All else is left to an executor: what is made or truncated where a journal is to say afterwards that it was, procfs, devices, sockets, dangling links, files of other file systems that are not
in memory yet, what is made where a rule is to be asked that the core does not know.  (A file system that is stacked upon one of
those, and a listener of fanotify(7) for permissions, can still make it wait; then another thread
receives.)
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import HandOver, Verdict, deny
from proctor.errors import CallGone, MemoryUnreadable
from proctor.kernel import _core
from proctor.kernel.standing import rights
from proctor.performing.paths import filestat, pins
from proctor.performing.paths.permitting import permit
from proctor.performing.paths.pins import O_DIRECTORY, O_NOFOLLOW
from proctor.performing.paths.wanted import MAKING, O_LARGEFILE, TMPFILE
from proctor.performing.trouble import Moved

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Perform
    from proctor.kernel.standing import Standing

LOCAL: Final = struct.pack(f"={len(filestat.LOCAL)}I", *filestat.LOCAL)
#: Flags of open(2) that change how something is opened, or made, and nothing else.
_KNOWN: Final = (
    os.O_RDONLY | os.O_WRONLY | os.O_RDWR | MAKING | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_NONBLOCK", 0) | O_DIRECTORY | O_NOFOLLOW
    | getattr(os, "O_NOATIME", 0) | getattr(os, "O_SYNC", 0) | getattr(os, "O_DSYNC", 0) | O_LARGEFILE
)  # fmt: skip
_RESOLVE: Final = pins.NO_XDEV | pins.NO_MAGICLINKS | pins.NO_SYMLINKS


class Here:
    """The monitor, as somebody who opens.

    :param ours: what we were, as :func:`proctor.kernel.standing.rights` has it.
    :raises OSError: out of descriptors, or no procfs.
    """

    __slots__ = ("maker", "root", "table")

    def __init__(self, ours: bytes = b"") -> None:
        #: Our own descriptors, as links.
        self.table = os.open("/proc/self/fd", pins.PIN | O_DIRECTORY)
        #: Who makes files.
        self.maker: object = _core.maker()
        #: Our root directory, if it is the one that we had; else -1.
        self.root = -1
        if ours:
            self.root = os.open("/", pins.PIN | O_DIRECTORY)
            if rights() != ours:
                os.close(self.root)
                self.root = -1

    def close(self) -> None:
        """Idempotent."""
        for fd in (self.table, self.root):
            if fd >= 0:
                os.close(fd)
        self.table = self.root = -1
        self.maker = None

    def ordinary(
        self, call: Call, standing: Standing, dirfd: int, path: int | bytes, flags: int, ours: bytes
    ) -> int | None:
        """As :meth:`open`, of what is simple.

        :raises Moved: one of both is not what it was."""
        known = standing.known
        listener = -1 if type(path) is bytes else call.listener_fd
        found = _core.open_for(
            known, standing.kept.groups, ours, listener, call.id, -1, dirfd, path, flags, 0,
            LOCAL, self.table, False, 0, None,
        )  # fmt: skip
        if found is None:
            raise Moved
        if found[0] is not None:
            call.took_path(found[0])
        return found[1]

    def open(
        self,
        call: Call,
        wish: Perform,
        standing: Standing,
        dirfd: int,
        flags: int,
        mode: int,
        resolve: int,
        ours: bytes,
    ) -> Verdict | None:
        """Open and hand over, or say what the kernel says; None for what is left to an executor, and
        nothing has happened.

        :param standing: the caller, known to be what we were.
        :param ours: what we were, as :func:`proctor.kernel.standing.rights` has it.
        :raises Moved: one of both is not what it was.
        :raises Refused: the policy's rule about paths says so.
        """
        known = standing.known
        if flags & ~_KNOWN or flags & 3 == 3 or resolve & ~_RESOLVE:
            return None
        asked = wish.allow is not None or bool(call.looks)
        try:
            path, listener, start = call.untaken_path, -1, -1
            if call.looked_at is not None:
                path = call.path
        except MemoryUnreadable:
            return None  # what is wrong with the flags comes first
        if type(path) is not bytes:
            listener = call.listener_fd
        elif not 0 < len(path) <= pins.LONGEST:
            return None
        elif path[0] != 0x2F and call.looked_at is not None:
            try:  # what it pinned for whoever looked is what is used
                start = call.caller.dir_fd(dirfd)
            except OSError:
                return None
        maker = None
        if flags & (os.O_CREAT | TMPFILE):
            if resolve or not standing.kept.makes:
                return None
            if not call.valid():
                raise CallGone
            maker = self.maker
        found = _core.open_for(
            known, standing.kept.groups, ours, listener, call.id, start, dirfd, path, flags, resolve,
            LOCAL, self.table, asked, mode, maker,
        )  # fmt: skip
        if found is None:
            raise Moved
        if found[0] is not None:
            call.took_path(found[0])
        fd = found[1]
        if asked and fd is not None and fd >= 0:
            fd = self._asking(call, wish, flags, *found[1:])
        if fd is None:
            return None
        return HandOver(fd, cloexec=bool(flags & os.O_CLOEXEC)) if fd >= 0 else deny(-fd)

    def _asking(
        self,
        call: Call,
        wish: Perform,
        flags: int,
        pin: int,
        status: bytes,
        name: bytes,
    ) -> int | None:
        """Open what is pinned, if it may be."""
        try:
            permit(call, wish, "path", name, filestat.status_of(status))
            return _core.reopen(self.table, pin, flags)
        finally:
            os.close(pin)
