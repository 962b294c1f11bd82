"""Where a path argument of a call leads: relative to what, and as the call treats it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proctor.syscalls import paths

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.path.located import Located
    from proctor.syscalls.signatures import Arg

AT_FDCWD: Final = -100


def meaning(call: Call, arg: Arg) -> paths.Meaning:
    """What path argument ``arg`` of ``call`` means (:mod:`proctor.syscalls.paths`)."""
    assert call.signature is not None
    how = int(call.how.flags) if call.name == "openat2" else None
    return paths.meaning(call.signature, arg, call.registers, how)


def resolve(call: Call, argument: str | None, follow: bool | None) -> tuple[str, Located, bool]:
    """(argument, where it leads, whether that is what the call means): see
    :meth:`proctor.call.Call.resolve`."""
    known = call.signature
    arg = None
    if known is not None:
        arg = known.first("path") if argument is None else known.arg(argument)
    if known is None or arg is None or arg.role != "path":
        raise AttributeError(f"{call.name} has no path argument {argument or ''}".rstrip())
    path: bytes | None = call.args[arg.name]
    relative_to = known.dirfd_of(arg)
    dirfd = relative_to.value(call.registers) if relative_to is not None else AT_FDCWD
    means = meaning(call, arg)
    located = call.caller.locate(
        path if path is not None else b"",
        dirfd,
        follow=means.follows if follow is None else follow,
        empty=means.empty,
        resolve=int(call.how.resolve) if call.name == "openat2" else 0,
        entry=not follow and means.entry,
    )
    return arg.name, located, follow is None or follow == means.follows
