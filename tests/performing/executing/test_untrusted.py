"""What comes from an executor is trusted no more than its caller: nonsense, and worse, on its socket;
and a mother of executors that cannot be kept."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from proctor.call.verdict import Deny, HandOver, Verdict
from proctor.kernel import scm
from proctor.performing import registry
from proctor.performing.executing.requests import CLOSED, CUT, DONE, MALFORMED, NO_PROCESS, UNGIVEN
from proctor.performing.executing.steps import KEPT
from tests.performing.support.callers import AT_FDCWD, Allow, Performers, caller

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("executors")]
registry.load(registry.SUPPORTED)  # loading takes descriptors
Script = Callable[[socket.socket, bytes], None]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


class Asked:
    """A request, as an executor reads it."""

    def __init__(self, packet: bytes) -> None:
        self.steps, fixes, ranges, given = struct.unpack_from("=HHHH", packet)
        at = 24 + 64 * self.steps + 16 * fixes
        self.ranges = [struct.unpack_from("=III", packet, at + 12 * i) for i in range(ranges)]
        at += 12 * ranges
        self.given = struct.unpack_from(f"={given}I", packet, at)

    def reply(self, state: int = DONE, count: int | None = None) -> bytes:
        """Everything came out as 0, but for descriptors."""
        results = [KEPT if step in self.given else 0 for step in range(self.steps)]
        sizes = [size if step == 0xFFFFFFFF else 0 for _, size, step in self.ranges]
        head = struct.pack("=HHi", state, len(self.given) if count is None else count, 0)
        return head + struct.pack(f"={self.steps}q", *results) + bytes(sum(sizes))


def begin(sock: socket.socket) -> bytes:
    """As an executor of ours begins: it is born, and becomes somebody; the request that follows."""
    for _ in range(2):
        message = scm.receive(sock)
        asked = Asked(message.data)
        message.close()
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:  # to be killed
            pidfd = os.pidfd_open(process.pid)
            scm.send(sock, asked.reply(), [pidfd] * len(asked.given))
            os.close(pidfd)
    message = scm.receive(sock)
    message.close()
    return message.data


@contextmanager
def performed_by(script: Script) -> Iterator[tuple[Performers, list[str]]]:
    """Performers whose one executor is a thread with a script, and their troubles."""
    troubles: list[str] = []
    threads: list[threading.Thread] = []

    def bear() -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def play() -> None:
            with theirs:
                script(theirs, begin(theirs))

        threads.append(threading.Thread(target=play))
        threads[-1].start()
        return ours

    with Performers(on_trouble=troubles.append) as performers:
        performers.executors.mother.bear = bear  # type: ignore[method-assign]
        performers.executors.mother.pid = 0
        yield performers, troubles
        for thread in threads:
            thread.join(30)


def opened(performers: Performers, allow: Allow | None = None) -> Verdict:
    with caller() as one:
        return performers.perform(
            one.call("openat", AT_FDCWD, b"/etc/passwd", os.O_RDONLY, 0), allow
        )


def short(sock: socket.socket, packet: bytes) -> None:
    scm.send(sock, b"x", [0, 0])


def nothing(sock: socket.socket, packet: bytes) -> None:
    """It died."""


def longer(sock: socket.socket, packet: bytes) -> None:
    scm.send(sock, Asked(packet).reply() + bytes(64), [0])


def far_longer(sock: socket.socket, packet: bytes) -> None:
    scm.send(sock, Asked(packet).reply() + bytes(60000), [0])


def less(sock: socket.socket, packet: bytes) -> None:
    scm.send(sock, Asked(packet).reply()[:-1], [0])


def too_many(sock: socket.socket, packet: bytes) -> None:
    scm.send(sock, Asked(packet).reply(count=5), [0] * 5)


def more_than_said(sock: socket.socket, packet: bytes) -> None:
    scm.send(sock, Asked(packet).reply(), [0] * 3)


def fewer_than_said(sock: socket.socket, packet: bytes) -> None:
    scm.send(sock, Asked(packet).reply())


def a_state(state: int) -> Script:
    def script(sock: socket.socket, packet: bytes) -> None:
        scm.send(sock, struct.pack("=HHi", state, 0, errno.ENFILE), [0] * 2)

    return script


SCRIPTS = [short, nothing, longer, far_longer, less, too_many, more_than_said, fewer_than_said]
SCRIPTS += [a_state(state) for state in (MALFORMED, CUT, NO_PROCESS, UNGIVEN, 77)]


@pytest.mark.parametrize("asked", [False, True], ids=["directly", "asked"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_nonsense_is_trouble_and_its_descriptors_are_closed(script: Script, asked: bool) -> None:
    with performed_by(script) as (performers, troubles):
        verdict = opened(performers, (lambda argument, path: True) if asked else None)
    assert isinstance(verdict, Deny)
    assert verdict.errno == (errno.EINTR if script is nothing else errno.EPERM)
    assert len(troubles) == 1


def test_what_a_rule_did_not_allow_is_not_even_asked_for() -> None:
    said: list[bytes] = []

    def script(sock: socket.socket, packet: bytes) -> None:
        asked = bytearray(Asked(packet).reply())
        struct.pack_into("=q", asked, 8, -errno.EBADF)  # the flags are good
        scm.send(sock, asked, [0])
        scm.send(sock, struct.pack("=HHi", CLOSED, 0, 0))
        said.append(scm.receive(sock).data)

    with performed_by(script) as (performers, troubles):
        verdict = opened(performers, lambda argument, path: False)
        assert isinstance(verdict, Deny)
        assert verdict.errno == errno.EACCES
        performers.close()
    assert said == [b""]
    assert troubles == []


def test_a_parent_that_cannot_be_kept_is_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor out of descriptors may come here with every call that is to be performed."""
    real, started = os.pidfd_open, []

    def full(pid: int, flags: int = 0) -> int:
        if flags:  # of a thread: the caller's
            return real(pid, flags)
        started.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with caller() as one:
        performers = Performers()
        monkeypatch.setattr(os, "pidfd_open", full)
        verdict = performers.perform(one.call("openat", AT_FDCWD, b"/etc/passwd", os.O_RDONLY, 0))
        monkeypatch.setattr(os, "pidfd_open", real)
        performers.close()
        assert isinstance(verdict, Deny)
        assert "no pidfd of the executors' mother" in verdict.reason
        with pytest.raises(ChildProcessError):
            os.waitpid(started[0], os.WNOHANG)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes on groups")
