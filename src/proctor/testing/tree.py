"""A small file-system tree in memory.

Paths lead through it by the code that also walks real directories (:mod:`proctor.call.path.walk`); what
a directory is and what a link says comes from the nodes, by :class:`TreeFiles`.  Like there, walking
is naming: nobody's permission is asked.
"""

from __future__ import annotations

import errno
import os
import stat as _stat
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Union

from proctor.call.decode.values import Device
from proctor.call.path.files import UNREACHABLE, fail

NAME_MAX: Final = 255
_DEVICE: Final = 0x2A  # st_dev of every node: the tree is one file system


class Node:
    """One thing in the tree: a file, directory, symbolic link, device, FIFO or socket.

    >>> tree = Tree({"/dev/null": Node.device("c", 1, 3), "/dev/nothing": Node.symlink("null")})
    >>> tree["/dev/nothing"].content
    b'null'

    Make it with :meth:`file`, :meth:`directory`, :meth:`symlink`, :meth:`device` or, for what they
    do not cover, with its whole mode.

    :ivar mode: file type and permission bits, as in ``st_mode``.
    :ivar uid: owner; nothing checks it, handlers may.
    :ivar gid: group.
    :ivar content: of a regular file; the text of a symbolic link.
    :ivar rdev: device number of a device node.
    :ivar children: of a directory, by name.
    :ivar parent: the directory that it is in, or was in before it was removed.
    """

    __slots__ = ("children", "content", "gid", "ino", "mode", "name", "parent", "rdev", "uid")

    _made = 0

    def __init__(
        self, mode: int, *, uid: int = 0, gid: int = 0, content: bytes = b"", rdev: int = 0
    ) -> None:
        Node._made += 1
        self.ino = Node._made
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.content = content
        self.rdev = rdev
        self.children: dict[bytes, Node] = {}
        self.name = b""
        self.parent: Node | None = None

    @classmethod
    def file(cls, content: bytes = b"", mode: int = 0o644, *, uid: int = 0, gid: int = 0) -> Node:
        """A regular file."""
        return cls(_stat.S_IFREG | mode, uid=uid, gid=gid, content=content)

    @classmethod
    def directory(cls, mode: int = 0o755, *, uid: int = 0, gid: int = 0) -> Node:
        """A directory, empty."""
        return cls(_stat.S_IFDIR | mode, uid=uid, gid=gid)

    @classmethod
    def symlink(cls, target: str | bytes) -> Node:
        """A symbolic link."""
        return cls(_stat.S_IFLNK | 0o777, content=encoded(target))

    @classmethod
    def device(cls, kind: str, major: int, minor: int, mode: int = 0o666) -> Node:
        """A device node; ``kind`` is "c" or "b" as for mknod(1)."""
        types = {"c": _stat.S_IFCHR, "b": _stat.S_IFBLK}
        if kind not in types:
            raise ValueError(f'a device is "c" or "b", not {kind!r}')
        return cls(types[kind] | mode, rdev=Device.make(major, minor))

    @property
    def type(self) -> int:
        """The ``S_IF*`` number."""
        return _stat.S_IFMT(self.mode)

    @property
    def is_directory(self) -> bool:
        """Whether it can have children."""
        return self.type == _stat.S_IFDIR

    def stat(self) -> os.stat_result:
        """As lstat(2) would say; times are 0."""
        size = 4096 if self.is_directory else len(self.content)
        values = (self.mode, self.ino, _DEVICE, 1, self.uid, self.gid, size, 0, 0, 0)
        if hasattr(os.stat_result, "st_rdev"):
            return os.stat_result(values, {"st_rdev": int(self.rdev)})
        return os.stat_result(values)

    def link(self, name: bytes, node: Node) -> None:
        """Put ``node`` into this directory, in the place of what is there."""
        if not self.is_directory:
            fail(errno.ENOTDIR)
        node.name, node.parent = name, self
        self.children[name] = node

    def become(self, other: Node) -> None:
        """Take over owner and mode, as chown(2) and chmod(2) do."""
        self.mode, self.uid, self.gid = other.mode, other.uid, other.gid

    @property
    def removed(self) -> bool:
        """Whether it is no longer where it was: something may still have it open."""
        return self.parent is not None and self.parent.children.get(self.name) is not self

    def above(self) -> list[Node]:
        """This node, its directory, and so on up to one that never was in a directory."""
        chain = [self]
        while chain[-1].parent is not None:
            chain.append(chain[-1].parent)
        return chain

    def __repr__(self) -> str:
        return f"<Node {_stat.filemode(self.mode)} {self.name!r}>"


#: What tests may put into a tree: content of a file, None for a directory, or a node.
Entry = Union[bytes, str, None, Node]


