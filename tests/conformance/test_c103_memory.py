"""C103-C110: the target's memory."""

from __future__ import annotations

import errno
import mmap
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import bpf
from tests.support.constants import PR_SET_DUMPABLE
from tests.support.harness import Actor, Victim
from tests.support.kernel import ADDFD_SEND, CONTINUE, Kernel, errno_of
from tests.support.lab import Child, Lab, become_nobody

OPENAT = bpf.notify("openat")
AT_FDCWD = -100
PRIVATE_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE


def mem(lab: Lab, pid: int, flags: int = os.O_RDONLY) -> int:
    return lab.own(os.open(f"/proc/{pid}/mem", flags | os.O_CLOEXEC))


def page_before_a_hole(actor: Actor) -> int:
    """The address of the hole."""
    page = actor.must("mmap", 0, 2 * mmap.PAGESIZE, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0)
    actor.must("munmap", page + mmap.PAGESIZE, mmap.PAGESIZE)
    return page + mmap.PAGESIZE


def test_c103_a_hole_makes_it_shorter(lab: Lab, kernel: Kernel) -> None:
    victim = lab.victim()
    hole = page_before_a_hole(victim)
    victim.poke(hole - 6, b"at end")
    assert kernel.read_memory(victim.pid, hole - 6, 64) == b"at end"
    assert os.pread(mem(lab, victim.pid), 64, hole - 6) == b"at end"


def test_c104_nothing_is_readable(lab: Lab, kernel: Kernel) -> None:
    victim = lab.victim()
    hole = page_before_a_hole(victim)
    memory = mem(lab, victim.pid)
    for address in (hole, hole + 100, 0):
        assert errno_of(kernel.read_memory, victim.pid, address, 64) == errno.EFAULT
        assert errno_of(os.pread, memory, 64, address) == errno.EIO


def test_c105_a_dead_target(lab: Lab, kernel: Kernel) -> None:
    victim = lab.victim()
    address = victim.place(b"something")
    memory = mem(lab, victim.pid)
    assert os.pread(memory, 9, address) == b"something"
    for reap in (False, True):
        victim.kill(reap=reap)
        assert os.pread(memory, 9, address) == b""
        assert errno_of(kernel.read_memory, victim.pid, address, 9) == errno.ESRCH


def test_c106_an_open_mem_belongs_to_the_old_program(lab: Lab, kernel: Kernel) -> None:
    victim = lab.victim()
    memory = mem(lab, victim.pid)
    address = victim.marker
    assert os.pread(memory, 8, address) == kernel.read_memory(victim.pid, address, 8)
    victim.exec_finish(victim.exec())
    assert os.pread(memory, 8, address) == b""
    assert len(os.pread(mem(lab, victim.pid), 8, victim.marker)) == 8


def test_c107_an_ordinary_user_and_a_target_that_hides(
    lab: Lab, kernel: Kernel, victim_binary: int
) -> None:
    def monitor(_: Child) -> None:
        if os.geteuid() == 0:
            become_nobody()
        with Victim(binary=victim_binary) as victim:
            listener = victim.listen(bpf.notify("getppid"))
            address = victim.place(b"something")
            pending = victim.begin("getppid")
            notification = kernel.recv(listener)
            assert kernel.read_memory(victim.pid, address, 9) == b"something"
            with open(f"/proc/{victim.pid}/mem", "rb", buffering=0) as memory:
                assert os.pread(memory.fileno(), 9, address) == b"something"
            os.close(kernel.pidfd_getfd(victim.pidfd, 199))
            kernel.send(listener, notification.id, 1)
            assert pending.result() == (1, 0)

            victim.must("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
            pending = victim.begin("getppid")
            notification = kernel.recv(listener)
            hidden = errno_of(kernel.read_memory, victim.pid, address, 9)
            assert hidden == errno.EPERM or (kernel.name, hidden) == ("core", errno.EACCES)
            assert errno_of(os.open, f"/proc/{victim.pid}/mem", os.O_RDONLY) == errno.EACCES
            assert errno_of(kernel.pidfd_getfd, victim.pidfd, 199) == errno.EPERM
            assert errno_of(os.readlink, f"/proc/{victim.pid}/cwd") == errno.EACCES
            # What goes through the listener asks nobody.
            fd = kernel.addfd(listener, notification.id, victim_binary, ADDFD_SEND)
            assert pending.result() == (fd, 0)
            pending = victim.begin("getppid")
            kernel.send(listener, kernel.recv(listener).id, 2)
            assert pending.result() == (2, 0)
            os.close(listener)

    lab.child(monitor).result()


#: A function as machine code.
RETURNS_ONE = {
    "x86_64": "b801000000 c3",
    "aarch64": "20008052 c0035fd6",
    "riscv64": "13051000 67800000",
}


def test_c108_writing_read_only_text(lab: Lab) -> None:
    victim = lab.victim()
    assert victim.command("marker").result() == (0x2A2B2C2D, 0)
    memory = mem(lab, victim.pid, os.O_RDWR)
    try:
        os.pwrite(memory, bytes.fromhex(RETURNS_ONE[platform.machine()]), victim.marker)
    except OSError as error:
        assert error.errno == errno.EIO
        pytest.skip("this kernel forbids forced writes (PROC_MEM_FORCE_PTRACE or NO_FORCE)")
    assert victim.command("marker").result() == (1, 0)


def files(tmp_path: Path) -> tuple[bytes, bytes]:
    """Two paths of the same length, to files that contain "harmless" and "secret"."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"harmless")
    two.write_bytes(b"secret")
    return bytes(one), bytes(two)


def opened_after_swap(
    lab: Lab, kernel: Kernel, tmp_path: Path, swap: Callable[[Actor, int, bytes], None]
) -> bytes:
    """What an openat reads that is notified, has its path changed by ``swap``, and continues."""
    victim, listener = lab.listener(OPENAT)
    sibling = victim.thread()
    allowed, other = files(tmp_path)
    address = victim.string(allowed)
    pending = victim.begin("openat", AT_FDCWD, address, os.O_RDONLY, 0)
    notification = kernel.recv(listener)
    seen = kernel.read_memory(notification.pid, notification.args[1], len(allowed))
    assert seen == allowed
    assert kernel.id_valid(listener, notification.id)
    swap(sibling, address, other)
    assert kernel.id_valid(listener, notification.id), "nothing tells"
    kernel.send(listener, notification.id, flags=CONTINUE)
    fd, number = pending.result()
    assert number == 0
    buffer = victim.room(64)
    size = victim.must("read", fd, buffer, 64)
    return victim.peek(buffer, size)


def test_c109_a_rewritten_path_opens_the_other_file(
    lab: Lab, kernel: Kernel, tmp_path: Path
) -> None:
    def by_the_monitor(sibling: Actor, address: int, path: bytes) -> None:
        assert os.pwrite(mem(lab, sibling.tid, os.O_RDWR), path, address) == len(path)

    assert opened_after_swap(lab, kernel, tmp_path, by_the_monitor) == b"secret"


def test_c110_continue_is_no_policy(lab: Lab, kernel: Kernel, tmp_path: Path) -> None:
    def by_the_target(sibling: Actor, address: int, path: bytes) -> None:
        sibling.poke(address, path)

    assert opened_after_swap(lab, kernel, tmp_path, by_the_target) == b"secret"
