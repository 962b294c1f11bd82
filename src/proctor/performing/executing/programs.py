"""Programs of the host's that work for one call: whoever receives does not wait for them.

::

    done = yield from run(task, ["modprobe", "--", name], error=True, patience=30)

A program counts against its container's limit like an executor, is ended with its call, and has an end
by itself after some seconds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Final

from proctor.errors import CallGone
from proctor.performing.executing.mother import end_child
from proctor.performing.executing.requests import Reply, Request
from proctor.performing.executing.workers import Wait, Worker
from proctor.performing.trouble import Interrupted, Trouble
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.task import Task

_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
#: Bytes that one may say.
_TOLD: Final = 1 << 20


class Done(NamedTuple):
    """What became of a program."""

    #: As of waitpid(2): minus the signal that ended it.
    code: int
    #: What it said on the one stream that is read.
    said: bytes


class Program(Worker):
    """One that runs; closed, and with that reaped, by whoever counts it.

    :param words: its path, and its arguments.
    :param given: its standard input; /dev/null for -1.
    :param error: whether standard error is read; else standard output is.
    :param patience: seconds that it may take.
    :raises OSError: it does not start.
    """

    __slots__ = ("_code", "_due", "_interrupted", "_over", "_said", "interruptible")

    def __init__(
        self,
        container: object,
        words: Sequence[str],
        given: int,
        *,
        error: bool,
        patience: float,
        interruptible: bool,
    ) -> None:
        super().__init__(container)
        self.interruptible = interruptible
        self._code: int | None = None
        self._over = self._interrupted = False
        self._due = time.monotonic() + patience
        # a file, not a pipe, so that nobody waits for whoever reads it
        self._said = os.memfd_create("said")
        high: list[int] = []
        try:
            with open("/dev/null", "r+b", buffering=0) as null:
                streams = (null.fileno() if given < 0 else given, null.fileno(), self._said)
                for fd in streams:  # not a number that is replaced below
                    high.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))
            numbers = (0, 1, 2) if error else (0, 2, 1)
            pid = os.posix_spawn(
                words[0],
                list(words),
                _ENVIRONMENT,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, fd, number)
                    for fd, number in zip(high, numbers, strict=True)
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM],
            )
            try:
                self.pidfd = os.pidfd_open(pid)
            except OSError:
                end_child(pid)
                raise
        except BaseException:
            os.close(self._said)
            raise
        finally:
            for fd in high:
                os.close(fd)

    def fileno(self) -> int:
        """Its process."""
        return self.pidfd

    def reply(self, request: Request | None, *, wait: bool) -> Reply | None:
        """Its return code as a result, and what it said as a part; None while it runs.

        :raises Interrupted: it was, by :meth:`interrupt`.
        :raises Trouble: it was ended by :meth:`signal`, or somebody else reaped it."""
        if not self.ended():
            return None
        self._reap()
        if self._over:
            raise Interrupted if self._interrupted else Trouble("the program was ended")
        if self._code is None:
            raise Trouble("somebody in the monitor's process waits for any child")
        if os.fstat(self._said).st_size > _TOLD:
            raise Trouble(f"the program said more than {_TOLD} bytes")
        return Reply((self._code,), (os.pread(self._said, _TOLD, 0),), {})

    def _reap(self) -> None:
        if self._code is None and self.pidfd >= 0:
            try:
                ended = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if ended is not None:
                exited = ended.si_code == os.CLD_EXITED
                self._code = ended.si_status if exited else -ended.si_status

    def signal(self) -> None:
        """Ask for its end."""
        self._over = not self.ended()
        super().signal()

    def interrupt(self) -> None:
        """End it: what may be interrupted only looks at something."""
        if not self._over:
            self._interrupted = not self.ended()
            self.signal()

    def hindered(self) -> str:
        """Whether it takes longer than it may."""
        return "a program did not end in time" if time.monotonic() >= self._due else ""

    def close(self) -> None:
        """Reap it, and let go of it."""
        self._reap()
        said, self._said = self._said, -1
        if said >= 0:
            os.close(said)
        super().close()


def run(
    task: Task,
    words: Sequence[str],
    given: int = -1,
    *,
    error: bool = False,
    patience: float,
    interruptible: bool = True,
) -> Generator[Wait, Reply, Done]:
    """Run a program of the host's to its end; parameters as for :class:`Program`.

    :param words: its name or path, and its arguments.
    :param interruptible: whether a signal that the caller is to take ends it.
    :raises Trouble: it does not start, or takes too long.
    :raises TooMany: as many of the container's are at work.
    """
    session = task.session
    path = shutil.which(words[0], path=_ENVIRONMENT["PATH"])
    if path is None:
        raise Trouble(f"there is no {words[0]} on the host")
    limit = session.limit_now()
    session.executors.expect_room(session.container, limit)
    if not task.call.valid():
        raise CallGone
    try:
        program = Program(
            session.container, [path, *words[1:]], given, error=error, patience=patience,
            interruptible=interruptible,
        )  # fmt: skip
    except OSError as failed:
        if failed.errno in (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM):
            raise
        raise Trouble(f"{words[0]} does not start: {failed.strerror}") from None
    session.executors.employ(program, limit)
    try:
        reply = program.reply(None, wait=False) or (yield Wait(program))
    finally:
        session.executors.discard(program)
    return Done(reply.results[0], reply.parts[0])
