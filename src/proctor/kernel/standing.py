"""Threads that are pinned from one call of theirs to the next, so that it costs little to see that
somebody still is who he was.

What decides what somebody may do is read anew for each call, through descriptors that stay open; not
one name of /proc is looked up twice.  A pidfd of a thread tells its ids (PIDFD_GET_INFO, Linux 6.13),
capget(2) its capabilities, two links in its pinned ``/proc/TID`` its root directory and its user
namespace: a few microseconds in all, in one native call.  Nothing else tells its groups than the text of
``status``, which costs as much again; so that is read only of a thread that can have changed them: who
has no CAP_SETGID in the user namespace where it is, and has no_new_privs, cannot get it there any more.
On older kernels the ids come from that text, as often, and so does the size of its descriptor table; cgroups and mount namespace
are compared with each look, too, since no number stands for them there that is nobody else's later: some ten microseconds more.

Such descriptors refer to that thread and no other: once it is dead the kernel answers ESRCH, also when
its number is somebody else's.  So as long as a notification is valid, the thread that is known under its
caller's number and still answers is its caller.

What is not looked at here is left to whoever is about to do something that it decides: the mnt, net, ipc,
uts, cgroup, pid and time namespaces, and cgroups of version 1 (:meth:`Standing.still_there`).
"""

from __future__ import annotations

import errno
import os
import resource
import struct
from typing import TYPE_CHECKING, Any, Final

from proctor.errors import CallGone
from proctor.kernel import _core, raw
from proctor.kernel.pidfd import PIDFD_THREAD

if TYPE_CHECKING:
    from collections.abc import Callable

_PIN: Final = os.O_PATH | os.O_CLOEXEC
_AT_FDCWD: Final = -100
_LONGEST: Final = 4096
_O_CLOEXEC: Final = (
    0o2000000  # as fdinfo has it, on every architecture that Linux 6.18 has but three
)
_MORE: Final = 1 << 20
_CAP_SETGID: Final = 6
#: struct standing of core/callers/acting.h: ids; effective, permitted and inheritable capabilities, twice; root;
#: after these cgroup and user namespace.
_RIGHTS: Final = struct.Struct("=32s8s4x8s4x24s")
_ROOT: Final = slice(_RIGHTS.size - 24, _RIGHTS.size)
_USER: Final = _RIGHTS.size + 8


def rights() -> bytes:
    """Ids, capabilities and root directory of this thread, to be compared."""
    return _core.standing(0, -1, -1, -1, -1)


def same_rights(one: bytes, other: bytes) -> bool:
    """Whether two of these are of the same ids, effective and permitted capabilities, and root."""
    return _RIGHTS.unpack_from(one) == _RIGHTS.unpack_from(other)


def over_groups(effective: int) -> bool:
    """Whether rights over every file go before groups (``acl_permission_check``, ``generic_permission`` and
    ``setattr_should_drop_sgid`` of fs/): CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FSETID, of somebody in a
    user namespace that has every id."""
    return effective & 0b10110 == 0b10110


