"""Mounts of file systems that a user namespace's root may not make, made for it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import proctor
from proctor import performing
from proctor.call.verdict import Answer, Deny, LetRun, deny
from proctor.performing.families import fsmount
from proctor.performing.families.mount import Options
from proctor.performing.mounts import mounter, placing, remounting
from proctor.performing.paths import pins
from proctor.performing.task import Task, Work
from tests.performing.families.test_mknod import in_a_nested_namespace
from tests.performing.families.test_open_differential import MAP
from tests.performing.support.callers import (
    MS_BIND,
    MS_RDONLY,
    MS_REMOUNT,
    Performers,
    caller,
    drop_capabilities,
    wants_user_attributes,
)
from tests.performing.support.containers import PRELUDE, PYTHON, container, inside, told
from tests.performing.support.images import (
    MOUNTS,
    has,
    image,
    loop_device,
    no_loop_device_is_left,
    top,
)
from tests.support.kernel import RELEASE

__all__ = ["image", "no_loop_device_is_left", "top"]
pytestmark = [MOUNTS, pytest.mark.usefixtures("no_loop_device_is_left")]

EXT4 = Options(filesystems=["ext4"], images=True)

WHOLE_LIFE = """
os.chdir(sys.argv[1])
tried(mount, b"image", b"m", b"ext4")
line = [line for line in open("/proc/self/mountinfo") if sys.argv[1] + "/m " in line][0].split()
results.append([line[5], line[line.index("-") + 1], line[-1], line[-2].startswith("/dev/loop")])
tried(lambda: open("m/hello").read())
tried(lambda: (os.stat("m/hello").st_uid, os.stat("m/hello").st_gid))
tried(lambda: open("m/new", "w").write("from inside"))
tried(os.open, "m/null", os.O_RDWR)
MS_BIND, MS_REMOUNT = 4096, 32
tried(mount, None, b"m", None, MS_BIND | MS_REMOUNT)
tried(os.open, "m/null", os.O_RDWR)
tried(mount, None, b"m", None, MS_BIND | MS_REMOUNT | 4 | 2 | 1)
tried(lambda: open("m/late", "w"))
tried(umount, b"m")
tried(os.listdir, "m")
"""


def test_an_image_lives_and_goes(top: bytes, image: bytes) -> None:
    handlers = [proctor.families.mount(filesystems=["ext4"], images=True)]
    assert told(WHOLE_LIFE, top.decode(), handlers=handlers) == [
        None, ["rw,nodev,relatime,idmapped", "ext4", "rw,errors=remount-ro", True], "from outside", [0, 0],
        11, "EACCES", "EPERM", "EACCES", None, "EROFS", None, [],
    ]  # fmt: skip
    written = subprocess.run(
        ["debugfs", "-R", "cat new", image], capture_output=True, text=True, check=True
    )
    assert written.stdout == "from inside"
    owner = subprocess.run(
        ["debugfs", "-R", "stat new", image], capture_output=True, text=True, check=True
    )
    assert "User:     0   Group:     0" in owner.stdout


def test_a_container_has_so_many_images_mounted(top: bytes, image: bytes) -> None:
    """Each is a device of the host's; one that is mounted no more makes room."""
    program = """
os.chdir(sys.argv[1])
for _ in range(3):
    tried(mount, b"image", b"m", b"ext4", 1)
umount(b"m")
while True:  # it is let go of when whoever mounted it is over, too
    try:
        mount(b"image", b"m", b"ext4", 1)
        break
    except OSError as error:
        assert error.errno == errno.EBUSY
tried(mount, b"image", b"m", b"ext4", 1)
"""
    handlers = [proctor.families.mount(filesystems=["ext4"], images=True)]
    with mock.patch.object(mounter, "IMAGES", 2):
        assert told(program, top.decode(), handlers=handlers) == [None, None, "EBUSY", "EBUSY"]


def test_without_a_handler_it_is_refused(top: bytes, image: bytes) -> None:
    program = 'os.chdir(sys.argv[1]); tried(mount, b"image", b"m", b"ext4")'
    assert told(program, top.decode()) == ["ENOTBLK"] or told(program, top.decode()) == ["EPERM"]


def test_ids_as_they_are_on_disk(top: bytes, image: bytes) -> None:
    program = """
os.chdir(sys.argv[1])
tried(mount, b"image", b"m", b"ext4", 1)
tried(lambda: os.stat("m/hello").st_uid)
tried(lambda: open("m/new", "w"))
tried(umount, b"m")
"""
    handlers = [proctor.families.mount(filesystems=["ext4"], images=True, idmap=False)]
    assert told(program, top.decode(), handlers=handlers) == [None, 65534, "EROFS", None]


def asked(
    performers: Performers, one: Any, *args: Any, options: Options = EXT4, allow: Any = None
) -> Any:
    call = one.call("mount", *args)
    return performers.carry_out(call, proctor.Perform(allow, "", options))


