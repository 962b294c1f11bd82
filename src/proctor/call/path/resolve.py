"""Where a path leads, in the caller's view.

:func:`locate` finds it the way the kernel would for the caller: from its root, working directory or
dirfd, along symbolic links (at most 40), with ``..`` that stops at the caller's root, trailing
slashes, ``/proc/self`` and ``/proc/thread-self`` (the *caller's*, not ours), and links of procfs that
lead to an object rather than to a name (``/proc/PID/fd/5``, ``exe``, ``cwd``, ``root``).  What it
finds is pinned (``O_PATH``).  Mostly one openat2(2) does it (:mod:`proctor.call.path.quick`); where
procfs or the caller's root have a say it is walked (:mod:`proctor.call.path.walk`), for which this is
the real file system.

**This is for naming, not for acting.**  It runs with the monitor's rights, in the monitor's
context: it does not test whether the caller may search those directories, and sticky-directory
rules (fs.protected_symlinks) do not apply.  The answer says what a policy's patterns are compared
with and what a log line shows.  Whoever then *acts* does so with the caller's rights, on what is
pinned there (:func:`proctor.perform`), because names can lead elsewhere a moment later.  For the same
reason the errors are for logs: a caller that is given them learns what exists where it may not look.

Other names of the same file are other paths: hard links, bind mounts, other spellings in a
directory that ignores case.

Walking can wait for a file system: on a FUSE mount that the monitor may enter, as long as its
server likes; and it mounts what is mounted by being walked through (autofs), as the caller's own
walk would.
"""

from __future__ import annotations

import errno
import os
from typing import Final, Protocol

from proctor.call.path import procfs
from proctor.call.path.files import AT_FDCWD, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
from proctor.call.path.located import Located, file_id
from proctor.call.path.quick import find
from proctor.call.path.walk import walk
from proctor.errors import SCARCE

_PIN: Final = getattr(os, "O_PATH", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
# As a directory on the way: only then does the kernel mount what waits to be mounted (automount).
_ENTER: Final = _PIN | getattr(os, "O_DIRECTORY", 0)
#: openat2(2): a walk below a directory says EAGAIN where ``..`` is met and anything was mounted or renamed meanwhile.
_TRIES: Final = 32
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
    :raises OSError: with the errno that somebody with our rights would get (ENOENT for a missing
        directory on the way, ENOTDIR, ELOOP, ENAMETOOLONG, EBADF, EXDEV, EINVAL for ``resolve``,
        EAGAIN for a scoped walk in a tree that is moved meanwhile).  A missing *last* component is no
        error.
    """
    found = find(view, path, dirfd, follow, entry, resolve)
    if found is not None:
        return found
    place = walk(
        Descriptors(view), path, dirfd, follow=follow, entry=entry, empty=empty, resolve=resolve
    )
    return Located(
        place.path,
        pin=place.pin if place.pin is not None else -1,
        parent=place.parent if place.parent is not None else -1,
        name=place.name,
        must_be_directory=place.must_be_directory,
    )


class Descriptors:
    """:class:`~proctor.call.path.files.Files` of the real file system: handles are descriptors that pin a
    place (``O_PATH``), in the caller's mounts, and never a path."""

    __slots__ = ("_view",)

    def __init__(self, view: CallerView) -> None:
        self._view = view

    copy = staticmethod(os.dup)
    close = staticmethod(os.close)
    status = staticmethod(os.fstat)

    def root(self) -> int:
        return self._view.root()

    def start(self, dirfd: int) -> int:
        return self._view.dir_fd(dirfd)

    def enter(self, here: int, name: bytes) -> int:
        """See :class:`~proctor.call.path.files.Files`.

        :raises NotPermitted: it is a directory of /proc/sys/net that only the caller may have."""
        try:
            return os.open(name, _ENTER, dir_fd=here)
        except FileNotFoundError:
            procfs.refuse_other_network(here, self._view)
            raise

    def mount(self, handle: int) -> int:
        return file_id(handle).mount

    def stride(self, here: int, names: list[bytes]) -> int | None:
        from proctor.kernel.raw import openat2

        bits = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
        for _ in range(_TRIES):
            try:
                return openat2(here, b"/".join(names), _ENTER, bits)
            except OSError as error:
                if error.errno in SCARCE:
                    raise
                if error.errno != errno.EAGAIN:
                    break
        return None

    def look(self, here: int, name: bytes) -> int:
        return os.open(name, _PIN, dir_fd=here)

    def above(self, here: int, count: int = 1) -> int:
        return os.open(b"/".join([b".."] * count), _ENTER, dir_fd=here)

    def read_link(self, here: int, name: bytes, link: int, status: os.stat_result) -> bytes | None:
        procfs.refuse_nosymfollow(link)
        if procfs.may_be(status.st_dev) and procfs.is_procfs(link):
            return procfs.link_text(here, name, link, self._view)
        return os.readlink(b"", dir_fd=link)

    def jump(self, here: int, name: bytes) -> int:
        return os.open(name, _JUMP, dir_fd=here)

    def name_of(self, handle: int) -> tuple[list[bytes], bytes]:
        return procfs.name_of(handle, self._view.root())
