"""Finds the families of calls that can be performed.

Policies ask which those are on platforms where none could be: nothing that only Linux has is loaded
for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from proctor.performing import families
from proctor.words import did_you_mean, quoted

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.performing.task import Task, Work


def _found() -> dict[str, tuple[str, ...]]:
    """The modules that have a call, by its name: first the one whose options need not be given."""
    found: dict[str, tuple[str, ...]] = {
        call: (_within(each),) for each, calls in families.CALLS.items() for call in calls
    }
    for each, calls in families.ALSO.items():
        for call in calls:
            found[call] += (_within(each),)
    return found


def _within(family: str) -> str:
    return f"{families.__name__}.{family}"


_FAMILIES: Final = _found()
#: The calls that can be performed.
SUPPORTED: Final = frozenset(_FAMILIES)


@cache
def _module(name: str, kind: type | None = None) -> Any:
    """The module of a call's family: the first, or the one that options of this type belong to."""
    families = _FAMILIES[name]
    for each in map(import_module, families if kind is not None else ()):
        if getattr(each, "Options", None) is kind:
            return each
    return import_module(families[0])  # which refuses options that are not its own


def _kind(options: object) -> type | None:
    return None if options is None else type(options)


def perform(task: Task) -> Work:
    """Perform a call that is supported."""
    work: Work = _module(task.call.name, _kind(task.given)).perform(task)
    return work


def at_once(name: str, options: object = None) -> Any:
    """What a family has for callers that are what the monitor is: its function ``at_once``, which gives
    the verdict, or None for what an executor is to do.  None if it has none, or there is no family."""
    return _at_once(name, _kind(options)) if name in _FAMILIES else None


def is_harmless_again(call: Call) -> bool:
    """Whether performing a call that was performed, or in part, changes nothing that performing it once does not: by its
    family's ``LOOKING`` of them all, or its function ``is_harmless_again``; or since it is one of those of which is known
    what was changed, and nothing was."""
    if call.name in families.LOOKING or (call.untouched and call.name in families.NOTED):
        return True
    test = call.name in _FAMILIES and getattr(_module(call.name), "is_harmless_again", None)
    return bool(test and test(call))


def asks_who(name: str, options: object = None) -> bool:
    """Whether a call's family has to know who calls; not so of its ``WHOEVER``, calls that are answered by what is read
    of their thread anew."""
    return name not in _whoever(name, _kind(options))


@cache
def _whoever(name: str, kind: type | None) -> tuple[str, ...]:
    calls: tuple[str, ...] = getattr(_module(name, kind), "WHOEVER", ())
    return calls


@cache
def _at_once(name: str, kind: type | None) -> Any:
    return getattr(_module(name, kind), "at_once", None)


def _short(module: str) -> str:
    return module.rpartition(".")[2]


def load(calls: Iterable[str]) -> None:
    """Load what performs these calls: when the first of them comes there may be no descriptor left for that.

    :raises ValueError: nothing here performs one."""
    calls = list(calls)
    for call in calls:
        if call not in SUPPORTED:
            raise ValueError(f"nothing here performs {call!r}{did_you_mean(call, SUPPORTED)}")
    for module in {_FAMILIES[call][0] for call in calls}:
        for way in getattr(import_module(module), "WAYS", ()):
            import_module(way)


@cache
def ordinary(name: str) -> Any:
    """The family that has a short way for a call which nobody has looked at, by its function ``short_way``, its
    ``DEEDS`` or what is ``SEEN``; None if none does."""
    for each in map(import_module, _FAMILIES.get(name, ())):
        if hasattr(each, "short_way") or any(
            name in getattr(each, kind, ()) for kind in ("DEEDS", "SEEN")
        ):
            return each
    return None


def family(call: str) -> str:
    """The name of a supported call's family, of the first if it has several."""
    return _short(_FAMILIES[call][0])


def calls(name: str) -> tuple[str, ...]:
    """The calls of a family."""
    return tuple([call for call, modules in _FAMILIES.items() if name in map(_short, modules)])


def options(calls: Sequence[str], given: Mapping[str, Any]) -> object:
    """The options of the calls' family, which is the one that has them all: its ``Options``, with
    these values.

    :raises ValueError: one is unknown, or has no such value, or no family has all these calls; a sentence.
    """
    shared = [
        each for each in _FAMILIES[calls[0]] if all(each in _FAMILIES[call] for call in calls)
    ]
    if not shared:
        named = " and ".join(sorted({family(call) for call in calls}))
        raise ValueError(
            f"these options would be of {named}; each of these families has its own, so this is more than "
            "one rule"
        )
    known: list[str] = []
    for module in shared:
        kind = getattr(import_module(module), "Options", None)
        names = kind._fields if kind else ()
        if not given or (kind and set(given) <= set(names)):
            made: object = kind(**given) if kind else None
            return made
        known += names
    name = next((each for each in given if each not in known), "")
    if not name:
        raise ValueError(
            f"{', '.join(given)} are options of several families: {', '.join(map(_short, shared))}"
        )
    hint = did_you_mean(name, known) or (
        f"; it has {', '.join(known)}" if known else ", nor any other"
    )
    raise ValueError(f"the family {family(calls[0])} has no option {quoted(name)}{hint}")
