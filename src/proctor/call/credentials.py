"""Who a calling thread is: what its files in ``/proc`` say of its identity and rights."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final

from proctor.call.decode.values import SignalSet
from proctor.call.identity import (
    WHOLE_MAP,
    Capabilities,
    IdRange,
    Ids,
    Stat,
    Status,
    parse_arguments,
    parse_cgroups,
    parse_id_map,
    parse_limits,
    parse_stat,
)
from proctor.call.taking import Taker, reading
from proctor.errors import ProctorError, Unsupported

if TYPE_CHECKING:
    from proctor.call.decode.values import Limits
    from proctor.call.ports import ProcPort

#: Kinds of namespaces that say where a thread is (namespaces(7)); ``pid_for_children`` and
#: ``time_for_children`` can be asked for, too.
NAMESPACES: Final = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
#: Where the user and the mount namespace are among them.
USER: Final = NAMESPACES.index("user")
MNT: Final = NAMESPACES.index("mnt")

#: What ``status`` says where no signal waits (``task_sig`` of fs/proc/array.c).
_NONE_PENDING: Final = b"\nSigPnd:\t%016x\nShdPnd:\t%016x\n" % (0, 0)

#: Signals whose default is to stop: STOP, TSTP, TTIN and TTOU; and the others whose default is no end (signal(7)): CHLD, CONT, URG and
#: WINCH; by the kernel's numbers (asm-generic/signal.h), as wherever a supervisor runs; elsewhere, where policies are only looked over,
#: there may be none.
_STOPPING: Final = sum(1 << number - 1 for number in (19, 20, 21, 22))
_SPARING: Final = _STOPPING | sum(1 << number - 1 for number in (17, 18, 23, 28))

_NS_GET_PARENT: Final = 0xB702  # include/uapi/linux/nsfs.h; since Linux 4.9
_NS_GET_OWNER_UID: Final = 0xB704  # since Linux 4.11


class Credentials(Taker):
    """The part of :class:`proctor.call.caller.Caller` that is about who it is."""

    __slots__ = ()

    # /proc/TID/status ---------------------------------------------------------------------------

    @property
    def _status(self) -> Status:
        return self._read_once("status", Status)

    def _numbers(self, key: str, base: int = 10, status: Status | None = None) -> tuple[int, ...]:
        found = (status or self._status).numbers(key, base)
        if found is None:
            raise Unsupported(
                f"{key} in /proc/PID/status",
                _SINCE.get(key, "4.1"),
                f"the caller's {key} cannot be told",
            ).about(pid=self.tid, notif_id=self._id)
        return found

    @property
    def comm(self) -> str:
        """The thread's name, as the kernel escapes it.  Any thread of the process can change it."""
        self._look()
        return (self._status.line("Name") or b"").decode("utf-8", "surrogateescape")

    @property
    def tgid(self) -> int:
        """The process: thread id of its leader, as we see it."""
        return self._numbers("Tgid")[0]

    @property
    def parent(self) -> int:
        """The process that it comes of, as we see it; 0 for none, or one that we do not see.  It is another one
        when that dies."""
        return self._numbers("PPid")[0]

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
    def unmapped(self) -> bool:
        """Whether one of these ids reads as the overflow id (65534) because it has no number in the
        monitor's user namespace, or may do so: then nothing follows from its being equal to another.
        """
        uid, gid = self._once("overflow", self._overflow)
        return uid in self.uids or gid in self.gids or gid in self.groups

    def _overflow(self) -> tuple[int, int]:
        return overflow_ids(os.getpid())

    @property
    def umask(self) -> int:
        """File mode creation mask (Linux 4.7); it can be shared with other threads (CLONE_FS)."""
        self._look()
        return self._numbers("Umask", 8)[0]

    @property
    def caps(self) -> Capabilities:
        """Capability sets, over the caller's own user namespace (ambient: Linux 4.3)."""
        return Capabilities(
            *[
                self._numbers(key, 16)[0]
                for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
            ]
        )

    @property
    def no_new_privs(self) -> bool:
        """Whether execve(2) can give it nothing (Linux 4.10)."""
        return self._numbers("NoNewPrivs")[0] == 1

    @property
    def filters(self) -> int:
        """How many seccomp filters it has, ours among them (Linux 5.9)."""
        return self._numbers("Seccomp_filters")[0]

    def pending(self, *, its_own: bool = False) -> SignalSet:
        """Signals that wait for the thread or its process and are not blocked *now*: read anew each
        time.  The next one does not end a call that was received (WAIT_KILLABLE_RECV), unless it is
        SIGKILL; :meth:`deadly` says whether one of these is to: see docs/races.md.

        :param its_own: only those for which this very thread was woken, and which it meets when its
            call returns.  A signal of the process's is any one thread's: the first's whenever that
            can take it, else that of another one that does not block it (``complete_signal`` of
            kernel/signal.c).  Where that could be several, which wait like this one, it is nobody's."""
        text = self._take("status", reading("status"))
        if _NONE_PENDING in text:  # as mostly, and this is asked of all that wait, again and again
            return SignalSet(0)
        status = Status(text)
        own, shared, blocked = (
            self._numbers(key, 16, status)[0] for key in ("SigPnd", "ShdPnd", "SigBlk")
        )
        shared &= ~blocked
        if its_own and shared and self.tid != self._numbers("Tgid", 10, status)[0]:
            shared = self._take("task", lambda files: self._meant(files, shared))
        return SignalSet(own & ~blocked | shared)

    def deadly(self, *, its_own: bool = False) -> SignalSet:
        """Those of :meth:`pending` that end the thread's process when its call returns: their default is to do so, and is
        what they do.  None where somebody traces the thread, who decides, or it is the init of a pid namespace, which has
        no such default; nor where one waits that stops it: natively it would stand still, and die when it goes on (SIGCONT
        takes that one away)."""
        waiting = self.pending(its_own=its_own)
        if not waiting:
            return waiting
        status = Status(self._take("status", reading("status")))
        ignored, caught = (self._numbers(key, 16, status)[0] for key in ("SigIgn", "SigCgt"))
        tracer = self._numbers("TracerPid", 10, status)[0]
        if tracer or self._numbers("NStgid", 10, status)[-1] == 1:
            return SignalSet(0)
        meant = waiting & ~(ignored | caught)
        return SignalSet(0 if meant & _STOPPING else meant & ~_SPARING)

    def _meant(self, files: ProcPort, signals: int) -> int:
        """Which of these signals of the process's can be no other thread's."""
        for name in files.names("task"):
            if int(name) == self.tid:
                continue
            try:
                other = Status(files.read(f"task/{name}/status"))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            # One that sleeps lightly is woken at once, and takes it: if it sleeps, it was not meant.
            if (other.line("State") or b"")[:1] not in b"SZX":
                signals &= self._numbers("SigBlk", 16, other)[0]
        return signals & self._numbers("ShdPnd", 16, Status(files.read("status")))[0]

    # Other files --------------------------------------------------------------------------------

    @property
    def exe(self) -> bytes:
        """The program, as the kernel names it *now*: whoever may rename files changes the name, and
        in another mount namespace the same name is another file.  `` (deleted)`` may follow."""
        self._look()
        return self._once("exe", lambda: self._take("exe", lambda files: files.link("exe")))

    @property
    def cmdline(self) -> tuple[bytes, ...]:
        """The arguments as the process's memory has them *now*: it can write there what it likes."""
        self._look()
        return self._read_once("cmdline", parse_arguments)

    @property
    def cgroup(self) -> bytes:
        """Path in the unified (v2) hierarchy, or the first hierarchy's where there is none."""
        found = self.cgroups
        return found.get("", next(iter(found.values()), b""))

    @property
    def cgroups(self) -> dict[str, bytes]:
        """Paths by controllers, from the root of *our* cgroup namespace; the unified hierarchy has
        the key ``""``."""
        return parse_cgroups(self._read_once("cgroup", bytes))

    @property
    def label(self) -> bytes:
        """The security module's label; empty where no module gives one."""
        return self._once("label", lambda: self._label(self._take))

    def _label(self, take: Callable[[str, Callable[[ProcPort], bytes]], bytes]) -> bytes:
        try:
            return take("attr/current", reading("attr/current")).rstrip(b"\n\0")
        except OSError as error:
            if isinstance(error, ProctorError):
                raise
            return b""  # EINVAL, ENOENT: no module fills it

    @property
    def limits(self) -> dict[str, Limits]:
        """Resource limits by the names of ``/proc/PID/limits``: ``limits["Max open files"].soft``."""
        return self._read_once("limits", parse_limits)

    @property
    def personality(self) -> int:
        """As personality(2) gives it: what ``uname`` and some other calls are to look like to it.

        :raises OSError: EACCES: it gave rights up, or is another user's."""
        return self._read_once("personality", lambda data: int(data, 16))

    @property
    def tty(self) -> int:
        """Device number of the controlling terminal, as :func:`os.makedev` makes them; 0 for none."""
        return self._stat.tty

    @property
    def started(self) -> int:
        """When the thread started, in clock ticks since the machine did (in our time namespace)."""
        return self._stat.started

    @property
    def _stat(self) -> Stat:
        return self._read_once("stat", parse_stat)

    @property
    def uid_map(self) -> tuple[IdRange, ...]:
        """Which user ids its user namespace has; ``outside`` is as *our* user namespace counts."""
        return self._read_once("uid_map", parse_id_map)

    @property
    def gid_map(self) -> tuple[IdRange, ...]:
        """Which group ids its user namespace has."""
        return self._read_once("gid_map", parse_id_map)

    @property
    def projid_map(self) -> tuple[IdRange, ...]:
        """Which project ids (of quotas) its user namespace has; usually none."""
        return self._read_once("projid_map", parse_id_map)

    @property
    def mountinfo(self) -> bytes:
        """Its mounts (proc_pid_mountinfo(5)), at most 16 MiB: other threads can change them."""
        self._look()
        return self._read_once("mountinfo", bytes)

    # Namespaces ---------------------------------------------------------------------------------

    def namespace(self, kind: str) -> int:
        """Inode number of a namespace, one of :data:`NAMESPACES`.

        Two threads are in the same namespace exactly if the numbers are equal.

        :raises OSError: ENOENT for a kind that this kernel does not have."""
        name = f"ns/{kind}"
        return self._once(name, lambda: self._take(name, lambda files: inode_of(files, name)))

    @property
    def userns(self) -> int:
        """Inode number of the user namespace."""
        return self.namespace("user")

    def same_userns(self, other: Credentials | int) -> bool:
        """Whether the user namespace is that of ``other``: a Caller, or an inode number such as the
        one of the target's first process.  A caller in a nested one is root of nothing outside."""
        return self.userns == (other.userns if isinstance(other, Credentials) else other)

    def namespace_fd(self, kind: str) -> int:
        """Descriptor of a namespace for setns(2); kinds as for :meth:`namespace`."""
        name = f"ns/{kind}"
        return self._held(name, lambda: self._take_fd(name, os.O_RDONLY))

    def userns_origin(self) -> tuple[int, int] | None:
        """(inode number of the parent, effective uid of the maker) of its user namespace; None where
        the parent is not to be seen from here (ioctl_ns(2), Linux 4.11)."""
        import fcntl

        namespace = self.namespace_fd("user")
        owner = bytearray(4)
        try:
            parent = fcntl.ioctl(namespace, _NS_GET_PARENT)
        except OSError as error:
            if error.errno == errno.EPERM:  # the initial one has none, others are out of sight
                return None
            raise
        try:
            fcntl.ioctl(namespace, _NS_GET_OWNER_UID, owner)
            return os.fstat(parent).st_ino, int.from_bytes(owner, sys.byteorder)
        finally:
            os.close(parent)


_SINCE: Final = {
    "NSpid": "4.1", "NStgid": "4.1", "CapAmb": "4.3", "Umask": "4.7", "NoNewPrivs": "4.10",
    "Seccomp_filters": "5.9",
}  # fmt: skip


def inode_of(files: ProcPort, name: str) -> int:
    """The number in a link such as ``user:[4026531837]``: half the price of stat(2)."""
    return int(files.link(name).rpartition(b"[")[2].rstrip(b"]"))


@cache
def overflow_ids(pid: int) -> tuple[int, int]:
    """(uid, gid) that an id without a number in our user namespace reads as; -1 where all have one.

    :param pid: ours: what was found is forgotten with a fork, which may be followed by unshare(2).
    """
    found = []
    for kind in ("uid", "gid"):
        with open(f"/proc/self/{kind}_map", "rb") as file:
            whole = parse_id_map(file.read()) == WHOLE_MAP
        with open(f"/proc/sys/kernel/overflow{kind}", "rb") as file:
            found.append(-1 if whole else int(file.read()))
    return found[0], found[1]
