"""chattr in a container: on its own files, with the flags that the rule names."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import proctor
from proctor import families
from tests.performing.support.callers import open_directory
from tests.performing.support.containers import PRELUDE, PYTHON, told

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
        subprocess.run(["chattr", "-R", "-f", "-i", "-a", here], check=False)


def test_its_own_files_and_the_named_flag(place: Path) -> None:
    seen = told(CODE, place, handlers=[families.fsflags(flags=["immutable"])])
    assert seen[:5] == [None, 0x40, None, 0x50, "EPERM"]
    assert seen[5:] == [
        "EPERM", "EPERM", None, 0, None, 0x10, "EPERM", None, 0, "EPERM", 0, "ENOTTY", "EBADF", "EFAULT", "00000000",
    ]  # fmt: skip


PROJECTS = r"""
import fcntl
os.chdir(sys.argv[1])
open("own", "w").close()
def project(flags, number):
    fd = os.open("own", os.O_RDONLY)
    try:
        now = bytearray(fcntl.ioctl(fd, 0x801c581f, bytes(28)))
        struct.pack_into("=I", now, 0, flags)
        struct.pack_into("=I", now, 12, number)
        fcntl.ioctl(fd, 0x401c5820, bytes(now))
        return struct.unpack_from("=4I", fcntl.ioctl(fd, 0x801c581f, bytes(28)))[::3]
    finally:
        os.close(fd)
def inherit(flags):
    fd = os.open(".", os.O_RDONLY)
    try:
        fcntl.ioctl(fd, 0x40086602, struct.pack("=i4x", flags))
    finally:
        os.close(fd)
tried(project, 0, 7); tried(project, 8, 7); tried(project, 0x208, 0); tried(inherit, 0x20000010); tried(project, 8, 0)
"""


def test_project_ids_stay_what_they_are_when_the_right_is_lent(place: Path) -> None:
    assert told(PROJECTS, place, handlers=[families.fsflags(flags=["immutable"])]) == [
        "EINVAL", "EINVAL", "EINVAL", "EINVAL", [8, 0],
    ]  # fmt: skip


#: file_getattr and file_setattr (Linux 6.17), in every form.
BY_PATH = r"""
os.chdir(sys.argv[1])
def call(number, *args):
    if libc.syscall(number, *[ctypes.c_long(each) if isinstance(each, int) else each for each in args]):
        raise OSError(ctypes.get_errno(), "")
def get(dirfd, path, flags=0, size=24):
    room = ctypes.create_string_buffer(b"\xff" * (size or 1), size or 1)
    call(468, dirfd, path, room, size, flags)
    return struct.unpack_from("=Q", room.raw)[0] & 0x18, room.raw[12:].hex()
def set(dirfd, path, xflags, flags=0, size=24, data=None):
    call(469, dirfd, path, struct.pack("=Q4I", xflags, 0, 0, 0, 0) + bytes(16) if data is None else data, size, flags)
open("own", "w").close(); os.symlink("own", "link"); os.mkdir("dir"); os.mkfifo("fifo")
HERE, file, path, top = -100, os.open("own", os.O_RDONLY), os.open("own", os.O_PATH), os.open(".", os.O_PATH)
for each in ((HERE, b"own"), (top, b"own"), (file, b"", 0x1000), (path, b"", 0x1000), (file, None, 0x1000),
             (HERE, b"", 0x1000), (HERE, None, 0x1000), (file, b""), (HERE, None), (HERE, b"missing"), (999, b"own"),
             (999, b"", 0x1000), (HERE, b"link"), (HERE, b"link", 0x100), (HERE, b"own", 0x200), (HERE, b"own", 0, 16),
             (HERE, b"own", 0, 4097), (HERE, b"own", 0, 40), (HERE, b"fifo"), (HERE, b"/dev/null"), (HERE, b"own/x")):
    tried(get, *each)
