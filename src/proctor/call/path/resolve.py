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

Other names of the same file are other paths: hard links, bind mounts, other spellings in a
directory that ignores case.

Walking can wait for a file system: on a FUSE mount that the monitor may enter, as long as its
server likes; and it mounts what is mounted by being walked through (autofs), as the caller's own
walk would.  Handlers that resolve belong on workers (``quick=False``).

The rules of the walk are in :mod:`proctor.call.path.walk`; this is the real file system for it.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

from proctor.call.path import procfs
from proctor.call.path.walk import AT_FDCWD, walk

_PIN: Final = getattr(os, "O_PATH", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
# As a directory on the way: only then does the kernel mount what waits to be mounted (automount).
_ENTER: Final = _PIN | getattr(os, "O_DIRECTORY", 0)
_JUMP: Final = _PIN & ~getattr(os, "O_NOFOLLOW", 0)


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
        return f"<Located {self.path!r}{'' if self.exists else ' (nothing there)'}>"


def locate(
    view: CallerView,
    path: bytes,
    dirfd: int = AT_FDCWD,
    *,
    follow: bool = True,
    empty: bool = False,
    resolve: int = 0,
    entry: bool = False,
) -> Located:
    """Where ``path`` leads for the caller.  The result belongs to whoever asked.

    :param dirfd: the *caller's* descriptor number, for relative paths.
    :param follow: whether a symbolic link at the end is followed.  A path that ends in a slash is
        followed in any case, but for ``entry``.
    :param entry: the call is about the name in its directory (mkdir, unlink, rename): a link at the
        end is the thing itself even before a slash, and a slash behind a file is no error yet.
    :param empty: AT_EMPTY_PATH was given: an empty path means ``dirfd`` itself.
    :param resolve: RESOLVE_* bits of openat2(2); RESOLVE_CACHED is ignored.
    :raises OSError: with the errno that the caller would get (ENOENT for a missing directory on the
        way, ENOTDIR, ELOOP, ENAMETOOLONG, EBADF, EXDEV, EINVAL for ``resolve``, EAGAIN for a scoped
        walk in a tree that is moved meanwhile).  A missing *last* component is no error.
    """
    found = walk(
        Descriptors(view), path, dirfd, follow=follow, entry=entry, empty=empty, resolve=resolve
    )
    parent, name, seen, status, magic, slash = found
    return Located(parent, name, seen, status, magic=magic, must_be_directory=slash)


class Descriptors:
    """:class:`~proctor.call.path.walk.Files` of the real file system: handles are descriptors that pin a
    place (``O_PATH``), in the caller's mounts, and never a path."""

    __slots__ = ("_view",)

    def __init__(self, view: CallerView) -> None:
        self._view = view

    copy = staticmethod(os.dup)
    close = staticmethod(os.close)
    status = staticmethod(os.fstat)
    mount = staticmethod(procfs.mount_of)

    def root(self) -> int:
        """See :class:`~proctor.call.path.walk.Files`."""
        return self._view.root()

    def start(self, dirfd: int) -> int:
        """See :class:`~proctor.call.path.walk.Files`."""
        return self._view.dir_fd(dirfd)

    def enter(self, here: int, name: bytes) -> int:
        """See :class:`~proctor.call.path.walk.Files`.

        :raises NotPermitted: it is a directory of /proc/sys/net that only the caller may have."""
        try:
            return os.open(name, _ENTER, dir_fd=here)
        except FileNotFoundError:
            procfs.refuse_other_network(here, self._view)
            raise

    def look(self, here: int, name: bytes) -> int:
        """See :class:`~proctor.call.path.walk.Files`."""
        return os.open(name, _PIN, dir_fd=here)

    def above(self, here: int) -> int:
        """See :class:`~proctor.call.path.walk.Files`."""
        return os.open(b"..", _ENTER, dir_fd=here)

    def read_link(self, here: int, name: bytes, link: int, status: os.stat_result) -> bytes | None:
        """See :class:`~proctor.call.path.walk.Files`."""
        procfs.refuse_nosymfollow(link)
        if procfs.may_be(status) and procfs.is_procfs(link):
            return procfs.link_text(here, name, link, self._view)
        return os.readlink(b"", dir_fd=link)

    def jump(self, here: int, name: bytes) -> int:
        """See :class:`~proctor.call.path.walk.Files`."""
        return os.open(name, _JUMP, dir_fd=here)

    def name_of(self, handle: int) -> tuple[list[bytes], bytes]:
        """See :class:`~proctor.call.path.walk.Files`."""
        return procfs.name_of(handle, self._view.root())
