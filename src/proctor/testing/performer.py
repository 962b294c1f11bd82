"""A performer that acts on the fake tree: what :func:`proctor.perform` comes to in a test."""

from __future__ import annotations

import errno
import os
import stat as _stat
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import Perform, Verdict, answer, deny, hand_over
from proctor.errors import MemoryUnreadable, NotResolved
from proctor.records import NamedTuple
from proctor.syscalls.flags import members
from proctor.testing.process import content
from proctor.testing.tree import Node

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.path.located import Located
    from proctor.testing.target import FakeTarget

# Linux's numbers: those of os are the platform's.
_O_ACCMODE: Final = 0o3
_O_CREAT: Final = 0o100
_O_EXCL: Final = 0o200
_O_TRUNC: Final = 0o1000
_O_CLOEXEC: Final = 0o2000000


class Performed(NamedTuple):
    """One call that was asked to be performed.

    >>> target = FakeTarget(uid=0)
    >>> outcome = target.run(lambda call: proctor.perform(), target.call("mknod", "/dot", 0o600, 0))
    >>> target.performed == [Performed("mknod", b"/dot", proctor.perform())]
    True
    """

    name: str
    path: bytes
    verdict: Perform


class FakePerformer:
    """Performs open, openat, openat2, creat, mknod and mknodat on a target's tree, ENOSYS else.

    >>> target = FakeTarget({"/etc/motd": b"hello"})
    >>> call = target.call("open", "/etc/motd", os.O_RDONLY)
    >>> target.run(lambda call: proctor.perform(), call, performer=FakePerformer(target)).content
    b'hello'

    What a rule of :func:`proctor.families.served` has as ``content`` is there for reading.
    ``perform(allow=...)`` is asked as the real performers ask it.  Nobody's permission to use the
    tree is checked: whoever tests that gives ``run(performer=...)`` an answer of their own.
    """

    def __init__(self, target: FakeTarget) -> None:
        self._target = target

    def __call__(self, call: Call, verdict: Perform) -> Verdict:
        opens = call.name in ("open", "openat", "openat2", "creat")
        makes = call.name in ("mknod", "mknodat")
        if not opens and not makes:
            self._target.performed.append(Performed(call.name, b"", verdict))
            return deny(errno.ENOSYS, f"nothing performs {call.name}")
        try:
            located = call.resolve(binds=False)
        except (MemoryUnreadable, NotResolved) as error:
            return deny(
                error.errno or errno.EIO
            )  # there are no rights here: it is what the caller would get
        self._target.performed.append(Performed(call.name, located.path, verdict))
        pinned = call.looks["path"]
        refused = call.contradiction("path", *pinned) or verdict.refusal("path", pinned.path)
        if refused is not None:
            return refused
        served = _served(call, verdict) if opens else None
        if served is not None:
            flags = 0 if call.name == "creat" else int(call.flags)
            return hand_over(content(served), cloexec=bool(flags & _O_CLOEXEC))
        return self._open(call, located) if opens else self._mknod(call, located)

    def _there(self, located: Located) -> tuple[Node | None, Node | None]:
        """The directory where something is made, if that is to be, and what is there."""
        pins = self._target.process.pins
        return pins.get(located.parent), pins.get(located.pin)

    def _open(self, call: Call, located: Located) -> Verdict:
        flags = _O_CREAT | _O_TRUNC | 1 if call.name == "creat" else int(call.flags)
        parent, node = self._there(located)
        if node is None:
            assert parent is not None
            if not flags & _O_CREAT:
                return deny(errno.ENOENT)
            if located.must_be_directory:
                return deny(errno.EISDIR)
            node = self._own(Node.file(b"", int(call.mode) & 0o7777 & ~self._target.umask))
            parent.link(located.name, node)
        elif flags & _O_CREAT and flags & _O_EXCL:
            return deny(errno.EEXIST)
        elif node.type == _stat.S_IFLNK:
            return deny(errno.ELOOP)
        elif node.is_directory and (flags & _O_ACCMODE or flags & _O_CREAT):
            return deny(errno.EISDIR)
        elif not node.is_directory and flags & members("OpenFlag", call.abi)["O_DIRECTORY"]:
            return deny(errno.ENOTDIR)
        if flags & _O_TRUNC and node.type == _stat.S_IFREG:
            node.content = b""
        data = node.content if node.type == _stat.S_IFREG else b""
        return hand_over(content(data), cloexec=bool(flags & _O_CLOEXEC))

    def _mknod(self, call: Call, located: Located) -> Verdict:
        parent, node = self._there(located)
        if node is not None or parent is None:
            return deny(errno.EEXIST)
        if located.must_be_directory:
            return deny(errno.ENOENT)
        kind = call.mode.type or _stat.S_IFREG
        if kind == _stat.S_IFDIR:
            return deny(errno.EPERM)
        if kind not in (_stat.S_IFREG, _stat.S_IFCHR, _stat.S_IFBLK, _stat.S_IFIFO, _stat.S_IFSOCK):
            return deny(errno.EINVAL)
        device = kind in (_stat.S_IFCHR, _stat.S_IFBLK)
        mode = kind | call.mode.permissions & ~self._target.umask
        made = Node(mode, rdev=call.dev if device else 0)
        parent.link(located.name, self._own(made))
        return answer(0)

    def _own(self, node: Node) -> Node:
        node.uid, node.gid = self._target.uids.fs, self._target.gids.fs
        return node


def _served(call: Call, verdict: Perform) -> bytes | None:
    """What a rule of the family ``served`` has in the place of a file; None if it is none, or the host's."""
    from proctor.performing.families.served import Options

    text = verdict.options.content if isinstance(verdict.options, Options) else None
    text = text(call) if callable(text) else text
    return text.encode() if isinstance(text, str) else text


def read_all(fd: int) -> bytes:
    """What can be read from a descriptor from where it stands, without waiting; a file's position
    is put back."""
    try:
        before = os.lseek(fd, 0, os.SEEK_CUR)
    except OSError:
        before = None
    blocking: bool | None = None
    if before is None and hasattr(os, "set_blocking"):
        blocking = os.get_blocking(fd)
        os.set_blocking(fd, False)
    parts: list[bytes] = []
    try:
        while True:
            part = os.read(fd, 65536)
            if not part:
                break
            parts.append(part)
    except BlockingIOError:
        pass  # a pipe or socket whose other end is open, and silent
    finally:
        if blocking:
            os.set_blocking(fd, True)
    if before is not None:
        os.lseek(fd, before, os.SEEK_SET)
    return b"".join(parts)