def test_reasons_are_the_kernels_and_the_file_systems_own(
    performers: Performers, top: bytes, image: bytes
) -> None:
    os.mknod(top + b"/fifo", stat.S_IFIFO | 0o666)
    with open(top + b"/broken", "wb") as file:
        file.write(bytes(1 << 16))
    with open(top + b"/closed", "wb") as file:
        file.write(bytes(1 << 16))
    os.chmod(top + b"/closed", 0o600)
    for name in (b"/fifo", b"/broken"):
        os.chown(top + name, 100000, 100000)
    with caller(container(top), MAP) as one:
        for args, number, words in (
            ((b"image", b"missing", b"ext4", 0, 0), errno.ENOENT, ""),
            ((b"image", b"image", b"ext4", 0, 0), errno.ENOTDIR, ""),
            ((b"missing", b"m", b"ext4", 0, 0), errno.ENOENT, ""),
            ((b"m", b"m", b"ext4", 0, 0), errno.ENOTBLK, ""),
            ((b"fifo", b"m", b"ext4", 0, 0), errno.ENOTBLK, ""),
            ((b"broken", b"m", b"ext4", 0, 0), errno.EINVAL, "making the superblock"),
            ((b"closed", b"m", b"ext4", 0, 0), errno.EACCES, "the caller cannot open the image itself"),
            ((b"image", b"m", b"ext4", 0, b"nonsense=1"), errno.EINVAL, "Unknown parameter 'nonsense'"),
            ((b"image", b"m", b"ext4", 0, b"errors=panic"), errno.EPERM, "the host would stop"),
            ((b"image", b"m", b"ext4", 0, b"noatime,journal_path=/dev/sda"), errno.EPERM, "on the host"),
            ((b"image", b"m", b"ext4", 0, b"journal_dev=0x801"), errno.EPERM, "on the host"),
            ((b"image", b"m", b"ext4", 0, b"source=/dev/sda"), errno.EINVAL, "said already"),
        ):  # fmt: skip
            verdict = asked(performers, one, *args)
            assert isinstance(verdict, Deny) and verdict.errno == number, (args, verdict)
            assert words in verdict.reason, verdict.reason
        files_no = asked(performers, one, b"image", b"m", b"ext4", 0, 0, options=Options(["ext4"]))
        assert files_no[0] == errno.ENOTBLK and "images = true" in files_no.reason
        for args in (
            (b"image", b"m", b"xfs", 0, 0), (b"none", b"m", b"tmpfs", 0, 0), (b"m", b"m", 0, MS_BIND, 0),
            (0, b"m", 0, MS_REMOUNT | MS_BIND | MS_RDONLY, 0),
        ):  # fmt: skip
            assert isinstance(asked(performers, one, *args), LetRun)
            verdict = asked(performers, one, *args, allow=lambda argument, path: True)
            assert verdict[0] == errno.EPERM and "by a rule before" in verdict.reason


def test_who_may_not(performers: Performers, top: bytes, image: bytes) -> None:
    args = (b"image", b"m", b"ext4", 0, 0)

    def powerless() -> None:
        drop_capabilities(((1 << 41) - 1) & ~(1 << 21))

    with caller(container(top, powerless), MAP) as one:
        assert "no CAP_SYS_ADMIN" in asked(performers, one, *args).reason
    with caller(container(top, in_a_nested_namespace), MAP) as one:
        assert "of its own making" in asked(performers, one, *args).reason
    with caller(lambda: os.chdir(top), MAP) as one:  # in the host's mount namespace
        assert isinstance(asked(performers, one, *args), LetRun)


def test_block_devices_by_number_and_name(performers: Performers, top: bytes, image: bytes) -> None:
    with loop_device(image) as (device, number):
        named = f"{os.major(number)}:{os.minor(number)}"
        os.mknod(top + b"/disk", stat.S_IFBLK | 0o600, number)
        args = (b"disk", b"m", b"ext4", 0, 0)
        with caller(container(top), MAP) as one:
            refused = asked(performers, one, *args)
            assert refused[0] == errno.EPERM and named in refused.reason
            others = Options(["ext4"], devices=[device])
            assert asked(performers, one, *args, options=others)[0] == errno.EACCES  # not its own
            os.chown(top + b"/disk", 100000, 100000)
            for devices in ([named], [device], [f"{os.major(number)}:*"]):
                options = Options(["ext4"], devices=devices)
                assert asked(performers, one, *args, options=options) == Answer(0)
                again = asked(performers, one, *args, options=options)
                assert again == Deny(errno.EBUSY, again.reason)
                mounts = Path(f"/proc/{one.pid}/mountinfo").read_text().splitlines()
                assert f"{device} " in mounts[-1] and "/m " in mounts[-1]
                assert one.natively("umount2", b"m", 0) == ("value", 0)


