"""Where a path leads for its caller, found out and named in the caller's identity.

It is what a policy's rules are asked about where the kernel runs the call, or nobody performs it: no more is
seen for it than the caller sees.  As :func:`proctor.call.path.resolve.locate` has it, whose words are used.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import Deny, deny
from proctor.performing import pins
from proctor.performing.trouble import Said

if TYPE_CHECKING:
    from proctor.call.path.following import Sought
    from proctor.performing.task import Task

_MOST_LINKS: Final = 40  # MAXSYMLINKS of the kernel


def seek(what: Sought, task: Task) -> Generator[Any, Any, bytes | int | Deny]:
    """The path by which the caller's root shows it, of something that is not there as well, or the caller's errno:
    a denial where that is not the kernel's own, which may come to something if it walks itself."""
    try:
        return (yield from _led(task, what))
    except Said as said:
        if task.stepped:
            return deny(said.errno, "a path through /proc that cannot be followed")
        return said.errno


def _led(task: Task, what: Sought) -> Generator[Any, Any, bytes]:
    path, resolve = what.path, what.resolve & ~pins.CACHED
    if not path:
        if not what.empty:
            raise Said(errno.ENOENT)
        if what.dirfd != pins.AT_FDCWD:
            return (yield from task.descriptor(what.dirfd)).named.path
        path = b"."
    start = task.start(what.dirfd, path, resolve)
    head, last, slashes = pins.split(path)
    follow = what.follow or bool(slashes)
    if what.entry and last not in (b"", b".", b".."):
        # a name in a directory that may be searched
        inside = head + (b"." if head.endswith(b"/") else b"/.")
        pin = yield from task.pin(start, inside, pins.O_DIRECTORY, resolve)
        return _in(pin.named.path, last)
    for _ in range(_MOST_LINKS + 1):
        try:
            pin = yield from task.pin(start, path, 0 if follow else pins.O_NOFOLLOW, resolve)
            return pin.named.path
        except Said as said:
            head, last, _ = pins.split(path)
            if said.errno != errno.ENOENT or last in (b"", b".", b".."):
                raise
            try:
                here = yield from task.entry(start, head, last, resolve)
            except Said:  # nor is there a directory in which it would be
                raise said from None
        if here.found is None:
            return _in(here.parent.named.path, last)
        if follow and stat.S_ISLNK(
            here.found.named.status.mode
        ):  # it dangles: another name is meant
            path = here.text if here.text.startswith(b"/") else head + b"/" + here.text
            start = task.start_again(start, path, resolve)
    raise Said(errno.ELOOP)


def _in(directory: bytes, name: bytes) -> bytes:
    return directory.rstrip(b"/") + b"/" + name