class Tree:
    """A tree of nodes, used like a dictionary of absolute paths.

    ::

        tree = Tree({"/etc/passwd": b"root:x:0:0::/:/bin/sh", "/tmp": None})
        tree["/etc/alias"] = Node.symlink("passwd")
        del tree["/tmp"]
        assert "/tmp" not in tree

    Missing directories on the way are made, and nodes are copied, so that one mapping serves many
    trees; ``tree[path]`` is the tree's own node, to be looked at and changed.  These paths are the tree's own: symbolic links in them
    are not followed.
    """

    def __init__(self, entries: Mapping[str, Entry] | None = None) -> None:
        self.root = Node.directory()
        for path, entry in (entries or {}).items():
            self[path] = entry

    def __setitem__(self, path: str | bytes, entry: Entry) -> None:
        node = _node(entry)
        names = _names(path)
        if not names:
            if not node.is_directory:
                raise ValueError("/ is a directory")
            self.root.become(node)
            return
        here = self.root
        for name in names[:-1]:
            if name not in here.children:
                here.link(name, Node.directory())
            here = here.children[name]
        there = here.children.get(names[-1])
        if there is not None and there.is_directory and node.is_directory:
            there.become(node)  # what is in it stays, and so does whoever works in it
        else:
            here.link(names[-1], node)

    def __getitem__(self, path: str | bytes) -> Node:
        here = self.root
        for name in _names(path):
            if name not in here.children:
                raise KeyError(path)
            here = here.children[name]
        return here

    def __delitem__(self, path: str | bytes) -> None:
        node = self[path]
        if node.parent is None:
            raise ValueError("/ cannot be removed")
        del node.parent.children[node.name]

    def __contains__(self, path: object) -> bool:
        try:
            return isinstance(path, (str, bytes)) and self[path] is not None
        except KeyError:
            return False

    def __iter__(self) -> Iterator[str]:
        """Every path, directories before what is in them."""
        todo = [("", self.root)]
        while todo:
            path, node = todo.pop()
            yield path or "/"
            for name in sorted(node.children, reverse=True):
                todo.append((f"{path}/{decoded(name)}", node.children[name]))


class TreeFiles:
    """:class:`~proctor.call.path.files.Files` of a tree: one file system, where handles are the nodes.

    :param root: the caller's root.
    :param start: what the caller has open as a number; asked only if it is needed, may raise EBADF.
    """

    __slots__ = ("_root", "_start")

    def __init__(self, root: Node, start: Callable[[int], Node]) -> None:
        self._root = root
        self._start = start

    def root(self) -> Node:
        return self._root

    def start(self, dirfd: int) -> Node:
        return self._start(dirfd)

    def copy(self, handle: Node) -> Node:
        return handle

    def close(self, handle: Node) -> None:
        """See :class:`~proctor.call.path.files.Files`: a node is nothing to give up."""

    def enter(self, here: Node, name: bytes) -> Node:
        found = self.look(here, name)
        return found if found.is_directory else fail(errno.ENOTDIR)

    def look(self, here: Node, name: bytes) -> Node:
        if len(name) > NAME_MAX:
            fail(errno.ENAMETOOLONG)
        found = here.children.get(name)
        return found if found is not None else fail(errno.ENOENT)

    def stride(self, here: Node, names: list[bytes]) -> None:
        """See :class:`~proctor.call.path.files.Files`: every step is made by itself."""

    def above(self, here: Node, count: int = 1) -> Node:
        for _ in range(count):
            here = here.parent or here
        return here

    def status(self, handle: Node) -> os.stat_result:
        return handle.stat()

    def mount(self, handle: Node) -> int:
        """See :class:`~proctor.call.path.files.Files`: there is one."""
        return 0

    def read_link(self, here: Node, name: bytes, link: Node, status: os.stat_result) -> bytes:
        return link.content

    def jump(self, here: Node, name: bytes) -> Node:
        """See :class:`~proctor.call.path.files.Files`: no link of a tree is magic."""
        return fail(errno.ELOOP)

    def name_of(self, handle: Node) -> tuple[list[bytes], bytes]:
        return name_of(handle, self._root)


def name_of(node: Node, root: Node) -> tuple[list[bytes], bytes]:
    """(names, prefix): where a node is, as a process with this root sees it; ``(unreachable)`` and
    the tree's own names for one that is not below, or not any more."""
    chain = node.above()
    below = chain[: chain.index(root)] if root in chain else chain
    if root in chain and not any(each.removed for each in below):
        return [each.name for each in reversed(below)], b""
    names = [each.name for each in reversed(chain[:-1])]
    if node.removed:
        names[-1] += b" (deleted)"  # as the kernel writes it
    return names, UNREACHABLE


def encoded(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
    """A path as Linux has it: bytes, UTF-8 on any platform."""
    text = os.fspath(path)
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def decoded(path: bytes) -> str:
    """The text of such a path: what is no UTF-8 comes back with :func:`encoded`."""
    return path.decode("utf-8", "surrogateescape")


def _node(entry: Entry) -> Node:
    if isinstance(entry, Node):
        return Node(
            entry.mode, uid=entry.uid, gid=entry.gid, content=entry.content, rdev=entry.rdev
        )
    if entry is None:
        return Node.directory()
    return Node.file(encoded(entry))


def _names(path: str | bytes) -> list[bytes]:
    text = encoded(path)
    names = [name for name in text.split(b"/") if name]
    if not text.startswith(b"/") or b"." in names or b".." in names:
        raise ValueError(f'{path!r}: the tree is addressed by absolute paths without "." and ".."')
    return names
