"""The monitor's side of its performers: starting, lending, watching and ending them.

One parent process per monitor (``proctor-perform``) forks a performer per caller identity.  A
performer serves one call at a time; idle ones are kept for the next call of the same identity, a
bounded number of them, and end by themselves after a short silence, so that no target's file
systems are kept busy for long.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Final

from proctor.emulate import scarce, wire

if TYPE_CHECKING:
    from proctor.call.call import Call

_START_DEADLINE: Final = 10.0
#: A performer that answers within this long needs no watching of its caller.
_PATIENCE: Final = 0.05
_WATCH: Final = (0.02, 0.25)
_DIED: Final = "the performer died in the middle of the call"
NONSENSE: Final = "the performer's reply makes no sense"
_PIDFD_THREAD: Final = os.O_EXCL  # Linux 6.9
_BOOT: Final = (
    "import sys; sys.path.append(sys.argv[2]); "
    "from proctor.emulate._performer import main; main(int(sys.argv[1]), int(sys.argv[3]))"
)


class PerformerTrouble(Exception):
    """A performer could not be made, or died, or was too slow; the text says which."""


class CallerLeft(Exception):
    """The caller is gone while its call was performed: an ordinary event."""


class Idle(Exception):
    """The performer had ended for lack of work before it saw the request."""


class Performer:
    """One performer process, seen from the monitor.  Owned by whoever borrowed it."""

    __slots__ = ("key", "pidfd", "sock")

    def __init__(self, sock: socket.socket, key: Hashable) -> None:
        self.sock = sock
        self.pidfd = -1
        self.key = key
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, int(_PATIENCE * 1e6))
        )

    def kill(self) -> None:
        """End the process now, whatever it is blocked in, and close."""
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it was faster
        self.close()

    def close(self) -> None:
        """Close our ends; an idle performer ends then.  Idempotent."""
        self.sock.close()
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)

    def begin(self, request: bytes, fds: list[int]) -> None:
        """Send a request.

        :raises Idle: the performer ended before; nothing has happened.
        """
        try:
            wire.send(self.sock, request, fds)
        except (BrokenPipeError, ConnectionResetError, OSError) as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                raise Idle from None
            raise PerformerTrouble(f"cannot reach a performer: {scarce.why(error)}") from None

    def answer(self, word: bytes) -> None:
        """Answer its question.

        :raises PerformerTrouble: it died since it asked.
        """
        try:
            wire.send(self.sock, word)
        except OSError:
            raise PerformerTrouble(_DIED) from None

    def reply(self, call: Call | None, due: float | None) -> wire.Packet:
        """The next packet, for as long as the caller waits for its call.

        :raises CallerLeft: the caller was killed or interrupted.
        :raises PerformerTrouble: the performer died, or ``due`` (monotonic seconds) is over.
        """
        try:
            packet = wire.receive(self.sock)
        except BlockingIOError:
            packet = self._watched(call, due)
        except ConnectionResetError:
            packet = wire.Packet(b"", ())
        if len(packet.data) < wire.REPLY.size:
            packet.drop()
            raise PerformerTrouble(_DIED)
        return packet

    def _watched(self, call: Call | None, due: float | None) -> wire.Packet:
        """It takes longer: a FIFO without a peer, a slow file system."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        caller = _thread_pidfd(call.tid) if call is not None else -1
        pause, longest = _WATCH
        try:
            if caller >= 0:
                poll.register(caller, select.POLLIN)
            while True:
                if call is not None and not call.valid():
                    raise CallerLeft
                left = pause if due is None else min(pause, due - time.monotonic())
                if left <= 0:
                    raise PerformerTrouble("the performer did not end in time")
                poll.poll(left * 1000)
                try:
                    return wire.receive(self.sock, flags=socket.MSG_DONTWAIT)
                except BlockingIOError:
                    pause = min(pause * 2, longest)
                except ConnectionResetError:
                    return wire.Packet(b"", ())
        finally:
            if caller >= 0:
                os.close(caller)


def _thread_pidfd(tid: int) -> int:
    """A pidfd of a thread, to learn of its death at once; -1 where the kernel has none."""
    for flags in (_PIDFD_THREAD, 0):
        try:
            return os.pidfd_open(tid, flags)
        except OSError:
            continue
    return -1