def test_rules_about_paths(performers: Performers, top: bytes, image: bytes) -> None:
    os.symlink("image", top + b"/link")
    seen: list[tuple[str, bytes]] = []

    def allow(argument: str, path: bytes) -> bool:
        seen.append((argument, path))
        return not path.endswith(b"/elsewhere")

    os.mkdir(top + b"/elsewhere")
    with caller(container(top), MAP) as one:
        assert asked(performers, one, b"link", b"./m", b"ext4", 0, 0, allow=allow) == Answer(0)
        assert one.natively("umount2", b"m", 0) == ("value", 0)
        refused = asked(performers, one, b"link", b"elsewhere", b"ext4", 0, 0, allow=allow)
        assert refused[0] == errno.EACCES
    assert seen == [("target", top + b"/m"), ("source", image), ("target", top + b"/elsewhere")]


#: By file systems: what makes an image of a directory's content, or an empty one (of 320 MiB, most of it holes) that can be written.
IMAGES = {
    "squashfs": ["mksquashfs", "{contents}", "{image}", "-quiet", "-no-progress"],
    "erofs": ["mkfs.erofs", "--quiet", "{image}", "{contents}"],
    "iso9660": ["genisoimage", "-quiet", "-R", "-o", "{image}", "{contents}"],
    "btrfs": ["mkfs.btrfs", "-q", "{image}"],
    "xfs": ["mkfs.xfs", "-q", "-f", "{image}"],
    "vfat": ["mkfs.vfat", "{image}"],
}


def since(kind: str) -> tuple[int, int]:
    """The first Linux that has id-mapped mounts of it."""
    return {"erofs": (5, 19), "squashfs": (6, 2), "iso9660": (999, 0)}.get(kind, (5, 15))


@pytest.mark.parametrize("kind", IMAGES)
def test_other_file_systems(top: bytes, kind: str) -> None:
    command, filled = IMAGES[kind], "{contents}" in IMAGES[kind]
    if not has(kind) or not shutil.which(command[0]):
        pytest.skip(f"no {kind} here, or no {command[0]}")
    os.mkdir(top + b"/contents")
    (Path(os.fsdecode(top)) / "contents" / "hello").write_text(kind)
    image = os.fsdecode(top) + "/image"
    if not filled:
        with open(image, "wb") as file:
            file.truncate(320 << 20)
    places = {"image": image, "contents": os.fsdecode(top) + "/contents"}
    subprocess.run([each.format(**places) for each in command], check=True, capture_output=True)
    os.chown(image, 100000, 100000)
    program = """
os.chdir(sys.argv[1])
tried(mount, b"image", b"m", sys.argv[2].encode(), sys.argv[2] == "iso9660")  # EACCES if it is to be written
tried(lambda: open("/proc/self/mountinfo").read().splitlines()[-1].split(" - ")[1].split()[0])
def write():
    with open("m/hello", "x") as file:
        file.write(sys.argv[2])
tried(write)
tried(umount, b"m")
tried(mount, b"image", b"m", sys.argv[2].encode(), 1)
tried(lambda: open("m/hello").read())
tried(lambda: os.stat("m/hello").st_uid)
tried(umount, b"m")
"""
    idmap = since(kind) <= RELEASE
    handlers = [proctor.families.mount(filesystems=[kind], images=True, idmap=idmap)]
    written = "EEXIST" if filled else None
    assert told(program, top.decode(), kind, handlers=handlers) == [
        None, kind, written, None, None, kind, 0 if idmap else 65534, None,
    ]  # fmt: skip


def test_the_program_mount(top: bytes, image: bytes) -> None:
    """mount(8) and umount(8) of util-linux, on a device that the container has."""
    if not shutil.which("findmnt"):
        pytest.skip("no util-linux")
    with loop_device(image) as (device, number):
        os.mknod(top + b"/disk", stat.S_IFBLK | 0o600, number)
        os.chown(top + b"/disk", 100000, 100000)
        script = (
            f"cd {top.decode()} && mount -o noatime,data=ordered -t ext4 disk m && cat m/hello && "
            "findmnt -no SOURCE,FSTYPE,OPTIONS m && umount m && ls m"
        )
        done = inside(
            ["sh", "-ec", script], [proctor.families.mount(filesystems=["ext4"], devices=[device])]
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "from", "outside" + device, "ext4", "rw,nodev,noatime,idmapped,errors=remount-ro,data=ordered",
    ]  # fmt: skip


def test_a_file_system_says_what_it_has_against_it(performers: Performers, top: bytes) -> None:
    if not has("squashfs"):
        pytest.skip("no squashfs here")
    with open(top + b"/broken", "wb") as file:
        file.write(bytes(1 << 16))
    os.chown(top + b"/broken", 100000, 100000)
    with caller(container(top), MAP) as one:
        verdict = asked(
            performers, one, b"broken", b"m", b"squashfs", 0, 0,
            options=Options(["squashfs"], images=True),
        )  # fmt: skip
    assert verdict[0] == errno.EINVAL
    assert "Can't find a SQUASHFS superblock" in verdict.reason


