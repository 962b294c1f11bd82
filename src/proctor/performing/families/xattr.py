"""Extended attributes: set, get, list and remove, in all their forms.

The kernel lets root of a user namespace have almost all of them: ``user.*``, ACLs, and
``security.capability``, which it marks with that root's id itself (``cap_convert_nscap`` in
security/commoncap.c).  Such calls are left to it.  What it wants CAP_SYS_ADMIN *over the host* for is
``trusted.*`` (``xattr_permission`` in fs/xattr.c).  Of these the ones that the options name are performed,
for whoever holds CAP_SYS_ADMIN in a user namespace that is the target's own, on what it owns there: the
inode's user and group have a number in that namespace, which is what the kernel asks where it means
namespaces (``privileged_wrt_inode_uidgid`` in kernel/capability.c).

Attributes that are kept *apart* are stored under another name, ``trusted.proctor.CONTAINER.*``, which no
other container can spell.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Union

from proctor.call.verdict import answer, deny, let_run_unsafe
from proctor.performing.entitled import foreign, id_maps, lacking
from proctor.performing.executing.lent import Lent
from proctor.performing.executing.requests import Reply, Request
from proctor.performing.executing.steps import Result, Steps
from proctor.performing.given import Given
from proctor.performing.paths import pins
from proctor.performing.trouble import Powerless, Said
from proctor.records import NamedTuple
from proctor.words import listed

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Verdict
    from proctor.performing.paths.finding import Pin
    from proctor.performing.performers import Performers
    from proctor.performing.short_ways.short import Ordinary
    from proctor.performing.task import Task, Work

_VERBS: Final = ("set", "get", "list", "remove")

_CAP_SYS_ADMIN: Final = 21
FLAGS: Final = 3  # XATTR_CREATE, XATTR_REPLACE
_NOFOLLOW, _EMPTY_PATH = 0x100, 0x1000
MOST: Final = 65536  # XATTR_SIZE_MAX and XATTR_LIST_MAX of include/uapi/linux/limits.h
LONGEST_NAME: Final = 255
_TRUSTED: Final = b"trusted."
APART: Final = b"trusted.proctor."
_SIZES: Final = (0, 64, 1024, MOST)

KERNELS: Final = (
    "the kernel decides about this attribute, by the caller's own rights, whatever it is by then"
)


#: Beginnings of names, and whole ones.
_Patterns = tuple[tuple[bytes, ...], frozenset[bytes]]


class Options(Given):
    """What of ``trusted.*`` is performed.

    :param names: attributes that are what they are on the host, too: whole names, or beginnings with
        ``*`` at the end.
    :param apart: attributes that each container has for itself.
    """

    names: Sequence[str] = ("trusted.overlay.*",)
    apart: Sequence[str] = ()

    #: The same, as they are looked for; each has its own.
    _shared: ClassVar[_Patterns]
    _apart: ClassVar[_Patterns]

    def check(self) -> None:
        for option, patterns in (("names", self.names), ("apart", self.apart)):
            for each in listed(option, patterns, "attributes' names"):
                if not each.startswith("trusted.") or "*" in each[:-1]:
                    raise ValueError(
                        f"{option} has {each!r}: a name that begins with trusted., with * at its end or "
                        "nowhere; all others are the kernel's to decide"
                    )
        self.settle("_shared", _patterns(self.names))
        self.settle("_apart", _patterns(self.apart))

    def stored(self, name: bytes, prefix: bytes) -> bytes | None:
        """The name on the host for a container's; None if it is not performed."""
        if not name.startswith(APART) and _among(name, self._shared):
            return name
        return prefix + name[len(_TRUSTED) :] if _among(name, self._apart) else None

    def shown(self, stored: bytes, prefix: bytes) -> bytes | None:
        """A container's name for one on the host; None if it has none there."""
        name = _TRUSTED + stored[len(prefix) :] if stored.startswith(prefix) else stored
        return name if self.stored(name, prefix) == stored else None


