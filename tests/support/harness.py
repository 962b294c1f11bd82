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

import os
import signal
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple

from proctor.kernel import abi

from . import bpf
from .constants import NR, PR_SET_NO_NEW_PRIVS
from .pipes import Pipes, VictimDied
from .processes import (
    PATIENCE,
    TookTooLong,
    blocked_in,
    eventually,
    pidfd_getfd,
    state,
    syscall_line,
    tgkill,
)

PEEK_LIMIT = 1900


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
        self.actor.victim.pipes.pump()
        return self.seq in self.actor.victim.pipes.finished

    def result(self, timeout: float = PATIENCE) -> Result:
        """The call's value and errno.

        :raises VictimDied: nobody is left who could tell.
        :raises TookTooLong: still not there after ``timeout`` seconds."""
        value, number = self.words(timeout)[1:]
        return Result(int(value), int(number))

    def words(self, timeout: float = PATIENCE) -> list[str]:
        """The reply as it came, its kind first; raises as :meth:`result`."""
        return self.actor.victim.pipes.reply(self.seq, self.actor.tid, timeout)

    def counts(self, timeout: float = PATIENCE) -> tuple[int, ...]:
        """The numbers of a reply that has more than two."""
        return tuple(int(word) for word in self.words(timeout)[1:])

    def started(self) -> Pending:
        """Wait until the actor is about to enter the call, and return self."""
        pipes = self.actor.victim.pipes
        pipes.wait(
            lambda: self.seq in pipes.started or self.seq in pipes.finished,
            self.actor.tid,
            PATIENCE,
        )
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
        words = " ".join(str(argument) for argument in arguments)
        return Pending(self, self.victim.pipes.write(self.slot, verb, words))

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
            got += bytes.fromhex(self.command("peek", hex(address + len(got)), part).words()[1])
        return got

    def room(self, size: int, align: int = 16) -> int:
        """The address of unused scratch memory (shared by all actors' address spaces)."""
        return self.victim.take_room(size, align)

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
        slot = self.victim.pipes.free_slot()
        tid = self.command("thread", slot).result().value
        return Actor(self.victim, slot, self.pid, tid)

    def fork(self, flags: int = 0) -> Actor:
        """A child process; ``flags`` are CLONE_* (none that shares memory)."""
        slot = self.victim.pipes.free_slot()
        pid, number = self.command("fork", slot, flags).result()
        if pid < 0:
            raise OSError(number, os.strerror(number), "fork in the victim")
        return Actor(self.victim, slot, pid, pid)

    def exec(self) -> Pending:
        """Start to exec itself; see :meth:`exec_finish` for what to do when it succeeds."""
        return self.command("exec").started()

    def exec_finish(self, pending: Pending) -> None:
        """Wait until the new program runs; threads of this process are no more."""
        self.victim.greeted(pending.words())

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
    """A running victim: its main thread, and what all its actors share.

    :param fds: (ours, its) descriptors that it inherits besides its pipes; 0 and 1 are /dev/null.
    :param binary: descriptor of the victim's program, for callers who may not reach its path.
    """

    #: Address of a function in its read-only text; the verb "marker" calls it.
    marker: int

    def __init__(self, fds: Mapping[int, int] | None = None, binary: int | None = None) -> None:
        self.pipes = Pipes(fds or {}, binary)
        self._status: int | None = None
        super().__init__(self, self.pipes.free_slot(), self.pipes.pid, self.pipes.pid)
        try:
            self.greeted(self.pipes.reply(0, self.tid, PATIENCE))
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

    def greeted(self, words: list[str]) -> None:
        """Take note of what a program said of itself when it started; its scratch memory is empty."""
        kind, _, _, scratch, size, marker = words
        if kind != "h":
            raise AssertionError(f"not the greeting of a program: {words}")
        self._free = int(scratch)
        self._free_end = self._free + int(size)
        self.marker = int(marker)

    def take_room(self, size: int, align: int) -> int:
        """The address of so much unused scratch memory."""
        address = -(-self._free // align) * align
        if address + size > self._free_end:
            raise AssertionError("the victim's scratch memory is used up")
        self._free = address + size
        return address

    @property
    def pidfd(self) -> int:
        """A pidfd of the main process; not the caller's to close."""
        return self.pipes.pidfd

    @property
    def reports(self) -> list[tuple[int, int]]:
        """(signal, tid) of each report of a handler so far, in order of arrival."""
        self.pipes.pump()
        return self.pipes.reports

    def wait_report(self, report: tuple[int, int]) -> None:
        """Wait until a handler reported (signal, tid)."""
        self.pipes.wait(lambda: report in self.pipes.reports, report[1], PATIENCE)

    # Its end ---------------------------------------------------------------------------------
    def dead(self) -> bool:
        """Whether the process has ended (zombie or reaped)."""
        return self.pipes.dead()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end and reap it; the wait status (os.waitstatus_to_exitcode reads it)."""
        if self._status is None:
            if not self.pipes.dead(timeout):
                raise TookTooLong(f"victim {self.pid} does not end: {syscall_line(self.pid)!r}")
            self._status = os.waitpid(self.pid, 0)[1]
        return self._status

    def kill(self, *, reap: bool = True) -> None:
        """SIGKILL, and wait until it is a zombie, or gone with ``reap``."""
        if self._status is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            if not self.pipes.dead(PATIENCE):
                raise TookTooLong(f"victim {self.pid} does not die")
            if reap:
                self.wait()

    def exit_signal(self) -> int:
        """Wait for its end; the signal that ended it, 0 if it exited."""
        return os.WTERMSIG(self.wait()) if os.WIFSIGNALED(self.wait()) else 0

    def close(self) -> None:
        """Kill and reap the main process and give up all pipes; idempotent.

        Its other processes end when they next look for a command; the kill of a whole tree is
        :func:`victim.processes.end_all`."""
        self.kill()
        self.pipes.close()
