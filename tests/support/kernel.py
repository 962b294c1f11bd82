"""The monitor's side of the interface, twice: raw ioctls, and proctor's native core.

A conformance test takes one of the two and asserts the same of both, so that the kernel and our
wrapper of it are held to one list.  Errors are :class:`OSError` with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from typing import Any, Protocol

from proctor.kernel import abi
from proctor.kernel.notification import Notification, NotificationLike

from .constants import NR
from .processes import LIBC, libc_syscall

#: Of the running kernel, as (6, 18).
RELEASE = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))

RECV = abi.SECCOMP_IOCTL_NOTIF_RECV
SEND = abi.SECCOMP_IOCTL_NOTIF_SEND
ID_VALID = abi.SECCOMP_IOCTL_NOTIF_ID_VALID
ID_VALID_WRONG_DIR = abi.SECCOMP_IOCTL_NOTIF_ID_VALID_WRONG_DIR
ADDFD = abi.SECCOMP_IOCTL_NOTIF_ADDFD
SET_FLAGS = abi.SECCOMP_IOCTL_NOTIF_SET_FLAGS

CONTINUE = abi.SECCOMP_USER_NOTIF_FLAG_CONTINUE
SETFD = abi.SECCOMP_ADDFD_FLAG_SETFD
ADDFD_SEND = abi.SECCOMP_ADDFD_FLAG_SEND

NEW_LISTENER = abi.SECCOMP_FILTER_FLAG_NEW_LISTENER
WAIT_KILLABLE = abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
TSYNC = abi.SECCOMP_FILTER_FLAG_TSYNC
TSYNC_ESRCH = abi.SECCOMP_FILTER_FLAG_TSYNC_ESRCH


def ioctl_number(direction: int, number: int, size: int) -> int:
    """_IOC(direction, '!', number, size) as x86 and most others lay it out; 1 write, 2 read."""
    return direction << 30 | size << 16 | ord("!") << 8 | number


def ioctl_address(fd: int, request: int, address: int) -> int:
    """ioctl(2) with a bare address as argument, which fcntl.ioctl cannot pass."""
    value: int = LIBC.ioctl(fd, ctypes.c_ulong(request), ctypes.c_void_p(address))
    if value == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return value


def unpack(buffer: bytes | bytearray) -> Notification:
    """struct seccomp_notif as a value."""
    ident, pid, flags, nr, arch, ip, *args = abi.SECCOMP_NOTIF.unpack(buffer)
    a, b, c, d, e, f = args
    return Notification(ident, pid, nr, arch, (a, b, c, d, e, f), ip, flags)


class Kernel(Protocol):
    """What a monitor does with a listener."""

    name: str

    def seccomp(self, operation: int, flags: int, argument: bytearray | None = None) -> int: ...
    def install(self, program: bytes, flags: int) -> int: ...
    def recv(self, fd: int) -> NotificationLike: ...
    def send(self, fd: int, id: int, value: int = 0, error: int = 0, flags: int = 0) -> None: ...
    def id_valid(self, fd: int, id: int) -> bool: ...
    def addfd(
        self, fd: int, id: int, srcfd: int, flags: int = 0, newfd: int = 0, newfd_flags: int = 0
    ) -> int: ...
    def set_flags(self, fd: int, flags: int) -> None: ...
    def pidfd_getfd(self, pidfd: int, fd: int) -> int: ...
    def read_memory(self, pid: int, address: int, size: int) -> bytes: ...


class Raw:
    """seccomp(2) and ioctl(2) with nothing in between."""

    name = "raw"

    def seccomp(self, operation: int, flags: int, argument: bytearray | None = None) -> int:
        """seccomp(2); the argument's address, or NULL."""
        pointer: Any = None
        if argument is not None:
            pointer = (ctypes.c_char * len(argument)).from_buffer(argument)
        return libc_syscall(NR["seccomp"], operation, flags, pointer)

    def install(self, program: bytes, flags: int) -> int:
        """SECCOMP_SET_MODE_FILTER on this very thread: for throw-away processes."""
        code = ctypes.create_string_buffer(program, len(program))
        fprog = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
        return self.seccomp(abi.SECCOMP_SET_MODE_FILTER, flags, bytearray(fprog))

    def recv(self, fd: int) -> Notification:
        """RECV; blocks, and EINTR is InterruptedError."""
        buffer = bytearray(abi.SECCOMP_NOTIF.size)
        fcntl.ioctl(fd, RECV, buffer)
        return unpack(buffer)

    def send(self, fd: int, id: int, value: int = 0, error: int = 0, flags: int = 0) -> None:
        """SEND, the error as the kernel takes it."""
        fcntl.ioctl(fd, SEND, abi.SECCOMP_NOTIF_RESP.pack(id, value, error, flags))

    def id_valid(self, fd: int, id: int) -> bool:
        """ID_VALID; only ENOENT means no."""
        try:
            fcntl.ioctl(fd, ID_VALID, struct.pack("=Q", id))
        except FileNotFoundError:
            return False
        return True

    def addfd(
        self, fd: int, id: int, srcfd: int, flags: int = 0, newfd: int = 0, newfd_flags: int = 0
    ) -> int:
        """ADDFD; a bytearray, so that the number comes back (C116)."""
        buffer = bytearray(abi.SECCOMP_NOTIF_ADDFD.pack(id, flags, srcfd, newfd, newfd_flags))
        number: int = fcntl.ioctl(fd, ADDFD, buffer)
        return number

    def set_flags(self, fd: int, flags: int) -> None:
        """SET_FLAGS, by value."""
        ioctl_address(fd, SET_FLAGS, flags)

    def pidfd_getfd(self, pidfd: int, fd: int) -> int:
        """pidfd_getfd(2)."""
        return libc_syscall(NR["pidfd_getfd"], pidfd, fd, 0)

    def read_memory(self, pid: int, address: int, size: int) -> bytes:
        """process_vm_readv(2): the bytes that could be read."""
        buffer = ctypes.create_string_buffer(size)
        local = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), size)
        remote = (ctypes.c_ulong * 2)(address, size)
        got = libc_syscall(NR["process_vm_readv"], pid, local, 1, remote, 1, 0)
        return buffer.raw[:got]