REMOUNTS = """
os.chdir(sys.argv[1])
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
tried(mount, b"image", b"m", b"ext4")
tried(mount, None, b"m", None, MS_REMOUNT | MS_RDONLY)
tried(lambda: open("m/new", "w"))
tried(lambda: [line for line in open("/proc/self/mountinfo") if sys.argv[1] + "/m " in line][0].split()[-1])
tried(mount, None, b"m", None, MS_REMOUNT, b"errors=panic")
tried(mount, None, b"m", None, MS_REMOUNT, b"nonsense=1")
tried(mount, None, b"m", None, MS_REMOUNT, b"errors=continue")
tried(lambda: open("m/new", "w").write("x"))
tried(os.open, "m/null", os.O_RDWR)
os.mkdir("copy")
tried(mount, b"m", b"copy", None, MS_BIND)
tried(mount, None, b"copy", None, MS_REMOUNT | MS_RDONLY)
tried(umount, b"copy")
tried(umount, b"m")
tried(mount, b"image", b"m", b"ext4", MS_RDONLY)
tried(mount, None, b"m", None, MS_REMOUNT)
tried(umount, b"m")
tried(mount, None, b"m", None, MS_REMOUNT)
"""


def test_remounts_of_what_was_mounted(top: bytes, image: bytes) -> None:
    """The very mount that was given, and as it was opened."""
    if RELEASE < (6, 8):
        pytest.skip("this kernel does not number mounts for good")
    handlers = [proctor.families.mount(filesystems=["ext4"], images=True)]
    assert told(REMOUNTS, top.decode(), handlers=handlers) == [
        None, None, "EROFS", "ro,errors=remount-ro", "EPERM", "EINVAL", None, 1, "EACCES", None, "EPERM", None,
        None, None, "EACCES", None, "EINVAL",
    ]  # fmt: skip


READ_ONLY = """
os.chdir(sys.argv[1])
MS_RDONLY, MS_REMOUNT = 1, 32
how = lambda: [line for line in open("/proc/self/mountinfo") if sys.argv[1] + "/m " in line][0].split()[-1].split(",")[0]
tried(mount, b"disk", b"m", b"ext4")
tried(mount, b"disk", b"m", b"ext4", MS_RDONLY, b"rw")
tried(mount, b"disk", b"m", b"ext4", MS_RDONLY, b"ro,rw=x")
tried(mount, b"disk", b"m", b"ext4", 0, b"rw,ro")
tried(how)
tried(mount, None, b"m", None, MS_REMOUNT | MS_RDONLY, b"rw")
tried(mount, None, b"m", None, MS_REMOUNT | MS_RDONLY)
tried(how)
tried(umount, b"m")
def newer(*options):
    fd = libc.syscall(430, b"ext4", 1)
    libc.syscall(431, fd, 1, b"source", b"disk", 0)
    for command, key, value in options:
        libc.syscall(431, fd, command, key, value, 0)
    try:
        if libc.syscall(431, fd, 6, None, None, 0) < 0:
            raise OSError(ctypes.get_errno(), "CREATE")
        root = libc.syscall(432, fd, 1, 0)
    finally:
        os.close(fd)
    assert libc.syscall(429, root, b"", -100, b"m", 4) == 0
    os.close(root)
tried(newer, (0, b"ro", None), (0, b"rw", None))
tried(newer, (0, b"ro", None), (1, b"rw", b"x"))
tried(newer, (0, b"rw", None), (1, b"ro", b"x"))
tried(how)
tried(mount, None, b"m", None, MS_REMOUNT | MS_RDONLY, b"rw")
tried(mount, None, b"m", None, MS_REMOUNT)
tried(umount, b"m")
"""


def test_what_was_opened_for_reading_is_never_written(top: bytes, image: bytes) -> None:
    """Of ``ro`` and ``rw`` the kernel goes by the last one: it must not write a device that the caller may only read."""
    if RELEASE < (6, 8):
        pytest.skip("this kernel does not number mounts for good")
    with loop_device(image) as (device, number):
        os.mknod(top + b"/disk", stat.S_IFBLK | 0o444, number)
        handlers = [
            proctor.families.mount(filesystems=["ext4"], devices=[device]),
            proctor.families.fsmount(filesystems=["ext4"], devices=[device]),
        ]
        said = told(READ_ONLY, top.decode(), handlers=handlers)
    assert said == [
        "EACCES", "EACCES", "EACCES", None, "ro", "EACCES", None, "ro", None, "EACCES", "EACCES", None, "ro", "EACCES",
        "EACCES", None,
    ]  # fmt: skip


