"""Everything that decides what a caller may do, taken from one pinned ``/proc/TID``.

What is taken: user ids and group ids (real, effective, saved, file system), supplementary groups,
effective and permitted capabilities, umask, the user, mount, net, ipc and uts namespaces, the root
directory *on its mount*, the directory a relative path starts at, the cgroups that have a say on
devices, the LSM label, the numbers in every pid namespace.  It is all read through one descriptor of
``/proc/TID``; then the notification must still be valid, which means that the thread was there, and
blocked, all the time: its credentials cannot have changed meanwhile, nor its number been recycled.

Ids are as the monitor's user namespace numbers them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Hashable
from typing import Any, Final

from proctor.emulate import raw, scarce
from proctor.emulate.become import NAMESPACES
from proctor.emulate.cgroups import device_groups

_PIN: Final = os.O_PATH | os.O_CLOEXEC
_NS_GET_OWNER_UID: Final = 0xB704
_ALL_NAMESPACES: Final = ("user", *NAMESPACES)


class CallerUnreadable(Exception):
    """The kernel does not let the monitor look at the caller; the text says at what."""


class CallerVanished(Exception):
    """The caller is gone: an ordinary event."""


def read_all(dirfd: int, name: bytes) -> bytes:
    """The content of one file of procfs."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        data = os.read(fd, 8192)
        if len(data) < 4000:  # procfs gives short texts whole
            return data
        parts = [data]
        while True:
            more = os.read(fd, 65536)
            if not more:
                return b"".join(parts)
            parts.append(more)
    finally:
        os.close(fd)


class Own:
    """What the monitor, and so a fresh performer, has itself."""

    __slots__ = ("_groups", "cgroup", "has_lsm", "is_initial", "label", "namespaces", "root")

    def __init__(self) -> None:
        """
        :raises CallerUnreadable: what /proc says is not about the threads we know by their numbers.
        """
        seen = os.readlink("/proc/self")
        if seen != str(os.getpid()):
            raise CallerUnreadable(
                f"/proc is of another pid namespace: it knows the monitor as {seen}, not as "
                f"{os.getpid()}, and would show others in the place of callers; mount the "
                "monitor's own (unshare --mount-proc)"
            )
        self._groups: dict[bytes, list[bytes | None]] = {}
        me = os.open(b"/proc/self", _PIN | os.O_DIRECTORY)
        try:
            self.namespaces = {
                name: os.readlink("ns/" + name, dir_fd=me) for name in _ALL_NAMESPACES
            }
            self.root = raw.place(me, b"root")
            self.cgroup = read_all(me, b"cgroup")
            try:
                self.label = read_all(me, b"attr/current").rstrip(b"\0\n")
            except OSError as error:
                scarce.pass_on(error)
                self.label = b""
            self.has_lsm = bool(self.label)
            #: Whether our user namespace looks like the initial one: every id, as it is.
            self.is_initial = read_all(me, b"uid_map").split() == [b"0", b"0", b"4294967295"]
        finally:
            os.close(me)

    def groups_to_join(self, cgroup: bytes) -> list[bytes | None]:
        """:func:`~proctor.emulate.cgroups.device_groups` of a caller, remembered."""
        if cgroup == self.cgroup:
            return []
        found = self._groups.get(cgroup)
        if found is None:
            if len(self._groups) > 256:
                self._groups.clear()
            found = self._groups[cgroup] = device_groups(cgroup, self.cgroup)
        return found


