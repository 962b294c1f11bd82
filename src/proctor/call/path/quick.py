"""The usual path, in a few system calls: openat2(2) walks, readlink(2) of the pin names.

Only what comes out the same whoever looks is taken from here.  Everything else is left to the walk,
step by step (:mod:`proctor.call.path.walk`): what meets a magic link or ends on a procfs, where
``self`` would be the monitor; relative paths that leave their directory where the caller's root is
another than ours; every error.
"""

from __future__ import annotations

import errno
import os
import stat as _stat
from typing import TYPE_CHECKING, Final

from proctor.call.path import procfs
from proctor.call.path.files import (
    LINKS_MAX,
    PATH_MAX,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    SCOPED,
)
from proctor.call.path.located import FileId, Located, file_id

if TYPE_CHECKING:
    from proctor.call.path.resolve import CallerView

_O_PATH: Final = getattr(os, "O_PATH", 0) | getattr(os, "O_CLOEXEC", 0)
_O_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_O_DIRECTORY: Final = getattr(os, "O_DIRECTORY", 0)
_LAST: Final = _O_PATH | _O_NOFOLLOW


class _Leave(Exception):
    """Left to the walk."""


def find(
    view: CallerView, path: bytes, dirfd: int, follow: bool, entry: bool, resolve: int
) -> Located | None:
    """See :func:`proctor.call.path.resolve.locate`; None for what is left to the walk."""
    if not path or len(path) >= PATH_MAX or b"\0" in path or resolve & SCOPED == SCOPED:
        return None
    try:
        return _Quick(view, path, dirfd, resolve).find(path, follow, entry)
    except (OSError, _Leave):
        return None


class _Quick:
    """One search.  ``base`` is where the next stretch of path starts, ``bits`` how it is bounded."""

    __slots__ = ("base", "bits", "held", "resolve", "root")

    def __init__(self, view: CallerView, path: bytes, dirfd: int, resolve: int) -> None:
        self.root = view.root()
        #: A descriptor of ours to be closed.
        self.held = -1
        self.resolve = resolve
        absolute = path.startswith(b"/") and not resolve & SCOPED
        self.base = self.root if absolute else view.dir_fd(dirfd)
        self.bits = resolve | RESOLVE_NO_MAGICLINKS
        if not resolve & SCOPED:
            bound = self.bound(absolute)
            if resolve and bound:
                raise _Leave  # a bound changes what the other bits mean
            if bound & RESOLVE_BENEATH:
                self.name(self.base)  # else the root, where ".." stops, may be met on the way down
            self.bits |= bound

    def bound(self, absolute: bool) -> int:
        """What keeps a stretch of path within the caller's root: nothing, if that is ours and ``base``
        is not."""
        if absolute:
            return RESOLVE_IN_ROOT
        return 0 if file_id(self.root) == _own_root() else RESOLVE_BENEATH

    def find(self, path: bytes, follow: bool, entry: bool) -> Located:
        try:
            if entry:
                return self.in_directory(path, path.endswith(b"/"))
            try:
                return self.there(path, _O_PATH if follow else _LAST)
            except FileNotFoundError:
                if self.resolve:
                    raise
                return self.missing(path, follow)
        finally:
            if self.held >= 0:
                os.close(self.held)

    def there(self, path: bytes, flags: int) -> Located:
        """Something that is there."""
        pin, name = self.open(path, flags)
        try:
            return Located(name or self.name(pin), pin=pin)
        except BaseException:
            os.close(pin)
            raise

    def open(self, path: bytes, flags: int) -> tuple[int, bytes | None]:
        """What is there, on no procfs, and what it is called where that is known at once."""
        from proctor.kernel.raw import openat2

        name = None
        fd = -1
        if self.base == self.root and _is_plain(path):
            try:  # without links and dots it is its own name
                fd = openat2(self.base, path, flags, self.bits | RESOLVE_NO_SYMLINKS)
                name = path
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
        if fd < 0:
            fd = openat2(self.base, path, flags, self.bits)
        self.refuse_procfs(fd)
        return fd, name

    def refuse_procfs(self, fd: int) -> None:
        """Leave to the walk, and close, what is on a procfs."""
        try:
            if not (procfs.may_be(os.fstat(fd).st_dev) and procfs.is_procfs(fd)):
                return
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        raise _Leave

    def missing(self, path: bytes, follow: bool) -> Located:
        """A name that is not there: in the directory that the last link leads to."""
        for _ in range(LINKS_MAX + 1):
            located = self.in_directory(path, path.endswith(b"/"))
            if located.pin < 0:
                return located
            with located:  # a link that dangles, or somebody made it just now
                if not (follow and _stat.S_ISLNK(os.fstat(located.pin).st_mode)):
                    raise _Leave
                procfs.refuse_nosymfollow(located.pin)
                path = os.readlink(b"", dir_fd=located.pin) + b"/" * located.must_be_directory
                self.move(path, located)
        raise _Leave

    def move(self, path: bytes, located: Located) -> None:
        """The next stretch starts in the directory of a link, or where its text says."""
        if not path.startswith(b"/"):
            if self.held >= 0:
                os.close(self.held)
            self.held = self.base = located.parent
            located.parent = -1
        else:
            self.base = self.root
        self.bits = RESOLVE_NO_MAGICLINKS | self.bound(self.base == self.root)

    def in_directory(self, path: bytes, slash: bool) -> Located:
        """A name in its directory, and what is there."""
        head, _, last = path.rstrip(b"/").rpartition(b"/")
        if last in (b"", b".", b".."):
            raise _Leave
        if not head:
            head = b"/" if path.startswith(b"/") else b"."
        parent, above = self.open(head, _O_PATH | _O_DIRECTORY)
        pin = -1
        try:
            if above is None:
                above = self.name(parent)
            try:
                pin = os.open(last, _LAST, dir_fd=parent)
            except FileNotFoundError:
                pass
            else:
                self.refuse_procfs(pin)
        except BaseException:
            os.close(parent)
            raise
        return Located(
            above.rstrip(b"/") + b"/" + last,
            pin=pin, parent=parent, name=last, must_be_directory=slash,
        )  # fmt: skip

    def name(self, fd: int) -> bytes:
        """What the caller's root calls it."""
        names, prefix = procfs.name_of(fd, self.root)
        if prefix:
            raise _Leave
        return b"/" + b"/".join(names)


def _own_root() -> FileId:
    fd = os.open(b"/", _O_PATH)
    try:
        return file_id(fd)
    finally:
        os.close(fd)


def _is_plain(path: bytes) -> bool:
    """Whether a path is absolute, and has no empty names and no dots."""
    return (
        path.startswith(b"/")
        and b"//" not in path
        and b"/./" not in path
        and b"/../" not in path
        and not path.endswith((b"/", b"/.", b"/.."))
    )
