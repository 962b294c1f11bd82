"""Preemption: whoever runs the supervisor's code can be left between any two lines of it.

Ports (:mod:`proctor.model.sim.world`) are where threads meet the kernel; real ones interleave anywhere.
So in some episodes every thread that runs the supervisor's own code is traced (:func:`sys.settrace`),
and now and then, when the seed says so, it is left at a line, or at a bytecode, and others run: no
coarser than the interpreter's own switches between threads, which come between bytecodes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import proctor.supervisor as watched

if TYPE_CHECKING:
    from types import FrameType

    from proctor.model.sim.schedule import Schedule

#: The code in which threads are left: files that begin with one of these names.
WATCHED: Final[list[str]] = [str(Path(watched.__file__).parent)]

#: Whether the same bytecodes are seen each time.  Since Python 3.12 (PEP 669) code is instrumented
#: for them only once somebody has asked, so that a first run sees fewer than a second, and neither
#: follows from its seed alone: there threads are left between lines.
_STEADY: Final = sys.version_info < (3, 12)


class Preemption:
    """Traces the threads of one episode.

    :param every: lines, or bytecodes, from one preemption to the next, on average.
    :param bytecodes: between any two of them, not only between lines.
    """

    def __init__(self, schedule: Schedule, random: Random, every: float, bytecodes: bool) -> None:
        self._schedule = schedule
        self._random = random
        self._rate = 1.0 / every
        self._bytecodes = bytecodes and _STEADY
        self._left = 0
        self._files: dict[str, bool] = {}
        #: Nobody is left: it is the simulation that looks at the supervisor.
        self.calm = False
        #: Steps until something is done, and that.
        self._steps_left = 0
        self._then: Callable[[], object] = bool
        schedule.tracer = self._enter

    def at(self, steps: int, do: Callable[[], object]) -> None:
        """Do something after so many steps, in the midst of the supervisor's code."""
        self._steps_left, self._then = steps, do

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """The thread that runs this is traced meanwhile, and nobody after it."""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        wanted = self._files.get(name)
        if wanted is None:
            wanted = self._files[name] = name.startswith(tuple(WATCHED))
        if not wanted or self.calm:
            return None
        if self._bytecodes:
            frame.f_trace_lines = False
            frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event in ("line", "opcode"):
            if self._steps_left:
                self._steps_left -= 1
                if not self._steps_left:
                    self._then()
            self._left -= 1
            if self._left <= 0:
                self._left = 1 + int(self._random.expovariate(self._rate))
                self._schedule.preempt()
        return self._step
