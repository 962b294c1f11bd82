"""Who makes a call: identity, rights and place of one thread.

How things are taken, checked and kept is in :mod:`proctor.call.taking`, who somebody is in
:mod:`proctor.call.credentials`; nothing else in proctor reads a caller's ``/proc``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Hashable
from typing import Final

from proctor.call.credentials import NAMESPACES, Credentials, inode_of
from proctor.call.identity import Capabilities, Ids, Status
from proctor.call.path.located import FileId, Located, file_id, not_resolved
from proctor.call.taking import reading
from proctor.errors import SCARCE, ProctorError, Unsupported
from proctor.kernel.pidfd import open_pidfd, shares_descriptors, take_descriptor
from proctor.records import NamedTuple

AT_FDCWD: Final = -100


class IdentityKey(NamedTuple):
    """Who somebody is, to be compared: equal keys have the same rights in the same place.

    Namespaces, root and mounts are numbers that the kernel uses again: whoever keeps a key keeps
    descriptors of them, too (:meth:`Caller.namespace_fd`, :meth:`Caller.root`).
    """

    uids: Ids
    gids: Ids
    groups: tuple[int, ...]
    caps: Capabilities
    no_new_privs: bool
    #: Inode numbers, in the order of :data:`NAMESPACES`; 0 for a kind that this kernel does not have.
    namespaces: tuple[int, ...]
    root: FileId
    #: The text of ``/proc/TID/cgroup``.
    cgroups: bytes
    label: bytes
    #: None; of a caller with an id that has no number here something that equals nobody else's.
    unlike: Hashable = None


class Caller(Credentials):
    """One calling thread.  Made by :attr:`proctor.call.Call.caller`.

    :param tid: its number in our pid namespace; 0 raises CallerInvisible at once.
    :param listener: asked after each thing is taken; None for a thread that cannot go away (the
        monitor's own, tests).
    :param id: the notification.
    :param files: stands in for ``/proc/TID``; opened when first needed if None.
    :param looked: called before something is handed out that other threads of the target can
        change: descriptors, root, working directory, umask, and how the program and the thread are
        called (:attr:`exe`, :attr:`comm`, :attr:`cmdline`).  Ids, capabilities, namespaces and
        labels are the thread's own.

    Values are read once and kept, but for :meth:`pending`.  Descriptors that are returned belong to
    the Caller and are closed with the call, but for :meth:`take_fd`: duplicate what must live longer.

    Ids are as the monitor's user namespace counts; see :attr:`unmapped`.

    All members raise :class:`~proctor.errors.CallGone` if the caller is gone,
    :class:`~proctor.errors.NotPermitted` if the kernel does not let us look,
    :class:`~proctor.errors.CallOver` after the call, and :class:`~proctor.errors.Unsupported` for
    what an older kernel does not tell.  What cannot be seen at all: Landlock domains, secure bits,
    keyrings, and what the filters are that the caller has.  Sources: proc_pid_status(5) and the
    pages beside it.

    ::

        caller = FakeTarget(uid=0).call("getpid").caller
        assert isinstance(caller, proctor.Caller)
        assert caller.uids.effective == 0 and caller.caps.has("CAP_SYS_ADMIN")
        assert caller.same_userns(caller.userns)
    """

    __slots__ = ()

    # All together -------------------------------------------------------------------------------

    @property
    def key(self) -> IdentityKey:
        """What makes it the same as another caller, or not.  Taken through the same descriptors that
        :meth:`root` and the other members hand out, and checked once, at the end.

        An id without a number here (:attr:`unmapped`) reads like any other such id: a key with one in
        it equals only itself."""
        return self._once("key", self._take_key)

    def _take_key(self) -> IdentityKey:
        values, take = self._values, self._unchecked
        root = self.root()
        fresh: dict[str, object] = {}
        if "status" not in values:
            fresh["status"] = take("status", lambda files: Status(files.read("status")))
        if "cgroup" not in values:
            fresh["cgroup"] = take("cgroup", reading("cgroup"))
        if "label" not in values:
            fresh["label"] = self._label(take)
        for kind in NAMESPACES:
            name = f"ns/{kind}"
            if name not in values:
                try:
                    fresh[name] = take(name, lambda files, name=name: inode_of(files, name))  # type: ignore[misc]
                except FileNotFoundError:
                    if kind not in ("cgroup", "time"):
                        raise
                    fresh[name] = 0  # this kernel has no such namespaces
        self.check()
        values.update(fresh)
        return IdentityKey(
            self.uids,
            self.gids,
            self.groups,
            self.caps,
            self.no_new_privs,
            tuple([self.namespace(kind) for kind in NAMESPACES]),
            self.file_id(root),
            self._read_once("cgroup", bytes),
            self.label,
            object() if self.unmapped else None,
        )

    def file_id(self, fd: int) -> FileId:
        """Which file on which mount a descriptor of ours refers to."""
        return file_id(fd)

    # Places and descriptors ---------------------------------------------------------------------

    def root(self) -> int:
        """``O_PATH`` descriptor of the caller's root directory."""
        return self._pinned("root")

    def cwd(self) -> int:
        """``O_PATH`` descriptor of the caller's working directory."""
        return self._pinned("cwd")

    def dir_fd(self, number: int) -> int:
        """``O_PATH`` descriptor of what the caller has open as ``number``; AT_FDCWD is :meth:`cwd`.

        :raises OSError: EBADF if nothing is open there."""
        if number == AT_FDCWD:
            return self.cwd()
        _refuse_negative(number)
        try:
            return self._pinned(f"fd/{number}")
        except FileNotFoundError:
            raise _bad_descriptor() from None

    def fd_path(self, number: int) -> bytes:
        """How the kernel names what :meth:`dir_fd` pins: a path, as our root sees it, or text such as
        ``socket:[4711]``.  `` (deleted)`` may follow.

        :raises OSError: EBADF if nothing is open there."""
        pin = self.dir_fd(number)
        return self._once(f"name of {number}", lambda: self._name(pin))

    def _name(self, pin: int) -> bytes:
        return os.readlink(b"/proc/self/fd/%d" % pin)

    def fd(self, number: int) -> int:
        """A duplicate of the caller's descriptor; the same one, whenever it is asked for.

        :raises OSError: EBADF if nothing is open there.
        :raises NotPermitted: ptrace access is needed and refused.
        :raises Unsupported: an old kernel, and the thread does not share its process's table.
        """
        self._look()
        return self._held(f"copy of fd/{number}", lambda: self.take_fd(number))

    def shown(self, number: int, *, copy: bool = False) -> int | None:
        """What :meth:`dir_fd`, or :meth:`fd`, has handed out already; None if nothing."""
        name = "cwd" if number == AT_FDCWD else f"fd/{number}"
        return self._fds.get(f"copy of {name}" if copy else name)

    def take_fd(self, number: int) -> int:
        """A new duplicate of the caller's descriptor, that the asker owns and closes: the same open
        file description, CLOEXEC (pidfd_getfd(2), Linux 5.6).  Errors as for :meth:`fd`."""
        self._look()
        _refuse_negative(number)
        pidfd = self.anchor()
        if not self._values["pidfd of thread"] and not shares_descriptors(self.tid, self.tgid):
            raise Unsupported(
                "PIDFD_THREAD",
                "6.9",
                "descriptors of a thread with a table of its own are out of reach",
            ).about(pid=self.tid, notif_id=self._id)
        try:
            fd = take_descriptor(pidfd, number)
        except OSError as error:
            if error.errno == errno.EBADF:
                self.check()
                raise
            self._failed(error, f"fd/{number}")
        return self.checked_fd(fd)

    def has_room(self) -> bool:
        """Whether its table takes one more descriptor, by RLIMIT_NOFILE: what open(2) sees to before
        it looks at any path (``alloc_fd`` in fs/file.c).  Other threads change it at any time."""
        self._look()
        limit = self.limits["Max open files"].soft
        # Fewer than the limit: then one below it is free.  (The size of that directory is how many
        # there are, since Linux 6.2; 0 before.)
        size = self._take("fd", lambda files: files.size("fd"))
        if 0 < size < limit:
            return True
        taken = self._take("fd", lambda files: files.names("fd"))
        return sum(int(name) < limit for name in taken) < limit

    def anchor(self) -> int:
        """A pidfd: of the thread itself where the kernel has PIDFD_THREAD (6.9), else of its
        process, which :attr:`anchored_thread` tells."""
        return self._held("pidfd", self._open_pidfd)

    @property
    def anchored_thread(self) -> bool:
        """Whether :meth:`anchor` refers to the thread, not only to its process."""
        self.anchor()
        return bool(self._values["pidfd of thread"])

    def _open_pidfd(self) -> int:
        self._proc()
        try:
            fd, of_thread = open_pidfd(self.tid, lambda: self.tgid)
        except OSError as error:
            self._failed(error, "pidfd")
        self._values["pidfd of thread"] = of_thread
        return self.checked_fd(fd)

    def locate(
        self,
        path: bytes,
        dirfd: int = AT_FDCWD,
        *,
        follow: bool = True,
        empty: bool = False,
        resolve: int = 0,
        entry: bool = False,
    ) -> Located:
        """Where ``path`` leads in this caller's view; see :func:`proctor.call.path.resolve.locate`.

        The result belongs to whoever asked.

        :raises NotResolved: it cannot be followed; what the monitor met is not for the caller."""
        try:
            located = self._locate(path, dirfd, follow, empty, resolve, entry)
        except OSError as error:
            self.check()
            if isinstance(error, ProctorError) or error.errno in SCARCE:
                raise
            refused = not_resolved(error.errno or errno.EIO, path)
            raise refused.about(pid=self.tid, notif_id=self._id) from None
        try:
            self.check()
        except BaseException:
            located.close()
            raise
        return located

    def _locate(
        self, path: bytes, dirfd: int, follow: bool, empty: bool, resolve: int, entry: bool
    ) -> Located:
        from proctor.call.path.resolve import locate

        return locate(self, path, dirfd, follow=follow, empty=empty, resolve=resolve, entry=entry)

    def __repr__(self) -> str:
        return f"<Caller tid={self.tid} id={self._id:#x}>"


def _bad_descriptor() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))


def _refuse_negative(number: int) -> None:
    if number < 0:
        raise _bad_descriptor()
