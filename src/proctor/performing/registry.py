"""Finds the families of calls that can be performed.

Policies ask which those are on platforms where none could be: nothing that only Linux has is loaded
for that.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from proctor.performing import families

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
def _performing(name: str) -> Any:
    return import_module(_FAMILIES[name]).perform


def perform(task: Task) -> Work:
    """Perform a call that is supported."""
    work: Work = _performing(task.call.name)(task)
    return work
