"""Memory is copied once: whatever decides, performs and logs uses the call's kept values."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator

import pytest

from proctor.call.verdict import Deny, HandOver

from .callers import AT_FDCWD, Call, Caller, Performers, caller, open_directory

HOW = struct.Struct("=QQQ")


class Fickle:
    """Memory that says something else each time it is read."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = answers
        self.reads = 0

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        return self.answers[(self.reads - 1) % len(self.answers)][:size].ljust(size, b"\0")

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