class Standing:
    """One thread, and what was found out about it.

    :ivar kept: whatever its owner keeps for as long as the thread is who it was.
    :ivar known: what the core compares.
    :ivar origin: of its user namespace, once somebody asked after that; for its owner to keep as well.
    :ivar proc: its ``/proc/TID``, an O_PATH descriptor.
    :ivar recalled: what a call of it was answered with: see :class:`proctor.kernel._core.Seen`.
    :ivar rights: as :func:`rights`, and its cgroup and user namespace.
    """

    __slots__ = (
        "_cgroup", "_label", "_maps", "_others", "_pidfd", "_seen", "_status", "_text", "_user", "kept", "known",
        "origin", "proc", "recalled", "rights", "tid",
    )  # fmt: skip

    def __init__(self, tid: int, *, labels: bool, groups: bool = True, places: bool = True) -> None:
        """
        :param labels: whether a security module labels threads here.
        :param groups: whether its groups decide anything.
        :param places: whether its cgroups and other namespaces do, which :attr:`identity` has then.
        :raises OSError: there is no such thread, or it may not be looked at.
        """
        self.tid = tid
        self.kept: Any = None
        self.origin: Any = None
        self.recalled: tuple[int, bytes, bytes, float] | None = None
        self.proc = self._status = self._cgroup = self._label = self._pidfd = self._user = -1
        self._text = self.rights = b""
        self._maps = b"", b""
        try:
            self.proc = os.open(b"/proc/%d" % tid, _PIN | os.O_DIRECTORY)
            self._status = self._open(b"status")
            if places:
                self._cgroup = self._open(b"cgroup")
            if labels:
                self._label = self._open(b"attr/current")
            self._pidfd = _pidfd_of(tid)
            self._user = os.open(b"ns/user", _PIN | os.O_NOFOLLOW, dir_fd=self.proc)
            self.rights = _core.standing(tid, self._pidfd, self.proc, self._user, self._status)
            self._seen = self._look()
            self._others = _core.whereabouts(self.proc, self._cgroup) if places else b""
            self.known: _core.Known = _core.Known(
                tid, self._pidfd, self.proc, self._user, self._status, self._label,
                not groups or self._groups_stay(), self.rights, self._seen[0], self._seen[5],
                self._cgroup, self._seen[4], self._seen[3],
            )  # fmt: skip
        except BaseException:
            self.close()
            raise

    def _groups_stay(self) -> bool:
        """Whether its groups cannot change where it is: setgroups(2) takes a right that it has not got and
        cannot get, or is denied there for ever (user_namespaces(7))."""
        text = self._text
        if b"\nNoNewPrivs:\t1" in text and not (
            int(_value(text, b"\nCapPrm:\t"), 16) >> _CAP_SETGID & 1
        ):
            return True
        try:
            return self._content(b"setgroups") == b"deny\n"
        except FileNotFoundError:  # a kernel without user namespaces
            return False

    def _open(self, name: bytes) -> int:
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc)

    def close(self) -> None:
        """Let go of it.  Idempotent."""
        known = getattr(self, "known", None)  # which comes last
        if known is not None:
            known.close()
        for fd in (self.proc, self._status, self._cgroup, self._label, self._pidfd, self._user):
            if fd >= 0:
                os.close(fd)
        self.proc = self._status = self._cgroup = self._label = self._pidfd = self._user = -1

    def _look(self) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes]:
        self._text = b""
        seen = self.rights  # which has both
        return (
            self._identity(),
            seen[_USER:],
            seen[_ROOT],
            os.readlink(b"ns/mnt", dir_fd=self.proc),
            os.pread(self._cgroup, _LONGEST, 0) if self._cgroup >= 0 else b"",
            os.pread(self._label, _LONGEST, 0) if self._label >= 0 else b"",
        )

    def _status_text(self) -> bytes:
        """``status``, read once for each call."""
        text = self._text
        if not text:
            text = os.pread(self._status, _LONGEST, 0)
            if len(text) == _LONGEST:  # thousands of groups; given whole to whoever has room
                text = os.pread(self._status, _MORE, 0)
            self._text = text
        return text

    def _identity(self) -> bytes:
        """Ids, then FDSize, which is none of it; groups; and the capabilities."""
        text = self._status_text()
        uid, size = text.index(b"\nUid:"), text.index(b"\nFDSize:")
        groups, numbers = text.index(b"\nGroups:"), text.index(b"\nNStgid:")
        caps, rest = text.index(b"\nCapInh:"), text.index(b"\nSeccomp:")
        return text[uid:size] + text[groups:numbers] + text[caps:rest]

    def renew(self) -> None:
        """Read anew what was read of it for an earlier call, if that was taken on by the core."""
        self._text = b""
        self.unchanged()

    def unchanged(self, *, groups: bool = True, ours: bytes = b"") -> bool:
        """Whether the thread is who it was, where it was.  Its notification is to be checked after
        it was made, and this asked after that: it says whose thread this is.

        :param groups: whether its groups decide anything.
        :param ours: what :func:`rights` said: whether that holds as well.
        """
        text = self.known.same(groups, ours)
        if text is None:
            return False
        self._text = text
        return True

    @property
    def rank(self) -> tuple[bytes, tuple[bytes, bytes], object, object, object, object]:
        """What it may look at: equal for threads that see the same of every file system."""
        text, user, root, mounts, _, label = self._seen
        caps = text.index(b"\nCapInh:")
        may = _value(text, b"\nCapEff:\t"), _value(text, b"\nCapPrm:\t")
        return text[:caps], may, user, root, mounts, label

    @property
    def identity(self) -> tuple[object, ...]:
        """All of it: equal for threads with the same rights in the same place."""
        return self._seen, self._others

    def still_there(self) -> bool:
        """Whether its other namespaces, and its cgroups, are what they were."""
        try:
            return _core.whereabouts(self.proc, self._cgroup) == self._others
        except OSError:
            return False

    def in_its_mounts(self) -> bool:
        """Whether its mount namespace is what it was.  Its root directory says so of most: who has no right to call chroot(2)
        has not got the same one in another."""
        return self.known.in_its_mounts()

    def in_its_cgroups(self) -> bool:
        """Whether its cgroups are what they were."""
        try:
            return os.pread(self._cgroup, _LONGEST, 0) == self._seen[4]
        except OSError:
            return False

    def namespace(self, kind: bytes) -> int:
        """A new descriptor of one of its namespaces, as ``user``, for setns(2).

        :raises CallGone: it is dead."""
        try:
            return self._open(b"ns/" + kind)
        except (FileNotFoundError, ProcessLookupError):
            raise CallGone from None

    # What every call may ask ----------------------------------------------------------------------

    def cgroups(self) -> bytes:
        """The text of its ``cgroup``.

        :raises CallGone: it is dead."""
        try:
            return os.pread(self._cgroup, _LONGEST, 0)
        except OSError:
            raise CallGone from None

    def id_maps(self) -> tuple[bytes, bytes]:
        """The texts of ``uid_map`` and ``gid_map`` of its user namespace.  Each is written once only
        (user_namespaces(7)), so what was is known for as long as the thread is where it was.

        :raises CallGone: it is dead."""
        if not all(self._maps):
            self._maps = self._whole(b"uid_map"), self._whole(b"gid_map")
        return self._maps

    def _whole(self, name: bytes) -> bytes:
        try:
            with open(self._open(name), "rb") as file:
                return file.read()
        except (FileNotFoundError, ProcessLookupError):
            raise CallGone from None

    @property
    def umask(self) -> int:
        """File mode creation mask.

        :raises CallGone: it is dead."""
        try:
            text = self._text or self._status_text()
            at = text.index(b"\nUmask:\t") + 8
            return int(text[at : at + 4], 8)
        except (OSError, ValueError):
            raise CallGone from None

    @property
    def personality(self) -> int:
        """As personality(2) gives it; 0 if only its own user can see it.

        :raises CallGone: it is dead."""
        try:
            return int(self._content(b"personality"), 16)
        except PermissionError:
            return 0
        except (OSError, ValueError):
            raise CallGone from None

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

    def take_fd(self, number: int) -> int | None:
        """A duplicate of what it has open under a number, the asker's to close; None where that is to be
        had by its process only (of a thread that leads none, before Linux 6.9).

        :raises OSError: EBADF if nothing is open there.
        :raises CallGone: it is dead."""
        if number < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._pidfd < 0:
            return None
        try:
            return raw.pidfd_getfd(self._pidfd, number)
        except ProcessLookupError:
            raise CallGone from None

    def closes_on_exec(self, number: int) -> bool:
        """Whether a descriptor is closed by execve(2) (proc_pid_fdinfo(5)).

        :raises OSError: nothing is open there, or it is dead."""
        text = self._content(b"fdinfo/%d" % number)
        return bool(int(_value(text, b"flags:\t"), 8) & _O_CLOEXEC)

    def _content(self, name: bytes) -> bytes:
        fd = self._open(name)
        try:
            return os.read(fd, _LONGEST)
        finally:
            os.close(fd)

    def has_room(self, counted: Callable[[], bool]) -> bool:
        """Whether its descriptor table takes one more, by RLIMIT_NOFILE.

        :param counted: finds that out by counting; asked where their number does not tell.
        """
        try:
            limit = self.most_open()
            if limit == resource.RLIM_INFINITY:
                return True
            # the size of its table: numbers from there on are free
            if self._text and int(_value(self._text, b"\nFDSize:\t")) < limit:
                return True
            # how many there are, since Linux 6.2; 0 before
            if 0 < os.stat("fd", dir_fd=self.proc).st_size < limit:
                return True
        except OSError:
            pass
        return counted()

    def most_open(self) -> int:
        """Its RLIMIT_NOFILE, soft; ``resource.RLIM_INFINITY``: none.

        :raises CallGone: it is dead."""
        try:
            return resource.prlimit(self.tid, resource.RLIMIT_NOFILE)[0]
        except PermissionError:  # another user's, without CAP_SYS_RESOURCE: everybody may read them
            text = self._content(b"limits")  # fs/proc/base.c
        except ProcessLookupError:
            raise CallGone from None
        soft = _value(text, b"\nMax open files").split()[0]
        return resource.RLIM_INFINITY if soft == b"unlimited" else int(soft)


def _pidfd_of(tid: int) -> int:
    """A pidfd of a thread, or of the process that it leads; -1 where there is neither (before Linux 6.9).

    :raises OSError: it is dead."""
    for flags in (PIDFD_THREAD, 0):
        try:
            return os.pidfd_open(tid, flags)
        except OSError as error:
            # EINVAL: the flag is unknown.  EINVAL, and ENOENT on newer kernels: it leads no process.
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
    return -1


def _value(text: bytes, mark: bytes) -> bytes:
    at = text.index(mark) + len(mark)
    return text[at : text.index(b"\n", at)]
