"""Files that are what a rule says: from bytes, from a file of the host's, from a function, or of the machine as
the caller's cgroups leave it.

The path is read once, and where it leads is told by what was read; nothing of the caller's file is opened, nor
need there be one.  What is handed over is a sealed memfd with a name of its own, or the host's file; what stat,
statx and access say is said of that very file, so that fstat of the descriptor says the same.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import HandOver, answer, deny
from proctor.performing import noting
from proctor.performing.entitled import id_maps
from proctor.performing.families import CALLS
from proctor.performing.families import open as opens
from proctor.performing.families import stat as stats
from proctor.performing.given import Given
from proctor.performing.paths import pins
from proctor.performing.paths.wanted import SYNC, TMPFILE
from proctor.performing.trouble import Said

if TYPE_CHECKING:
    from collections.abc import Generator

    from proctor.call.verdict import Verdict
    from proctor.performing.serving import Served
    from proctor.performing.task import Task, Work

#: What else is opened with; O_SYNC, O_DSYNC; and O_DIRECT, where it is a file of the host's.
_KEPT: Final = os.O_APPEND | getattr(os, "O_NONBLOCK", 0) | SYNC
#: Flags with which not all others go (build_open_flags of fs/open.c).
_ODD: Final = TMPFILE | pins.O_DIRECTORY
_KEPT_OF_HOSTS: Final = 3 | os.O_TRUNC | getattr(os, "O_DIRECT", 0) | _KEPT


class Options(Given):
    """See docs/families/served.md.  One of the first three is given.

    :param content: what is in the file; in Python also a function that tells it for each call.
    :param file: path of a file of the host's, as the monitor sees it.
    :param limits: whether it is a file about the machine, with what the caller's cgroups leave of it.
    :param mode: permission bits that are shown; of the host's file, its own.
    :param writable: whether the host's file may be written to.
    """

    content: Any = None
    file: str = ""
    limits: bool = False
    mode: int = 0o444
    writable: bool = False

    def check(self) -> None:
        if not isinstance(self.file, str) or self.file[:1] not in ("", "/"):
            raise ValueError(f"file is the path of a file, from the root, not {self.file!r}")
        for name in ("limits", "writable"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is true or false, not {getattr(self, name)!r}")
        if type(self.mode) is not int or self.mode & ~0o777:
            raise ValueError(f"mode is permission bits, 0 to 0o777, not {self.mode!r}")
        if not (
            self.content is None or isinstance(self.content, (bytes, str)) or callable(self.content)
        ):
            raise ValueError(f"content is a text, not {self.content!r}")
        if sum((self.content is not None, bool(self.file), self.limits)) != 1:
            raise ValueError("one of content, file and limits says what is served")
        if self.writable and not self.file:
            raise ValueError("only a file of the host's can be writable")


def perform(task: Task) -> Work:
    """Answer as if the file were there."""
    options, call = task.options(Options), task.call
    opening = call.name in CALLS["open"]
    if not opening:
        stats.checked_flags(call)
    elif call.name == "openat2" or opens.decode(call)[1] & _ODD:
        _, flags, mode, resolve = opens.decode(call)
        yield from opens.valid(task, pins.HOW.pack(flags, mode, resolve))
    place = yield from _place(task)
    if opening:
        return _open(task, options, place)
    if call.name in stats.ACCESSES:
        return _access(task, options, place)
    if call.name not in stats.STATS:
        return deny(errno.EINVAL)  # readlink: it is no symbolic link
    found = _served(task, options, place, anew=False).status()
    found = stats.inside(found, *id_maps(task))
    return (stats.told_statx if call.name == "statx" else stats.told)(call, found)


def _place(task: Task) -> Generator[Any, Any, bytes]:
    """Where the caller's path leads; the rules are asked about that.  The caller goes there first: by a way
    that it may not take it is told nothing, neither what is there nor what the monitor meets.

    :raises Said: nowhere."""
    call = task.call
    if not call.path:
        raise Said(errno.ENOENT)
    number = pins.signed(call.registers[0]) if "dirfd" in call.args else pins.AT_FDCWD
    path, bits = call.path, 0
    makes = call.name in CALLS["open"] and opens.decode(call)[1] & os.O_CREAT
    if makes and path.endswith(
        b"/"
    ):  # what is there is not looked at (open_last_lookups of fs/namei.c)
        path, bits = path.rstrip(b"/") or b"/", pins.O_NOFOLLOW
    try:
        yield from task.pin(task.start(number, path), path, bits, 0)
    except Said as said:
        if said.errno != errno.ENOENT:
            raise
    if bits:
        raise Said(errno.EISDIR)
    try:
        place = call.where("path")
    except OSError as error:
        raise Said(error.errno or errno.ENOENT) from None
    assert place is not None
    task.permit(place)
    if call.path.endswith(b"/"):
        raise Said(errno.ENOTDIR)
    return place


def _served(task: Task, options: Options, place: bytes, *, anew: bool = True) -> Served:
    from proctor.performing import serving

    return serving.served(task, options, place, anew=anew)


def _open(task: Task, options: Options, place: bytes) -> Verdict:
    _, flags, _, _ = opens.decode(task.call)
    if flags & os.O_CREAT and flags & os.O_EXCL:
        return deny(errno.EEXIST)
    if flags & pins.O_DIRECTORY:
        return deny(errno.ENOTDIR)
    changes = bool(flags & 3) or bool(flags & os.O_TRUNC)
    if flags & pins.O_PATH:  # none can be handed over; reading it is no secret
        flags, changes = 0, False
    if changes and not options.writable:
        return deny(errno.EACCES)
    if not task.has_room():
        return deny(errno.EMFILE)
    file = _served(task, options, place)
    if flags & os.O_TRUNC:
        noting.halves(task.call)
    kept = flags & (_KEPT_OF_HOSTS if options.file else _KEPT)
    return HandOver(file.open(kept), cloexec=bool(flags & getattr(os, "O_CLOEXEC", 0)))


def _access(task: Task, options: Options, place: bytes) -> Verdict:
    mode = int(task.call.args["mode"])
    if mode & os.W_OK and not options.writable:
        return deny(errno.EACCES)
    if mode & os.X_OK:
        found = _served(task, options, place, anew=False).status()
        if not stat.S_IMODE(found.st_mode) & 0o111:
            return deny(errno.EACCES)
    return answer(0)
