"""The executor's program, as a sealed file in memory.

What ``/proc/PID/exe`` leads to outlives its process.  Were it a file of the host, a container that
shares its owner's user id could write there and be run as us the next time; a sealed memfd can be
written by nobody, and is nobody else's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from typing import Final

from proctor.errors import Unsupported

#: Built along with the package (setup.py).
PATH: Final = os.path.join(os.path.dirname(__file__), "executor")

# include/uapi/linux/{memfd,fcntl}.h
_MFD_CLOEXEC: Final = 1
_MFD_ALLOW_SEALING: Final = 2
_MFD_EXEC: Final = 0x10  # Linux 6.3
_F_ADD_SEALS: Final = 1033
_SEALS: Final = 0xF  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE


def sealed(program: bytes | None = None, name: str = "proctor-executor") -> int:
    """A new descriptor of a program (CLOEXEC), of the executor's if none is given.

    :raises Unsupported: it was not built, or this machine runs nothing from memory
        (vm.memfd_noexec=2).
    :raises OSError: out of descriptors or memory.
    """
    try:
        if program is None:
            with open(PATH, "rb") as file:
                program = file.read()
    except FileNotFoundError:
        raise Unsupported(
            "the executor, a program that is built along with proctor,",
            "5.9",
            "no call can be performed; install proctor again, with a C compiler",
        ) from None
    fd = _memfd(name)
    try:
        fill(fd, program)
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def fill(fd: int, content: bytes) -> None:
    """Write all of it, whatever limit of file sizes we inherited (RLIMIT_FSIZE, ``ulimit -f``): it is for files that
    somebody writes, and this is memory of ours.  Where it is too low we are without it for the moment, and so is
    what another thread starts just then.

    :raises OSError: EFBIG where we may not raise it that far; out of memory.
    """
    left = _write(fd, memoryview(content))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (before[1], resource.RLIM_INFINITY) if left else ():
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        except (ValueError, OSError):
            break  # beyond the hard limit it takes CAP_SYS_RESOURCE
        try:
            left = _write(fd, left)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    if left:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


def _write(fd: int, left: memoryview) -> memoryview:
    """What is left beyond the limit."""
    try:
        while left:
            left = left[os.write(fd, left) :]
    except OSError as problem:
        if problem.errno != errno.EFBIG:
            raise
    return left


def _memfd(name: str) -> int:
    for flags in (_MFD_EXEC, 0):
        try:
            return os.memfd_create(name, _MFD_CLOEXEC | _MFD_ALLOW_SEALING | flags)
        except OSError as error:
            if error.errno == errno.EACCES:
                raise Unsupported(
                    "a program that runs from memory",
                    "3.17",
                    "vm.memfd_noexec=2 forbids it, and no call can be performed; set it to 1 or 0",
                ) from None
            if error.errno != errno.EINVAL or not flags:  # EINVAL: a kernel without the flag
                raise
    raise AssertionError
