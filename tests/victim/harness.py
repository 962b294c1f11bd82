"""Drives victims: one :class:`Actor` for each thread or process of a :class:`Victim`.

::

    with Victim() as victim:
        listener = victim.listen(bpf.notify("getppid"))
        pending = victim.begin("getppid")
        ...                                # the monitor's side: see victim.kernel
        assert pending.result() == (7, 0)

A command is written to the actor's pipe and its reply awaited on the pipe they all share; see
``victim.c`` for the protocol.  Nothing here needs pytest.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import time
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple

from proctor.kernel import abi

from . import bpf
from .build import build
from .constants import NR, PR_SET_NO_NEW_PRIVS
from .processes import (
    PATIENCE,
    TookTooLong,
    blocked_in,
    eventually,
    inheritable,
    pidfd_getfd,
    state,
    syscall_line,
    tgkill,
)

REPLY_FD = 199
FIRST_SLOT_FD = 200
SLOTS = 16
PEEK_LIMIT = 1900


class VictimDied(AssertionError):
    """A victim went away while something was expected of it."""


class Result(NamedTuple):
    """What a system call gave, as libc tells it: ``errno`` is 0 unless ``value`` is -1."""

    value: int
    errno: int


class Pending:
    """A command that was given and has not been waited for."""

    def __init__(self, actor: Actor, seq: int) -> None:
        self.actor = actor
        self.seq = seq

    def done(self) -> bool:
        """Whether the result is there; does not wait."""
        self.actor.victim._pump(0)
        return bool(self.actor.victim._finished.get(self.seq))

    def result(self, timeout: float = PATIENCE) -> Result:
        """The call's value and errno.

        :raises VictimDied: nobody is left who could tell.
        :raises TookTooLong: still not there after ``timeout`` seconds."""
        value, number = self.actor.victim._reply(self.seq, timeout, self.actor)[1:]
        return Result(int(value), int(number))

    def counts(self, timeout: float = PATIENCE) -> tuple[int, ...]:
        """The numbers of a reply that has more than two."""
        words = self.actor.victim._reply(self.seq, timeout, self.actor)
        return tuple(int(word) for word in words[1:])

    def started(self) -> Pending:
        """Wait until the actor is about to enter the call, and return self."""
        victim = self.actor.victim
        victim._wait(lambda: self.seq in victim._started or self.seq in victim._finished, PATIENCE)
        return self

    def settled(self, nr: str | int) -> bool:
        """Wait until the call is over or its actor sleeps in ``nr``; whether it is over.

        Whoever changed something that may end the call (an answer, a signal, a death) before asking
        gets the state after it: a thread that was woken does not show as asleep."""
        wanted = bpf.number(nr)
        tid = self.actor.tid
        eventually(
            f"call of thread {tid} ends or sleeps in {nr}",
            lambda: self.done() or blocked_in(tid, wanted) or state(tid) in ("", "Z", "X"),
        )
        return self.done()

    def blocked(self, nr: str | int) -> Pending:
        """Wait until the actor sleeps in the system call ``nr``, and return self."""
        self.actor.wait_blocked(nr)
        return self


class Actor:
    """One thread or process of a victim that takes commands.

    ``pid`` and ``tid`` are as this process sees them."""

    def __init__(self, victim: Victim, slot: int, pid: int, tid: int) -> None:
        self.victim = victim
        self.slot = slot
        self.pid = pid
        self.tid = tid

    # Commands --------------------------------------------------------------------------------
    def command(self, verb: str, *arguments: object) -> Pending:
        """Give a command of ``victim.c``; nothing is awaited."""
        seq = self.victim._next_seq()
        words = " ".join(str(argument) for argument in arguments)
        self.victim._write(self.slot, f"{seq} {verb} {words}\n".encode())
        return Pending(self, seq)

    def call(self, nr: str | int, *arguments: int) -> Result:
        """Make a system call that returns soon."""
        return self.command("call", bpf.number(nr), *arguments).result()

    def must(self, nr: str | int, *arguments: int) -> int:
        """Make a system call that has to succeed; its value."""
        result = self.call(nr, *arguments)
        if result.value == -1:
            raise OSError(result.errno, os.strerror(result.errno), f"{nr} in the victim")
        return result.value

    def begin(self, nr: str | int, *arguments: int) -> Pending:
        """Start a system call that may block; it has left for the kernel when this returns."""
        return self.command("acall", bpf.number(nr), *arguments).started()

    def begin_blocked(self, nr: str | int, *arguments: int) -> Pending:
        """Start a system call and wait until the actor sleeps in it."""
        return self.begin(nr, *arguments).blocked(nr)

    def repeat(self, times: int, nr: str | int, *arguments: int) -> Result:
        """Make a call up to ``times`` times: how often it worked, and the errno that ended it."""
        return self.command("repeat", times, bpf.number(nr), *arguments).result(PATIENCE * 3)

    # Memory ----------------------------------------------------------------------------------
    def poke(self, address: int, data: bytes) -> None:
        """Write into its memory, by its own hand."""
        self.command("poke", hex(address), data.hex()).result()

    def peek(self, address: int, size: int) -> bytes:
        """Read its memory, by its own hand."""
        got = b""
        while len(got) < size:
            part = min(size - len(got), PEEK_LIMIT)
            seq = self.command("peek", hex(address + len(got)), part).seq
            got += bytes.fromhex(self.victim._reply(seq, PATIENCE, self)[1])
        return got

    def room(self, size: int, align: int = 16) -> int:
        """The address of unused scratch memory (shared by all actors' address spaces)."""
        return self.victim._room(size, align)

    def place(self, data: bytes, align: int = 16) -> int:
        """Put bytes into fresh scratch memory; their address."""
        address = self.room(len(data), align)
        self.poke(address, data)
        return address

    def string(self, text: bytes) -> int:
        """Put a NUL-terminated string into fresh scratch memory; its address."""
        return self.place(text + b"\0")

    # Seccomp ---------------------------------------------------------------------------------
    def no_new_privs(self) -> None:
        """PR_SET_NO_NEW_PRIVS for this thread."""
        self.must("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

    def fprog(self, program: bytes, length: int | None = None) -> int:
        """The address of a struct sock_fprog with this program (``length`` instead of its own)."""
        count = len(program) // 8 if length is None else length
        return self.place(struct.pack("=HxxxxxxQ", count, self.place(program)))

    def install(self, program: bytes, flags: int = 0, *, nnp: bool = True) -> Result:
        """SECCOMP_SET_MODE_FILTER, after no_new_privs unless ``nnp`` is False."""
        if nnp:
            self.no_new_privs()
        return self.call("seccomp", 1, flags, self.fprog(program))

    def listen(
        self, program: bytes, flags: int = 0, *, keep: bool = False, nnp: bool = True
    ) -> int:
        """Install with NEW_LISTENER and fetch the listener, which is then the caller's to close.

        The victim's own copy is closed unless ``keep``."""
        result = self.install(program, flags | abi.SECCOMP_FILTER_FLAG_NEW_LISTENER, nnp=nnp)
        if result.value < 0:
            raise OSError(result.errno, os.strerror(result.errno), "NEW_LISTENER")
        listener = self.take(result.value)
        if not keep:
            self.must("close", result.value)
        return listener

    def take(self, fd: int) -> int:
        """A duplicate of one of its descriptors (pidfd_getfd), the caller's to close."""
        return pidfd_getfd(self.pid, fd)

    def send_fd(self, socket: int, fd: int) -> Pending:
        """Start to send one of its descriptors over one of its unix sockets."""
        return self.command("send-fd", socket, fd).started()

    def recv_fd(self, socket: int, flags: int = 0) -> Pending:
        """Start to receive a descriptor from one of its unix sockets; the value is its number."""
        return self.command("recv-fd", socket, flags).started()

    # Signals ---------------------------------------------------------------------------------
    def on_signal(self, number: int, mode: str) -> None:
        """ignore | default | count | report, the last two also with "-restart" (SA_RESTART).

        For its whole process.  Reports arrive in :attr:`Victim.reports`."""
        if self.command("sig", int(number), mode).result() != (0, 0):
            raise AssertionError(f"sigaction({number}, {mode}) failed")

    def signals(self, number: int) -> int:
        """How often the handler of this signal ran."""
        return self.command("count", int(number)).result().value

    def signal(self, number: int) -> None:
        """Send a signal to this thread alone."""
        tgkill(self.pid, self.tid, number)

    # More actors -----------------------------------------------------------------------------
    def thread(self) -> Actor:
        """A new thread in this process."""
        slot = self.victim._free_slot()
        tid = self.command("thread", slot).result().value
        return Actor(self.victim, slot, self.pid, tid)

    def fork(self, flags: int = 0) -> Actor:
        """A child process; ``flags`` are CLONE_* (none that shares memory)."""
        slot = self.victim._free_slot()
        pid, number = self.command("fork", slot, flags).result()
        if pid < 0:
            raise OSError(number, os.strerror(number), "fork in the victim")
        return Actor(self.victim, slot, pid, pid)

    def exec(self) -> Pending:
        """Start to exec itself; see :meth:`exec_finish` for what to do when it succeeds."""
        return self.command("exec").started()

    def exec_finish(self, pending: Pending) -> None:
        """Wait until the new program runs; threads of this process are no more."""
        words = self.victim._reply(pending.seq, PATIENCE, self)
        if words[0] != "h":
            raise AssertionError(f"exec failed: {words}")
        self.victim._layout(words)

    # What the world sees ---------------------------------------------------------------------
    def wait_blocked(self, nr: str | int) -> None:
        """Wait until this thread sleeps in that system call."""
        wanted = bpf.number(nr)
        try:
            eventually("", lambda: blocked_in(self.tid, wanted) or not state(self.tid))
        except TookTooLong:
            raise TookTooLong(
                f"thread {self.tid} does not sleep in {nr}: {syscall_line(self.tid)!r}"
            ) from None
        if not state(self.tid):
            raise VictimDied(f"thread {self.tid} is gone instead of blocked in {nr}")

    def wait_state(self, letters: str) -> str:
        """Wait until /proc shows one of these states; which one.  A thread that is gone has none."""

        def seen() -> str:
            letter = state(self.tid)
            return letter if letter and letter in letters else ""

        return eventually(f"thread {self.tid} in state {letters}", seen)

    def wait_gone(self) -> None:
        """Wait until this thread or process runs no more; it may be a zombie."""
        eventually(f"thread {self.tid} ends", lambda: state(self.tid) in ("", "Z", "X"))

    def exit_thread(self) -> None:
        """End this thread (exit, not exit_group) and wait until it is gone."""
        self.command("acall", NR["exit"], 0)
        self.wait_gone()

    def reap(self, child: Actor) -> int:
        """Wait for a child of this actor; its wait status."""
        status = self.room(4)
        self.must("wait4", child.pid, status, 0, 0)
        return int.from_bytes(self.peek(status, 4), "little")


class Victim(Actor):
    """A running victim: its main thread, and the pipes of all its actors.

    :param fds: (ours, its) descriptors that it inherits besides the pipes; 0, 1, 2 are /dev/null.
    :param binary: descriptor of the victim's program, for callers who may not reach its path.
    """

    def __init__(self, fds: Mapping[int, int] | None = None, binary: int | None = None) -> None:
        reply, reply_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(reply_end, True)
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(SLOTS)]
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        moves = [(null, 0), (null, 1), (reply_end, REPLY_FD)]
        moves += [(ours, FIRST_SLOT_FD + slot) for slot, (ours, _) in enumerate(pipes)]
        moves += list((fds or {}).items())
        targets = {its for _, its in moves}
        unasked = [fd for fd in inheritable() if fd not in targets]
        # A number that is both somebody's source and somebody's target would be lost on the way.
        sources = {ours for ours, _ in moves}
        aside = {fd: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 256) for fd in sources & targets}
        path = f"/proc/self/fd/{binary}" if binary is not None else str(build())
        self._ended: int | None = None
        self._seq = 0
        self._slots = 0
        self._started: set[int] = set()
        self._finished: dict[int, list[str]] = {}
        self._buffer = b""
        self._all_gone = False
        #: (signal, tid) of each report of a handler, in order of arrival.
        self.reports: list[tuple[int, int]] = []
        try:
            pid = os.posix_spawn(
                path,
                ["victim", "0", "0"],
                {},
                # stderr stays ours: a sanitizer or libc complaint must be seen
                file_actions=[
                    *((os.POSIX_SPAWN_DUP2, aside.get(ours, ours), its) for ours, its in moves),
                    *((os.POSIX_SPAWN_CLOSE, fd) for fd in unasked),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=[s for s in signal.valid_signals() if s not in (9, 19, 32, 33)],
            )
        except BaseException:
            for fd in (reply, *(theirs for _, theirs in pipes)):
                os.close(fd)
            raise
        finally:
            for fd in (reply_end, null, *(ours for ours, _ in pipes), *aside.values()):
                os.close(fd)
        self._reply_fd = reply
        self._writers: list[int] = [theirs for _, theirs in pipes]
        super().__init__(self, self._free_slot(), pid, pid)
        self.pidfd = os.pidfd_open(pid)
        try:
            self._layout(self._reply(0, PATIENCE, self))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Victim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def wait_report(self, report: tuple[int, int]) -> None:
        """Wait until a handler reported (signal, tid)."""
        self._wait(lambda: report in self.reports, PATIENCE)

    # Its end ---------------------------------------------------------------------------------
    def dead(self, timeout: float = 0) -> bool:
        """Whether the process has ended (zombie or reaped)."""
        return bool(select.select([self.pidfd], (), (), timeout)[0])

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end and reap it; the wait status (os.waitstatus_to_exitcode reads it)."""
        if self._ended is None:
            if not self.dead(timeout):
                raise TookTooLong(f"victim {self.pid} does not end: {syscall_line(self.pid)!r}")
            self._ended = os.waitpid(self.pid, 0)[1]
        return self._ended

    def kill(self, *, reap: bool = True) -> None:
        """SIGKILL, and wait until it is a zombie, or gone with ``reap``."""
        if self._ended is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            if not self.dead(PATIENCE):
                raise TookTooLong(f"victim {self.pid} does not die")
            if reap:
                self.wait()

    def exit_signal(self) -> int:
        """The signal that ended it; 0 if it exited."""
        return os.WTERMSIG(self.wait()) if os.WIFSIGNALED(self.wait()) else 0

    def close(self) -> None:
        """Kill and reap the main process and give up all pipes; idempotent.

        Its other processes end when they next look for a command; the kill of a whole tree is
        :func:`victim.processes.end_all`."""
        if self._reply_fd < 0:
            return
        self.kill()
        for fd in (self._reply_fd, self.pidfd, *self._writers):
            os.close(fd)
        self._reply_fd = -1

    # Pipes -----------------------------------------------------------------------------------
    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def _free_slot(self) -> int:
        if self._slots == SLOTS:
            raise AssertionError(f"a victim has at most {SLOTS} actors")
        self._slots += 1
        return self._slots - 1

    def _write(self, slot: int, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._writers[slot], view) :]
        except BrokenPipeError:
            raise VictimDied("no victim is left to take commands") from None

    def _pump(self, timeout: float) -> None:
        """Read what replies there are, waiting up to ``timeout`` seconds for the first."""
        if self._all_gone or not select.select([self._reply_fd], (), (), timeout)[0]:
            return
        try:
            while data := os.read(self._reply_fd, 65536):
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
                self._started.add(int(seq))
            else:
                self._finished[int(seq)] = [kind, *rest]

    def _wait(self, there: object, timeout: float) -> None:
        assert callable(there)
        give_up = time.monotonic() + timeout
        while not there():
            left = give_up - time.monotonic()
            if left <= 0:
                raise TookTooLong("no reply of the victim")
            if self._all_gone:
                raise VictimDied(f"the victim is gone: exit signal {self.exit_signal()}")
            # A dead actor leaves the pipe open if others live: the main one's pidfd tells too.
            self._pump(min(left, 0.2))
            if self.dead() and not there():
                self._pump(0)
                if not there() and self._slots == 1:
                    raise VictimDied(f"the victim died of signal {self.exit_signal()}")

    def _reply(self, seq: int, timeout: float, actor: Actor) -> list[str]:
        try:
            self._wait(lambda: seq in self._finished, timeout)
        except TookTooLong:
            raise TookTooLong(
                f"no reply from actor {actor.slot} (tid {actor.tid}, state {state(actor.tid)!r}, "
                f"in {syscall_line(actor.tid)!r})"
            ) from None
        words = self._finished.pop(seq)
        if words[0] == "e":
            raise AssertionError(f"the victim does not understand: {words[1:]}")
        return words

    def _layout(self, words: list[str]) -> None:
        _, _, _, scratch, size, marker = words
        self._scratch = int(scratch)
        self._scratch_end = self._scratch + int(size)
        #: Address of a function in its read-only text; the verb "marker" calls it.
        self.marker = int(marker)

    def _room(self, size: int, align: int) -> int:
        address = -(-self._scratch // align) * align
        if address + size > self._scratch_end:
            raise AssertionError("the victim's scratch memory is used up")
        self._scratch = address + size
        return address
