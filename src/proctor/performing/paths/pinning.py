"""Requests that pin what a path means, and name it, in one trip each: of the parts in :mod:`proctor.performing.paths.pins`."""

from __future__ import annotations

import errno
import struct
from functools import cache
from typing import Final

from proctor.performing.executing.requests import Request
from proctor.performing.executing.steps import END, Argument, Place, Result, Steps
from proctor.performing.paths.pins import (
    HOW,
    O_NOFOLLOW,
    PATH_MAX,
    PIN,
    Name,
    Naming,
    Probe,
    Probing,
)
from proctor.records import NamedTuple

#: What an :func:`entry`'s parent is found by.
ABSOLUTE, RELATIVE, PINNED = range(3)


class Look(NamedTuple):
    """Pin and name."""

    request: Request
    valid: Result
    pin: Result
    name: Name
    probe: Probe
    #: The pin as it is given, and what was opened instead where it was foreseen: see :func:`foreseen`.
    given: Result
    opened: Result | None = None


@cache
def look(relative: bool, size: int) -> Look:
    """Holes: directory (a number, if not ``relative``), how to open later, how to walk, how to probe,
    path.  What the kernel says to the flags of the first of these it says before it looks at any path.

    Sent: the directory (if ``relative``), the executor's table."""
    steps = Steps()
    where: Argument = steps.sent() if relative else steps.number()
    table = steps.sent()
    later, how = steps.hole(HOW.size), steps.hole(HOW.size)
    probing, naming = Probing(steps), Naming(steps)
    path = steps.hole(size)
    valid = _validity(steps, later, naming)
    pin = steps.call("openat2", where, path, how, HOW.size)
    name = naming.add(pin, table)
    steps.end(name.last)
    steps.jump(pin, bad=True)
    probe = probing.add(where, path)
    steps.give(pin)
    return Look(steps.freeze(), valid, pin, name, probe, pin)


#: Room for a name that is foreseen, with its NUL.
FORESEEN: Final = 256
_PLACE: Final = struct.Struct("=12s16s4x8s")


def expectation(system: bytes, status: bytes, name: bytes = b"") -> bytes:
    """What :func:`foreseen` expects: struct statfs, struct statx and name of what was there before."""
    return _PLACE.pack(status[28:40], status[136:152], system[:8]) + name


@cache
def foreseen(relative: bool, itself: bool) -> tuple[Look, int]:
    """As :func:`look`; and what it leads to is opened at once, by its own link, if it is what is expected: of the same
    type and mode, the same thing on the same mount of the same kind of file system, and of that name.  The room for that.

    :param itself: its name is the path itself.

    Holes: directory (a number, if not ``relative``), how to open, how to walk, how to probe, what is expected, path.
    Sent: as for :func:`look`."""
    steps = Steps()
    where: Argument = steps.sent() if relative else steps.number()
    table = steps.sent()
    opening, how = steps.hole(HOW.size), steps.hole(HOW.size)
    probing, naming = Probing(steps), Naming(steps)
    expected = steps.hole(_PLACE.size + (0 if itself else FORESEEN))
    path = steps.hole(FORESEEN)
    valid = _validity(steps, opening, naming)
    pin = steps.call("openat2", where, path, how, HOW.size)
    name = naming.add(pin, table, not itself)
    digits, status, system, text, second = naming.seen
    at = expected.offset
    compared = [
        step
        for seen in ((status,) if itself else (status, second))
        for step in (
            steps.compare(Place(at, 12), Place(seen.offset + 28, 12)),
            steps.compare(Place(at + 12, 16), Place(seen.offset + 136, 16)),
        )
    ]
    compared.append(steps.compare(Place(at + 32, 8), system))
    meant = path if itself else Place(at + _PLACE.size, FORESEEN)
    compared.append(steps.compare(meant, text))
    opened = steps.call("openat2", table, digits, opening, HOW.size, good=END)
    for step in compared:
        steps.jump(step, bad=True)
    given = steps.call("dup", pin, good=END)
    steps.jump(pin, bad=True)
    probe = probing.add(where, path)
    steps.give(given)
    steps.give(opened)
    return Look(steps.freeze(), valid, pin, name, probe, given, opened), expected.size


def _validity(steps: Steps, how: Place, naming: Naming) -> Result:
    return steps.call("openat2", -1, naming.dot, how, HOW.size, want=-errno.EBADF)


class Known(NamedTuple):
    """Name what goes along."""

    request: Request
    name: Name


@cache
def name_of() -> Known:
    """Sent: a pin, the executor's table."""
    steps = Steps()
    naming = Naming(steps)
    given, table = steps.sent(), steps.sent()
    name = naming.add(steps.call("dup", given), table)
    return Known(steps.freeze(), name)


class Entry(NamedTuple):
    """A name in a directory, both pinned and named."""

    request: Request
    valid: Result
    parent: Result
    parent_name: Name
    probe: Probe | None
    #: What has the name, not followed.
    found: Result
    found_name: Name
    #: Its text, if it is a symbolic link.
    link: int


@cache
def entry(by: int, size: int) -> Entry:
    """Holes: directory (ABSOLUTE), how to open later, how to walk, how to probe, path of the parent
    (these three not if it is PINNED), name.

    Sent: the directory (RELATIVE) or the parent itself (PINNED), the executor's table."""
    steps = Steps()
    where: Argument = steps.number() if by == ABSOLUTE else steps.sent()
    table = steps.sent()
    later = steps.hole(HOW.size)
    how = steps.hole(HOW.size) if by != PINNED else None
    probing = Probing(steps) if by != PINNED else None
    path = steps.hole(size) if by != PINNED else None
    last, naming = steps.hole(size), Naming(steps)
    itself = steps.bytes(HOW.pack(PIN | O_NOFOLLOW, 0, 0))
    valid = _validity(steps, later, naming)
    if path is not None and how is not None:
        parent = steps.call("openat2", where, path, how, HOW.size)
    else:
        parent = steps.call("dup", where)
    parent_name = naming.add(parent, table)
    found = steps.call("openat2", parent, last, itself, HOW.size)
    found_name = naming.add(found, table)
    target = steps.scratch(PATH_MAX + 8)
    text = steps.call("readlinkat", found, naming.empty, target, PATH_MAX, good=END, bad=END)
    probe = None
    if path is not None and probing is not None:
        steps.jump(parent, bad=True)
        probe = probing.add(where, path)
    steps.give(parent)
    steps.give(found)
    link = steps.want(target, text)
    return Entry(steps.freeze(), valid, parent, parent_name, probe, found, found_name, link)
