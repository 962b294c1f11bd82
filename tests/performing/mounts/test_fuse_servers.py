"""FUSE servers of a container's that are hostile: they answer never, or otherwise each time."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import stat
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from typing import Any

import pytest

import proctor
from proctor.call.path.following import Sought
from proctor.call.verdict import Answer, Deny, HandOver, Perform, deny
from proctor.kernel import raw
from proctor.performing.conversation import Conversation
from proctor.performing.families import fsflags
from proctor.supervisor.ports import Later
from tests.performing.families.test_open_differential import MAP
from tests.performing.support.callers import (
    AT_FDCWD,
    Call,
    Caller,
    Performers,
    caller,
    libc,
    outcome,
    private_mounts,
)
from tests.performing.support.images import top
from tests.support.stuck import FLUSH, INODE, LOOKUP, OPEN, STATFS, Stuck

__all__ = ["top"]
pytestmark = [pytest.mark.timeout(60), pytest.mark.root]

READLINK, READ, GETXATTR, ACCESS, NEVER = 5, 15, 22, 34, 0
FILE, LINK = 0o100755, 0o120777


def entry(node: int, mode: int) -> bytes:
    """An answer to LOOKUP, which is not to be believed for any time."""
    attributes = INODE.pack(6, 6, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
    return struct.pack("=QQQQII", node, 0, 0, 1000, 0, 0) + attributes


#: One file, whatever its name.
QUIET = {
    LOOKUP: entry(2, FILE), STATFS: bytes(80), ACCESS: b"", FLUSH: b"", OPEN: struct.pack("=QII", 1, 1, 0)
}  # fmt: skip


@pytest.fixture
def place(top: bytes) -> bytes:
    """A directory to mount something on, and a node of FUSE for whoever does."""
    os.mkdir(top + b"/mnt")
    os.mknod(top + b"/fuse", stat.S_IFCHR | 0o666, os.makedev(10, 229))
    os.chmod(top + b"/fuse", 0o666)
    try:
        os.close(os.open(top + b"/fuse", os.O_RDWR))
    except OSError as problem:
        pytest.skip(f"no FUSE here: {problem.strerror}")
    return top


def serving(place: bytes, answers: Any, at: int = NEVER) -> Callable[[], None]:
    """Be in a mount namespace with such a file system on ``mnt``."""

    def setup() -> None:
        private_mounts()
        ours, theirs = os.pipe()
        if not os.fork():  # whoever holds files there cannot end before the server has
            libc.prctl(1, 9, 0, 0, 0)
            Stuck(place + b"/mnt", at, answers, place + b"/fuse")
            os.write(theirs, b"1")
            signal.pause()
        os.read(ours, 1)

    return setup


def of(one: Caller, container: proctor.Container | None, name: str, *args: Any) -> Call:
    call = one.call(name, *args)
    if container is not None:
        call.container = container  # type: ignore[assignment]
    return call


ASKS = {
    "seek": lambda performers, call: performers.seek(call, Sought(call.path)),
    "open": lambda performers, call: performers.begin(call, Perform()),
    "ruled": lambda performers, call: performers.begin(call, Perform(lambda *_: True)),
}


@pytest.mark.parametrize("asks", ASKS)
def test_who_waits_for_a_server_counts_and_holds_nobody(place: bytes, asks: str) -> None:
    """In another identity: the first look is an executor's, and so is each that follows."""
    one_, other_ = proctor.Container("one"), proctor.Container("other")
    answers = {key: said for key, said in QUIET.items() if key != LOOKUP}
    begun: list[Any] = []
    calls: list[Call] = []
    with (
        Performers(limit=3) as performers,
        caller(serving(place, answers), maps=MAP) as one,
        caller(private_mounts, maps=MAP) as other,
    ):
        ask = ASKS[asks]
        assert (
            outcome(performers.perform(of(one, one_, "openat", AT_FDCWD, b"/etc/passwd", 0, 0)))[0]
            == "fd"
        )
        for _ in range(4):
            calls.append(of(one, one_, "openat", AT_FDCWD, place + b"/mnt/file", 0, 0))
            said = ask(performers, calls[-1])
            if not isinstance(said, (Later, Conversation)):
                break
            begun.append(said)
        assert isinstance(said, Deny) and said.errno == errno.ENOMEM, said
        assert 1 <= len(begun) <= 3
        assert isinstance(
            performers.perform(of(one, one_, "openat", AT_FDCWD, b"/etc/passwd", 0, 0)), Deny
        )
        for _ in range(3):
            performed = performers.perform(
                of(other, other_, "openat", AT_FDCWD, b"/etc/passwd", 0, 0)
            )
            assert outcome(performed)[0] == "fd"
            found: Any = performers.seek(
                of(other, other_, "openat", AT_FDCWD, b"/etc/passwd", 0, 0), Sought(b"/etc/passwd")
            )
            while isinstance(found, Later):  # its executor is slow
                select.select(found.fds, [], [], found.wait)
                found = found.resume()
            assert found == b"/etc/passwd"
        for each in begun:
            each.cancel()
        for call in calls:
            call.expire()


