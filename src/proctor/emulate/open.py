"""open, openat, openat2, creat: opened as the caller would, and handed over.

The performer opens with the caller's own path, flags, mode and resolve bits, in the caller's identity;
what it opened becomes a descriptor of the target by ADDFD.  So the file's offset, its O_NONBLOCK,
its lease on a FIFO's other end are all the target's.  EMFILE is ADDFD's to say.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import Verdict, deny, hand_over, let_run_unsafe
from proctor.emulate import raw, scarce, wire
from proctor.emulate.identity import Identity
from proctor.emulate.pool import Allow, PerformerTrouble

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.emulate.performers import Performers

_FASYNC: Final = 0o20000
_O_LARGEFILE: Final = (
    0o100000 if os.uname().machine in ("x86_64", "i686", "s390x") else os.O_LARGEFILE
)
#: VALID_OPEN_FLAGS of include/linux/fcntl.h: open and openat ignore all others, openat2 does not.
_VALID: Final = (
    os.O_ACCMODE | os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_TRUNC | os.O_APPEND | os.O_NONBLOCK
    | os.O_SYNC | os.O_DSYNC | _FASYNC | os.O_DIRECT | _O_LARGEFILE | os.O_DIRECTORY
    | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC | os.O_PATH | os.O_TMPFILE
)  # fmt: skip
_WITH_O_PATH: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_PATH | os.O_CLOEXEC
_HOW: Final = struct.Struct("=QQQ")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_NO_O_PATH: Final = (
    "an O_PATH descriptor cannot be handed over; leave such calls to the kernel, by a rule before: "
    'when = { flags = { all = ["O_PATH"] } } allow = true'
)


class Wanted:
    """What one call asks for, as openat2(2) would."""

    __slots__ = ("dirfd", "flags", "mode", "path", "resolve")

    def __init__(self, dirfd: int, path: bytes, flags: int, mode: int, resolve: int) -> None:
        self.dirfd = dirfd
        self.path = path
        self.flags = flags
        self.mode = mode
        self.resolve = resolve


def _signed(register: int) -> int:
    register &= 0xFFFFFFFF
    return register - (1 << 32) if register >> 31 else register


def _old(dirfd: int, path: bytes, flags: int, mode: int) -> Wanted:
    """build_open_how of fs/open.c: the older calls forgive, so they are made strict first."""
    flags &= _VALID
    if flags & os.O_PATH:
        flags &= _WITH_O_PATH
    if not flags & (os.O_CREAT | raw.O_TMPFILE_BIT):
        mode = 0
    return Wanted(dirfd, path, flags, mode & 0o7777, 0)


def decode(call: Call) -> Wanted | int:
    """What is wanted, or the errno that the kernel gives before it looks at any path.

    :raises MemoryUnreadable: EFAULT, or ENAMETOOLONG for a path of 4096 bytes or more.
    """
    raw_args = call.registers
    if call.name == "openat2":
        size = raw_args[3]
        if size < _HOW.size:
            return errno.EINVAL
        if size > _PAGE:
            return errno.E2BIG
        data = call.memory.read(raw_args[2], size)
        if data[_HOW.size :].strip(b"\0"):
            return errno.E2BIG
        return Wanted(_signed(raw_args[0]), call.path, *_HOW.unpack_from(data))
    if call.name == "openat":
        return _old(_signed(raw_args[0]), call.path, raw_args[2], raw_args[3])
    if call.name == "creat":
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        return _old(raw.AT_FDCWD, call.path, flags, raw_args[1])
    return _old(raw.AT_FDCWD, call.path, raw_args[1], raw_args[2])


def perform_open(host: Performers, call: Call, allow: Allow | None) -> Verdict:
    """Open for the caller and hand the descriptor over."""
    wanted = decode(call)
    if isinstance(wanted, int):
        return deny(wanted)
    caller = Identity(call.tid, host.own())
    try:
        packet, refused = _ask_performer(host, call, caller, wanted, allow)
    finally:
        caller.close()
    kind, number = wire.REPLY.unpack_from(packet.data)
    if kind == wire.DONE:
        if refused:
            return deny(errno.EACCES)  # said by allow(), whose reason it has
        return deny(number or errno.EIO)
    if kind == wire.CONTROLLING_TTY:
        return deny(errno.ENXIO, "the caller's controlling terminal is none of its descriptors 0-2")
    if kind != wire.OPENED:
        raise PerformerTrouble("the performer's reply makes no sense")
    fd = packet.fds[0]
    if wanted.flags & os.O_PATH:
        os.close(fd)
        if host.o_path == "run":
            return let_run_unsafe(
                "an O_PATH descriptor cannot be handed over; it gives no right to read or write"
            )
        return deny(errno.EOPNOTSUPP, _NO_O_PATH)
    return hand_over(fd, cloexec=bool(wanted.flags & os.O_CLOEXEC))


def _ask_performer(
    host: Performers, call: Call, caller: Identity, wanted: Wanted, allow: Allow | None
) -> tuple[wire.Packet, bool]:
    options = host.options(caller, allow)
    start: int | None = None
    if not wanted.path.startswith(b"/") or wanted.resolve & raw.RESOLVE_SCOPED:
        start = caller.start(wanted.dirfd)
        options |= wire.BAD_DIR if start is None else wire.HAS_DIR
    flags = wanted.flags
    if not flags & os.O_PATH:
        flags |= os.O_NOCTTY  # a performer has no use for a terminal, nor may it take one
    try:
        request = _request(wire.OP_OPEN, options, caller, flags, wanted)
        fds = [] if start is None else [start]
        packet, refused = host.converse(call, caller, request, fds, allow)
    finally:
        if start is not None:
            os.close(start)
    if packet.data[0] != wire.CONTROLLING_TTY:
        return packet, refused
    terminal = _controlling_terminal(caller)
    if terminal is None:
        return packet, refused
    try:
        request = _request(wire.OP_REOPEN, options & wire.OTHER_CGROUP, caller, flags, None)
        return host.converse(call, caller, request, [terminal], None)
    finally:
        os.close(terminal)


def _request(op: int, options: int, caller: Identity, flags: int, wanted: Wanted | None) -> bytes:
    pids = caller.pids
    mode, resolve, path = (wanted.mode, wanted.resolve, wanted.path) if wanted else (0, 0, b"")
    return (
        wire.REQUEST.pack(op, options, caller.umask, len(pids), flags, mode, resolve) + pids + path
    )


def _controlling_terminal(caller: Identity) -> int | None:
    """An O_PATH descriptor of the caller's controlling terminal, found among its descriptors."""
    with open(
        "stat", "rb", opener=lambda path, flags: os.open(path, flags, dir_fd=caller.proc)
    ) as file:
        number = int(file.read().rpartition(b")")[2].split()[4]) & 0xFFFFFFFF
    if not number:
        return None
    device = os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00)
    for name in ("fd/0", "fd/1", "fd/2"):
        try:
            if os.stat(name, dir_fd=caller.proc).st_rdev != device:
                continue
            return os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=caller.proc)
        except OSError as error:
            scarce.pass_on(error)
            continue
    return None
