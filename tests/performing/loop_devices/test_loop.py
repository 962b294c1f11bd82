"""Loop devices: what losetup(8) and mount(8) ask for, on images of the container's own.

PROCTOR_TRIES and PROCTOR_SEED are as for test_random.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families
from proctor.call.verdict import Deny, HandOver, LetRun
from proctor.performing.families import loop, open
from proctor.performing.families.loop import COMMANDS
from proctor.performing.loop_devices import loops
from tests.performing.families.test_mknod import in_a_nested_namespace
from tests.performing.families.test_open_differential import MAP
from tests.performing.support.callers import Performers, caller, drop_capabilities, libc
from tests.performing.support.containers import PYTHON, container, inside, told
from tests.performing.support.images import (
    MOUNTS,
    backed,
    has,
    image,
    loop_device,
    no_loop_device_is_left,
    top,
)
from tests.support.kernel import RELEASE
from tests.support.processes import eventually

__all__ = ["image", "no_loop_device_is_left", "top"]
pytestmark = [MOUNTS, pytest.mark.usefixtures("no_loop_device_is_left")]

PROGRAM = Path(__file__).parents[1] / "at_random" / "random_loops.py"
TRIES = int(os.environ.get("PROCTOR_TRIES", "40"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))

GET_FREE, CONFIGURE, SET_FD = (
    COMMANDS[f"LOOP_{name}"] for name in ("CTL_GET_FREE", "CONFIGURE", "SET_FD")
)


def handlers(*filesystems: str, most: int = 8) -> list[Any]:
    return [
        families.open(when={"path": "/dev/loop*"}, loops=True),
        families.open(),
        families.loop(most=most),
        families.mount(filesystems=filesystems or ("ext4",), images=True),
        families.fsmount(filesystems=filesystems or ("ext4",), images=True),
    ]


def shell(top: bytes, script: str, *filesystems: str, **more: Any) -> list[str]:
    """The lines that a script in a container prints."""
    done = inside(["sh", "-ec", f"cd {top.decode()}\n{script}"], handlers(*filesystems, **more))
    assert done.returncode == 0, done.stderr
    lines: list[str] = done.stdout.splitlines()
    return lines


UTIL_LINUX = pytest.mark.skipif(
    not all(map(shutil.which, ("mount", "losetup", "findmnt", "blkid"))), reason="no util-linux"
)


@UTIL_LINUX
def test_mount_o_loop(top: bytes, image: bytes) -> None:
    """The whole life of an image, by the programs that people use."""
    lines = shell(
        top,
        """
mount -o loop image m
cat m/hello; echo
findmnt -no FSTYPE,OPTIONS m
test "$(findmnt -no SOURCE m)" = "$(losetup -nO NAME -j image)"
losetup -nO AUTOCLEAR,RO,BACK-FILE -j image
mount -o remount,ro m
touch m/new 2>/dev/null || echo read-only
mount -o remount,rw m
echo from inside > m/new
mkdir upper work over
mount -t overlay -o userxattr,lowerdir=m,upperdir=upper,workdir=work none over
echo changed > over/hello
cat over/hello m/hello; echo
umount over m
ls m
losetup -j image
mount -o loop,ro,noatime image m
findmnt -no OPTIONS m
umount m
""",
    )
    assert lines == [
        "from outside", "ext4   rw,nodev,relatime,idmapped,errors=remount-ro",
        f"        1  0 {image.decode()}", "read-only", "changed", "from outside",
        "ro,nodev,noatime,idmapped,errors=remount-ro",
    ]  # fmt: skip
    written = subprocess.run(
        ["debugfs", "-R", "cat new", image], capture_output=True, text=True, check=True
    )
    assert written.stdout == "from inside\n"


@UTIL_LINUX
def test_losetup(top: bytes, image: bytes) -> None:
    """Bound without a user, looked at, read, written and made a file system of, and let go of."""
    lines = shell(
        top,
        """
