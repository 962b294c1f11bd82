"""How a path leads from directory to directory: the kernel's rules, on any file system.

:func:`walk` goes component by component, as ``fs/namei.c`` does: ``.`` and ``..``, which stops at
the root; symbolic links, at most 40 of them; trailing slashes; RESOLVE_* of openat2(2).  What a
directory *is* it leaves to :class:`~proctor.call.path.files.Files`: descriptors of real directories
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
from typing import Final, Generic, Literal

from proctor.call.path.files import (
    AT_FDCWD,
    LINKS_MAX,
    PATH_MAX,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    SCOPED,
    Files,
    H,
    Place,
    fail,
    joined,
)

#: Most steps of ours in one walk.  The kernel has no such bound; nobody needs as many who is not after
#: our time: stretches without links are one step, and so are those of ``..``.
STEPS_MAX: Final = 10_000
#: Most of ``..`` in one step: as many fit into a path.
_UPS_MAX: Final = 1024
_KNOWN: Final = 63


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
    if resolve & ~_KNOWN or resolve & SCOPED == SCOPED:
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
        return Place(joined(prefix, names), files.copy(held))
    state = _Walk(files, path, dirfd, resolve)
    try:
        return state.go(path, follow, entry)
    finally:
        state.close()


def _components(path: bytes) -> list[bytes]:
    """The names of a path, the last first; of dots only one at the end says anything."""
    names = [name for name in reversed(path.split(b"/")) if name]
    return names[:1] + [name for name in names[1:] if name != b"."]


class _Walk(Generic[H]):
    """One walk.

    ``here`` is ours while ``held``; ``names`` lead to it from ``base``, a lent handle, or from
    nowhere if that is None: then the place is asked for its name in the end.  ``parents`` are the
    identities of the directories that the names are in, and False for those that were passed in a
    stride.
    """

    __slots__ = (
        "at", "base", "base_is_top", "files", "held", "here", "inside", "links", "mount", "names", "one_mount",
        "parents", "resolve", "root_met", "scoped", "steps", "top", "top_at",
    )  # fmt: skip

    def __init__(self, files: Files[H], path: bytes, dirfd: int, resolve: int) -> None:
        absolute = path.startswith(b"/")
        self.held = False
        self.files = files
        self.resolve = resolve
        self.links = 0
        self.steps = 0
        # With RESOLVE_NO_XDEV the kernel refuses an absolute link unless it looked the root up before.
        self.root_met = absolute
        self.scoped = bool(resolve & SCOPED)
        if absolute and resolve & RESOLVE_BENEATH:
            fail(errno.EXDEV)
        start = files.root() if absolute and not self.scoped else files.start(dirfd)
        #: Where ".." stops.
        self.top: H = start if self.scoped else files.root()
        self.base: H | None = start
        self.base_is_top = start == self.top
        self.inside: bool | None = True if self.base_is_top else None
        self.top_at: tuple[int, int] | None = None
        self.names: list[bytes] = []
        self.parents: list[tuple[int, int] | Literal[False] | None] = []
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
            self.steps += 1
            if self.steps > STEPS_MAX:
                fail(errno.ELOOP)
            name = todo.pop()
            last = not todo
            if name == b".":
                continue
            if name == b"..":
                self.up(1 + self.more_ups(todo))
                continue
            if not last:
                todo.append(name)
                if self.strides(todo):
                    continue
                todo.pop()
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
                return self.entry(name, None, slash)
            keep = False
            try:
                if self.one_mount:
                    self.crossing(found)
                status = files.status(found)
                kind = _stat.S_IFMT(status.st_mode)
                if kind == _stat.S_IFLNK and (not last or follow or (slash and not entry)):
                    text = self.link(name, found, status)
                    if text is None:
                        object_ = self.jump(name, last, slash)
                        if object_ is not None:
                            return object_
                        continue
                    slash = slash or (last and text.endswith(b"/"))
                    todo.extend(_components(text))
                    continue
                if last:
                    if slash and not entry and kind != _stat.S_IFDIR:
                        fail(errno.ENOTDIR)
                    place = (
                        self.entry(name, found, slash) if entry else Place(self.named(name), found)
                    )
                    keep = True
                    return place
                if kind != _stat.S_IFDIR:
                    fail(errno.ENOTDIR)
                # Somebody put it there since we tried: once more, since to enter is more than to look;
                # and once more if it is a link again by then.
                self.links += 1
                if self.links > LINKS_MAX:
                    fail(errno.ELOOP)
                todo.append(name)
            finally:
                if not keep:
                    files.close(found)
        there = self.named(None)
        return Place(there, self.take())

    def strides(self, todo: list[bytes]) -> bool:
        """Go as far as there are no links, nor a way above where we are, in one step; the last name is
        left.  False if that is not even two names."""
        if self.scoped or self.one_mount:
            return False  # these look at every step
        names: list[bytes] = []
        depth = 0
        for at in range(len(todo) - 1, 0, -1):
            name = todo[at]
            depth += -1 if name == b".." else name != b"."
            if depth < 0 or (name == b".." and not self.is_inside()):
                break
            names.append(name)
        # How much of it is free of links is found by halving.
        good, bad = 1, len(names) + 1
        whole = len(names)
        best: H | None = None
        try:
            while bad - good > 1:
                self.steps += 1
                found = self.files.stride(self.here, names[:whole])
                if found is None:
                    bad = whole
                else:
                    good, last = whole, best
                    best = found
                    if last is not None:
                        self.files.close(last)
                whole = (good + bad) // 2
        except BaseException:
            if best is not None:
                self.files.close(best)
            raise
        if best is None:
            return False
        self.passed(names[:good], best)
        del todo[len(todo) - good :]
        return True

    def passed(self, names: list[bytes], found: H) -> None:
        """``names`` led to ``found``, which is ours."""
        try:
            at = self.identity(found)
        except BaseException:
            self.files.close(found)
            raise
        before = len(self.names)
        for name in names:
            if name == b"..":
                self.names.pop()
                self.parents.pop()
            elif name != b".":
                self.parents.append(self.at if len(self.names) == before else False)
                self.names.append(name)
        if len(self.names) > before:
            self.at = at
        self.move(found)

    def more_ups(self, todo: list[bytes]) -> int:
        """How many ``..`` follow, that can be gone together: those that stay below where it stops."""
        if self.scoped or self.one_mount or not self.base_is_top:
            return 0
        count = 0
        while todo and todo[-1] == b".." and count + 1 < min(len(self.names), _UPS_MAX):
            todo.pop()
            count += 1
        return count

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

    def entry(self, name: bytes, pin: H | None, slash: bool) -> Place[H]:
        """A name in the directory where we are."""
        there = self.named(name)
        return Place(there, pin, self.take(), name, slash)

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

    def up(self, count: int) -> None:
        files = self.files
        self.root_met = True
        if self.at_top():
            if self.resolve & RESOLVE_BENEATH:
                fail(errno.EXDEV)
            return  # ".." of the root is the root
        above = files.above(self.here, count)
        try:
            if self.one_mount:
                self.crossing(above)
            at = self.identity(above)
            known = len(self.names) >= count and self.parent(count) == at
            if self.scoped and not known:
                fail(errno.EAGAIN)  # renamed meanwhile: nobody knows whether this is still inside
        except BaseException:
            files.close(above)
            raise
        self.move(above)
        if known:
            del self.names[-count:]
            self.at = self.parents[-count] or None
            del self.parents[-count:]
        else:
            self.lost()
            self.at = at

    def parent(self, count: int) -> tuple[int, int] | None:
        """Identity of the directory that the last ``count`` names are in; None if not known."""
        known = self.parents[-count]
        if known is None and self.base is not None:
            return self.identity(self.base)
        return known or None

    def at_top(self) -> bool:
        """Whether we are where ``..`` stops.  One that began above it may come to it downwards."""
        if self.base_is_top:
            return not self.names
        if self.top_at is None:
            self.top_at = self.identity(self.top)
        if (self.at or self.identity(self.here)) != self.top_at:
            return False
        return self.files.mount(self.here) == self.files.mount(self.top)

    def is_inside(self) -> bool:
        """Whether we are known to be below where ``..`` stops: else that can be met on the way down."""
        if self.inside is None:
            self.inside = self.base is not None and not self.files.name_of(self.base)[1]
        return self.inside

    def lost(self) -> None:
        """From now on it is not known how the place where we are is called."""
        self.base, self.base_is_top, self.at, self.inside = None, False, None, False
        self.names.clear()
        self.parents.clear()

    def to_top(self) -> None:
        self.move(self.files.copy(self.top))
        self.names.clear()
        self.parents.clear()
        self.base, self.base_is_top, self.at, self.inside = self.top, True, None, True

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
            if _stat.S_ISDIR(files.status(found).st_mode):
                keep = True
            elif not last or slash:
                fail(errno.ENOTDIR)
            else:
                names, prefix = files.name_of(found)
                keep = True
                return Place(joined(prefix, names), found)
        finally:
            if not keep:
                files.close(found)
        self.move(found)
        self.lost()
        return None