class Core:
    """``proctor.kernel._core``: the same calls through our native code.

    :raises ImportError: it is not built."""

    name = "core"

    def __init__(self) -> None:
        from proctor.kernel import _core, raw

        self.core, self.raw = _core, raw

    def seccomp(self, operation: int, flags: int, argument: bytearray | None = None) -> int:
        """seccomp(2) as it is."""
        return self.raw.seccomp(operation, flags, argument)

    def install(self, program: bytes, flags: int) -> int:
        """SECCOMP_SET_MODE_FILTER on this very thread: for throw-away processes."""
        from proctor.kernel import seccomp

        return seccomp.load(program, flags)

    def recv(self, fd: int) -> NotificationLike:
        """RECV; blocks, and EINTR is InterruptedError."""
        return self.core.recv(fd)

    def send(self, fd: int, id: int, value: int = 0, error: int = 0, flags: int = 0) -> None:
        """SEND, the error as the kernel takes it."""
        self.core.send(fd, id, value, error, flags)

    def id_valid(self, fd: int, id: int) -> bool:
        """ID_VALID; only ENOENT means no."""
        return self.core.id_valid(fd, id)

    def addfd(
        self, fd: int, id: int, srcfd: int, flags: int = 0, newfd: int = 0, newfd_flags: int = 0
    ) -> int:
        """ADDFD, with signals held back."""
        return self.core.addfd(fd, id, srcfd, flags, newfd, newfd_flags)

    def set_flags(self, fd: int, flags: int) -> None:
        """SET_FLAGS, by value."""
        from proctor.kernel.listener import Listener

        with Listener(os.dup(fd)) as listener:
            listener.set_flags(flags)

    def pidfd_getfd(self, pidfd: int, fd: int) -> int:
        """pidfd_getfd(2)."""
        return self.raw.pidfd_getfd(pidfd, fd)

    def read_memory(self, pid: int, address: int, size: int) -> bytes:
        """Up to ``size`` bytes."""
        return self.core.read(pid, address, size, False, -1, 0)


def errno_of(function: Any, *arguments: Any) -> int:
    """The errno a call fails with; 0 if it succeeds.  0 never equals an expected errno."""
    try:
        function(*arguments)
    except OSError as error:
        if error.errno is None:
            raise
        return error.errno
    return 0
