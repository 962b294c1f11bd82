"""Requests of a walk step by step: many components at once, one link, one name, what is above."""

from __future__ import annotations

from functools import cache
from typing import Final

from proctor.performing.executing.requests import Reply, Request
from proctor.performing.executing.steps import Argument, Place, Result, Steps
from proctor.performing.paths.filestat import Status, status_of, statx, system_of
from proctor.performing.paths.pins import HOW, NO_XDEV, O_DIRECTORY, PATH_MAX, PIN
from proctor.records import NamedTuple

SINGLES: Final = 6
#: The longest name that there is room for by itself.
LONGEST: Final = 256
_UP: Final = 8


class Seen(NamedTuple):
    """Where a status is in a reply."""

    step: Result
    first: int

    def read(self, reply: Reply) -> tuple[Status, bool]:
        """(status, whether it is on procfs)."""
        return status_of(reply.parts[self.first]), system_of(reply.parts[self.first + 1]).proc

    def flags(self, reply: Reply) -> int:
        """ST_* bits of its mount."""
        return system_of(reply.parts[self.first + 1]).flags


def _see(steps: Steps, fd: Result, empty: Place) -> tuple[Seen, Result]:
    status, system = steps.scratch(256), steps.scratch(128)
    statx(steps, fd, status, empty)
    last = steps.call("fstatfs", fd, system)
    first = steps.want(status)
    steps.want(system)
    return Seen(fd, first), last


class Stride(NamedTuple):
    """See :func:`stride`."""

    request: Request
    here: Seen
    whole: Seen
    singles: tuple[Seen, ...]


@cache
def stride(relative: bool, size: int) -> Stride:
    """Many components at once, as far as no link is among them; else some, one by one.

    Holes: directory (if not ``relative``), how for all, how for one, all, one by one."""
    steps = Steps()
    where: Argument = steps.sent() if relative else steps.number()
    how_all, how_one = steps.hole(HOW.size), steps.hole(HOW.size)
    path = steps.hole(size)
    names = [steps.hole(LONGEST if size < 4096 else size) for _ in range(SINGLES)]
    slash, empty = steps.bytes(b"/"), steps.bytes(b"")
    itself = steps.bytes(HOW.pack(PIN, 0, 0))
    # A directory that may not be searched has no "." for the caller, and is where it is all the same.
    start = (
        steps.call("dup", where)
        if relative
        else steps.call("openat2", where, slash, itself, HOW.size)
    )
    here, _ = _see(steps, start, empty)
    end = steps.call("openat2", where, path, how_all, HOW.size, bad=2)
    whole, last = _see(steps, end, empty)
    steps.end(last)
    steps.give(end)
    singles: list[Seen] = []
    at: Argument = where
    for name in names:
        at = steps.call("openat2", at, name, how_one, HOW.size)
        singles.append(_see(steps, at, empty)[0])
        steps.give(at)
    return Stride(steps.freeze(), here, whole, tuple(singles))


class Link(NamedTuple):
    """See :func:`link`."""

    request: Request
    found: Seen
    text: int
    test: Result


@cache
def link(size: int) -> Link:
    """What a name is that is no directory.  Holes: how to look, how to test, name.  Sent: the directory."""
    steps = Steps()
    directory = steps.sent()
    how, testing, name = steps.hole(HOW.size), steps.hole(HOW.size), steps.hole(size)
    empty = steps.bytes(b"")
    target = steps.scratch(PATH_MAX + 8)
    fd = steps.call("openat2", directory, name, how, HOW.size)
    found, _ = _see(steps, fd, empty)
    text = steps.call("readlinkat", fd, empty, target, PATH_MAX, bad=0)
    test = steps.call("openat2", directory, name, testing, HOW.size, bad=0)
    steps.give(fd)
    part = steps.want(target, text)
    return Link(steps.freeze(), found, part, test)


class One(NamedTuple):
    """See :func:`one`."""

    request: Request
    seen: Seen


@cache
def one(size: int) -> One:
    """One name.  Holes: how, name.  Sent: the directory."""
    steps = Steps()
    directory, how, name = steps.sent(), steps.hole(HOW.size), steps.hole(size)
    empty = steps.bytes(b"")
    fd = steps.call("openat2", directory, name, how, HOW.size)
    seen, _ = _see(steps, fd, empty)
    steps.give(fd)
    return One(steps.freeze(), seen)


class Above(NamedTuple):
    """See :func:`above`."""

    request: Request
    levels: tuple[Seen, ...]


@cache
def above() -> Above:
    """The directories above one, on the same mount.  Sent: the directory."""
    steps = Steps()
    at: Argument = steps.sent()
    how = steps.bytes(HOW.pack(PIN | O_DIRECTORY, 0, NO_XDEV))
    up, empty = steps.bytes(b".."), steps.bytes(b"")
    levels = []
    for _ in range(_UP):
        at = steps.call("openat2", at, up, how, HOW.size)
        levels.append(_see(steps, at, empty)[0])
        steps.give(at)
    return Above(steps.freeze(), tuple(levels))
