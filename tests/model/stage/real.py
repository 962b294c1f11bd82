"""The real actors: compiled once, driven over pipes and shared memory, looked at through /proc."""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import shutil
import signal
import struct
import subprocess
import termios
from pathlib import Path

SOURCE = Path(__file__).with_name("actor.c")
BINARY = Path(__file__).parent / "build" / "actor"
FLAGS = ["-O2", "-Wall", "-Wextra", "-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector",
         "-fno-pie", "-no-pie"]  # fmt: skip

SLOTS = 16
SLOT_SIZE = 65536
SHARED = 0x100000000
SHARED_FD, PROGRAM_FD, FIRST_FD = 250, 251, 100
#: Where in a slot an order's data lies.
DATA = 8192
_ORDER = struct.Struct("=9Q")


def build() -> Path:
    """The actor, compiled if its source is newer.

    :raises FileNotFoundError: there is no C compiler.
    """
    if BINARY.exists() and BINARY.stat().st_mtime >= SOURCE.stat().st_mtime:
        return BINARY
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise FileNotFoundError("no C compiler (cc or gcc) to build the actor with")
    BINARY.parent.mkdir(exist_ok=True)
    made = BINARY.with_name(f"actor.{os.getpid()}")
    try:
        subprocess.run([compiler, *FLAGS, "-o", str(made), str(SOURCE)], check=True)
        made.replace(BINARY)
    finally:
        made.unlink(missing_ok=True)
    return BINARY


def slot_address(slot: int) -> int:
    """Where a slot lies in every actor's memory."""
    return SHARED + slot * SLOT_SIZE


class Real:
    """Memory, pipes, and the first actor."""

    def __init__(self) -> None:
        program = os.open(build(), os.O_RDONLY | os.O_CLOEXEC)
        memory = os.memfd_create("stage", os.MFD_CLOEXEC)
        os.ftruncate(memory, SLOTS * SLOT_SIZE)
        self.memory = mmap.mmap(memory, SLOTS * SLOT_SIZE)
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(SLOTS)]
        self.readers = [reader for reader, _ in pipes]
        self.writers = [writer for _, writer in pipes]
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        wanted = {0: null, 1: null, 2: null, SHARED_FD: memory, PROGRAM_FD: program}
        wanted |= {FIRST_FD + slot: reader for slot, reader in enumerate(self.readers)}
        # Copies above all wanted numbers first, so that none is overwritten before it is copied.
        high = {
            number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 300) for number, fd in wanted.items()
        }
        self.pid = os.posix_spawn(
            BINARY,
            ["actor", "a"],
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in high.items()],
            setsigmask=(),
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT],
        )
        for fd in (*high.values(), program, memory, null):
            os.close(fd)

    def close(self) -> None:
        """Give everything back; the actors are somebody else's to end."""
        self.memory.close()
        for fd in (*self.readers, *self.writers):
            os.close(fd)

    def clear(self, slot: int) -> None:
        """A slot begins anew: nothing ordered, nothing in its pipe."""
        self.memory[slot * SLOT_SIZE : slot * SLOT_SIZE + 96] = bytes(96)
        waiting = array.array("i", [0])
        fcntl.ioctl(self.readers[slot], termios.FIONREAD, waiting)
        if waiting[0]:
            os.read(self.readers[slot], waiting[0])

    def order(self, slot: int, nr: int, args: tuple[int, ...], newborn: int) -> None:
        """Have a slot's actor make a call."""
        raw = _ORDER.pack(1, nr & (1 << 64) - 1, *args, newborn)
        self.memory[slot * SLOT_SIZE : slot * SLOT_SIZE + len(raw)] = raw
        os.write(self.writers[slot], b".")

    def word(self, slot: int, index: int) -> int:
        """One word of a slot's head: 9 orders done, 10 the last result, 11 page, 12 stacks."""
        at = slot * SLOT_SIZE + index * 8
        return int.from_bytes(self.memory[at : at + 8], "little")

    def read(self, slot: int, size: int, at: int = DATA) -> bytes:
        """Bytes of a slot's data."""
        return self.memory[slot * SLOT_SIZE + at : slot * SLOT_SIZE + at + size]

    def write(self, slot: int, data: bytes, at: int = DATA) -> None:
        """Put data where an order's pointer goes."""
        self.memory[slot * SLOT_SIZE + at : slot * SLOT_SIZE + at + len(data)] = data


def _proc(pid: int, tid: int, name: str) -> str:
    try:
        with open(f"/proc/{pid}/task/{tid}/{name}", "rb", buffering=0) as file:
            return (file.read(8192) or b"").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def letter(pid: int, tid: int) -> str:
    """Its state; "" if there is no such thread."""
    line = _proc(pid, tid, "stat")
    return line[line.rindex(")") + 2] if line else ""


def call_of(pid: int, tid: int) -> tuple[int, ...]:
    """The number and six arguments of the call it is in; (-1,) outside; () while it runs."""
    words = _proc(pid, tid, "syscall").split()
    if not words or words[0] == "running":
        return ()
    nr = int(words[0])
    return (nr,) if nr < 0 else (nr, *(int(word, 16) for word in words[1:7]))


def status(pid: int, tid: int) -> dict[str, str]:
    """/proc's status."""
    lines = (line.split(":\t", 1) for line in _proc(pid, tid, "status").splitlines())
    return {pair[0]: pair[1] for pair in lines if len(pair) == 2}


def threads(pid: int) -> set[int]:
    """The threads of a process."""
    try:
        return {int(name) for name in os.listdir(f"/proc/{pid}/task")}
    except FileNotFoundError:
        return set()


def children(pid: int, tid: int) -> set[int]:
    """The children a thread has."""
    return {int(word) for word in _proc(pid, tid, "children").split()}
