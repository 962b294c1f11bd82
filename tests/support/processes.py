"""Looking at processes and ending whole trees of them, through /proc and pidfds."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from .constants import NR, PR_SET_CHILD_SUBREAPER

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

T = TypeVar("T")

#: How long anything that must happen may take before a test gives up, in seconds.
PATIENCE = 25.0


class TookTooLong(AssertionError):
    """Something that must happen did not."""


def libc_syscall(nr: int, *arguments: object) -> int:
    """syscall(2) from this very thread; OSError as usual."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    value: int = LIBC.syscall(ctypes.c_long(nr), *converted)
    if value == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return value


def eventually(what: str, look: Callable[[], T | None], patience: float = PATIENCE) -> T:
    """The first true thing that ``look`` sees.

    For states of the kernel that nobody announces (a thread that goes to sleep in a call): looks,
    gives the processor away, looks again, at most every millisecond once it takes longer."""
    give_up = time.monotonic() + patience
    rounds = 0
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > give_up:
            raise TookTooLong(f"never happened: {what}")
        rounds += 1
        if rounds < 20:
            os.sched_yield()
        else:
            select.select((), (), (), 0.001)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(65536) or b""
    except (FileNotFoundError, ProcessLookupError):
        return b""


def syscall_line(tid: int) -> bytes:
    """``/proc/TID/syscall``: the call a sleeping thread is in, "running" otherwise, empty if gone."""
    return _read(f"/proc/{tid}/syscall")


def blocked_in(tid: int, nr: int) -> bool:
    """Whether the thread sleeps in that system call."""
    return syscall_line(tid).split(b" ")[:1] == [str(nr).encode()]


def state(tid: int) -> str:
    """The letter in ``/proc/TID/stat`` (R S D T t Z X); empty if there is no such task."""
    line = _read(f"/proc/{tid}/stat")
    return line[line.rindex(b")") + 2 : line.rindex(b")") + 3].decode() if line else ""


def status(tid: int) -> dict[str, str]:
    """``/proc/TID/status`` by key; empty if there is no such task."""
    lines = _read(f"/proc/{tid}/status").decode("utf-8", "surrogateescape").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def descriptors(pid: int) -> dict[int, str]:
    """Open descriptors of a process and what they are."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            pass  # our own, of the listing itself
    return found


def inheritable() -> list[int]:
    """Descriptors of ours beyond standard error that a new program would get without asking."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:
            pass  # the listing's own, closed by now
    return found


def tgkill(tgid: int, tid: int, number: int) -> None:
    """tgkill(2): a signal for one thread."""
    libc_syscall(NR["tgkill"], tgid, tid, int(number))


def pidfd_getfd(pid: int, fd: int) -> int:
    """A duplicate of a descriptor of another process, CLOEXEC."""
    pidfd = os.pidfd_open(pid)
    try:
        return libc_syscall(NR["pidfd_getfd"], pidfd, fd, 0)
    finally:
        os.close(pidfd)


def set_subreaper(on: bool) -> None:
    """Orphans below us become our children, so that none gets away."""
    if LIBC.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(on), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def _parents() -> dict[int, int]:
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            line = _read(f"/proc/{name}/stat")
            if line:
                parents[int(name)] = int(line[line.rindex(b")") + 4 :].split(b" ", 1)[0])
    return parents


def tree(root: int) -> Iterator[int]:
    """All processes below ``root``, without it; zombies too."""
    parents = _parents()
    below = {root}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in below} - below
        yield from more
        below |= more
        grown = bool(more)


def children(pid: int | None = None) -> set[int]:
    """Direct children of a process (us), zombies too."""
    wanted = os.getpid() if pid is None else pid
    return {child for child, parent in _parents().items() if parent == wanted}


def end_all(spare: set[int]) -> list[int]:
    """Kill and reap everything below this process except what is in or below ``spare``.

    As subreaper we inherit orphans, so that going round until nobody is left gets them all.
    Returns the pids that were still there."""
    met: list[int] = []

    def nobody_left() -> bool:
        ours = children() - spare
        spared = {pid for root in spare for pid in tree(root)} | spare if spare else set()
        for pid in set(tree(os.getpid())) - spared if ours else ():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            if pid not in met:
                met.append(pid)
        for pid in ours:
            try:
                os.waitpid(pid, os.WNOHANG | 0x40000000)  # __WALL
            except ChildProcessError:
                pass
        return not ours

    eventually("every process of the test ends when killed", nobody_left)
    return met
