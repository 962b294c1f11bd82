"""Requests to an executor, composed: lists of system calls, which are made there.

The other side of every layout is ``executor.h``, which also says what a request is.  A request is
put together once per shape and then filled in for each call::

    steps = Steps()
    path = steps.hole(64)
    fd = steps.call("openat", AT_FDCWD, path, os.O_RDONLY, bad=END)
    steps.give(fd)
    opening = steps.freeze()
    opening.fill(b"/etc/hosts")     # the packet

Everything is in the byte order and the sizes of this machine, which is the executor's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, Union

from proctor.performing.executing.requests import Request
from proctor.records import NamedTuple
from proctor.syscalls import tables
from proctor.syscalls.architectures import native

#: What comes next: nothing more, the reply is sent.
END: Final = 0xFE
#: What comes next: the executor's end, at once (it must not live on with what it has now).
DIE: Final = 0xFF
#: Descriptors from here on are closed after each request; 4 to 7 are for steps to keep something in.
KEPT: Final = 8

_HEAD: Final = struct.Struct("=HHHBBIIII")
_STEP: Final = struct.Struct("=IHBBQ6Q")
_ARGS: Final = 16  # where a step's arguments begin
_FIX: Final = struct.Struct("=IHBBQ")
_RANGE: Final = struct.Struct("=III")
_NO_STEP: Final = 0xFFFFFFFF
_HOLE: Final = struct.Struct("=4I")
_VALUE, _PLACE, _SENT, _RESULT, _DECIMAL = range(5)
_EXPECT, _CHANGES, _BEGINS = 1 << 12, 1 << 13, 1 << 14
_AS_32_BITS: Final = 1 << 31
_LOAD: Final = 1 << 30
_COMPARE: Final = 1 << 29
_LONG: Final = (1 << 64) - 1
_POINTER: Final = struct.calcsize("P")
#: Calls with which a caller's call is done, so that nothing behind them is a reason to make it once more.
_CHANGING: Final = frozenset(
    (
        "accept4", "connect", "delete_module", "fchmodat", "fchownat", "file_setattr", "fremovexattr", "fsetxattr", "linkat",
        "mkdirat", "mknodat", "move_mount", "removexattr", "renameat2", "sendmmsg", "sendmsg", "sendto", "setxattr", "symlinkat",
        "truncate", "unlinkat", "utimensat",
    )
)  # fmt: skip
#: What makes a process.
_BEGETTING: Final = frozenset(("clone3", "execve", "execveat"))

#: The longest reply, and with its scratch space the longest request (ROOM of executor.h).
LONGEST: Final = 256 * 1024


class Place(NamedTuple):
    """A place in the request's space."""

    offset: int
    size: int


class Result(NamedTuple):
    """What a step will give."""

    step: int


class Sent(NamedTuple):
    """A descriptor that goes along with the request, by its place among those."""

    place: int


class Number(NamedTuple):
    """A number that is filled in later, by its place among the holes."""

    hole: int


Argument = Union[int, Place, Result, Sent, Number]


