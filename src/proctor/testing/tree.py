"""A small file-system tree in memory, and how paths lead through it.

:func:`walk` mirrors :func:`proctor.call.paths.locate`, which walks real directories with
descriptors that only Linux has; ``tests/testing`` holds the two to the same answers on the same
trees.  Like there, walking is naming: nobody's permission is asked.
"""

from __future__ import annotations

import errno
import os
import stat as _stat
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple, NoReturn, Union

from proctor.call.paths import (
    LINKS_MAX,
    PATH_MAX,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    UNREACHABLE,
)
from proctor.call.values import Device

NAME_MAX: Final = 255
_DEVICE: Final = 0x2A  # st_dev of every node: the tree is one file system


class Node:
    """One thing in the tree: a file, directory, symbolic link, device, FIFO or socket.

    Make it with :meth:`file`, :meth:`directory`, :meth:`symlink`, :meth:`device` or, for what they
    do not cover, with its whole mode.

    :ivar mode: file type and permission bits, as in ``st_mode``.
    :ivar uid: owner; nothing checks it, handlers may.
    :ivar gid: group.
    :ivar content: of a regular file; the text of a symbolic link.
    :ivar rdev: device number of a device node.
    :ivar children: of a directory, by name.
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
            _fail(errno.ENOTDIR)
        before = self.children.get(name)
        if before is not None:
            before.parent = None
        node.name, node.parent = name, self
        self.children[name] = node

    def above(self) -> list[Node]:
        """This node, its directory, and so on up to one that is in no directory."""
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
            for name, child in self.root.children.items():
                node.link(name, child)
            self.root = node
            return
        here = self.root
        for name in names[:-1]:
            if name not in here.children:
                here.link(name, Node.directory())
            here = here.children[name]
        there = here.children.get(names[-1])
        if there is not None and there.is_directory and node.is_directory:
            for name, child in list(there.children.items()):
                node.link(name, child)
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
        node.parent = None

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
                todo.append((f"{path}/{os.fsdecode(name)}", node.children[name]))


class Place(NamedTuple):
    """Where a path leads: a directory, a name in it, the path seen from a root, and what is there."""

    parent: Node
    name: bytes
    path: bytes
    node: Node | None
    must_be_directory: bool = False


def walk(
    path: bytes,
    root: Node,
    start: Callable[[], Node],
    *,
    follow: bool = True,
    empty: bool = False,
    resolve: int = 0,
) -> Place:
    """Where ``path`` leads; the same answers and errors as :func:`proctor.call.paths.locate`.

    :param root: the caller's root.
    :param start: what relative paths start at; asked only if it is needed, may raise EBADF.
    """
    if len(path) >= PATH_MAX:
        _fail(errno.ENAMETOOLONG)
    if b"\0" in path:
        raise ValueError("a path has no NUL in it")
    if not path:
        if not empty:
            _fail(errno.ENOENT)
        itself = start()
        return Place(itself, b"", name_of(itself, root), itself)
    return _Walk(path, root, start, resolve).go(path, follow)


class _Walk:
    """One walk: ``here`` is where we are, ``top`` where ``..`` stops."""

    def __init__(self, path: bytes, root: Node, start: Callable[[], Node], resolve: int) -> None:
        absolute = path.startswith(b"/")
        self.resolve = resolve
        self.links = 0
        self.root = root
        self.root_met = absolute
        self.scoped = bool(resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT))
        if absolute and resolve & RESOLVE_BENEATH:
            _fail(errno.EXDEV)
        if absolute and not self.scoped:
            self.here = root
        else:
            self.here = start()
            if not self.here.is_directory:
                _fail(errno.ENOTDIR)
        self.top = self.here if self.scoped else root

    def go(self, path: bytes, follow: bool) -> Place:
        todo = _components(path)
        directory = path.endswith(b"/")
        while todo:
            name = todo.pop()
            last = not todo
            if name == b".":
                continue
            if name == b"..":
                self.up()
                continue
            if len(name) > NAME_MAX:
                _fail(errno.ENAMETOOLONG)
            node = self.here.children.get(name)
            if node is None:
                if not last:
                    _fail(errno.ENOENT)
                return self.found(name, None, directory)
            if node.type == _stat.S_IFLNK and (not last or follow or directory):
                text = self.link(node)
                directory = directory or (last and text.endswith(b"/"))
                todo.extend(_components(text))
            elif last:
                if directory and not node.is_directory:
                    _fail(errno.ENOTDIR)
                return self.found(name, node, directory)
            elif not node.is_directory:
                _fail(errno.ENOTDIR)
            else:
                self.here = node
        path = name_of(self.here, self.root)
        return Place(self.here, b".", path, self.here, directory)

    def found(self, name: bytes, node: Node | None, directory: bool) -> Place:
        path = name_of(self.here, self.root).rstrip(b"/") + b"/" + name
        return Place(self.here, name, path, node, directory)

    def up(self) -> None:
        self.root_met = True
        if self.here is self.top:
            if self.resolve & RESOLVE_BENEATH:
                _fail(errno.EXDEV)
        elif self.here.parent is not None:
            self.here = self.here.parent

    def link(self, node: Node) -> bytes:
        if self.resolve & RESOLVE_NO_SYMLINKS:
            _fail(errno.ELOOP)
        self.links += 1
        if self.links > LINKS_MAX:
            _fail(errno.ELOOP)
        text = node.content
        if not text:
            _fail(errno.ENOENT)
        if text.startswith(b"/"):
            if self.resolve & RESOLVE_BENEATH:
                _fail(errno.EXDEV)
            if self.resolve & RESOLVE_NO_XDEV and not (self.root_met or self.scoped):
                _fail(errno.EXDEV)
            self.root_met = True
            self.here = self.top
        return text


def name_of(node: Node, root: Node) -> bytes:
    """The absolute path of a node as a process with this root sees it; ``(unreachable)`` and the
    tree's own path for one that is not below."""
    chain = node.above()
    prefix = b""
    if root in chain:
        chain = chain[: chain.index(root) + 1]
    else:
        prefix = UNREACHABLE
    return prefix + b"/" + b"/".join(each.name for each in reversed(chain[:-1]))


def encoded(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
    """A path as Linux has it: bytes, UTF-8 on any platform."""
    text = os.fspath(path)
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


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


def _components(path: bytes) -> list[bytes]:
    """The names of a path, the last first."""
    return [name for name in reversed(path.split(b"/")) if name]


def _fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))
