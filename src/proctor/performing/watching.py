"""A caller of execve, held by a tracer until it was seen what the kernel made of it.

The tracer is an executor with the monitor's identity and CAP_SYS_PTRACE, lent for PTRACE_SEIZE alone.  It stops the
caller where the new program begins (PTRACE_EVENT_EXEC): the threads that the caller had are dead, whoever shared
its memory shares the old one, and what stands in the new one the kernel has put there.  The monitor looks at the file
that runs and at its words, and has the caller go on or ends it.  If the tracer dies first, the kernel ends the caller
(PTRACE_O_EXITKILL).

Sources: ptrace(2); fs/exec.c and kernel/ptrace.c of Linux 6.18.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
import threading
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import Deny
from proctor.kernel.raw import file_identity, file_identity_at
from proctor.performing.executing.lent import Lent
from proctor.performing.executing.requests import SKIPPED, Request
from proctor.performing.executing.single import Single
from proctor.performing.executing.steps import Result, Steps
from proctor.performing.identities.lender import Lender
from proctor.performing.paths import pins
from proctor.performing.trouble import Ended, Powerless, Refused, Trouble
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from proctor.performing.executing.processes import Executor
    from proctor.performing.task import Task

_CAP_SYS_PTRACE: Final = 19
_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_TRACEEXEC, _EXITKILL = 0x10, 0x100000
_EVENT_EXEC: Final = 4
_WALL: Final = 0x40000000
#: Nanoseconds between two looks at whether a call was answered.
_PAUSE: Final = 500_000
_WNOHANG: Final = 1
_SIG_BLOCK: Final = 0
#: A set of signals: SIGCHLD alone, which tells a tracer that something stopped.
_STOPS: Final = struct.pack("@Q", 1 << signal.SIGCHLD - 1)
_MOST_WORDS: Final = 8 << 20


class Expected(NamedTuple):
    """What the rules have seen."""

    #: Duplicate of the pin of what is to run.
    program: int
    words: tuple[bytes, ...]


def watch(task: Task, program: int, words: Sequence[bytes]) -> Generator[Any, Any, None]:
    """Have the caller held from where its new program begins, until it was looked at.

    :param program: O_PATH descriptor of what is to run, or of the interpreter that runs it.
    :param words: that it gets.
    :raises Refused: the caller cannot be traced."""
    watchers = task.host.kept.setdefault("exec", Watchers())
    assert isinstance(watchers, Watchers)
    expected = Expected(os.dup(program), tuple(words))
    waits = partial(task.call._listener.id_valid, task.call.id)  # also after the verdict
    if watchers.go_on(task.call.tid, expected, waits):
        return
    try:
        tracer, pidfd = yield from _hold(task)
    except BaseException:
        os.close(expected.program)
        raise
    watchers.add(_Watcher(task, watchers, tracer, pidfd, expected, waits))


def _hold(task: Task) -> Generator[Any, Any, tuple[Executor, int]]:
    """(who traces the caller, a pidfd of that)."""
    try:
        lender = Lender(task, 1 << _CAP_SYS_PTRACE)
    except Powerless:
        raise Trouble("freeze needs CAP_SYS_PTRACE, which the monitor has not got") from None
    with lender:
        failed = yield from lender.made(_seizing(lender.permitted), task.call.tid)
        if failed:
            why = f"the caller cannot be held: {os.strerror(failed)}; it may be traced already"
            raise Refused(Deny(errno.EPERM, why))
        return lender.take(), os.dup(task.caller.anchor())


class Watchers:
    """Those that are held now; thread-safe."""

    def __init__(self) -> None:
        self._held: dict[int, _Watcher] = {}
        self._lock = threading.Lock()

    def go_on(self, tid: int, expected: Expected, waits: Callable[[], bool]) -> bool:
        """A caller that is held calls again before it was let go of, so its last call failed: whether it is
        held on, for this one.

        It has not stopped yet, or it could not call; it stops when this call is over."""
        with self._lock:
            watcher = self._held.get(tid)
            if watcher is None or watcher.dead():
                return False
            os.close(watcher.expected.program)
            watcher.expected, watcher.waits = expected, waits
            return True

    def add(self, watcher: _Watcher) -> None:
        with self._lock:
            self._held[watcher.tid] = watcher
        try:
            threading.Thread(target=watcher.run, name=f"exec of {watcher.tid}", daemon=True).start()
        except RuntimeError:  # no more threads for us
            watcher.over(False)
            raise Trouble("nobody can wait for its program: no more threads") from None

    def remove(self, watcher: _Watcher) -> None:
        """It has stopped, or is dead.  Idempotent."""
        with self._lock:
            if self._held.get(watcher.tid) is watcher:
                del self._held[watcher.tid]

    def forget(self, container: object) -> None:
        """Who is held is let go of, or dead."""

    def close(self) -> None:
        """Their tracers end, and they with those."""


class _Watcher:
    """One caller that is held; in a thread of its own."""

    def __init__(
        self,
        task: Task,
        watchers: Watchers,
        tracer: Executor,
        pidfd: int,
        expected: Expected,
        waits: Callable[[], bool],
    ) -> None:
        call = task.call
        self.tid = call.tid
        self.expected = expected
        #: Whether its call is still to be answered.
        self.waits = waits
        self._watchers = watchers
        self._tell = task.host.tell
        self._executors = task.session.executors
        self._tracer = tracer
        self._name = f"{call.name} of thread {call.tid}"
        self._pidfd = pidfd

    def dead(self) -> bool:
        """Whether the caller is, and its number may be another's."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def run(self) -> None:
        """To the end."""
        done = False
        try:
            self._watch()
            done = True
        except (Ended, Trouble, OSError) as failed:
            self._tell(f"{self._name}: {failed}; the process was ended")
        finally:
            self.over(done)

    def over(self, done: bool) -> None:
        """Let go of all that it has.

        :param done: whether the caller was let go of; if not, it dies with its tracer."""
        self._watchers.remove(self)
        os.close(self.expected.program)
        os.close(self._pidfd)
        (self._executors.release if done else self._executors.discard)(self._tracer)

    def _watch(self) -> None:
        pid, status = self._stopped()
        self._watchers.remove(self)  # it does nothing any more, or not before it is let go of
        if pid < 0:
            return  # ECHILD: it is dead
        if status & 0xFF != 0x7F:
            return  # dead as well
        event, sig = status >> 16, status >> 8 & 0xFF
        if event == _EVENT_EXEC:
            refused = self._unlike(pid)
            if refused:
                raise Trouble(refused)
        self._ask(_detaching().request, pid, 0 if event else sig)

    def _stopped(self) -> tuple[int, int]:
        """Who stopped, or died, and how; the call is answered after this began."""
        while True:
            try:
                answered = not self.waits()
            except ValueError:  # its listener is closed, so the kernel has answered
                answered = True
            pid, status = self._waited(_awaiting())
            if not pid and answered:  # it takes its time, or has failed
                pid, status = self._waited(_waiting(), self.tid)
            if pid:
                return pid, status

    def _waited(self, waiting: _Tracing, *values: int) -> tuple[int, int]:
        reply = self._ask(waiting.request, *values)
        (status,) = struct.unpack_from("=i", reply.parts[0])
        made = [reply.results[each.step] for each in waiting.made]
        return next((each for each in reversed(made) if each != SKIPPED), 0), status

    def _unlike(self, pid: int) -> str:
        """What the kernel has taken otherwise; empty if nothing."""
        try:
            program = file_identity(self.expected.program)
            runs = file_identity_at(pins.AT_FDCWD, b"/proc/%d/exe" % pid)
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read(_MOST_WORDS)
        except OSError as error:
            return f"what runs cannot be looked at: {error.strerror}"
        if runs[:2] != program[:2]:
            return "another program runs than the rules have seen"
        if words != b"".join(word + b"\0" for word in self.expected.words):
            return "the program has other words than the rules have seen"
        return ""

    def _ask(self, request: Request, *values: int) -> Any:
        tracer = self._tracer
        reply = tracer.ask(request, request.fill(*values))
        poll = select.poll()
        poll.register(tracer.sock, select.POLLIN)
        while reply is None:
            poll.poll()
            reply = tracer.reply(request, wait=False)
        return reply


