"""Starting a victim, and the two ends of its pipes; see ``victim.c`` for the protocol."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping

from .build import build
from .processes import TookTooLong, inheritable, state, syscall_line

REPLY_FD = 199
FIRST_SLOT_FD = 200
SLOTS = 16


class VictimDied(AssertionError):
    """A victim went away while something was expected of it."""


def _readable(fd: int, timeout: float) -> bool:
    poller = select.poll()  # select(2) knows no descriptor beyond 1023
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(max(0.0, timeout * 1000)))


def _pidfd(pid: int) -> int:
    """A pidfd, or -1 before Linux 5.3."""
    try:
        return os.pidfd_open(pid)
    except OSError as problem:
        if problem.errno == errno.ENOSYS:
            return -1
        raise


class Pipes:
    """A started victim as a number of pipes to write to and one to read from.

    ``pid`` is its process, ``pidfd`` belongs to this object; reaping is the caller's business.

    :param fds: (ours, its) descriptors that it inherits besides the pipes; 0 and 1 are /dev/null.
    :param binary: descriptor of the victim's program, for callers who may not reach its path."""

    def __init__(self, fds: Mapping[int, int], binary: int | None) -> None:
        self._seq = 0
        self._slots = 0
        self._buffer = b""
        self._all_gone = False
        self.started: set[int] = set()
        self.finished: dict[int, list[str]] = {}
        self.reports: list[tuple[int, int]] = []
        path = f"/proc/self/fd/{binary}" if binary is not None else str(build())

        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._replies, reply_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._replies, False)
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(SLOTS)]
        self._commands = [ours for _, ours in pipes]
        moves = [(null, 0), (null, 1), (reply_end, REPLY_FD)]
        moves += [(its, FIRST_SLOT_FD + slot) for slot, (its, _) in enumerate(pipes)]
        moves += fds.items()
        sources, targets = {ours for ours, _ in moves}, {its for _, its in moves}
        # A number that is both somebody's source and somebody's target would be lost on the way.
        aside = {fd: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 256) for fd in sources & targets}
        unasked = [fd for fd in inheritable() if fd not in targets]
        try:
            self.pid = os.posix_spawn(
                path,
                ["victim", "0", "0"],
                {},
                file_actions=[
                    *((os.POSIX_SPAWN_DUP2, aside.get(ours, ours), its) for ours, its in moves),
                    *((os.POSIX_SPAWN_CLOSE, fd) for fd in unasked),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
            self.pidfd = _pidfd(self.pid)
        except BaseException:
            for fd in (self._replies, *self._commands):
                os.close(fd)
            raise
        finally:
            for fd in (null, reply_end, *(its for its, _ in pipes), *aside.values()):
                os.close(fd)

    def close(self) -> None:
        """Give up the pipes and the pidfd; idempotent."""
        if self._replies >= 0:
            for fd in (self._replies, self.pidfd, *self._commands):
                if fd >= 0:
                    os.close(fd)
            self._replies = -1

    def dead(self, timeout: float = 0) -> bool:
        """Whether the main process has ended (zombie or reaped)."""
        if self.pidfd < 0:
            return state(self.pid) in ("", "Z", "X")
        return _readable(self.pidfd, timeout)

    def free_slot(self) -> int:
        """A slot that no actor had yet."""
        if self._slots == SLOTS:
            raise AssertionError(f"a victim has at most {SLOTS} actors")
        self._slots += 1
        return self._slots - 1

    def write(self, slot: int, verb: str, words: str) -> int:
        """Give a command; its sequence number.

        :raises VictimDied: nobody is left to read it."""
        self._seq += 1
        view = memoryview(f"{self._seq} {verb} {words}\n".encode())
        try:
            while view:
                view = view[os.write(self._commands[slot], view) :]
        except BrokenPipeError:
            raise VictimDied("no victim is left to take commands") from None
        return self._seq

    def pump(self, timeout: float = 0) -> None:
        """Take in what replies there are, waiting up to ``timeout`` seconds for the first."""
        if self._all_gone or not _readable(self._replies, timeout):
            return
        try:
            while data := os.read(self._replies, 65536):
                self._buffer += data
            self._all_gone = True
        except BlockingIOError:
            pass
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            seq, kind, *rest = line.decode().split(" ")
            if seq == "-":
                self.reports.append((int(rest[0]), int(rest[1])))
            elif kind == "s":
                self.started.add(int(seq))
            else:
                self.finished[int(seq)] = [kind, *rest]

    def news(self, also: Iterable[int], timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for replies, or until one of ``also`` is readable."""
        poller = select.poll()
        for fd in also if self._all_gone else (self._replies, *also):
            poller.register(fd, select.POLLIN)
        return bool(poller.poll(max(0.0, timeout * 1000)))

    def wait(self, there: Callable[[], bool], tid: int, timeout: float) -> None:
        """Take in replies until ``there``.

        :param tid: the actor that has to bring it about.
        :raises VictimDied: it is gone, and no reply of its is left.
        :raises TookTooLong: not there after ``timeout`` seconds."""
        give_up = time.monotonic() + timeout
        self.pump()
        while not there():
            left = give_up - time.monotonic()
            alive = state(tid) not in ("", "Z", "X")
            self.pump(min(left, 0.1) if alive else 0)
            if there():
                break
            if not alive:
                raise VictimDied(f"actor {tid} is gone")
            if left <= 0:
                where = f"state {state(tid)!r}, in {syscall_line(tid)!r}"
                raise TookTooLong(f"no reply from actor {tid} ({where})")

    def reply(self, seq: int, tid: int, timeout: float) -> list[str]:
        """The kind and the words of the reply to command ``seq``; raises as :meth:`wait`."""
        self.wait(lambda: seq in self.finished, tid, timeout)
        words = self.finished.pop(seq)
        if words[0] == "e":
            raise AssertionError(f"the victim does not understand: {words[1:]}")
        return words
