"""The memory of one caller, read and written while it waits for its answer.

Rules that this module keeps, so that nobody above has to (seccomp_unotify(2)):

* Everything is read *once*, into our own memory; what another thread of the target writes later
  changes nothing for us.
* After each read the notification is checked.  As long as it is valid the caller sits in the
  call, so its thread id cannot have been given to somebody else; if it is not, the bytes are
  thrown away (:class:`~proctor.errors.CallGone`).
* Lengths and addresses come from the target and are hostile.  Every method takes a limit of ours
  and reads what exists: a length of 2 GiB costs no more than the memory that is really there.
* What process_vm_readv(2) does not read may still be readable: it wants mappings that say so, the
  kernel takes what the processor lets it (memory mapped for writing alone, on most).  So EFAULT is
  said only after the mappings were looked at (:mod:`proctor.kernel.address_space`).
* A write cannot be taken back.  It goes through a descriptor that was opened while the notification
  was valid, and so to the caller or to nobody.

A hostile target can also make its memory *answer late* (userfaultfd, FUSE): a read may then wait,
without the GIL, until the target dies.  Handlers with deadlines belong on worker threads for that.
"""

from __future__ import annotations

import errno as _errno
from collections.abc import Callable
from typing import Any, Final, Protocol

from proctor.errors import (
    CallerInvisible,
    CallGone,
    MemoryUnreadable,
    MemoryUnwritable,
    ProctorError,
)
from proctor.kernel.thread import ProcFiles

#: The kernel's longest path, its NUL included (PATH_MAX).
PATH_MAX: Final = 4096
#: Most bytes that one :meth:`MemoryPort.read` returns.
READ_MAX: Final = 64 << 20
#: Most strings, and bytes of strings, that argv or envp may have here (the kernel's own limits
#: are 2**31-1 and a quarter of the stack limit, at most 6 MiB).
STRINGS_MAX: Final = 65536
STRINGS_BYTES_MAX: Final = 6 << 20
#: No architecture has smaller pages.
_PAGE: Final = 4096


