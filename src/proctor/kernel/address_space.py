"""The address space of one thread, held by descriptors of its /proc directory.

A thread's number is given to somebody else once it is dead; these descriptors reach no other address
space than the one they were opened for.  So what is opened while a notification is valid can be
written to afterwards, and what was written can only be the caller's.

``/proc/TID/mem`` reads and writes where the caller itself could not (FOLL_FORCE in ``mem_rw``,
fs/proc/base.c, Linux 6.18).  What its mappings allow is therefore asked first, so that the memory
answers as it would answer the kernel's own copy_from_user and copy_to_user.  Two things that those
respect are not seen here: protection keys, and shadow stacks (x86, Linux 6.6), which show as writable.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import struct
from collections.abc import Iterator
from functools import cache
from typing import Final

from proctor.kernel.thread import ProcFiles
from proctor.records import NamedTuple

# include/uapi/linux/fs.h, since Linux 6.11: size, flags, address; then start, end, flags of the
# mapping that was found, and fields that nobody asked for.
_QUERY: Final = struct.Struct("=6Q56x")
_PROCMAP_QUERY: Final = 0xC0686611
_COVERING_OR_NEXT: Final = 0x10
_READABLE: Final = 0x01
_WRITABLE: Final = 0x02
_EXECUTABLE: Final = 0x04

_LINE: Final = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) (.)(.)(.)")
_CHUNK: Final = 1 << 16
#: No architecture has smaller pages.
_PAGE: Final = 4096


class Mapping(NamedTuple):
    """One mapping: from ``start`` up to and without ``end``."""

    start: int
    end: int
    readable: bool
    writable: bool
    executable: bool


def mappings(fd: int, address: int, end: int) -> Iterator[Mapping]:
    """The mappings from ``address`` on, up to the first gap, or to ``end``.

    :param fd: ``/proc/TID/maps``, open.
    :raises OSError: ESRCH if the address space is no more.
    """
    if address >> 63:  # the kernel's half, or no address at all
        return
    for found in _queried(fd, address) if _can_query(fd) else _listed(fd, address):
        if found.start > address:
            return
        yield found
        address = found.end
        if address >= end:
            return


def _can_query(fd: int) -> bool:
    try:
        _query(fd, 0)
    except OSError as problem:
        return problem.errno in (errno.ENOENT, errno.ESRCH)  # asked, and answered
    return True


def _query(fd: int, address: int) -> Mapping:
    request = bytearray(_QUERY.pack(_QUERY.size, _COVERING_OR_NEXT, address, 0, 0, 0))
    fcntl.ioctl(fd, _PROCMAP_QUERY, request)
    _, _, _, start, end, flags = _QUERY.unpack(request)
    rights = (bool(flags & right) for right in (_READABLE, _WRITABLE, _EXECUTABLE))
    return Mapping(start, end, *rights)


def _queried(fd: int, address: int) -> Iterator[Mapping]:
    while True:
        try:
            found = _query(fd, address)
        except FileNotFoundError:  # nothing there, nor above
            return
        yield found
        address = found.end


def _listed(fd: int, address: int) -> Iterator[Mapping]:
    """Before Linux 6.11: from the text, which a target makes as long as vm.max_map_count lets it.

    Parts that end below ``address`` are passed over unparsed."""
    rest = b""
    at = 0
    while part := os.pread(fd, _CHUNK, at):
        at += len(part)
        lines = (rest + part).split(b"\n")
        rest = lines.pop()
        if not lines or int(lines[-1].partition(b"-")[2].partition(b" ")[0], 16) <= address:
            continue
        for line in lines:
            found = _LINE.match(line)
            if found is not None and int(found[2], 16) > address:
                rights = (found[3 + i] == b"rwx"[i : i + 1] for i in range(3))
                yield Mapping(int(found[1], 16), int(found[2], 16), *rights)


@cache
def _executable_is_readable() -> bool:
    """Whether this processor reads pages that may only be executed.

    x86 does (access_error of arch/x86/mm/fault.c, Linux 6.18, wants any right at all), unless it has
    protection keys, of which such a mapping gets one that denies it (execute_only_pkey, pkeys(7)).
    riscv does not; arm64 does not say which of the two its processor is."""
    if platform.machine() not in ("x86_64", "i386", "i686"):
        return False
    with open("/proc/cpuinfo", "rb") as file:
        return re.search(rb"^flags\s*:.*\bospke\b", file.read(), re.M) is None


class AddressSpace:
    """The memory of thread ``tid``, as far as its mappings allow; a context manager.

    :param write: also for writing.
    :raises OSError: ENOENT or ESRCH if there is no such thread; EACCES or EPERM if it may not be
        looked at (PTRACE_MODE_ATTACH, ptrace(2)).

    After making one, check the notification: only then is it known to be the caller's.
    """

    __slots__ = ("_maps", "_mem")

    def __init__(self, tid: int, *, write: bool = False) -> None:
        self._mem = self._maps = -1
        with ProcFiles(tid) as files:
            self._mem = files.open("mem", os.O_RDWR if write else os.O_RDONLY)
            self._maps = files.open("maps", os.O_RDONLY)

    def read(self, address: int, limit: int, *, string: bool = False) -> bytes:
        """Up to ``limit`` bytes: as many as the caller's processor would read for it.

        Writable implies readable, as in the fault handlers of x86, arm64 and riscv; executable only
        on some processors.

        :param string: up to and with the first NUL, not touching the page after it.
        :raises OSError: ESRCH if the address space is no more.
        """
        found = bytearray()
        for part in mappings(self._maps, address, address + limit):
            if not (part.readable or part.writable) and not (
                part.executable and _executable_is_readable()
            ):
                break
            stop = min(part.end, address + limit)
            while (at := address + len(found)) < stop:
                step = min(stop - at, _PAGE - at % _PAGE if string else _CHUNK)
                data = self._some(step, at)
                if not data:
                    return bytes(found)
                if string and b"\0" in data:
                    return bytes(found) + data[: data.index(b"\0") + 1]
                found += data
        return bytes(found)

    def _some(self, size: int, at: int) -> bytes:
        """As much as there is of so many bytes that are mapped; none at the end of a file, behind which there is nothing.

        :raises OSError: ESRCH if the address space is no more."""
        try:
            data = os.pread(self._mem, size, at)
        except OSError as problem:
            if problem.errno == errno.EIO:
                return b""
            raise
        if not data:
            raise ProcessLookupError(errno.ESRCH, "the address space is no more")
        return data

    def room(self, address: int, size: int) -> int:
        """How many of so many bytes can be written to, from the first on: what is mapped so, and has something behind it.

        :raises OSError: ESRCH if the address space is no more.
        """
        end = address
        for part in mappings(self._maps, address, address + size):
            if not part.writable:
                break
            end = min(part.end, address + size)
        at = address
        while at < end and (got := self._some(min(end - at, _CHUNK), at)):
            at += len(got)
        return at - address

    def write(self, address: int, data: bytes) -> int:
        """How many bytes were written: fewer than all where the caller could not write the next.

        :raises OSError: ESRCH if the address space is no more.
        """
        done = 0
        view = memoryview(data)
        for part in mappings(self._maps, address, address + len(data)):
            if not part.writable:
                break
            stop = min(part.end, address + len(data)) - address
            while done < stop:
                try:
                    wrote = os.pwrite(self._mem, view[done:stop], address + done)
                except OSError as problem:
                    if problem.errno == errno.EIO:
                        return done
                    raise
                if not wrote:
                    raise ProcessLookupError(errno.ESRCH, "the address space is no more")
                done += wrote
        return done

    def close(self) -> None:
        """Close the descriptors; idempotent."""
        fds = self._mem, self._maps
        self._mem = self._maps = -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> AddressSpace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
