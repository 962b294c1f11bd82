"""The process that forks executors, and ending one that was started just now."""

from __future__ import annotations

import _socket as socket  # its wrapper takes two milliseconds to load
import errno
import fcntl
import os
import signal
import struct
import threading
from collections.abc import Callable

from proctor.errors import Unsupported
from proctor.kernel import scm
from proctor.performing import scarce
from proctor.performing.executing import image
from proctor.performing.trouble import Trouble


class Mother:
    """The process that forks executors; thread-safe.  Started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._pidfd = -1
        #: Its process id, once it is started.
        self.pid = 0
        self._closed = self._has_memory = False

    def start(self) -> None:
        """Start it; does nothing if it runs.

        :raises Trouble: it cannot be started.
        """
        with self._lock:
            self._start()

    def bear(
        self, before: Callable[[socket.socket], object] = str, *, place: int = 0, memory: int = -1
    ) -> socket.socket:
        """Have an executor forked: our end of its socket.

        :param before: given that end, before anybody reads what is sent by it.
        :param place: where in ``memory``, a :class:`proctor.kernel.progress.Progress`, it says how far it is.
        :raises Trouble: that cannot be.
        """
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise Trouble(scarce.why(error)) from None
        try:
            before(ours)
            with self._lock:
                for last in (False, True):
                    try:
                        control, fds = self._start(), [theirs.fileno()]
                        if place and not self._has_memory:
                            fds.append(memory)
                        scm.send(control, struct.pack("=I", place), fds)
                        self._has_memory |= bool(place)
                        break
                    except OSError as error:
                        ended = error.errno in (errno.EPIPE, errno.ECONNRESET)
                        if ended:
                            self._stop()
                        if last or not ended:
                            raise Trouble(
                                f"the executors' mother cannot be reached: {scarce.why(error)}"
                            ) from None
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def close(self) -> None:
        """End it, and with it every executor.  Idempotent."""
        with self._lock:
            self._closed = True
            self._stop()

    def _start(self) -> socket.socket:
        if self._closed:
            raise Trouble("the performers are closed")
        if self._control is not None:
            return self._control
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise Trouble(scarce.why(error)) from None
        try:
            pid = _spawn(theirs)
        except BaseException as error:
            ours.close()
            if isinstance(error, Unsupported):
                raise Trouble(str(error)) from None
            if isinstance(error, OSError):
                raise Trouble(f"the executor does not start: {scarce.why(error)}") from None
            raise
        finally:
            theirs.close()
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            ours.close()
            end_child(pid)
            raise Trouble(f"no pidfd of the executors' mother: {scarce.why(error)}") from None
        self._control, self.pid, self._has_memory = ours, pid, False
        return ours

    def _stop(self) -> None:
        control, self._control = self._control, None
        pidfd, self._pidfd = self._pidfd, -1
        if control is not None:
            control.close()
        if pidfd >= 0:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            try:
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            except ChildProcessError:
                pass  # somebody in this process waits for any child
            os.close(pidfd)


def _spawn(control: socket.socket) -> int:
    """Start the mother; its process id."""
    # Neither a number that is replaced below nor 3 itself: dup2 to itself keeps CLOEXEC.
    program = image.sealed()
    high = [program]
    try:
        high += [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 4) for fd in (program, control.fileno())]
        return os.posix_spawn(
            f"/proc/self/fd/{high[1]}",
            ["proctor-executor", str(os.getpid())],
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, high[2], 3),
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM],
        )
    finally:
        for fd in high:
            os.close(fd)


def end_child(pid: int) -> None:
    """Kill and reap a child that was started just now."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # somebody in this process waits for any child
