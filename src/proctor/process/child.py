"""A command that somebody serves: starting it, waiting for it, signalling it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any, Protocol

from proctor.given import MOST_NUMBER, several, whole
from proctor.kernel.launch import launch
from proctor.kernel.target import Target

if TYPE_CHECKING:
    from proctor.kernel.plan import StrOrBytes
    from proctor.supervisor.supervisor import Supervisor


class Serving(Protocol):
    """Whoever serves a command; :func:`spawn_served` calls these in this order."""

    def begin(self, argv: Sequence[StrOrBytes]) -> None:
        """Be ready: a command that runs must be served."""
        ...

    def take(self, target: Target) -> None:
        """It has its filter, and its listener, if any, is to be taken; it is on its way to execve."""
        ...

    @property
    def serves(self) -> bool:
        """Whether anybody answers."""
        ...

    def supervising(self) -> Supervisor:
        """The supervisor that answers.

        :raises ValueError: that is another process's.
        """
        ...

    def wait(self, timeout: float | None) -> bool:
        """Wait until nothing runs under the filter any more; False if time was over first."""
        ...

    def close(self) -> None:
        """Serve no longer; idempotent."""
        ...

    def let_go(self) -> None:
        """Nobody is left who could close this: serve as long as something runs under the filter, no longer."""
        ...


class Process:
    """A supervised command; like :class:`subprocess.Popen`, with a supervisor.

    ::

        with proctor.spawn(["cat"], stdin=proctor.PIPE, stdout=proctor.PIPE) as process:
            assert isinstance(process, proctor.Process)
            assert process.communicate(b"hello") == (b"hello", None)
        assert process.returncode == 0

    Made by :func:`spawn`.  As a context manager it closes its pipes, waits for the command, and then
    closes the supervisor: a descendant that still runs gets ENOSYS for what was supervised.  One that
    nobody holds any more is served until nothing runs under its filter.
    """

    def __init__(
        self, target: Target, serving: Serving, pipes: Sequence[IO[bytes] | None], args: Any
    ) -> None:
        self.args = args
        self._serving = serving
        #: Whose it is to end the serving, if nobody closes this: the process's that made it.
        self._ends = os.getpid()
        self.target = target
        self.stdin, self.stdout, self.stderr = pipes

    @property
    def supervisor(self) -> Supervisor:
        """Answers the calls; other listeners may be added to it.  Where nothing is supervised it is
        made when first asked for, and not started.

        :raises ValueError: another process answers them.
        """
        self._ends = -1  # whoever has it may add listeners
        return self._serving.supervising()

    @property
    def supervised(self) -> bool:
        """Whether anybody answers the calls."""
        return self._serving.serves

    @property
    def pid(self) -> int:
        """The command's process id."""
        return self.target.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, ``-n`` for death by signal n; None while not known to have ended."""
        return self.target.returncode

    def poll(self) -> int | None:
        """The return code if the command has ended, else None."""
        return self.target.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command itself, not for its descendants.

        :raises subprocess.TimeoutExpired: after ``timeout`` seconds.
        """
        try:
            return self.target.wait(timeout)
        except TimeoutError:
            from subprocess import TimeoutExpired

            raise TimeoutExpired(self.args, timeout or 0.0) from None

    def wait_all(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs under the filter any more; False if time was over first."""
        return self._serving.wait(timeout)

    def send_signal(self, number: int) -> None:
        """Send a signal to the command, by its pidfd; nothing happens if it has ended."""
        self.target.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(15)

    def kill(self) -> None:
        """SIGKILL."""
        self.target.kill()

    def communicate(
        self, input: bytes | None = None, timeout: float | None = None
    ) -> tuple[bytes | None, bytes | None]:
        """Feed ``input``, read both outputs to their end, wait; as Popen's."""
        from proctor.process.pipes import communicate

        return communicate(self, input, timeout)

    def give_pipes(self) -> list[IO[bytes] | None]:
        """Our ends of its standard streams, which are whose who asks from now on."""
        pipes = [self.stdin, self.stdout, self.stderr]
        self.stdin = self.stdout = self.stderr = None
        return pipes

    def close(self) -> None:
        """Close pipes and supervisor; kills the command if it still runs.  Idempotent."""
        self._ends = -1
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # unread input of a command that is gone
        try:
            if self.target.poll() is None:
                self.target.kill()
                self.target.wait(None)
        finally:  # also where somebody else took its exit status
            self._serving.close()
            self.target.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for pipe in (self.stdin, self.stdout, self.stderr):
                    if pipe is not None:
                        pipe.close()
                self.wait()
        finally:
            self.close()

    def __del__(self) -> None:
        if getattr(self, "_ends", -1) == os.getpid() and not sys.is_finalizing():
            self._serving.let_go()

    def __repr__(self) -> str:
        return f"<Process pid {self.pid} {self.args!r} returncode {self.returncode}>"


def spawn_served(
    argv: Sequence[StrOrBytes], program: bytes | None, serving: Serving, options: dict[str, Any]
) -> Process:
    """Start a command under a filter, to be served by somebody.

    :param options: ``stdin``, ``stdout``, ``stderr``, ``pass_fds``, ``userns`` and those of
        :class:`~proctor.kernel.plan.LaunchOptions`, as :func:`spawn` has them.
    :raises LaunchError, NestedListener, FilterError, ValueError: as :func:`spawn`.
    """
    from proctor.process.pipes import Plumbing
    from proctor.process.starting import refuse_killed, user_namespace

    given = dict(options)
    streams = [given.pop(name, None) for name in ("stdin", "stdout", "stderr")]
    passed = several("pass_fds", given.pop("pass_fds", ()), "descriptors")
    passed = tuple(whole("pass_fds", fd, 0, MOST_NUMBER) for fd in passed)
    plumbing = target = None
    try:
        launching = user_namespace(given.pop("userns", False), given)
        plumbing = Plumbing(*streams)
        serving.begin(argv)
        taken = {theirs for _, theirs in plumbing.pairs}
        kept = [(fd, fd) for fd in dict.fromkeys(passed) if fd not in taken]
        target = launch(argv, program=program, fds=[*plumbing.pairs, *kept], **launching)
        plumbing.close_theirs()
        serving.take(target)
        target.executed()
        refuse_killed(target, argv, program is not None)
        return Process(target, serving, plumbing.take_ours(), argv)
    except BaseException:
        if plumbing is not None:
            plumbing.close()
        if target is not None:
            target.kill()
        serving.close()
        if target is not None:
            target.wait(None)
            target.close()
        raise