# Requests -----------------------------------------------------------------------------------------


class _Tracing(NamedTuple):
    request: Request
    #: The steps that say who stopped, the last that was made.
    made: tuple[Result, ...]


@lru_cache(256)
def _seizing(permitted: int) -> Single:
    """Trace a thread, which goes on.  Hole: its number."""
    steps = Steps()
    tid, stops = steps.number(), steps.bytes(_STOPS)
    steps.call("rt_sigprocmask", _SIG_BLOCK, stops, 0, len(_STOPS))
    with Lent(steps, permitted, 1 << _CAP_SYS_PTRACE) as lent:
        made = steps.call("ptrace", _SEIZE, tid, 0, _TRACEEXEC | _EXITKILL, bad=0)
    return Single(steps.freeze(), made, lent.left)


@cache
def _awaiting() -> _Tracing:
    """Wait for a moment until it stops by itself: where a new program begins."""
    steps = Steps()
    stops, pause = steps.bytes(_STOPS), steps.bytes(struct.pack("@ll", 0, _PAUSE))
    status = steps.scratch(8)
    first = steps.call("wait4", -1, status, _WALL | _WNOHANG, 0, want=0)
    steps.call("rt_sigtimedwait", stops, 0, pause, len(_STOPS), bad=0)
    last = steps.call("wait4", -1, status, _WALL | _WNOHANG, 0)
    steps.want(status)
    return _Tracing(steps.freeze(), (first, last))


@cache
def _waiting() -> _Tracing:
    """Wait until it stops: where a new program begins, or where it goes back into the old one.  Hole: its
    number."""
    steps = Steps()
    tid, status = steps.number(), steps.scratch(8)
    steps.call("ptrace", _INTERRUPT, tid, 0, 0, bad=0)
    made = steps.call("wait4", -1, status, _WALL, 0)
    steps.want(status)
    return _Tracing(steps.freeze(), (made,))


@cache
def _detaching() -> _Tracing:
    """Have it go on alone.  Holes: its number, a signal that was on its way to it."""
    steps = Steps()
    tid, sig = steps.number(), steps.number()
    made = steps.call("ptrace", _DETACH, tid, 0, sig, bad=0)
    return _Tracing(steps.freeze(), (made,))