class MemoryPort(Protocol):
    """A caller's memory as far as decoding needs it.

    All methods raise :class:`~proctor.errors.MemoryUnreadable` with the errno the call
    itself would give (EFAULT, ENAMETOOLONG, E2BIG, EINVAL) or EPERM if we may not look, and
    :class:`~proctor.errors.CallGone` if the caller is gone.
    """

    def read(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes; EFAULT if fewer are mapped."""
        ...

    def read_some(self, address: int, size: int) -> bytes:
        """Up to ``size`` bytes, as many as are mapped from ``address`` on; EFAULT if none is."""
        ...

    def string(self, address: int, limit: int = PATH_MAX) -> bytes:
        """The bytes before the first NUL.

        ENAMETOOLONG if ``limit`` bytes hold no NUL, EFAULT if the memory ends before one."""
        ...

    def pointers(self, address: int, *, limit: int = STRINGS_MAX, width: int = 8) -> list[int]:
        """A NULL-terminated array of pointers of ``width`` (4 or 8) bytes; E2BIG beyond ``limit``."""
        ...

    def strings(
        self,
        address: int,
        *,
        limit: int = STRINGS_MAX,
        total: int = STRINGS_BYTES_MAX,
        width: int = 8,
    ) -> list[bytes]:
        """argv or envp: at most ``limit`` strings of ``total`` bytes together, NULs counted; E2BIG."""
        ...

    def iovec(self, address: int, count: int, *, width: int = 8) -> list[tuple[int, int]]:
        """``count`` (0..1024, else EINVAL) iovecs as (address, length); lengths as the target says."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Write all of ``data``, as the kernel's copy_to_user would.

        :raises MemoryUnwritable: EFAULT at the first byte that the caller could not write (what is
            before it has been written), or EPERM if we may not.
        :raises CallGone: the caller is gone; nothing was written, or to nobody.
        :raises Unsupported: there is no procfs of our pid namespace.
        """
        ...


class ValidityPort(Protocol):
    """The part of a listener that reading needs."""

    def fileno(self) -> int:
        """Its descriptor, for reading and checking in one native call."""
        ...

    def id_valid(self, id: int) -> bool:
        """Whether a notification is received, unanswered and its caller still waits."""
        ...


class Memory:
    """:class:`MemoryPort` of a real thread.

    ::

        from array import array
        words = array("B", b"of our own")
        address, size = words.buffer_info()
        assert proctor.Memory(os.getpid()).read(address, size) == b"of our own"

    :param pid: thread id of the caller as we see it (``Notification.pid``); 0 raises
        :class:`~proctor.errors.CallerInvisible` at the first read.
    :param listener: where validity is asked after each read; None reads without asking, which is
        right only for a process of our own.
    :param id: the notification.

    Reads with process_vm_readv(2), or /proc/TID/mem where that is refused; writes through
    /proc/TID/mem.  A target can make a write wait as well as a read (userfaultfd, FUSE).
    """

    __slots__ = ("_id", "_listener", "_pid")

    def __init__(self, pid: int, listener: ValidityPort | None = None, id: int = 0) -> None:
        self._pid = pid
        self._listener = listener
        self._id = id

    def read(self, address: int, size: int) -> bytes:
        """See :class:`MemoryPort`; ``size`` is at most :data:`READ_MAX` (E2BIG)."""
        if not 0 <= size <= READ_MAX:
            raise self._refusal(_errno.E2BIG, address)
        data = self._read(address, size, False)
        if len(data) < size:
            raise self._refusal(_errno.EFAULT, address + len(data))
        return data

    def read_some(self, address: int, size: int) -> bytes:
        """See :class:`MemoryPort`; at most :data:`READ_MAX` bytes come back."""
        return self._read(address, min(size, READ_MAX), False)

    def string(self, address: int, limit: int = PATH_MAX) -> bytes:
        return self._read(address, limit, True)

    def pointers(self, address: int, *, limit: int = STRINGS_MAX, width: int = 8) -> list[int]:
        words: list[int] = []
        seen, rest = 0, b""
        size = 16 * width  # most have fewer
        while seen < limit * width:
            at = address + seen
            # to the end of the page at most: what lies on the page after the NULL is not touched
            step, size = min(_PAGE - at % _PAGE, limit * width - seen, size), _PAGE
            part = self._read(at, step, False)
            seen += len(part)
            rest += part
            found = _words(rest, width)
            rest = rest[len(found) * width :]
            if 0 in found:
                return words + found[: found.index(0)]
            words += found
            if len(part) < step:
                raise self._refusal(_errno.EFAULT, at + len(part))
        raise self._refusal(_errno.E2BIG, address)

    def strings(
        self,
        address: int,
        *,
        limit: int = STRINGS_MAX,
        total: int = STRINGS_BYTES_MAX,
        width: int = 8,
    ) -> list[bytes]:
        strings = []
        for pointer in self.pointers(address, limit=limit, width=width):
            try:
                strings.append(self._read(pointer, total, True))
            except MemoryUnreadable as problem:
                if problem.errno == _errno.ENAMETOOLONG:  # the total is used up
                    raise self._refusal(_errno.E2BIG, pointer) from None
                raise
            total -= len(strings[-1]) + 1
        return strings

    def iovec(self, address: int, count: int, *, width: int = 8) -> list[tuple[int, int]]:
        if not 0 <= count <= 1024:
            raise self._refusal(_errno.EINVAL, address)
        data = self.read(address, count * 2 * width)
        words = _words(data, width)
        return list(zip(words[::2], words[1::2], strict=True))

    def room(self, address: int, size: int) -> int:
        """How many of so many bytes can be written to, from the first on, as the mappings are now.

        :raises CallGone: the caller is gone."""
        from proctor.kernel.address_space import AddressSpace

        self._visible()
        try:
            with AddressSpace(self._pid) as space:
                if not self._valid():
                    raise self._gone()
                return space.room(address, size)
        except ProctorError:
            raise
        except OSError as problem:
            raise self._refusal(problem.errno or _errno.EIO, address) from None

    def write(self, address: int, data: bytes) -> None:
        self._visible()
        listener = self._listener
        number = -1 if listener is None else listener.fileno()
        if number >= 0:
            ProcFiles.check()
            if _write(self._pid, address, bytes(data), number, self._id):
                return
        from proctor.kernel.address_space import AddressSpace

        try:
            with AddressSpace(self._pid, write=True) as space:
                if not self._valid():
                    raise self._gone()
                done = space.write(address, data)
        except ProctorError:
            raise  # gone, or a /proc that is not ours
        except OSError as problem:
            raise self._refusal(problem.errno or _errno.EIO, address, MemoryUnwritable) from None
        if done < len(data):
            raise self._refusal(_errno.EFAULT, address + done, MemoryUnwritable)

    def _read(self, address: int, limit: int, string: bool) -> bytes:
        """Reading and checking in one native call, the hot path: see ``_core.read``."""
        listener = self._listener
        try:
            if listener is not None and self._pid:
                number = listener.fileno()
                data = _native(self._pid, address, limit, string, number, self._id)
                if number < 0 and not listener.id_valid(self._id):
                    raise self._gone()
            else:
                self._visible()
                data = _native(self._pid, address, limit, string, -1, 0)
        except OSError as problem:
            if problem.errno != _errno.EFAULT:
                raise self._refusal(problem.errno or _errno.EIO, address) from None
            data = b""
        else:
            if string or len(data) >= limit:
                return data
        return self._read_mapped(address, data, limit, string)

    def _read_mapped(self, address: int, data: bytes, limit: int, string: bool) -> bytes:
        """``data``, and what else can be read behind it though process_vm_readv(2) says EFAULT."""
        from proctor.kernel.address_space import AddressSpace

        try:
            with AddressSpace(self._pid) as space:
                data += space.read(address + len(data), limit - len(data), string=string)
        except OSError:
            pass  # gone, which is seen next, or not to be looked at: then it stays with EFAULT
        if not self._valid():
            raise self._gone()
        if string:
            if data[-1:] == b"\0":
                return data[:-1]
            number = _errno.ENAMETOOLONG if len(data) == limit else _errno.EFAULT
            raise self._refusal(number, address)
        if not data:
            raise self._refusal(_errno.EFAULT, address)
        return data

    def _visible(self) -> None:
        if not self._pid:
            raise CallerInvisible(
                "the caller is in another pid namespace and has no number in ours (pid 0): its "
                "memory cannot be reached; answer from the registers, or run proctor in a pid "
                "namespace above it"
            ).about(notif_id=self._id)

    def _valid(self) -> bool:
        return self._listener is None or self._listener.id_valid(self._id)

    def _gone(self) -> CallGone:
        gone = CallGone()
        gone.about(pid=self._pid, notif_id=self._id)
        return gone

    def _refusal(
        self,
        number: int,
        address: int,
        kind: type[MemoryUnreadable | MemoryUnwritable] = MemoryUnreadable,
    ) -> CallGone | MemoryUnreadable | MemoryUnwritable:
        if number in (_errno.ENOENT, _errno.ESRCH):
            return self._gone()
        if number in (_errno.EPERM, _errno.EACCES):
            number = _errno.EPERM
        reason = _REASONS.get(number, "the caller's memory cannot be reached")
        if number == _errno.EFAULT and kind is MemoryUnwritable:
            reason = "the caller cannot write to the address it passed"
        refused = kind(number, f"{reason} ({address:#x})", address)
        refused.about(pid=self._pid, notif_id=self._id)
        return refused


def read_string(pid: int, address: int, listener: ValidityPort, id: int) -> bytes:
    """``Memory(pid, listener, id).string(address)`` by the shortest way: most handlers read a path,
    and what runs between two notifications runs on a cold processor."""
    number = listener.fileno()
    try:
        if number >= 0:
            return _native(pid, address, PATH_MAX, True, number, id)
    except OSError:
        pass
    return Memory(pid, listener, id).string(address)  # which knows more ways, and the words


_REASONS: Final = {
    _errno.EFAULT: "nothing is mapped at the address the caller passed",
    _errno.ENAMETOOLONG: "the string has no end within its limit",
    _errno.E2BIG: "the array or the length is beyond its limit",
    _errno.EINVAL: "the caller passed an impossible count",
    _errno.EPERM: (
        "the kernel does not let us look into the caller (not dumpable, or more privileged than "
        "we are): answer from the registers, or run with CAP_SYS_PTRACE"
    ),
}


def _words(data: bytes, width: int) -> list[int]:
    whole = len(data) - len(data) % width
    return memoryview(data)[:whole].cast("Q" if width == 8 else "I").tolist()


def read_together(
    pid: int, listener: int, id: int, wanted: tuple[tuple[int, int, bool], ...]
) -> tuple[bytes, ...]:
    """As ``_core.read_all``: several reads of a thread's memory, checked once."""
    return _all(pid, listener, id, wanted)  # type: ignore[no-any-return]


def _at_first(mine: str, theirs: str) -> Callable[..., Any]:
    """Loads the core when it is first wanted, and is replaced by what that has: this module is importable where there is none."""

    def load(*arguments: Any) -> Any:
        from proctor.kernel import _core

        found = globals()[mine] = getattr(_core, theirs)
        return found(*arguments)

    return load


_all = _at_first("_all", "read_all")
_native: Callable[..., bytes] = _at_first("_native", "read")
_write: Callable[..., bool] = _at_first("_write", "write")
