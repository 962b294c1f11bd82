"""seccomp(2) itself: what it knows, how large its structures are, a filter for the calling thread.

Commands are launched with their filter (:mod:`proctor.kernel.launch`): one in the monitor's own process makes the monitor
wait for its own answers.
"""

from __future__ import annotations

import errno
import struct
from array import array

from proctor.errors import ProctorError
from proctor.kernel import abi, raw


def load(program: bytes, flags: int) -> int:
    """SECCOMP_SET_MODE_FILTER with nothing checked and nothing translated: ``program`` is packed
    ``sock_filter``, ``flags`` the word; returns what the kernel says.

    :raises OSError: with the kernel's errno.
    """
    if len(program) % abi.SOCK_FILTER.size or len(program) // abi.SOCK_FILTER.size > 0xFFFF:
        raise OSError(errno.EINVAL, "a program is whole instructions, at most 65535 of them")
    code = array("B", program)
    # struct sock_fprog: the length and the address; the array outlives the call
    fprog = struct.pack("@HP", len(program) // abi.SOCK_FILTER.size, code.buffer_info()[0])
    return raw.seccomp(abi.SECCOMP_SET_MODE_FILTER, flags, fprog)


def flag_problem(name: str) -> int:
    """The errno of a filter flag that this kernel does not know, 0 for one that it knows, without installing anything:
    the flags are looked at before the program, so a NULL program gives EFAULT for known ones (C007-C010)."""
    word = abi.FILTER_FLAGS[name]
    if name == "WAIT_KILLABLE_RECV":
        word |= abi.SECCOMP_FILTER_FLAG_NEW_LISTENER
    try:
        raw.seccomp(abi.SECCOMP_SET_MODE_FILTER, word, None)
    except OSError as problem:
        return 0 if problem.errno == errno.EFAULT else problem.errno or errno.EIO
    return 0


def notif_sizes() -> tuple[int, int, int]:
    """SECCOMP_GET_NOTIF_SIZES: bytes of seccomp_notif, seccomp_notif_resp, seccomp_data (Linux 5.0)."""
    buffer = bytearray(6)
    raw.seccomp(abi.SECCOMP_GET_NOTIF_SIZES, 0, buffer)
    notif, resp, data = (int.from_bytes(buffer[i : i + 2], "little") for i in (0, 2, 4))
    return notif, resp, data


_checked = False


def check_notif_sizes() -> None:
    """Refuse a kernel whose structures are not the ones compiled in here; asked once per process.

    Sizes are part of the ioctl numbers, so another size would mean another interface: there is
    nothing to adapt to.

    :raises ProctorError: with what was found.
    """
    global _checked  # noqa: PLW0603 - once per process is the point
    if _checked:
        return
    sizes = notif_sizes()
    if sizes != abi.NOTIF_SIZES:
        raise ProctorError(
            f"this kernel's seccomp structures are not the ones proctor knows: {sizes} bytes instead "
            f"of {abi.NOTIF_SIZES}; a newer proctor may know them"
        )
    _checked = True
