"""What was mounted for a container stays the container's to remount, whichever monitor mounted it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

import proctor
from proctor.agent.keeping import MOUNTS as MOUNTED
from proctor.agent.keeping import Item
from proctor.agent.kept import Keeps
from proctor.agent.policies import Book
from proctor.kernel import scm
from proctor.kernel.mounts import Mounts
from tests.performing.support.containers import PYTHON
from tests.support.kernel import RELEASE

from .clients import connect, state
from .running import RunningAgent, eventually

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        RELEASE < (6, 8)
        or not os.path.exists("/dev/loop-control")
        or not shutil.which("mkfs.ext4"),
        reason="wants mounts that are numbered for good, loop devices and mkfs.ext4",
    ),
]
Start = Callable[..., RunningAgent]

MOUNTS: Final = """
default = "allow"
[[rule]]
name = "images"
calls = ["mount"]
perform = { filesystems = ["ext4"], images = true }
"""
#: Mounts as it is told, and says with which errno.
PROGRAM: Final = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
print(os.getpid(), flush=True)
for line in sys.stdin:
    source, target, kind, flags = [None if word == "-" else word.encode() for word in line.split()]
    failed = libc.mount(source, target, kind, ctypes.c_ulong(int(flags)), None)
    print(ctypes.get_errno() if failed else 0, flush=True)
"""
RDONLY, REMOUNT = 1, 32
EPERM, EINVAL, EACCES = 1, 22, 13


class Mounting:
    """Root of a container, that an agent serves.

    :param fd: what it has open as its descriptor 5."""

    def __init__(self, running: RunningAgent, id: str, fd: int = -1) -> None:
        told, self._commands = os.pipe2(os.O_CLOEXEC)
        self._said, says = os.pipe2(os.O_CLOEXEC)
        rule = proctor.Rule(["mount"], proctor.actions.NOTIFY)
        try:
            self.target = proctor.launch(
                [PYTHON, "-ISc", PROGRAM],
                program=proctor.Filter([rule]).compile().code,
                fds=[(told, 0), (says, 1), (2, 2), *([(fd, 5)] if fd >= 0 else [])],
                namespaces=["user", "mnt", "pid"],
                uid_map=[(0, 100000, 65536)],
                gid_map=[(0, 100000, 65536)],
            )
        finally:
            os.close(told)
            os.close(says)
        self.said = open(self._said)  # noqa: SIM115
        listener = self.target.take_listener()
        pid = self.target.pid
        about = {"ociVersion": "1.2.0", "id": id, "status": "creating", "pid": pid}
        with connect(running.socket) as sock:
            scm.send(sock, state(id, pid=pid, state=about), [listener])
        os.close(listener)
        self.said.readline()

    def mount(self, source: object, target: object, kind: str, flags: int = 0) -> int:
        """The errno of mount(2), or 0."""
        os.write(self._commands, f"{source} {target} {kind} {flags}\n".encode())
        return int(self.said.readline())

    def superblock(self, target: Path) -> str:
        """Whether what is mounted there is ``ro`` or ``rw`` for all."""
        with open(f"/proc/{self.target.pid}/mountinfo") as file:
            (line,) = [line for line in file if f" {target} " in line]
        return line.split()[-1].split(",")[0]

    def end(self) -> None:
        """Have it end."""
        self.target.kill()
        self.target.wait(20)

    def close(self) -> None:
        os.close(self._commands)
        self.said.close()
        self.end()
        self.target.close()


@pytest.fixture
def mounting() -> Iterator[Callable[..., Mounting]]:
    """Starts containers that mount."""
    made: list[Mounting] = []

    def start(running: RunningAgent, id: str, fd: int = -1) -> Mounting:
        made.append(Mounting(running, id, fd))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def running(agent: Start, place: Path) -> RunningAgent:
    (place / "policies/default.toml").write_text(MOUNTS)
    for name in ("image", "given", "theirs"):
        path = place / name
        with open(path, "wb") as file:
            file.truncate(4 << 20)
        subprocess.run(["mkfs.ext4", "-q", path], check=True)
        os.chown(path, 100000, 100000)
        os.mkdir(place / f"m-{name}")
    return agent()


def killed(running: RunningAgent) -> None:
    os.kill(running.serving, signal.SIGKILL)


