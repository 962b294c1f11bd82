"""chattr in a container: on its own files, with the flags that the rule names."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import proctor
from proctor import families

from .callers import open_directory
from .containers import told

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make containers")

CODE = r"""
import fcntl
os.chdir(sys.argv[1])
def flags(name, value=None, command=0x40086602, how=os.O_RDONLY):
    fd = os.open(name, how)
    try:
        if value is None:
            return struct.unpack("=i4x", fcntl.ioctl(fd, 0x80086601, bytes(8)))[0] & 0x70
        fcntl.ioctl(fd, command, value if isinstance(value, bytes) else struct.pack("=i4x", value))
    finally:
        os.close(fd)
def xflags(name, value):
    fd = os.open(name, os.O_RDONLY)
    try:
        now = bytearray(fcntl.ioctl(fd, 0x801c581f, bytes(28)))
        struct.pack_into("=I", now, 0, value)
        fcntl.ioctl(fd, 0x401c5820, bytes(now))
    finally:
        os.close(fd)
open("own", "w").close()
tried(flags, "own", 0x40); tried(flags, "own")           # nodump: its own right
tried(flags, "own", 0x50); tried(flags, "own")           # immutable
tried(os.unlink, "own"); tried(open, "own", "w")
tried(flags, "own", 0x30)                                # append besides: not named
tried(flags, "own", 0); tried(flags, "own")
tried(xflags, "own", 8); tried(flags, "own"); tried(xflags, "own", 0x10); tried(xflags, "own", 0); tried(flags, "own")
tried(flags, "others", 0x10)                             # no number inside
if os.fork() == 0:
    os.setresuid(1, 1, 1)
    results.clear()
    tried(flags, "own", 0x10)
    os._exit(0 if results == ["EPERM"] else 1)
results.append(os.wait()[1])
tried(flags, "/dev/null", 0x10)
tried(fcntl.ioctl, 999, 0x40086602, bytes(8))
results.append(libc.ioctl(os.open("own", os.O_RDONLY), ctypes.c_ulong(0x40086602), 8) and errno.errorcode[ctypes.get_errno()])
tried(fcntl.ioctl, os.open("own", os.O_RDONLY), 0x541B, bytes(4))  # FIONREAD goes on
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with open_directory() as top:
        here = Path(os.fsdecode(top))
        (here / "others").touch()
        (here / "others").chmod(0o666)
        os.chown(here, 100000, 100000)
        tried = subprocess.run(["chattr", "+i", here / "others"], capture_output=True, check=False)
        if tried.returncode:
            pytest.skip("this file system has no such flags")
        subprocess.run(["chattr", "-i", here / "others"], check=True)
        yield here
        subprocess.run(["chattr", "-R", "-i", "-a", here], check=True)


def test_its_own_files_and_the_named_flag(place: Path) -> None:
    seen = told(CODE, place, handlers=[families.fsflags(flags=["immutable"])])
    assert seen[:5] == [None, 0x40, None, 0x50, "EPERM"]
    assert seen[5:] == [
        "EPERM", "EPERM", None, 0, None, 0x10, "EPERM", None, 0, "EPERM", 0, "ENOTTY", "EBADF", "EFAULT", "00000000",
    ]  # fmt: skip


def test_no_flag_that_is_none() -> None:
    with pytest.raises(proctor.PolicyError, match='did you mean "immutable"'):
        families.fsflags(flags=["imutable"])
