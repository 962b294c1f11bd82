"""Who makes a call: identity, rights and place of one thread.

Everything is taken through one pinned directory of /proc (:mod:`proctor.kernel.thread`) or a
pidfd, and after each thing that is taken the notification is checked before the thing is handed
out: as long as it is valid the thread sits in its call, so what was read is about *it*.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from proctor.call.identity import Capabilities, Ids, parse_arguments, parse_cgroups, parse_status
from proctor.errors import (
    CallerInvisible,
    CallGone,
    CallOver,
    NotPermitted,
    ProctorError,
    Unsupported,
)
from proctor.kernel.pidfd import open_pidfd, shares_descriptors

if TYPE_CHECKING:
    from proctor.call.path.resolve import Located
    from proctor.call.ports import ProcPort, ValidityPort

T = TypeVar("T")

AT_FDCWD: Final = -100


class Caller:
    """One calling thread.  Made by :attr:`proctor.call.Call.caller`.

    :param tid: its number in our pid namespace; 0 raises CallerInvisible at once.
    :param listener: asked after each thing is taken; None for a thread that cannot go away (tests).
    :param id: the notification.
    :param files: stands in for ``/proc/TID``; opened when first needed if None.
    :param looked: called before something is handed out that other threads of the target can
        change (descriptors, root, working directory).

    All members may raise :class:`~proctor.errors.CallGone`.  Values are read once and kept;
    descriptors that :meth:`root`, :meth:`cwd`, :meth:`dir_fd` and :meth:`anchor` return belong to
    the Caller and are closed with the call: duplicate what must live longer.
    """

    __slots__ = ("_fds", "_files", "_id", "_listener", "_looked", "_over", "_values", "tid")

    def __init__(
        self,
        tid: int,
        listener: ValidityPort | None,
        id: int = 0,
        *,
        files: ProcPort | None = None,
        looked: Callable[[], None] | None = None,
    ) -> None:
        if not tid and files is None:
            raise CallerInvisible(
                "the caller has no number in our pid namespace, so who it is cannot be found out"
            ).about(notif_id=id)
        #: Thread id, as we see it.
        self.tid = tid
        self._listener = listener
        self._id = id
        self._files = files
        self._looked = looked
        self._values: dict[str, object] = {}
        self._fds: dict[str, int] = {}
        self._over = False

    # Taking -----------------------------------------------------------------------------------

    def check(self) -> None:
        """See that the notification is still valid.

        :raises CallGone: it is not."""
        if self._listener is not None and not self._listener.id_valid(self._id):
            raise CallGone().about(pid=self.tid, notif_id=self._id)

    def _alive(self) -> None:
        if self._over:
            raise CallOver(
                "the caller was used after the verdict; copy what is needed before the handler "
                "returns"
            ).about(pid=self.tid, notif_id=self._id)

    def _proc(self) -> ProcPort:
        self._alive()
        files = self._files
        if files is None:
            from proctor.kernel.thread import ProcFiles

            try:
                files = ProcFiles(self.tid)
            except OSError as error:
                if isinstance(error, ProctorError):
                    raise
                self._failed(error, "")
            self._files = files
            self.check()  # only now is it known to be the caller's directory
        return files

    def _take(self, what: str, how: Callable[[ProcPort], T]) -> T:
        """One thing, checked before it is handed out."""
        files = self._proc()
        try:
            value = how(files)
        except OSError as error:
            self._failed(error, what)
        self.check()
        return value

    def _take_fd(self, name: str, flags: int) -> int:
        """A new descriptor of a file in /proc/TID; closed again if the caller is gone meanwhile."""
        files = self._proc()
        try:
            fd = files.open(name, flags)
        except OSError as error:
            self._failed(error, name)
        try:
            self.check()
        except CallGone:
            os.close(fd)
            raise
        return fd

    def _failed(self, error: OSError, what: str) -> NoReturn:
        """The caller is gone, or the kernel refuses, or there is no such thing: which is it?"""
        self.check()
        if error.errno in (errno.EPERM, errno.EACCES):
            raise NotPermitted(
                error.errno,
                f"/proc/{self.tid}/{what} of the caller may not be looked at; it is not dumpable or "
                "more privileged than the monitor: run with CAP_SYS_PTRACE in its user namespace",
            ).about(pid=self.tid, notif_id=self._id) from None
        if error.errno == errno.ENOENT and not what:
            raise NotPermitted(
                errno.ENOENT,
                f"/proc/{self.tid} is hidden from the monitor (procfs is mounted with hidepid): add "
                "the monitor's group with the gid= mount option",
            ).about(pid=self.tid, notif_id=self._id) from None
        if error.errno == errno.ESRCH:
            raise CallGone().about(pid=self.tid, notif_id=self._id) from None
        raise error

    def _once(self, key: str, make: Callable[[], T]) -> T:
        self._alive()
        try:
            return self._values[key]  # type: ignore[return-value]
        except KeyError:
            value = make()
            self._values[key] = value
            return value

    # /proc/TID/status ---------------------------------------------------------------------------

    @property
    def status(self) -> dict[str, str]:
        """The lines of /proc/TID/status: keys to the rest of the line.

        The process name cannot forge lines: the kernel escapes newlines in it, and the first line
        with a key counts."""
        return self._once("status", lambda: parse_status(self._take("status", _read("status"))))

    def _numbers(self, key: str, base: int = 10) -> tuple[int, ...]:
        line = self.status.get(key)
        if line is None:
            raise Unsupported(
                f"{key} in /proc/PID/status",
                _SINCE.get(key, "4.1"),
                f"the caller's {key} cannot be told",
            ).about(pid=self.tid, notif_id=self._id)
        return tuple(int(word, base) for word in line.split())

    @property
    def comm(self) -> str:
        """The thread's name, as the kernel escapes it."""
        return self.status.get("Name", "")

    @property
    def tgid(self) -> int:
        """The process: thread id of its leader, as we see it."""
        return self._numbers("Tgid")[0]

    @property
    def nspid(self) -> tuple[int, ...]:
        """Thread ids from our pid namespace down to the caller's own (Linux 4.1)."""
        return self._numbers("NSpid")

    @property
    def nstgid(self) -> tuple[int, ...]:
        """Process ids from our pid namespace down to the caller's own (Linux 4.1)."""
        return self._numbers("NStgid")

    @property
    def uids(self) -> Ids:
        """User ids."""
        return Ids(*self._numbers("Uid")[:4])

    @property
    def gids(self) -> Ids:
        """Group ids."""
        return Ids(*self._numbers("Gid")[:4])

    @property
    def groups(self) -> tuple[int, ...]:
        """Supplementary groups."""
        return self._numbers("Groups")

    @property
    def umask(self) -> int:
        """File mode creation mask (Linux 4.7)."""
        return self._numbers("Umask", 8)[0]

    @property
    def caps(self) -> Capabilities:
        """Capability sets (ambient: Linux 4.3)."""
        return Capabilities(
            *(
                self._numbers(key, 16)[0]
                for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
            )
        )

    # Other files --------------------------------------------------------------------------------

    @property
    def exe(self) -> bytes:
        """The program, as the kernel names it; `` (deleted)`` may follow."""
        return self._once("exe", lambda: self._take("exe", lambda files: files.link("exe")))

    @property
    def cmdline(self) -> tuple[bytes, ...]:
        """The arguments as the process's memory has them *now*: it can write there what it likes."""
        return self._once(
            "cmdline", lambda: parse_arguments(self._take("cmdline", _read("cmdline")))
        )

    @property
    def cgroup(self) -> bytes:
        """Path in the unified (v2) hierarchy, or the first hierarchy's where there is none."""
        found = self.cgroups
        return found.get("", next(iter(found.values()), b""))

    @property
    def cgroups(self) -> dict[str, bytes]:
        """Paths by controllers; the unified hierarchy has the key ``""``."""
        return self._once("cgroup", lambda: parse_cgroups(self._take("cgroup", _read("cgroup"))))

    @property
    def label(self) -> bytes:
        """The security module's label; empty where no module gives one."""

        def take() -> bytes:
            try:
                return self._take("attr/current", _read("attr/current")).rstrip(b"\n\0")
            except OSError as error:
                if isinstance(error, ProctorError):
                    raise
                return b""  # EINVAL, ENOENT: no module fills it

        return self._once("label", take)

    def namespace(self, kind: str) -> int:
        """Inode number of a namespace: "user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time".

        Two threads are in the same namespace exactly if the numbers are equal."""
        name = f"ns/{kind}"
        return self._once(name, lambda: self._take(name, lambda files: files.inode(name)[1]))

    @property
    def userns(self) -> int:
        """Inode number of the user namespace."""
        return self.namespace("user")

    def same_userns(self, other: Caller | int) -> bool:
        """Whether the user namespace is that of ``other``: a Caller, or an inode number such as the
        one of the target's first process.  A caller in a nested one is root of nothing outside."""
        return self.userns == (other.userns if isinstance(other, Caller) else other)

    # Descriptors --------------------------------------------------------------------------------

    def _descriptor(self, key: str, make: Callable[[], int]) -> int:
        """A descriptor that the Caller keeps; the first one wins if two threads take it at once."""
        fd = self._fds.get(key)
        if fd is not None and not self._over:
            return fd
        made = make()
        fd = self._fds.setdefault(key, made)
        if fd != made:
            os.close(made)
        if self._over:  # meanwhile, in another thread
            self.close()
        self._alive()
        return fd

    def _place(self, name: str) -> int:
        if self._looked is not None:
            self._looked()
        return self._descriptor(name, lambda: self._take_fd(name, os.O_PATH))

    def root(self) -> int:
        """``O_PATH`` descriptor of the caller's root directory."""
        return self._place("root")

    def cwd(self) -> int:
        """``O_PATH`` descriptor of the caller's working directory."""
        return self._place("cwd")

    def dir_fd(self, number: int) -> int:
        """``O_PATH`` descriptor of what the caller has open as ``number``; AT_FDCWD is :meth:`cwd`.

        :raises OSError: EBADF if nothing is open there."""
        if number == AT_FDCWD:
            return self.cwd()
        if number < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            return self._place(f"fd/{number}")
        except FileNotFoundError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def namespace_fd(self, kind: str) -> int:
        """Descriptor of a namespace for setns(2); kinds as for :meth:`namespace`."""
        name = f"ns/{kind}"
        return self._descriptor(name, lambda: self._take_fd(name, os.O_RDONLY))

    def anchor(self) -> int:
        """A pidfd: of the thread itself where the kernel has PIDFD_THREAD (6.9), else of its
        process, which :attr:`anchored_thread` tells."""
        return self._descriptor("pidfd", self._open_pidfd)

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
            if isinstance(error, ProctorError):
                raise
            self._failed(error, "pidfd")
        try:
            self.check()
        except CallGone:
            os.close(fd)
            raise
        self._values["pidfd of thread"] = of_thread
        return fd

    def descriptor(self, number: int) -> int:
        """A duplicate of the caller's descriptor; it belongs to whoever asked (Linux 5.6).

        :raises OSError: EBADF if nothing is open there.
        :raises NotPermitted: ptrace access is needed and refused.
        :raises Unsupported: an old kernel, and the thread does not share its process's table.
        """
        if self._looked is not None:
            self._looked()
        if number < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        pidfd = self.anchor()
        if not self._values["pidfd of thread"] and not shares_descriptors(self.tid, self.tgid):
            raise Unsupported(
                "PIDFD_THREAD",
                "6.9",
                "descriptors of a thread with a table of its own are out of reach",
            ).about(pid=self.tid, notif_id=self._id)
        from proctor.kernel import _core

        try:
            fd = _core.pidfd_getfd(pidfd, number)
        except OSError as error:
            if error.errno == errno.EBADF:
                self.check()
                raise
            self._failed(error, f"fd/{number}")
        try:
            self.check()
        except CallGone:
            os.close(fd)
            raise
        return fd

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

        The result belongs to whoever asked."""
        from proctor.call.path.resolve import locate

        located = locate(
            self, path, dirfd, follow=follow, empty=empty, resolve=resolve, entry=entry
        )
        try:
            self.check()
        except CallGone:
            located.close()
            raise
        return located

    # End ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close every descriptor that was taken.  Idempotent; done when the call is over."""
        self._over = True
        while self._fds:
            try:
                _, fd = self._fds.popitem()
            except KeyError:
                break
            try:
                os.close(fd)
            except OSError:
                pass  # the handler closed it against the contract; the others are still ours
        if self._files is not None:
            self._files.close()

    def __repr__(self) -> str:
        return f"<Caller tid={self.tid} id={self._id:#x}>"


_SINCE: Final = {"NSpid": "4.1", "NStgid": "4.1", "Umask": "4.7", "CapAmb": "4.3"}


def _read(name: str) -> Callable[[ProcPort], bytes]:
    return lambda files: files.read(name)