def upgraded(running: RunningAgent) -> None:
    command = [sys.executable, "-m", "proctor", "agent", "--upgrade", "--control"]
    subprocess.run([*command, running.control], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("goes", [killed, upgraded])
def test_what_was_mounted_is_remounted_by_the_next_monitor(
    running: RunningAgent,
    place: Path,
    mounting: Callable[..., Mounting],
    goes: Callable[[RunningAgent], None],
) -> None:
    one = mounting(running, "one")
    image, given, theirs = (place / f"m-{name}" for name in ("image", "given", "theirs"))
    assert one.mount(place / "image", image, "ext4") == 0
    assert one.mount(place / "given", given, "ext4", RDONLY) == 0
    own = ["nsenter", "-t", str(one.target.pid), "-m", "mount", "-o", "loop,nodev"]
    subprocess.run([*own, place / "theirs", theirs], check=True)
    for times in (1, 2):
        goes(running)
        running.heard("took over", times)
        fd = os.open(f"/proc/{one.target.pid}/root{image}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            other = mounting(running, f"other {times}", fd)
        finally:
            os.close(fd)
        assert other.mount("-", "/proc/self/fd/5", "-", REMOUNT | RDONLY) == EINVAL
        assert one.superblock(image) == "rw"
        assert one.mount("-", theirs, "-", REMOUNT | RDONLY) == EPERM
        assert one.superblock(theirs) == "rw"
        assert one.mount("-", given, "-", REMOUNT) == EACCES
        assert one.mount("-", image, "-", REMOUNT | RDONLY) == 0
        assert one.superblock(image) == "ro"
        assert one.mount("-", image, "-", REMOUNT) == 0
        assert one.superblock(image) == "rw"


def known(running: RunningAgent) -> int:
    """Of how many containers it has mounts, by what its keeper has."""
    for fd in Path(f"/proc/{running.process.pid}/fd").iterdir():
        if os.readlink(fd).startswith("/memfd:proctor-mounts"):
            table = Mounts(os.open(fd, os.O_RDWR | os.O_CLOEXEC))
            table.close()
            return len(table._places)
    raise AssertionError("nobody keeps it")


@pytest.mark.parametrize("over", ["while it is served", "while nobody serves"])
def test_what_was_mounted_for_a_container_that_is_over_is_forgotten(
    running: RunningAgent, place: Path, mounting: Callable[..., Mounting], over: str
) -> None:
    """Also by a monitor that performed nothing for it."""
    one = mounting(running, "one")
    assert one.mount(place / "image", place / "m-image", "ext4") == 0
    assert known(running) == 1
    if over == "while it is served":
        killed(running)
        running.heard("took over")
        assert known(running) == 1
        one.end()
    else:
        serving = running.serving
        running.process.send_signal(signal.SIGSTOP)  # the keeper
        try:
            os.kill(serving, signal.SIGKILL)
            one.end()
        finally:
            running.process.send_signal(signal.SIGCONT)
        running.heard("took over")
    eventually(lambda: known(running) == 0)


#: A monitor that is given what was mounted for a container which nobody brings any more, as systemd drops who hangs up.
GONE: Final = """
import os, signal, sys
from proctor import Container
from proctor.agent import serve
from proctor.agent.keeping import Item
from proctor.agent.settings import Place, Settings
from proctor.kernel.mounts import Mounts
gone = Container("gone")
gone.lasting = bytes(15) + b"1"
table = Mounts.create()
table.add(gone, 1 << 31, True)
class Keeper:
    leaves = False
    def first(self): return False
    def take_over(self): return [Item("mounts", (os.dup(table.fd),))]
    def keep(self, name, fds): name == "mounts" and print("another")
    def forget(self, name): pass
    def renew(self): pass
    def serves(self):
        print(Mounts(os.dup(table.fd)).writable(gone, 1 << 31))
        os.kill(os.getpid(), signal.SIGTERM)
place = Place(sys.argv[1] + "/oci.sock", frozenset({os.geteuid()}))
print(Mounts(os.dup(table.fd)).writable(gone, 1 << 31))
serve.run(Settings(sys.argv[1], oci=[place]), keeper=Keeper())
"""


def test_of_a_container_that_nobody_brings_any_more_too(tmp_path: Path) -> None:
    (tmp_path / "default.toml").write_text('default = "allow"\n')
    words = [sys.executable, "-c", GONE, str(tmp_path)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["True", "None"]


class _Told(Keeps):
    """What keeps, and tells what is kept and let go."""

    def __init__(self) -> None:
        self.told: list[str] = []
        super().__init__(self, Book(""))  # type: ignore[arg-type]

    def keep(self, name: str, fds: Sequence[int]) -> None:
        self.told.append(f"keeps {name}")

    def forget(self, name: str) -> None:
        self.told.append(f"lets go of {name}")

    def trouble(self, text: str) -> None:
        self.told.append(text)


def test_what_is_no_table_of_mounts_is_let_go() -> None:
    """Another one takes its place; one that is such a table stays."""
    agent = _Told()
    other = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    table = agent.mounts_in(Item(MOUNTED, (other,)))
    assert table is not None and agent.told == [
        f"what was mounted for containers is not known any more: descriptor {other} is no table of mounts",
        "lets go of mounts", "keeps mounts",
    ]  # fmt: skip
    again = agent.mounts_in(Item(MOUNTED, (os.dup(table.fd),)))
    assert again is not None and len(agent.told) == 3
    table.close()
    again.close()