for each in ((HERE, b"own", 8), (HERE, b"own", 0), (HERE, b"link", 8), (HERE, b"own", 0), (HERE, b"link", 8, 0x100),
             (top, b"dir", 8), (HERE, b"dir", 0), (file, b"", 8, 0x1000), (file, b"", 0, 0x1000),
             (path, b"", 8, 0x1000), (HERE, b"own", 0x40, 0, 40), (HERE, b"own", 0, 0, 25, bytes(24) + b"x"),
             (HERE, b"own", 1 << 40), (HERE, b"missing", 8), (HERE, b"fifo", 8), (HERE, b"/dev/null", 8),
             (HERE, b"own", 0x80), (HERE, b"own", 0, 0, 24, struct.pack("=Q4I", 0, 0, 0, 0, 0))):
    tried(set, *each); tried(get, HERE, b"own")
"""


def test_attributes_by_path_are_what_the_hosts_root_gets(place: Path) -> None:
    with open_directory() as top:
        program = f"{PRELUDE}\n{BY_PATH}\nprint(json.dumps(results))"
        done = subprocess.run(
            [PYTHON, "-ISc", program, top], capture_output=True, text=True, check=False
        )
        subprocess.run(["chattr", "-R", "-f", "-i", top], check=False)
    assert done.returncode == 0, done.stderr
    natively = json.loads(done.stdout)
    if natively[0] == "ENOSYS":
        pytest.skip("this kernel has no file_getattr")
    assert [8, "00" * 12] in natively
    assert told(BY_PATH, place, handlers=[families.fsflags(flags=["immutable"])]) == natively


def test_attributes_by_path_of_others_and_unnamed_ones(place: Path) -> None:
    code = (
        BY_PATH.partition("open(")[0]
        + r"""
tried(set, -100, b"others", 8); tried(set, -100, b"missing", 8)
open("own", "w").close()
tried(set, -100, b"own", 0x10); tried(set, -100, b"own", 0, 0, 24, struct.pack("=Q4I", 8, 0, 0, 7, 0))
tried(set, -100, b"own", 8); tried(get, -100, b"own")
"""
    )
    seen = told(code, place, handlers=[families.fsflags(flags=["immutable"])])
    if seen[1] == "ENOSYS":
        pytest.skip("this kernel has no file_setattr")
    assert seen == ["EPERM", "ENOENT", "EPERM", "EINVAL", None, [8, "00" * 12]]


def test_rules_on_paths_hold_for_attributes_by_path(place: Path) -> None:
    code = (
        BY_PATH.partition("open(")[0]
        + r"""
open("own", "w").close(); os.symlink("own", "link"); open("other", "w").close()
tried(get, -100, b"own"); tried(get, -100, b"link"); tried(get, -100, b"other"); tried(set, -100, b"other", 8)
"""
    )
    rule = families.fsflags(flags=["immutable"], when={"path": f"{place}/own"})
    refused = proctor.on("file_getattr", "file_setattr")(lambda call: proctor.deny(errno.EACCES))
    seen = told(code, place, handlers=[rule, refused])
    if seen[0] == "ENOSYS":
        pytest.skip("this kernel has no file_getattr")
    assert seen == [[0, "00" * 12], [0, "00" * 12], "EACCES", "EACCES"]


ORDER = r"""
import fcntl
os.chdir(sys.argv[1])
open("own", "w").close()
libc.ioctl.argtypes = ctypes.c_int, ctypes.c_ulong, ctypes.c_long
fds = os.open("own", os.O_RDONLY), os.open("own", os.O_PATH), os.open("/proc/self/ns/net", os.O_RDONLY), 999
for command in (0x40086602, 0x40046602, 0x401c5820):
    for fd in fds:
        results.append(libc.ioctl(fd, command, 1) and errno.errorcode[ctypes.get_errno()])
for path in (b"own", b"missing"):
    for flags in (0, 1 << 40, 0x10000):
        data = struct.pack("=Q4I", flags, 0, 0, 0, 0)
        results.append(libc.syscall(469, -1, path, data, 24, 0) and errno.errorcode[ctypes.get_errno()])
"""


def test_errors_come_in_the_order_of_the_kernel(place: Path) -> None:
    """Of what cannot be read, of files that have no flags, and of flags that there are not; and a program of 64 bits has
    no command of 32."""
    natively = told(ORDER, place)
    assert "ENOTTY" in natively
    assert told(ORDER, place, handlers=[families.fsflags(flags=["append"])]) == natively


def test_no_flag_that_is_none() -> None:
    with pytest.raises(proctor.PolicyError, match='did you mean "immutable"'):
        families.fsflags(flags=["imutable"])