def test_remounts_of_what_the_newer_calls_mounted(top: bytes, image: bytes) -> None:
    """By mount(2), as of what that mounted."""
    if RELEASE < (6, 8):
        pytest.skip("this kernel does not number mounts for good")
    program = (
        NEW_CALLS[: NEW_CALLS.index("fd = ")]
        + """
for mode in ((), (b"ro",)):
    fd = fsopen(b"ext4")
    fsconfig(fd, STRING, b"source", b"image")
    for flag in mode:
        fsconfig(fd, FLAG, flag)
    fsconfig(fd, CREATE)
    root = fsmount(fd, 0)
    os.close(fd)
    call(429, root, b"", -100, b"m", 4)
    os.close(root)
    tried(mount, None, b"m", None, 32 | 1)
    tried(lambda: open("m/new", "w"))
    tried(mount, None, b"m", None, 32)
    tried(lambda: open("m/new", "w").write("x"))
    tried(os.open, "m/null", os.O_RDWR)
    tried(umount, b"m")
tried(mount, None, b"m", None, 32)
"""
    )
    handlers = [
        proctor.families.mount(filesystems=["ext4"], images=True),
        proctor.families.fsmount(filesystems=["ext4"], images=True),
    ]
    assert told(program, top.decode(), handlers=handlers) == [
        None, "EROFS", None, 1, "EACCES", None, None, "EROFS", "EACCES", "EROFS", "EACCES", None, "EINVAL",
    ]  # fmt: skip


def test_a_mount_is_known_before_it_is_anywhere(top: bytes, image: bytes) -> None:
    """Else one that the next monitor finds done would not be its container's to remount; what came to nothing is not known."""
    if RELEASE < (6, 8):
        pytest.skip("this kernel does not number mounts for good")
    known: list[list[int]] = []

    def puts(task: Task, *rest: Any) -> Work:
        words = remounting.mounts(task)._own(task.session.container)
        known.append([word for word in words if word])
        return deny(errno.EBUSY) if len(known) == 3 else (yield from put(task, *rest))

    program = """
os.chdir(sys.argv[1])
for flags in (0, 1, 0, 0):
    tried(mount, b"image", b"m", b"ext4", flags)
    tried(umount, b"m")
"""
    put = placing.put
    handlers = [proctor.families.mount(filesystems=["ext4"], images=True)]
    with mock.patch.object(placing, "put", puts):
        said = told(program, top.decode(), handlers=handlers)
    assert said == [None, None, None, None, "EBUSY", "EINVAL", None, None]
    (one,), (first, two), three, last = known
    assert first == one and three[:2] == last[:2] == [one, two]
    assert (
        len(three) == len(last) == 3 and three[2] < last[2]
    )  # in the place of what came to nothing
    assert [word & 1 for word in last] == [1, 0, 1]  # whether it was opened for writing


NEW_CALLS = """
os.chdir(sys.argv[1])
def call(number, *args):
    got = libc.syscall(number, *args)
    if got < 0:
        raise OSError(ctypes.get_errno(), "call")
    return got
fsopen = lambda kind: call(430, kind, 1)
fsconfig = lambda fd, command, key=None, value=None: call(431, fd, command, key, value, 0)
fsmount = lambda fd, attributes: call(432, fd, 1, attributes)
FLAG, STRING, CREATE = 0, 1, 6
fd = fsopen(b"ext4")
tried(fsconfig, fd, STRING, b"nonsense", b"1")
tried(lambda: b"nonsense" in os.read(fd, 200))
tried(fsconfig, fd, CREATE)
tried(fsconfig, fd, STRING, b"source", b"image")
fd = fsopen(b"ext4")
tried(fsconfig, fd, STRING, b"source", b"image")
tried(fsconfig, fd, STRING, b"source", b"other")
tried(fsconfig, fd, STRING, b"errors", b"panic")
tried(fsconfig, fd, STRING, b"journal_path", b"/dev/sda")
tried(fsconfig, fd, 5, b"journal_path", None)
tried(fsconfig, fd, FLAG, b"noload", b"x")
tried(fsconfig, fd, STRING, b"errors", b"continue")
tried(fsmount, fd, 0)
tried(fsconfig, fd, CREATE)
tried(fsconfig, fd, CREATE)
tried(fsconfig, fd, FLAG, b"ro")
tried(fsmount, fd, 1 << 40 >> 9)
mounted = fsmount(fd, 0x10 | 0x2)
tried(lambda: call(429, mounted, b"", -100, b"m", 4))
line = [line for line in open("/proc/self/mountinfo") if sys.argv[1] + "/m " in line][0].split()
results.append([line[5], line[-1]])
tried(lambda: open("m/hello").read())
tried(os.open, "m/null", os.O_RDWR)
tried(mount, None, b"m", None, 4096 | 32)
os.close(mounted)
tried(umount, b"m")
other = fsopen(b"tmpfs")
tried(fsconfig, other, CREATE)
tried(lambda: fsmount(other, 0) > 0)
tried(fsopen, b"nosuchfs")
tried(fsmount, 999, 0)
tried(fsmount, os.open("/dev/null", 0), 0)
"""


def test_the_calls_that_took_its_place(top: bytes, image: bytes) -> None:
    """fsopen, fsconfig, fsmount, and move_mount, which is the kernel's to decide."""
    handlers = [proctor.families.fsmount(filesystems=["ext4"], images=True)]
    assert told(NEW_CALLS, top.decode(), handlers=handlers) == [
        "EINVAL", True, "EINVAL", "EBUSY", 0, "EINVAL", "EPERM", "EPERM", "EPERM", "EINVAL", 0, "EINVAL", 0, "EBUSY",
        "EBUSY", "EINVAL", 0, ["rw,nosuid,nodev,noatime,idmapped", "rw"], "from outside", "EACCES", "EPERM",
        None, 0, True, "ENODEV", "EBADF", "EINVAL",
    ]  # fmt: skip