def _patterns(patterns: Sequence[str]) -> _Patterns:
    beginnings = [each[:-1].encode() for each in patterns if each.endswith("*")]
    whole = [each.encode() for each in patterns if not each.endswith("*")]
    return tuple(beginnings), frozenset(whole)


def _among(name: bytes, patterns: _Patterns) -> bool:
    beginnings, whole = patterns
    return name.startswith(beginnings) or name in whole


class Wanted(NamedTuple):
    """One call, as its kept values say."""

    verb: str
    #: The attribute; empty for lists.
    name: bytes
    value: bytes
    #: Bytes that the caller has room for, and where.
    size: int
    room: int
    flags: int


#: What is performed where a rule says nothing.
DEFAULT: Final = Options()
WAYS: Final = ("proctor.performing.short_ways.marking",)


def short_way(
    performers: Performers, name: str, listener: object, begins: Callable[[Call], object] | None
) -> Ordinary | None:
    """What supervisors ask first."""
    from proctor.performing.short_ways.marking import BY_PATH, MarkWay

    return MarkWay(performers, sys.modules[__name__], name, begins).go if name in BY_PATH else None


def perform(task: Task) -> Work:
    """Leave it to the kernel, or have it done."""
    options = task.options(Options)
    name = task.call.name
    verb = next(each for each in _VERBS if each in name)
    at_flags = task.call.registers[2] & 0xFFFFFFFF if name.endswith("at") else 0
    wanted = decoded(task.call, verb, at_flags)
    number, path = _where(task, name)
    prefix = _prefix(task) if options.apart else APART  # which no name that is shown begins with
    stored = options.stored(wanted.name, prefix)
    ours = (stored is not None or verb == "list") and task.who.namespace(
        "user"
    ) != task.own.who.namespace("user")
    if not ours and not task.asked:
        return let_run_unsafe(KERNELS)
    if path is None or (
        not path
        and at_flags & _EMPTY_PATH
        and (number != pins.AT_FDCWD or verb in ("list", "remove"))
    ):
        pin, by_fd = (yield from task.descriptor(number)), True
    elif not path and (at_flags & _EMPTY_PATH or name[0] == "f"):
        pin, by_fd = (yield from task.itself(number)), False
    else:
        nofollow = name.startswith("l" + verb) or at_flags & _NOFOLLOW
        flags = pins.O_NOFOLLOW if nofollow else 0
        pin, by_fd = (yield from task.pin(task.start(number, path), path, flags, 0)), False
    held = pin.fd
    task.permit(pin.named.path, pin.named.status)
    if verb == "list" and ours:
        return (yield from _list(task, options, wanted, pin, by_fd, prefix))
    if ours and stored is not None:
        why = _lacks(task, pin)
        if not why:
            if len(stored) > LONGEST_NAME:
                return deny(errno.ERANGE, f"its name on the host would be {stored!r}")
            try:
                return verdict_of(
                    wanted, *(yield from _lent(task, wanted._replace(name=stored), held, by_fd))
                )
            except Powerless:
                why = "that needs the host's CAP_SYS_ADMIN, which the monitor has not"
        failed, data = yield from _as_caller(task, wanted, held, by_fd)
        return deny(failed, why) if failed > 0 else verdict_of(wanted, failed, data)
    return verdict_of(wanted, *(yield from _as_caller(task, wanted, held, by_fd)))


# What is asked for ----------------------------------------------------------------------------------


def _where(task: Task, name: str) -> tuple[int, bytes | None]:
    """(descriptor, path) of what it is about; no path where it is the descriptor itself."""
    first = task.call.registers[0]
    if name.endswith("at"):
        path: bytes | None = task.call.args["path"]
        if path is None and not task.call.registers[2] & _EMPTY_PATH:
            raise Said(errno.EFAULT)
        return pins.signed(first), path or b""
    if name[0] == "f":
        number = pins.signed(first)
        here = number == pins.AT_FDCWD and name in ("fgetxattr", "fsetxattr") and _take_cwd()
        return number, b"" if here else None
    return pins.AT_FDCWD, task.call.path


