"""Paths that meet the caller's ``/proc/self``: runs in a performer.

The kernel walks every path; this module only steps in where a walk would mean the *performer* when
the caller meant itself.  ``/proc/self`` and ``/proc/thread-self`` are symbolic links whose text
depends on who reads them; ``/proc/PID/fd/N``, ``cwd``, ``root`` and ``exe`` are magic links.  So a
performer first walks with RESOLVE_NO_MAGICLINKS; what then fails at a link, or ends on procfs, is
looked at here: :func:`meets_proc_link` tells whether a link of procfs is on the way, and
:func:`open_for_caller` walks with ``self`` replaced by the caller's number.

That walk follows magic links, and a thread of the target may swap links under it, so it may end in
the walker's own ``/proc``: it runs in a process that has nothing of its own to be found there and is
gone before the result is used (:mod:`proctor.emulate.apart`).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from proctor.emulate import raw

_MOST_LINKS: Final = 40  # MAXSYMLINKS of the kernel
_PIN: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Pids:
    """The caller's numbers, outermost pid namespace first: NStgid and NSpid of its status."""

    __slots__ = ("tgids", "tids")

    def __init__(self, text: bytes) -> None:
        tgids: list[int] = []
        tids: list[int] = []
        for line in text.split(b"\n"):
            if line.startswith(b"NStgid:"):
                tgids = [int(word) for word in line.split()[1:]]
            elif line.startswith(b"NSpid:"):
                tids = [int(word) for word in line.split()[1:]]
        self.tgids, self.tids = tgids, tids

    def in_proc(self, proc_root: int) -> tuple[int, int] | None:
        """(tgid, tid) as the procfs at ``proc_root`` numbers them, None if it does not show the
        caller.  A procfs shows the numbers of the pid namespace it was mounted for, which may be
        any of the caller's; the one whose view of the process agrees with ours is it."""
        for level in range(len(self.tgids) - 1, -1, -1):
            try:
                fd = os.open(b"%d/status" % self.tgids[level], os.O_RDONLY, dir_fd=proc_root)
            except OSError:
                continue
            try:
                text = os.read(fd, 4096)
            except OSError:
                continue
            finally:
                os.close(fd)
            if Pids(text).tgids == self.tgids[level:]:
                return self.tgids[level], self.tids[level]
        return None


class _Met(Exception):
    """A symbolic link of procfs is on the way."""