PICKS = (
    NEW_CALLS[: NEW_CALLS.index("fd = ")]
    + """
RECONFIGURE = 7
NOFOLLOW, EMPTY = 2, 8
fspick = lambda path, flags=1, at=-100: call(433, at, path, flags)
def change(path, *options):
    fd = fspick(path)
    try:
        for key, value in options:
            fsconfig(fd, FLAG if value is None else STRING, key, value)
        fsconfig(fd, RECONFIGURE)
    finally:
        os.close(fd)
def setattr(path, set, clear):
    return call(442, -100, path, 0, (ctypes.c_uint64 * 4)(set, clear, 0, 0), 32)
def make(*options):
    fd = fsopen(b"ext4")
    fsconfig(fd, STRING, b"source", b"image")
    for key in options:
        fsconfig(fd, FLAG, key)
    fsconfig(fd, CREATE)
    root = fsmount(fd, 0)
    os.close(fd)
    call(429, root, b"", -100, b"m", 4)
    os.close(root)
how = lambda: [line for line in open("/proc/self/mountinfo") if sys.argv[1] + "/m " in line][0].split()[-1]
write = lambda: open("m/new", "w").write("x")
"""
)
PICKED = (
    PICKS
    + """
tried(mount, b"image", b"m", b"ext4")
tried(change, b"m", (b"ro", None))
tried(write)
tried(how)
tried(change, b"m", (b"rw", None), (b"commit", b"7"), (b"idmapped", None))
tried(write)
tried(how)
tried(setattr, b"m", 1, 0)
tried(write)
tried(setattr, b"m", 0, 1)
tried(setattr, b"m", 0, 4)
tried(os.open, "m/null", os.O_RDWR)
tried(change, b"m", (b"errors", b"panic"))
tried(change, b"m", (b"nonsense", b"1"))
tried(change, b"m", (b"journal_path", b"/dev/sda"))
tried(fspick, b"m", 16)
tried(fspick, b"m/hello")
tried(fspick, b"missing")
os.symlink("m", "link")
tried(fspick, b"link", NOFOLLOW)
tried(change, b"link", (b"ro", None))
tried(write)
fd = fspick(b"", EMPTY, os.open("m", os.O_PATH))
os.close(fd + 0)
one = fspick(b"m")
tried(fsconfig, one, CREATE)
tried(fsmount, one, 0)
tried(fsconfig, one, RECONFIGURE, b"x")
tried(fsconfig, one, FLAG, b"rw")
tried(fsconfig, one, RECONFIGURE)
tried(write)
tried(fsconfig, one, FLAG, b"ro")
tried(fsconfig, one, RECONFIGURE)
tried(write)
tried(fsconfig, one, STRING, b"data", b"writeback")  # not by a remount
tried(fsconfig, one, RECONFIGURE)
tried(fsconfig, one, RECONFIGURE)
tried(fsconfig, one, FLAG, b"rw")
new = fsopen(b"ext4")
tried(fsconfig, new, RECONFIGURE)
os.close(os.open("m", os.O_PATH))
os.mkdir("copy")
tried(mount, b"m", b"copy", None, 4096)
tried(change, b"copy", (b"rw", None))
tried(umount, b"copy")
tried(mount, None, b"m", None, 32 | 0)
def child(*options, drop=False):
    pid = os.fork()
    if not pid:
        try:
            if drop:
                header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
                assert not libc.syscall(126, header, none)
            for key in options:
                fsconfig(three, FLAG, key)
            fsconfig(three, RECONFIGURE)
        except OSError as error:
            os._exit(error.errno)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
three = fspick(b"m")
tried(child, b"ro")
tried(child, b"rw", drop=True)  # the context is who has it, the right whoever uses it
tried(write)
two = fspick(b"m")
for fd in range(3, 64):
    if fd != two:
        try:
            os.close(fd)
        except OSError:
            pass
tried(umount, b"m")  # nothing keeps it
tried(fsconfig, two, RECONFIGURE)
make(b"ro")
tried(how)
tried(change, b"m", (b"rw", None))
tried(change, b"m", (b"ro", None), (b"rw", b"x"))
tried(change, b"m", (b"commit", b"9"))
tried(how)
tried(umount, b"m")
make()
tried(change, b"m", (b"ro", None))
tried(write)
os.unlink("link")
os.mkdir("n")
tried(mount, b"none", b"n", b"tmpfs")
tried(change, b"n", (b"ro", None))
tried(lambda: open("n/x", "w"))
tried(umount, b"n")
four = fspick(b"m")
tried(mount, b"none", b"m", b"tmpfs")
tried(fsconfig, four, FLAG, b"ro")
tried(fsconfig, four, RECONFIGURE)  # not what is there now
tried(write)
tried(umount, b"m")
tried(umount, b"m")
"""
)


