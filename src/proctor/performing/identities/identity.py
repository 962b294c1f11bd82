"""Becoming a caller: everything that decides what it may do, as a list of system calls.

In the kernel's own terms: where a path leads is decided by the mount namespace, the root directory
and the place a relative path starts at; what may be done there by the file-system ids, the groups,
the capabilities over the user namespace, and the security module's label; what a device or a file of
procfs means by the net, ipc, uts and cgroup namespaces; which devices there are by the cgroup.  An
executor takes all of that on, once, in an order that keeps every step possible:

* the label is changed by a file of *our* /proc, so that is opened first;
* cgroups are joined through descriptors that the monitor opened;
* a monitor with rights over the host sets everything by the numbers the host has for it and enters
  the user namespace last: ids and groups without a number there come out right too, and entering
  gives the full set of capabilities from which the caller's is cut;
* without such rights the user namespace comes first, since it is what gives us any; what an outer
  namespace owns (the caller may sit in a nested one) comes before it;
* changing ids must not change capabilities (securebits), which are set after them;
* the death signal and dumpability are forgotten with every change of credentials (prctl(2)), so they
  come last; then it is seen whether the mother still is there to die with.

The pid namespace is not entered: the caller would see its executor.  See :mod:`proctor.performing.paths.walk` for /proc.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proctor.kernel.raw import is_hidden
from proctor.performing import scarce
from proctor.performing.executing.beginning import JOINING, Become, Start
from proctor.performing.executing.steps import Argument, Result, Steps
from proctor.performing.identities.nowhere import Nowhere, is_fdinfo, is_gone
from proctor.performing.trouble import CannotJoin, Trouble

if TYPE_CHECKING:
    from proctor.call.caller import Caller
    from proctor.call.identity import IdRange
    from proctor.performing.identities.who import Own, Who

#: Namespaces that change what a path, a device or a file of procfs means; user is special.
ENTERED: Final = ("mnt", "net", "ipc", "uts", "cgroup")
#: Rights that cannot be had at a descriptor: what a caller's key says of them decides nothing.
_CAP_SETGID, _CAP_SETUID, _CAP_SYS_CHROOT, _CAP_SYS_PTRACE, _CAP_SYS_ADMIN = 6, 7, 18, 19, 21
_HOST_RIGHTS: Final = (
    1 << _CAP_SETUID | 1 << _CAP_SETGID | 1 << _CAP_SYS_ADMIN | 1 << _CAP_SYS_CHROOT
)

_NS_GET_USERNS: Final = 0xB701  # include/uapi/linux/nsfs.h
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECUREBITS = 1, 4, 28
_NO_SETUID_FIXUP_KEEP_CAPS: Final = 1 << 2 | 1 << 4
_SIGKILL: Final = 9
_CONTROL: Final = 3
_NO_ID: Final = 0xFFFFFFFF


class Becoming:
    """A list that makes an executor somebody; see :func:`caller_steps` and :func:`lender_steps`."""

    def __init__(self) -> None:
        self.steps = Steps()
        self.fds: list[int] = []
        #: Whose directory is its root, if the caller's own is a dead process's.
        self._nowhere: Nowhere | None = None
        #: Whether it may search every process's directories while it takes on a root.
        self.searches_any = False
        self.words: dict[int, str] = {}
        self._values: list[bytes] = []
        self._dot = self.steps.bytes(b".")
        self._zero = self.steps.bytes(b"0")

    def step(self, words: str, what: str, *args: Argument, want: int | None = None) -> Result:
        """One step that must come out well; ``words`` say what it is for."""
        made = self.steps.call(what, *args, want=want)
        self.words[made.step] = words
        return made

    def send(self, fd: int) -> Argument:
        """A descriptor to go along, which is given away."""
        self.fds.append(fd)
        return self.steps.sent()

    def keep_capabilities(self) -> None:
        """From here on changing ids does not change capabilities (needs CAP_SETPCAP)."""
        self.step("keeping capabilities", "prctl", _PR_SET_SECUREBITS, _NO_SETUID_FIXUP_KEEP_CAPS, 0, 0, 0)  # fmt: skip

    def label_file(self) -> Result:
        """Where a process's LSM label is changed."""
        apparmor = os.path.exists("/proc/self/attr/apparmor/current")
        name = "/proc/self/attr/apparmor/current" if apparmor else "/proc/self/attr/current"
        place = self.steps.bytes(name.encode())
        return self.step("opening the LSM label", "openat", -100, place, os.O_WRONLY | os.O_CLOEXEC)

    def take_label(self, file: Result, label: bytes) -> None:
        """Take the label on: AppArmor has a command for that, SELinux and Smack the bare label."""
        for mode in (b" (enforce)", b" (complain)", b" (kill)", b" (unconfined)", b" (mixed)"):
            if label.endswith(mode):
                label = b"changeprofile " + label[: -len(mode)]
        if label == b"unconfined":
            label = b"changeprofile unconfined"
        words = "taking on the caller's LSM label"
        self.step(words, "write", file, self.steps.bytes(label), len(label), want=len(label))

    def join_cgroups(self, paths: list[bytes | None]) -> None:
        """Join cgroups by their ``cgroup.procs``.

        :raises CannotJoin: one of them is out of reach."""
        for path in paths:
            if path is None:
                raise CannotJoin(f"{JOINING}: it is mounted nowhere in sight")
            try:
                fd = self.send(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
            except OSError as error:
                scarce.pass_on(error)
                raise CannotJoin(f"{JOINING}: {error.strerror}") from None
            self.step(JOINING, "write", fd, self._zero, 1, want=1)

    def enter(self, kind: str, namespace: Argument) -> None:
        """Enter a namespace."""
        self.step(f"entering the caller's {kind} namespace", "setns", namespace, 0)

    def root(self, directory: int) -> None:
        """Take on a root directory, on its mount.

        :param directory: an O_PATH descriptor, left to its owner."""
        if is_gone(directory):
            self._nowhere = Nowhere("fdinfo" if self.searches_any and is_fdinfo(directory) else "")
            sent = self.send(self._nowhere.directory())
        else:
            sent = self.send(os.dup(directory))
        words = "taking the caller's root directory"
        self.step(words, "fchdir", sent)
        self.step(words, "chroot", self._dot)

    def ids(
        self,
        groups: list[int] | None,
        gids: tuple[int, ...] | None,
        fsgid: int | None,
        uids: tuple[int, ...] | None,
        fsuid: int | None,
    ) -> None:
        """Take ids on; None is left alone, since it may have no number inside.  What setfsuid(2) and
        setfsgid(2) do is seen by asking again, since they do not say that they failed."""
        if groups is not None:
            place = self.steps.bytes(struct.pack(f"={len(groups)}I", *groups))
            self.step("taking the caller's supplementary groups", "setgroups", len(groups), place)
        for kind, ids, fsid in (("gid", gids, fsgid), ("uid", uids, fsuid)):
            words = f"taking the caller's {'group' if kind == 'gid' else 'user'} ids"
            if ids is not None:
                self.step(words, f"setres{kind}", *ids)
            if fsid is not None:
                self.steps.call(f"setfs{kind}", fsid, bad=0)
                self.step(words, f"setfs{kind}", _NO_ID, want=fsid)

    def capabilities(self, effective: int, permitted: int, words: str = "") -> None:
        """Have these capabilities and no others."""
        header = self.steps.bytes(struct.pack("=Ii", 0x20080522, 0))
        low = 0xFFFFFFFF
        data = (effective & low, permitted & low, 0, effective >> 32, permitted >> 32, 0)
        place = self.steps.bytes(struct.pack("=6I", *data))
        self.step(words or "taking the caller's capabilities", "capset", header, place)

    def settle(self, mother: int) -> Start:
        """The last steps of all.  It stands in its root already (executor.c, :meth:`root`), which it may not be allowed to
        search any more."""
        words = "settling down"
        self.step(words, "prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)
        self.step(words, "prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        self.step(words, "getppid", want=mother)
        over = None if self._nowhere is None else self._nowhere.end
        return Start(self.steps.freeze(), tuple(self._values), tuple(self.fds), self.words, over)

    def __enter__(self) -> Becoming:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        """Nobody becomes that, if it failed."""
        if failed is not None:
            self.drop()

    def drop(self) -> None:
        """Close what was to go along."""
        if self._nowhere is not None:
            self._nowhere.end()
        while self.fds:
            os.close(self.fds.pop())


def caller_steps(
    caller: Caller, one: Who, own: Own, capable: int, network: int | None = None
) -> Becoming:
    """Become this caller, up to the last steps.

    :param capable: capabilities that an executor begins with.
    :param network: a descriptor of ``one``'s network namespace, if it is not the caller's.
    :raises Trouble: that cannot be; the text is a clause that says why.
    """
    with Becoming() as made:
        label = made.label_file() if one.label != own.who.label else None
        if one.joins:
            made.join_cgroups(own.to_join(one.cgroups))
        differs = [kind for kind in ENTERED if one.namespace(kind) != own.who.namespace(kind)]
        user = one.namespace("user") != own.who.namespace("user")
        root = one.root != own.who.root or "mnt" in differs
        if capable & _HOST_RIGHTS == _HOST_RIGHTS:
            made.searches_any = bool(capable >> _CAP_SYS_PTRACE & 1)
            made.keep_capabilities()
            # what only its own user namespace may search, as a FUSE file system of that, comes after it
            late = root and user and is_hidden(caller.root())
            _enter(made, caller, differs, root and not late, network)
            _take_ids(made, one, own, _same, _same)
            if user:
                made.enter("user", made.send(os.dup(caller.namespace_fd("user"))))
            if late:
                made.root(caller.root())
        elif user:
            if network is not None:
                raise Trouble("entering another network namespace needs the host's root")
            _enter_from_below(made, caller, differs, root)
            made.keep_capabilities()
            inside = _inside(caller.uid_map, "user"), _inside(caller.gid_map, "group")
            _take_ids(made, one, own, *inside)
        else:
            _enter(made, caller, differs, root, network)
            _take_ids(made, one, own, _same, _same)
        if label is not None:
            made.take_label(label, one.label)
        permitted = one.permitted if user else one.permitted & capable
        made.capabilities(one.effective & permitted, permitted)
        return made


def becoming(caller: Caller, one: Who, own: Own, network: int | None = None) -> Become:
    """The same, as sessions want it."""
    return lambda capable, mother: caller_steps(caller, one, own, capable, network).settle(mother)


def _same(number: int) -> int:
    return number


def _enter(
    made: Becoming, caller: Caller, differs: list[str], root: bool, network: int | None = None
) -> None:
    for kind in differs:
        other = kind == "net" and network is not None
        made.enter(kind, made.send(os.dup(network if other else caller.namespace_fd(kind))))  # type: ignore[arg-type]
    if root:
        made.root(caller.root())


def _enter_from_below(made: Becoming, caller: Caller, differs: list[str], root: bool) -> None:
    """Without rights over the host: the user namespace that owns a thing is entered before it."""
    target, entered, inner = caller.namespace("user"), 0, []
    for kind in differs:
        owner = fcntl.ioctl(caller.namespace_fd(kind), _NS_GET_USERNS)
        inode = os.fstat(owner).st_ino
        if inode == target:
            os.close(owner)
            inner.append(kind)
            continue
        if inode == entered:
            os.close(owner)
        else:
            made.enter("user", made.send(owner))
            entered = inode
        made.enter(kind, made.send(os.dup(caller.namespace_fd(kind))))
    early = root and entered and "mnt" not in inner
    if early:
        made.root(caller.root())
    made.enter("user", made.send(os.dup(caller.namespace_fd("user"))))
    _enter(made, caller, inner, root and not early)


def _take_ids(
    made: Becoming, one: Who, own: Own, uid: Callable[[int], int], gid: Callable[[int], int]
) -> None:
    """What is there already is left alone: it may have no number inside."""
    have = own.who
    gids, uids = one.gids[:3], one.uids[:3]
    made.ids(
        None if sorted(one.groups) == sorted(have.groups) else [gid(each) for each in one.groups],
        None if gids == have.gids[:3] else tuple(map(gid, gids)),
        None if one.gids[3] == (have.gids[3] if gids == have.gids[:3] else gids[1]) else gid(one.gids[3]),
        None if uids == have.uids[:3] else tuple(map(uid, uids)),
        None if one.uids[3] == (have.uids[3] if uids == have.uids[:3] else uids[1]) else uid(one.uids[3]),
    )  # fmt: skip


def _inside(ranges: tuple[IdRange, ...], what: str) -> Callable[[int], int]:
    def number(outside: int) -> int:
        for each in ranges:
            if each.outside <= outside < each.outside + each.length:
                return each.inside + outside - each.outside
        raise Trouble(f"{what} id {outside} of the caller has no number in its user namespace")

    return number
