"""Quotas of a container's own ids: what its root is told is what the host's root is told of the ids that they stand for.

A file system without quotas (which every kernel has) says ESRCH to whoever may ask, and EPERM to others; with
quotas are tmpfs (Linux 6.6) and ext4, where the kernel is built so.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ctypes import CDLL, create_string_buffer

import pytest

import proctor
from proctor import families
from proctor.call.verdict import Answer, Deny, LetRun
from proctor.performing.families.quota import COMMANDS, Options
from proctor.syscalls.architectures import native
from tests.performing.support.callers import Performers, caller, mount, open_directory, raw
from tests.performing.support.containers import PRELUDE, PYTHON, told
from tests.performing.support.images import MOUNTS, loop_device

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="quotas are the host's root's")

MAP = "0 100000 65536"
BEGIN = r"""
QUOTACTL = {"x86_64": 179}.get(os.uname().machine, 60)
place, device, base = sys.argv[1].encode(), sys.argv[2].encode(), int(sys.argv[3])
GET, NEXT, SET, XGET, XNEXT, XSET = 0x800007, 0x800009, 0x800008, 0x5803, 0x5809, 0x5804
SYNC, ON, FORMAT, INFO = 0x800001, 0x800002, 0x800004, 0x800005
def ask(number, *args):
    if libc.syscall(number, *[ctypes.c_long(each) if isinstance(each, int) else each for each in args]):
        raise OSError(ctypes.get_errno(), "")
def by_fd(fd, command, kind, id, room):
    ask(443, fd, command << 8 | kind, id + base, room)
def by_path(path, command, kind, id, room):
    ask(QUOTACTL, command << 8 | kind, path, id + base, room)
"""
ERRORS = (
    BEGIN
    + r"""
here = os.open(place, os.O_RDONLY)
pin = os.open(place, os.O_PATH)
room = ctypes.create_string_buffer(128)
for command in (GET, NEXT, XGET, XNEXT, SET, XSET, SYNC, FORMAT, INFO):
    for kind in (0, 1, 3):
        tried(by_fd, here, command, kind, 5, room)
        tried(by_path, device, command, kind, 5, room)
tried(by_fd, pin, GET, 0, 5, room); tried(by_fd, 999, GET, 0, 5, room); tried(by_fd, 999, GET, 7, 5, room)
tried(by_path, None, GET, 0, 5, room); tried(by_path, None, SYNC, 0, 5, room); tried(by_path, device + b"/", GET, 0, 5, room)
tried(by_path, place, GET, 0, 5, room); tried(by_path, b"/missing", GET, 0, 5, room); tried(by_path, b"", GET, 0, 5, room)
tried(by_path, place + b"/null", GET, 0, 5, room); tried(by_path, place + b"/block", GET, 0, 5, room)
tried(by_path, place + b"/link", GET, 0, 5, room)
"""
)
RIGHTS = (
    BEGIN
    + r"""
