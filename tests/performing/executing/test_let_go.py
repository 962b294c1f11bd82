"""What a caller has open is let go of before its call is answered, and is what a handler looked at, if one did."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from proctor import performing
from proctor.call.verdict import Answer, HandOver, Perform
from tests.performing.support.callers import AT_FDCWD, Caller, caller, open_directory

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root to have callers with other identities"
)
USER, GROUP, EMPTY = 1000, 1001, 0x1000
FILE, OTHER, DIRECTORY = range(70, 73)


@pytest.fixture
def top() -> Iterator[bytes]:
    with open_directory() as path:
        for name in (b"file", b"other"):
            os.close(os.open(path + b"/" + name, os.O_CREAT | os.O_WRONLY, 0o600))
            os.chown(path + b"/" + name, USER, USER)
        os.mkdir(path + b"/dir")
        os.chown(path, USER, USER)
        yield path


@pytest.fixture
def one(top: bytes) -> Iterator[Caller]:
    def prepared() -> None:
        os.chdir(top)
        for number, name in ((FILE, "file"), (OTHER, "other")):
            os.dup2(os.open(name, os.O_RDWR), number)
        os.dup2(os.open("dir", os.O_RDONLY), DIRECTORY)
        os.setgroups([GROUP])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)

    with caller(prepared) as made:
        yield made


def held(top: bytes) -> list[bytes]:
    """What of the caller's this process has open."""
    found = []
    for each in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(b"/proc/self/fd/%d" % int(each))
        except OSError:  # it was the list's own
            continue
        found += [name] if name.startswith(top) else []
    return found


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("newfstatat", (FILE, b"", b"\0" * 256, EMPTY)),
        ("fchownat", (FILE, b"", USER, USER, EMPTY)),
        ("openat", (DIRECTORY, b"../file", os.O_RDONLY, 0)),
        ("openat", (AT_FDCWD, b"file", os.O_RDONLY, 0)),
        ("linkat", (AT_FDCWD, b"file", DIRECTORY, b"../new", 0)),
    ],
)
@pytest.mark.parametrize("known", [False, True], ids=["new", "somebody asked who it is"])
def test_nothing_is_held_behind_the_answer(
    top: bytes, one: Caller, name: str, args: tuple[Any, ...], known: bool
) -> None:
    """Who is answered may unmount where it was, run what it wrote, or wait for who else has it open."""
    with performing.Performers() as performers:
        call = one.call(name, *args)
        if known:
            assert call.caller.uids.effective == USER
        said = performers.perform(call)
        assert isinstance(said, Answer | HandOver), said
        if isinstance(said, HandOver):
            os.close(said.fd)
        assert not held(top)
        call.expire()


def test_what_was_looked_at_is_what_is_changed(top: bytes, one: Caller) -> None:
    with performing.Performers() as performers:
        call = one.call("fchownat", FILE, b"", -1, GROUP, EMPTY)
        seen = os.fstat(call.fd(FILE)).st_ino
        assert one.natively("dup2", OTHER, FILE) == ("value", FILE)
        assert performers.perform(call) == Answer(0)
        files = [os.stat(top + b"/" + each) for each in (b"file", b"other")]
        assert [each.st_ino for each in files if each.st_gid == GROUP] == [seen]
        call.expire()


@pytest.mark.parametrize("short", [False, True])
def test_what_was_looked_at_is_what_is_connected(one: Caller, short: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, performing.Performers() as performers:
        to = struct.pack("=H", socket.AF_INET) + struct.pack(">H", server.getsockname()[1])
        to += socket.inet_aton("127.0.0.1") + bytes(8)
        kind = (int(socket.AF_INET), int(socket.SOCK_STREAM), 0)
        numbers = [one.natively("socket", *kind)[1] for _ in range(3)]
        assert performers.perform(one.call("connect", numbers[2], to, len(to))) == Answer(0)
        call = one.call("connect", numbers[0], to, len(to))
        looked = os.dup(call.fd(numbers[0]))
        assert one.natively("dup2", numbers[1], numbers[0]) == ("value", numbers[0])
        way = performers.ordinary("connect") if short else None
        said = way(call, Perform()) if way is not None else None
        assert (performers.perform(call) if said is None else said) == Answer(0)
        with socket.socket(fileno=looked) as sock:
            assert sock.getpeername() == server.getsockname()
        call.expire()
