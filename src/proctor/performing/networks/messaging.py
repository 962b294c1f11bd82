"""One message, sent by one call of the kernel's: on a socket that is pinned, by the caller's executor or a lender.

Descriptors that go along (SCM_RIGHTS) are the caller's, each pinned once.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
import sys
from collections.abc import Generator
from contextlib import nullcontext, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from proctor.performing.executing.lent import Lent
from proctor.performing.executing.requests import Request
from proctor.performing.executing.steps import DIE, Place, Result, Steps
from proctor.performing.networks import saying, sockets
from proctor.performing.trouble import Said, Trouble
from proctor.records import NamedTuple
from proctor.syscalls import tables
from proctor.syscalls.architectures import native

if TYPE_CHECKING:
    from proctor.call.messages import Message
    from proctor.performing.executing.requests import Reply
    from proctor.performing.executing.workers import Wait
    from proctor.performing.identities.lender import Lender
    from proctor.performing.session import Session
    from proctor.performing.task import Task

_HEADER: Final = struct.Struct("@PIPNPNi")  # struct msghdr
_NAME, _IOV, _CONTROL = 0, struct.calcsize("@PIP") - struct.calcsize("P"), struct.calcsize("@PIPN")
_LENGTH: Final = struct.calcsize("@PIPNPNi0P")  # of struct mmsghdr: where it says how much was sent
_VECTOR: Final = struct.Struct("@PN")  # struct iovec
#: What goes to an executor within a request; more data it maps, so that the kernel has all of it in one call.
_SIZES: Final = (0, 256, 2048, 16384, 1 << 17)
_MAPPED: Final = -1
_READ, _PRIVATE = 1, 2  # PROT_READ, MAP_PRIVATE
_NO_LIMIT: Final = (1 << 64) - 1  # RLIM64_INFINITY
#: Descriptors that go along with one message (SCM_MAX_FD of include/net/scm.h), and with one request to an executor (MOST_SENT).
_MOST_RIGHTS: Final = 253
_NOSIGNAL: Final = 0x4000  # MSG_NOSIGNAL


class _Sending(NamedTuple):
    request: Request
    made: Result
    #: Of the loan; 0 for none.
    left: int
    #: Where how much was sent is said in the reply; None: by the call.
    length: int | None


@lru_cache(64)
def _sending(
    to: str, data: int, control: int, rights: tuple[int, ...], torn: bool, permitted: int,
    asks: bool, named: tuple[int, ...], others: tuple[int, ...], counts: bool,
) -> _Sending:  # fmt: skip
    """Holes: header, vector, data, address (``to`` "address"), control data, the caller's limit (with ``rights``, of no lender);
    flags; the data's length (``to`` "nothing").  Sent: the socket; of a
    socket file (``to`` "file") that; the descriptors that go along; the executor's table, for a file.

    :param data: bytes that there is room for, or :data:`_MAPPED`: a file that is sent along.
    :param rights: where in the control data those are.
    :param asks: whether nothing is sent by it.
    :param named: where in the control data the executor itself is to be named.
    :param others: where it is not to be: who is named there is not the one who sends.
    :param torn: whether the data ends where nothing can be read; the vector's second part is nowhere, and how much of the first is sent
        then is for the kernel to find.
    :param permitted: of a lender, by whom it is sent with all that it can lend.
    :param counts: it is sent by sendmmsg(2), whose result counts messages."""
    steps = Steps()
    lent = Lent(steps, permitted, permitted) if permitted else None
    header = steps.hole(_LENGTH + struct.calcsize("P") if counts else _HEADER.size)
    vector = steps.hole(2 * _VECTOR.size)
    body: Place | Result | None = None if data == _MAPPED else steps.hole(data)
    name = None
    if to == "address":
        name = steps.hole(sockets.STORAGE)
    elif to == "file":
        name = sockets.file_address(steps)
    ancillary = steps.hole(control) if control else None
    most = steps.hole(8) if rights and lent is None else None
    root, flags, size = steps.bytes(b"/"), steps.number(), steps.number()
    given, pinned = steps.sent(), steps.sent() if to == "file" else None
    passed = [steps.sent() for _ in rights]
    if body is None:
        mmap = "mmap2" if "mmap2" in tables.numbers(native()) else "mmap"
        body = steps.call(mmap, 0, size, _READ, _PRIVATE, steps.sent(), 0)
    if pinned is not None:
        assert name is not None
        steps.call("fchdir", steps.sent())
        steps.put_text(Place(name.offset + 2, 16), steps.call("dup", pinned))
    if name is not None:
        steps.put(header, _NAME, name)
    steps.put(header, _IOV, vector)
    steps.put(vector, 0, body, struct.calcsize("P"))
    if ancillary is not None:
        steps.put(header, _CONTROL, ancillary)
        for offset, descriptor in zip(rights, passed, strict=True):
            steps.put(ancillary, offset, descriptor, 4)
        if named or others:
            me = steps.call("getpid")
            _unname(steps, me, ancillary, others)
            for offset in named:
                steps.put(ancillary, offset, me, 4)
    before = None if most is None else _limited(steps, most)
    changes = False if asks else None
    with lent or nullcontext():
        if to == "nothing":
            made = steps.call("sendto", given, 1 if torn else body, size, flags, header, 0, bad=0, changes=changes)  # fmt: skip
        elif counts:
            made = steps.call("sendmmsg", given, header, 1, flags, bad=0)
        else:
            made = steps.call("sendmsg", given, header, flags, bad=0, changes=changes)
    if before is not None:
        steps.call("prlimit64", 0, resource.RLIMIT_NOFILE, before, 0, bad=DIE)
    if data == _MAPPED:
        steps.call("munmap", body, size, bad=0)
    steps.call("chdir", root)
    length = steps.want(Place(header.offset + _LENGTH, 4)) if counts else None
    return _Sending(steps.freeze(), made, 0 if lent is None else lent.left, length)


def _unname(steps: Steps, me: Result, control: Place, others: tuple[int, ...]) -> None:
    """Have nobody named where it would be the executor, which may name itself and is not the caller: that is EPERM as for anybody
    else, and ESRCH for who may name whom it likes."""
    if not others:
        return
    own = steps.scratch(4)
    nobody = steps.load(steps.scratch(4), 0)
    steps.put(own, 0, me, 4)
    for offset in others:
        same = steps.compare(Place(control.offset + offset, 4), own)
        steps.put(control, offset, nobody, 4)
        steps.call("getpid")
        steps.jump(same, bad=True)


def _limited(steps: Steps, most: Place) -> Place:
    """Have an executor's limit of open files be the caller's, or its own hard one, of which whoever has more is told here as well; what it was."""
    before, now = steps.scratch(16), steps.scratch(16)  # struct rlimit64
    for place in (before, now):
        steps.call("prlimit64", 0, resource.RLIMIT_NOFILE, 0, place)
    halves = [steps.load(most, at) for at in (0, 4)]
    for at, half in zip((0, 4), halves, strict=True):
        steps.put(now, at, half, 4)
    steps.call("prlimit64", 0, resource.RLIMIT_NOFILE, now, 0, bad=0)
    return before


def once(
    task: Task,
    session: Session,
    fd: int,
    message: Message,
    flags: int,
    file: int | None,
    *,
    stream: bool = False,
    lender: Lender | None = None,
    asks: bool = False,
) -> Generator[Wait, Reply, int]:
    """One call of the kernel's.

    :param lender: who sends it if it says who sends it.
    :param asks: whether it is not to be sent: whoever asks is named where the caller is.
    :raises Said: an errno."""
    speaker = lender if message.credentials else None
    if speaker is not None:
        message = saying.outside(task, message)
    named = saying.named(task, message) if asks else ()
    others: tuple[int, ...] = ()
    if speaker is None:
        others = tuple([at for at in message.credentials if at >= 0 and at not in named])
    data, behind = message.data, message.size - len(message.data) if message.torn else 0
    to = "file" if file is not None else "" if message.address is None else "address"
    if message.address == b"":  # sendto(2) alone knows an address of no length
        to = "" if stream and message.torn else "nothing"  # a stream looks at the length alone
    if to == "nothing" and message.torn:  # which is said before anything is read
        data, behind = b"", message.size
    names = message.credentials[:1] not in ((), (-1,))  # of another length it is EINVAL
    if names and speaker is None and not asks and not task.shares_pids():
        # with the host's CAP_SYS_ADMIN it would be any process of the host's
        raise Said(errno.EPERM, "the process that it names would be one of the monitor's")
    mapped = len(data) > _SIZES[-1]
    most = _MOST_RIGHTS - 1 - 2 * (file is not None) - mapped  # along with what the call is about
    if most < len(message.rights) <= _MOST_RIGHTS:
        raise Trouble(f"more than {most} descriptors in one message")
    control, passed = _taken(task, message, most)
    room, more = (
        next((each for each in _SIZES if len(part) <= each), _MAPPED) for part in (data, control)
    )
    permitted = 0 if speaker is None else speaker.permitted
    counted = bool(passed) and speaker is None
    # of several messages it is noted that one was sent, and not how much of it
    counts = task.call.name == "sendmmsg" and not (stream or asks or to == "nothing")
    sending = _sending(
        to, room, more, tuple(passed), message.torn, permitted, asks, named, others, counts
    )
    address = message.address or b""
    length = 18 if file is not None else len(address)
    values: list[bytes | int] = [
        _HEADER.pack(0, length, 0, 1 + message.torn, 0, len(control), 0),
        _VECTOR.pack(0, len(data)) + _VECTOR.pack(1, behind),
    ]
    if not mapped:
        values.append(data)
    if to == "address":
        values.append(address)
    if control:
        values.append(control)
    if counted:
        values.append(struct.pack("=Q", task.standing.most_open() & _NO_LIMIT))
    values += flags | _NOSIGNAL, len(data) if mapped else len(data) + behind
    fds = [fd, *([] if file is None else [file]), *passed.values()]
    held = _file(data) if mapped else -1
    if mapped:
        fds.append(held)
    try:
        if speaker is not None:
            reply = yield from speaker.ask(sending, *values, fds=tuple(fds), table=file is not None)
        else:
            reply = yield from session.ask(
                sending.request, *values, fds=tuple(fds), table=file is not None
            )
    finally:
        if mapped:
            os.close(held)
    reply.close()
    failed = reply.error(sending.made)
    if failed == errno.EPIPE and stream and not flags & _NOSIGNAL:
        signal.pidfd_send_signal(task.caller.anchor(), signal.SIGPIPE)
    if failed:
        raise Said(failed)
    if sending.length is not None:
        return int.from_bytes(reply.parts[sending.length], sys.byteorder)
    return reply.results[sending.made.step]


def _file(data: bytes) -> int:
    """In memory, the asker's to close."""
    made = os.memfd_create("sent")
    try:
        with open(made, "wb", closefd=False) as file:
            file.write(data)
    except BaseException:
        os.close(made)
        raise
    return made


def _taken(task: Task, message: Message, most: int) -> tuple[bytes, dict[int, int]]:
    """Control data, and the descriptors that go along by where their numbers are in it: -1 where the caller has none, or
    where there are too many: which is the kernel's to say, in its time."""
    control, passed = bytearray(message.control), {}
    for index, (at, number) in enumerate(message.rights):
        struct.pack_into("=i", control, at, -1)
        if index < most:
            with suppress(Said):
                passed[at] = sockets.take(task, number, path=True)
    return bytes(control), passed
