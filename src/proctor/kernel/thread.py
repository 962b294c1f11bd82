"""The files of one thread in /proc, read through one pinned directory.

The directory ``/proc/TID`` is opened once (``O_PATH``) and everything else is opened relative to
it: once the thread is dead the kernel answers ESRCH or ENOENT there, even if the number was given
to somebody else meanwhile.  Non-leader threads are not listed in /proc, but can be opened.
"""

from __future__ import annotations

import errno
import os
from typing import Final, Self

from proctor.errors import Unsupported

# cmdline, mountinfo and others are as long as the target likes.
_READ_MAX: Final = 16 << 20


def stat_fields(text: bytes) -> list[bytes]:
    """Of a stat file (proc_pid_stat(5)), from the state on, which is the third.  The name before them, in brackets, can
    hold brackets, but nothing behind it can."""
    return text.rpartition(b")")[2].split()


def stat_of(whose: int | str) -> list[bytes]:
    """The same of ``/proc/WHOSE``: a process's or ``PID/task/TID``, by numbers.

    :raises OSError: there is none."""
    with open(f"/proc/{whose}/stat", "rb", buffering=0) as file:
        return stat_fields(file.read(4096))


class ProcFiles:
    """:class:`~proctor.call.ports.ProcPort` of a real thread.

    :param tid: its number in our pid namespace.
    :param proc: where procfs is mounted; it must be the one of our pid namespace.
    :raises OSError: ENOENT if there is no such thread (or /proc hides it: hidepid).
    :raises Unsupported: the procfs there belongs to another pid namespace, or there is none.
    """

    __slots__ = ("_fd",)

    _checked: tuple[int, str] | None = None

    def __init__(self, tid: int, proc: str = "/proc") -> None:
        self._fd = -1
        self.check(proc)
        self._fd = os.open(
            f"{proc}/{tid}", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        )

    @classmethod
    def check(cls, proc: str = "/proc") -> None:
        """Numbers in notifications are our pid namespace's; is this procfs, too?

        :raises Unsupported: it is not."""
        key = (os.getpid(), proc)
        if ProcFiles._checked == key:
            return
        try:
            seen = os.readlink(f"{proc}/self")
        except OSError:
            seen = "nothing"
        if seen != str(os.getpid()):
            raise Unsupported(
                f"a {proc} of the monitor's own pid namespace",
                "3.8",
                f"{proc}/self leads to {seen}, not to {os.getpid()}, so callers cannot be looked "
                "up; mount procfs in this pid namespace",
            )
        ProcFiles._checked = key

    def read(self, name: str) -> bytes:
        """See :class:`~proctor.call.ports.ProcPort`; at most 16 MiB."""
        fd = self.open(name, os.O_RDONLY)
        try:
            parts: list[bytes] = []
            size = 0
            while size < _READ_MAX:
                part = os.read(fd, 65536)
                if not part:
                    break
                parts.append(part)
                size += len(part)
            return b"".join(parts)
        finally:
            os.close(fd)

    def link(self, name: str) -> bytes:
        return os.readlink(os.fsencode(name), dir_fd=self._held())

    def size(self, name: str) -> int:
        return os.stat(name, dir_fd=self._held()).st_size

    def names(self, name: str) -> list[str]:
        directory = self.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return os.listdir(directory)
        finally:
            os.close(directory)

    def open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=self._held())

    def started(self) -> float:
        """When the thread began: seconds since boot, cut to ticks (proc_pid_stat(5), field 22)."""
        return int(stat_fields(self.read("stat"))[19]) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _held(self) -> int:
        if self._fd < 0:
            raise OSError(errno.EBADF, "these files of /proc were given up")
        return self._fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
