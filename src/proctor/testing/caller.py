"""Who calls, on paper: the files of ``/proc/TID`` that the real
:class:`~proctor.call.caller.Caller` reads, written from a test's values."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NoReturn, Union

from proctor.call.caller import Caller
from proctor.call.identity import CAPABILITIES, Capabilities, Ids
from proctor.call.path.located import FileId, Located
from proctor.call.path.walk import walk
from proctor.testing.tree import Node, TreeFiles

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.testing.target import FakeTarget

ALL_CAPABILITIES: Final = (1 << len(CAPABILITIES)) - 1

#: Inode numbers of the first namespaces of a machine (include/linux/proc_ns.h).
INITIAL_NAMESPACES: Final = {
    "user": 0xEFFFFFFD,
    "pid": 0xEFFFFFFC,
    "cgroup": 0xEFFFFFFB,
    "time": 0xEFFFFFFA,
    "ipc": 0xEFFFFFFF,
    "uts": 0xEFFFFFFE,
    "mnt": 0xF0000000,
    "net": 0xF0000001,
}

#: One number for all four ids, or the four (real, effective, saved, file system).
IdsLike = Union[int, Ids, tuple[int, int, int, int]]
#: A mask, names ("CAP_MKNOD"), all sets, or None: everything for uid 0 and nothing for others.
CapsLike = Union[int, Iterable[str], Capabilities, None]


def ids(given: IdsLike) -> Ids:
    """Four ids from what a test gave."""
    return Ids(given, given, given, given) if isinstance(given, int) else Ids(*given)


def capabilities(given: CapsLike, effective_uid: int) -> Capabilities:
    """All sets from what a test gave; effective and permitted are equal unless all were given.

    :raises KeyError: no capability has that name."""
    if isinstance(given, Capabilities):
        return given
    if given is None:
        mask = 0 if effective_uid else ALL_CAPABILITIES
    elif isinstance(given, int):
        mask = given
    else:
        mask = 0
        for name in given:
            mask |= 1 << CAPABILITIES[name]
    return Capabilities(0, mask, mask, ALL_CAPABILITIES, 0)


def status(target: FakeTarget) -> bytes:
    """The text of /proc/TID/status, as far as the identity of a caller goes."""
    caps = target.caps
    inside = target.inside
    lines: list[tuple[str, object]] = [
        ("Name", target.comm),
        ("Umask", f"{target.umask:04o}"),
        ("Tgid", target.pid),
        ("Pid", target.tid),
        ("Uid", _row(target.uids)),
        ("Gid", _row(target.gids)),
        ("Groups", " ".join(map(str, target.groups))),
        ("NStgid", _row((target.pid, *inside))),
        ("PPid", "0"),
        ("NSpid", _row((target.tid, *inside))),
        ("SigPnd", f"{0:016x}"),
        ("ShdPnd", f"{_mask(target.pending):016x}"),
        ("SigBlk", f"{0:016x}"),
        ("CapInh", f"{caps.inheritable:016x}"),
        ("CapPrm", f"{caps.permitted:016x}"),
        ("CapEff", f"{caps.effective:016x}"),
        ("CapBnd", f"{caps.bounding:016x}"),
        ("CapAmb", f"{caps.ambient:016x}"),
        ("NoNewPrivs", int(target.no_new_privs)),
        ("Seccomp", 2),
        ("Seccomp_filters", 1),
    ]
    return "".join(f"{key}:\t{value}\n" for key, value in lines).encode()


def _mask(signals: Iterable[int]) -> int:
    return sum(1 << number - 1 for number in set(signals))


def _row(numbers: Iterable[int]) -> str:
    return "\t".join(map(str, numbers))


class FakeProc:
    """:class:`~proctor.call.ports.ProcPort` of a thread of a fake target."""

    __slots__ = ("_target",)

    def __init__(self, target: FakeTarget) -> None:
        self._target = target

    def read(self, name: str) -> bytes:
        self._there()
        target = self._target
        if name == "status":
            return status(target)
        if name == "cmdline":
            return b"".join(word + b"\0" for word in target.cmdline)
        if name == "cgroup":
            return b"0::" + target.cgroup + b"\n"
        if name == "attr/current":
            return target.label if target.label else _fail(errno.EINVAL)
        if name == "stat":
            # fields 3 to 22 of proc_pid_stat(5): no terminal, and one start for each thread
            return f"{target.tid} ({target.comm}) S{' 0' * 18} {target.tid}\n".encode()
        if name == "limits":
            limit = target.process.nofile
            return b"Limit\n%-26s%-21d%-21dfiles\n" % (b"Max open files", limit, limit)
        if name in ("uid_map", "gid_map", "projid_map"):
            return b"0 0 4294967295\n"
        if name == "mountinfo":
            return b"1 0 0:1 / / rw - tree tree rw\n"
        return _fail(errno.ENOENT)

    def link(self, name: str) -> bytes:
        self._dumpable()
        target = self._target
        if name == "exe":
            return target.exe
        kind = name.removeprefix("ns/")
        if kind in target.namespaces:
            return f"{kind}:[{target.namespaces[kind]}]".encode()
        return _fail(errno.ENOENT)

    def size(self, name: str) -> int:
        return len(self.names(name))

    def names(self, name: str) -> list[str]:
        self._dumpable()
        return list(map(str, self._target.process.open)) if name == "fd" else _fail(errno.ENOENT)

    def open(self, name: str, flags: int) -> int:
        """See :class:`~proctor.call.ports.ProcPort`: a placeholder."""
        self._dumpable()
        process = self._target.process
        if name == "root":
            return process.pin(process.root)
        if name == "cwd":
            return process.pin(process.cwd)
        if name.startswith("fd/"):
            file = process.open.get(int(name[3:]))
            return process.pin(file.node if file is not None else _fail(errno.ENOENT))
        if name.startswith("ns/") and name[3:] in self._target.namespaces:
            return process.pin(None)
        return _fail(errno.ENOENT)

    def close(self) -> None:
        """See :class:`~proctor.call.ports.ProcPort`: nothing is held."""

    def _there(self) -> None:
        if self._target.dead:
            _fail(errno.ESRCH)

    def _dumpable(self) -> None:
        self._there()
        if not self._target.dumpable:
            _fail(errno.EACCES)


class FakeCaller(Caller):
    """The real :class:`~proctor.call.caller.Caller` over a fake target.

    Overridden is what goes past ``/proc/TID``: pidfds, descriptors, and the walk through real
    directories.  Directory descriptors are placeholders: good for naming and comparing, of no use
    to act on.
    """

    __slots__ = ("_target",)

    def __init__(self, target: FakeTarget, call: Call) -> None:
        super().__init__(
            target.tid, call._listener, call.id, files=FakeProc(target), looked=call._looked
        )
        self._target = target

    def _overflow(self) -> tuple[int, int]:
        return -1, -1  # every id has a number, so 65534 is nobody

    def file_id(self, fd: int) -> FileId:
        """See :meth:`proctor.call.caller.Caller.file_id`: of the node it stands for."""
        found = self._target.process.pins[fd].stat()
        return FileId(found.st_dev, found.st_ino, 0)

    def _name(self, pin: int) -> bytes:
        return self._target.process.name_of(pin)

    def _open_pidfd(self) -> int:
        self.check()
        self._values["pidfd of thread"] = True
        return self._target.process.pin(None)

    def take_fd(self, number: int) -> int:
        """See :meth:`proctor.call.caller.Caller.take_fd`: the file's content is the tree's."""
        self._look()
        if number < 0:
            _fail(errno.EBADF)
        self.anchor()
        if not self._target.dumpable:
            self._failed(PermissionError(errno.EPERM, os.strerror(errno.EPERM)), f"fd/{number}")
        file = self._target.process.open.get(number)
        self.check()
        return os.dup(file.fileno()) if file is not None else _fail(errno.EBADF)

    def _locate(
        self, path: bytes, dirfd: int, follow: bool, empty: bool, resolve: int, entry: bool
    ) -> Located:
        process = self._target.process
        # A socket or pipe from outside is in no tree: something that is no directory.
        outside = Node(0o140777)
        files = TreeFiles(
            process.pins[self.root()],
            lambda number: process.pins.get(self.dir_fd(number), outside),
        )
        place = walk(files, path, dirfd, follow=follow, entry=entry, empty=empty, resolve=resolve)
        return Located(
            place.path,
            pin=process.pin(place.pin) if place.pin is not None else -1,
            parent=process.pin(place.parent) if place.parent is not None else -1,
            name=place.name,
            stat=place.pin.stat() if place.pin is not None else None,
            must_be_directory=place.must_be_directory,
        )


def _fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))
