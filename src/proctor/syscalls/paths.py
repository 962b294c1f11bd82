"""What a path argument means: whether a link at its end is followed, what an empty path is.

    >>> from proctor.syscalls.signatures import signature
    >>> stat = signature("newfstatat")
    >>> meaning(stat, stat.arg("path"), (0, 1, 2, 0x100, 0, 0))  # AT_SYMLINK_NOFOLLOW
    Meaning(follows=False, entry=False, empty=False)

Sources: path_resolution(7) and the manual page of each call; ``fs/*.c`` where they are silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

from proctor.records import NamedTuple
from proctor.syscalls.signatures import Arg, Signature


class Meaning(NamedTuple):
    """What one path argument of one call means."""

    #: Whether a symbolic link at the end is followed.
    follows: bool
    #: Whether the call works on the name that the path ends with, not on what it leads to
    #: (``filename_parentat`` in ``fs/namei.c``): then no link there is followed, also not in front of
    #: a slash.
    entry: bool
    #: Whether an empty path, or NULL where the call takes it, means the descriptor beside it.
    empty: bool


class _Bits(NamedTuple):
    """The bits of a flags argument that are about a path."""

    off: int = 0  # a link at the end is not followed
    on: int = 0  # it is followed, and without it is not
    empty: int = 0


_ENTRIES: Final = frozenset(
    """unlink unlinkat rmdir rename renameat renameat2 mkdir mkdirat mknod mknodat symlink
    symlinkat""".split()  # noqa: SIM905
)
#: Calls that never follow a symbolic link at the end, unless a slash comes behind it.
_NEVER: Final = frozenset(
    """lstat lstat64 oldlstat lchown lchown32 readlink readlinkat link
    lgetxattr lsetxattr llistxattr lremovexattr""".split()  # noqa: SIM905
)
#: Calls for which NULL means the dirfd itself.
_NULL: Final = frozenset(("utimensat", "utimensat_time64", "futimesat", "fanotify_mark"))
#: By the family of the flags argument.
_FLAGS: Final = {
    "AtFlag": _Bits(off=0x100, empty=0x1000),  # AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH
    "AtAccessFlag": _Bits(off=0x100, empty=0x1000),
    "AtStatxFlag": _Bits(off=0x100, empty=0x1000),
    "AtHandleFlag": _Bits(on=0x400, empty=0x1000),  # AT_SYMLINK_FOLLOW
    "OpenTreeFlag": _Bits(off=0x100, empty=0x1000),
    "FspickFlag": _Bits(off=2, empty=8),
    "UmountFlag": _Bits(off=8),
    "InotifyEvent": _Bits(off=0x2000000),  # IN_DONT_FOLLOW
    "FanMarkFlag": _Bits(off=4),
}
#: By call and argument, where the flags have bits for each path, or for one of them.
_OWN_FLAGS: Final = {
    ("linkat", "oldpath"): _Bits(on=0x400, empty=0x1000),
    ("move_mount", "from_path"): _Bits(on=1, empty=4),
    ("move_mount", "to_path"): _Bits(on=0x10, empty=0x40),
}


def meaning(
    known: Signature, arg: Arg, registers: Sequence[int], how: int | None = None
) -> Meaning:
    """What path argument ``arg`` of a call with these six registers means.

    :param how: the ``flags`` in openat2's structure, which no register holds.
    """
    call, name = known.name, arg.name
    entry = call in _ENTRIES or (call in ("link", "linkat") and name == "newpath")
    null = arg.value(tuple(registers)) == 0
    empty = null if call in _NULL else call == "readlinkat" and not null  # a link by O_PATH
    if entry:
        return Meaning(False, True, empty)
    follows = call not in _NEVER
    for each in known.args:
        if how is not None:
            follows = _open_follows(how, known.abi)
            break
        number = each.value(tuple(registers))
        if each.family == "OpenFlag" and each.name == "flags":
            follows = _open_follows(number, known.abi)
            continue
        bits = _OWN_FLAGS.get((call, name)) if each.name == "flags" else None
        bits = bits or _FLAGS.get(each.family or "")
        if bits is not None:
            follows = follows and not number & bits.off and (not bits.on or bool(number & bits.on))
            empty = empty or bool(number & bits.empty)
    return Meaning(follows, False, empty)


def _open_follows(flags: int, abi: str) -> bool:
    open_flags = _open_flags(abi)
    # Beside O_PATH the kernel forgets what is about creating (openat2 refuses it).
    new = open_flags["O_CREAT"] | open_flags["O_EXCL"]
    if flags & new == new and not flags & open_flags["O_PATH"]:
        return False
    return not flags & open_flags["O_NOFOLLOW"]


@cache
def _open_flags(abi: str) -> dict[str, int]:
    from proctor.syscalls.flags import members

    return members("OpenFlag", abi)
