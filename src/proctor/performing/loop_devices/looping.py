"""What loop devices are asked for by ioctl(2): see :mod:`proctor.performing.families.loop`.

In the order of ``loop_configure`` and ``lo_ioctl`` of drivers/block/loop.c.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import answer, deny, let_run_unsafe
from proctor.errors import TargetFdLimit
from proctor.performing.families import mount
from proctor.performing.loop_devices import backing, loop_info, loops
from proctor.performing.paths import pins
from proctor.performing.trouble import Said

if TYPE_CHECKING:
    from proctor.performing.paths.finding import Pin
    from proctor.performing.task import Task, Work

_CTL_ADD, _CTL_GET_FREE = 0x4C80, 0x4C82
_SET_FD, _CLR_FD, _CHANGE_FD = 0x4C00, 0x4C01, loops.CHANGE_FD
_SET_STATUS, _GET_STATUS, _SET_STATUS64, _GET_STATUS64 = range(0x4C02, 0x4C06)
#: Those that give a number to the device as it is.
_SIMPLE: Final = range(0x4C07, 0x4C0A)
_READ_ONLY, _AUTOCLEAR, _PARTSCAN, _DIRECT_IO = 1, 4, 8, 16
_CONFIGURED: Final = _READ_ONLY | _AUTOCLEAR | _PARTSCAN | _DIRECT_IO
#: struct loop_info64: lo_offset and lo_sizelimit, lo_encrypt_type, lo_flags, lo_file_name.
_SIZES, _ENCRYPT, _FLAGS, _NAME, _NAME_SIZE = 24, 44, 52, 56, 64
_INFO_AT: Final = 8
KERNELS: Final = "what it asks for is no business of loop devices"


def perform(task: Task, command: int, most: int) -> Work:
    """Do what a loop device, or its stand-in, is asked for.

    :param most: how many devices its container may have.
    """
    call = task.call
    argument = call.words[2]
    if not mount.elsewhere(task):
        return let_run_unsafe(KERNELS)
    pin = yield from task.descriptor(pins.signed(call.registers[0]))
    if pins.only_a_path(pin.fd):
        return deny(errno.EBADF)
    number = loops.stands_for(pin.fd)
    if number == loops.CONTROL:
        return (yield from _control(task, command))
    if number is not None:
        return (yield from _unbound(task, most, pin, number, command, argument))
    number = loops.device(pin.named.status)
    if number is None or number == loops.CONTROL:
        return deny(errno.ENOTTY, "the descriptor is of no loop device")
    if not loops.is_bound(task, number, pin.fd):
        return deny(errno.EPERM, f"loop{number} is bound to no image of the container's")
    return (yield from _bound(task, pin, number, command, argument))


def _control(task: Task, command: int) -> Work:
    if command != _CTL_GET_FREE:
        if command < _CTL_ADD:
            return deny(errno.ENOSYS)  # as loop_control_ioctl says
        return deny(errno.EPERM, "which loop devices there are is the host's")
    mount.may(task)
    return answer((yield from loops.free(task)))


def _unbound(task: Task, most: int, pin: Pin, number: int, command: int, argument: int) -> Work:
    """Nothing is bound to it: it can be bound."""
    if command not in (_SET_FD, loops.CONFIGURE):
        return (yield from _without(task, command, argument))
    image, block, info = _asked_for(task, command, argument)
    mount.may(task)
    fd = yield from _image(task, image)
    yield from _may_bind(task, fd)
    flags, given = _settled(info)
    if flags & ~_CONFIGURED:
        return deny(errno.EINVAL)
    known, container = loops.known(task), task.session.container
    if not known.begin(container, most):
        return deny(
            errno.EBUSY, f"the container has as many loop devices as it may (most = {most})"
        )
    try:
        kept = bytearray(loops.CONFIG_SIZE)
        struct.pack_into("=iI", kept, 0, -1, block)
        kept[_INFO_AT : _INFO_AT + loops.INFO_SIZE] = given
        access, stays = fcntl.fcntl(pin.fd, fcntl.F_GETFL) & os.O_ACCMODE, not flags & _AUTOCLEAR
        made = yield from loops.bind(task, number, access, bytes(kept), fd.fd, stays=stays)
    finally:
        known.end(container)
    task.hold(made)
    _put_in_place(task, number, made)
    return answer(0)


def _asked_for(task: Task, command: int, argument: int) -> tuple[int, int, bytes]:
    """(the caller's number of an image, the size of a block, ``struct loop_info64``) that a device is to have.

    :raises MemoryUnreadable: EFAULT."""
    if command == _SET_FD:
        return argument, 0, bytes(loops.INFO_SIZE)
    config = task.call.copied(argument, loops.CONFIG_SIZE)
    image, block = struct.unpack_from("=iI", config)
    return image, block, config[_INFO_AT : _INFO_AT + loops.INFO_SIZE]


def _without(task: Task, command: int, argument: int) -> Work:
    """What the kernel says where nothing is bound."""
    if command in (_SET_STATUS, _SET_STATUS64):
        _given(task, command, argument)
    if command == _CHANGE_FD:
        yield from _image(task, argument)
    if command in (_GET_STATUS, _GET_STATUS64) and not argument:
        return deny(errno.EINVAL)
    known = (
        _CLR_FD, _SET_STATUS, _GET_STATUS, _SET_STATUS64, _GET_STATUS64, _CHANGE_FD, *_SIMPLE,
    )  # fmt: skip
    return deny(errno.ENXIO if command in known else errno.EINVAL)


def _given(task: Task, command: int, argument: int) -> bytes:
    """The ``struct loop_info64`` that a caller gives, be it as what was before it.

    :raises MemoryUnreadable: EFAULT."""
    if command == _SET_STATUS64:
        return task.call.copied(argument, loops.INFO_SIZE)
    return loop_info.widened(task.call, task.call.copied(argument, loop_info.size(task.call)))


def _settled(info: bytes) -> tuple[int, bytes]:
    """(flags, what the kernel is told) of a caller's ``struct loop_info64``.

    :raises Said: it cannot be so."""
    (flags,) = struct.unpack_from("=I", info, _FLAGS)
    if flags & _PARTSCAN:
        raise Said(errno.EPERM, "partitions of an image would be devices of the host's")
    given = bytearray(loops.INFO_SIZE)
    for start, size in ((_SIZES, 16), (_ENCRYPT, 8)):
        given[start : start + size] = info[start : start + size]
    struct.pack_into("=I", given, _FLAGS, flags | _AUTOCLEAR)
    given[_NAME : _NAME + _NAME_SIZE - 1] = info[_NAME : _NAME + _NAME_SIZE - 1]
    return flags, bytes(given)


def _image(task: Task, number: int) -> Generator[Any, Any, Pin]:
    """What the caller has open that a device is to read from.

    :raises Said: it is nothing that can be read (``loop_check_backing_file``)."""
    image: Pin = yield from task.descriptor(pins.signed(number))
    if pins.only_a_path(image.fd):
        raise Said(errno.EBADF)
    if stat.S_ISDIR(image.named.status.mode):
        raise Said(errno.EINVAL)
    return image


def _may_bind(task: Task, image: Pin) -> Generator[Any, Any, None]:
    """
    :raises Said: it is no image."""
    opened = fcntl.fcntl(image.fd, fcntl.F_GETFL)
    if not stat.S_ISREG(image.named.status.mode) or loops.stands_for(image.fd) is not None:
        raise Said(errno.EINVAL, "only files are bound to loop devices")
    if opened & os.O_ACCMODE == os.O_WRONLY:
        raise Said(errno.EINVAL, "the image is not open for reading")
    yield from backing.see(task, image.named, image.fd)


def _put_in_place(task: Task, number: int, device: int) -> None:
    """Give the caller the device under its stand-in's number, unless something else has that by now.

    :raises Said: it does not take it."""
    at = pins.signed(task.call.registers[0])
    try:
        closes = task.standing.closes_on_exec(at)
        now = task.take_fd(at)
    except OSError:
        return
    try:
        if loops.stands_for(now) != number:
            return
    finally:
        os.close(now)
    try:
        task.call.place(device, at, cloexec=closes)
    except TargetFdLimit:
        raise Said(errno.EMFILE) from None


def _bound(task: Task, pin: Pin, number: int, command: int, argument: int) -> Work:
    """It is bound to the container's image."""
    call, known, container = task.call, loops.known(task), task.session.container
    one = known.get(container, number)
    if one is None:
        return deny(errno.ENXIO)
    if command == _CLR_FD:
        yield from loops.ask(task, pin.fd, command, 0)
        known.let_go(container, number)
        return answer(0)
    if command in (_GET_STATUS, _GET_STATUS64):
        if not argument:
            return deny(errno.EINVAL)
        info = yield from loops.ask(task, pin.fd, _GET_STATUS64, bytes(loops.INFO_SIZE))
        said = _status(info, stays=one.held >= 0)
        if command == _GET_STATUS:
            said = loop_info.narrowed(call, said)
        return answer(0, writes=((argument, said),))
    if command in (_SET_STATUS, _SET_STATUS64):
        flags, given = _settled(_given(task, command, argument))
        device = yield from _writable(task, pin, number)
        yield from loops.ask(task, device, _SET_STATUS64, given)
        if flags & _AUTOCLEAR:
            known.let_go(container, number)
        elif one.held < 0:
            known.add(container, number, one._replace(held=os.dup(pin.fd)))
        return answer(0)
    if command in _SIMPLE:
        yield from loops.ask(task, (yield from _writable(task, pin, number)), command, argument)
        return answer(0)
    if command == _CHANGE_FD:
        image = yield from _image(task, argument)
        yield from loops.ask(task, pin.fd, _GET_STATUS64, bytes(loops.INFO_SIZE))
        yield from _may_bind(task, image)
        yield from loops.change(task, number, pin.fd, image.fd)
        return answer(0)
    if command in (_SET_FD, loops.CONFIGURE):
        yield from _image(task, _asked_for(task, command, argument)[0])
        return deny(errno.EBUSY)
    return deny(errno.EINVAL)


def _writable(task: Task, pin: Pin, number: int) -> Generator[Any, Any, int]:
    """The device, open for writing, as the kernel wants it of those who have no CAP_SYS_ADMIN."""
    if fcntl.fcntl(pin.fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
        return pin.fd
    fd = yield from loops.open_bound(task, number, os.O_RDWR)
    return pin.fd if fd < 0 else task.hold(fd)


def _status(info: bytes, *, stays: bool) -> bytes:
    """What LOOP_GET_STATUS64 says, as the caller set it."""
    said = bytearray(info)
    if stays:
        (flags,) = struct.unpack_from("=I", said, _FLAGS)
        struct.pack_into("=I", said, _FLAGS, flags & ~_AUTOCLEAR)
    return bytes(said)
