"""The journal of a listener: which calls were received and are not answered, as a later monitor can
know them.

It is a table of slots in shared memory (docs/journal.md has the layout).  Whoever is to hand it to the
next monitor keeps the memfd; the kernel does not know it.  While a monitor lives it alone writes; all
that is said about one that died holds between any two of its instructions.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from typing import TYPE_CHECKING, Final

from proctor.errors import ProctorError
from proctor.given import whole
from proctor.kernel.abi import SECCOMP_NOTIF as _NOTIF
from proctor.kernel.notification import Notification, NotificationLike
from proctor.kernel.progress import UNKNOWN, begins, read
from proctor.kernel.sealing import is_sealed, sealed
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proctor.kernel.progress import Progress

MAGIC: Final = b"PROCTORJ"
VERSION: Final = 1
#: magic, version, bytes of a slot, slots, notifications that no slot was free for; and padding.
HEADER: Final = struct.Struct("=8sIIII104x")
SLOT_SIZE: Final = 128
#: state and number, time (nanoseconds of CLOCK_MONOTONIC), and where struct seccomp_notif lies.
_STATE: Final = struct.Struct("=I")
_GIVEN_AT: Final = 4
_TIME: Final = struct.Struct("=Q")
_ID: Final = struct.Struct("=Q")
_TIME_AT: Final = 8
_RAW_AT: Final = 16
_NOTES_AT: Final = 96

#: States of a slot.  FREE: nothing is in it, or what was is answered.  RECEIVING: the kernel is
#: filling it, and has if an architecture is there.  RECEIVED: unanswered.  PERFORMING: somebody had
#: begun to perform the call, and nobody knows how far that came.  GIVEN: its caller has a descriptor whose number is the
#: answer, and was not told.
FREE, RECEIVING, RECEIVED, PERFORMING, GIVEN = range(5)


class Pending(NamedTuple):
    """A call that was received and not answered."""

    slot: int
    notification: Notification
    #: Seconds of CLOCK_MONOTONIC; None if it was just being received.
    received: float | None
    #: Whether performing it had begun.
    performing: bool
    #: The descriptor that its caller was given, whose number it waits for; None if it was given none.
    given: int | None = None
    #: If it had begun, what is known of that: UNKNOWN, NOTHING or DONE of :mod:`proctor.kernel.progress`.
    known: int = UNKNOWN
    #: Where it is done, what it is answered with; minus an errno, too.
    result: int = 0


class Journal:
    """One table: see the module.

    ::

        journal = proctor.Journal.create()   # supervisor.add(listener, container, journal=journal)
        again = proctor.Journal(os.dup(journal.fileno()))    # the next monitor, which was sent both
        assert list(again.pending()) == []   # what its supervisor.add(..., journal=again) decides
        again.close(), journal.close()

    :param memory: the memfd, which the journal owns from now on; or, for tests and models, memory.
    :raises ProctorError: it is no journal, or one of another version, or not sealed against a change of its size.
    """

    def __init__(self, memory: int | bytearray) -> None:
        self._fd = -1
        #: What executors say that are asked for its calls; somebody else's.
        self.progress: Progress | None = None
        self._map: mmap.mmap | bytearray
        if isinstance(memory, int):
            try:
                if not is_sealed(memory):
                    # whoever else holds it could cut it off: then all that is mapped is SIGBUS
                    raise ValueError("its size is not sealed")
                self._map = mmap.mmap(memory, 0)
            except (OSError, ValueError) as problem:
                raise ProctorError(f"descriptor {memory} is no journal: {problem}") from None
        else:
            self._map = memory
        #: All of it, for the native loop.
        self.buffer = memoryview(self._map)
        if isinstance(memory, int):
            # not through the map: to look at a page there makes one, and most listeners have no call
            self._check(os.pread(memory, HEADER.size, 0))
            self._fd = memory
        else:
            self._check(bytes(self.buffer[: HEADER.size]))
        self._at = 0

    @classmethod
    def create(cls, slots: int = 4096) -> Journal:
        """A new one, in a memfd of 128 bytes a slot, of which only what is used takes memory.

        :param slots: how many calls can be unanswered at the same time; those beyond are decided, but
            not in the journal.
        :raises ValueError, TypeError: that cannot be.
        """
        whole("slots", slots, most=1 << 24)
        head = HEADER.pack(MAGIC, VERSION, SLOT_SIZE, slots, 0)
        fd = sealed("proctor-journal", HEADER.size + slots * SLOT_SIZE, head)
        try:
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def _check(self, head: bytes) -> None:
        size = len(self.buffer)
        if len(head) < HEADER.size or head[: len(MAGIC)] != MAGIC:
            problem = "it does not begin as one"
        else:
            _, version, slot, slots, _ = HEADER.unpack(head)
            if version != VERSION:
                problem = f"it has version {version}, not {VERSION}"
            elif slot != SLOT_SIZE or slots < 1 or size != HEADER.size + slots * SLOT_SIZE:
                problem = f"{slots} slots of {slot} bytes are not what {size} bytes hold"
            else:
                self._slots = slots
                return
        self.buffer.release()
        raise ProctorError(f"this is no journal: {problem}")

    def fileno(self) -> int:
        """The memfd, for whoever is to keep it."""
        return self._fd

    @property
    def lost(self) -> int:
        """How many notifications were received while every slot was taken: those are in no journal."""
        return int(HEADER.unpack_from(self.buffer)[4])

    # What an engine in Python does -----------------------------------------------------------
    def place(self) -> tuple[int, memoryview | None]:
        """A slot for what is received next, and where the kernel is to put it; (-1, None) if every
        slot is taken."""
        for _ in range(self._slots):
            slot, at = self._at, self._offset(self._at)
            if self.state(slot) == FREE:
                raw = self.buffer[at + _RAW_AT : at + _RAW_AT + _NOTIF.size]
                raw[:] = bytes(_NOTIF.size)
                self.mark(slot, RECEIVING)
                return slot, raw
            self._at = (slot + 1) % self._slots
        lost = self.lost + 1
        HEADER.pack_into(self.buffer, 0, MAGIC, VERSION, SLOT_SIZE, self._slots, lost & 0xFFFFFFFF)
        return -1, None

    def received(self, slot: int, when: float) -> None:
        """The kernel has filled it."""
        _TIME.pack_into(self.buffer, self._offset(slot) + _TIME_AT, int(when * 1e9))
        self.mark(slot, RECEIVED)

    # What whoever decides does ---------------------------------------------------------------
    def state(self, slot: int) -> int:
        """What is known of a slot."""
        return int(_STATE.unpack_from(self.buffer, self._offset(slot))[0])

    def mark(self, slot: int, state: int) -> None:
        """Say what is known of a slot; FREE after its call was answered, never before."""
        _STATE.pack_into(self.buffer, self._offset(slot), state)

    def _goes(self, notification: NotificationLike, to: int) -> None:
        """Say how far it is, unless somebody else answered it meanwhile, whose slot that may be by now."""
        if self._known(notification) in (RECEIVED, PERFORMING):
            self.mark(notification.slot, to)

    def _known(self, notification: NotificationLike) -> int:
        """The state of its slot; FREE if that is not its own any more."""
        slot = notification.slot
        if slot < 0 or id_at(self.buffer, slot) != notification.id:
            return FREE
        return self.state(slot)

    def performs(self, notification: NotificationLike) -> None:
        """Its call is about to be performed: from now on nobody knows whether it was, but by what performers say."""
        if self.progress is not None and self._known(notification) in (RECEIVED, PERFORMING):
            begins(self.buffer, notes_at(notification.slot), notification.id)
        self._goes(notification, PERFORMING)

    def begun(self, notification: NotificationLike) -> bool:
        """Whether that was said of it."""
        return self._known(notification) == PERFORMING

    def left(self, notification: NotificationLike) -> None:
        """Its call was not performed after all, and is not answered."""
        self._goes(notification, RECEIVED)

    def clear(self, notification: NotificationLike) -> None:
        """Its call was answered."""
        if notification.slot >= 0:
            self.mark(notification.slot, FREE)

    # What the next monitor does --------------------------------------------------------------
    def pending(self) -> Iterator[Pending]:
        """What was received and not answered, the oldest first."""
        found = []
        if self._fd < 0:
            data = bytes(self.buffer)
        elif os.fstat(self._fd).st_blocks * 512 <= mmap.PAGESIZE:  # the header's, and no other
            data = os.pread(self._fd, mmap.PAGESIZE, 0)
        else:  # not through the map, as above
            data = os.pread(self._fd, self._used(), 0)
        states = memoryview(data)[HEADER.size :].cast("I")[:: SLOT_SIZE // _STATE.size]
        known = states.tolist()
        for slot, state in enumerate(known if any(known) else ()):
            if state == FREE:
                continue
            at = self._offset(slot)
            id, pid, flags, nr, arch, ip, *args = _NOTIF.unpack_from(data, at + _RAW_AT)
            if not arch or state > GIVEN:  # the kernel gave nothing; or somebody else wrote here
                self.mark(slot, FREE)
                continue
            a, b, c, d, e, f = args
            made = Notification(id, pid, nr, arch, (a, b, c, d, e, f), ip, flags, slot)
            (when,) = _TIME.unpack_from(data, at + _TIME_AT)
            received = None if state == RECEIVING else when / 1e9
            given = _STATE.unpack_from(data, at + _GIVEN_AT)[0] if state == GIVEN else None
            performing, came = state == PERFORMING, (UNKNOWN, 0)
            if performing and self.progress is not None:
                came = read(data[at + _NOTES_AT : at + SLOT_SIZE], id, self.progress.found)
            found.append(Pending(slot, made, received, performing, given, *came))
        found.sort(key=lambda each: each.received if each.received is not None else float("inf"))
        return iter(found)

    def _used(self) -> int:
        """Bytes up to the end of the last page that anybody used, of whole slots."""
        end = 0
        try:
            while end < len(self.buffer):
                end = os.lseek(self._fd, os.lseek(self._fd, end, os.SEEK_DATA), os.SEEK_HOLE)
        except OSError as problem:
            if problem.errno != errno.ENXIO:
                raise
            # the rest is a hole: lseek(2)
        return min(HEADER.size + -(-(end - HEADER.size) // SLOT_SIZE) * SLOT_SIZE, len(self.buffer))

    def adopt(self, valid: Callable[[int], bool]) -> list[Pending]:
        """The same without those for whose answer nobody waits any more, whose slots are freed.

        :param valid: whether the notification with this id is received, unanswered, and waited for.
        """
        left = []
        for each in self.pending():
            if valid(each.notification.id):
                left.append(each)
            else:
                self.clear(each.notification)
        return left

    def _offset(self, slot: int) -> int:
        return HEADER.size + slot * SLOT_SIZE

    def close(self) -> None:
        """Give the memfd up; idempotent.  The memory goes with the last who uses it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def id_at(memory: memoryview, slot: int) -> int:
    """Which notification a journal has in a slot."""
    id: int = _ID.unpack_from(memory, HEADER.size + slot * SLOT_SIZE + _RAW_AT)[0]
    return id


def notes_at(slot: int) -> int:
    """Where in a journal what performs a call says how far that is: :data:`proctor.kernel.progress.NOTES`."""
    return HEADER.size + slot * SLOT_SIZE + _NOTES_AT


def may_pend(memory: int) -> bool:
    """Whether a call may be pending in a journal: a glance at its first page, without mapping it.

    :param memory: its memfd, which stays the caller's.
    :raises OSError: it cannot be read."""
    first = os.pread(memory, mmap.PAGESIZE, 0)
    if len(first) % _STATE.size or os.fstat(memory).st_blocks * 512 > mmap.PAGESIZE:
        return True  # more of it was used
    return any(memoryview(first)[HEADER.size :].cast("I")[:: SLOT_SIZE // _STATE.size].tolist())
