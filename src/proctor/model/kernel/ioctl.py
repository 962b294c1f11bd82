"""The listener's ioctls as bytes: which number is what, how long a struct is, what EFAULT is.

A buffer is a ``bytearray`` (readable and writable), ``bytes`` (readable only: writing to it is
EFAULT) or None (NULL).  For SET_FLAGS the argument is the word itself, an int.

Sources: ``kernel/seccomp.c`` 5.0 ``seccomp_notify_ioctl``; ``kernel/seccomp.c`` 5.9 (ADDFD's
extensible struct, the corrected ID_VALID); ``kernel/seccomp.c`` 6.12; ``lib/usercopy.c``
(``copy_struct_from_user``, ``check_zeroed_user``).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from proctor.kernel import abi
from proctor.kernel.notification import Notification
from proctor.model.kernel import listener
from proctor.model.kernel.linux import BLOCKED, E2BIG, EBADF, EFAULT, EINVAL, ENOTTY
from proctor.model.kernel.poll import Epoll

if TYPE_CHECKING:
    from proctor.model.kernel.machine import Kernel
    from proctor.model.kernel.tasks import Task

Buffer = bytearray | bytes | int | None
_U64 = struct.Struct("=Q")
#: Number of ADDFD without direction and size (``EA_IOCTL``).
_ADDFD = abi.SECCOMP_IOCTL_NOTIF_ADDFD & 0xFFFF
_PAGE = 4096


def ioctl(kernel: Kernel, task: Task, fd: int, request: int, argument: Buffer) -> int:
    """ioctl(2) on a listener.  Anything unknown is EINVAL, not ENOTTY (C017); what is no listener
    knows none of this (ENOTTY; an epoll since 6.9 EINVAL).

    :returns: a value, a negative errno, or BLOCKED.

    Source: ``kernel/seccomp.c`` 5.0 ``seccomp_notify_ioctl``; ``kernel/seccomp.c`` 6.12.
    """
    file = task.files.get(fd)
    if file is None:
        return -EBADF
    notif = file.inside
    if not isinstance(notif, listener.Notifications):
        return -EINVAL if isinstance(notif, Epoll) else -ENOTTY
    value = _dispatch(kernel, task, notif, request & 0xFFFFFFFF, argument)
    if value == BLOCKED and task.frame is not None:
        task.frame.holds = file.get()
    return value


def _dispatch(
    kernel: Kernel, task: Task, notif: listener.Notifications, request: int, argument: Buffer
) -> int:
    if request == abi.SECCOMP_IOCTL_NOTIF_RECV:
        return _recv(kernel, task, notif, argument)
    if request == abi.SECCOMP_IOCTL_NOTIF_SEND:
        raw = _read(argument, abi.SECCOMP_NOTIF_RESP.size)
        if raw is None:
            return -EFAULT
        id, val, error, flags = abi.SECCOMP_NOTIF_RESP.unpack(raw)
        return listener.send(kernel, notif, id, val, error, flags)
    if request == abi.SECCOMP_IOCTL_NOTIF_ID_VALID_WRONG_DIR or (
        request == abi.SECCOMP_IOCTL_NOTIF_ID_VALID and "id_valid_number" in kernel.features
    ):
        raw = _read(argument, 8)
        return -EFAULT if raw is None else listener.id_valid(notif, _U64.unpack(raw)[0])
    if request == abi.SECCOMP_IOCTL_NOTIF_SET_FLAGS and "set_flags" in kernel.features:
        # Whoever passes a pointer passes its address as the word.
        word = argument if isinstance(argument, int) else 0 if argument is None else 0x7FFF0000
        return listener.set_flags(kernel, notif, word)
    if request & 0xFFFF == _ADDFD and "addfd" in kernel.features:
        return _addfd(kernel, task, notif, argument, request >> 16 & 0x3FFF)
    return -EINVAL


def _read(argument: Buffer, size: int) -> bytes | None:
    """``copy_from_user``: None if it faults."""
    if not isinstance(argument, (bytes, bytearray)) or len(argument) < size:
        return None
    return bytes(argument[:size])


def _recv(kernel: Kernel, task: Task, notif: listener.Notifications, argument: Buffer) -> int:
    """RECV: is the buffer zero (EFAULT, EINVAL), before anything is waited for; then receive.

    Before 5.5 nobody looked at the buffer first, so that NULL is noticed only when writing.

    Source: ``kernel/seccomp.c`` 5.0; ``kernel/seccomp.c`` 5.5 (2882d53c9c6f); C036, C037.
    """
    if "recv_wants_zeros" in kernel.features:
        raw = _read(argument, abi.SECCOMP_NOTIF.size)
        if raw is None:
            return -EFAULT
        if any(raw):
            return -EINVAL
    return listener.recv(kernel, task, notif, lambda got: _deliver(got, argument))


def _deliver(got: Notification, argument: Buffer) -> bool:
    """``copy_to_user``: False if the buffer cannot be written."""
    if not isinstance(argument, bytearray) or len(argument) < abi.SECCOMP_NOTIF.size:
        return False
    abi.SECCOMP_NOTIF.pack_into(
        argument, 0, got.id, got.pid, got.flags, got.nr, got.arch, got.ip, *got.args
    )
    return True


def _addfd(
    kernel: Kernel, task: Task, notif: listener.Notifications, argument: Buffer, size: int
) -> int:
    """ADDFD: size, EFAULT, bytes this kernel does not know (E2BIG), then the rest (C061)."""
    known = abi.SECCOMP_NOTIF_ADDFD.size
    if size < known or size >= _PAGE:
        return -EINVAL
    raw = _read(argument, size)
    if raw is None:
        return -EFAULT
    if any(raw[known:]):
        return -E2BIG
    id, flags, srcfd, newfd, newfd_flags = abi.SECCOMP_NOTIF_ADDFD.unpack(raw[:known])
    return listener.addfd(kernel, task, notif, id, flags, srcfd, newfd, newfd_flags)
