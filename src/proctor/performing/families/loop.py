"""ioctl of loop devices: an image of the container's becomes a block device of its own.

losetup(8) and ``mount -o loop`` ask /dev/loop-control for a free device, open that and bind it.  The family
``open`` gives them stand-ins for both (its option ``loops``; :mod:`proctor.performing.loop_devices.loops`), and this one
does what they ask for (:mod:`proctor.performing.loop_devices.looping`): LOOP_CONFIGURE and LOOP_SET_FD bind the host's
device to the caller's own descriptor of the image, and put the device in the stand-in's place.  The commands
of loop devices never reach the kernel from the caller; all others are the kernel's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proctor.call.verdict import let_run_unsafe
from proctor.performing.given import Given

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work

#: include/uapi/linux/loop.h
COMMANDS: Final = {
    "LOOP_SET_FD": 0x4C00, "LOOP_CLR_FD": 0x4C01, "LOOP_SET_STATUS": 0x4C02, "LOOP_GET_STATUS": 0x4C03,
    "LOOP_SET_STATUS64": 0x4C04, "LOOP_GET_STATUS64": 0x4C05, "LOOP_CHANGE_FD": 0x4C06,
    "LOOP_SET_CAPACITY": 0x4C07, "LOOP_SET_DIRECT_IO": 0x4C08, "LOOP_SET_BLOCK_SIZE": 0x4C09,
    "LOOP_CONFIGURE": 0x4C0A, "LOOP_CTL_ADD": 0x4C80, "LOOP_CTL_REMOVE": 0x4C81,
    "LOOP_CTL_GET_FREE": 0x4C82,
}  # fmt: skip
_NUMBERS: Final = frozenset(COMMANDS.values())


class Options(Given):
    """Which images may be bound.

    :param most: how many loop devices one container may have at the same time.
    """

    most: int = 8

    def check(self) -> None:
        if type(self.most) is not int or self.most < 1:
            raise ValueError(f"most is a number from 1, not {self.most!r}")


def perform(task: Task) -> Work:
    """Do what a loop device, or its stand-in, is asked for."""
    from proctor.performing.loop_devices import looping

    command = task.call.registers[1] & 0xFFFFFFFF
    if command not in _NUMBERS:
        return let_run_unsafe(looping.KERNELS)
    return (yield from looping.perform(task, command, task.options(Options).most))
