"""Finds the families of calls that can be performed.

Policies ask which those are on platforms where none could be: nothing that only Linux has is loaded
for that.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from proctor.performing import families
from proctor.words import did_you_mean, quoted

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work


def _calls() -> dict[str, str]:
    found: dict[str, str] = {}
    for each in pkgutil.iter_modules(families.__path__):
        module: Any = import_module(f"{families.__name__}.{each.name}")
        found.update(dict.fromkeys(module.CALLS, module.__name__))
    return found


_FAMILIES: Final = _calls()
#: The calls that can be performed.
SUPPORTED: Final = frozenset(_FAMILIES)


@cache
def _module(name: str) -> Any:
    return import_module(_FAMILIES[name])


def perform(task: Task) -> Work:
    """Perform a call that is supported."""
    work: Work = _module(task.call.name).perform(task)
    return work


@cache
def at_once(name: str) -> Any:
    """What a family has for callers that are what the monitor is: its function ``at_once``, which gives
    the verdict, or None for what an executor is to do.  None if it has none, or there is no family."""
    return getattr(_module(name), "at_once", None) if name in _FAMILIES else None


def family(call: str) -> str:
    """The name of a supported call's family."""
    return _FAMILIES[call].rpartition(".")[2]


def calls(name: str) -> tuple[str, ...]:
    """The calls of a family."""
    return tuple([call for call in _FAMILIES if family(call) == name])


def options(call: str, given: Mapping[str, Any]) -> object:
    """The options of a call's family: its dataclass ``Options``, with these values.

    :raises ValueError: one is unknown, or has no such value; a sentence.
    """
    kind = getattr(_module(call), "Options", None)
    known = [each.name for each in dataclasses.fields(kind)] if kind is not None else []
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or (
                f"; it has {', '.join(known)}" if known else ", nor any other"
            )
            raise ValueError(f"the family {family(call)} has no option {quoted(name)}{hint}")
    made: object = kind(**given) if kind is not None else None
    return made
