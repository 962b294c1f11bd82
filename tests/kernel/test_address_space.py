"""What the mappings of a caller allow: the kernel's own copying is the judge.

The kernel copies from our pages by write(2) to a memfd, and to them by read(2) from one: it says how
far it came, and so must the monitor.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import signal
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proctor.errors import CallerInvisible, CallGone, MemoryUnreadable, MemoryUnwritable
from proctor.kernel import address_space
from proctor.kernel.address_space import Mapping, mappings
from proctor.kernel.launch import launch
from proctor.kernel.listener import Listener
from proctor.kernel.memory import Memory

from .conftest import notify

PAGE = mmap.PAGESIZE
#: On both sides of what is mapped: no offset of a test gets past it, into memory of somebody else's.
GUARD = 8 * PAGE
NONE, READ, WRITE = 0, mmap.PROT_READ, mmap.PROT_WRITE
#: What may only be executed: whether that can be read is known of x86 and riscv, not of arm64.
EXECUTE = NONE if platform.machine() == "aarch64" else mmap.PROT_EXEC
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
for copy in (LIBC.read, LIBC.write):
    copy.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    copy.restype = ctypes.c_ssize_t


@contextlib.contextmanager
def mapped(*protections: int, content: bytes = b"", size: int | None = None) -> Iterator[int]:
    """Pages of ours with these protections, in a row; around them nothing is mapped.

    :param size: they show a file of that many bytes."""
    whole = len(protections) * PAGE
    fd = -1
    if size is not None:
        fd = os.memfd_create("pages")
        os.truncate(fd, size)
    start = LIBC.mmap(None, whole + 2 * GUARD, NONE, ANONYMOUS, -1, 0) + GUARD
    kind = (mmap.MAP_SHARED if fd >= 0 else ANONYMOUS) | 0x10  # MAP_FIXED
    assert LIBC.mmap(start, whole, READ | WRITE, kind, fd, 0) == start
    ctypes.memmove(start, content, len(content))
    for number, protection in enumerate(protections):
        assert LIBC.mprotect(start + number * PAGE, PAGE, protection) == 0
    try:
        yield start
    finally:
        unmap(start - GUARD, whole + 2 * GUARD)
        if fd >= 0:
            os.close(fd)


def unmap(address: int, size: int) -> None:
    assert LIBC.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size)) == 0


def kernel_reads(address: int, size: int) -> bytes:
    """What the kernel copies from there."""
    fd = os.memfd_create("sink")
    try:
        got = LIBC.write(fd, address, size)
        assert got >= 0 or ctypes.get_errno() == errno.EFAULT
        return os.pread(fd, max(got, 0), 0)
    finally:
        os.close(fd)


def kernel_writes(address: int, data: bytes) -> int:
    """How many bytes the kernel copies there."""
    fd = os.memfd_create("source")
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        got = LIBC.read(fd, address, len(data))
        assert got >= 0 or ctypes.get_errno() == errno.EFAULT
        return max(int(got), 0)
    finally:
        os.close(fd)


def contents(start: int, pages: int) -> bytes:
    """What is in memory, whatever its protection."""
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        return os.pread(memory.fileno(), pages * PAGE, start)


@pytest.fixture(params=["asked", "listed"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mappings as PROCMAP_QUERY says them, and as the text does."""
    with open("/proc/self/maps", "rb") as maps:
        can = address_space._can_query(maps.fileno())
    if request.param == "asked" and not can:
        pytest.skip("no PROCMAP_QUERY: Linux 6.11 has it")
    monkeypatch.setattr(address_space, "_can_query", lambda _: request.param == "asked")


@pytest.fixture
def memory() -> Memory:
    """Ours."""
    return Memory(os.getpid())


def test_mappings_up_to_a_gap(memory: Memory) -> None:
    with mapped(READ, WRITE, READ | WRITE) as start, open("/proc/self/maps", "rb") as maps:
        fd = maps.fileno()
        found = [
            Mapping(start, start + PAGE, True, False, False),
            Mapping(start + PAGE, start + 2 * PAGE, False, True, False),
            Mapping(start + 2 * PAGE, start + 3 * PAGE, True, True, False),
        ]
        seen = list(mappings(fd, start + 5, start + 3 * PAGE))
        assert seen == found
        assert list(mappings(fd, start + PAGE + 1, start + PAGE + 2)) == found[1:2]
        assert list(mappings(fd, 1, 1 << 62)) == []
        assert list(mappings(fd, 1 << 63, 1 << 64)) == []
    whole = LIBC.mmap(None, 3 * PAGE, READ, ANONYMOUS, -1, 0)
    unmap(whole + PAGE, PAGE)  # and never again: it may be somebody else's then
    with open("/proc/self/maps", "rb") as maps:
        found = list(mappings(maps.fileno(), whole, whole + 3 * PAGE))
    unmap(whole, PAGE)
    unmap(whole + 2 * PAGE, PAGE)
    assert [each.end for each in found] == [whole + PAGE]


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([NONE, READ, WRITE, READ | WRITE, EXECUTE, WRITE | EXECUTE]),
        min_size=1,
        max_size=4,
    ),
    st.integers(-9, 4 * PAGE),
    st.integers(1, 4 * PAGE),
)
def test_as_much_is_read_and_written_as_the_kernel_does(
    protections: list[int], offset: int, size: int
) -> None:
    memory = Memory(os.getpid())
    content = bytes(n % 251 for n in range(len(protections) * PAGE))
    data = bytes(255 - n % 7 for n in range(size))
    with mapped(*protections, content=content) as start:
        read = kernel_reads(start + offset, size)
        try:
            assert memory.read_some(start + offset, size) == read
        except MemoryUnreadable as problem:
            assert problem.errno == errno.EFAULT
            assert read == b""
        if len(read) < size:
            with pytest.raises(MemoryUnreadable):
                memory.read(start + offset, size)
        written = kernel_writes(start + offset, data)
        after = contents(start, len(protections))
    with mapped(*protections, content=content) as start:
        try:
            memory.write(start + offset, data)
        except MemoryUnwritable as problem:
            assert problem.errno == errno.EFAULT
            assert problem.address == start + offset + written
        else:
            assert written == size
        assert contents(start, len(protections)) == after


