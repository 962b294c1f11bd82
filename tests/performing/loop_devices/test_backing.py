"""Files that no loop device of the host's may read from, since somebody could let that hang."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator

import pytest

from proctor import families
from proctor.performing.families.mount import Options
from tests.performing.families.test_open_differential import MAP
from tests.performing.mounts.test_mount import asked
from tests.performing.support.callers import Performers, caller
from tests.performing.support.containers import container, told
from tests.performing.support.images import MOUNTS, image, no_loop_device_is_left, top
from tests.support.stuck import without_flush

__all__ = ["image", "no_loop_device_is_left", "top"]
pytestmark = [MOUNTS, pytest.mark.usefixtures("no_loop_device_is_left")]

#: Prints what comes of mounting an image of a directory by each of three ways.
BOUND = """
import fcntl
def configured(path):
    control, image = os.open("/dev/loop-control", os.O_RDWR), os.open(path, os.O_RDWR)
    device = os.open("/dev/loop%d" % fcntl.ioctl(control, 0x4C82), os.O_RDWR)
    fcntl.ioctl(device, 0x4C00, image)
def created(path):
    def checked(number, *args):
        made = libc.syscall(number, *args)
        if made < 0:
            raise OSError(ctypes.get_errno(), "")
        return made
    context = checked(430, b"ext4", 0)
    checked(431, context, 1, b"source", path, 0)
    checked(431, context, 6, 0, 0, 0)
def bound(path):
    tried(mount, path, b"m", b"ext4")
    tried(created, path)
    tried(configured, path)
"""
HANDLERS = [
    families.open(when={"path": "/dev/loop*"}, loops=True),
    families.open(),
    families.loop(),
    families.mount(filesystems=["ext4"], images=True),
    families.fsmount(filesystems=["ext4"], images=True),
]


def test_an_image_that_somebody_serves_is_bound_to_no_device(
    performers: Performers, top: bytes
) -> None:
    """Whoever wants a device after that would wait for that server, too."""
    stuck = without_flush(top)
    late = threading.Timer(20, stuck.close)
    try:
        with caller(container(top), MAP) as one:
            late.start()
            options = Options(filesystems=["ext4"], images=True)
            verdict = asked(performers, one, b"mnt/file", b"m", b"ext4", 0, 0, options=options)
        assert verdict[0] == errno.EPERM and "somebody serves" in verdict.reason
        assert stuck.device >= 0
    finally:
        late.cancel()
        stuck.close()


@pytest.fixture
def layers(top: bytes, image: bytes) -> tuple[bytes, bytes]:
    """Where an overlay is to be, with an image in it; and its options."""
    for name in (b"/lower", b"/upper", b"/work", b"/over"):
        os.mkdir(top + name)
        os.chown(top + name, 100000, 100000)
    os.rename(image, top + b"/lower/image")
    words = b"lowerdir=%b/lower,upperdir=%b/upper,workdir=%b/work" % (top, top, top)
    return top + b"/over", words


def test_an_overlay_of_the_containers_own_is_bound_to_none(layers: tuple[bytes, bytes]) -> None:
    """It may lie on what the container serves."""
    where, words = layers
    program = BOUND + (
        "os.chdir(sys.argv[1])\nos.mkdir('m', 0o755) if not os.path.isdir('m') else 0\n"
        'tried(mount, b"overlay", b"over", b"overlay", 0, sys.argv[2].encode())\nbound(b"over/image")'
    )
    said = told(program, os.path.dirname(where).decode(), words.decode(), handlers=HANDLERS)
    if said[0] is not None:
        pytest.skip(f"a user namespace mounts no overlay here: {said[0]}")
    assert said[1:] == ["EPERM"] * 3


@pytest.fixture
def hosts(layers: tuple[bytes, bytes]) -> Iterator[bytes]:
    """An overlay of the host's."""
    where, words = layers
    subprocess.run(["mount", "-t", "overlay", "-o", words, "overlay", where], check=True)
    yield where
    subprocess.run(["umount", where], check=True)


def test_an_overlay_of_the_hosts_may_be(hosts: bytes) -> None:
    program = BOUND + 'os.chdir(sys.argv[1])\nbound(b"over/image")'
    said = told(program, os.path.dirname(hosts).decode(), handlers=HANDLERS)
    assert said == [None, None, None]
