"""How a path leads from directory to directory: the kernel's rules, on any file system.

:func:`walk` goes component by component, as ``fs/namei.c`` does: ``.`` and ``..``, which stops at
the root; symbolic links, at most 40 of them; trailing slashes; RESOLVE_* of openat2(2).  What a
directory *is* it leaves to :class:`Files`: descriptors of real directories
(:mod:`proctor.call.path.resolve`) or a tree in memory (:mod:`proctor.testing.tree`).  Nothing here is
Linux's own, so it runs on any platform.

Each step starts at a handle that is held, never at a path put together from names: whoever renames
directories meanwhile changes where the walk comes to, as for the kernel, but cannot make it look at
something twice or leave the root of a scoped walk.
"""

from __future__ import annotations

import errno
import os
import stat as _stat
from typing import Final, Generic, NamedTuple, NoReturn, Protocol, TypeVar

H = TypeVar("H")

AT_FDCWD: Final = -100
PATH_MAX: Final = 4096
#: Most symbolic links in one walk (MAXSYMLINKS).
LINKS_MAX: Final = 40

RESOLVE_NO_XDEV: Final = 1
RESOLVE_NO_MAGICLINKS: Final = 2
RESOLVE_NO_SYMLINKS: Final = 4
RESOLVE_BENEATH: Final = 8
RESOLVE_IN_ROOT: Final = 16
RESOLVE_CACHED: Final = 32

_SCOPED: Final = RESOLVE_BENEATH | RESOLVE_IN_ROOT
_KNOWN: Final = 63

UNREACHABLE: Final = b"(unreachable)"


class Files(Protocol[H]):
    """The file system as one caller sees it, by handles.

    Handles of :meth:`root` and :meth:`start` are lent; of every other one that is returned the walk
    is the owner, and it closes it.  Errors are :class:`OSError` with the kernel's errno.
    """

    def root(self) -> H:
        """The caller's root directory."""
        ...

    def start(self, dirfd: int) -> H:
        """What the caller has open as ``dirfd``, or its working directory (AT_FDCWD); EBADF."""
        ...

    def copy(self, handle: H) -> H:
        """A second handle of the same place."""
        ...

    def close(self, handle: H) -> None:
        """Give a handle up."""
        ...

    def enter(self, here: H, name: bytes) -> H:
        """Directory ``name`` in directory ``here``, with what is mounted there.

        :raises OSError: ENOTDIR if it is something else, a symbolic link too."""
        ...

    def look(self, here: H, name: bytes) -> H:
        """Whatever is there as ``name``; symbolic links are not followed."""
        ...

    def above(self, here: H) -> H:
        """``..`` of a directory; of the topmost one, itself."""
        ...

    def status(self, handle: H) -> os.stat_result:
        """Its status; two places are one file if ``st_dev`` and ``st_ino`` are equal."""
        ...

    def mount(self, handle: H) -> int:
        """Which mount it is on; numbers of mounts whose handles are held differ."""
        ...

    def read_link(self, here: H, name: bytes, link: H, status: os.stat_result) -> bytes | None:
        """The text that the caller would read in a symbolic link; None if it leads to an object
        rather than to a name (a magic link).

        :param here: the directory that ``link`` was found in, as ``name``.
        :raises OSError: ELOOP if links of that mount are not to be followed."""
        ...

    def jump(self, here: H, name: bytes) -> H:
        """What a magic link leads to."""
        ...

    def name_of(self, handle: H) -> tuple[list[bytes], bytes]:
        """(names, prefix): how the caller would name this place, from its root.  The prefix is
        empty if the names lead there, :data:`UNREACHABLE` if nothing does."""
        ...


class Place(NamedTuple, Generic[H]):
    """Where a path leads: see :class:`proctor.call.path.resolve.Located`.  ``parent`` is whoever asked's."""

    parent: H
    name: bytes
    path: bytes
    status: os.stat_result | None
    magic: bool = False
    must_be_directory: bool = False


def walk(
    files: Files[H],
    path: bytes,
    dirfd: int = AT_FDCWD,
    *,
    follow: bool = True,
    entry: bool = False,
    empty: bool = False,
    resolve: int = 0,
) -> Place[H]:
    """Where ``path`` leads; see :func:`proctor.call.path.resolve.locate` for the parameters and errors."""
    if resolve & ~_KNOWN or resolve & _SCOPED == _SCOPED:
        fail(errno.EINVAL)
    if len(path) >= PATH_MAX:
        fail(errno.ENAMETOOLONG)
    if b"\0" in path:
        raise ValueError("a path has no NUL in it")
    if not path:
        if not empty:
            fail(errno.ENOENT)
        held = files.start(dirfd)
        names, prefix = files.name_of(held)
        status = files.status(held)
        return Place(files.copy(held), b"", joined(prefix, names), status)
    state = _Walk(files, path, dirfd, resolve)
    try:
        return state.go(path, follow, entry)
    finally:
        state.close()


