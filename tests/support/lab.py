"""What one test owns: victims, descriptors, threads, forked children; and the proof that it gave
them all back."""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any

from . import processes
from .constants import NOBODY, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG
from .harness import Victim
from .processes import LIBC, PATIENCE, TookTooLong, blocked_in, eventually

#: Wakes threads of this process out of blocked calls; its handler does nothing.
WAKE = signal.SIGUSR2


class BlockedCall:
    """A function running in a thread of this process, to be blocked in the kernel."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._value: Any = None
        self._error: BaseException | None = None
        self.tid = 0
        self._running = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self._running.wait(PATIENCE)

    def _run(self) -> None:
        self.tid = threading.get_native_id()
        self._running.set()
        try:
            self._value = self._function()
        except BaseException as error:
            self._error = error

    def blocked(self, nr: int) -> BlockedCall:
        """Wait until the thread sleeps in that system call, and return self."""
        eventually(
            f"a thread of ours sleeps in call {nr}",
            lambda: blocked_in(self.tid, nr) or not self.thread.is_alive(),
        )
        assert self.thread.is_alive(), f"it returned instead: {self._value!r} {self._error!r}"
        return self

    def done(self) -> bool:
        """Whether the function returned or raised."""
        return not self.thread.is_alive()

    def result(self, timeout: float = PATIENCE) -> Any:
        """What the function returned; raises what it raised."""
        self.thread.join(timeout)
        if self.thread.is_alive():
            raise TookTooLong(f"still blocked: {processes.syscall_line(self.tid)!r}")
        if self._error is not None:
            raise self._error
        return self._value

    def interrupt(self, number: int = WAKE) -> None:
        """Send this very thread a signal."""
        processes.tgkill(os.getpid(), self.tid, number)


class Child:
    """A function running in a forked copy of this process: for what needs another uid, pid
    namespace, timer or filter.  It may tell its parent things before it ends."""

    def __init__(self, function: Callable[[Child], Any]) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC)
        self._go_read, self._go_write = os.pipe2(os.O_CLOEXEC)
        self._buffer = b""
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                # Not to be left behind, deadlocked on purpose, when the test run is killed.
                LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                os.close(self._read)
                os.close(self._go_write)
                try:
                    self.tell(("value", function(self)))
                except BaseException:
                    self.tell(("error", traceback.format_exc()))
                code = 0
            finally:
                os._exit(code)
        os.close(self._write)
        os.close(self._go_read)
        self.pidfd = os.pidfd_open(self.pid)

    def tell(self, message: Any) -> None:
        """In the child: pass a picklable thing to the parent."""
        data = pickle.dumps(message)
        os.write(self._write, len(data).to_bytes(4, "little") + data)

    def wait_for_parent(self) -> None:
        """In the child: wait for the parent's :meth:`go_on`."""
        os.read(self._go_read, 1)

    def go_on(self) -> None:
        """In the parent: let the child go on from :meth:`wait_for_parent`."""
        os.write(self._go_write, b".")

    def hear(self, timeout: float = PATIENCE) -> Any:
        """In the parent: the next thing the child told."""
        while len(self._buffer) < 4 or len(self._buffer) < 4 + self._length():
            if not select.select([self._read], (), (), timeout)[0]:
                line = processes.syscall_line(self.pid)
                raise TookTooLong(f"the forked child tells nothing; it is in {line!r}")
            data = os.read(self._read, 65536)
            if not data:
                raise AssertionError("the forked child died")
            self._buffer += data
        message = self._buffer[4 : 4 + self._length()]
        self._buffer = self._buffer[4 + self._length() :]
        return pickle.loads(message)

    def _length(self) -> int:
        return int.from_bytes(self._buffer[:4], "little")

    def result(self, timeout: float = PATIENCE) -> Any:
        """In the parent: what the function returned.  Fails with its traceback if it raised."""
        kind, value = self.hear(timeout)
        assert kind == "value", f"in the forked child:\n{value}"
        os.waitpid(self.pid, 0)
        return value

    def close(self) -> None:
        """Kill it if it still lives, and give up the pipe."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        for fd in (self.pidfd, self._read, self._go_write):
            os.close(fd)


class Lab:
    """Everything of one test.  :meth:`close` kills its whole process tree, closes what it owns, and
    fails if a descriptor, thread or process was left that nobody owned."""

    def __init__(self, binary: int | None = None) -> None:
        self._binary = binary
        self._spare = processes.children()
        processes.set_subreaper(True)
        self._fds: set[int] = set()
        self._epolls: list[select.epoll] = []
        self._victims: list[Victim] = []
        self._threads: list[BlockedCall] = []
        self._children: list[Child] = []
        self._handler = signal.signal(WAKE, lambda *_: None)
        gc.collect()  # what earlier tests left for it would be closed in the middle of this one
        self._before = processes.descriptors(os.getpid())

    # Descriptors -----------------------------------------------------------------------------
    def own(self, fd: int) -> int:
        """Close this descriptor at the end of the test; returns it."""
        self._fds.add(fd)
        return fd

    def close_fd(self, fd: int) -> None:
        """Close an owned descriptor now."""
        self._fds.discard(fd)
        os.close(fd)

    def pipe(self) -> tuple[int, int]:
        """A pipe of ours."""
        read, write = os.pipe2(os.O_CLOEXEC)
        return self.own(read), self.own(write)

    def memfd(self, content: bytes = b"") -> int:
        """An anonymous file of ours, at its beginning."""
        fd = self.own(os.memfd_create("test"))
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def epoll(self) -> select.epoll:
        """An epoll of ours, closed at the end."""
        made = select.epoll()
        self._epolls.append(made)
        return made

    # Others ----------------------------------------------------------------------------------
    def victim(self, fds: dict[int, int] | None = None) -> Victim:
        """A new victim."""
        victim = Victim(fds, self._binary)
        self._victims.append(victim)
        return victim

    def listener(
        self, program: bytes, flags: int = 0, *, keep: bool = False, nnp: bool = True
    ) -> tuple[Victim, int]:
        """A new victim under a filter, and its listener."""
        victim = self.victim()
        return victim, self.own(victim.listen(program, flags, keep=keep, nnp=nnp))

    def thread(self, function: Callable[[], Any]) -> BlockedCall:
        """Run something that blocks in a thread of ours."""
        call = BlockedCall(function)
        self._threads.append(call)
        return call

    def child(self, function: Callable[[Child], Any]) -> Child:
        """Run something in a forked copy of ourselves."""
        child = Child(function)
        self._children.append(child)
        return child

    def close(self) -> None:
        """End and check everything."""
        for victim in self._victims:
            victim.close()
        for child in self._children:
            child.close()
        processes.end_all(self._spare)

        def no_thread_left() -> bool:
            alive = [call for call in self._threads if not call.done()]
            for call in alive:
                call.interrupt()
            return not alive

        # Once nobody uses the filters a blocked RECV returns by itself on newer kernels; others
        # need the signal.  Only then may the descriptors go.
        eventually("every thread of the test ends", no_thread_left)
        for epoll in self._epolls:
            epoll.close()
        for fd in self._fds:
            os.close(fd)
        signal.signal(WAKE, self._handler)
        processes.set_subreaper(False)
        after = processes.descriptors(os.getpid())
        left = {fd: what for fd, what in after.items() if self._before.get(fd) != what}
        gone = {fd: what for fd, what in self._before.items() if fd not in after}
        assert not left, f"descriptors left open by the test: {left}"
        assert not gone, f"descriptors of others closed by the test: {gone}"


def become_nobody() -> None:
    """In a throw-away process run by root: be an ordinary user."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def no_new_privs() -> None:
    """PR_SET_NO_NEW_PRIVS for this thread: in throw-away processes."""
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError("PR_SET_NO_NEW_PRIVS")
