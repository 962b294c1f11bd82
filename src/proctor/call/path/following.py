"""How each call treats its path arguments: relative to what, following links or not.

Sources: path_resolution(7) and the manual page of each call; ``fs/*.c`` where they are silent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.path.resolve import Located
    from proctor.syscalls.signatures import Arg

AT_FDCWD: Final = -100
_O_CREAT_EXCL: Final = 0o300
_O_PATH: Final = 0o10000000

#: Calls that work on a name in a directory (filename_parentat in fs/namei.c): a symbolic link there
#: is never followed, also not in front of a slash.
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
#: (argument, bit) that turns following off, by the family of that argument.
_OFF: Final = {
    "AtFlag": 0x100,  # AT_SYMLINK_NOFOLLOW
    "AtAccessFlag": 0x100,
    "AtStatxFlag": 0x100,
    "OpenTreeFlag": 0x100,
    "FspickFlag": 2,
    "UmountFlag": 8,
    "InotifyEvent": 0x2000000,  # IN_DONT_FOLLOW
    "FanMarkFlag": 4,
}
#: Bit that lets an empty path mean the dirfd itself.
_EMPTY: Final = {
    "AtFlag": 0x1000,  # AT_EMPTY_PATH
    "AtAccessFlag": 0x1000,
    "AtStatxFlag": 0x1000,
    "AtHandleFlag": 0x1000,
    "OpenTreeFlag": 0x1000,
    "FspickFlag": 8,
}
_AT_SYMLINK_FOLLOW: Final = 0x400


def is_entry(call: Call, arg: Arg) -> bool:
    """Whether ``call`` works on the name that path ``arg`` ends with, not on what it leads to."""
    return call.name in _ENTRIES or (call.name in ("link", "linkat") and arg.name == "newpath")


def follows(call: Call, arg: Arg) -> bool:
    """Whether ``call`` follows a symbolic link at the end of path ``arg``."""
    name = call.name
    known = call.signature
    assert known is not None
    if name in _NEVER or is_entry(call, arg):
        return False
    if name == "openat2":
        return _open_follows(int(call.how.flags), call.abi)
    for each in known.args:
        number = each.value(call.registers)
        if name in ("linkat", "name_to_handle_at") and each.name == "flags":
            return bool(number & _AT_SYMLINK_FOLLOW)
        if each.family == "MoveMountFlag":
            return bool(number & (1 if arg.name == "from_path" else 0x10))
        if each.family == "OpenFlag" and each.name == "flags":
            return _open_follows(number, call.abi)
        if each.family in _OFF and number & _OFF[each.family]:
            return False
    return True


def _open_follows(flags: int, abi: str) -> bool:
    # Beside O_PATH the kernel forgets what is about creating (openat2 refuses it).
    if flags & _O_CREAT_EXCL == _O_CREAT_EXCL and not flags & _O_PATH:
        return False
    if flags & 0o400000 and abi in ("x86_64", "i386", "x32", "riscv64", "s390x"):
        return False
    return not (flags & 0o100000 and abi in ("aarch64", "arm", "ppc64le"))


def allows_empty(call: Call, arg: Arg) -> bool:
    """Whether an empty path (or NULL, where the call takes it) means the dirfd itself."""
    known = call.signature
    assert known is not None
    null = arg.value(call.registers) == 0
    if call.name in _NULL and null:
        return True
    if call.name == "readlinkat":  # of a symbolic link opened with O_PATH (Linux 2.6.39)
        return not null
    if is_entry(call, arg):
        return False  # linkat's flag is about the old path
    for each in known.args:
        number = each.value(call.registers)
        if each.family == "MoveMountFlag":
            return bool(number & (4 if arg.name == "from_path" else 0x40))
        if each.family in _EMPTY and number & _EMPTY[each.family]:
            return True
    return False


def resolve(call: Call, argument: str | None, follow: bool | None) -> Located:
    """See :meth:`proctor.call.Call.resolve`."""
    known = call.signature
    arg = None
    if known is not None:
        arg = known.first("path") if argument is None else known.arg(argument)
    if known is None or arg is None or arg.role != "path":
        raise AttributeError(f"{call.name} has no path argument {argument or ''}".rstrip())
    path: bytes | None = call.args[arg.name]
    relative_to = known.dirfd_of(arg)
    dirfd = relative_to.value(call.registers) if relative_to is not None else AT_FDCWD
    empty = allows_empty(call, arg)
    return call.caller.locate(
        path if path is not None else b"",
        dirfd,
        follow=follows(call, arg) if follow is None else follow,
        empty=empty,
        resolve=int(call.how.resolve) if call.name == "openat2" else 0,
        entry=not follow and is_entry(call, arg),
    )
