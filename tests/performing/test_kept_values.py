"""Memory is copied once: whatever decides, performs and logs uses the call's kept values."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator

import pytest

from proctor.call.verdict import Answer, Deny, HandOver
from proctor.performing.families import mount
from tests.performing.families.test_open_differential import MAP
from tests.performing.support.callers import (
    AT_FDCWD,
    CLONE_NEWNS,
    Call,
    Caller,
    Performers,
    caller,
    open_directory,
    unshare,
)

HOW = struct.Struct("=QQQ")


class Fickle:
    """Memory that says something else each time it is read."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = answers
        self.reads = 0

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        return self.answers[(self.reads - 1) % len(self.answers)][:size].ljust(size, b"\0")

    read_some = read

    def string(self, address: int, limit: int = 4096) -> bytes:
        self.reads += 1
        return self.answers[(self.reads - 1) % len(self.answers)]


@pytest.fixture
def top() -> Iterator[bytes]:
    with open_directory() as path:
        os.chmod(path, 0o777)
        for name in (b"one", b"two"):
            os.close(os.open(path + b"/" + name, os.O_CREAT | os.O_WRONLY, 0o666))
        yield path


@pytest.fixture
def one() -> Iterator[Caller]:
    with caller() as made:
        yield made


def made(one: Caller, name: str, *args: int, memory: dict[int, Fickle]) -> Call:
    call = Call(one.tid, name, args)

    class Memory:
        def read(self, address: int, size: int) -> bytes:
            return memory[address].read(address, size)

        def string(self, address: int, limit: int = 4096) -> bytes:
            return memory[address].string(address, limit)

        read_some = read

    call._memory = Memory()  # type: ignore[assignment]
    return call


@pytest.mark.parametrize("rule", [False, True], ids=["directly", "asked"])
@pytest.mark.parametrize("looked", [False, True], ids=["unseen", "decided by"])
def test_open_how_is_read_once(one: Caller, top: bytes, rule: bool, looked: bool) -> None:
    """A handler denies all but O_RDONLY; what is performed is what it saw."""
    with Performers() as performers:
        for first, second in ((os.O_RDONLY, os.O_RDWR), (os.O_RDWR, os.O_RDONLY)):
            how = Fickle(HOW.pack(first, 0, 0), HOW.pack(second, 0, 0))
            path = Fickle(top + b"/one", top + b"/two")
            call = made(
                one,
                "openat2",
                AT_FDCWD,
                0x1000,
                0x2000,
                HOW.size,
                memory={0x1000: path, 0x2000: how},
            )
            if looked:
                assert call.flags & os.O_ACCMODE == first
            verdict = performers.perform(call, (lambda argument, path: True) if rule else None)
            assert isinstance(verdict, HandOver), verdict
            assert fcntl.fcntl(verdict.fd, fcntl.F_GETFL) & os.O_ACCMODE == first
            assert os.readlink(b"/proc/self/fd/%d" % verdict.fd) == top + b"/one"
            os.close(verdict.fd)
            assert (how.reads, path.reads) == (1, 1)
            assert call.flags & os.O_ACCMODE == first  # as the log has it


@pytest.mark.parametrize("rule", [False, True], ids=["directly", "asked"])
def test_paths_are_read_once(one: Caller, top: bytes, rule: bool) -> None:
    asked: list[bytes] = []

    def allow(argument: str, path: bytes) -> bool:
        asked.append(path)
        return path.endswith(b"/one")

    with Performers() as performers:
        for name, args in (
            ("openat", (AT_FDCWD, 0x1000, os.O_RDONLY, 0)),
            ("openat", (AT_FDCWD, 0x1000, os.O_RDWR | os.O_CREAT, 0o600)),
            ("openat", (AT_FDCWD, 0x1000, os.O_RDWR | os.O_NOFOLLOW, 0)),
        ):
            path = Fickle(top + b"/one", top + b"/two")
            call = made(one, name, *args, memory={0x1000: path})
            verdict = performers.perform(call, allow if rule else None)
            assert isinstance(verdict, HandOver), verdict
            assert os.readlink(b"/proc/self/fd/%d" % verdict.fd) == top + b"/one"
            os.close(verdict.fd)
            assert path.reads == 1
        path = Fickle(top + b"/one", top + b"/fifo")
        call = made(one, "mknodat", AT_FDCWD, 0x1000, 0o10600, 0, memory={0x1000: path})
        assert performers.perform(call, allow if rule else None) == Deny(errno.EEXIST)
        assert path.reads == 1
    assert set(asked) == ({top + b"/one"} if rule else set())
    assert sorted(os.listdir(top)) == [b"one", b"two"]


@pytest.mark.skipif(os.geteuid() != 0, reason="containers of other ids want the host's root")
def test_attributes_and_mounts_are_read_once(top: bytes) -> None:
    """What decides whether it is performed, what is asked about and what is done are the same bytes."""

    def setup() -> None:
        unshare(CLONE_NEWNS)
        os.chdir(top)

    os.mkdir(top + b"/own")
    os.chown(top + b"/own", 100000, 100000)
    opaque, secret = b"trusted.overlay.opaque", b"trusted.secret"
    with Performers() as performers, caller(setup, MAP) as inside:
        path, name = Fickle(b"own", b"two"), Fickle(opaque, secret)
        value = Fickle(b"first", b"other")
        memory = {0x1000: path, 0x2000: name, 0x3000: value}
        call = made(inside, "setxattr", 0x1000, 0x2000, 0x3000, 5, 0, memory=memory)
        assert performers.perform(call) == Answer(0)
        assert [each.reads for each in memory.values()] == [1, 1, 1]
        assert {each: os.getxattr(top + b"/own", each) for each in os.listxattr(top + b"/own")} == {
            opaque.decode(): b"first"
        }
        options = mount.Options(filesystems=["ext4"], images=True)
        for first, second, number in (
            (b"errors=panic", b"errors=continue", errno.EPERM),
            (b"errors=continue", b"errors=panic", errno.ENOENT),  # of the source, which comes after
        ):
            kind, data = Fickle(b"ext4", b"xfs"), Fickle(first + b"\0", second + b"\0")
            source, target = Fickle(b"missing", b"own"), Fickle(b"own", b"two")
            memory = {0x1000: source, 0x2000: target, 0x3000: kind, 0x4000: data}
            call = made(inside, "mount", 0x1000, 0x2000, 0x3000, 0, 0x4000, memory=memory)
            verdict = performers.perform(call, options=options)
            assert isinstance(verdict, Deny) and verdict.errno == number, verdict
            assert [each.reads for each in memory.values()] == [1, 1, 1, 1]
