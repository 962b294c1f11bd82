"""Who waits for a terminal's input, held while it is somebody else's.

Two readers of one terminal each get some of what is typed, and a program that waits in read(2) already
holds the line discipline's lock, so that nobody else gets anything (``atomic_read_lock`` in
drivers/tty/n_tty.c).  So those of our descendants that wait for input of it are stopped, and go on
afterwards: their system calls are restarted by the kernel.  Whoever waits for one of those is stopped
before it, and goes on after it: a shell that sees a job stop would take the terminal away from it.
All others go on.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import time
from collections.abc import Iterator
from typing import Final

from proctor.kernel.thread import stat_of
from proctor.records import NamedTuple
from proctor.syscalls import tables
from proctor.syscalls.architectures import native

#: Those that are stopped for somebody who is asked.
_HELD: Final[set[int]] = set()
#: Seconds that somebody has to stop.
_PATIENCE: Final = 0.2
_READS: Final = ("read", "readv")
_WAITS: Final = (
    "poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2",
)  # fmt: skip
#: Descriptors of one process that are looked at.
_MOST: Final = 256
#: /dev/tty itself: every process's own terminal.
_DEV_TTY: Final = (5, 0)


class Process(NamedTuple):
    """One process, by proc_pid_stat(5)."""

    pid: int
    state: str
    parent: int
    group: int
    terminal: int
    began: str


def process_of(pid: int) -> Process | None:
    """None if there is none."""
    try:
        fields = [each.decode() for each in stat_of(pid)]
    except OSError:
        return None
    return Process(pid, fields[0], int(fields[1]), int(fields[2]), int(fields[4]), fields[19])


def descendants() -> dict[int, Process]:
    """All below us."""
    all_of_them = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := process_of(int(name))) is not None:
            all_of_them[found.pid] = found
    me = os.getpid()

    def below(process: Process) -> bool:
        seen = 0
        while process.parent != me and seen < len(all_of_them):
            seen += 1
            if process.parent not in all_of_them:
                return False
            process = all_of_them[process.parent]
        return process.parent == me

    return {pid: each for pid, each in all_of_them.items() if pid != me and below(each)}


def is_ours(group: int) -> bool:
    """Whether a process group is ours, or one of a descendant's."""
    return group == os.getpgrp() or any(each.group == group for each in descendants().values())


class Holder:
    """Holds who waits for a terminal.

    :param tty: our controlling terminal, open.
    """

    def __init__(self, tty: int) -> None:
        numbers = tables.numbers(native())
        self._reads = {numbers[name] for name in _READS if name in numbers}
        self._waits = {numbers[name] for name in _WAITS if name in numbers}
        me = process_of(os.getpid())
        assert me is not None
        self._terminal = me.terminal
        #: /proc/PID/stat has the number as new_encode_dev() does.
        major, minor = (
            me.terminal >> 8 & 0xFFF,
            (me.terminal & 0xFF) | (me.terminal >> 12 & 0xFFF00),
        )
        self._devices = (os.makedev(major, minor), os.makedev(*_DEV_TTY))
        #: By pid: a pidfd of it.  In the order in which they were stopped.
        self._held: dict[int, int] = {}

    def look(self) -> None:
        """Stop who waits for input now, and did not the last time."""
        below = descendants()
        for process in below.values():
            if process.pid in self._held or process.terminal != self._terminal:
                continue
            if process.state not in "SD" or not self._waits_for_it(process.pid):
                continue
            chain = [process]
            while (parent := below.get(chain[-1].parent)) is not None:
                chain.append(parent)
            for each in reversed(chain):
                if each.pid not in self._held and each.terminal == self._terminal:
                    self._stop(each)

    def _stop(self, process: Process) -> None:
        if process.state in "TtZX":
            return  # it is somebody else's that it stopped, or is no more
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            return
        again = process_of(process.pid)
        if again is None or again.began != process.began:
            os.close(pidfd)  # another one, by now
            return
        self._held[process.pid] = pidfd
        _HELD.add(process.pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        except OSError:
            return  # it ended, or is no longer ours to signal
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:  # who waits for an answer of ours stops later
            now = process_of(process.pid)
            if now is None or now.state not in "RS":
                return
            select.select([pidfd], [], [], 0.001)

    def _waits_for_it(self, pid: int) -> bool:
        try:
            return any(self._thread_waits(pid, int(tid)) for tid in os.listdir(f"/proc/{pid}/task"))
        except OSError:
            return False  # it is gone

    def _thread_waits(self, pid: int, tid: int) -> bool:
        """By proc_pid_syscall(5): number and arguments of the call that a thread is blocked in."""
        try:
            with open(f"/proc/{pid}/task/{tid}/syscall", "rb", buffering=0) as file:
                words = file.read(512).split()
        except OSError:
            return False
        if len(words) < 2 or not words[0].isdigit():
            return False  # it runs
        number = int(words[0])
        if number in self._reads:
            return self._is_it(pid, str(int(words[1], 16) & 0xFFFFFFFF))
        return number in self._waits and any(self._is_it(pid, fd) for fd in _descriptors(pid))

    def _is_it(self, pid: int, fd: str) -> bool:
        try:
            found = os.stat(f"/proc/{pid}/fd/{fd}")
        except OSError:
            return False
        return stat.S_ISCHR(found.st_mode) and found.st_rdev in self._devices

    def let_go(self) -> None:
        """Let them go on, the last one first."""
        for pidfd in reversed(self._held.values()):
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            except OSError:
                pass  # it ended
            os.close(pidfd)
        _HELD.difference_update(self._held)
        self._held.clear()


def is_held(pid: int) -> bool:
    """Whether a process is stopped for somebody who is asked: it goes on by itself."""
    return pid in _HELD


def _descriptors(pid: int) -> Iterator[str]:
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for _, entry in zip(range(_MOST), entries, strict=False):
                yield entry.name
    except OSError:
        return
