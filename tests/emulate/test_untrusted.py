"""What comes from a performer is trusted no more than its caller: nonsense, and worse, on its socket;
and a performers' parent that cannot be kept."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from proctor.call.verdict import Deny, Verdict
from proctor.emulate import Performers, mknod, open, wire  # noqa: F401 - loading takes descriptors

from .callers import AT_FDCWD, caller

pytestmark = pytest.mark.timeout(60)
Script = Callable[[socket.socket], None]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def say(sock: socket.socket, kind: int, fds: int = 0, text: bytes = b"") -> None:
    """A reply with so many descriptors."""
    wire.send(sock, wire.REPLY.pack(kind, 0) + text, [0] * fds)


def ready(sock: socket.socket) -> None:
    """As a performer of ours begins."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:  # to be killed
        pidfd = os.pidfd_open(process.pid)
        wire.send(sock, wire.REPLY.pack(wire.READY, 0), [pidfd])
        os.close(pidfd)
        for fd in wire.receive(sock).fds:  # the request
            os.close(fd)


@contextmanager
def performed_by(script: Script) -> Iterator[tuple[Performers, list[str]]]:
    """Performers whose one process is a thread with a script, and their troubles."""
    troubles: list[str] = []
    threads: list[threading.Thread] = []

    def order(spec: dict[str, Any], fds: list[int]) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def play() -> None:
            with theirs:
                script(theirs)

        threads.append(threading.Thread(target=play))
        threads[-1].start()
        return ours

    with Performers(on_trouble=troubles.append) as performers:
        performers.pool.order = order  # type: ignore[method-assign]
        yield performers, troubles
        for thread in threads:
            thread.join(30)


def opened(performers: Performers, **options: Any) -> Verdict:
    with caller() as one:
        return performers.perform(
            one.call("openat", AT_FDCWD, b"/etc/passwd", os.O_RDONLY, 0), **options
        )


def asks(sock: socket.socket) -> None:
    ready(sock)
    say(sock, wire.ASK, text=b"/etc/passwd")
    wire.receive(sock)


def short(sock: socket.socket) -> None:
    wire.send(sock, b"x", [0, 0])


def trouble(sock: socket.socket) -> None:
    say(sock, wire.TROUBLE, 3, b"for fun")


def too_ready(sock: socket.socket) -> None:
    say(sock, wire.READY, 4)


def short_later(sock: socket.socket) -> None:
    ready(sock)
    short(sock)


def asks_with_descriptors(sock: socket.socket) -> None:
    ready(sock)
    say(sock, wire.ASK, 5, b"/etc/passwd")
    wire.receive(sock)
    say(sock, wire.DONE)


def opens_two(sock: socket.socket) -> None:
    asks(sock)
    say(sock, wire.OPENED, 2)


@pytest.mark.parametrize("script", [short, trouble, too_ready, short_later, opens_two])
def test_descriptors_that_nobody_asked_for_are_closed(script: Script) -> None:
    with performed_by(script) as (performers, troubles):
        verdict = opened(performers, allow=lambda argument, path: True)
    assert isinstance(verdict, Deny)
    assert verdict.errno == errno.EPERM
    assert len(troubles) == 1
    assert "limit" not in troubles[0], "nothing of ours ran out"


def test_descriptors_along_with_a_question_are_closed() -> None:
    with performed_by(asks_with_descriptors) as (performers, troubles):
        assert opened(performers, allow=lambda argument, path: True) == Deny(errno.EIO)
    assert troubles == []


def opens_all_the_same(sock: socket.socket) -> None:
    asks(sock)
    say(sock, wire.OPENED, 1)


def opens_unasked(sock: socket.socket) -> None:
    ready(sock)
    say(sock, wire.OPENED, 1)


@pytest.mark.parametrize("script", [opens_all_the_same, opens_unasked])
def test_what_a_rule_did_not_allow_is_not_handed_over(script: Script) -> None:
    with performed_by(script) as (performers, troubles):
        verdict = opened(performers, allow=lambda argument, path: False)
    assert isinstance(verdict, Deny)
    assert len(troubles) == 1


def test_a_parent_that_cannot_be_kept_is_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor out of descriptors may come here with every call that is to be performed."""
    real, started = os.pidfd_open, []

    def full(pid: int, flags: int = 0) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with caller() as one:
        performers = Performers()
        monkeypatch.setattr(os, "pidfd_open", full)
        verdict = performers.perform(
            one.call("openat", AT_FDCWD, b"/etc/passwd", os.O_RDONLY, 0), allow=None
        )
        monkeypatch.setattr(os, "pidfd_open", real)
        performers.close()
        assert isinstance(verdict, Deny)
        assert "no pidfd of the performers' parent" in verdict.reason
        with pytest.raises(ChildProcessError):
            os.waitpid(started[0], os.WNOHANG)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes on groups")
@pytest.mark.parametrize("groups", [30_000, 65_536])
def test_a_caller_that_cannot_be_told_costs_nobody_else(groups: int) -> None:
    """More groups than one packet holds: sooner or later than the kernel, it is refused in words."""
    troubles: list[str] = []
    with (
        caller() as other,
        caller(lambda: os.setgroups(range(1, groups + 1))) as one,
        Performers(on_trouble=troubles.append) as performers,
    ):
        parent = performers.pool._control
        verdict = performers.perform(one.call("openat", AT_FDCWD, b"/etc/passwd", os.O_RDONLY, 0))
        assert isinstance(verdict, Deny)
        assert verdict.errno == errno.EPERM
        assert "groups" in verdict.reason
        assert performers.pool._control is parent, "what others have performed died with it"
        assert other.performed(performers, "open", b"/etc/passwd", os.O_RDONLY)[0] == "fd"
    assert len(troubles) == 1


def test_want_of_memory_ends_no_other_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(sock: socket.socket, data: bytes, fds: object = ()) -> None:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    with caller() as one, Performers() as performers:
        parent = performers.pool._control
        with monkeypatch.context() as patch:
            patch.setattr(wire, "send", short)
            said = one.performed(performers, "open", b"/etc/passwd", os.O_RDONLY)
        assert said == ("errno", errno.EPERM)
        assert performers.pool._control is parent
        assert one.performed(performers, "open", b"/etc/passwd", os.O_RDONLY)[0] == "fd"
