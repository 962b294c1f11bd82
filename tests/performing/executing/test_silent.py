"""A FUSE server that never answers, in the middle of each kind of performed calls: others go on, the container's limit holds,
and whoever gives up or ends is not held."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

import proctor
from proctor.call.verdict import Perform
from proctor.kernel import _core
from proctor.kernel.raw import filesystem_type
from proctor.performing.conversation import Conversation
from proctor.performing.families import fsflags
from proctor.performing.families import mount as mounts
from tests.performing.families.test_open_differential import MAP
from tests.performing.mounts.test_fuse_servers import (
    ACCESS,
    NEVER,
    QUIET,
    READLINK,
    of,
    place,
    serving,
)
from tests.performing.support.callers import (
    AT_FDCWD,
    Caller,
    Performers,
    caller,
    outcome,
    private_mounts,
)
from tests.performing.support.images import top
from tests.support.stuck import LOOKUP, OPEN, STATFS, Stuck

__all__ = ["place", "top"]
pytestmark = [pytest.mark.timeout(120), pytest.mark.root]

STREAM, DATAGRAM = 77, 78
TIMES = struct.pack("=4q", 1, 0, 1, 0)
FUSE_SUPER_MAGIC = 0x65735546
IMAGES = mounts.Options(filesystems=["ext4"], images=True)
FLAGS = fsflags.Options()


def kinds(place: bytes) -> dict[str, tuple[Any, ...]]:
    """Calls about a file of the server's: (name, options, arguments)."""
    file, other, here = place + b"/mnt/file", place + b"/mnt/other", place + b"/here"
    address = struct.pack("=H", socket.AF_UNIX) + file + b"\0"
    how = struct.pack("=3Q", os.O_RDWR | os.O_CREAT, 0o600, 0)
    room = bytes(512)
    return {
        "open": ("openat", None, AT_FDCWD, file, os.O_RDONLY, 0),
        "create": ("openat", None, AT_FDCWD, file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600),
        "truncate by open": ("openat", None, AT_FDCWD, file, os.O_TRUNC | os.O_WRONLY, 0),
        "openat2": ("openat2", None, AT_FDCWD, file, how, len(how)),
        "mkdir": ("mkdirat", None, AT_FDCWD, file, 0o755),
        "unlink": ("unlinkat", None, AT_FDCWD, file, 0),
        "rmdir": ("rmdir", None, file),
        "rename": ("renameat2", None, AT_FDCWD, file, AT_FDCWD, other, 0),
        "rename to it": ("renameat2", None, AT_FDCWD, here, AT_FDCWD, file, 0),
        "link": ("linkat", None, AT_FDCWD, file, AT_FDCWD, other, 0),
        "symlink": ("symlinkat", None, b"to", AT_FDCWD, file),
        "mknod of a file": ("mknodat", None, AT_FDCWD, file, 0o100600, 0),
        "mknod of a device": ("mknodat", None, AT_FDCWD, file, 0o20600, os.makedev(1, 3)),
        "chmod": ("fchmodat", None, AT_FDCWD, file, 0o600),
        "chown": ("fchownat", None, AT_FDCWD, file, 1, 1, 0),
        "times": ("utimensat", None, AT_FDCWD, file, TIMES, 0),
        "truncate": ("truncate", None, file, 1),
        "stat": ("newfstatat", None, AT_FDCWD, file, room, 0),
        "statx": ("statx", None, AT_FDCWD, file, 0, 0xFFF, room),
        "access": ("faccessat", None, AT_FDCWD, file, os.R_OK),
        "readlink": ("readlinkat", None, AT_FDCWD, file, room, 512),
        "setxattr": ("setxattr", None, file, b"trusted.overlay.x", b"1", 1, 0),
        "getxattr": ("getxattr", None, file, b"trusted.overlay.x", room, 512),
        "listxattr": ("listxattr", None, file, room, 512),
        "removexattr": ("removexattr", None, file, b"trusted.overlay.x"),
        "execve": ("execve", None, file, 0, 0),
        "connect": ("connect", None, STREAM, address, len(address)),
        "bind": ("bind", None, STREAM, address, len(address)),
        "send": ("sendto", None, DATAGRAM, b"x", 1, 0, address, len(address)),
        "mount of it": ("mount", IMAGES, file, place + b"/m", b"ext4", 0, 0),
        "mount on it": ("mount", IMAGES, place + b"/here", file, b"ext4", 0, 0),
    }  # fmt: skip