def test_a_mount_is_picked_and_reconfigured(top: bytes, image: bytes) -> None:
    """As mount(8) of util-linux 2.39 remounts."""
    if RELEASE < (6, 8):
        pytest.skip("this kernel does not number mounts for good")
    handlers = [
        proctor.families.mount(filesystems=["ext4"], images=True),
        proctor.families.fsmount(filesystems=["ext4"], images=True),
    ]
    assert told(PICKED, top.decode(), handlers=handlers) == [
        None, None, "EROFS", "ro,errors=remount-ro", None, 1, "rw,errors=remount-ro,commit=7", 0, "EROFS", 0, "EPERM", "EACCES",
        "EPERM", "EINVAL", "EPERM", "EINVAL", "EINVAL", "ENOENT", "EINVAL", None, "EROFS",
        "EBUSY", "EBUSY", "EINVAL", 0, 0, 1, 0, 0, "EROFS", 0, "EINVAL", "EBUSY", "EBUSY", "EBUSY",
        None, "EPERM", None, None, 0, errno.EPERM, "EROFS", None, "EPERM",
        "ro,errors=remount-ro", "EACCES", "EACCES", None, "ro,errors=remount-ro,commit=9", None,
        None, "EROFS", None, None, "EROFS", None,
        None, 0, "EPERM", 1, None, None,
    ]  # fmt: skip


def test_a_pick_that_is_the_kernels(performers: Performers, top: bytes) -> None:
    """It is not left to it where a rule is about paths, which could be others by then."""
    options = fsmount.Options(filesystems=["ext4"])
    with caller(container(top), MAP) as one:
        for flags in (1, 1 << 4):
            call = one.call("fspick", pins.AT_FDCWD, b".", flags)
            assert isinstance(
                performers.carry_out(call, proctor.Perform(None, "", options)), LetRun
            )
            allow = mock.Mock(return_value=True)
            verdict = performers.carry_out(call, proctor.Perform(allow, "", options))
            assert isinstance(verdict, Deny) and verdict.errno == errno.EPERM


@pytest.mark.parametrize("good", [0, 1])
def test_where_the_monitor_has_no_room_it_keeps_nothing(top: bytes, good: int) -> None:
    """fsopen, when one of the descriptors that are kept cannot be had."""
    wish = proctor.Perform(None, "", fsmount.Options(filesystems=["ext4"], images=True))
    own, left = os.dup, [good]

    def dup(fd: int) -> int:
        if sys._getframe(1).f_code is pins.copies.__code__:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EMFILE, "no room")
        return own(fd)

    trouble: list[object] = []
    with Performers(on_trouble=trouble.append) as performers, caller(container(top), MAP) as one:
        call = one.call("fsopen", b"ext4", 1)
        verdict = performers.carry_out(call, wish)
        os.close(verdict.fd)
        open_then = []
        for _ in range(20):
            left[0] = good
            with mock.patch.object(os, "dup", dup):
                verdict = performers.carry_out(one.call("fsopen", b"ext4", 1), wish)
            assert isinstance(verdict, Deny) and left == [-1]
            open_then.append(len(os.listdir("/proc/self/fd")))
        assert len(trouble) == 20
        assert open_then[-1] < open_then[0] + 10


@pytest.mark.parametrize(
    ("name", "rest"),
    [("fsconfig", (0, b"ro", 0, 0)), ("fsmount", (0, 0)), ("move_mount", (b"", -100, b"m", 4))],
)
def test_what_a_caller_gave_is_let_go_of_before_the_answer(
    top: bytes, name: str, rest: tuple[Any, ...]
) -> None:
    """Who is answered may unmount it at once, while the monitor is still about to forget the call."""
    given = os.open(top, os.O_RDONLY)
    try:
        with performing.Performers() as performers, caller(container(top), MAP) as one:
            call = one.call(name, given, *rest)
            options = fsmount.Options(filesystems=["ext4"], images=True)
            assert isinstance(performers.perform(call, options=options), LetRun)
            others = [int(each) for each in os.listdir("/proc/self/fd") if int(each) != given]
            assert not [each for each in others if _same(each, given)]
            call.expire()
    finally:
        os.close(given)