def _end_child(pid: int) -> None:
    """Kill and reap a child that was started just now."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # somebody in this process waits for any child


class Pool:
    """All performers of one monitor; thread-safe."""

    def __init__(self, *, idle: float, most: int, python: str | None) -> None:
        self._idle_seconds = idle
        self._most = most
        self._python = python or sys.executable or "python3"
        self._lock = threading.Lock()
        self._control_lock = threading.Lock()
        self._control: socket.socket | None = None
        self._pidfd = -1
        self._idle: dict[Hashable, list[tuple[float, Performer]]] = {}
        self._busy: set[Performer] = set()
        self._closed = False

    # The parent process -------------------------------------------------------------------------
    def start(self) -> None:
        """Start the parent of all performers; does nothing if it runs.

        :raises PerformerTrouble: it cannot be started.
        """
        with self._control_lock:
            self._start()

    def _start(self) -> socket.socket:
        if self._closed:
            raise PerformerTrouble("the performers are closed")
        if self._control is not None:
            return self._control
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        libraries = os.environ.get("LD_LIBRARY_PATH")
        environment = {} if libraries is None else {"LD_LIBRARY_PATH": libraries}
        # Neither a number that is replaced below nor 3 itself: dup2 to itself keeps CLOEXEC.
        control = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 4)
        theirs.close()
        try:
            pid = os.posix_spawnp(
                self._python,
                [self._python, "-I", "-S", "-c", _BOOT, "3", source, str(os.getpid())],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, control, 3),
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                    (os.POSIX_SPAWN_DUP2, 0, 1),
                    (os.POSIX_SPAWN_DUP2, 0, 2),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM],
            )
        except OSError as error:
            ours.close()
            raise PerformerTrouble(
                f"{self._python} does not start as a performer: {scarce.why(error)}"
            ) from None
        finally:
            os.close(control)
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            ours.close()
            _end_child(pid)
            raise PerformerTrouble(
                f"no pidfd of the performers' parent: {scarce.why(error)}"
            ) from None
        self._control = ours
        return ours

    def _stop(self) -> None:
        """End the parent, and with it every performer."""
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

    def order(self, spec: dict[str, Any], fds: list[int]) -> socket.socket:
        """Have the parent fork a child for ``spec``; our end of its socket.

        :raises PerformerTrouble: it cannot be had; what others have performed goes on.
        """
        message = marshal.dumps(spec)
        if len(message) > wire.LONGEST:
            raise PerformerTrouble(
                f"the caller has too many groups ({len(spec['groups'])}) or ranges of ids for a performer"
            )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with self._control_lock:
                for last in (False, True):
                    try:
                        wire.send(self._start(), message, [theirs.fileno(), *fds])
                        break
                    except OSError as error:
                        ended = error.errno in (errno.EPIPE, errno.ECONNRESET)
                        if ended:
                            self._stop()
                        if last or not ended:
                            raise PerformerTrouble(
                                f"the performers' parent cannot be reached: {scarce.why(error)}"
                            ) from None
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    # Performers ---------------------------------------------------------------------------------
    def borrow(self, key: Hashable) -> Performer | None:
        """An idle performer of this identity, if there is one."""
        with self._lock:
            waiting = self._idle.get(key)
            if not waiting:
                return None
            performer = waiting.pop()[1]
            if not waiting:
                del self._idle[key]
            self._busy.add(performer)
            return performer

    def make(self, key: Hashable, spec: dict[str, Any], fds: list[int]) -> Performer:
        """A new performer.

        :raises PerformerTrouble: it could not become the caller; or there are too many.
        """
        with self._lock:
            if len(self._busy) >= self._most:
                raise TooMany(f"that many calls are being performed already (limit = {self._most})")
        performer = Performer(self.order({**spec, "idle": self._idle_seconds}, fds), key)
        with self._lock:
            self._busy.add(performer)
        try:
            packet = performer.reply(None, time.monotonic() + _START_DEADLINE)
            if packet.data[0] != wire.READY or len(packet.fds) != 1:
                packet.drop()
                if packet.data[0] != wire.READY:
                    raise PerformerTrouble(text_of(packet))
                # without it it could not be killed while it is blocked
                raise PerformerTrouble(scarce.lost() if packet.cut else NONSENSE)
        except BaseException:
            self.discard(performer)
            raise
        performer.pidfd = packet.fds[0]
        return performer

    def give_back(self, performer: Performer) -> None:
        """It is free again; kept for the next call, within bounds."""
        now = time.monotonic()
        dropped = []
        with self._lock:
            self._busy.discard(performer)
            if self._closed:
                dropped.append(performer)
            else:
                self._idle.setdefault(performer.key, []).append((now, performer))
                dropped += self._surplus(now)
        for one in dropped:
            one.close()

    def discard(self, performer: Performer) -> None:
        """It is of no use any more."""
        with self._lock:
            self._busy.discard(performer)
        performer.kill()

    def _surplus(self, now: float) -> list[Performer]:
        every = sorted(
            ((since, key) for key, list_ in self._idle.items() for since, _ in list_),
            key=lambda one: one[0],
        )
        ended = sum(1 for since, _ in every if since < now - self._idle_seconds)
        dropped = []
        for since, key in every[: max(ended, len(every) - self._most)]:
            waiting = self._idle[key]
            for place, (when, performer) in enumerate(waiting):
                if when == since:
                    dropped.append(performer)
                    del waiting[place]
                    break
            if not waiting:
                del self._idle[key]
        return dropped

    def close(self) -> None:
        """End every process, also one that works: its call is denied.  Idempotent."""
        with self._lock:
            self._closed = True
            idle = [performer for waiting in self._idle.values() for _, performer in waiting]
            self._idle.clear()
            busy = list(self._busy)
        for performer in idle:
            performer.close()
        for performer in busy:
            # Its borrower closes it; here it only dies.
            if performer.pidfd >= 0:
                try:
                    signal.pidfd_send_signal(performer.pidfd, signal.SIGKILL)
                except OSError:
                    pass
        with self._control_lock:
            self._stop()


class TooMany(PerformerTrouble):
    """The bound on calls performed at the same time is reached."""


def text_of(packet: wire.Packet) -> str:
    """The text of a reply, for people."""
    return packet.data[wire.REPLY.size :].decode(errors="replace") or "the performer said nothing"


#: What a policy's rule about paths is.
Allow = Callable[[bytes], bool]
