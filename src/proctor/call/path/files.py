"""What a walk along a path needs of a file system, and where it comes to."""

from __future__ import annotations

import os
from typing import Final, Generic, NoReturn, Protocol, TypeVar

from proctor.records import NamedTuple

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

SCOPED: Final = RESOLVE_BENEATH | RESOLVE_IN_ROOT

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

    def stride(self, here: H, names: list[bytes]) -> H | None:
        """The directory that ``names`` lead to from ``here``, if none of them is a link and the way
        does not go above ``here``; None if it is not so, or cannot be told at once."""
        ...

    def look(self, here: H, name: bytes) -> H:
        """Whatever is there as ``name``; symbolic links are not followed."""
        ...

    def above(self, here: H, count: int = 1) -> H:
        """``..`` of a directory, ``count`` times; of the topmost one, itself."""
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
    """Where a path leads: see :class:`proctor.call.path.located.Located`.  The handles are whoever
    asked's."""

    path: bytes
    pin: H | None
    parent: H | None = None
    name: bytes = b""
    must_be_directory: bool = False


def fail(number: int) -> NoReturn:
    """Raise the OSError of an errno."""
    raise OSError(number, os.strerror(number))


def joined(prefix: bytes, names: list[bytes]) -> bytes:
    """The path that a prefix and names make."""
    return prefix + b"/" + b"/".join(names)