device=$(losetup -f --show image)
test -b $device
blkid -o value -s TYPE $device
blockdev --getsize64 $device
mount $device m
cat m/hello; echo
umount m
losetup -nO BACK-FILE $device
losetup -d $device
losetup -j image
device=$(losetup -r -o 4096 --sizelimit 8192 -f --show image)
losetup -nO OFFSET,SIZELIMIT,RO $device
blockdev --getsize64 --getro $device
losetup -D 2>errors || ! grep -q $device: errors
losetup -j image
truncate -s 2M other
device=$(losetup -f --show other)
mkfs.ext4 -q $device
losetup -d $device
mount -o loop -t ext4 other m && ls m && umount m
""",
    )
    assert lines == [
        "ext4", str(4 << 20), "from outside", image.decode(), "  4096      8192  1", "8192", "1", "lost+found",
    ]  # fmt: skip


@UTIL_LINUX
@pytest.mark.skipif(
    not (has("squashfs") and shutil.which("mksquashfs")) or RELEASE < (6, 2),
    reason="no squashfs here, or no id-mapped mounts of it",
)
def test_mount_o_loop_of_squashfs(top: bytes, image: bytes) -> None:
    packed = top + b"/packed"
    subprocess.run(
        ["mksquashfs", top + b"/contents", packed, "-quiet", "-no-progress"],
        check=True, capture_output=True,
    )  # fmt: skip
    script = "mount -o loop packed m; cat m/hello; echo; findmnt -no FSTYPE,OPTIONS m; umount m"
    assert shell(top, script, "squashfs") == [
        "from outside", "squashfs ro,nodev,relatime,idmapped,errors=continue",
    ]  # fmt: skip


@UTIL_LINUX
@pytest.mark.skipif(not (has("vfat") and shutil.which("mkfs.vfat")), reason="no vfat here")
def test_mount_o_loop_of_vfat(top: bytes) -> None:
    """What is written there is read by who mounts it next; options are the file system's own."""
    Path(os.fsdecode(top), "empty").write_bytes(bytes(8 << 20))
    os.chown(top + b"/empty", 100000, 100000)
    script = """
mkfs.vfat empty >/dev/null
mount -o loop,umask=027,shortname=mixed empty m
echo written >m/"A long Name"
umount m
umask 077
mount -o loop,ro empty m
cat m/"a LONG name"
findmnt -no FSTYPE,OPTIONS m | tr , '\\n' | grep -e vfat -e fmask -e idmapped -e nodev
umount m
"""
    lines = shell(top, script, "vfat")
    assert lines == ["written", "vfat   ro", "nodev", "idmapped", "fmask=0077"]


def test_what_nobody_let_go_of_goes_with_its_container(top: bytes, image: bytes) -> None:
    shell(top, "losetup -f image; losetup -f image; test $(losetup -j image | wc -l) = 2")
    eventually("the devices let go of", lambda: image.decode() + "\n" not in backed())


LOOPS = """
import fcntl
os.chdir(sys.argv[1])
image = os.open("image", os.O_RDWR)
def ioctl(fd, command, argument=0):
    if libc.ioctl(fd, ctypes.c_ulong(command), argument):
        raise OSError(ctypes.get_errno(), "ioctl")
def free():
    control = os.open("/dev/loop-control", os.O_RDWR)
    number = fcntl.ioctl(control, 0x4C82)
    return f"/dev/loop{number}"
def config(fd, flags=0, block=0):
    made = bytearray(304)
    made[:8] = struct.pack("=iI", fd, block)
    made[60:64] = struct.pack("=I", flags)
    return bytes(made)
"""


