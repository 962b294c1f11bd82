"""Where a path leads, in the caller's view.

:func:`locate` walks a path component by component from the caller's root, working directory or
dirfd, with descriptors that are pinned (``O_PATH``), the way the kernel would walk it for the
caller: symbolic links (at most 40), ``..`` that stops at the caller's root, trailing slashes,
``/proc/self`` and ``/proc/thread-self`` (the *caller's*, not ours), links of procfs that lead to an
object rather than to a name (``/proc/PID/fd/5``, ``exe``, ``cwd``, ``root``).

**This is for naming, not for acting.**  It runs with the monitor's rights, in the monitor's
context: it does not test whether the caller may search those directories, and sticky-directory
rules (fs.protected_symlinks) do not apply.  The answer says what a policy's patterns are compared
with and what a log line shows.  Whoever then *acts* must act on the pinned :attr:`Located.parent`
and :attr:`Located.name`, with the caller's rights (:mod:`proctor.emulate`), because names can lead
elsewhere a moment later.

Walking can wait for a file system: on a FUSE mount that the monitor may enter, as long as its
server likes.  Handlers that resolve belong on workers (``quick=False``).
"""

from __future__ import annotations

import errno
import os
import stat as _stat
from typing import Final, NoReturn, Protocol

from proctor.call import procfs

AT_FDCWD: Final = -100
PATH_MAX: Final = 4096
#: Most symbolic links in one walk (MAXSYMLINKS).
LINKS_MAX: Final = 40

RESOLVE_NO_XDEV: Final = 1
RESOLVE_NO_MAGICLINKS: Final = 2
RESOLVE_NO_SYMLINKS: Final = 4
RESOLVE_BENEATH: Final = 8
RESOLVE_IN_ROOT: Final = 16

UNREACHABLE: Final = b"(unreachable)"

