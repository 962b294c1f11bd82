"""What loop devices are asked for by ioctl(2): see :mod:`proctor.performing.families.loop`.

In the order of ``loop_configure`` and ``lo_ioctl`` of drivers/block/loop.c.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import Answer, answer, deny, let_run_unsafe
from proctor.errors import TargetFdLimit
from proctor.performing import loops, pins
from proctor.performing.families import mount
from proctor.performing.trouble import Said

if TYPE_CHECKING:
    from proctor.performing.finding import Pin
    from proctor.performing.task import Task, Work

_CTL_ADD, _CTL_GET_FREE = 0x4C80, 0x4C82
_SET_FD, _CLR_FD, _SET_STATUS64, _GET_STATUS64 = 0x4C00, 0x4C01, 0x4C04, 0x4C05
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
    argument = call.registers[2]
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
    if command == _SET_FD:
        image, block, info = pins.signed(argument), 0, bytes(loops.INFO_SIZE)
    elif command == loops.CONFIGURE:
        config = task.call.copied(argument, loops.CONFIG_SIZE)
        image, block = struct.unpack_from("=iI", config)
        info = config[_INFO_AT : _INFO_AT + loops.INFO_SIZE]
    elif command in (_CLR_FD, _GET_STATUS64, _SET_STATUS64, *_SIMPLE):
        return deny(errno.ENXIO)
    else:
        return deny(errno.EINVAL)
    mount.may(task)
    flags, given = _settled(info, _CONFIGURED)
    fd = yield from task.descriptor(image)
    _may_bind(fd)
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


def _settled(info: bytes, settable: int) -> tuple[int, bytes]:
    """(flags, what the kernel is told) of a caller's ``struct loop_info64``.

    :raises Said: it cannot be so."""
    encrypt, (flags,) = info[_ENCRYPT : _ENCRYPT + 8], struct.unpack_from("=I", info, _FLAGS)
    if any(encrypt):
        raise Said(errno.EINVAL)
    if flags & ~settable:
        raise Said(errno.EINVAL)
    if flags & _PARTSCAN:
        raise Said(errno.EPERM, "partitions of an image would be devices of the host's")
    given = bytearray(loops.INFO_SIZE)
    given[_SIZES : _SIZES + 16] = info[_SIZES : _SIZES + 16]
    struct.pack_into("=I", given, _FLAGS, flags | _AUTOCLEAR)
    given[_NAME : _NAME + _NAME_SIZE - 1] = info[_NAME : _NAME + _NAME_SIZE - 1]
    return flags, bytes(given)


def _may_bind(image: Pin) -> None:
    """
    :raises Said: it is no image."""
    opened = fcntl.fcntl(image.fd, fcntl.F_GETFL)
    if opened & os.O_PATH:
        raise Said(errno.EBADF)
    if not stat.S_ISREG(image.named.status.mode) or loops.stands_for(image.fd) is not None:
        raise Said(errno.EINVAL, "only files are bound to loop devices")
    if opened & os.O_ACCMODE == os.O_WRONLY:
        raise Said(errno.EINVAL, "the image is not open for reading")
    if image.named.slow:
        raise Said(
            errno.EPERM,
            "the image is on a file system that somebody serves, who could let the host's device hang",
        )


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
    known, container = loops.known(task), task.session.container
    one = known.get(container, number)
    if one is None:
        return deny(errno.ENXIO)
    if command == _CLR_FD:
        known.let_go(container, number)
        return answer(0)
    if command == _GET_STATUS64:
        info = yield from loops.ask(task, pin.fd, command, bytes(loops.INFO_SIZE))
        return _status(info, argument, stays=one.held >= 0)
    if command == _SET_STATUS64:
        wanted = task.call.copied(argument, loops.INFO_SIZE)
        flags, given = _settled(wanted, 0xFFFFFFFF)
        yield from loops.ask(task, pin.fd, command, given)
        if flags & _AUTOCLEAR:
            known.let_go(container, number)
        elif one.held < 0:
            known.add(container, number, one._replace(held=os.dup(pin.fd)))
        return answer(0)
    if command in _SIMPLE:
        yield from loops.ask(task, pin.fd, command, argument)
        return answer(0)
    return deny(errno.EBUSY if command in (_SET_FD, loops.CONFIGURE) else errno.EINVAL)


def _status(info: bytes, address: int, *, stays: bool) -> Answer:
    """What LOOP_GET_STATUS64 says, as the caller set it."""
    said = bytearray(info)
    if stays:
        (flags,) = struct.unpack_from("=I", said, _FLAGS)
        struct.pack_into("=I", said, _FLAGS, flags & ~_AUTOCLEAR)
    return answer(0, writes=((address, bytes(said)),))
