"""FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, file_setattr: what chattr(1) does, with CAP_LINUX_IMMUTABLE lent for files of the
container.

The call is first made as the caller, on its own descriptor or on what its path leads to, with the attributes as they
were read once.  What the kernel wants of the host for, to make a file immutable or append-only or to undo that, is lent
where the rule names the flag and the file is of an id of the caller's user namespace; project ids, by which quotas
count, stay what they were, as for every user namespace (``fileattr_set_prepare`` of fs/file_attr.c).
"""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Generator
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import answer, deny, let_run_unsafe
from proctor.errors import MemoryUnreadable
from proctor.performing.entitled import foreign, lacking
from proctor.performing.executing.lent import Lent
from proctor.performing.executing.single import Hole, Shape, Single
from proctor.performing.executing.steps import Place, Result, Steps
from proctor.performing.given import Given
from proctor.performing.paths import pins
from proctor.performing.trouble import Powerless, Said
from proctor.records import NamedTuple
from proctor.syscalls.architectures import PAGE_SIZE
from proctor.words import chosen

if TYPE_CHECKING:
    from proctor.call.verdict import Verdict
    from proctor.performing.task import Task, Work


class _Form(NamedTuple):
    """One way to say it: how it is set and read, and what lies where in the structure (include/uapi/linux/fs.h)."""

    set: str | int
    get: str | int
    size: int
    #: Of the project id; 0 if there is none.
    project: int
    #: Which of the numbers of FLAGS are its flags.
    which: int


_ATTR: Final = _Form("file_setattr", "file_getattr", 24, 16, 1)
_OF_32_BITS: Final = 0x40046602  # FS_IOC32_SETFLAGS, which programs of 64 bits have not
#: By the commands of ioctl.
_FORMS: Final = {
    0x40086602: _Form(0x40086602, 0x80086601, 4, 0, 0),
    _OF_32_BITS: _Form(0x40086602, 0x80086601, 4, 0, 0),
    0x401C5820: _Form(0x401C5820, 0x801C581F, 28, 12, 1),
}
#: (FS_*_FL, FS_XFLAG_*) by the names of the options.
FLAGS: Final = {"immutable": (0x10, 0x8), "append": (0x20, 0x10)}
_INHERIT: Final = (0x20000000, 0x200)  # FS_PROJINHERIT_FL, FS_XFLAG_PROJINHERIT
_CAP_FOWNER, _CAP_IMMUTABLE = 3, 9
_KERNELS: Final = "it sets no flags of a file; the kernel decides, by the caller's own rights"
_NOFOLLOW, _EMPTY_PATH = 0x100, 0x1000
_NOWHERE: Final = 1  # an address where nothing can be


class Options(Given):
    """See docs/families/fsflags.md.

    :param flags: for which of "immutable" and "append" the right is lent.
    """

    flags: tuple[str, ...] = ()

    def check(self) -> None:
        self.settle("flags", chosen("flags", self.flags, FLAGS))


def perform(task: Task) -> Work:
    """Set the flags for the caller, or read them."""
    call, options = task.call, task.options(Options)
    if call.name != "ioctl":
        return (yield from _by_path(task, options))
    command, known = call.registers[1] & 0xFFFFFFFF, call.signature
    form = _FORMS.get(command)
    if form is None or (command == _OF_32_BITS and known is not None and known.word != 4):
        return let_run_unsafe(_KERNELS)
    file = task.taken(call.registers[0] & 0xFFFFFFFF)
    if file is None or pins.only_a_path(file):
        return deny(errno.EBADF)
    from proctor.performing.paths.hidden import (
        mode_of,  # families are known where nothing of Linux is
    )

    mode = yield from mode_of(task, file)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return let_run_unsafe(_KERNELS)  # devices have commands of the same numbers
    try:
        data = call.copied(call.words[2], form.size)
    except MemoryUnreadable as error:
        if error.errno != errno.EFAULT:
            raise
        failed = yield from _unreadable(form).ask(task.session, fds=(file,))
        return deny(failed or errno.EFAULT)  # what is wrong with the file comes first
    return (yield from _set(task, options, form, data, file))


def _by_path(task: Task, options: Options) -> Work:
    """file_getattr and file_setattr, in the order of fs/file_attr.c."""

    call, args = task.call, task.call.args
    size, flags = call.words[3], call.registers[4] & 0xFFFFFFFF
    if flags & ~(_NOFOLLOW | _EMPTY_PATH):
        raise Said(errno.EINVAL)
    if size > PAGE_SIZE:
        raise Said(errno.E2BIG)
    if size < _ATTR.size:
        raise Said(errno.EINVAL)
    data = b""
    if call.name == "file_setattr":
        data = args["attr"].pack()
        failed = yield from _CHECKING().ask(task.session, data)
        if failed != errno.EBADF:  # flags that there are not, before the path
            raise Said(failed)
    path: bytes | None = args["path"]
    number = pins.signed(call.registers[0])
    if path or not flags & _EMPTY_PATH:
        if path is None:
            raise Said(errno.EFAULT)
        bits = pins.O_NOFOLLOW if flags & _NOFOLLOW else 0
        pin = yield from task.pin(task.start(number, path or b""), path or b"", bits, 0)
    else:
        pin = yield from task.itself(number)
        if number != pins.AT_FDCWD and pins.only_a_path(pin.fd):
            raise Said(errno.EBADF)
    task.permit(pin.named.path, pin.named.status)
    if data:
        return (yield from _set(task, options, _ATTR, data, pin.fd))
    getting = _getting()
    reply = yield from task.session.ask(getting.request, fds=(pin.fd,), table=True)
    reply.close()
    if failed := reply.error(getting.made):
        return deny(failed)
    # copy_struct_to_user of include/linux/uaccess.h
    return answer(0, writes=[(call.words[2], reply.parts[0].ljust(size, b"\0"))])