_PIN: Final = getattr(os, "O_PATH", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class CallerView(procfs.CallerNumbers, Protocol):
    """What resolution needs to know of a caller; :class:`proctor.call.caller.Caller` is one.

    Descriptors stay the view's own."""

    def root(self) -> int:
        """Its root directory."""
        ...

    def cwd(self) -> int:
        """Its working directory."""
        ...

    def dir_fd(self, number: int) -> int:
        """What it has open as ``number``; EBADF if nothing."""
        ...


class Located:
    """A place: a pinned directory and a name in it.

    :ivar parent: ``O_PATH`` descriptor of the directory, closed by :meth:`close`.
    :ivar name: the last component; ``b"."`` if the path is a directory that was reached without a
        last name (``/``, ``a/..``); ``b""`` if it is ``parent`` itself (AT_EMPTY_PATH).
    :ivar path: absolute path as the caller's root sees it, without symbolic links.  It starts with
        ``(unreachable)``, as in getcwd(2), if no path from the caller's root leads there: then it
        matches no pattern that starts with a slash.
    :ivar stat: of what is there now, not followed; None if nothing is.
    :ivar magic: ``name`` is a link of procfs that leads to an object: opening it must follow.
    :ivar must_be_directory: the path ended in a slash.
    """

    __slots__ = ("magic", "must_be_directory", "name", "parent", "path", "stat")

    def __init__(
        self,
        parent: int,
        name: bytes,
        path: bytes,
        stat: os.stat_result | None,
        *,
        magic: bool = False,
        must_be_directory: bool = False,
    ) -> None:
        self.parent = parent
        self.name = name
        self.path = path
        self.stat = stat
        self.magic = magic
        self.must_be_directory = must_be_directory

    @property
    def exists(self) -> bool:
        """Whether something was there when it was looked up."""
        return self.stat is not None

    @property
    def reachable(self) -> bool:
        """Whether :attr:`path` leads there from the caller's root."""
        return self.path.startswith(b"/")

    def close(self) -> None:
        """Close :attr:`parent`.  Idempotent."""
        fd, self.parent = self.parent, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Located:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Located {os.fsdecode(self.path)!r}{'' if self.exists else ' (nothing there)'}>"


def locate(
    view: CallerView,
    path: bytes,
    dirfd: int = AT_FDCWD,
    *,
    follow: bool = True,
    empty: bool = False,
    resolve: int = 0,
) -> Located:
    """Where ``path`` leads for the caller.  The result belongs to whoever asked.

    :param dirfd: the *caller's* descriptor number, for relative paths.
    :param follow: whether a symbolic link at the end is followed.  A path that ends in a slash is
        followed in any case.
    :param empty: AT_EMPTY_PATH was given: an empty path means ``dirfd`` itself.
    :param resolve: RESOLVE_* bits of openat2(2); RESOLVE_CACHED is ignored.
    :raises OSError: with the errno that the caller would get (ENOENT for a missing directory on the
        way, ENOTDIR, ELOOP, ENAMETOOLONG, EBADF, EXDEV).  A missing *last* component is no error.
    """
    if len(path) >= PATH_MAX:
        _fail(errno.ENAMETOOLONG)
    if b"\0" in path:
        raise ValueError("a path has no NUL in it")
    if not path:
        if not empty:
            _fail(errno.ENOENT)
        return _itself(view, dirfd)
    walk = _Walk(view, dirfd, path.startswith(b"/"), resolve)
    try:
        return walk.go(path, follow)
    finally:
        walk.close()


def _fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


def _components(path: bytes) -> list[bytes]:
    """The names of a path, the last first."""
    return [name for name in reversed(path.split(b"/")) if name]


def _itself(view: CallerView, dirfd: int) -> Located:
    held = view.dir_fd(dirfd)
    names, prefix = procfs.name_of(held, view.root())
    return Located(os.dup(held), b"", _join(prefix, names), os.fstat(held))


def _join(prefix: bytes, names: list[bytes]) -> bytes:
    return prefix + b"/" + b"/".join(names)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


class _Walk:
    """One walk.  ``here`` is a descriptor of ours; ``names`` leads to it from the caller's root,
    unless ``prefix`` says that nothing does; ``parents`` are the identities of the directories on
    that way, None where not known."""

    def __init__(self, view: CallerView, dirfd: int, absolute: bool, resolve: int) -> None:
        self.here = -1
        self.view = view
        self.resolve = resolve
        self.links = 0
        self.names: list[bytes] = []
        self.prefix = b""
        self.parents: list[tuple[int, int] | None] = []
        # With RESOLVE_NO_XDEV the kernel refuses an absolute link unless it looked the root up before.
        self.root_met = absolute
        self.scoped = bool(resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT))
        if absolute and resolve & RESOLVE_BENEATH:
            _fail(errno.EXDEV)
        if absolute and not self.scoped:
            start = view.root()
        else:
            start = view.dir_fd(dirfd)
            if not _stat.S_ISDIR(os.fstat(start).st_mode):
                _fail(errno.ENOTDIR)
        #: Where ".." stops.
        self.root = start if self.scoped else view.root()
        self.root_names, self.root_prefix = (
            procfs.name_of(start, view.root()) if self.scoped else ([], b"")
        )
        if start == self.root:
            self.to_root()
        else:
            self.move(os.dup(start))
            self.rename()
        self.mount = procfs.mount_of(self.here) if resolve & RESOLVE_NO_XDEV else 0

    def close(self) -> None:
        """Give up what is held."""
        fd, self.here = self.here, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()  # for errors before the walk began

    def move(self, fd: int) -> None:
        """``fd``, now ours, is where we are."""
        self.close()
        self.here = fd

    def to_root(self) -> None:
        self.move(os.dup(self.root))
        self.names = list(self.root_names)
        self.prefix = self.root_prefix
        self.parents = [None] * len(self.names)

    def rename(self) -> None:
        """Find out how the caller would call the place where we are."""
        self.names, self.prefix = procfs.name_of(self.here, self.view.root())
        self.parents = [None] * len(self.names)

    def path(self, name: bytes | None = None) -> bytes:
        return _join(self.prefix, self.names if name is None else [*self.names, name])

    def take(self) -> int:
        """The directory we are in, for the result."""
        fd, self.here = self.here, -1
        return fd

    # Steps ----------------------------------------------------------------------------------

    def go(self, path: bytes, follow: bool) -> Located:
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
            try:
                fd = os.open(name, _PIN, dir_fd=self.here)
            except FileNotFoundError:
                if not last:
                    raise
                return self.found(name, None, directory)
            try:
                status = os.fstat(fd)
                kind = _stat.S_IFMT(status.st_mode)
                if kind == _stat.S_IFLNK and (not last or follow or directory):
                    text = self.link(name, fd, status)
                    if text is None:
                        magic = self.jump(name, last, directory)
                        if magic is not None:
                            return magic
                        continue
                    directory = directory or (last and text.endswith(b"/"))
                    todo.extend(_components(text))
                elif last:
                    if directory and kind != _stat.S_IFDIR:
                        _fail(errno.ENOTDIR)
                    self.crossing(fd)
                    return self.found(name, status, directory)
                elif kind != _stat.S_IFDIR:
                    _fail(errno.ENOTDIR)
                else:
                    self.down(name, fd)
                    fd = -1
            finally:
                if fd >= 0:
                    os.close(fd)
        status = os.fstat(self.here)
        return Located(self.take(), b".", self.path(), status, must_be_directory=directory)

    def found(self, name: bytes, status: os.stat_result | None, directory: bool) -> Located:
        path = self.path(name)
        return Located(self.take(), name, path, status, must_be_directory=directory)

    def down(self, name: bytes, fd: int) -> None:
        self.crossing(fd)
        self.parents.append(_identity(self.here))
        self.names.append(name)
        self.move(fd)

    def up(self) -> None:
        self.root_met = True
        if procfs.same_place(self.here, self.root):
            if self.resolve & RESOLVE_BENEATH:
                _fail(errno.EXDEV)
            return  # ".." of the root is the root
        fd = os.open(b"..", _PIN | os.O_DIRECTORY, dir_fd=self.here)
        try:
            self.crossing(fd)
        except OSError:
            os.close(fd)
            raise
        expected = self.parents[-1] if self.parents else None
        self.move(fd)
        if expected is not None and _identity(fd) == expected:
            self.names.pop()
            self.parents.pop()
        else:
            self.rename()  # moved meanwhile, or above where we started

    def crossing(self, fd: int) -> None:
        if self.resolve & RESOLVE_NO_XDEV and procfs.mount_of(fd) != self.mount:
            _fail(errno.EXDEV)

    def link(self, name: bytes, fd: int, status: os.stat_result) -> bytes | None:
        """The text of a symbolic link as the caller would read it; None if it leads to an object."""
        if self.resolve & RESOLVE_NO_SYMLINKS:
            _fail(errno.ELOOP)
        self.links += 1
        if self.links > LINKS_MAX:
            _fail(errno.ELOOP)
        if procfs.may_be(status) and procfs.is_procfs(fd):
            text = procfs.link_text(self.here, name, fd, self.view)
            if text is None:
                return None
        else:
            text = os.readlink(b"", dir_fd=fd)
        if not text:
            _fail(errno.ENOENT)
        if text.startswith(b"/"):
            if self.resolve & RESOLVE_BENEATH:
                _fail(errno.EXDEV)
            if self.resolve & RESOLVE_NO_XDEV and not (self.root_met or self.scoped):
                _fail(errno.EXDEV)
            self.root_met = True
            self.to_root()
            self.crossing(self.here)
        return text

    def jump(self, name: bytes, last: bool, directory: bool) -> Located | None:
        """Follow a link that leads to an object.  A Located if the walk ends there."""
        if self.resolve & RESOLVE_NO_MAGICLINKS:
            _fail(errno.ELOOP)
        if self.scoped:
            _fail(errno.EXDEV)
        fd = os.open(name, (_PIN & ~os.O_NOFOLLOW), dir_fd=self.here)
        try:
            self.crossing(fd)
            status = os.fstat(fd)
            if not _stat.S_ISDIR(status.st_mode):
                if not last or directory:
                    _fail(errno.ENOTDIR)
                names, prefix = procfs.name_of(fd, self.view.root())
                return Located(self.take(), name, _join(prefix, names), status, magic=True)
            self.move(fd)
            fd = -1
        finally:
            if fd >= 0:
                os.close(fd)
        self.rename()
        return None