def test_a_program_that_binds_one(top: bytes, image: bytes) -> None:
    program = (
        LOOPS
        + """
control = os.open("/dev/loop-control", os.O_RDWR)
name = free()
loop = os.open(name, os.O_RDWR)
other = os.open(name, os.O_RDWR)
for args in ((loop, 0x4C05, bytes(232)), (loop, 0x4C01), (loop, 0x4C03), (control, 0x4C80, 77), (control, 0x4C00, 1),
             (image, 0x4C01), (0x999, 0x4C01), (loop, 0x4C0A, config(control)), (loop, 0x4C0A, config(999)),
             (loop, 0x4C0A, config(image, 8)), (loop, 0x4C0A, config(image, 64)), (loop, 0x4C0A, config(image, 0, 3)),
             (os.open(name, os.O_PATH), 0x4C01), (loop, 0x4C0A, config(os.open("m", 0)))):
    tried(ioctl, *args)
tried(lambda: stat.S_ISBLK(os.fstat(loop).st_mode))
tried(ioctl, loop, 0x4C0A, config(image, 4))
tried(lambda: (stat.S_ISBLK(os.fstat(loop).st_mode), f"/dev/loop{os.minor(os.fstat(loop).st_rdev)}" == name))
tried(lambda: os.get_inheritable(loop))
tried(lambda: os.pread(loop, 2, 1024 + 56))
tried(lambda: struct.unpack_from("=I", fcntl.ioctl(loop, 0x4C05, bytes(232)), 52)[0])
tried(ioctl, other, 0x4C0A, config(image, 4))
tried(ioctl, loop, 0x4C0A, config(image, 4))
tried(lambda: os.pread(os.open(name, os.O_RDONLY), 2, 1024 + 56))
tried(lambda: os.read(other, 2))
reader = os.open(name, os.O_RDONLY)
tried(ioctl, reader, 0x4C04, bytes(232))
info = bytearray(232); info[24:32] = struct.pack("=Q", 1024); info[52:56] = struct.pack("=I", 4)
tried(ioctl, loop, 0x4C04, bytes(info))
tried(lambda: os.pread(reader, 2, 56))
tried(ioctl, loop, 0x4C01)
os.close(loop)
"""
    )
    assert told(program, top.decode(), handlers=handlers()) == [
        "ENXIO", "ENXIO", "EINVAL", "EPERM", "ENOSYS", "ENOTTY", "EBADF", "EINVAL", "EBADF", "EPERM", "EINVAL",
        "EINVAL", "EBADF", "EINVAL", False, None, [True, True], False, "53ef", 4, "EBUSY", "EBUSY", "53ef",
        "", None, None, "53ef", None,
    ]  # fmt: skip


def test_as_programs_did_before_loop_configure(top: bytes, image: bytes) -> None:
    """Bound first and told what it is then: mount(8) and losetup(8) before util-linux 2.37; and as they did before there
    were 64 bits in it."""
    program = (
        LOOPS
        + """
name = free()
loop = os.open(name, os.O_RDWR | os.O_CLOEXEC)
tried(ioctl, loop, 0x4C00, image)
os.close(image)
info = bytearray(232)
info[24:32] = struct.pack("=Q", 1024); info[52:56] = struct.pack("=I", 4); info[56:61] = b"image"
tried(ioctl, loop, 0x4C04, bytes(info))
tried(lambda: os.pread(loop, 2, 56))
tried(ioctl, loop, 0x4C07)
room = fcntl.ioctl(loop, 0x4C05, bytes(232))
tried(lambda: [*struct.unpack_from("=Q", room, 24), *struct.unpack_from("=I", room, 52), room[56:62].decode()])
tried(ioctl, loop, 0x4C01)
os.close(loop)
loop = os.open(free(), os.O_RDWR)
image = os.open("image", os.O_RDWR)
tried(ioctl, loop, 0x4C02, bytes(200))
tried(ioctl, loop, 0x4C03, bytes(200))
tried(ioctl, loop, 0x4C03)
tried(ioctl, loop, 0x4C00, image)
start = 32 if os.uname().machine == "x86_64" else 20
info = bytearray(200)
info[start : start + 4] = struct.pack("=i", 1024)
info[start + 16 : start + 21] = b"image"
tried(ioctl, loop, 0x4C02, bytes(info))
tried(lambda: os.pread(loop, 2, 56))
room = fcntl.ioctl(loop, 0x4C03, bytes(200))
tried(lambda: [*struct.unpack_from("=i", room, start), room[start + 16 : start + 22].decode()])
info[start + 12 : start + 16] = struct.pack("=i", 8)
tried(ioctl, loop, 0x4C02, bytes(info))
tried(ioctl, loop, 0x4C02)
tried(ioctl, loop, 0x4C03)
tried(ioctl, loop, 0x4C01)
"""
    )
    assert told(program, top.decode(), handlers=handlers()) == [
        None, None, "53ef", None, [1024, 4, "image\0"], None, "ENXIO", "ENXIO", "EINVAL", None, None, "53ef",
        [1024, "image\0"], "EPERM", "EFAULT", "EINVAL", None,
    ]  # fmt: skip


