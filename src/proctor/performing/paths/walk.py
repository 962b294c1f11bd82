"""Paths that meet links of procfs: walked step by step, so that they mean the caller's and not ours.

``/proc/self`` and ``/proc/thread-self`` are symbolic links whose text depends on who reads them, and
``/proc/PID/fd/N``, ``cwd``, ``root`` and ``exe`` lead to objects.  An executor that walked through them
would find itself.  So it walks with RESOLVE_NO_MAGICLINKS (:mod:`proctor.performing.paths.pins`), and what then fails where a
link is on the way, or ends on procfs, is walked here:

* each step is from a pinned directory, so that nothing that is exchanged meanwhile leads elsewhere;
* ``self`` is the number that *this* procfs has for *this* caller.  A procfs numbers processes as the
  pid namespace does that it was mounted for; a number alone proves nothing (every small number exists
  outside, too), so the process behind it must be in the caller's pid namespace (by the inode of
  ``ns/pid``) and have the caller's number there: there is only one such process;
* what belongs to the executor itself is not walked into: the kernel lets every process follow its own
  links and open its own memory.  That directory is known by its inode; what is mounted elsewhere
  from below a process's directory, so that nobody can say whose it is, is refused (EACCES);
* all other links that lead to objects are followed by the executor, with the caller's identity, so
  that the kernel makes the check (ptrace(2)) that it would make for the caller.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from typing import Any, Final

from proctor.call.caller import Caller
from proctor.call.path.procfs import numbers_in
from proctor.performing.executing.requests import Reply
from proctor.performing.paths import own_links, strides
from proctor.performing.paths.filestat import ST_NOSYMFOLLOW
from proctor.performing.paths.pinning import name_of
from proctor.performing.paths.pins import (
    AT_FDCWD,
    BENEATH,
    HOW,
    IN_ROOT,
    NO_MAGICLINKS,
    NO_SYMLINKS,
    NO_XDEV,
    O_DIRECTORY,
    O_NOFOLLOW,
    PATH_MAX,
    PIN,
    SCOPED,
    room,
)
from proctor.performing.paths.whereabouts import OUT, Ask, Whereabouts
from proctor.performing.trouble import Said
from proctor.records import NamedTuple

_MOST_LINKS: Final = 40  # MAXSYMLINKS of the kernel
_LONGEST: Final = 512  # components in one walk of the kernel's


class Walked(NamedTuple):
    """Where a path leads."""

    #: Of what is there: an O_PATH descriptor, its taker's to close.
    fd: int
    #: Whether links of procfs were on the way; if not, the kernel's own walk meant the same.
    met: bool
    #: The directory in which it has its name, where that was looked up: likewise; -1 elsewhere.
    inside: int


class Walk:
    """One path, walked for one caller.  Close it after :meth:`run`.

    :param ask: makes requests, always by the same executor.
    :param start: the directory of relative paths; None if the caller has none there.
    :param strictly: nothing is left to the kernel's own walk, which may fail where the caller's does not.
    """

    def __init__(
        self,
        ask: Ask,
        caller: Caller,
        start: int | None,
        path: bytes,
        resolve: int,
        *,
        follow: bool,
        strictly: bool = False,
    ) -> None:
        self._ask = ask
        self._strictly = strictly
        self._caller = caller
        self._resolve = resolve
        self._bits = resolve & NO_XDEV
        self._follow = follow
        self._scope = bool(resolve & SCOPED)
        self._start = start if not path.startswith(b"/") or self._scope else None
        self._bad = self._start is None and not path.startswith(b"/")
        self._at = Whereabouts(ask, caller, self._start)
        #: Where it starts, above which a scoped walk does not go.
        self._top: tuple[Any, ...] | None = None
        self._slowly = False
        #: The end must be a directory, and a link there is followed.
        self._slash = path.endswith(b"/")
        self._rest = _components(path)
        self._links = 0
        #: Whether a link of procfs was on the way.
        self.met = False

    @property
    def procfs(self) -> bool:
        """Whether it came to a procfs at all."""
        return self._at.procfs

    def close(self) -> None:
        """Close what was pinned on the way."""
        self._at.close()

    def run(self) -> Generator[Any, Reply, Walked]:
        """Walk to the end.

        :raises Said: what the kernel says on the way.
        :raises Itself: it leads into the executor's own directory.
        """
        if self._bad:
            raise Said(errno.EBADF)
        fd, limit = -1, _LONGEST
        while self._rest:
            chunk = self._chunk(limit)
            stride = yield from self._advance(chunk)
            if stride is not None:
                fd, limit = stride, min(2 * limit, _LONGEST)
            else:
                fd, limit = -1, max(1, len(chunk) // 2)
            self._at.let_go(fd)
        if fd < 0:  # the path is the start itself
            fd = yield from self._at.look_up()
        yield from self._at.not_itself()
        inside = self._at.here if self._at.here is not None and self._at.here != fd else -1
        return Walked(os.dup(fd), self.met, inside if inside < 0 else os.dup(inside))

    def _chunk(self, limit: int) -> list[bytes]:
        chunk = self._rest[:limit]
        if self._scope and b".." in chunk[1:]:
            chunk = chunk[: chunk.index(b"..", 1)]
        if chunk[0] == b".." and self._scope:
            chunk = chunk[:1]
        while sum(map(len, chunk)) + len(chunk) > PATH_MAX:
            chunk = chunk[: len(chunk) // 2]
        return chunk

    @property
    def _follows(self) -> bool:
        """Whether a link at the end is followed."""
        return self._follow or self._slash

    # Steps ----------------------------------------------------------------------------------

    def _advance(self, chunk: list[bytes]) -> Generator[Any, Reply, int | None]:
        """Some way along the chunk; where it ended, None if that was not its end."""
        slowly = self._at.spot.root is not None or self._slowly or self._strictly
        path = b"" if slowly else b"/".join(chunk)
        last = len(chunk) == len(self._rest)
        singles = chunk[: strides.SINGLES]
        long = max(map(len, singles)) > strides.LONGEST  # than a name that anything has
        stride = strides.stride(self._at.here is not None, room(PATH_MAX if long else len(path)))
        flags = PIN | (0 if last and not self._slash else O_DIRECTORY)
        flags |= O_NOFOLLOW if last and not self._follows else 0
        values: list[Any] = [] if self._at.here is not None else [AT_FDCWD]
        values += [
            HOW.pack(flags, 0, NO_SYMLINKS | self._bits),
            HOW.pack(PIN | O_DIRECTORY | O_NOFOLLOW, 0, self._bits),
            path,
        ]
        values += singles + [b""] * (strides.SINGLES - len(singles))
        reply = yield from self._ask(stride.request, *values, fds=self._along())
        try:
            if self._at.status is None:
                if not reply.made(stride.here.step):
                    raise Said(reply.error(stride.here.step))
                self._at.status, proc = stride.here.read(reply)
                self.met |= proc and self._strictly
                if proc:
                    if self._at.here is None:
                        self._at.here = yield from self._at.look_up()
                    yield from self._at.settle(self._at.here, self._at.status)
            if self._at.here == self._start and self._top is None:
                self._top = self._at.status.place
            if self._at_scope(chunk):
                return None
            if reply.made(stride.whole.step):
                status, self._slowly = stride.whole.read(reply)
                if self._slowly:  # into a procfs, where each step counts
                    return None
                self._at.move(self._at.take(reply, stride.whole.step), status)
                del self._rest[: len(chunk)]
                return self._at.here
            if not slowly and reply.error(stride.whole.step) != errno.ELOOP:
                raise Said(reply.error(stride.whole.step))
            done = 0
            for name, seen in zip(singles, stride.singles, strict=False):
                if not reply.made(seen.step):
                    break
                there = self._at.take(reply, seen.step)
                yield from self._at.enter(name, there, *seen.read(reply))
                del self._rest[0]
                done += 1
        finally:
            reply.close()
        self._slowly = self._slowly and self._at.spot.root is None and done < len(chunk)
        if done < len(singles):
            return (yield from self._no_directory(singles[done]))
        return self._at.here if done == len(chunk) else None

    def _along(self) -> tuple[int, ...]:
        return (self._at.here,) if self._at.here is not None else ()

    def _at_scope(self, chunk: list[bytes]) -> bool:
        """Whether the next component is ".." where a scoped walk (RESOLVE_BENEATH, RESOLVE_IN_ROOT)
        may not go up; it is dealt with then."""
        if not self._scope or chunk[0] != b"..":
            return False
        if self._at.status is None or self._top != self._at.status.place:
            return False
        if self._resolve & BENEATH:
            raise Said(errno.EXDEV)
        del self._rest[0]
        return True

    # Links, and what is no directory ----------------------------------------------------------

    def _no_directory(self, name: bytes) -> Generator[Any, Reply, int | None]:
        """The next component is no directory: a link, or the end."""
        last, here = len(self._rest) == 1, self._at.here
        if here is None:
            here = self._at.here = yield from self._at.look_up()
        link = strides.link(room(len(name)))
        how = HOW.pack(PIN | O_NOFOLLOW, 0, self._bits)
        testing = HOW.pack(PIN, 0, NO_MAGICLINKS | self._bits)
        reply = yield from self._ask(link.request, how, testing, name, fds=(here,))
        try:
            if not reply.made(link.found.step):
                failed = reply.error(link.found.step)
                if failed == errno.EACCES and self._at.procfs:
                    there = own_links.place(here, self._caller)
                    if there is not None and there.closed:
                        return (yield from self._own_step(here, there, name, last))
                raise Said(failed)
            status, proc = link.found.read(reply)
            fd = self._at.take(reply, link.found.step)
        finally:
            reply.close()
        if not stat.S_ISLNK(status.mode) or (last and not self._follows):
            if not last or self._slash:
                raise Said(errno.ENOTDIR)
            if proc and self._at.status is not None and status.mount != self._at.status.mount:
                self._at.refuse_part(status.mount)
                self._at.spot = OUT
            yield from self._at.not_itself()
            del self._rest[:]
            return fd
        self._count()
        if self._resolve & NO_SYMLINKS:
            raise Said(errno.ELOOP)
        if link.found.flags(reply) & ST_NOSYMFOLLOW:
            raise Said(errno.ELOOP)
        before = status if self._at.status is None else self._at.status
        if proc and self._at.spot.process and status.mount != before.mount:
            self._at.refuse_part(status.mount)  # whose it is, where it is mounted does not say
        test, text = reply.error(link.test), reply.parts[link.text]
        if proc and self._at.spot.root == here and name in (b"self", b"thread-self"):
            self.met = True
            self._rest[:1] = self._number(here, name)
            return None
        if proc and self._at.spot.process and test:
            return (yield from self._jump(here, name, last, test))
        if last and test == errno.EACCES:  # fs.protected_symlinks, or what the link leads to
            raise Said(errno.EACCES)
        self._follow_text(text)
        return None

    def _count(self) -> None:
        """Count a link that is followed.

        :raises Said: ELOOP, there are too many."""
        self._links += 1
        if self._links > _MOST_LINKS:
            raise Said(errno.ELOOP)

    def _follow_text(self, text: bytes) -> None:
        if text.startswith(b"/"):
            if self._resolve & BENEATH:
                raise Said(errno.EXDEV)
            self._at.back(self._start if self._resolve & IN_ROOT else None)
        rest = self._rest[1:]
        self._slash = self._slash if rest else self._slash or text.endswith(b"/")
        self._rest = _components(text) + rest

    def _jump(
        self, here: int, name: bytes, last: bool, test: int
    ) -> Generator[Any, Reply, int | None]:
        """Follow a link that leads to an object, where it is not the executor's.

        :param test: what the kernel says where such links are not followed."""
        yield from self._at.not_itself()
        self.met = True
        there = own_links.place(here, self._caller) if test == errno.EACCES else None
        if there is not None and there.leads(name):
            return (yield from self._own_step(here, there, name, last, True))
        # as proc_pid_get_link and nd_jump_link of fs/
        if test != errno.ELOOP or self._resolve & NO_MAGICLINKS:
            raise Said(test)
        if self._scope:
            raise Said(errno.EXDEV)
        one = strides.one(room(len(name)))
        how = HOW.pack(PIN | (0 if last and not self._slash else O_DIRECTORY), 0, self._bits)
        reply = yield from self._ask(one.request, how, name, fds=(here,))
        try:
            if not reply.made(one.seen.step):
                raise Said(reply.error(one.seen.step))
            status, proc = one.seen.read(reply)
            fd = self._at.take(reply, one.seen.step)
        finally:
            reply.close()
        self._at.move(fd, status)
        del self._rest[0]
        if proc and stat.S_ISDIR(status.mode):
            yield from self._at.settle(fd, status)
        elif proc:
            self._at.refuse_part(status.mount)
        return fd

    def _own_step(
        self, here: int, there: own_links.Place, name: bytes, last: bool, counted: bool = False
    ) -> Generator[Any, Reply, int | None]:
        """A name in a directory of the caller's own process, where the executor may not what the caller may
        (:mod:`proctor.performing.paths.own_links`)."""
        self.met = True
        follow = not last or self._follows
        fd, jumped = own_links.step(here, there, name, self._caller, self._resolve, follow=follow)
        self._at.hold(fd)
        if jumped and not counted:
            self._count()
        known = name_of()
        reply = yield from self._ask(known.request, fds=(fd,), table=True)
        reply.close()
        named = known.name.read(reply)
        status = named.status
        if not status.is_directory and (not last or self._slash):
            raise Said(errno.ENOTDIR)
        if (
            named.proc
            and not status.is_directory
            and (jumped or self._at.status is None or status.mount != self._at.status.mount)
        ):
            self._at.refuse_part(status.mount)
        if not jumped and not status.is_directory:
            del self._rest[:]
            return fd
        self._at.move(fd, status)
        del self._rest[0]
        if named.proc and status.is_directory:
            yield from self._at.settle(fd, status)
        return fd if last else None

    def _number(self, root: int, name: bytes) -> list[bytes]:
        """The components that stand for ``self`` or ``thread-self``.

        :raises Said: ENOENT, as the kernel says where the reader has no number."""
        numbers = numbers_in(root, self._caller)
        self._caller.check()
        if numbers is None:
            raise Said(errno.ENOENT)
        if name == b"self":
            return [b"%d" % numbers[0]]
        return [b"%d" % numbers[0], b"task", b"%d" % numbers[1]]


def _components(path: bytes) -> list[bytes]:
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if path.rstrip(b"/").rpartition(b"/")[2] == b".":
        parts.append(b".")  # a directory, which must be searchable
    return parts