class _Walk:
    """Follows a path by single steps, rewriting it as it goes."""

    def __init__(self, dirfd: int, path: bytes, resolve: int, pids: Pids | None) -> None:
        self.start = dirfd
        self.resolve = resolve
        self.pids = pids  # None: only tell
        self.held: list[int] = []
        #: (base, text) is what the kernel is to walk; base None means it is absolute.
        self.base: int | None = dirfd
        self.text: list[bytes] = []
        self.rest = self._components(path)
        self.at = self._begin(path)

    def _components(self, path: bytes) -> list[bytes]:
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        if path.endswith((b"/", b"/.")) or path == b".":
            parts.append(b".")  # it must be a directory, and a link there is followed
        return parts[::-1]

    def _begin(self, path: bytes) -> int:
        if path.startswith(b"/") and not self.resolve & raw.RESOLVE_SCOPED:
            return self._restart(b"/", None)
        return self._hold(raw.openat2(self.start, b".", _PIN, 0, 0))

    def _restart(self, root: bytes, base: int | None) -> int:
        self.base = base
        self.text = [] if base is not None else [b""]
        return self._hold(os.open(root, _PIN | os.O_DIRECTORY))

    def _hold(self, fd: int) -> int:
        self.held.append(fd)
        return fd

    def close(self) -> None:
        for fd in self.held:
            os.close(fd)

    def run(self, follow_last: bool) -> None:
        """Walk until the end or until nothing more can be said; what cannot be walked is left in
        the text for the kernel to judge."""
        links = 0
        while self.rest:
            name = self.rest.pop()
            last = not self.rest
            if name == b".":
                self.text.append(name)
                continue
            if name == b".." and self._at_scope():
                if self.resolve & raw.RESOLVE_IN_ROOT:
                    continue
                return self._give_up(name)
            try:
                found = self._hold(os.open(name, _PIN, dir_fd=self.at))
            except OSError:
                return self._give_up(name)
            if not stat.S_ISLNK(os.fstat(found).st_mode):
                self.at = found
                self.text.append(name)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if last and not follow_last:
                return self._give_up(name)
            if raw.filesystem(found) == raw.PROC_SUPER_MAGIC:
                if self.pids is None:
                    raise _Met
                if not self._proc_link(name, found):
                    return self._give_up(name)
            elif not self._plain_link(os.readlink(b"", dir_fd=found)):
                return self._give_up(name)
        return None

    def _at_scope(self) -> bool:
        scoped = bool(self.resolve & raw.RESOLVE_SCOPED)
        return scoped and raw.place(self.at) == raw.place(self.start)

    def _give_up(self, name: bytes) -> None:
        self.text += [name, *reversed(self.rest)]
        self.rest = []

    def _plain_link(self, target: bytes) -> bool:
        if self.resolve & raw.RESOLVE_NO_SYMLINKS:
            return False
        if target.startswith(b"/"):
            if self.resolve & raw.RESOLVE_BENEATH:
                return False
            if self.resolve & raw.RESOLVE_IN_ROOT:
                self.text = []
                self.at = self._hold(raw.openat2(self.start, b".", _PIN, 0, 0))
            else:
                self.at = self._restart(b"/", None)
        self.rest += self._components(target)
        return True

    def _proc_link(self, name: bytes, link: int) -> bool:
        in_proc_root = os.fstat(self.at).st_ino == raw.PROC_ROOT_INO
        if in_proc_root and name in (b"self", b"thread-self"):
            if self.resolve & raw.RESOLVE_NO_SYMLINKS:
                return False
            numbers = self.pids.in_proc(self.at) if self.pids is not None else None
            if numbers is None:  # as the kernel says where the reader has no number
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            if not self.resolve & (raw.RESOLVE_SCOPED | raw.RESOLVE_NO_XDEV):
                self.base, self.text = self.at, []
            self.rest += self._components(
                b"%d/task/%d" % numbers if name == b"thread-self" else b"%d" % numbers[0]
            )
            return True
        if in_proc_root or not self._is_magic(name):
            return self._plain_link(os.readlink(b"", dir_fd=link))
        if self.resolve & (raw.RESOLVE_SCOPED | raw.RESOLVE_NO_MAGICLINKS):
            return False  # EXDEV, ELOOP: the kernel's words
        self.text.append(name)
        self.at = self._hold(os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=self.at))
        return True

    def _is_magic(self, name: bytes) -> bool:
        try:
            os.close(raw.openat2(self.at, name, os.O_PATH, 0, raw.RESOLVE_NO_MAGICLINKS))
        except OSError as error:
            return error.errno == errno.ELOOP
        return False


def meets_proc_link(dirfd: int, path: bytes, resolve: int, follow_last: bool) -> bool:
    """Whether a symbolic link of procfs is on the way of ``path``.  Follows no such link."""
    if not path or resolve & raw.RESOLVE_NO_SYMLINKS:
        return False
    try:
        walk = _Walk(dirfd, path, resolve, None)
    except OSError:
        return False
    try:
        walk.run(follow_last)
    except _Met:
        return True
    except OSError:
        return False
    finally:
        walk.close()
    return False


def open_for_caller(dirfd: int, path: bytes, flags: int, resolve: int, pids: Pids) -> int:
    """openat2(2) with O_PATH, where ``/proc/self`` is the caller's.

    Follows magic links: only where the walker's own descriptors are worth nothing.
    """
    walk = _Walk(dirfd, path, resolve, pids)
    try:
        walk.run(follow_last=not flags & os.O_NOFOLLOW)
        text = b"/".join(walk.text) or (b"." if walk.base is not None else b"/")
        base = walk.base if walk.base is not None else raw.AT_FDCWD
        return raw.openat2(base, text, flags | os.O_PATH | os.O_CLOEXEC, 0, resolve)
    finally:
        walk.close()
