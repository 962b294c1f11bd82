"""A file system that does not answer."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Callable, Mapping

import pytest

libc = ctypes.CDLL(None, use_errno=True)

LOOKUP, GETATTR, OPEN, STATFS, FLUSH, _INTERRUPT = 1, 3, 14, 17, 25, 36
INODE = struct.Struct("=QQQQQQIIIIIIIIII")


class Stuck:
    """A FUSE server that reads requests and does not answer them all.

    :param at: what it is asked for in vain, and counts.
    :param answers: to other requests, or what makes one of the request.
    :param device: where /dev/fuse is.
    :param gives_up: what a signal came for is answered with EINTR.
    """

    def __init__(
        self,
        where: bytes,
        at: int = LOOKUP,
        answers: Mapping[int, bytes | Callable[[bytes], bytes]] | None = None,
        device: bytes = b"/dev/fuse",
        *,
        gives_up: bool = False,
    ) -> None:
        self.where = where
        self.gives_up = gives_up
        self.at = at
        self.answers = answers or {}
        self.device = os.open(device, os.O_RDWR)
        options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % self.device
        if libc.mount(b"stuck", where, b"fuse", ctypes.c_ulong(0), options) != 0:
            number = ctypes.get_errno()
            os.close(self.device)
            raise OSError(number, os.strerror(number))
        self.waiting = 0
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self.device, 1 << 18)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return
            _, opcode, unique = struct.unpack_from("=IIQ", request)
            if opcode == 26:  # FUSE_INIT
                answer = (
                    struct.pack("=IIII", 7, 31, 65536, 1 << 18)
                    + struct.pack("=HHI", 12, 9, 65536)
                    + bytes(40)
                )
            elif opcode == GETATTR:
                attr = INODE.pack(1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40777, 2, 0, 0, 0, 4096, 0)
                answer = struct.pack("=QII", 1000, 0, 0) + attr
            elif opcode in self.answers:
                said = self.answers[opcode]
                answer = said if isinstance(said, bytes) else said(request)
            elif opcode == _INTERRUPT and self.gives_up:
                (unique,) = struct.unpack_from("=Q", request, 40)
                os.write(self.device, struct.pack("=IiQ", 16, -errno.EINTR, unique))
                continue
            else:
                with self.changed:
                    self.waiting += opcode == self.at
                    self.changed.notify_all()
                continue
            os.write(self.device, struct.pack("=IiQ", 16 + len(answer), 0, unique) + answer)

    def wait(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.waiting >= count, 20)

    def close(self) -> None:
        """Idempotent."""
        if self.device < 0:
            return
        libc.umount2(self.where, 1)  # MNT_FORCE: what waits is told so
        libc.umount2(self.where, 2)  # MNT_DETACH
        self.thread.join(20)
        os.close(self.device)
        self.device = -1


def without_flush(top: bytes) -> Stuck:
    """A server with one file, which can be opened and never closed."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no FUSE here")
    os.mkdir(top + b"/mnt")
    file = INODE.pack(2, 0, 0, 0, 0, 0, 0, 0, 0, 0o100666, 1, 0, 0, 0, 4096, 0)
    answers: dict[int, bytes | Callable[[bytes], bytes]] = {
        LOOKUP: struct.pack("=QQQQII", 2, 0, 1000, 1000, 0, 0) + file,
        OPEN: struct.pack("=QII", 1, 0, 0),
        STATFS: bytes(80),
    }
    try:
        return Stuck(top + b"/mnt", FLUSH, answers)
    except OSError as problem:
        pytest.skip(f"no FUSE here: {problem.strerror}")