here = os.open(place, os.O_RDONLY)
room = ctypes.create_string_buffer(128)
tried(by_fd, here, GET, 0, 70000, room); tried(by_fd, here, GET, 2, 5, room)   # no number inside
tried(by_fd, here, SET, 0, 5, room); tried(by_fd, here, ON, 0, 0, room); tried(by_path, device, ON, 0, 0, place)
os.setresuid(7, 7, 7)
tried(by_fd, here, GET, 0, 7, room); tried(by_fd, here, GET, 0, 5, room)
"""
)


@pytest.fixture
def filesystem() -> Iterator[tuple[bytes, str]]:
    """(where an ext4 without quotas is mounted, its device)"""
    with open_directory() as top:
        image, place = top + b"/image", top + b"/m"
        os.mkdir(place)
        with open(image, "wb") as file:
            file.truncate(4 << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        with loop_device(image) as (device, number):
            mount(device.encode(), place, b"ext4", 0)
            try:
                os.mknod(place + b"/device", 0o60666, number)
                os.mknod(place + b"/block", 0o60666, os.makedev(240, 77))
                os.mknod(place + b"/null", 0o20666, os.makedev(1, 3))
                os.symlink("device", place + b"/link")
                yield place, f"{place.decode()}/device"
            finally:
                subprocess.run(["umount", place], check=True)


def natively(program: str, *args: object) -> list[object]:
    """What the host's root is told."""
    text = f"{PRELUDE}\n{program}\nprint(json.dumps(results))"
    done = subprocess.run(
        [PYTHON, "-ISc", text, *map(str, args)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


@MOUNTS
def test_what_the_hosts_root_is_told(filesystem: tuple[bytes, str]) -> None:
    place, device = filesystem
    every = families.quota(commands=list(COMMANDS))
    inside = told(ERRORS, place.decode(), device, 0, handlers=[every])
    assert inside == natively(ERRORS, place.decode(), device, 100000)
    assert inside[0] == "ESRCH" and "EPERM" not in inside


@MOUNTS
def test_what_is_not_named_is_refused(filesystem: tuple[bytes, str]) -> None:
    place, device = filesystem
    rights = told(RIGHTS, place.decode(), device, 0, handlers=[families.quota()])
    assert rights == ["EINVAL", "EINVAL", "EPERM", "EPERM", "EPERM", "ESRCH", "EPERM"]
    assert told(ERRORS, place.decode(), device, 0)[0] == "EPERM"  # without the family


@MOUNTS
def test_a_right_is_missed_before_what_cannot_be_read(filesystem: tuple[bytes, str]) -> None:
    """And what is about a whole file system is refused by the kernel, also under rules about paths."""
    place, device = filesystem
    program = (
        BEGIN
        + r"""
here = os.open(place, os.O_RDONLY)
pipe = os.pipe()[0]
room = ctypes.create_string_buffer(128)
for where in (1, room):
    for command in (SET, XSET, 0x800003, 0x800006, 0x5802, 0x5804, 0x123):
        for kind in (0, 3): tried(by_fd, here, command, kind, 5, where)
        tried(by_fd, pipe, command, 0, 5, where); tried(by_path, device, command, 0, 5, where)
        tried(by_path, b"/missing", command, 0, 5, where); tried(by_path, place, command, 0, 5, where)
"""
    )
    natively = told(program, place.decode(), device, 0)
    assert {"EPERM", "ENOSYS", "ENOENT", "ENOTBLK"} <= set(natively)
    asked = proctor.on("quotactl", "quotactl_fd")(
        lambda call: proctor.perform(allow=lambda argument, path: True)
    )
    for handler in (families.quota(), asked):
        assert told(program, place.decode(), device, 0, handlers=[handler]) == natively


@MOUNTS
def test_rules_on_the_device(filesystem: tuple[bytes, str]) -> None:
    place, device = filesystem
    program = (
        BEGIN
        + r"""
room = ctypes.create_string_buffer(128)
for name in (device, place + b"/link", place + b"/null"): tried(by_path, name, GET, 0, 5, room)
tried(by_path, device, ON, 0, 0, place)
"""
    )
    allowed = families.quota(when={"special": device})
    others = proctor.on("quotactl")(lambda call: proctor.deny(11))
    assert told(program, place.decode(), device, 0, handlers=[allowed, others]) == [
        "ESRCH", "ESRCH", "EAGAIN", "EPERM",
    ]  # fmt: skip


def test_no_command_that_is_none() -> None:
    with pytest.raises(proctor.PolicyError, match='did you mean "Q_GETQUOTA"'):
        families.quota(commands=["Q_GETQOTA"])


# With quotas --------------------------------------------------------------------------------------


@contextmanager
def limited(kind: str) -> Iterator[bytes]:
    """A file system where the host's id 5, ids 100005 and 100009 of the container and a foreign one have limits."""
    with open_directory() as top, ExitStack() as stack:
        os.mkdir(place := top + b"/m")
        source = b"none"
        if kind == "ext4":
            if not os.path.exists("/dev/loop-control") or not shutil.which("mkfs.ext4"):
                pytest.skip("wants loop devices and mkfs.ext4")
            with open(top + b"/image", "wb") as file:
                file.truncate(32 << 20)
            make = ["mkfs.ext4", "-q", "-O", "quota", "-E", "quotatype=usrquota:grpquota"]
            subprocess.run([*make, top + b"/image"], check=True)
            device, _ = stack.enter_context(loop_device(top + b"/image"))
            source = device.encode()
        try:
            mount(source, place, kind.encode(), 0, b"usrquota,grpquota")
        except OSError:
            pytest.skip(f"this kernel's {kind} has no quotas")
        stack.callback(subprocess.run, ["umount", place], check=True)
        os.close(os.open(place + b"/file", os.O_CREAT))
        os.chown(place + b"/file", 100009, 100009)
        fd = os.open(place, os.O_RDONLY)
        for number in (5, 100005, 100009, 200005):
            limits = struct.pack("=8QI4x", number, 0, 0, 50, 0, 0, 0, 0, 5)
            assert not raw(native(), "quotactl_fd", [fd, 0x80000800, number, limits])
        os.close(fd)
        yield place


KINDS = pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
LAST = (
    BEGIN
    + r"""
room = ctypes.create_string_buffer(128)
tried(by_fd, os.open(place, os.O_RDONLY), NEXT, 0, 10, room)
"""
)
NUMBERS = (
    BEGIN
    + r"""
here = os.open(place, os.O_RDONLY)
room = ctypes.create_string_buffer(128)
def quota(command, kind, id, *at):
    ctypes.memset(room, 0xff, 128)
    by_fd(here, command, kind, id, room)
    words = struct.unpack_from("=8Q2I", room.raw)
    ident = words[9] - base if command == NEXT else 0
    return words[0], words[2], words[3], words[5], ident, room.raw[72:].strip(b"\xff").hex()
for id in (0, 5, 6): tried(quota, NEXT, 0, id)    # before those are asked for that have none: they get one for a moment
for id in (5, 9, 6, 0): tried(quota, GET, 0, id)
tried(quota, GET, 1, 9)
by_fd(here, SET, 0, 6, struct.pack("=8QI4x", 77, 66, 0, 55, 44, 0, 0, 0, 5))
tried(quota, GET, 0, 6); tried(quota, NEXT, 0, 6)
"""
)


@KINDS
def test_numbers_are_the_containers(kind: str) -> None:
    every = families.quota(commands=list(COMMANDS))
    with limited(kind) as place:
        outside = natively(NUMBERS, place.decode(), "", 100000)
    with limited(kind) as place:
        inside = told(NUMBERS, place.decode(), "", 0, handlers=[every])
        last = told(LAST, place.decode(), "", 0, handlers=[every])
    assert inside == outside
    assert last == ["ENOENT"]  # 200005 is not its
    assert [100005, 0, 50, 0, 5, ""] in inside  # limits of blocks and inodes; whose they are


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="has calls of i386")
@KINDS
@pytest.mark.parametrize(("arch", "size"), [("x86_64", 72), ("i386", 68)])
def test_as_long_as_the_structure_is(
    performers: Performers, kind: str, arch: str, size: int
) -> None:
    with (
        limited(kind) as place,
        caller(lambda: os.dup2(os.open(place, os.O_RDONLY), 200), MAP, arch=arch) as one,
    ):
        call = one.call("quotactl_fd", 200, 0x80000700, 5, b"\0" * 128)
        verdict = performers.perform(call, options=Options())
    assert isinstance(verdict, Answer), verdict
    assert [len(data) for _, data in verdict.writes] == [size]


def test_an_io_uring_has_no_quotas(performers: Performers) -> None:
    """No executor can be passed one: it was EPERM."""
    ring = CDLL(None).syscall(425, 4, create_string_buffer(120))
    if ring < 0:
        pytest.skip("there is no io_uring here")
    with caller(lambda: os.dup2(ring, 200), MAP) as one:
        for word in (0x80000700, 0x80000800, 0x80000100, 0x580300, 0x80000703):
            args = ("quotactl_fd", 200, word, 5, b"\0" * 128)
            verdict = performers.perform(one.call(*args), options=Options())
            assert isinstance(verdict, Deny | LetRun)
            if isinstance(verdict, Deny):
                assert one.natively(*args) == ("errno", verdict.errno)
                assert verdict.errno == (errno.EINVAL if word & 0xFF else errno.ENOSYS)
            else:
                assert word >> 8 not in [each.command for each in COMMANDS.values()]
    os.close(ring)