class Steps:
    """A request in the making."""

    __slots__ = (
        "_fixes",
        "_freely",
        "_given",
        "_holes",
        "_noted",
        "_ranges",
        "_scratch",
        "_sent",
        "_space",
        "_steps",
        "last",
    )

    def __init__(self) -> None:
        self._steps: list[list[int]] = []
        self._fixes: list[tuple[int, int, int, int, int]] = []
        self._ranges: list[tuple[int, int, int]] = []
        self._given: list[int] = []
        self._space = bytearray()
        self._scratch = 0
        #: For each what is filled in: places in the space, or (step, argument) of numbers.
        self._holes: list[Place | list[tuple[int, int]]] = []
        self._sent = 0
        self._noted = False
        #: FREELY of executor.h: whether it makes a process, which is to be on any processor.
        self._freely = False
        #: Whether the executor ends with its reply.
        self.last = False

    # What steps work on ---------------------------------------------------------------------

    def bytes(self, data: bytes) -> Place:
        """These bytes, and a NUL behind them."""
        assert not self._scratch, "scratch space comes after all bytes"
        place = Place(len(self._space), len(data))
        self._space += data
        self._space += bytes(8 - len(data) % 8)
        return place

    def hole(self, size: int) -> Place:
        """Bytes that are filled in later, at most ``size`` of them; a NUL follows them."""
        place = Place(self.bytes(bytes(size)).offset, size)
        self._holes.append(place)
        return place

    def number(self) -> Number:
        """A number that is filled in later, for the arguments of steps."""
        self._holes.append([])
        return Number(len(self._holes) - 1)

    def scratch(self, size: int) -> Place:
        """Zeroed space that steps may write to."""
        place = Place(len(self._space) + self._scratch, size)
        self._scratch += size + -size % 8
        return place

    def sent(self) -> Sent:
        """The next of the descriptors that are sent along."""
        self._sent += 1
        return Sent(self._sent - 1)

    # Steps ----------------------------------------------------------------------------------

    def call(
        self,
        what: str,
        *args: Argument,
        good: int = 0,
        bad: int = END,
        want: int | None = None,
        as_32_bits: bool = False,
        changes: bool | None = None,
        begins: bool = False,
        finishes: bool = False,
    ) -> Result:
        """Make a system call.

        :param changes: True for an open that may make or truncate something, so that the call is not made anew for a
            signal that comes later; False for what nobody else sees; of what else changes something that is known by its name.
        :param begins: whether it is a change that a later step has to finish.
        :param finishes: whether it is that step, and what it gives is what the call gives.
        :param as_32_bits: ``openat`` as a program of 32 bits makes it, on x86-64.

        :param good: what comes next if the result is good: 0 the next step, a number of steps to
            skip, ``END`` or ``DIE``.
        :param bad: the same if it is bad: an errno, or other than ``want``.
        """
        number = tables.number(what, native())
        if as_32_bits:
            number = tables.number(what, "i386") | _AS_32_BITS
        made = self._add(number, args, good, bad, want)
        known = changes is None and what in _CHANGING
        if begins:
            self._steps[made.step][1] |= _BEGINS
        elif changes or known or finishes:
            self._steps[made.step][1] |= _CHANGES
        self._noted |= known or finishes
        self._freely |= what in _BEGETTING
        return made

    def compare(self, one: Place, other: Place) -> Result:
        """Go on where two places hold the same, as far as the first one goes; else it is EINVAL, and the end."""
        assert one.size <= other.size
        return self._add(_COMPARE, (one, other, one.size))

    def _add(
        self,
        number: int,
        args: Sequence[Argument],
        good: int = 0,
        bad: int = END,
        want: int | None = None,
    ) -> Result:
        kinds, values = 0, [0] * 6
        for index, arg in enumerate(args):
            if isinstance(arg, Number):
                hole = self._holes[arg.hole]
                assert isinstance(hole, list)
                hole.append((len(self._steps), index))
                continue
            kind, values[index] = _as_argument(arg)
            kinds |= kind << 2 * index
        if want is not None:
            kinds |= _EXPECT
        self._steps.append([number, kinds, good, bad, (want or 0) & _LONG, *values])
        return Result(len(self._steps) - 1)

    def load(self, place: Place, offset: int, **after: int) -> Result:
        """Have four bytes of the space, as a number.  Not below 0, so that it is no errno.

        :param after: ``good``, ``bad`` and ``want`` as for :meth:`call`."""
        return self._add(_LOAD, (Place(place.offset + offset, 4),), **after)

    def jump(self, step: Result, *, good: bool = False, bad: bool = False) -> None:
        """Have a step go on, when it is good or bad, at the step that is added next."""
        for index, wanted in ((2, good), (3, bad)):
            if wanted:
                self._steps[step.step][index] = len(self._steps) - step.step - 1

    def end(self, step: Result) -> None:
        """Have a step that is good be the last."""
        self._steps[step.step][2] = END

    def put(self, place: Place, offset: int, what: Place | Result | Sent, width: int = 0) -> None:
        """Put something into the space before the step that is added next: the address of a place,
        or (in ``width`` bytes, 4 or 8) a descriptor or a result."""
        kind, value = _as_argument(what)
        width = _POINTER if kind == _PLACE else width
        assert width in (4, 8)
        self._fixes.append((place.offset + offset, len(self._steps), kind, width, value))

    def put_text(self, place: Place, what: Result) -> None:
        """Put a result into the space as decimal digits and a NUL, before the next step."""
        self._fixes.append((place.offset, len(self._steps), _DECIMAL, 0, what.step))

    # What comes back --------------------------------------------------------------------------

    def want(self, place: Place, step: Result | None = None) -> int:
        """Have a place in the reply, as long as the result of ``step`` says; its index there."""
        self._ranges.append((place.offset, place.size, _NO_STEP if step is None else step.step))
        return len(self._ranges) - 1

    def give(self, step: Result) -> None:
        """Have the descriptor that a step makes in the reply, if it makes one."""
        self._given.append(step.step)

    def freeze(self) -> Request:
        """The request, ready to be filled in."""
        counts = (len(self._steps), len(self._fixes), len(self._ranges), len(self._given))
        head = _HEAD.pack(*counts, self.last, len(self._space), self._scratch, self._freely, 0)
        parts = [head, *(_STEP.pack(*step) for step in self._steps)]
        parts += [_FIX.pack(*fix) for fix in self._fixes]
        parts += [_RANGE.pack(*each) for each in self._ranges]
        parts.append(struct.pack(f"={len(self._given)}I", *self._given))
        packet = b"".join(parts)
        packet += bytes(-len(packet) % 8)
        holes = b""
        for index, hole in enumerate(self._holes):
            if isinstance(hole, Place):
                holes += _HOLE.pack(index, len(packet) + hole.offset, hole.size, 0)
            else:
                for step, arg in hole:
                    at = _HEAD.size + _STEP.size * step + _ARGS + 8 * arg
                    holes += _HOLE.pack(index, at, 8, 1)
        return Request(
            packet + self._space,
            len(self._holes),
            holes,
            len(self._steps),
            self._ranges,
            self._given,
            changing := tuple(i for i, step in enumerate(self._steps) if step[1] & _CHANGES),
            tuple(i for i in changing if not self._steps[i][1] & _EXPECT),
            tuple(i for i, step in enumerate(self._steps) if step[1] & _BEGINS),
            self._noted,
            self._sent,
            self.last,
        )


def _as_argument(arg: int | Place | Result | Sent) -> tuple[int, int]:
    if isinstance(arg, int):
        return _VALUE, arg & _LONG
    kind = _PLACE if isinstance(arg, Place) else _RESULT if isinstance(arg, Result) else _SENT
    return kind, arg[0]