@pytest.mark.parametrize("groups", [10_000, 65_536])
def test_a_caller_that_cannot_be_told_costs_nobody_else(groups: int) -> None:
    """More groups than one packet holds are refused in words."""
    troubles: list[str] = []
    with (
        caller() as other,
        caller(lambda: os.setgroups(range(1, groups + 1))) as one,
        Performers(on_trouble=troubles.append) as performers,
    ):
        mother = performers.executors.mother.pid
        verdict = performers.perform(one.call("openat", AT_FDCWD, b"/etc/passwd", os.O_RDONLY, 0))
        if groups == 65_536:
            assert isinstance(verdict, Deny)
            assert verdict.errno == errno.EPERM
            assert "groups" in verdict.reason
            assert len(troubles) == 1
        else:
            assert isinstance(verdict, HandOver)
            os.close(verdict.fd)
            assert troubles == []
        assert performers.executors.mother.pid == mother, "what others have performed died with it"
        assert other.performed(performers, "open", b"/etc/passwd", os.O_RDONLY)[0] == "fd"


def test_want_of_memory_ends_no_other_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(sock: socket.socket, data: bytes, fds: object = ()) -> None:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    with caller() as one, Performers() as performers:
        mother = performers.executors.mother.pid
        with monkeypatch.context() as patch:
            patch.setattr(scm, "send", short)
            said = one.performed(performers, "open", b"/etc/passwd", os.O_RDONLY)
        assert said == ("errno", errno.EPERM)
        assert performers.executors.mother.pid == mother
        assert one.performed(performers, "open", b"/etc/passwd", os.O_RDONLY)[0] == "fd"
