"""Servers of FUSE file systems: programs of the host's that serve a container's image, in a place without
anything else.

A server reads what a container wrote, so it is nobody to be trusted.  It has the caller's ids, its user namespace,
and of its capabilities those about files, and CAP_SYS_ADMIN there, by which libfuse mounts; a mount namespace
and a pid namespace of its own; as root directory a tmpfs with its libraries, /dev/fuse and the image; and a
filter that knows files, memory and threads.  The container's filter is not on it; so the container must not get
hold of it: its program is a file that nobody may read, and what runs that is dumped, traced and looked into by
nobody below the host's root (``would_dump`` in fs/exec.c).

The server mounts itself at a directory of its own.  That mount is cloned and taken away from it: it is the
caller's alone then, and when it goes, with umount(2) or with the last process of its mount namespace, the
kernel tells the server that it is over.  The first process of the pid namespace waits for that, and ends what is left.
Until the mount is out it dies with the executor that made it, and so with the call.
"""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import signal
import socket
import struct
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, Final

from proctor.performing.executing import image, programs
from proctor.performing.executing.single import SENT, Shape
from proctor.performing.executing.steps import Result
from proctor.performing.mounts import mounters, node, secluding
from proctor.performing.trouble import Said, Trouble
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.performing.task import Task

#: Servers of a container at the same time.
MOST: Final = 16
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
#: Seconds that a loader may take to list libraries.
_PATIENCE: Final = 10
_PT_INTERP: Final = 3
#: Seconds that a server may take to die with its container.
_LAST_MOMENTS: Final = 0.1
_OPEN_TREE: Final = 1 | getattr(os, "O_CLOEXEC", 0)
_AT_EMPTY_PATH: Final = 0x1000
_TOLD: Final = 1024
_PLAIN: Final = re.compile(rb"[A-Za-z0-9_./:+@-]{1,200}")


class Served(NamedTuple):
    """What is to be served."""

    #: The server's name or path on the host.
    program: str
    #: For its -o.
    options: tuple[bytes, ...]
    #: The image or block device, opened as the caller.
    fd: int
    #: The latter's number; None for an image.
    device: int | None
    #: What it is called.
    source: bytes
    #: Whether the rules for devices of the caller's cgroups are about it.
    joins: bool


