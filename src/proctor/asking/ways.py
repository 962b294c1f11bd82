"""Asking programs: a command, a socket, an address.

Each gets the question as one line of JSON and has until the rule's time is over; each function returns
None if the question is over before there is an answer.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from proctor.asking.question import LONGEST, Answer, Question, parse
from proctor.errors import ProctorError

if TYPE_CHECKING:
    import subprocess


def command(question: Question, over: int) -> Answer | None:
    """Run a program with the question as its standard input; what it writes is the answer.

    :raises ProctorError, OSError: it cannot be started, failed, or answered nonsense.
    """
    import subprocess

    where = question.asking.where
    # What is open here closes at exec, as the kernel does it: a close by the child before that may wait for whoever
    # serves the file, and all of this process with it, which vfork(2) stops until then.
    process = subprocess.Popen(
        where,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        close_fds=False,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        sent = _Sender(process.stdin.fileno(), question.json(), process.stdin.close)
        said = _read(process.stdout.fileno(), over, sent, lambda fd: os.read(fd, 4096))
        if said is None or not _ended(process, over):
            return None
    finally:
        _end(process)
    if process.returncode:
        raise ProctorError(f"{where[0]} ended with {process.returncode}")
    return _parsed(said, question, where[0])


def _ended(process: subprocess.Popen[bytes], over: int) -> bool:
    """Wait for its end."""
    pidfd = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(over, select.POLLIN)
        if all(fd == over for fd, _ in poll.poll()):
            return False
    finally:
        os.close(pidfd)
    process.wait()
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                pass  # it never read the question


def unix(question: Question, over: int) -> Answer | None:
    """Connect to a socket, send the question, read an answer's line.

    :raises ProctorError, OSError: nobody answers there, or nonsense.
    """
    path = question.asking.where[0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(question.asking.timeout)  # a listener whose queue is full
        sock.connect(path)
        sent = _Sender(sock.fileno(), question.json())
        said = _read(sock.fileno(), over, sent, lambda fd: sock.recv(4096), line=True)
    return None if said is None else _parsed(said, question, path)


def http(question: Question, over: int) -> Answer | None:
    """POST the question; the answer is the body of a 200.

    :raises ProctorError, OSError: nobody answers there, or nonsense.
    """
    import http.client

    address = question.asking.where[0]
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=question.asking.timeout)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    done = os.eventfd(0, os.EFD_CLOEXEC)
    watch = threading.Thread(target=_hang_up, args=(connection, over, done), daemon=True)
    try:
        connection.connect()
        watch.start()
        headers = {"Content-Type": "application/json"}
        connection.request("POST", path, question.json(), headers)
        response = connection.getresponse()
        said = response.read(LONGEST + 1)
    except (OSError, http.client.HTTPException) as problem:
        if _readable(over):
            return None
        raise ProctorError(f"{address}: {type(problem).__name__}: {problem}") from None
    finally:
        os.eventfd_write(done, 1)
        if watch.ident is not None:
            watch.join()
        os.close(done)
        connection.close()
    if response.status != 200:
        raise ProctorError(f"{address}: status {response.status}")
    return _parsed(said, question, address)


def _hang_up(connection: object, over: int, done: int) -> None:
    """Break a connection off once nobody waits for its answer."""
    poll = select.poll()
    poll.register(over, select.POLLIN)
    poll.register(done, select.POLLIN)
    if any(fd == done for fd, _ in poll.poll()):
        return
    sock = getattr(connection, "sock", None)
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it broke by itself


WAYS: Final[Mapping[str, Callable[[Question, int], Answer | None]]] = {
    "command": command,
    "socket": unix,
    "http": http,
}


def _parsed(said: bytes, question: Question, by: str) -> Answer:
    try:
        return parse(said, question.asking, by)
    except ValueError as problem:
        raise ProctorError(f"{by} answered nonsense: {problem}") from None


class _Sender:
    """What is still to be written; the reader may be slow, or write before it reads."""

    def __init__(self, fd: int, data: bytes, end: Callable[[], object] | None = None) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        #: Called when all is written, if this is not what is read from as well.
        self.end = end
        self._left = memoryview(data)

    def send(self) -> bool:
        """Whether something is left."""
        try:
            self._left = self._left[os.write(self.fd, self._left) :]
        except BlockingIOError:
            return True
        except OSError:
            self._left = self._left[:0]  # whoever does not read may still answer
        return bool(self._left)


def _read(
    fd: int, over: int, sent: _Sender, read: Callable[[int], bytes], *, line: bool = False
) -> bytes | None:
    """Write the question and read the answer, to its end (or that of a line); None if it is over.

    :raises OSError: it cannot be read.
    """
    poll = select.poll()
    poll.register(over, select.POLLIN)
    poll.register(fd, select.POLLIN)
    poll.register(sent.fd, select.POLLOUT | (select.POLLIN if fd == sent.fd else 0))
    said = b""
    while len(said) <= LONGEST:
        for ready, events in poll.poll():
            if ready == over:
                return None
            if ready == sent.fd and events & ~select.POLLIN and not sent.send():
                if sent.end is None:
                    poll.modify(fd, select.POLLIN)
                else:
                    poll.unregister(sent.fd)
                    sent.end()
            if ready == fd and events & ~select.POLLOUT:
                try:
                    piece = read(fd)
                except BlockingIOError:
                    continue
                said += piece
                if not piece or (line and b"\n" in said):
                    return said
    return said


def _readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])
