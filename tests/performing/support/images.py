"""Images of file systems for tests that mount them, in a directory of a container's root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

from tests.performing.support.callers import MADE
from tests.support.kernel import RELEASE
from tests.support.processes import eventually

#: Whoever mounts is the host's root, with loop devices.
MOUNTS = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/loop-control") or not shutil.which("mkfs.ext4"),
    reason="mounting wants the host's root, loop devices and mkfs.ext4",
)

#: Mounts are performed since then (mount_setattr, by which their flags are given).
SINCE_5_12 = pytest.mark.skipif(RELEASE < (5, 12), reason="mounts are performed since Linux 5.12")


@pytest.fixture
def top(place: bytes) -> bytes:
    """A directory of the container's, with one to mount on."""
    os.mkdir(place + b"/m")
    os.chown(place + b"/m", 100000, 100000)
    return place


@pytest.fixture
def image(top: bytes) -> bytes:
    """An ext4 image of the container's, with a device node and a file of root's in it."""
    contents = top + b"/contents"
    os.mkdir(contents)
    os.mknod(contents + b"/null", 0o20666, os.makedev(1, 3))
    os.chmod(contents + b"/null", 0o666)
    Path(os.fsdecode(contents) + "/hello").write_text("from outside")
    path = top + b"/image"
    with open(path, "wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", contents, path], check=True)
    os.chown(path, 100000, 100000)
    return path


@pytest.fixture
def no_loop_device_is_left() -> Iterator[None]:
    """None is bound that was not before, to an image of a test's: not when whoever mounted is dead, too."""
    before = backed()
    yield
    eventually("loop devices let go of", lambda: backed() == before)


def backed() -> set[str]:
    """Backing files of this machine's loop devices that are of ours."""
    found = set()
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # let go of by somebody meanwhile
            found.add(path.read_text())
    return {each for each in found if any(place in each for place in MADE)}


@cache
def has(kind: str) -> bool:
    """Whether the kernel has that file system: also as a module, in a machine of ``make test-kernels``."""
    if "PROCTOR_TEST_MACHINE" in os.environ and shutil.which("modprobe"):
        subprocess.run(["modprobe", "-q", kind], check=False)
    with open("/proc/filesystems") as file:
        return kind in file.read().split()


@contextmanager
def loop_device(image: bytes) -> Iterator[tuple[str, int]]:
    """One of the host's, bound to an image."""
    done = subprocess.run(
        ["losetup", "-f", "--show", image], capture_output=True, text=True, check=True
    )
    device = done.stdout.strip()
    try:
        yield device, os.stat(device).st_rdev
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
