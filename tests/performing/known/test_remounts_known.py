"""Remounts whose monitor is killed in the middle: superblock and mount are changed one after the other, and the next monitor does all
of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import proctor
from proctor.kernel.journal import Journal
from proctor.kernel.mounts import Mounts
from proctor.kernel.progress import Progress
from tests.performing.support.images import MOUNTS, image, no_loop_device_is_left, top
from tests.support.kernel import RELEASE

__all__ = ["image", "no_loop_device_is_left", "top"]
pytestmark = [
    MOUNTS,
    pytest.mark.skipif(RELEASE < (6, 8), reason="this kernel does not number mounts for good"),
    pytest.mark.usefixtures("no_loop_device_is_left"),
]
MONITOR = """
import os, signal, sys
import proctor
from proctor.kernel.journal import Journal
from proctor.kernel.mounts import Mounts
from proctor.kernel.progress import Progress
from proctor.performing import Performers
from proctor.performing.mounts import mounter, placing
from proctor.performing.families.mount import Options

listener, journal, table, mounts, point = *map(int, sys.argv[1:5]), sys.argv[5]

def dies(*_):
    os.write(1, b"dies\\n")
    os.kill(os.getpid(), signal.SIGKILL)

reconfigure, change = mounter.reconfigure, placing.change
def reconfigures(*args):
    if point == "before": dies()
    made = yield from reconfigure(*args)
    if point == "between": dies()
    return made
def changes(*args):
    made = yield from change(*args)
    if point == "after": dies()
    return made
mounter.reconfigure, placing.change = reconfigures, changes

performers = Performers(nested="allow")
performers.kept["mount"] = Mounts(mounts)
kept = Journal(journal)
if table >= 0:
    kept.progress = performers.executors.progress = Progress(table)
wish = proctor.perform(options=Options(filesystems=["ext4"], images=True))
supervisor = proctor.Supervisor([proctor.Handler(["mount"], lambda call: wish)], performer=performers)
container = proctor.Container("one")
container.lasting = b"of this container"[:16]
supervisor.add(proctor.Listener(listener), container, journal=kept)
supervisor.start()
signal.pause()
"""
TARGET = """
import ctypes, os, sys
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def mount(source, kind, flags, data=None):
    failed = libc.mount(source, b"m", kind, ctypes.c_ulong(flags), data)
    return ctypes.get_errno() if failed else 0
said = [mount(b"image", b"ext4", 0), mount(None, None, 32 | 1 | 8, b"commit=9")]
with open("/proc/self/mountinfo") as file:
    (line,) = (line.split() for line in file if sys.argv[1] + "/m " in line)
told = said, line[5].split(",")[0], "noexec" in line[5], line[-1].split(",")[0], "commit=9" in line[-1]
os.write(1, " ".join(map(str, told)).encode())
"""


@pytest.fixture
def opened() -> Iterator[list[int]]:
    """Descriptors that are closed in the end."""
    made: list[int] = []
    yield made
    for each in made:
        os.close(each)


@pytest.mark.parametrize(
    ("point", "noted", "known"),
    [
        ("before", True, True), ("between", True, True), ("after", True, True), ("between", False, True),
        ("between", True, False), ("after", False, False),
    ],
)  # fmt: skip
def test_a_remount_is_whole_wherever_its_monitor_dies(
    top: bytes, image: bytes, opened: list[int], point: str, noted: bool, known: bool
) -> None:
    """Where the next monitor knows what was mounted; else it says that it knows nothing."""
    program = proctor.Filter([proctor.Rule(["mount"], proctor.actions.NOTIFY)]).compile().code
    os.chown(image, 0, 0)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    target = proctor.launch(
        [sys.executable, "-c", TARGET, os.fsdecode(top)], program=program, fds=[(writer, 1)],
        namespaces=["user", "mnt"],
    )  # fmt: skip
    os.close(writer)
    listener, journal = target.take_listener(), Journal.create(16)
    opened += [reader, listener]
    table, mounts = Progress.create(), Mounts.create()
    try:
        place = table.fd if noted else -1
        for each in (point, "lives"):
            fds = [listener, journal.fileno(), place, mounts.fd]
            if not known and each == "lives":
                fds[3] = -1
            words = [sys.executable, "-c", MONITOR, *map(str, fds), each]
            with subprocess.Popen(
                words, pass_fds=[fd for fd in fds if fd >= 0], stdout=subprocess.PIPE, text=True
            ) as made:
                try:
                    if each == "lives":
                        said = os.read(reader, 4096).decode()
                    else:
                        assert made.wait(60) == -9
                finally:
                    made.kill()
        whole = "ro True ro True"
        half = "rw False ro True" if point == "between" else whole
        assert said == (f"[0, 0] {whole}" if known else f"[0, 4] {half}")
        assert target.wait(30) == 0
    finally:
        target.kill()
        target.close()
        for one in (journal, table, mounts):
            one.close()