def _same(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:  # it was the list's own
        return False


def test_contexts_that_nobody_closes_do_not_pile_up(top: bytes, image: bytes) -> None:
    """The oldest is forgotten, and what was made of it goes."""
    program = (
        NEW_CALLS[: NEW_CALLS.index("fd = ")]
        + """
made = [fsopen(b"ext4") for _ in range(20)]
for fd in (made[0], made[-1]):
    tried(fsconfig, fd, STRING, b"source", b"image")
    tried(fsconfig, fd, CREATE)
"""
    )
    handlers = [proctor.families.fsmount(filesystems=["ext4"], images=True)]
    assert told(program, top.decode(), handlers=handlers) == [0, "EPERM", 0, 0]


@pytest.mark.parametrize(
    ("server", "kind"), [("fuse2fs -o fakeroot image", "ext4"), ("squashfuse packed", "squashfuse")]
)
def test_images_by_a_server_of_the_containers_own(
    top: bytes, image: bytes, server: str, kind: str
) -> None:
    """What is no risk for the kernel: FUSE, of which only the device node wants to be performed."""
    for needed in (server.split(maxsplit=1)[0], "mksquashfs", "findmnt", "fusermount3"):
        if not shutil.which(needed):
            pytest.skip(f"no {needed}")
    subprocess.run(
        ["mksquashfs", top + b"/contents", top + b"/packed", "-quiet", "-no-progress"],
        check=True, capture_output=True,
    )  # fmt: skip
    script = f"""
cd {top.decode()}
mknod -m 600 fuse c 10 229
mount --bind fuse /dev/fuse
{server} m
cat m/hello; echo
findmnt -no FSTYPE m
umount m
ls m
"""
    nodes = proctor.families.mknod(when={"type": "char", "device": "10:229"})
    done = inside(["sh", "-ec", script], [nodes])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["from", "outside", f"fuse.{kind}"]


def test_options_say_what_is_wrong() -> None:
    for wrong in (
        {"filesystems": "ext4"}, {"filesystems": ["tmpfs"]}, {"devices": ["sda"]}, {"devices": ["8:x"]},
        {"images": "yes"}, {"idmap": 1}, {"devices": [8]},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"filesystems|devices|images|idmap"):
            Options(**wrong)  # type: ignore[arg-type]


OVERLAYS = """
os.chdir(sys.argv[1])
for each in ("lower", "lower/dir", "over", "up", "up/dir", "work"):
    os.mkdir(each)
open("lower/dir/below", "w").close()
layers = b"lowerdir=lower,upperdir=up,workdir=work"
def seen(options):
    mount(b"none", b"over", b"overlay", 0, options)
    try:
        return os.listdir("over/dir")
    finally:
        umount(b"over")
tried(os.setxattr, "up/dir", "trusted.overlay.opaque", b"y")
tried(seen, layers)
tried(seen, layers + b",userxattr")
tried(os.setxattr, "up/dir", "user.overlay.opaque", b"y")
tried(seen, layers)
tried(seen, layers + b",userxattr")
tried(seen, layers + b",userxattr,metacopy=on")
"""


def test_overlays_are_the_kernels_and_go_by_user_attributes(top: bytes) -> None:
    """Marks that a container sets by the family xattr are for who mounts them on the host: the kernel looks at
    ``trusted.*`` with the rights of whoever mounts."""
    if "overlay" not in Path("/proc/filesystems").read_text():
        pytest.skip("no overlay here")
    wants_user_attributes(top)
    handlers = [proctor.families.xattr(), proctor.families.mount(filesystems=["ext4"], images=True)]
    assert told(OVERLAYS, top.decode(), handlers=handlers) == [
        None, ["below"], ["below"], None, ["below"], [], "EINVAL",
    ]  # fmt: skip
    options = (
        f"lowerdir={top.decode()}/lower,upperdir={top.decode()}/up,workdir={top.decode()}/work"
    )
    mounted = ["mount", "-t", "overlay", "-o", options, "none", top.decode() + "/over"]
    subprocess.run(mounted, check=True)
    try:
        assert os.listdir(top + b"/over/dir") == []
    finally:
        subprocess.run(["umount", top.decode() + "/over"], check=True)


EMPTY = """
os.chdir(sys.argv[1])
how = lambda: [line for line in open("/proc/self/mountinfo") if sys.argv[1] + "/m " in line][0].split()[-1]
tried(mount, sys.argv[2].encode(), b"m", b"ext4", 0, b"errors=remount-ro")
for data in (b"barrier", b"barrier=", b"barrier=0", b"nobarrier=", b"=1", b"", b"commit=", b"errors=", b"ro=", b"rw=", b"sync="):
    tried(mount, None, b"m", None, 32, data)
    tried(how)
tried(umount, b"m")
for data in (b"barrier=", b"barrier"):
    tried(mount, b"missing", b"m", b"ext4", 0, data)
    tried(mount, sys.argv[2].encode(), b"m", b"ext4", 0, data)
    tried(umount, b"m")
"""


def test_an_option_that_is_empty_is_no_flag(top: bytes, image: bytes) -> None:
    """A remount, and a mount whose source is not there: the kernel's own words for each."""
    if RELEASE < (6, 8):
        pytest.skip("this kernel does not number mounts for good")
    program = f"{PRELUDE}\n{EMPTY}\nprint(json.dumps(results))\n"
    with loop_device(image) as (device, _):
        command = ["unshare", "-m", PYTHON, "-ISc", program, top.decode(), device]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    natively = json.loads(done.stdout)
    assert "EINVAL" in natively
    handlers = [proctor.families.mount(filesystems=["ext4"], images=True)]
    assert told(EMPTY, top.decode(), "image", handlers=handlers) == natively
