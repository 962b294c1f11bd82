"""Making, moving and taking away names, as plans do it: the short way of :mod:`proctor.performing.families.names`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, Final

from proctor.performing.executing.steps import Argument, Result, Steps
from proctor.performing.paths import pins
from proctor.performing.short_ways import plans
from proctor.performing.short_ways.plans import ROOM, Plan, Planning, Sketch, Way

REMOVEDIR: Final = 0x200
SYMLINK_FOLLOW: Final = 0x400
#: How many numbers a call is given: the umask and a mode, or flags.
NUMBERS: Final = {"mkdirat": 2, "unlinkat": 1, "renameat2": 1}
_IN: Final = Way(pins.O_DIRECTORY, entry=True)


def arguments(what: str, given: Sequence[Any], *places: tuple[Any, Any]) -> tuple[Any, ...]:
    """Of a system call.

    :param given: its numbers, or the text of a link.
    :param places: directories, with the names in them."""
    if what == "symlinkat":
        return (*given, *places[0])
    return (*[each for place in places for each in place], given[-1])


def add(steps: Steps, what: str, given: Sequence[Any], *places: tuple[Any, Any]) -> Result:
    """Make one; parameters as of :func:`arguments`."""
    if what == "mkdirat":
        steps.call("umask", given[0])
    return steps.call(what, *arguments(what, given, *places))


@cache
def _plan(what: str, relative: tuple[bool, ...]) -> Plan:
    """One of the calls.  Holes: as of :func:`add`, but the paths."""
    ways = [_IN for _ in relative]
    if what.startswith("linkat"):
        ways[0] = Way(0 if "followed" in what else pins.O_NOFOLLOW)
    planning = Planning(*ways, relative=relative)
    steps = planning.steps
    given: list[Argument] = [steps.number() for _ in range(NUMBERS.get(what, 0))]
    if what == "symlinkat":
        given.append(steps.hole(ROOM))
    places = planning.walk()
    if ways[0] is _IN:
        return planning.freeze(add(steps, what, given, *places))
    # what it is about is pinned: the executor's own link leads to the very thing
    digits = steps.scratch(16)
    steps.put_text(digits, places[0][0])
    args = planning.table, digits, *places[1], SYMLINK_FOLLOW
    return planning.freeze(steps.call("linkat", *args))


_plans: Final = {
    each: partial(_plan, each)
    for each in ("mkdirat", "unlinkat", "renameat2", "symlinkat", "linkat", "linkat, followed")
}
_CONSTANT, _REGISTER, _UMASK, _TEXT = plans.CONSTANT, plans.REGISTER, plans.UMASK, plans.TEXT
_HERE, _HERE2, _AT0 = (-1, 0, True), (-1, 1, True), (0, 1, True)
SKETCHES: Final = {
    "mkdir": Sketch(_plans["mkdirat"], (_HERE,), ((_UMASK, 0, 0), (_REGISTER, 1, 0xFFFF)), what=plans.MKDIR),
    "mkdirat": Sketch(_plans["mkdirat"], (_AT0,), ((_UMASK, 0, 0), (_REGISTER, 2, 0xFFFF)), what=plans.MKDIR),
    "rmdir": Sketch(_plans["unlinkat"], (_HERE,), ((_CONSTANT, 0, REMOVEDIR),), mounts=True, what=plans.UNLINK),
    "unlink": Sketch(_plans["unlinkat"], (_HERE,), ((_CONSTANT, 0, 0),), mounts=True, what=plans.UNLINK),
    "unlinkat": Sketch(_plans["unlinkat"], (_AT0,), ((_REGISTER, 2, REMOVEDIR),), (2, REMOVEDIR), mounts=True, what=plans.UNLINK),
    "rename": Sketch(_plans["renameat2"], (_HERE, _HERE2), ((_CONSTANT, 0, 0),), mounts=True, what=plans.RENAME),
    "renameat": Sketch(_plans["renameat2"], (_AT0, (2, 3, True)), ((_CONSTANT, 0, 0),), mounts=True, what=plans.RENAME),
    "renameat2": Sketch(_plans["renameat2"], (_AT0, (2, 3, True)), ((_CONSTANT, 0, 0),), (4, 0), mounts=True, what=plans.RENAME),
    "symlink": Sketch(_plans["symlinkat"], (_HERE2,), ((_TEXT, 0, 0),), what=plans.SYMLINK),
    "symlinkat": Sketch(_plans["symlinkat"], ((1, 2, True),), ((_TEXT, 0, 0),), what=plans.SYMLINK),
    "link": Sketch(_plans["linkat"], ((-1, 0, False), _HERE2), (), what=plans.LINK, nofollow=True),
    "linkat": Sketch(
        _plans["linkat"], ((0, 1, False), (2, 3, True)), (), (4, SYMLINK_FOLLOW), _plans["linkat, followed"],
        what=plans.LINK, nofollow=True,
    ),
}  # fmt: skip