def _set(task: Task, options: Options, form: _Form, data: bytes, file: int) -> Work:
    asking = _setting(form)
    table = form is _ATTR
    reply = yield from task.session.ask(asking.request, data, fds=(file,), table=table)
    reply.close()
    failed = reply.error(asking.made)
    if failed != errno.EPERM:
        return deny(failed) if failed else answer(0)
    if why := _refused(task, options, form, data, reply.parts[asking.found], file):
        return deny(failed, why)
    return (yield from _lent(task, form, data, file))


def _lent(task: Task, form: _Form, data: bytes, file: int) -> Generator[Any, Any, Verdict]:
    from proctor.performing.identities.lender import Lender

    extra = task.who.effective & 1 << _CAP_FOWNER
    try:
        lender = Lender(task, 1 << _CAP_IMMUTABLE, 1 << _CAP_FOWNER)
    except Powerless:
        return deny(errno.EPERM, "the monitor has no CAP_LINUX_IMMUTABLE itself")
    with lender:
        lending = _lending(lender.permitted, form, extra)
        failed = yield from lender.made(lending, data, fds=(file,), table=form is _ATTR)
        return deny(failed) if failed else answer(0)


def _refused(
    task: Task, options: Options, form: _Form, data: bytes, before: bytes, file: int
) -> str:
    """Why the right is not lent; empty if it may be.

    :raises Said: what the kernel says to whoever has it, in a user namespace."""
    (wanted,) = struct.unpack_from("=I", data)
    (had,) = struct.unpack_from("=I", before)
    changed = wanted ^ had
    named = sum(FLAGS[each][form.which] for each in options.flags)
    asked = changed & sum(each[form.which] for each in FLAGS.values())
    if not asked:
        return "it is refused for something else than immutable and append-only"
    if asked & ~named:
        return "the rule does not name that flag"
    from proctor.kernel.raw import is_hidden

    if is_hidden(file):  # fuse_priv_ioctl_prepare of fs/fuse/ioctl.c
        return "its file system answers its own users alone, to whom nothing can be lent"
    if why := foreign(task.standing, file) or lacking(task, _CAP_IMMUTABLE, "CAP_LINUX_IMMUTABLE"):
        return why
    at = form.project
    if changed & _INHERIT[form.which] or (at and data[at : at + 4] != before[at : at + 4]):
        raise Said(errno.EINVAL, "project ids are the host's")
    return ""


# Requests -----------------------------------------------------------------------------------------


class _Acts:
    """A form's calls about the file that is sent along; and the executor's table, for what goes by path:
    file_setattr takes no O_PATH descriptor, but the executor's own link leads to the very thing."""

    def __init__(self, steps: Steps, form: _Form) -> None:
        self.steps = steps
        self.file = steps.sent()
        self.table = steps.sent() if form is _ATTR else None
        self.digits = steps.scratch(16)
        self.named = False

    def make(self, what: str | int, data: Place | int) -> Result:
        """Read or set."""
        if isinstance(what, int):
            return self.steps.call("ioctl", self.file, what, data, bad=0)
        assert self.table is not None
        if not self.named:
            self.steps.put_text(self.digits, self.steps.call("dup", self.file))
            self.named = True
        return self.steps.call(what, self.table, self.digits, data, _ATTR.size, 0, bad=0)


#: Whether file_setattr(2) takes that at all: EBADF if so.
_CHECKING: Final = Shape("file_setattr", -1, b".", Hole(_ATTR.size), _ATTR.size, 0)


@cache
def _setting(form: _Form) -> Single:
    """Hole: what is set.  What it had before is found."""
    steps = Steps()
    data, had = steps.hole(form.size), steps.scratch(form.size + 4)
    acts = _Acts(steps, form)
    acts.make(form.get, had)
    made = acts.make(form.set, data)
    found = steps.want(had)
    return Single(steps.freeze(), made, found=found)


@cache
def _unreadable(form: _Form) -> Single:
    """Set what cannot be read."""
    steps = Steps()
    made = _Acts(steps, form).make(form.set, _NOWHERE)
    return Single(steps.freeze(), made)


@cache
def _getting() -> Single:
    steps = Steps()
    had = steps.scratch(_ATTR.size)
    made = _Acts(steps, _ATTR).make(_ATTR.get, had)
    found = steps.want(had)
    return Single(steps.freeze(), made, found=found)


@lru_cache(256)
def _lending(permitted: int, form: _Form, extra: int) -> Single:
    """The same, as somebody, with the right lent."""
    steps = Steps()
    data = steps.hole(form.size)
    with Lent(steps, permitted, 1 << _CAP_IMMUTABLE | extra) as lent:
        made = _Acts(steps, form).make(form.set, data)
    return Single(steps.freeze(), made, lent.left)