@pytest.mark.parametrize("maps", [None, MAP], ids=["own identity", "another"])
@pytest.mark.parametrize("name", ["execve", "fsync", "ioctl", "setxattr", "getxattr"])
def test_no_thread_of_the_monitor_waits_for_a_server(
    place: bytes, name: str, maps: str | None
) -> None:
    """Also where it could: such a file system lets it in."""
    program = place + b"/mnt/program"
    args: tuple[Any, ...] = {
        "execve": (program, 0, 0), "fsync": (77,), "ioctl": (77, 0x40086602, b"\0\0\0\0"),
        "setxattr": (program, b"trusted.overlay.x", b"1", 1, 0), "getxattr": (program, b"user.x", 0, 0),
    }[name]  # fmt: skip

    def held() -> None:
        os.dup2(os.open(program, os.O_RDONLY), 77)

    def setup() -> None:
        serving(place, QUIET)()
        held()

    options = fsflags.Options() if name == "ioctl" else None
    with Performers() as performers, ExitStack() as over:
        if maps is None:
            stuck = Stuck(place + b"/mnt", NEVER, QUIET, place + b"/fuse")
            over.callback(stuck.close)
        one = over.enter_context(caller(held if maps is None else setup, maps=maps))
        call = one.call(name, *args)
        over.callback(call.expire)
        begun = performers.begin(call, Perform(lambda *_: True, options=options))
        assert isinstance(begun, Conversation) or (name == "fsync" and begun == Answer(0)), begun
        if isinstance(begun, Conversation):
            begun.cancel()


def test_what_was_asked_about_is_what_is_opened(place: bytes) -> None:
    """A server that says file, link, file: what is opened is what the rule has seen, or nothing."""
    denied = place + b"/denied"
    with open(denied, "wb") as file:
        file.write(b"denied")
    os.chmod(denied, 0o644)
    turn = count()

    def looked_up(_: bytes) -> bytes:
        number = next(turn)
        return entry(2 + number, FILE if number * 2654435761 >> 7 & 1 else LINK)

    answers = {**QUIET, LOOKUP: looked_up, READLINK: denied, READ: b"served"}
    asked: list[bytes] = []

    def allow(argument: str, path: bytes) -> bool:
        asked.append(path)
        return path != denied

    outcomes = set()
    with Performers() as performers, caller(serving(place, answers), maps=MAP) as one:
        for _ in range(200):
            del asked[:]
            verdict = performers.perform(
                one.call("openat", AT_FDCWD, place + b"/mnt/file", 0, 0), allow
            )
            if isinstance(verdict, HandOver):
                assert raw.is_hidden(verdict.fd)  # so it is not what is denied
                os.close(verdict.fd)
                assert asked[-1].endswith(place + b"/mnt/file")
                outcomes.add("served")
            else:
                outcomes.add("refused")
    assert outcomes == {"served", "refused"}


@pytest.mark.parametrize("short", [False, True], ids=["the long way", "the short way"])
def test_a_duplicate_that_is_flushed_when_it_is_closed_holds_nobody(
    place: bytes, short: bool
) -> None:
    """What the monitor takes of a caller's, to look at, is closed by somebody for whom nobody waits, who counts."""
    answers = {key: said for key, said in QUIET.items() if key != FLUSH}
    stuck = Stuck(place + b"/mnt", FLUSH, answers, place + b"/fuse")

    def setup() -> None:
        os.dup2(os.open(place + b"/mnt/file", os.O_RDONLY), 77)
        os.dup2(os.open("/etc/hostname", os.O_RDONLY), 78)

    try:
        with Performers(limit=2) as performers, caller(setup) as one:
            assert performers.perform(one.call("fsync", 78)) == Answer(0)  # who it is, is known
            go = performers.ordinary("fsync")
            for number in (1, 2):
                call, wish = one.call("fsync", 77), Perform()
                assert (go and go(call, wish) if short else performers.begin(call, wish)) == Answer(
                    0
                )
                stuck.wait(number)
            verdict = performers.perform(one.call("openat", AT_FDCWD, b"/dev/null", 0, 0))
            assert isinstance(verdict, Deny)
            assert verdict.errno == errno.ENOMEM
            stuck.close()
    finally:
        stuck.close()


@pytest.mark.parametrize("name", ["connect", "sendto", "listen"])
def test_a_file_for_a_socket_holds_nobody(place: bytes, name: str) -> None:
    """Its duplicate is closed by somebody for whom nobody waits."""
    answers = {key: said for key, said in QUIET.items() if key != FLUSH}
    address = struct.pack("=HH12x", socket.AF_INET, 9)
    args: dict[str, tuple[Any, ...]] = {
        "connect": (77, address, 16), "sendto": (77, b"x", 1, 0, address, 16), "listen": (77, 1),
    }  # fmt: skip

    def setup() -> None:
        os.dup2(os.open(place + b"/mnt/file", os.O_RDONLY), 77)

    stuck = Stuck(place + b"/mnt", FLUSH, answers, place + b"/fuse")
    late = threading.Timer(20, stuck.close)
    try:
        with Performers(limit=4) as performers, caller(setup) as one:
            late.start()
            said = performers.begin(one.call(name, *args[name]), Perform())
            assert (said, stuck.device >= 0) == (deny(errno.ENOTSOCK), True)
            stuck.wait(1)
            stuck.close()
    finally:
        late.cancel()
        stuck.close()