@cache
def _take_cwd() -> bool:
    """Whether AT_FDCWD is the working directory for fgetxattr(2) and fsetxattr(2), as it is since Linux 6.13
    (``path_getxattrat`` of fs/xattr.c), and no descriptor."""
    try:
        os.getxattr(pins.AT_FDCWD, "user.x")
    except OSError as error:
        return error.errno != errno.EBADF
    return True


def decoded(call: Call, verb: str, at_flags: int) -> Wanted:
    """In the kernel's order (``path_setxattrat`` and so on of fs/xattr.c).

    :raises MemoryUnreadable: what it says before it looks at any path."""
    frame = call.frame
    assert frame is not None
    number, at = frame.number, call.name.endswith("at")
    size = address = flags = 0
    if at and verb in ("set", "get"):
        inner = call.args["args"]
        address, size, flags = inner.value, inner.size, int(inner.flags)
    if at_flags & ~(_NOFOLLOW | _EMPTY_PATH):
        raise Said(errno.EINVAL)
    if verb == "list":
        return Wanted(verb, b"", b"", number("size"), number("list"), 0)
    if not at and verb != "remove":
        address, size = number("value"), number("size")
        flags = number("flags") if verb == "set" else 0
    if (flags & ~FLAGS if verb == "set" else flags) and verb != "remove":
        raise Said(errno.EINVAL)
    name: bytes = call.args["name"]
    value = b""
    if verb == "set":
        if size > MOST:
            raise Said(errno.E2BIG)
        value = call.copied(address, size) if size else b""
    return Wanted(verb, name, value, size, address, flags)


def _prefix(task: Task) -> bytes:
    """Where the attributes of this container are that are kept apart: by its name, or by what its root
    is on the host."""
    container = getattr(task.call, "container", None)
    key = container.name if container is not None else ""
    if not key:
        key = str(next((each.outside for each in id_maps(task)[0] if not each.inside), 0))
    safe = b"".join(
        b"%c" % byte if chr(byte).isalnum() or byte in b"-_" else b"%%%02x" % byte
        for byte in key.encode("utf-8", "surrogateescape")
    )
    return APART + safe + b"."


def _lacks(task: Task, pin: Pin) -> str:
    """Why the caller may not have what the kernel refuses it; empty if it may."""
    return lacking(task, _CAP_SYS_ADMIN, "CAP_SYS_ADMIN") or foreign(
        task.standing, pin.fd, pin.named.status
    )


def verdict_of(wanted: Wanted, failed: int, data: bytes) -> Verdict:
    """For a result: a positive errno, or the value minus what it is."""
    if failed > 0:
        return deny(failed)
    writes = [(wanted.room, data)] if wanted.size and data else []
    return answer(-failed, writes=writes)


# Requests ---------------------------------------------------------------------------------------


class Acting(NamedTuple):
    request: Request
    made: Result
    data: int | None
    left: int


@lru_cache(128)
def _acting(verb: str, by_fd: bool, name: int, size: int, permitted: int | None) -> Acting:
    """One call on what is pinned, by the executor's own link to it: pins are no descriptors for these
    calls, and a symbolic link has no other.

    Holes: size, flags (where the call has it), name (but for lists), value (of set).  Sent: what it is
    about, the executor's table.

    :param permitted: what whoever lends CAP_SYS_ADMIN can lend; None as the executor itself.
    """
    steps = Steps()
    length = steps.number()
    flags = steps.number() if verb == "set" else None
    attribute = steps.hole(name) if verb != "list" else None
    value = steps.hole(size) if verb == "set" and size else None
    root = steps.bytes(b"/")
    lent = Lent(steps, permitted, 1 << _CAP_SYS_ADMIN) if permitted is not None else None
    room = steps.scratch(size) if verb in ("get", "list") and size else None
    digits = steps.scratch(16)
    given, table = steps.sent(), steps.sent()
    held = steps.call("dup", given)
    steps.put_text(digits, held)
    steps.call("fchdir", table)
    call = f"{'f' if by_fd else ''}{verb}xattr"
    args: list[Any] = [held if by_fd else digits]
    if attribute is not None:
        args.append(attribute)
    if verb != "remove":
        args += [value or room or 0, length]
    if flags is not None:
        args.append(flags)
    with lent or nullcontext():
        made = steps.call(call, *args, bad=0)
    steps.call("chdir", root)
    data = steps.want(room, made) if room is not None else None
    return Acting(steps.freeze(), made, data, -1 if lent is None else lent.left)


