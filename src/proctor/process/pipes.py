"""Standard input and output of a supervised command: pipes, and reading them without a deadlock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subprocess import TimeoutExpired

    from proctor.process.child import Process
    from proctor.process.options import Stdio

_PIPE, _STDOUT, _DEVNULL = -1, -2, -3
#: Seconds from one look at who holds a silent pipe to the next.
LOOK = 0.5


class Plumbing:
    """Descriptors for a launch: which of ours become the target's 0, 1 and 2.

    :raises ValueError: for what is no descriptor, file or known constant.
    """

    def __init__(self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> None:
        #: (ours, target's)
        self.pairs: list[tuple[int, int]] = []
        self._theirs: list[int] = []
        self._ours: list[int | None] = [None, None, None]
        try:
            for number, what in enumerate((stdin, stdout, stderr)):
                ours = self._one(number, what)
                if ours is not None:
                    self.pairs.append((ours, number))
        except BaseException:
            self.close()
            raise

    def _one(self, number: int, what: Stdio) -> int | None:
        if what is None:
            return number if _is_inherited(number) else None
        if what == _PIPE:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            ours, theirs = (writer, reader) if number == 0 else (reader, writer)
            self._ours[number] = ours
            self._theirs.append(theirs)
            return theirs
        if what == _DEVNULL:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            self._theirs.append(null)
            return null
        if what == _STDOUT and number == 2:
            return next((ours for ours, theirs in self.pairs if theirs == 1), None)
        if isinstance(what, int):
            if what < 0:
                raise ValueError(f"{what}: not a descriptor, PIPE, STDOUT or DEVNULL")
            return what
        if not hasattr(what, "fileno"):
            raise TypeError(f"{what!r}: not a descriptor, a file, PIPE, STDOUT or DEVNULL")
        return what.fileno()

    def close_theirs(self) -> None:
        """Close the target's ends; it has its own copies."""
        while self._theirs:
            os.close(self._theirs.pop())

    def take_ours(self) -> list[IO[bytes] | None]:
        """Our ends as binary files, unbuffered for writing; ownership moves."""
        files: list[IO[bytes] | None] = []
        for number, fd in enumerate(self._ours):
            files.append(None if fd is None else open(fd, "wb" if number == 0 else "rb", 0))  # noqa: SIM115
        self._ours = [None, None, None]
        return files

    def close(self) -> None:
        """Close everything not handed out."""
        self.close_theirs()
        for number, fd in enumerate(self._ours):
            if fd is not None:
                os.close(fd)
                self._ours[number] = None


def _is_inherited(number: int) -> bool:
    """Whether an exec would pass it on.  A closed standard stream stays closed for the target, even
    where a descriptor of ours, the engine's or a listener, has taken the number since."""
    import fcntl

    try:
        return not fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    except OSError:
        return False


def communicate(
    process: Process, data: bytes | None, timeout: float | None
) -> tuple[bytes | None, bytes | None]:
    """Write ``data``, read both outputs, wait for the command.

    :raises subprocess.TimeoutExpired: after ``timeout`` seconds, with what was read until then; the
        command runs on.
    """
    import selectors

    deadline = None if timeout is None else time.monotonic() + timeout
    out: dict[IO[bytes], list[bytes]] = {}
    view = memoryview(data or b"")
    with selectors.DefaultSelector() as selector:
        if process.stdin is not None:
            if view:
                os.set_blocking(process.stdin.fileno(), False)
                selector.register(process.stdin, selectors.EVENT_WRITE)
            else:
                process.stdin.close()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None and not pipe.closed:
                out[pipe] = []
                selector.register(pipe, selectors.EVENT_READ)
        pipes = (process.stdin, process.stdout, process.stderr)
        leaks = Leaks(process, pipes)
        while selector.get_map():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise _expired(process, timeout, out)
            ready = selector.select(leaks.patience(left))
            for key, _ in ready:
                file: Any = key.fileobj
                if process.stdin is not None and file is process.stdin:
                    try:
                        view = view[os.write(key.fd, view[:65536]) :]
                    except BrokenPipeError:
                        view = view[:0]  # it does not want more, as a shell pipe would have it
                    if not view:
                        selector.unregister(key.fileobj)
                        process.stdin.close()
                    continue
                chunk = os.read(key.fd, 65536)
                if chunk:
                    out[file].append(chunk)
                else:
                    selector.unregister(file)
                    file.close()
            if not ready:
                silent: list[Any] = [key.fileobj for key in selector.get_map().values()]
                for number in leaks.found([pipes.index(file) for file in silent]):
                    lost: Any = pipes[number]
                    selector.unregister(lost)
                    lost.close()
    try:
        process.target.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        raise _expired(process, timeout, out) from None
    return _joined(process.stdout, out), _joined(process.stderr, out)


class Leaks:
    """Pipes of a supervised command whose other end nobody has any more but this process itself: a
    handler took it out of a caller, and nothing will ever come of it.

    :param pipes: our ends of its standard input, output and error.
    """

    def __init__(self, process: Process, pipes: Sequence[IO[bytes] | None]) -> None:
        self._process = process
        self._pipes = pipes
        #: By pipe: the descriptors of ours that were seen last time.
        self._seen: dict[int, list[int]] = {}

    def patience(self, left: float | None) -> float | None:
        """How long to wait for the pipes: not for ever, in case only we have their other ends."""
        return LOOK if left is None else min(left, LOOK)

    def found(self, numbers: Iterable[int]) -> list[int]:
        """Those that were of that kind the last time as well, each told once; nobody reads or writes
        them any further.

        :param numbers: which of the pipes are looked at: 0, 1, 2."""
        process = self._process
        if not process.supervised or process.poll() is None or not process.wait_all(0):
            return []
        lost = []
        for number in numbers:
            pipe = self._pipes[number]
            assert pipe is not None
            holders = _other_ends(pipe.fileno())
            still = [fd for fd in holders if fd in self._seen.get(number, ())]
            self._seen[number] = holders
            if still:
                lost.append(number)
                process.supervisor.trouble(
                    f"{('stdin', 'stdout', 'stderr')[number]} of {process.args!r} is still open here, as descriptor "
                    f"{still[0]}, though nothing runs any more that could use it: a handler has it (Call.take_fd leaves "
                    "closing it to whoever asked); what was read until now is all there is"
                )
        return lost


def _other_ends(pipe: int) -> list[int]:
    """Descriptors of this process that are the other end of a pipe."""
    import fcntl

    mine, mode = os.fstat(pipe), fcntl.fcntl(pipe, fcntl.F_GETFL) & os.O_ACCMODE
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            other = os.fstat(int(entry))
            if (other.st_dev, other.st_ino) == (mine.st_dev, mine.st_ino) and (
                fcntl.fcntl(int(entry), fcntl.F_GETFL) & os.O_ACCMODE != mode
            ):
                found.append(int(entry))
        except OSError:
            pass  # closed meanwhile, or that of the listing itself
    return found


def _expired(
    process: Process, timeout: float | None, out: dict[IO[bytes], list[bytes]]
) -> TimeoutExpired:
    from subprocess import TimeoutExpired

    return TimeoutExpired(
        process.args, timeout or 0.0, _joined(process.stdout, out), _joined(process.stderr, out)
    )


def _joined(pipe: IO[bytes] | None, out: dict[IO[bytes], list[bytes]]) -> bytes | None:
    return None if pipe is None else b"".join(out.get(pipe, []))