@pytest.mark.skipif(not shutil.which("busybox"), reason="no busybox")
def test_busybox_mounts_and_sets_up(top: bytes, image: bytes) -> None:
    """Programs that look for a free device themselves."""
    assert shell(
        top,
        """
busybox mount -t ext4 -o loop image m
cat m/hello; echo
busybox umount m
busybox losetup -f image
device=$(busybox losetup -a | sed -n "s,: 0 image$,,p")
busybox losetup -d $device
busybox losetup -o 1024 $device image
busybox losetup -a | sed "s,.*: ,,"
busybox losetup -d $device
""",
    ) == ["from outside", "1024 image"]


@pytest.fixture
def spare() -> Iterator[int]:
    """The number of a device of nobody's."""
    control, number = os.open("/dev/loop-control", os.O_RDWR), 3000 + os.getpid() % 1000
    try:
        try:
            fcntl.ioctl(control, COMMANDS["LOOP_CTL_ADD"], number)
        except OSError as error:
            pytest.skip(f"no device can be added: {error}")
        yield number
        eventually("the device removed", lambda: removed(control, number))
    finally:
        os.close(control)


def removed(control: int, number: int) -> bool:
    """Somebody may look at it yet."""
    try:
        fcntl.ioctl(control, COMMANDS["LOOP_CTL_REMOVE"], number)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


@pytest.mark.parametrize("width", [64, *([32] if platform.machine() == "x86_64" else [])])
def test_at_random_it_is_as_natively(top: bytes, spare: int, width: int) -> None:
    """What each call says, and what the device is then."""
    said = []
    for natively in (True, False):
        place = Path(os.fsdecode(top), "natively" if natively else "performed")
        place.mkdir()
        os.mknod(place / "loop", stat.S_IFBLK | 0o600, os.makedev(7, spare))
        for name, size in (("one", 65536), ("two", 65536), ("odd", 10000), ("empty", 0)):
            (place / name).write_bytes((name.encode() * size)[:size])
        for each in (place, *place.iterdir()):
            os.chown(each, *(0, 0) if natively else (100000, 100000))
        command = [PYTHON, "-I", str(PROGRAM), str(SEED), str(TRIES), str(place), str(width)]
        if natively:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=900,
            )  # fmt: skip
        else:
            opens = families.open(when={"path": str(place / "loop")}, loops=True)
            done = inside(command, [opens, *handlers()], timeout=900)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.splitlines())
    assert len(said[0]) >= TRIES
    wrong = [f"{one}\n{other}" for one, other in zip(*said, strict=False) if one != other]
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong[:30])
    assert len(said[0]) == len(said[1])


def test_as_many_as_the_rule_says(top: bytes, image: bytes) -> None:
    program = (
        LOOPS
        + """
held = []
for _ in range(3):
    loop = os.open(free(), os.O_RDWR)
    held.append(loop)
    tried(ioctl, loop, 0x4C0A, config(image, 4))
os.close(held[0])
def again():
    loop = os.open(free(), os.O_RDWR)
    return ioctl(loop, 0x4C0A, config(image, 4))
tried(again)
"""
    )
    assert told(program, top.decode(), handlers=handlers(most=2)) == [None, None, "EBUSY", None]


def test_those_that_are_being_bound_count_too() -> None:
    """Two threads that bind at the same time get no more than the rule says."""
    known = loops.Loops()
    one, other = object(), object()
    assert known.begin(one, 2) and known.begin(one, 2) and not known.begin(one, 2)
    assert known.begin(other, 1)
    known.end(one)
    assert known.begin(one, 2) and not known.begin(one, 2)


def test_what_is_bound_by_others_is_out_of_reach(top: bytes, image: bytes) -> None:
    """A device of the host's, bound to something else: it can be opened, and is empty; even where a container
    has a descriptor of it, it is not asked."""
    with loop_device(image) as (device, number):
        os.mknod(top + b"/own", stat.S_IFBLK | 0o600, number)
        os.chown(top + b"/own", 100000, 100000)
        program = (
            LOOPS
            + """
loop = os.open(sys.argv[2], os.O_RDWR)
tried(os.read, loop, 2)
tried(ioctl, loop, 0x4C05, bytes(232))
tried(ioctl, loop, 0x4C0A, config(image, 4))
tried(ioctl, loop, 0x4C00, image)
tried(mount, sys.argv[2].encode(), b"m", b"ext4")
"""
        )
        assert told(program, top.decode(), device, handlers=handlers()) == [
            "", "ENXIO", "EBUSY", "EBUSY", "EPERM",
        ]  # fmt: skip
        native = [families.loop()]
        program = (
            LOOPS
            + "loop = os.open(sys.argv[2], os.O_RDWR)\n"
            + "\n".join(
                f"tried(ioctl, loop, {command}, bytes(304))" for command in COMMANDS.values()
            )
        )
        results = told(program, top.decode(), "own", handlers=native)
        assert results == ["EPERM"] * len(COMMANDS)
        assert Path(f"/sys/block/{os.path.basename(device)}/loop/backing_file").exists()