class Servers:
    """Those that run, by container: pidfds; thread-safe."""

    def __init__(self) -> None:
        self._known: dict[object, list[int]] = {}
        self._lock = threading.Lock()
        #: Of a program by its path: what it was when that was asked, and where it looks for which libraries.
        self.libraries: dict[str, tuple[object, dict[bytes, bytes]]] = {}

    def add(self, container: object, pidfd: int) -> None:
        """Know one; its descriptor is given away."""
        with self._lock:
            self._known.setdefault(container, []).append(pidfd)

    def count(self, container: object) -> int:
        """How many run; those that ended are forgotten."""
        with self._lock:
            own = self._known.get(container, [])
            ended = [each for each in own if _ended(each)]
            self._known[container] = [each for each in own if each not in ended]
            for each in ended:
                os.close(each)
            return len(own) - len(ended)

    def forget(self, container: object) -> None:
        """A container is over, and its servers with it."""
        with self._lock:
            own = self._known.pop(container, [])
        for each in own:
            try:
                signal.pidfd_send_signal(each, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for each in own:
            _ended(each, _LAST_MOMENTS)  # while there is a mother to reap it
            os.close(each)

    def close(self) -> None:
        """Know none: they go with their mounts, since another monitor may go on with the container."""
        with self._lock:
            own = [each for some in self._known.values() for each in some]
            self._known.clear()
        for each in own:
            os.close(each)


def _ended(pidfd: int, seconds: float = 0) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def serve(task: Task, what: Served) -> Generator[Any, Any, int]:
    """A mount that is nowhere yet, of what a server serves; the task closes it.

    :raises Said: what it was, with the server's own words.
    :raises Powerless: the monitor has not got the right.
    :raises Trouble: it was not performed."""
    servers = task.host.kept.setdefault("fuse", Servers())
    assert isinstance(servers, Servers)
    container = task.session.container
    if servers.count(container) >= MOST:
        raise Said(errno.ENOSPC, f"{MOST} servers of this container run already")
    mounters.rights(task)
    path = shutil.which(what.program, path=_PATH)
    if path is None:
        raise Trouble(f"there is no {what.program} on the host")
    try:
        with open(path, "rb") as file:
            read = file.read()
    except OSError as error:
        raise Trouble(f"{path} cannot be read: {error.strerror}") from None
    libraries = yield from _libraries(task, servers, path, read)

    own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ExitStack() as stack, own, theirs, open(os.memfd_create("said"), "rb") as said:
        if what.device is None:
            place = yield from _clone(task, what.fd)
        else:
            place = stack.enter_context(_node(task, what.device, what.fd))
        program = task.hold(_unreadable(read, os.path.basename(path)))
        name = os.fsencode(os.path.basename(path))
        words = [name, b"-o", b",".join(_options(what)), b"/image", b"/mnt"]
        making = secluding.secluded(task.who, libraries, what.device is not None, words)
        fds = (
            task.caller.namespace_fd("user"),
            program,
            said.fileno(),
            own.fileno(),
            theirs.fileno(),
            place,
        )
        reply = yield from mounters.ask(task, what.joins, making.request, fds)
        told = os.pread(said.fileno(), _TOLD, 0).decode(errors="replace").strip()
        pidfd = reply.take(making.pidfd) if reply.made(making.pidfd) else -1
        try:
            failed = next((each for each in making.words if reply.error(Result(each))), None)
            if failed is not None:
                words_ = f"{making.words[failed]}: {os.strerror(reply.error(Result(failed)))}"
                raise Trouble(words_)
            if not reply.made(making.told):
                raise Trouble(f"{what.program} was not heard of")
            (code,) = struct.unpack("=i", reply.parts[making.code])
            if code or not reply.made(making.over):
                raise Said(errno.EINVAL, f"{what.program}: {told or f'it ended ({code:#x})'}")
            mount = task.keep(reply, making.mount)
            servers.add(container, pidfd)
            pidfd = -1
            return mount
        finally:
            reply.close()
            if pidfd >= 0:
                os.close(pidfd)


def _node(task: Task, device: int, fd: int) -> AbstractContextManager[int]:
    """Of a device that the caller has opened."""
    import fcntl

    who = task.who
    reads = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    return node.node(device, None if reads else (who.uids[3], who.gids[3]))


def _options(what: Served) -> list[bytes]:
    named = [b"fsname=" + what.source] if _PLAIN.fullmatch(what.source) else []
    return [b"allow_other", b"default_permissions", *named, *what.options]


def _libraries(
    task: Task, servers: Servers, path: str, program: bytes
) -> Generator[Any, Any, list[tuple[bytes, bytes]]]:
    """(where it is on the host, where it is looked for) of what a program needs to be begun, as its own loader
    tells; asked once, until the program or what ldconfig(8) found is another."""
    loader = _loader(program)
    if loader is None:
        return []
    version = [_version(each) for each in (path, "/etc/ld.so.cache")]
    known, found = servers.libraries.get(path, (None, {}))
    if known != version:
        done = yield from programs.run(task, [loader, "--list", path], patience=_PATIENCE)
        found = {os.fsencode(loader): os.fsencode(loader)}
        for line in done.said.splitlines():
            name, arrow, where = line.strip().partition(b" => ")
            where = (where if arrow else name).partition(b" (")[0]
            if where.startswith(b"/"):
                found[b"/lib/" + os.path.basename(name) if arrow else where] = where
        if not done.code:
            servers.libraries[path] = version, found
    return [(os.path.realpath(real), where) for where, real in found.items()]


def _version(file: str) -> tuple[int, ...]:
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _loader(program: bytes) -> str | None:
    """What an ELF file says that runs it (elf(5)); None if nothing does: it is linked statically.

    :raises Trouble: it is no such file, or says nothing that can be made out."""
    wide, end = program[4:5] == b"\2", "<" if program[5:6] == b"\1" else ">"
    try:
        (start,) = struct.unpack_from(f"{end}{'Q' if wide else 'I'}", program, 32 if wide else 28)
        size, count = struct.unpack_from(f"{end}HH", program, 54 if wide else 42)
        if program[:4] != b"\x7fELF":
            raise ValueError
        for at in range(start, start + size * count, size):
            if struct.unpack_from(f"{end}I", program, at)[0] == _PT_INTERP:
                fields = f"{end}{'8xQ16xQ' if wide else '4xI8xI'}"
                offset, length = struct.unpack_from(fields, program, at)
                return os.fsdecode(program[offset : offset + length].rstrip(b"\0"))
    except (struct.error, ValueError):
        raise Trouble("the server is no program that a loader or the kernel runs") from None
    return None


def _unreadable(program: bytes, name: str) -> int:
    """A program in memory that may be run, and not read; the asker's to close."""
    fd = image.sealed(program, name)
    os.fchmod(fd, 0o111)
    return fd


_CLONING: Final = Shape("open_tree", SENT, b"", _OPEN_TREE | _AT_EMPTY_PATH, gives=True)


def _clone(task: Task, fd: int) -> Generator[Any, Any, int]:
    """The mount of one file, made as the caller."""
    cloning = _CLONING()
    reply = yield from task.session.ask(cloning.request, fds=(fd,))
    if not reply.made(cloning.made):
        raise Said(reply.error(cloning.made), "the image is on a mount that is not the caller's")
    return task.keep(reply, cloning.made)
