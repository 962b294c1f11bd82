"""Racers of what reaches the host's kernel as a whole: loop devices and modules.

PROCTOR_RACES says how many tries each has (make test-races).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import proctor
from proctor import families
from proctor.performing import loops
from proctor.syscalls import tables
from proctor.syscalls.architectures import native

from .callers import compiled
from .containers import inside, told
from .images import MOUNTS, no_loop_device_is_left
from .test_modules import build, host
from .test_modules import told as loaded

__all__ = ["host", "no_loop_device_is_left"]
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of other ids want the host's root"),
    pytest.mark.timeout(3000),
]
TRIES = int(os.environ.get("PROCTOR_RACES", "2000"))
GET_FREE, CONFIGURE = 0x4C82, 0x4C0A


@contextmanager
def somebody_else(image: Path) -> Iterator[list[int]]:
    """The host binds an image of its own to whatever is free, reads it, and lets go, again and again."""
    over = threading.Event()
    times = [0]
    control = os.open("/dev/loop-control", os.O_RDWR)
    source = os.open(image, os.O_RDWR)
    config = bytearray(struct.pack("=iI", source, 0) + bytes(296))
    struct.pack_into("=I", config, 60, 4)  # LO_FLAGS_AUTOCLEAR

    def bind() -> None:
        while not over.is_set():
            device = os.open(f"/dev/loop{fcntl.ioctl(control, GET_FREE)}", os.O_RDWR)
            try:
                fcntl.ioctl(device, CONFIGURE, bytes(config))
                assert os.pread(device, 6, 0) == b"SECRET"
                times[0] += 1
            except OSError:
                pass  # somebody was faster
            finally:
                os.close(device)

    thread = threading.Thread(target=bind)
    thread.start()
    try:
        yield times
    finally:
        over.set()
        thread.join()
        os.close(control)
        os.close(source)


def against_the_host(place: bytes, tries: int) -> tuple[subprocess.CompletedProcess[str], int]:
    """What becomes of a container that binds and reads, and how often the host bound its own."""
    top = Path(os.fsdecode(place))
    for name, text in (("image", b"OWN"), ("secret", b"SECRET")):
        (top / name).write_bytes(text.ljust(1 << 16, b"."))
    os.chown(top / "image", 100000, 100000)
    os.chmod(top / "secret", 0o600)
    handlers = [
        families.open(when={"path": "/dev/loop*"}, loops=True),
        families.open(),
        families.loop(most=64),
    ]
    with compiled("loop_racer") as program, somebody_else(top / "secret") as times:
        done = inside([program, str(tries), str(top / "image")], handlers, timeout=2900)
    assert (done.returncode, done.stderr) == (0, "")
    return done, times[0]


@MOUNTS
@pytest.mark.usefixtures("no_loop_device_is_left")
def test_no_other_image_is_seen(place: bytes) -> None:
    done, times = against_the_host(place, max(TRIES // 20, 20))
    assert "won" not in done.stdout
    made, seen = map(int, done.stdout.split()[1::2])
    assert made and seen and times


@MOUNTS
@pytest.mark.usefixtures("no_loop_device_is_left")
def test_a_monitor_that_hands_over_what_is_not_bound_is_beaten(
    place: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unbound(number: int, access: int) -> int:
        name = "/dev/loop-control" if number == loops.CONTROL else f"/dev/loop{number}"
        return os.open(name, access)

    monkeypatch.setattr(loops, "stand_in", unbound)
    done, _ = against_the_host(place, 1000)
    assert "won: another image" in done.stdout


EXCHANGED = f"""
LOAD = {tables.number("finit_module", native())}
import threading
own, other = (os.open(name, os.O_RDONLY) for name in sys.argv[1:3])
over = False
def exchange():
    turn = 0
    while not over:
        turn += 1
        os.dup2((own, other)[turn & 1], 100)
os.dup2(own, 100)
thread = threading.Thread(target=exchange)
thread.start()
made = 0
for _ in range(int(sys.argv[3])):
    made += not libc.syscall(LOAD, 100, b"", 0)
over = True
thread.join()
os.dup2(own, 100)
made += not libc.syscall(LOAD, 100, b"", 0)
results.append(made)
"""


def test_no_other_module_is_loaded(host: Path, place: bytes) -> None:
    if not shutil.which("gcc"):
        pytest.skip("no compiler")
    top = Path(os.fsdecode(place))
    for name in ("allowed", "other"):
        (top / f"{name}.ko").write_bytes(build(host, name))
    tries = max(TRIES // 100, 10)
    made = told(
        EXCHANGED, top / "allowed.ko", top / "other.ko", tries,
        handlers=[proctor.families.modules(modules=["allowed"])], timeout=2900,
    )[0]  # fmt: skip
    assert made > 0
    assert {line.split()[1] for line in loaded(host)} == {"allowed"}
    assert len(loaded(host)) == made
