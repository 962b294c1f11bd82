"""How far executors are with what changes something, as it is known when they and their monitor are gone.

A table in shared memory (docs/journal.md has the layout), which whoever keeps journals keeps, too.  An executor owns one
place of it, where it says how far it is with the request that it was given last; a monitor says in the journal, before it sends
a request for a call, which executor that goes to, and as which of its requests (:func:`asks`), and then what came of it
(:func:`came`).  So the next monitor finds out whether a call was done (:meth:`Progress.found`).
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from proctor.errors import ProctorError
from proctor.kernel.sealing import is_sealed, sealed

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of a place, and how many there are; the first is no executor's.
PLACE: Final = 64
PLACES: Final = 4096
#: At the first place: where the next monitor begins to take places, so that what its predecessors' executors said is still there
#: when it is looked for.
_NEXT: Final = struct.Struct("=I")
#: owner, state, serial, result: struct progress of executor.h.
_WORDS: Final = struct.Struct("=3Ii")
_OWNER_DIED: Final = 0x40000000  # FUTEX_OWNER_DIED of include/uapi/linux/futex.h
#: States, as executor.h has them.
NOTHING_DONE, MAY_CHANGE, AT_A_CHANGE, CHANGED, ONE_CHANGE, SEVERAL_CHANGES = range(6)

#: What a slot of a journal has behind its notification: the id that it is about, which is written last but what is known;
#: that; places with serials of two requests; and what earlier requests of the call gave, together, where that adds up.  Where one is
#: done, and was the only one that was asked, its result is in the place of the second one's serial.
NOTES: Final = struct.Struct("=QI4Ii")
_KNOWN: Final = struct.Struct("=I")
_KNOWN_AT: Final = 8
#: Where the place of the second request is.
_OTHER_AT: Final = 20
_RESULT: Final = struct.Struct("=i")
_RESULT_AT: Final = 24
#: Nobody knows; requests were sent, and their executors' places say what came of them; nothing was done; it is done.
UNKNOWN, ASKED, NOTHING, DONE = range(4)

#: Seconds in which executors whose monitor is gone end, together; more than the mother of executors gives them.
_GRACE: Final = 0.4
_LOOK: Final = 0.0005


class Progress:
    """One table; its places are given to executors by :meth:`take`.  Thread-safe.

    :param memory: a memfd, which it owns from now on.
    :raises ProctorError: it is no such table."""

    def __init__(self, memory: int) -> None:
        if not is_sealed(memory) or os.fstat(memory).st_size != PLACE * PLACES:
            raise ProctorError(f"descriptor {memory} is no table of executors' progress")
        self.fd = memory
        self._map = mmap.mmap(memory, 0)
        self._lock = threading.Lock()
        self._next: int = _NEXT.unpack_from(self._map)[0]
        self._left = PLACES - 1
        self._free: deque[int] = deque()
        #: Until when executors of an earlier monitor are waited for, once somebody is.
        self._until: float | None = None

    @classmethod
    def create(cls) -> Progress:
        """A new one; of its 256 KiB only those take memory that are used."""
        fd = sealed("proctor-progress", PLACE * PLACES)
        try:
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def take(self) -> int:
        """A place whose last owner is gone; 0 if there is none.  One that had none begins to count anywhere: what is said of it
        is of this table, and of no other one that a monitor had."""
        with self._lock:
            for _ in range(len(self._free)):
                place = self._free.popleft()
                if self._gone(place):
                    return self._anew(place)
                self._free.append(place)
            while self._left:
                place = self._next % (PLACES - 1) + 1
                self._next, self._left = place, self._left - 1
                _NEXT.pack_into(self._map, 0, place)
                owner, state, _ = self._at(place)
                if not owner:
                    number = int.from_bytes(os.urandom(4), "little")
                    _WORDS.pack_into(self._map, place * PLACE, 0, state, number, 0)
                if self._gone(place):
                    return self._anew(place)
        return 0

    def _anew(self, place: int) -> int:
        """Have the request pass over that its last owner may have been named for, and never came to: another one's is not
        that."""
        owner, state, serial, result = _WORDS.unpack_from(self._map, place * PLACE)
        _WORDS.pack_into(self._map, place * PLACE, owner, state, (serial + 2) & 0xFFFFFFFF, result)
        return place

    def give_back(self, place: int) -> None:
        """Its owner is gone, or ends."""
        if place:
            with self._lock:
                self._free.append(place)

    def _at(self, place: int) -> tuple[int, int, int]:
        owner, state, serial, _ = _WORDS.unpack_from(self._map, place * PLACE)
        return owner, state, serial

    def _gone(self, place: int) -> bool:
        owner = self._at(place)[0]
        return not owner or bool(owner & _OWNER_DIED)

    def next(self, place: int) -> int:
        """As which of its requests an executor that waits for one will know it."""
        seen = self._at(place)[2]
        return (seen + 1) & 0xFFFFFFFF

    def found(self, place: int, serial: int, *, waits: bool = True) -> tuple[int, int]:
        """What came of a request that was sent: UNKNOWN, NOTHING or DONE, and what that gave.

        :param waits: for its executor, an earlier monitor's: that does nothing any more then, or it is UNKNOWN.  Else it is our own, which
            has died, or is asked for nothing else before this returns."""
        known = self._state(place, serial, waits)
        return known, _WORDS.unpack_from(self._map, place * PLACE)[3] if known == DONE else 0

    def _state(self, place: int, serial: int, waits: bool) -> int:
        if not 0 < place < PLACES:
            return UNKNOWN
        while waits and not self._gone(place):
            if self._until is None:
                self._until = time.monotonic() + _GRACE
            if time.monotonic() >= self._until:
                return UNKNOWN
            time.sleep(_LOOK)
        gone, seen = self._gone(place), self._at(place)[2]
        owner, state, _ = self._at(place)  # which is said before the serial
        if not gone and (seen != serial or state in (MAY_CHANGE, AT_A_CHANGE, CHANGED)):
            return UNKNOWN  # it is at it, or comes to it
        if not owner:
            return UNKNOWN  # nobody was asked for a call before he had answered: the table is another one
        if seen == (serial - 1) & 0xFFFFFFFF:
            return NOTHING  # it never came to it
        if seen != serial:
            return UNKNOWN
        if state in (NOTHING_DONE, MAY_CHANGE):
            return NOTHING
        return DONE if state == ONE_CHANGE else UNKNOWN

    def close(self) -> None:
        """Give the memfd up; idempotent.  What executors have of it is theirs."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def begins(buffer: memoryview, at: int, id: int) -> None:
    """Say that nothing was asked yet for a call, before it is said that it is performed."""
    if NOTES.unpack_from(buffer, at)[0] != id:  # else that holds which an earlier monitor had said
        _KNOWN.pack_into(buffer, at + _KNOWN_AT, UNKNOWN)
        NOTES.pack_into(buffer, at, id, UNKNOWN, 0, 0, 0, 0, 0)
        _KNOWN.pack_into(buffer, at + _KNOWN_AT, NOTHING)