@pytest.mark.parametrize("protection", [WRITE, READ, READ | WRITE])
def test_a_string_is_read_where_the_kernel_reads_it(memory: Memory, protection: int) -> None:
    content = b"x" * (PAGE - 4) + b"/dev/null\0"
    with mapped(protection, WRITE, content=content) as start:
        assert memory.string(start + PAGE - 4) == b"/dev/null"
        assert memory.string(start, 3 * PAGE) == content[:-1]
        with pytest.raises(MemoryUnreadable) as caught:
            memory.string(start, PAGE)
        assert caught.value.errno == errno.ENAMETOOLONG
    with mapped(NONE, content=content[:PAGE]) as start:
        with pytest.raises(MemoryUnreadable) as caught:
            memory.string(start)
        assert caught.value.errno == errno.EFAULT
    with mapped(WRITE, NONE, content=b"x" * PAGE) as start:
        with pytest.raises(MemoryUnreadable) as caught:
            memory.string(start + 1)
        assert caught.value.errno == errno.EFAULT


def test_arrays_in_memory_that_is_only_writable(memory: Memory) -> None:
    with mapped(WRITE) as start:
        memory.write(start, b"".join(n.to_bytes(8, "little") for n in (start + 64, 0)))
        memory.write(start + 64, b"one\0")
        assert memory.strings(start) == [b"one"]
        assert memory.iovec(start, 1) == [(start + 64, 0)]


def test_a_file_that_ends_in_the_mapping(memory: Memory) -> None:
    with mapped(WRITE, WRITE, size=10) as start:
        assert memory.read_some(start, 2 * PAGE) == bytes(PAGE)
        with pytest.raises(MemoryUnwritable) as caught:
            memory.write(start + PAGE - 3, b"abcdef")
        assert caught.value.address == start + PAGE
        assert contents(start, 1)[-3:] == b"abc"


def test_read_only_pages_stay_as_they_are(memory: Memory) -> None:
    text = ctypes.cast(LIBC.getpid, ctypes.c_void_p).value
    assert text is not None
    before = memory.read(text, 16)
    with pytest.raises(MemoryUnwritable):
        memory.write(text, b"\xcc" * 16)
    assert memory.read(text, 16) == before


@pytest.mark.parametrize(
    "address", [0, -1, PAGE - 1, 1 << 47, (1 << 63) - 8, 1 << 63, (1 << 64) - 1, 1 << 70]
)
def test_impossible_addresses(memory: Memory, address: int) -> None:
    with pytest.raises(MemoryUnwritable) as caught:
        memory.write(address, b"12345678")
    assert caught.value.errno == errno.EFAULT
    assert caught.value.address == address
    memory.write(address, b"")  # copy_to_user of nothing succeeds anywhere


def test_nothing_is_written_to_who_was_answered_or_is_dead(subject: str) -> None:
    """Nor is it to a thread that got the number: the notification is what counts."""
    target = launch([subject, "call", "2"], program=notify(4242), fds=[(2, 1)])
    with target, Listener(target.take_listener()) as listener:
        first = listener.recv()
        assert first is not None
        memory = Memory(first.pid, listener, first.id)
        address = first.args[2]  # its stack
        kept = memory.read(address, 8)
        memory.write(address, b"01234567")
        assert memory.read(address, 8) == b"01234567"
        memory.write(address, kept)
        listener.send(first.id, 0, -1, 0)
        for late in (lambda: memory.write(address, b"!"), lambda: memory.write(1, b"!")):
            with pytest.raises(CallGone):
                late()
        second = listener.recv()
        assert second is not None
        assert Memory(second.pid, listener, second.id).read(address, 8) == kept
        target.kill()
        assert target.wait(30) == -signal.SIGKILL
        with pytest.raises(CallGone) as caught:
            Memory(second.pid, listener, second.id).write(address, b"!")
        assert caught.value.pid == second.pid


def test_an_address_space_that_is_no_more() -> None:
    """What was opened while it lived is not somebody else's afterwards."""
    with mapped(READ | WRITE) as start:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        with address_space.AddressSpace(child, write=True) as space:
            assert space.write(start, b"x") == 1
            os.close(writer)
            os.close(reader)
            os.waitpid(child, 0)
            for use in (lambda: space.write(start, b"x"), lambda: space.read(start, 1)):
                with pytest.raises(ProcessLookupError):
                    use()


def test_caller_out_of_sight() -> None:
    with pytest.raises(CallerInvisible):
        Memory(0).write(1, b"x")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
def test_who_may_not_be_looked_at_is_not_written_to() -> None:
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.setresuid(65534, 65534, 65534)
            try:
                Memory(os.getppid()).write(1, b"x")
            except MemoryUnwritable as problem:
                os._exit(problem.errno or 0)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EPERM