def fail(number: int) -> NoReturn:
    """Raise the OSError of an errno."""
    raise OSError(number, os.strerror(number))


def joined(prefix: bytes, names: list[bytes]) -> bytes:
    """The path that a prefix and names make."""
    return prefix + b"/" + b"/".join(names)


def _components(path: bytes) -> list[bytes]:
    """The names of a path, the last first."""
    return [name for name in reversed(path.split(b"/")) if name]


class _Walk(Generic[H]):
    """One walk.

    ``here`` is ours while ``held``; ``names`` lead to it from ``base``, a lent handle, or from
    nowhere if that is None: then the place is asked for its name in the end.  ``parents`` are the
    identities of the directories that the names are in.
    """

    __slots__ = (
        "at", "base", "base_is_top", "files", "held", "here", "links", "mount", "names", "one_mount",
        "parents", "resolve", "root_met", "scoped", "top", "top_at",
    )  # fmt: skip

    def __init__(self, files: Files[H], path: bytes, dirfd: int, resolve: int) -> None:
        absolute = path.startswith(b"/")
        self.held = False
        self.files = files
        self.resolve = resolve
        self.links = 0
        # With RESOLVE_NO_XDEV the kernel refuses an absolute link unless it looked the root up before.
        self.root_met = absolute
        self.scoped = bool(resolve & _SCOPED)
        if absolute and resolve & RESOLVE_BENEATH:
            fail(errno.EXDEV)
        start = files.root() if absolute and not self.scoped else files.start(dirfd)
        #: Where ".." stops.
        self.top: H = start if self.scoped else files.root()
        self.base: H | None = start
        self.base_is_top = start == self.top
        self.top_at: tuple[int, int] | None = None
        self.names: list[bytes] = []
        self.parents: list[tuple[int, int] | None] = []
        #: Identity of ``here``; None for the base, whose handle can be asked.
        self.at: tuple[int, int] | None = None
        if (self.scoped or not absolute) and not _stat.S_ISDIR(files.status(start).st_mode):
            fail(errno.ENOTDIR)
        self.one_mount = bool(resolve & RESOLVE_NO_XDEV)
        self.mount = files.mount(start) if self.one_mount else 0
        self.here: H = files.copy(start)
        self.held = True

    def close(self) -> None:
        """Give up what is held."""
        if self.held:
            self.held = False
            self.files.close(self.here)

    def move(self, handle: H) -> None:
        """``handle``, now ours, is where we are."""
        before, self.here = self.here, handle
        self.files.close(before)

    def identity(self, handle: H) -> tuple[int, int]:
        status = self.files.status(handle)
        return status.st_dev, status.st_ino

    def take(self) -> H:
        """The directory we are in, for the result."""
        self.held = False
        return self.here

    # Steps ------------------------------------------------------------------------------------

    def go(self, path: bytes, follow: bool, entry: bool) -> Place[H]:
        files = self.files
        todo = _components(path)
        slash = path.endswith(b"/")
        while todo:
            name = todo.pop()
            last = not todo
            if name == b".":
                continue
            if name == b"..":
                self.up()
                continue
            if not last:
                try:
                    found = files.enter(self.here, name)
                except NotADirectoryError:
                    pass  # a link, or indeed none
                else:
                    self.down(name, found)
                    continue
            try:
                found = files.look(self.here, name)
            except FileNotFoundError:
                if not last:
                    raise
                return self.found(name, None, slash)
            try:
                if self.one_mount:
                    self.crossing(found)
                status = files.status(found)
                kind = _stat.S_IFMT(status.st_mode)
                if kind == _stat.S_IFLNK and (not last or follow or (slash and not entry)):
                    text = self.link(name, found, status)
                    if text is None:
                        magic = self.jump(name, last, slash)
                        if magic is not None:
                            return magic
                        continue
                    slash = slash or (last and text.endswith(b"/"))
                    todo.extend(_components(text))
                    continue
                if last:
                    if slash and not entry and kind != _stat.S_IFDIR:
                        fail(errno.ENOTDIR)
                    return self.found(name, status, slash)
                if kind != _stat.S_IFDIR:
                    fail(errno.ENOTDIR)
                # Somebody put it there since we tried: once more, since to enter is more than to look.
                self.down(name, files.enter(self.here, name))
            finally:
                files.close(found)
        status = files.status(self.here)
        there = self.named(None)
        return Place(self.take(), b".", there, status, False, slash)

    def named(self, name: bytes | None) -> bytes:
        """The path of ``name`` here, or of the directory itself."""
        names = self.names if name is None else [*self.names, name]
        if self.base_is_top and not self.scoped:
            return joined(b"", names)
        if self.base is not None:
            above, prefix = self.files.name_of(self.base)
            if not prefix:
                return joined(prefix, above + names)
        # Also where the walk began outside of the caller's root: it may have ended inside.
        above, prefix = self.files.name_of(self.here)
        return joined(prefix, above if name is None else [*above, name])

    def found(self, name: bytes, status: os.stat_result | None, slash: bool) -> Place[H]:
        there = self.named(name)
        return Place(self.take(), name, there, status, False, slash)

    def down(self, name: bytes, found: H) -> None:
        try:
            if self.one_mount:
                self.crossing(found)
            status = self.files.status(found)
        except BaseException:
            self.files.close(found)
            raise
        self.parents.append(self.at)
        self.names.append(name)
        self.at = (status.st_dev, status.st_ino)
        self.move(found)

    def up(self) -> None:
        files = self.files
        self.root_met = True
        if self.at_top():
            if self.resolve & RESOLVE_BENEATH:
                fail(errno.EXDEV)
            return  # ".." of the root is the root
        above = files.above(self.here)
        try:
            if self.one_mount:
                self.crossing(above)
            at = self.identity(above)
            known = bool(self.names) and self.parent() == at
            if self.scoped and not known:
                fail(errno.EAGAIN)  # renamed meanwhile: nobody knows whether this is still inside
        except BaseException:
            files.close(above)
            raise
        self.move(above)
        if known:
            self.names.pop()
            self.at = self.parents.pop()
        else:
            self.lost()
            self.at = at

    def parent(self) -> tuple[int, int] | None:
        """Identity of the directory that the last of the names is in; None if not known."""
        known = self.parents[-1]
        return self.identity(self.base) if known is None and self.base is not None else known

    def at_top(self) -> bool:
        """Whether we are where ``..`` stops.  One that began above it may come to it downwards."""
        if self.base_is_top:
            return not self.names
        if self.top_at is None:
            self.top_at = self.identity(self.top)
        if (self.at or self.identity(self.here)) != self.top_at:
            return False
        return self.files.mount(self.here) == self.files.mount(self.top)

    def lost(self) -> None:
        """From now on it is not known how the place where we are is called."""
        self.base, self.base_is_top, self.at = None, False, None
        self.names.clear()
        self.parents.clear()

    def to_top(self) -> None:
        self.move(self.files.copy(self.top))
        self.names.clear()
        self.parents.clear()
        self.base, self.base_is_top, self.at = self.top, True, None

    def crossing(self, handle: H) -> None:
        """Refuse another mount than the one of the start."""
        if self.files.mount(handle) != self.mount:
            fail(errno.EXDEV)

    def link(self, name: bytes, found: H, status: os.stat_result) -> bytes | None:
        """The text of a symbolic link that is to be followed, from where we are then; None if it
        leads to an object."""
        self.links += 1
        if self.links > LINKS_MAX or self.resolve & RESOLVE_NO_SYMLINKS:
            fail(errno.ELOOP)
        text = self.files.read_link(self.here, name, found, status)
        if text is not None and text.startswith(b"/"):
            if self.resolve & RESOLVE_BENEATH:
                fail(errno.EXDEV)
            if self.one_mount and not (self.root_met or self.scoped):
                fail(errno.EXDEV)
            self.root_met = True
            if self.one_mount:
                self.crossing(self.top)
            self.to_top()
        return text

    def jump(self, name: bytes, last: bool, slash: bool) -> Place[H] | None:
        """Follow a link that leads to an object.  A place if the walk ends there."""
        if self.resolve & RESOLVE_NO_MAGICLINKS:
            fail(errno.ELOOP)
        if self.scoped:
            fail(errno.EXDEV)
        files = self.files
        found = files.jump(self.here, name)
        keep = False
        try:
            if self.one_mount:
                self.crossing(found)
            status = files.status(found)
            if _stat.S_ISDIR(status.st_mode):
                keep = True
            elif not last or slash:
                fail(errno.ENOTDIR)
            else:
                names, prefix = files.name_of(found)
                return Place(self.take(), name, joined(prefix, names), status, True, slash)
        finally:
            if not keep:
                files.close(found)
        self.move(found)
        self.lost()
        return None