def asks(
    buffer: memoryview, at: int, id: int, *requests: tuple[int, int], adds: bool = False
) -> None:
    """Say whom a call's requests go to: before they are sent.

    :param at: where its slot has notes.
    :param requests: (place, serial) of one or two; none where nobody will know what comes of it.
    :param adds: whether the call is done with any part of it, and is what all of them gave together."""
    before, known, *_, other, result, _ = NOTES.unpack_from(buffer, at)
    again = before == id and known in (UNKNOWN, DONE)  # it is done in several steps
    earlier = _signed(result) if again and adds and known == DONE and not other else 0
    _KNOWN.pack_into(buffer, at + _KNOWN_AT, UNKNOWN)
    (one, first), (two, second) = (*requests, (0, 0), (0, 0))[:2]
    NOTES.pack_into(buffer, at, id, UNKNOWN, one, first, two, second, earlier)
    if one and (earlier > 0 or not again):
        _KNOWN.pack_into(buffer, at + _KNOWN_AT, ASKED)


def one_alone(buffer: memoryview, at: int, id: int) -> None:
    """Say that the second of two requests is not sent: before its executor is asked for another call, which it would know as that."""
    before, known, *_ = NOTES.unpack_from(buffer, at)
    if before != id or known != ASKED:
        return
    _KNOWN.pack_into(buffer, at + _KNOWN_AT, UNKNOWN)
    _KNOWN.pack_into(buffer, at + _OTHER_AT, 0)
    _KNOWN.pack_into(buffer, at + _KNOWN_AT, ASKED)


def came(buffer: memoryview, at: int, id: int, result: int | None) -> None:
    """Say what came of them: before those who were asked are asked for another call.

    :param result: what the change gave; None where none was made."""
    before, known, *_, other, _, earlier = NOTES.unpack_from(buffer, at)
    if before != id or known != ASKED:
        return
    done = result is not None or earlier > 0
    if done and not other:
        _RESULT.pack_into(buffer, at + _RESULT_AT, earlier + (result or 0))
    _KNOWN.pack_into(buffer, at + _KNOWN_AT, DONE if done else NOTHING)


def read(notes: bytes, id: int, found: Callable[[int, int], tuple[int, int]]) -> tuple[int, int]:
    """What is known of a call by its notes, and, where it is DONE, what it is to be answered with: minus an errno, too.

    :param found: as :meth:`Progress.found`."""
    about, known, *requests, earlier = NOTES.unpack_from(notes)
    if about != id:
        return UNKNOWN, 0
    if known == DONE:
        return DONE, 0 if requests[2] else _signed(requests[3])
    if known != ASKED:
        return NOTHING if known == NOTHING else UNKNOWN, 0
    came = [found(*pair) for pair in (requests[:2], requests[2:]) if pair[0]]
    results = [result for known, result in came if known == DONE]
    if any(known == UNKNOWN for known, _ in came) or len(results) > 1:
        return UNKNOWN, 0
    if not results and not earlier:
        return NOTHING, 0
    return DONE, earlier + sum(results)


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word
