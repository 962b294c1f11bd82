"""execve, execveat: run by the kernel, once the rules have seen the program, the interpreters that a script has, and
the words; and seen again before the program runs.

A program is not to be handed over, so the kernel makes the call itself, and reads its words and walks its path a
second time.  Who holds rules against that (``freeze``, the default) has the caller stopped as soon as the kernel has
made the new program of it, before its first instruction (PTRACE_EVENT_EXEC, :mod:`proctor.performing.watching`): then
its memory is its own, nobody has it in common any more, and what the kernel took stands there.  If that is not what the
rules have seen, the process ends.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import let_run_unsafe
from proctor.errors import MemoryUnreadable
from proctor.performing.executing.requests import Request
from proctor.performing.executing.steps import Result, Steps
from proctor.performing.given import Given
from proctor.performing.paths import pins
from proctor.performing.trouble import Said
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator

    from proctor.performing.paths.finding import Pin
    from proctor.performing.task import Task, Work

_NOFOLLOW, _EACCESS, _EMPTY_PATH, _CHECK = 0x100, 0x200, 0x1000, 0x10000
#: BINPRM_BUF_SIZE of include/uapi/linux/binfmts.h; how often an interpreter may be a script (fs/exec.c).
_HEAD: Final = 256
_DEEP: Final = 5
_BLANK: Final = b" \t"
#: What a word of a script's first line ends with.
_ENDS: Final = (b" ", b"\t", b"\0")


class Options(Given):
    """See docs/families/exec.md.

    :param freeze: whether the caller is held until it was seen what the kernel made of it.
    """

    freeze: bool = True

    def check(self) -> None:
        if not isinstance(self.freeze, bool):
            raise ValueError(f"freeze is true or false, not {self.freeze!r}")


def perform(task: Task) -> Work:
    """See what would run, and let it."""
    options, call = task.options(Options), task.call
    number, flags = pins.AT_FDCWD, 0
    if call.name == "execveat":
        number, flags = pins.signed(call.registers[0]), call.registers[4] & 0xFFFFFFFF
    path: bytes = call.args["path"]
    if not path and not flags & _EMPTY_PATH:
        raise Said(errno.ENOENT)
    if flags & ~(_NOFOLLOW | _EMPTY_PATH | _CHECK):
        raise Said(errno.EINVAL)
    pin = yield from _named(task, number, path, flags)
    task.permit(pin.named.path, pin.named.status)
    head = yield from _head(task, pin)
    if flags & _CHECK:
        return let_run_unsafe("nothing runs, and interpreters and words are not looked at")
    try:
        pin, words = yield from _interpreted(task, pin, head, _shown(number, path))
    except (Said, MemoryUnreadable) as failed:
        if not options.freeze or failed.errno == errno.E2BIG:
            raise
        # there is more that the kernel may have against it, and it says what it finds first
        words = []  # as no program has them
    if options.freeze:
        from proctor.performing import watching

        yield from watching.watch(task, pin.fd, words)
        return let_run_unsafe("what the kernel takes is looked at before it runs")
    return let_run_unsafe(
        "freeze = false: words and file may be others by the time that the kernel reads them"
    )


def _interpreted(
    task: Task, pin: Pin, head: bytes, name: bytes
) -> Generator[Any, Any, tuple[Pin, list[bytes]]]:
    """What runs in the end, and with which words.

    :param head: how the file begins.
    :param name: what an interpreter knows it by.
    :raises Said: an interpreter may not be run, or read."""
    words = [*(task.call.args["argv"] or ())] or [b""]  # do_execveat_common of fs/exec.c
    for _ in range(_DEEP):
        script = _script(head)
        if script is None:
            break
        interpreter, argument = script
        words = [interpreter, *([] if argument is None else [argument]), name, *words[1:]]
        name = interpreter
        pin = yield from task.pin(task.start(pins.AT_FDCWD, interpreter), interpreter, 0, 0)
        task.permit_further(pin.named.path)
        head = yield from _head(task, pin)
    return pin, words


def _named(task: Task, number: int, path: bytes, flags: int) -> Generator[Any, Any, Pin]:
    if path:
        bits = pins.O_NOFOLLOW if flags & _NOFOLLOW else 0
        return (yield from task.pin(task.start(number, path), path, bits, 0))
    if number == pins.AT_FDCWD:
        raise Said(errno.EACCES)  # a directory
    return (yield from task.descriptor(number))


class _Beginning(NamedTuple):
    request: Request
    may: Result
    opened: Result
    read: Result
    head: int


@cache
def _beginning() -> _Beginning:
    """Whether a file may be run, and how it begins.  Sent: its pin, the executor's table."""
    steps = Steps()
    empty, digits, head = steps.bytes(b""), steps.scratch(16), steps.scratch(_HEAD)
    given, table = steps.sent(), steps.sent()
    may = steps.call("faccessat2", given, empty, os.X_OK, _EMPTY_PATH | _EACCESS)
    steps.put_text(digits, steps.call("dup", given))
    opened = steps.call("openat", table, digits, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    read = steps.call("pread64", opened, head, _HEAD, 0)
    part = steps.want(head, read)
    return _Beginning(steps.freeze(), may, opened, read, part)


def _head(task: Task, pin: Pin) -> Generator[Any, Any, bytes]:
    """How a file begins.  The kernel reads it if it may be run, whoever may read it.

    :raises Said: it may not be run, or read."""
    if stat.S_ISLNK(pin.named.status.mode):
        raise Said(errno.ELOOP)  # may_open of fs/namei.c
    if not stat.S_ISREG(pin.named.status.mode):
        raise Said(errno.EACCES)  # do_open_execat of fs/exec.c
    asking, session = _beginning(), task.session
    reply = yield from session.ask(asking.request, fds=(pin.fd,), table=True)
    if reply.made(asking.may) and reply.error(asking.opened) == errno.EACCES:
        reply.close()
        from proctor.performing.paths.hidden import (
            who_reads,  # families are known where nothing of Linux is
        )

        reply = yield from who_reads(task, pin.fd).ask_once(
            asking.request, fds=(pin.fd,), table=True
        )
    reply.close()
    for step in (asking.may, asking.opened, asking.read):
        if not reply.made(step):
            raise Said(reply.error(step))
    return reply.parts[asking.head]


def _shown(number: int, path: bytes) -> bytes:
    """How the kernel calls what is executed, for an interpreter (``alloc_bprm`` of fs/exec.c)."""
    if number == pins.AT_FDCWD or path.startswith(b"/"):
        return path
    return b"/dev/fd/%d/%s" % (number, path) if path else b"/dev/fd/%d" % number


def _script(head: bytes) -> tuple[bytes, bytes | None] | None:
    """(interpreter, its argument) of a script, as ``load_script`` of fs/binfmt_script.c reads it; None for what
    is none."""
    if head[:2] != b"#!":
        return None
    head = head.ljust(_HEAD, b"\0")
    line, newline, _ = head.partition(b"\0")[0].partition(b"\n")
    if not newline:
        if not any(end in head[2:].lstrip(_BLANK) for end in _ENDS):
            raise Said(errno.ENOEXEC)  # the interpreter's path is cut off
        line = head[:-1]  # whose place a NUL takes
    text = line[2:].strip(_BLANK)
    if not text:
        raise Said(errno.ENOEXEC)
    cut = min((at for at in map(text.find, _ENDS) if at >= 0), default=len(text))
    if not cut:
        raise Said(errno.EACCES)  # the empty path is a directory
    rest = text[cut:].lstrip(_BLANK)
    # there is an empty argument where blanks come before a NUL
    return text[:cut], None if rest == text[cut:] else rest.partition(b"\0")[0]