NAMES = tuple(kinds(b""))
#: Where the server falls silent: at once, or when a file is to be changed or opened.
MOMENTS: dict[str, dict[int, Any]] = {
    "at once": {each: said for each, said in QUIET.items() if each not in (LOOKUP, STATFS, ACCESS)},
    "late": {each: said for each, said in QUIET.items() if each not in (OPEN, READLINK)},
}


def sockets() -> None:
    for number, kind in ((STREAM, socket.SOCK_STREAM), (DATAGRAM, socket.SOCK_DGRAM)):
        one = socket.socket(socket.AF_UNIX, kind)
        os.dup2(one.fileno(), number)


@pytest.mark.parametrize("ruled", [False, True], ids=["unasked", "under a rule"])
@pytest.mark.parametrize("maps", [None, MAP], ids=["own identity", "another"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_silent_server_holds_nobody_but_its_caller(
    place: bytes, moment: str, maps: str | None, ruled: bool
) -> None:
    with open(place + b"/here", "wb") as file:
        file.truncate(1 << 16)
    os.chown(place + b"/here", 100000 if maps else 0, 0)
    with Performers(limit=2) as performers, ExitStack() as over:
        setup: Callable[[], object] = sockets
        if maps is None:
            stuck = Stuck(place + b"/mnt", NEVER, MOMENTS[moment], place + b"/fuse")
            over.callback(stuck.close)
            rescue = threading.Timer(60, stuck.close)  # or nobody would hear that it hangs
            rescue.start()
            over.callback(rescue.cancel)
        else:

            def setup() -> None:
                serving(place, MOMENTS[moment])()
                sockets()

        one = over.enter_context(caller(setup, maps=maps))
        other = over.enter_context(caller(private_mounts, maps=maps))
        others = proctor.Container("others")
        waiting = []
        for kind in NAMES:
            container = proctor.Container(kind)
            waits = begun(over, performers, one, container, kind, place, ruled)
            goes_on(performers, other, others)
            if waits is None:
                continue
            waiting.append(kind)
            more = [waits]
            for _ in range(2):
                again = begun(over, performers, one, container, kind, place, ruled)
                more += [] if again is None else [again]
            assert len(more) < 3, f"{kind}: no limit"
            goes_on(performers, other, others)
            for each in more:
                each.cancel()
                assert each.verdict is not None
        assert len(waiting) > 15, waiting
        assert maps is not None or rescue.is_alive()


def test_where_a_path_leads_is_told_without_its_server(place: bytes) -> None:
    """In the monitor's own identity, for rules about paths, and for what asks of which kind a file system is."""
    stuck = Stuck(place + b"/mnt", STATFS, {LOOKUP: QUIET[LOOKUP]}, place + b"/fuse")
    rescue = threading.Timer(20, stuck.close)  # or nobody would hear that it hangs
    rescue.start()
    root = os.open("/", os.O_PATH)
    try:
        found = _core.find(root, -1, place + b"/mnt/./file", True, False)
        assert found is not None
        name, fd, _ = found
        try:
            assert name == place + b"/mnt/file"
            assert filesystem_type(fd) == FUSE_SUPER_MAGIC
        finally:
            os.close(fd)
        assert stuck.waiting == 0
    finally:
        os.close(root)
        rescue.cancel()
        stuck.close()


def begun(
    over: ExitStack,
    performers: Performers,
    one: Caller,
    container: proctor.Container,
    kind: str,
    place: bytes,
    ruled: bool,
) -> Conversation | None:
    """What waits for the server; None if the call came to an end."""
    name, options, *args = kinds(place)[kind]
    wish = Perform((lambda *_: True) if ruled else None, options=options)
    call = of(one, container, name, *args)
    said = performers.begin(call, wish)
    over.callback(ends, call)
    return said if isinstance(said, Conversation) else None


def ends(call: proctor.Call) -> None:
    """It is over, as a supervisor's call would be."""
    if call._caller is not None:
        call._caller.close()


def goes_on(performers: Performers, other: Caller, container: proctor.Container) -> None:
    """Somebody else's calls are performed."""
    for path in (b"/etc/passwd", b"/etc/group"):
        said = performers.perform(of(other, container, "openat", AT_FDCWD, path, os.O_RDONLY, 0))
        assert outcome(said)[0] == "fd", said
