"""Reading a caller's memory: what exists is read, once, and nothing more is believed or touched.

Most tests read their own process: for process_vm_readv(2) it is as good as any other.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import struct
from collections.abc import Callable, Iterator

import pytest

from proctor.errors import CallerInvisible, CallGone, MemoryUnreadable
from proctor.kernel.launch import launch
from proctor.kernel.listener import Listener
from proctor.kernel.memory import READ_MAX, Memory

from .conftest import notify

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

Monitor = Callable[..., str]


class Pages:
    """Three mapped pages of ours; before and after them nothing is mapped."""

    size = 3 * PAGE

    def __init__(self) -> None:
        whole = LIBC.mmap(None, 5 * PAGE, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        LIBC.munmap(whole, PAGE)
        LIBC.munmap(whole + 4 * PAGE, PAGE)
        self.start = whole + PAGE
        self.end = whole + 4 * PAGE

    def put(self, address: int, data: bytes) -> int:
        assert self.start <= address
        assert address + len(data) <= self.end
        ctypes.memmove(address, data, len(data))
        return address

    def resident(self, address: int) -> bool:
        """Whether the page was ever touched (bit 63 of its word in pagemap)."""
        with open("/proc/self/pagemap", "rb") as file:
            file.seek(address // PAGE * 8)
            return bool(struct.unpack("=Q", file.read(8))[0] >> 63)


@pytest.fixture
def pages() -> Iterator[Pages]:
    made = Pages()
    yield made
    LIBC.munmap(made.start, made.size)


@pytest.fixture
def memory() -> Memory:
    """Ours."""
    return Memory(os.getpid())


@contextlib.contextmanager
def refused(number: int) -> Iterator[pytest.ExceptionInfo[MemoryUnreadable]]:
    """MemoryUnreadable with this errno."""
    with pytest.raises(MemoryUnreadable) as caught:
        yield caught
    assert caught.value.errno == number


# Strings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 100, PAGE - 1, PAGE, PAGE + 5, 2 * PAGE])
@pytest.mark.parametrize("room", [0, 1, 17])
def test_string_before_an_unmapped_page(
    pages: Pages, memory: Memory, length: int, room: int
) -> None:
    text = bytes(1 + n % 255 for n in range(length))
    address = pages.put(pages.end - length - 1 - room, text + b"\0")
    assert memory.string(address, 3 * PAGE) == text


def test_string_without_an_end(pages: Pages, memory: Memory) -> None:
    address = pages.put(pages.end - 10, b"x" * 10)
    with refused(errno.EFAULT):
        memory.string(address)
    with refused(errno.ENAMETOOLONG):
        memory.string(address, 10)
    with refused(errno.ENAMETOOLONG):
        memory.string(address, 0)


def test_limit_counts_the_nul(pages: Pages, memory: Memory) -> None:
    address = pages.put(pages.start, b"x" * 4095 + b"\0")
    assert memory.string(address, 4096) == b"x" * 4095
    pages.put(pages.start, b"y" * 4096 + b"\0")
    with refused(errno.ENAMETOOLONG):
        memory.string(address, 4096)
    with refused(errno.ENAMETOOLONG):
        memory.string(address)


@pytest.mark.parametrize(
    "address", [0, 1, PAGE - 1, 1 << 47, (1 << 63) - 8, 1 << 63, (1 << 64) - 1]
)
def test_impossible_addresses(memory: Memory, address: int) -> None:
    for read in (
        lambda: memory.string(address),
        lambda: memory.read(address, 8),
        lambda: memory.read_some(address, 1 << 31),
        lambda: memory.pointers(address),
        lambda: memory.strings(address),
        lambda: memory.iovec(address, 1),
    ):
        with refused(errno.EFAULT) as caught:
            read()
        assert caught.value.address == address


def test_page_after_the_nul_is_not_touched(pages: Pages, memory: Memory) -> None:
    """With userfaultfd or FUSE behind it, touching it could take for ever."""
    address = pages.put(pages.start + PAGE - 6, b"short\0")
    assert memory.string(address) == b"short"
    assert not pages.resident(pages.start + PAGE)
    pages.put(pages.start + PAGE - 16, struct.pack("=QQ", 7, 0))
    assert memory.pointers(pages.start + PAGE - 16) == [7]
    assert not pages.resident(pages.start + PAGE)
    assert pages.resident(pages.start)


# Bytes --------------------------------------------------------------------------------------------


def test_reading_up_to_an_unmapped_page(pages: Pages, memory: Memory) -> None:
    pages.put(pages.end - 6, b"abcdef")
    assert memory.read_some(pages.end - 6, 64) == b"abcdef"
    assert memory.read(pages.end - 6, 6) == b"abcdef"
    with refused(errno.EFAULT) as caught:
        memory.read(pages.end - 6, 7)
    assert caught.value.address == pages.end
    assert memory.read_some(pages.start, 1 << 62) == memory.read(pages.start, pages.size)
    assert memory.read(pages.start, 0) == b""


def test_sizes_beyond_reason(pages: Pages, memory: Memory) -> None:
    with refused(errno.E2BIG):
        memory.read(pages.start, READ_MAX + 1)
    with refused(errno.E2BIG):
        memory.read(pages.start, 2 << 30)
    with refused(errno.E2BIG):
        memory.read(pages.start, -1)
    assert memory.read_some(pages.start, -1) == b""


def test_two_gigabytes_are_not_allocated(monitor: Monitor) -> None:
    """A hostile length costs what is mapped, not what is claimed."""
    out = monitor(
        """
        import ctypes, mmap
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        size = 1 << 20
        start = libc.mmap(None, size + 4096, 3, 0x22, -1, 0)
        libc.munmap(ctypes.c_void_p(start + size), 4096)
        Memory(os.getpid()).read_some(start, 1)
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20),) * 2)
        print(len(Memory(os.getpid()).read_some(start, 2 << 30)) == size)
        print(len(_core.read(os.getpid(), start, 2 << 30, False, -1, 0)) == size)
        """
    )
    assert out == "True\nTrue"


# Arrays -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_pointers_across_pages(pages: Pages, memory: Memory, width: int, shift: int) -> None:
    values = list(range(1, 1001))
    code = "Q" if width == 8 else "I"
    start = pages.start + PAGE - 100 * width - shift
    pages.put(start, struct.pack(f"=1001{code}", *values, 0))
    assert memory.pointers(start, width=width) == values
    assert memory.pointers(start, limit=1001, width=width) == values
    with refused(errno.E2BIG):
        memory.pointers(start, limit=1000, width=width)


def test_pointers_without_an_end(pages: Pages, memory: Memory) -> None:
    pages.put(pages.end - 20, b"x" * 20)
    with refused(errno.EFAULT):
        memory.pointers(pages.end - 20)
    with refused(errno.E2BIG):
        memory.pointers(pages.end - 20, limit=2)


def test_huge_argv(memory: Memory) -> None:
    strings = [b"%d" % n * 10 for n in range(20000)]
    blob = b"".join(text + b"\0" for text in strings)
    kept = ctypes.create_string_buffer(blob, len(blob))
    at, addresses = ctypes.addressof(kept), []
    for text in strings:
        addresses.append(at)
        at += len(text) + 1
    array = (ctypes.c_uint64 * (len(addresses) + 1))(*addresses, 0)
    address = ctypes.addressof(array)
    assert memory.strings(address) == strings
    assert memory.strings(address, total=len(blob), limit=20001) == strings
    with refused(errno.E2BIG):
        memory.strings(address, total=len(blob) - 1)
    with refused(errno.E2BIG):
        memory.strings(address, limit=20000)
    array[10000] = 1  # one bad pointer among them
    with refused(errno.EFAULT) as caught:
        memory.strings(address)
    assert caught.value.address == 1


@pytest.mark.parametrize("width", [4, 8])
def test_iovec(pages: Pages, memory: Memory, width: int) -> None:
    code = "Q" if width == 8 else "I"
    most = (1 << 8 * width) - 1
    words = [0x1000, 5, most, most]
    start = pages.put(pages.end - 4 * width, struct.pack(f"=4{code}", *words))
    assert memory.iovec(start, 2, width=width) == [(0x1000, 5), (most, most)]
    assert memory.iovec(start, 0, width=width) == []
    with refused(errno.EFAULT):
        memory.iovec(start, 3, width=width)
    for count in (-1, 1025, 1 << 40):
        with refused(errno.EINVAL):
            memory.iovec(start, count, width=width)


# The other way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["ENOSYS", "EPERM"])
def test_without_process_vm_readv(monitor: Monitor, code: str) -> None:
    """/proc/TID/mem answers the same."""
    out = monitor(
        f"""
        import mmap
        from proctor.errors import MemoryUnreadable
        refuse(310, errno.{code})
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        start = libc.mmap(None, ctypes.c_size_t(8192), 3, 0x22, -1, ctypes.c_long(0))
        libc.munmap(ctypes.c_void_p(start + 4096), ctypes.c_size_t(4096))
        text = b"to the end"
        ctypes.memmove(start + 4096 - 11, text + b"\\0", 11)
        memory = Memory(os.getpid())
        assert memory.string(start + 4096 - 11) == text
        assert memory.read_some(start + 4096 - 11, 1 << 31) == text + b"\\0"
        for read in (
            lambda: memory.string(start + 4096), lambda: memory.string(0), lambda: memory.string(1 << 63),
            lambda: memory.read(start + 4090, 7), lambda: memory.read((1 << 64) - 1, 1),
        ):
            try:
                read()
            except MemoryUnreadable as problem:
                assert problem.errno == errno.EFAULT, problem
            else:
                raise AssertionError("readable")
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        for pid in (child, 1 << 22):
            try:
                _core.read(pid, start, 1, False, -1, 0)
            except ProcessLookupError:
                print("gone")
            except PermissionError:
                assert os.geteuid() and pid == child  # a dead process's files are root's (task_dump_owner)
                print("gone")
        os.waitpid(child, 0)
        """
    )
    assert out == "gone\ngone"


# Whose memory it is -------------------------------------------------------------------------------


def test_string_of_a_caller_is_checked(subject: str) -> None:
    """Valid while it waits; gone once it was killed or answered, whatever the bytes say."""
    target = launch([subject, "call", "2"], program=notify(4242), fds=[(2, 1)])
    with target, Listener(target.take_listener()) as listener:
        first = listener.recv()
        assert first is not None
        memory = Memory(first.pid, listener, first.id)
        address = first.args[1]
        assert memory.string(address) == b"a path"
        assert memory.read(address, 4) == b"a pa"
        assert memory.strings(first.args[2])[1:] == [b"call", b"2"]
        listener.send(first.id, 0, -1, 0)
        for read in (
            lambda: memory.string(address),
            lambda: memory.read(address, 1),
            lambda: memory.read_some(1, 1),  # unreadable, but gone comes first
            lambda: memory.pointers(first.args[2]),
        ):
            with pytest.raises(CallGone):
                read()
        second = listener.recv()
        assert second is not None
        assert second.id == first.id + 1
        memory = Memory(second.pid, listener, second.id)
        assert memory.string(address) == b"a path"
        target.kill()
        assert target.wait(30) == -signal.SIGKILL
        with pytest.raises(CallGone) as caught:
            memory.string(address)
        assert caught.value.pid == second.pid


def test_caller_out_of_sight(memory: Memory) -> None:
    with pytest.raises(CallerInvisible):
        Memory(0).string(1)


def test_undumpable_caller(monitor: Monitor) -> None:
    """The kernel does not let an ordinary user look: said, with the errno EPERM."""
    out = monitor(
        """
        from proctor.errors import MemoryUnreadable
        code = one(0x20, 0, 0, 0) + one(0x15, 0, 1, 4242)
        code += one(6, 0, 0, abi.SECCOMP_RET_USER_NOTIF) + one(6, 0, 0, abi.SECCOMP_RET_ALLOW)
        with launch([subject, "undumpable", "call", "1"], program=code, fds=[]) as target:
            listener = Listener(target.take_listener())
            call = listener.recv()
            try:
                Memory(call.pid, listener, call.id).string(call.args[1])
            except MemoryUnreadable as problem:
                print(errno.errorcode[problem.errno], "CAP_SYS_PTRACE" in str(problem))
            listener.close()
        """,
        nobody=True,
    )
    assert out == "EPERM True"


def test_thread_that_is_not_the_leader(subject: str) -> None:
    target = launch([subject, "threads", "3"], program=notify(4242), fds=[(2, 1)])
    with target, Listener(target.take_listener()) as listener:
        for _ in range(3):
            call = listener.recv()
            assert call is not None
            assert call.pid != target.pid
            here = Memory(call.pid, listener, call.id)
            assert len(here.read(call.ip & ~0xFFF, 16)) == 16
            listener.send(call.id, 0, 0, 0)
        assert target.wait(30) == 0
