"""Directed schedules: something happens just before a certain line."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def at_line(function: Callable[..., Any], text: str, do: Callable[[], object]) -> Iterator[None]:
    """When this thread comes to the line of ``function`` that has ``text`` in it, ``do()`` comes first, as
    if other threads had run there; once, and it has to come there."""
    lines, first = inspect.getsourcelines(function)
    (number,) = [first + at for at, line in enumerate(lines) if text in line]
    code, came = function.__code__, []

    def step(frame: Any, event: str, arg: Any) -> Any:
        if event == "line" and frame.f_lineno == number and not came:
            came.append(True)
            do()
        return step

    before = sys.gettrace()
    sys.settrace(lambda frame, event, arg: step if frame.f_code is code else None)
    try:
        yield
    finally:
        sys.settrace(before)
    assert came, f"{function.__qualname__} did not come to: {text}"
