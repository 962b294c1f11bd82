"""Preemption: whoever runs the supervisor's code can be left between any two lines of it.

Ports (:mod:`proctor.model.sim.world`) are where threads meet the kernel; real ones interleave anywhere.
So in some episodes every thread that runs the supervisor's own code is watched, and now and then, when
the seed says so, it is left at a line, or at a bytecode, and others run: no coarser than the
interpreter's own switches between threads, which come between bytecodes.

Since Python 3.12 (PEP 669) that is :mod:`sys.monitoring`'s work, before :func:`sys.settrace`'s: which there
sees a code's bytecodes only from its second run on, so that nothing would follow from the seed alone.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final

import proctor.supervisor as watched

if TYPE_CHECKING:
    from types import FrameType

    from proctor.model.sim.schedule import Schedule

#: The code in which threads are left: files that begin with one of these names.
WATCHED: Final[list[str]] = [str(Path(watched.__file__).parent)]

#: Told what is run next: the code, and its line, or the offset of its bytecode.
_Passed = Callable[[CodeType, int], object]


class _Wanted(dict[str, bool]):
    """Whether the code of a file is watched."""

    def __missing__(self, name: str) -> bool:
        wanted = self[name] = name.startswith(tuple(WATCHED))
        return wanted


if sys.version_info >= (3, 12):

    class _Watch:
        """Watches threads of this process, by sys.monitoring."""

        _TOOL: Final = 4  # none of those that have a name there

        def __init__(self, passed: _Passed, bytecodes: bool) -> None:
            self._passed = passed
            self._event = (
                sys.monitoring.events.INSTRUCTION if bytecodes else sys.monitoring.events.LINE
            )
            self._threads: set[int] = set()
            #: Steps until it is told of one.
            self.left = 1

        def here(self) -> None:
            """This thread, from now on."""
            self._threads.add(threading.get_ident())

        @contextmanager
        def all(self) -> Iterator[None]:
            """This thread too, and until the end of this any."""
            codes = list(_codes())
            sys.monitoring.use_tool_id(self._TOOL, "proctor.model.sim")
            try:
                sys.monitoring.register_callback(self._TOOL, self._event, self._step)
                for code in codes:
                    sys.monitoring.set_local_events(self._TOOL, code, self._event)
                self.here()
                yield
            finally:
                for code in codes:
                    sys.monitoring.set_local_events(self._TOOL, code, 0)
                sys.monitoring.register_callback(self._TOOL, self._event, None)
                sys.monitoring.free_tool_id(self._TOOL)
                self._threads.clear()

        def _step(self, code: CodeType, where: int) -> None:
            if threading.get_ident() in self._threads:
                self.left -= 1
                if self.left <= 0:
                    self._passed(code, where)

    def _codes() -> Iterator[CodeType]:
        """All code that is watched: whatever functions there are, also such as were put into the place
        of others, and what is defined within them."""
        wanted = _Wanted()
        found: set[CodeType] = set()
        left = [each.__code__ for each in gc.get_objects() if type(each) is FunctionType]
        while left:
            code = left.pop()
            if code not in found and wanted[code.co_filename]:
                found.add(code)
                yield code
                left += [each for each in code.co_consts if isinstance(each, CodeType)]

else:

    class _Watch:
        """Watches threads of this process, by sys.settrace."""

        def __init__(self, passed: _Passed, bytecodes: bool) -> None:
            self._passed = passed
            self._event = "opcode" if bytecodes else "line"
            self._wanted = _Wanted()
            #: Steps until it is told of one.
            self.left = 1

        def here(self) -> None:
            """This thread, from now on."""
            sys.settrace(self._enter)

        @contextmanager
        def all(self) -> Iterator[None]:
            """This thread too, meanwhile."""
            before = sys.gettrace()
            self.here()
            try:
                yield
            finally:
                sys.settrace(before)

        def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
            if not self._wanted[frame.f_code.co_filename]:
                return None
            if self._event == "opcode":
                frame.f_trace_lines = False
                frame.f_trace_opcodes = True
            return self._step

        def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
            if event == self._event:
                self.left -= 1
                if self.left <= 0:
                    where = frame.f_lineno if event == "line" else frame.f_lasti
                    self._passed(frame.f_code, where)
            return self._step


class Preemption:
    """Watches the threads of one episode.

    :param every: lines, or bytecodes, from one preemption to the next, on average.
    :param bytecodes: between any two of them, not only between lines.
    """

    def __init__(self, schedule: Schedule, random: Random, every: float, bytecodes: bool) -> None:
        self._schedule = schedule
        self._random = random
        self._rate = 1.0 / every
        #: Steps to the next preemption.
        self._left = 1
        #: Told of each step.
        self.record: _Passed | None = None
        #: Steps until something is done, and that; 0: nothing is.
        self._steps_left = 0
        self._then: Callable[[], object] = bool
        #: Steps from one of which we are told to the next one: most are only counted.
        self._stretch = 1
        self._watch = _Watch(self._passed, bytecodes)
        schedule.watch = self._watch.here

    def at(self, steps: int, do: Callable[[], object]) -> None:
        """Do something after so many steps, in the midst of the supervisor's code."""
        self._count()
        self._steps_left, self._then = steps, do
        self._wait()

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """The thread that runs this is watched meanwhile, and nobody after it."""
        with self._watch.all():
            yield

    @contextmanager
    def calm(self) -> Iterator[None]:
        """It is the simulation that looks at the supervisor meanwhile: nobody is left."""
        left, self._watch.left = self._watch.left, sys.maxsize
        try:
            yield
        finally:
            self._watch.left = left

    def _count(self) -> None:
        """What was passed since the last time."""
        passed = self._stretch - self._watch.left
        self._left -= passed
        if self._steps_left:
            self._steps_left -= passed
        self._stretch = self._watch.left

    def _wait(self) -> None:
        """Be told of the next step that matters."""
        most = self._steps_left or self._left
        self._stretch = self._watch.left = 1 if self.record else min(most, self._left)

    def _passed(self, code: CodeType, where: int) -> None:
        if self.record is not None:
            self.record(code, where)
        awaited = self._steps_left > 0
        self._count()
        due, over = awaited and not self._steps_left, self._left <= 0
        if over:
            self._left = 1 + int(self._random.expovariate(self._rate))
        self._wait()  # others are watched as soon as this one is left
        if due:
            self._then()
        if over:
            self._schedule.preempt()