def calls(performers: Performers, one: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def opened(path: bytes, flags: int = os.O_RDWR) -> Any:
        call = one.call("openat", -100, path, flags, 0)
        return performers.carry_out(call, proctor.Perform(None, "", open.Options(loops=True)))

    def asked(fd: int, command: int, argument: Any = 0) -> Any:
        call = one.call("ioctl", fd, command, argument)
        return performers.carry_out(call, proctor.Perform(None, "", loop.Options()))

    return opened, asked


def test_who_is_served(performers: Performers, top: bytes, image: bytes) -> None:
    def powerless() -> None:
        drop_capabilities(((1 << 41) - 1) & ~(1 << 21))

    for step, words in ((powerless, "no CAP_SYS_ADMIN"), (in_a_nested_namespace, "its own making")):
        with (
            stand_ins(loops.CONTROL, 0) as fds,
            caller(with_descriptors(container(top, step), *fds), MAP) as one,
        ):
            _, asked = calls(performers, one)
            for verdict in (asked(77, GET_FREE), asked(78, SET_FD, 77)):
                assert isinstance(verdict, Deny) and verdict.errno == errno.EPERM
                assert words in verdict.reason
    with caller(lambda: os.chdir(top), MAP) as one:  # in the host's mount namespace
        opened, asked = calls(performers, one)
        assert opened(b"/dev/loop-control")[0] == errno.EACCES
        assert isinstance(asked(0, GET_FREE), LetRun)


@contextmanager
def stand_ins(*numbers: int) -> Iterator[list[int]]:
    made = [loops.stand_in(number, os.O_RDWR) for number in numbers]
    try:
        yield made
    finally:
        for fd in made:
            os.close(fd)


def with_descriptors(then: Callable[[], None], *fds: int) -> Callable[[], None]:
    """Set up somebody who has these from 77 on."""

    def setup() -> None:
        for number, fd in enumerate(fds, 77):
            os.dup2(fd, number)
        then()

    return setup


def test_stand_ins_hold_nothing(performers: Performers, top: bytes) -> None:
    with caller(container(top), MAP) as one:
        opened, _ = calls(performers, one)
        for path in (b"/dev/loop-control", b"/dev/loop0"):
            verdict = opened(path, os.O_RDWR | os.O_CLOEXEC)
            assert isinstance(verdict, HandOver) and verdict.cloexec
            with pytest.raises(PermissionError):
                os.write(verdict.fd, b"x")
            with pytest.raises(PermissionError):
                os.truncate(verdict.fd, 4096)
            os.close(verdict.fd)
        assert opened(b"/dev/null")[0] not in (errno.EPERM,)
        assert opened(b"/dev/loop0", os.O_RDWR | os.O_CREAT | os.O_EXCL)[0] == errno.EEXIST
        assert opened(b"/dev/missing")[0] == errno.ENOENT
        assert opened(b"/dev/loop0", os.O_DIRECTORY)[0] == errno.ENOTDIR


def test_images_that_somebody_serves(performers: Performers, top: bytes) -> None:
    """A file system that does not answer would let the host's device hang: only those are taken that do."""
    name = b"/proctor-test-image"
    served = libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None)
    assert served >= 0 and libc.mq_unlink(name) == 0
    with (
        stand_ins(0) as (device,),
        caller(with_descriptors(container(top), device, served), MAP) as one,
    ):
        _, asked = calls(performers, one)
        verdict = asked(77, CONFIGURE, struct.pack("=iI", 78, 0) + bytes(296))
    os.close(served)
    assert isinstance(verdict, Deny) and verdict.errno == errno.EPERM
    assert "somebody serves" in verdict.reason


def test_options_say_what_is_wrong() -> None:
    for options, wrong in (
        (loop.Options, {"most": 0}), (loop.Options, {"most": "x"}), (open.Options, {"loops": 1}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"most|loops"):
            options(**wrong)
