"""Requests to an executor as they are sent, and replies as they come: :mod:`proctor.performing.executing.steps` composes the first,
``executor.h`` says what both are.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.kernel import _core
    from proctor.performing.executing.steps import Result

#: The result of a step that was not made.
SKIPPED: Final = -(1 << 63)
#: reply.state of executor.h.
DONE, MALFORMED, CUT, NO_PROCESS, UNGIVEN, CLOSED, INTERRUPTED = range(7)
_REPLY: Final = struct.Struct("=HHi")
_PART: Final = struct.Struct("=2I")
_FORESEEN: Final = struct.Struct("=4i")


class Request:
    """A request; immutable, and good for any number of packets."""

    __slots__ = ("_beginning", "_changing", "_going", "fill", "last", "most", "native", "noted")

    def __init__(
        self,
        packet: bytes,
        values: int,
        holes: bytes,
        steps: int,
        ranges: list[tuple[int, int, int]],
        given: list[int],
        changing: tuple[int, ...] = (),
        going: tuple[int, ...] = (),
        beginning: tuple[int, ...] = (),
        noted: bool = False,
        sent: int = 0,
        last: bool = False,
    ) -> None:
        self._changing = changing
        #: Of those, the ones that are done with EINPROGRESS, too.
        self._going = going
        #: What others have to finish.
        self._beginning = beginning
        #: Whether it may make a change that a call can be done with: see :mod:`proctor.performing.noting`.
        self.noted = noted
        #: See :attr:`Steps.last`.
        self.last = last
        #: Length of the longest reply to it.
        self.most = _REPLY.size + 8 * steps + sum(length for _, length, _ in ranges)
        parts = b"".join(_PART.pack(length, step) for _, length, step in ranges)
        numbers = struct.pack(f"={len(given)}I", *given)
        from proctor.kernel import _core  # policies are looked over where it is not

        #: How it is sent, and what comes is received.
        self.native = _core.Request(steps, values, packet, holes, parts, numbers, self.most, sent)
        #: The packet, with these bytes and numbers in its holes; ValueError if one of them does not fit.
        self.fill: Callable[..., bytes] = self.native.fill

    def changed(self, reply: Reply) -> int | None:
        """What the last change gave that was made (CHANGES of executor.h), so that what it was for is done, or a part of it; None
        where none was."""
        for each in reversed(self._changing):
            result = reply.results[each]
            if not is_error(result) or (result == -errno.EINPROGRESS and each in self._going):
                return result
        return None

    def begun(self, reply: Reply) -> bool:
        """Whether a change was begun (BEGINS of executor.h), and is not finished."""
        begun = any(not is_error(reply.results[each]) for each in self._beginning)
        return begun and self.changed(reply) is None

    def form(
        self,
        *values: bytes | int,
        room: int,
        relative: bool,
        table: bool,
        opens: bool = False,
        looks: Callable[[int], bytes] | None = None,
        foresees: tuple[int, Result, Result] | None = None,
    ) -> Form:
        """This request, with all its values but the last, which is a path of at most ``room`` bytes.

        :param relative: whether the directory where it starts goes along.
        :param table: whether the executor's own descriptors do, after that.
        :param opens: whether it gives one descriptor, and its last wants are struct statfs and struct statx of that.
        :param looks: where the answer says what the path leads to: struct looks of ``core/asking/posing.h``, made of where in the
            packet the value before the path is (which is empty in ``values``).
        :param foresees: of how many bytes the value before the path is, which is what is expected there (and empty in
            ``values``), what is opened if that is so, and what is given if not."""
        packet = self.fill(*values, b"")

        def place(*others: bytes | int) -> int:
            other = self.fill(*others)
            return next(i for i, byte in enumerate(packet) if byte != other[i])

        at, looked, foreseen = place(*values, b"\1" * room), b"", b""
        if looks is not None:
            looked = looks(place(*values[:-1], b"\1", b""))
        if foresees is not None:
            size, opened, pinned = foresees
            where = place(*values[:-1], b"\1", b"")
            foreseen = _FORESEEN.pack(where, size, opened.step, pinned.step)
        return self.native, packet, at, room, relative, table, opens, looked, foreseen


class Reply(NamedTuple):
    """What became of a request."""

    #: Results of all steps: values, minus errnos, SKIPPED.
    results: tuple[int, ...]
    #: The wanted places.
    parts: tuple[bytes, ...]
    #: Step → descriptor; the receiver's to close.
    fds: dict[int, int]

    def error(self, step: Result) -> int:
        """The errno of a step; of one that was not made that of the step that was the last, which kept it
        from being made; 0 if there is none."""
        place = step.step
        while place and self.results[place] == SKIPPED:
            place -= 1
        result = self.results[place]
        return -result if -4095 <= result < 0 else 0

    def made(self, step: Result) -> bool:
        """Whether a step was made and gave no errno."""
        return not is_error(self.results[step.step])

    def take(self, step: Result) -> int:
        """The descriptor of a step, which is now the taker's to close."""
        return self.fds.pop(step.step)

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        while self.fds:
            os.close(self.fds.popitem()[1])


def together(forms: list[Form]) -> _core.Forms:
    """As the core wants them."""
    from proctor.kernel import _core  # policies are looked over where it is not

    return _core.Forms(tuple(forms))


#: What :meth:`Request.form` makes.
Form = tuple["_core.Request", bytes, int, int, bool, bool, bool, bytes, bytes]


def state_of(data: bytes) -> tuple[int, int]:
    """(state, errno) of a reply that is none to a request; MALFORMED for what is no reply at all."""
    if len(data) < _REPLY.size:
        return MALFORMED, 0
    state, _, error = _REPLY.unpack_from(data)
    return state, error


def is_error(result: int) -> bool:
    """Whether a step's result is an errno, or it was not made."""
    return result == SKIPPED or -4095 <= result < 0