_Values = tuple[Union[bytes, int], ...]


def result_of(acting: Acting, reply: Reply) -> tuple[int, bytes]:
    """(errno, or minus the value; what was filled)."""
    failed = reply.error(acting.made)
    if failed:
        return failed, b""
    data = reply.parts[acting.data] if acting.data is not None else b""
    return -reply.results[acting.made.step], data


_Does = Generator[Any, Any, tuple[int, bytes]]


def asking(wanted: Wanted, by_fd: bool, permitted: int | None) -> tuple[Acting, _Values]:
    """What is asked for it, and its holes' values.

    :param permitted: see :func:`_acting`."""
    verb, size, most = wanted.verb, wanted.size, 0
    for most in _SIZES:
        if size <= most:
            break
    acting = _acting(verb, by_fd, pins.room(len(wanted.name)), most, permitted)
    length = min(size, most)
    if verb == "list":
        return acting, (length,)
    if verb != "set":
        return acting, (length, wanted.name)
    values = length, wanted.flags, wanted.name
    return acting, (*values, wanted.value) if size else values


def _as_caller(task: Task, wanted: Wanted, held: int, by_fd: bool) -> _Does:
    acting, values = asking(wanted, by_fd, None)
    reply = yield from task.session.ask(acting.request, *values, fds=(held,), table=True)
    return result_of(acting, reply)


def _lent(task: Task, wanted: Wanted, held: int, by_fd: bool) -> _Does:
    """
    :raises Powerless: the monitor has not got the right."""
    from proctor.performing.identities.lender import Lender

    with Lender(task, 1 << _CAP_SYS_ADMIN) as lender:
        acting, values = asking(wanted, by_fd, lender.permitted)
        reply = yield from lender.ask(acting, *values, fds=(held,), table=True)
        return result_of(acting, reply)


# Lists ----------------------------------------------------------------------------------------------


def _list(
    task: Task, options: Options, wanted: Wanted, pin: Pin, by_fd: bool, prefix: bytes
) -> Work:
    """What the caller sees by itself, and what of the rest is performed, in the kernel's order."""
    whole = wanted._replace(size=MOST)
    failed, data = yield from _as_caller(task, whole, pin.fd, by_fd)
    if failed > 0:
        return deny(failed)
    if not _lacks(task, pin):
        try:
            failed, everything = yield from _lent(task, whole, pin.fd, by_fd)
        except Powerless:
            pass
        else:
            return list_verdict(wanted, options, prefix, data, failed, everything)
    return list_verdict(wanted, options, prefix, data, errno.EPERM, b"")


def list_verdict(
    wanted: Wanted, options: Options, prefix: bytes, data: bytes, failed: int, everything: bytes
) -> Verdict:
    """The answer.

    :param data: what the caller sees by itself.
    :param failed: what came of listing ``everything``: a positive errno if that could not be had."""
    if failed <= 0:
        own = set(data.split(b"\0"))
        shown = [
            each if each in own and not each.startswith(_TRUSTED) else options.shown(each, prefix)
            for each in everything.split(b"\0")[:-1]
        ]
        data = b"".join(each + b"\0" for each in shown if each is not None)
    if wanted.size and len(data) > wanted.size:
        return deny(errno.E2BIG if wanted.size >= MOST else errno.ERANGE)
    return verdict_of(wanted, -len(data), data)