class Identity:
    """One caller, as it is during one call.  Close it; :attr:`key` outlives it."""

    __slots__ = (
        "_rights",
        "cgroup",
        "label",
        "namespaces",
        "own",
        "pids",
        "proc",
        "root",
        "status",
        "umask",
    )

    def __init__(self, tid: int, own: Own) -> None:
        """
        :raises CallerVanished: there is no such thread.
        :raises CallerUnreadable: the kernel does not let us look.
        """
        self.own = own
        try:
            self.proc = os.open(b"/proc/%d" % tid, _PIN | os.O_DIRECTORY)
        except OSError as error:
            raise _untaken(error) from None
        try:
            self._take()
        except OSError as error:
            self.close()
            raise _untaken(error) from None
        except ValueError:  # no Umask: the thread is exiting
            self.close()
            raise CallerVanished from None

    def _take(self) -> None:
        proc = self.proc
        self.status = status = read_all(proc, b"status")
        self.namespaces = tuple(os.readlink("ns/" + name, dir_fd=proc) for name in _ALL_NAMESPACES)
        self.root = raw.place(proc, b"root")
        self.cgroup = read_all(proc, b"cgroup")
        self.label = read_all(proc, b"attr/current").rstrip(b"\0\n") if self.own.has_lsm else b""
        # Name: comes first and may contain anything but a newline (that is escaped).
        at = status.index(b"\nUmask:\t")
        self.umask = int(status[at + 8 : status.index(b"\n", at + 8)], 8)
        at = status.index(b"\nNStgid:", at)
        self.pids = status[at + 1 : status.index(b"\nNSpgid:", at)]
        ids = status[status.index(b"\nUid:\t") : status.index(b"\nNStgid:")]
        at = status.index(b"\nCapPrm:\t")
        caps = status[at : status.index(b"\nCapBnd:", at)]
        self._rights = ids[: ids.index(b"\nFDSize:")] + ids[ids.index(b"\nGroups:") :] + caps

    def close(self) -> None:
        """Let go of ``/proc/TID``; idempotent."""
        proc, self.proc = self.proc, -1
        if proc >= 0:
            os.close(proc)

    @property
    def key(self) -> Hashable:
        """Equal keys may share a performer.  A performer is in the namespaces and holds the root it
        was made with, so none of these numbers is reused while it lives."""
        return (self._rights, self.namespaces, self.root, self.cgroup, self.label)

    def numbers(self, field: bytes, base: int = 10) -> list[int]:
        """The numbers of one line of ``/proc/TID/status``."""
        at = self.status.index(b"\n" + field + b":") + len(field) + 2
        return [int(word, base) for word in self.status[at : self.status.index(b"\n", at)].split()]

    @property
    def effective(self) -> int:
        """Effective capabilities, over the caller's own user namespace."""
        return self.numbers(b"CapEff", 16)[0]

    @property
    def user_namespace(self) -> str:
        """As ``user:[4026531837]``."""
        return self.namespaces[0]

    @property
    def in_own_user_namespace(self) -> bool:
        """Whether the caller is in the monitor's user namespace."""
        return self.namespaces[0] == self.own.namespaces["user"]

    def start(self, dirfd: int) -> int | None:
        """An O_PATH descriptor of where a relative path starts: the caller's ``dirfd``, or its
        working directory.  None if the caller has no such descriptor."""
        name = b"cwd" if dirfd == raw.AT_FDCWD else b"fd/%d" % dirfd
        if dirfd < 0 and dirfd != raw.AT_FDCWD:
            return None
        try:
            return os.open(name, _PIN, dir_fd=self.proc)
        except FileNotFoundError:
            if dirfd != raw.AT_FDCWD:
                return None
            raise CallerVanished from None
        except OSError as error:
            raise _untaken(error) from None

    def mount_is_idmapped(self, directory: int) -> bool:
        """Whether the mount that ``directory`` is on maps ids, as the caller's mountinfo says."""
        mount = b"%d " % raw.place(directory).mount
        for line in read_all(self.proc, b"mountinfo").split(b"\n"):
            if line.startswith(mount):
                return b"idmapped" in line.split(b" - ")[0].split()[5].split(b",")
        return False

    def parent_and_owner(self) -> tuple[int, int] | None:
        """(inode of the parent, uid of the owner) of the caller's user namespace; None if its parent
        is not to be seen from here."""
        fd = os.open("ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc)
        try:
            owner = bytearray(4)
            fcntl.ioctl(fd, _NS_GET_OWNER_UID, owner)
            parent = fcntl.ioctl(fd, raw.NS_GET_PARENT)
            try:
                return os.fstat(parent).st_ino, struct.unpack("=I", owner)[0]
            finally:
                os.close(parent)
        except OSError as error:
            scarce.pass_on(error)
            return None
        finally:
            os.close(fd)

    @property
    def other_cgroup(self) -> bool:
        """Whether rules for devices may hold for the caller that do not hold for the monitor."""
        return bool(self.own.groups_to_join(self.cgroup))

    def spec(self, join_cgroups: bool) -> tuple[dict[str, Any], list[int]]:
        """What a performer needs to know and to have to become this caller (descriptors are the
        receiver's to close); see :func:`proctor.emulate.become.become`."""
        names: list[str] = []
        fds: list[int] = []
        try:
            for name, theirs in zip(_ALL_NAMESPACES, self.namespaces, strict=True):
                if theirs != self.own.namespaces[name]:
                    flags = os.O_RDONLY | os.O_CLOEXEC
                    fds.append(os.open("ns/" + name, flags, dir_fd=self.proc))
                    names.append(name)
            if self.root != self.own.root or "mnt" in names:
                fds.append(os.open("root", _PIN | os.O_DIRECTORY, dir_fd=self.proc))
                names.append("root")
            joinable = self._open_cgroups(names, fds) if join_cgroups else True
            effective, permitted = self.effective, self.numbers(b"CapPrm", 16)[0]
            spec = {
                "fds": names,
                "uids": self.numbers(b"Uid"),
                "gids": self.numbers(b"Gid"),
                "groups": self.numbers(b"Groups"),
                "effective": effective,
                "permitted": permitted,
                "umask": self.umask,
                "uid_map": _ranges(read_all(self.proc, b"uid_map")),
                "gid_map": _ranges(read_all(self.proc, b"gid_map")),
                "label": _change_to(self.label) if self.label != self.own.label else None,
                "cgroup": True if joinable else None,
            }
        except OSError as error:
            for fd in fds:
                os.close(fd)
            raise _untaken(error) from None
        return spec, fds

    def _open_cgroups(self, names: list[str], fds: list[int]) -> bool:
        for number, path in enumerate(self.own.groups_to_join(self.cgroup)):
            if path is None:
                return False
            try:
                fds.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
            except OSError as error:
                scarce.pass_on(error)
                return False
            names.append(f"cgroup{number}")
        return True


def _untaken(error: OSError) -> CallerVanished | CallerUnreadable:
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return CallerVanished()
    if error.errno in scarce.OURS:
        return CallerUnreadable(scarce.why(error))
    return CallerUnreadable(
        f"the kernel does not let the monitor look at the caller ({os.strerror(error.errno or 0)}"
        f"{f', {error.filename!r}' if error.filename else ''}): it may have changed its user id or "
        "made itself undumpable; a monitor with more rights can"
    )


def _ranges(text: bytes) -> list[tuple[int, int, int]]:
    found = []
    for line in text.splitlines():
        inside, outside, count = (int(word) for word in line.split())
        found.append((inside, outside, count))
    return found


def _change_to(label: bytes) -> bytes:
    """What is written to take a label on: AppArmor has a command, SELinux and Smack the bare label."""
    for mode in (b" (enforce)", b" (complain)", b" (kill)", b" (unconfined)", b" (mixed)"):
        if label.endswith(mode):
            return b"changeprofile " + label[: -len(mode)]
    return b"changeprofile unconfined" if label == b"unconfined" else label
