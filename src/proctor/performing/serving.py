"""What is handed over for a served file; see :mod:`proctor.performing.families.served`.

The same content is the same file: a container sees one memfd for as long as what is in it stays, so that stat, fstat
and the next open agree on inode, size and times.  Nobody can write to it, also not through a mapping.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from typing import TYPE_CHECKING, Final

from proctor.errors import SCARCE
from proctor.performing.paths import pins
from proctor.performing.trouble import Said, Trouble

if TYPE_CHECKING:
    from collections.abc import Hashable

    from proctor.performing.families.served import Options
    from proctor.performing.task import Task

#: Files that are kept open at the same time; what is served after that is made anew.
_MOST: Final = 64
_SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, _SHRINK, _GROW, _WRITE
_NOEXEC_SEAL, _EXEC = 0x8, 0x10  # MFD_*, since Linux 6.3
_NAME_MAX: Final = 249


class Served:
    """A file; the descriptor is whoever's it says.

    :param fd: an O_PATH descriptor, or one for reading.
    """

    __slots__ = ("content", "fd")

    def __init__(self, fd: int, content: bytes | None = None) -> None:
        self.fd = fd
        self.content = content

    def open(self, flags: int) -> int:
        """A file description of its own."""
        try:
            return os.open(f"/proc/self/fd/{self.fd}", flags | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            if error.errno in SCARCE:
                raise
            raise Said(error.errno or errno.EIO) from None

    def status(self) -> os.stat_result:
        return os.fstat(self.fd)


class Store:
    """Those that were made of content, by container, rule and place; thread-safe."""

    def __init__(self) -> None:
        self._files: dict[Hashable, Served] = {}
        self._lock = threading.Lock()

    def take(self, key: Hashable, content: bytes | None, name: bytes, mode: int) -> Served | None:
        """The file with this content, which is made if there is none.  A duplicate, the asker's to close.

        :param content: None for whatever it is now; and None if there is none."""
        with self._lock:
            file = self._files.pop(key, None)
            if file is None or content not in (None, file.content):
                if content is None:
                    return None
                if file is not None:
                    os.close(file.fd)
                file = Served(_sealed(content, name, mode), content)
            self._files[key] = file
            if len(self._files) > _MOST:
                os.close(self._files.pop(next(iter(self._files))).fd)
            return Served(os.dup(file.fd), file.content)

    def forget(self, container: object) -> None:
        """A container is over."""
        with self._lock:
            for key in [each for each in self._files if each[0] is container]:  # type: ignore[index]
                os.close(self._files.pop(key).fd)

    def close(self) -> None:
        """All are."""
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1].fd)


def served(task: Task, options: Options, place: bytes, *, anew: bool) -> Served:
    """The file that stands for a path; closed with the task.

    :param place: where the path leads, for the caller.
    :param anew: whether what changes all the time is asked for once more.
    """
    if options.file:
        return Served(task.hold(_hosts(options.file)))
    store = task.host.kept.setdefault("served", Store())
    assert isinstance(store, Store)
    key = getattr(task.call, "container", None), options, place
    name = place.rpartition(b"/")[2][:_NAME_MAX]
    file = None
    if options.limits and not anew:
        file = store.take(key, None, name, options.mode)
    if file is None:
        file = store.take(key, _content(task, options, place), name, options.mode)
    assert file is not None
    task.hold(file.fd)
    return file


def _content(task: Task, options: Options, place: bytes) -> bytes:
    if options.limits:
        from proctor.performing.limits import machine

        return machine.shown(task, place)
    content = options.content
    if callable(content):
        content = content(task.call)
    if isinstance(content, str):
        content = content.encode()
    if not isinstance(content, bytes):
        raise TypeError(f"content of a served file is bytes or a text, not {content!r}")
    return content


def _hosts(path: str) -> int:
    try:
        fd = os.open(path, pins.PIN)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        raise Said(errno.ENOENT, f"{path} is not there to be served") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Trouble(f"{path} is no regular file, so it is not served")
    return fd


def _sealed(content: bytes, name: bytes, mode: int) -> int:
    import fcntl  # policies are looked over where it is not

    from proctor.performing.executing.image import fill

    executable = bool(mode & 0o111)
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(os.fsdecode(name), flags | (_EXEC if executable else _NOEXEC_SEAL))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.memfd_create(os.fsdecode(name), flags)
    try:
        fill(fd, content)
        os.fchmod(fd, mode)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd
