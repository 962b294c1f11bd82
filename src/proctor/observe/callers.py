"""Who called, for a log: pid, name and program of threads, which call again and again.

Of a thread that was met two files stay open.  What it is called and what it runs is read anew for each
call, since prctl(2) and execve(2) change both; which process it belongs to is not.  A descriptor of
``/proc/TID`` refers to that thread and to no other: once it is dead the kernel answers ESRCH, also when
its number is somebody else's.  So whoever was met under a caller's number before its call came, and
still answers, is that caller.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Final

from proctor.call.structured import json_text
from proctor.errors import CallError
from proctor.kernel.thread import ProcFiles

if TYPE_CHECKING:
    from proctor.call.call import Call

#: Threads that are known at the same time, with two descriptors each.
_MOST: Final = 64
_PIN: Final = getattr(os, "O_PATH", 0) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)

_called: Callable[[int, int], tuple[bytes, bytes]]


class _Known:
    """One thread."""

    __slots__ = ("_comm", "_proc", "_seen", "_tgid", "_told")

    def __init__(self, tid: int) -> None:
        """:raises OSError: there is no such thread, or it may not be looked at."""
        global _called  # noqa: PLW0603 - where there are fakes alone there is no core
        from proctor.kernel import _core

        _called = _core.called
        ProcFiles.check()
        self._proc = self._comm = -1
        self._seen: tuple[bytes, bytes] | None = None
        try:
            self._proc = os.open(b"/proc/%d" % tid, _PIN)
            self._comm = os.open(b"comm", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
            self._tgid = _process_of(tid, self._proc)
        except BaseException:
            self.close()
            raise

    def told(self) -> str:
        """Members of a JSON object.

        :raises OSError: it is dead."""
        seen = _called(self._proc, self._comm)
        if seen != self._seen:
            comm, exe = seen
            # as in /proc/TID/status
            comm = comm[:-1].replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
            name = quoted(comm.decode("utf-8", "surrogateescape"))
            self._told = f'"pid": {self._tgid}, "comm": {name}, "exe": {json_text(exe)}'
            self._seen = seen
        return self._told

    def close(self) -> None:
        for fd in (self._proc, self._comm):
            if fd >= 0:
                os.close(fd)
        self._proc = self._comm = -1


def _process_of(tid: int, proc: int) -> int:
    """The process of a thread."""
    try:
        os.close(os.pidfd_open(tid))
    except (
        OSError
    ):  # no first thread of any process; or an old kernel, or we are out of descriptors
        from proctor.call.identity import Status

        fd = os.open(b"status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        try:
            numbers = Status(os.read(fd, 4096)).numbers("Tgid")
        finally:
            os.close(fd)
        if numbers is None:
            raise
        return numbers[0]
    return tid


class Callers:
    """Those that were met lately; thread-safe."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    def told(self, call: Call) -> str:
        """``pid``, ``comm`` and ``exe`` of a caller that still waits, as members of a JSON object; ""
        where that cannot be known: it is gone, has no number here, or may not be looked at."""
        tid = call.tid
        known = self._known.pop(tid, None)
        if known is not None:
            try:
                told = known.told()
            except OSError:
                known.close()  # another one has its number
            else:
                self._give_back(tid, known)
                return told
        if not tid:
            return ""
        try:
            known = _Known(tid)
        except OSError:
            return ""
        try:
            told = known.told()
            if call.valid():
                self._give_back(tid, known)
                return told
        except (OSError, CallError):
            pass
        known.close()
        return ""

    def _give_back(self, tid: int, known: _Known) -> None:
        other = self._known.setdefault(tid, known)
        if other is not known:  # two calls of one thread are told of at the same time
            known.close()
        while len(self._known) > _MOST:
            try:
                self._known.pop(next(iter(self._known))).close()
            except (KeyError, StopIteration, RuntimeError):
                return  # another thread does that

    def close(self) -> None:
        """Forget them all."""
        while self._known:
            self._known.popitem()[1].close()

    def __del__(self) -> None:
        self.close()
