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
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor import families
from proctor.performing import module_name
from proctor.performing.executing import programs
from proctor.performing.executing.programs import Done
from proctor.performing.families import modules
from proctor.performing.loop_devices import loops
from proctor.syscalls import tables
from proctor.syscalls.architectures import native
from tests.performing.families.test_modules import build, host
from tests.performing.families.test_modules import told as loaded
from tests.performing.support.callers import compiled
from tests.performing.support.containers import inside, told
from tests.performing.support.images import MOUNTS, no_loop_device_is_left

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


IMAGES = f"""
FINIT, INIT = {tables.number("finit_module", native())}, {tables.number("init_module", native())}
import threading
kind, tries = sys.argv[1], int(sys.argv[2])
images = [open(name, "rb").read() for name in sys.argv[3:5]]
size = len(images[0])
libc.mmap.restype = ctypes.c_void_p
area = libc.mmap(None, ctypes.c_size_t((size + 4095 & -4096) + 4096), 3, 0x22, -1, ctypes.c_long(0))
libc.mprotect(ctypes.c_void_p(area + (size + 4095 & -4096)), ctypes.c_size_t(4096), 0)
over = False
def exchange():
    turn = 0
    while not over:
        turn += 1
        put(images[turn & 1])
def put(image):
    if kind == "file":
        with open("changing", "r+b", buffering=0) as file:
            file.write(image)
    elif kind == "parameters":
        ctypes.memmove(parameters, (b"size=1\\0", b"evil=1\\0")[image is images[1]], 7)
    else:
        ctypes.memmove(area, image, size)
parameters = ctypes.create_string_buffer(b"size=1")
ctypes.memmove(area, images[0], size)
if kind == "file":
    with open("changing", "wb") as file:
        file.write(images[0])
given = os.open("changing", os.O_RDONLY) if kind == "file" else -1
def load(length):
    if kind == "file":
        return libc.syscall(FINIT, given, b"", 0)
    return libc.syscall(INIT, ctypes.c_void_p(area), ctypes.c_size_t(length), parameters)
thread = threading.Thread(target=exchange)
thread.start()
made = 0
for at in range(tries):
    made += not load(size - at % 3 * 64 if kind == "length" else size)
over = True
thread.join()
put(images[0])
made += not load(size)
for length in (size + 8192, 1 << 40, 1 << 63, (1 << 64) - 1, 63, 0):  # that lie
    load(length) if kind != "file" else 0
results.append(made)
"""


@pytest.fixture
def images(host: Path, place: bytes) -> list[Path]:
    """Two of one size that differ by the name that they say."""
    if not shutil.which("gcc"):
        pytest.skip("no compiler")
    top = Path(os.fsdecode(place))
    made = [top / f"{name}.ko" for name in ("allowed", "another")]
    for path in made:
        path.write_bytes(build(host, path.stem))
    assert len({path.stat().st_size for path in made}) == 1
    return made


def exchanged(kind: str, tries: int, images: list[Path]) -> int:
    handlers = [proctor.families.modules(modules=["allowed"], parameters=["allowed.size"])]
    made: int = told(
        IMAGES, kind, tries, *images, handlers=handlers, timeout=2900, cwd=str(images[0].parent)
    )[0]
    return made


KINDS = ["memory", "length", "file", "parameters"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_changes_loads_no_other_module(
    host: Path, images: list[Path], kind: str
) -> None:
    """Two processes for each that comes to something: a hundredth of the tries that others have."""
    made = exchanged(kind, max(TRIES // 100, 10), images)
    assert made > 0
    assert set(loaded(host)) <= {"-- allowed C 0", "-- allowed size=1 C 0"}
    assert len(loaded(host)) == made


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_read_once_is_what_is_loaded(
    images: list[Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as others try: what the two processes would do is done here, by the same code and from the same file."""
    asked = set()

    def run(
        task: object, words: Sequence[str], given: int = -1, **how: object
    ) -> Generator[Any, Any, Done]:
        yield from ()
        if words[0] == modules.MODPROBE:
            asked.add(tuple(words[2:]))
            return Done(0, b"")
        try:
            return Done(0, module_name.name_of(os.pread(given, module_name.LARGEST, 0)).encode())
        except ValueError as error:
            return Done(0, f" {error}".encode())

    monkeypatch.setattr(programs, "run", run)
    assert exchanged(kind, TRIES, images) > 0
    assert asked <= {("allowed",), ("allowed", "size=1")}


def test_a_monitor_that_reads_twice_is_beaten(
    images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the racers are for: an image whose name is read for the rule, and again for what is loaded."""
    asked = set()

    def run(
        task: object, words: Sequence[str], given: int = -1, **how: object
    ) -> Generator[Any, Any, Done]:
        yield from ()
        if words[0] == modules.MODPROBE:
            asked.add(module_name.name_of((images[0].parent / "changing").read_bytes()))
            return Done(0, b"")
        return Done(0, module_name.name_of(os.pread(given, module_name.LARGEST, 0)).encode())

    monkeypatch.setattr(programs, "run", run)
    exchanged("file", 2000, images)
    assert "another" in asked
