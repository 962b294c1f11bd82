"""Registers and memory into values: every role, every width, every refusal, without a kernel."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proctor.call.decode.sockaddr import InetAddress, RawAddress, UnixAddress
from proctor.call.decode.values import Device, Mode, Timespec
from proctor.errors import CallError, CallGone, MemoryUnreadable
from proctor.syscalls import flags, tables
from proctor.syscalls.architectures import ARCHITECTURES
from proctor.syscalls.signatures import signature
from tests.call.fakes import FakeListener, FakeMemory, call

GARBAGE = 0xDEADBEEF << 32
NAME = 0x1000
P = {NAME: b"/dev/null\0"}


def refused(number: int, read: object) -> MemoryUnreadable:
    with pytest.raises(MemoryUnreadable) as caught:
        read()  # type: ignore[operator]
    assert caught.value.errno == number
    return caught.value


# Registers ------------------------------------------------------------------------------------


def test_ints_are_sign_extended_and_upper_garbage_is_ignored() -> None:
    made = call(
        "openat", GARBAGE | 0xFFFFFF9C, NAME, GARBAGE | 0o2000000, GARBAGE | 0o777, memory=P
    )
    assert made.dirfd == -100
    assert made.flags == flags.OpenFlag.O_CLOEXEC
    assert made.mode == 0o777
    assert made.registers[0] == GARBAGE | 0xFFFFFF9C


def test_unsigned_ints_are_zero_extended() -> None:
    made = call("setuid", GARBAGE | 0xFFFFFFFF)
    assert made.uid == 0xFFFFFFFF
    assert call("close_range", GARBAGE | 3, GARBAGE | 0xFFFFFFFF).last == 0xFFFFFFFF


def test_modes_are_sixteen_bits() -> None:
    made = call("mknod", NAME, 0x20000 | 0o020666, GARBAGE | 0x103, memory=P)
    assert made.mode == 0o020666
    assert isinstance(made.mode, Mode)
    assert made.mode.type == 0o020000 and made.mode.permissions == 0o666 and made.mode.is_device
    assert str(made.mode) == "S_IFCHR|0666"
    assert call("umask", 0o22).mask == 0o22


def test_devices() -> None:
    made = call("mknodat", -100, NAME, 0o020666, Device.make(0x123, 0x45678), memory=P)
    assert (made.dev.major, made.dev.minor) == (0x123, 0x45678)
    assert str(Device.make(1, 3)) == "1:3" and int(Device.make(1, 3)) == 0x103
    for major, minor in ((4096, 0), (0, 1 << 20), (-1, 0)):
        with pytest.raises(ValueError, match="bits"):
            Device.make(major, minor)


@given(st.integers(0, 2**32 - 1))
def test_every_device_number_is_taken_apart_and_put_together(number: int) -> None:
    assert Device.make(Device(number).major, Device(number).minor) == number


def test_longs_pids_signals_and_offsets() -> None:
    assert call("lseek", 3, -5, 0).offset == -5
    assert call("lseek", 3, 0, 1).whence == flags.Whence.SEEK_CUR
    assert call("kill", GARBAGE | 0xFFFFFFFF, 9).pid == -1
    assert str(call("kill", 1, 15).sig) == "SIGTERM"
    assert call("kill", 1, 40).sig == 40
    assert call("clock_gettime", 1).clockid == flags.ClockId.CLOCK_MONOTONIC
    assert call("clock_gettime", -22).clockid == -22
    assert call("fallocate", 3, 0, 1 << 40, 2).offset == 1 << 40


def test_flags_of_sixty_four_bits() -> None:
    assert int(call("unshare", 1 << 40 | 0x20000).flags) == 1 << 40 | 0x20000
    assert int(call("clone", 1 << 40 | 0x11).flags) == 0x11  # the kernel takes the lower half


@given(st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6), st.data())
def test_every_plain_argument_of_every_call_stays_within_its_width(
    registers: list[int], data: st.DataObject
) -> None:
    abi = data.draw(st.sampled_from(list(ARCHITECTURES)))
    name = data.draw(st.sampled_from(sorted(tables.numbers(abi))))
    made = call(name, *registers, abi=abi)
    known = made.signature
    assert known is not None
    for arg in known.args:
        number = made.args.number(arg.name)
        if arg.signed:
            assert -(1 << arg.bits - 1) <= number < 1 << arg.bits - 1
        elif arg.role not in ("uid", "gid"):
            assert 0 <= number < 1 << arg.bits
        try:
            made.args[arg.name]
        except CallError:
            pass  # nothing is mapped
    assert made.describe().isprintable()
    assert repr(made).isprintable()


# Other architectures ----------------------------------------------------------------------------


def test_i386_pointers_offsets_and_ids() -> None:
    made = call("pread64", 3, 0x1000, 10, 0xFFFFFFFB, 0xFFFFFFFF, abi="i386")
    assert made.abi == "i386" and made.name == "pread64"
    assert made.offset == -5
    assert call("truncate64", NAME, 1, 2, abi="i386", memory=P).length == (2 << 32) + 1
    made = call("openat", GARBAGE | 0xFFFFFF9C, GARBAGE | NAME, 0, abi="i386", memory=P)
    assert made.path == b"/dev/null"
    assert call("chown", NAME, 0x1FFFF, 5, abi="i386", memory=P).owner == 0xFFFFFFFF
    assert call("chown", NAME, 0x1FFFE, 5, abi="i386", memory=P).owner == 0xFFFE
    assert call("chown32", NAME, 0x1FFFF, 5, abi="i386", memory=P).owner == 0x1FFFF
    assert call("mmap2", 0, 4096, 1, 2, -1, 7, abi="i386").pgoffset == 7


def test_i386_structures() -> None:
    memory = {0x2000: struct.pack("<6I", 0x10000, 8192, 3, 0x22, 0xFFFFFFFF, 4096)}
    found = call("mmap", 0x2000, abi="i386", memory=memory)
    assert found.args.keys() == ["addr", "length", "prot", "flags", "fd", "offset"]
    assert (found.addr, found.length, found.args.fd, found.offset) == (0x10000, 8192, -1, 4096)
    assert str(found.prot) == "PROT_READ|PROT_WRITE" and found.arg == 0x2000
    memory = {0x2000: struct.pack("<5I", 5, 1, 2, 3, 4)}
    select = call("select", 0x2000, abi="i386", memory=memory)
    assert (select.nfds, select.readfds, select.exceptfds) == (5, 1, 3)
    assert select.args.number("timeout") == 4
    memory = {0x2000: struct.pack("<ii", 5, -7)}
    assert call("nanosleep", 0x2000, abi="i386", memory=memory).request == (5, -7)
    memory = {0x2000: struct.pack("<qq", 5, 9 | 1 << 40)}
    assert call("clock_nanosleep_time64", 0, 0, 0x2000, abi="i386", memory=memory).request == (5, 9)
    memory = {0x2000: struct.pack("<4I", 1, 2, 3, 4)}
    assert call("writev", 1, 0x2000, 2, abi="i386", memory=memory).iov == ((1, 2), (3, 4))
    memory = {0x2000: struct.pack("<II", 0x3000, 0), 0x3000: b"a\0"}
    assert call("execve", 0x3000, 0x2000, 0, abi="i386", memory=memory).argv == (b"a",)


def test_x32_decodes_by_its_own_tables() -> None:
    memory = {0x2000: struct.pack("<4I", 1, 2, 3, 4), NAME: b"x\0"}
    made = call("writev", 1, GARBAGE | 0x2000, GARBAGE | 2, abi="x32", memory=memory)
    assert made.abi == "x32" and made.name == "writev" and made.nr & 0x40000000
    assert made.iov == ((1, 2), (3, 4))
    assert call("openat", -100, NAME, abi="x32", memory=memory).path == b"x"
    memory = {0x2000: struct.pack("<qq", 5, 9)}
    assert call("nanosleep", 0x2000, abi="x32", memory=memory).request == Timespec(5, 9)
    assert call("pwritev", 1, 0x2000, 0, 1 << 40, abi="x32").offset == 1 << 40


def test_big_endian_callers() -> None:
    memory = {0x2000: struct.pack(">QQ", 5, 9), 0x3000: b"\0\2\0\x50\x7f\0\0\1" + bytes(8)}
    assert call("setrlimit", 7, 0x2000, abi="s390x", memory=memory).rlim == (5, 9)
    assert call("connect", 3, 0x3000, 16, abi="s390x", memory=memory).addr == InetAddress(
        "127.0.0.1", 80
    )


# Paths and strings ------------------------------------------------------------------------------


def test_paths_are_bytes() -> None:
    assert call("open", NAME, memory={NAME: b"/\xff\xfe\n\0"}).path == b"/\xff\xfe\n"
    assert call("open", NAME, memory={NAME: b"\0"}).path == b""


def test_two_paths() -> None:
    made = call("renameat2", 3, NAME, 4, 0x2000, 1, memory={**P, 0x2000: b"b\0"})
    assert (made.path, made.path2, made.oldpath, made.newpath) == (
        b"/dev/null",
        b"b",
        b"/dev/null",
        b"b",
    )
    assert str(made.flags) == "RENAME_NOREPLACE"
    with pytest.raises(AttributeError):
        _ = call("open", NAME, memory=P).path2
    with pytest.raises(AttributeError):
        _ = call("getpid").path


def test_path_lengths() -> None:
    longest = b"a" * 4095
    assert call("open", NAME, memory={NAME: longest + b"\0"}).path == longest
    refused(errno.ENAMETOOLONG, lambda: call("open", NAME, memory={NAME: b"a" * 5000}).path)
    refused(errno.EFAULT, lambda: call("open", NAME, memory={NAME: b"a" * 10}).path)


def test_null_and_unmapped_paths() -> None:
    error = refused(errno.EFAULT, lambda: call("open", 0).path)
    assert (error.pid, error.syscall, error.notif_id) == (1234, "open", 7)
    refused(errno.EFAULT, lambda: call("open", 0xDEAD).path)
    assert call("statx", 3, 0, 0x1000).path == b""  # the kernel takes NULL there
    assert call("statx", 3, 0, 0x1000).args.path is None  # may be NULL there
    assert call("mount", 0, NAME, 0, 0, 0, memory=P).source is None


def test_a_failed_read_is_tried_again_and_a_good_one_is_not() -> None:
    memory = FakeMemory({})
    made = call("open", NAME, memory=memory)
    refused(errno.EFAULT, lambda: made.path)
    memory.regions[NAME] = b"x\0"
    assert made.path == b"x"
    memory.regions[NAME] = b"y\0"
    assert made.path == made.args.path == made.args["path"] == b"x"


@pytest.mark.parametrize(
    ("name", "position", "size", "number"),
    [
        ("getxattr", 1, 255, errno.ERANGE),
        ("memfd_create", 0, 249, errno.EINVAL),
        ("fsopen", 0, 4095, errno.EINVAL),
        ("mq_open", 0, 4095, errno.ENAMETOOLONG),
        ("fsconfig", 2, 255, errno.EINVAL),
    ],
)
def test_lengths_of_strings_that_are_no_paths(
    name: str, position: int, size: int, number: int
) -> None:
    registers = [0] * 6
    registers[position] = 0x9000
    known = signature(name)
    assert known is not None
    argument = known.args[position].name
    good = call(name, *registers, memory={0x9000: b"x" * size + b"\0"})
    assert good.args[argument] == b"x" * size
    long = call(name, *registers, memory={0x9000: b"x" * (size + 1) + b"\0"})
    refused(number, lambda: long.args[argument])


def test_an_empty_attribute_name_is_refused() -> None:
    refused(errno.ERANGE, lambda: call("getxattr", NAME, NAME, memory={NAME: b"\0"}).args.name)


def test_execve_arguments() -> None:
    memory = {
        NAME: b"/bin/x\0",
        0x2000: struct.pack("<3Q", 0x3000, 0x3002, 0),
        0x3000: b"a\0\xff\xff\0",
    }
    made = call("execve", NAME, 0x2000, 0, memory=memory)
    assert made.argv == (b"a", b"\xff\xff")
    assert made.envp == ()
    endless = FakeMemory({0x2000: struct.pack("<Q", 0x3000) * 70000, 0x3000: b"a\0"})
    refused(errno.E2BIG, lambda: call("execve", NAME, 0x2000, 0, memory=endless).argv)


# Structures -------------------------------------------------------------------------------------


def how(flags_: int = 0o2000000, mode: int = 0, resolve: int = 8, tail: bytes = b"") -> bytes:
    return struct.pack("<3Q", flags_, mode, resolve) + tail


@pytest.mark.parametrize(
    ("size", "data", "number"),
    [
        (24, how(), 0),
        (32, how(tail=bytes(8)), 0),
        (4096, how(tail=bytes(4072)), 0),
        (23, how(), errno.EINVAL),
        (0, how(), errno.EINVAL),
        (32, how(tail=b"\0" * 7 + b"\1"), errno.E2BIG),
        (4097, how(tail=bytes(4073)), errno.E2BIG),
        (2**63, how(), errno.E2BIG),
        (24, how()[:20], errno.EFAULT),
        (32, how(), errno.EFAULT),
    ],
)
def test_open_how(size: int, data: bytes, number: int) -> None:
    made = call("openat2", -100, NAME, 0x2000, size, memory={**P, 0x2000: data})
    if number:
        refused(number, lambda: made.how)
        return
    assert str(made.how.flags) == "O_RDONLY|O_CLOEXEC"
    assert str(made.how.resolve) == "RESOLVE_BENEATH"
    # The same names as for open and openat.
    assert made.flags == made.how.flags and made.mode == 0 and made.resolve != made.how.resolve


def test_open_how_null() -> None:
    refused(errno.EFAULT, lambda: call("openat2", -100, NAME, 0, 24, memory=P).how)


def test_clone_args() -> None:
    data = struct.pack("<11Q", 0x10000, *range(1, 11))
    found = call("clone3", 0x2000, 88, memory={0x2000: data}).cl_args
    assert found.cgroup == 10 and str(found.flags) == "CLONE_THREAD"
    short = call("clone3", 0x2000, 64, memory={0x2000: data})
    assert short.cl_args.cgroup == 0 and short.cl_args.tls == 7 and short.flags == 0x10000
    refused(errno.EINVAL, lambda: call("clone3", 0x2000, 63, memory={0x2000: data}).cl_args)


def test_mount_attr() -> None:
    data = struct.pack("<4Q", 1, 2, 0x40000, 3)
    made = call("mount_setattr", -100, NAME, 0x8000, 0x2000, 32, memory={**P, 0x2000: data})
    assert str(made.attr.attr_set) == "MOUNT_ATTR_RDONLY" and made.attr.userns_fd == 3
    assert str(made.attr.propagation) == "MS_PRIVATE" and str(made.flags) == "AT_RECURSIVE"


def test_small_structures() -> None:
    memory = {0x2000: struct.pack("<QQ", 5, 9)}
    assert call("setrlimit", 7, 0x2000, memory=memory).rlim == (5, 9)
    assert call("prlimit64", 0, 7, 0x2000, memory=memory).new_limit == (5, 9)
    assert call("prlimit64", 0, 7, 0, 0x2000, memory=memory).new_limit is None
    assert call("nanosleep", 0x2000, memory=memory).request == Timespec(5, 9)
    memory = {0x2000: struct.pack("<i", -3)}
    assert call("sched_setparam", 0, 0x2000, memory=memory).param == -3
    memory = {0x2000: struct.pack("<IQ", 1, 2)}
    assert call("epoll_ctl", 3, 1, 4, 0x2000, memory=memory).event == (1, 2)
    memory = {0x2000: struct.pack("<I4xQ", 1, 2)}
    made = call("epoll_ctl", 3, 1, 4, 0x2000, abi="aarch64", memory=memory)
    assert made.event == (1, 2)
    assert call("io_cancel", 5, 0x2000, 0).iocb == 0x2000  # not taken apart: its address


def header(name: int, namelen: int, iov: int, iovlen: int) -> bytes:
    return struct.pack("<Qi4xQQQQI4x", name, namelen, iov, iovlen, 0x9, 0, 0)


def test_message_headers() -> None:
    memory = {
        0x2000: header(0x3000, 8, 0x4000, 2),
        0x3000: b"\1\0/run/x",
        0x4000: struct.pack("<4Q", 0x5000, 10, 0x6000, 20),
    }
    made = call("sendmsg", 3, 0x2000, 0x4000, memory=memory)
    assert made.msg.address == made.sockaddr == UnixAddress("pathname", b"/run/x")
    assert made.msg.iov == ((0x5000, 10), (0x6000, 20)) and made.msg.control == 9
    assert "msg_iovlen=2" in made.describe() and "MSG_NOSIGNAL" in made.describe()
    for bad, number in (
        (header(0x3000, -1, 0, 0), errno.EINVAL),
        (header(0, 0, 0x4000, 1025), errno.EMSGSIZE),
        (header(0, 0, 0x4000, 2**63), errno.EMSGSIZE),
        (header(0xDEAD, 8, 0, 0), errno.EFAULT),
        (header(0, 0, 0, 0)[:-1], errno.EFAULT),
    ):
        memory[0x2000] = bad
        refused(number, lambda: call("sendmsg", 3, 0x2000, memory=memory).msg)
    memory[0x2000] = struct.pack("<IiIIIII", 0x3000, 8, 0x7000, 1, 0, 0, 0)
    memory[0x7000] = struct.pack("<II", 5, 6)
    assert call("sendmsg", 3, 0x2000, abi="i386", memory=memory).msg.iov == ((5, 6),)


def test_socket_addresses() -> None:
    memory = {0x3000: b"\2\0\0\x50\x7f\0\0\1" + bytes(200)}
    made = call("connect", 3, 0x3000, 16, memory=memory)
    assert made.addr == made.sockaddr == InetAddress("127.0.0.1", 80)
    assert call("bind", 3, 0x3000, 128, memory=memory).sockaddr.family == 2
    for length in (-1, 129, 1 << 31, 0x7FFFFFFF):
        refused(errno.EINVAL, lambda n=length: call("connect", 3, 0x3000, n, memory=memory).addr)
    assert call("connect", 3, 0x3000, GARBAGE | 16, memory=memory).addr == made.addr
    assert call("connect", 3, 0, 0).addr == RawAddress(-1, b"")
    refused(errno.EFAULT, lambda: call("connect", 3, 0, 16).addr)
    assert call("sendto", 3, 0, 0, 0, 0, 0).dest_addr is None
    with pytest.raises(AttributeError, match="sockaddr"):
        _ = call("accept4", 3, 0x3000, 0x4000).sockaddr


def test_vectors() -> None:
    memory = {0x2000: struct.pack("<4Q", 1, 2**63, 3, 2**64 - 1)}
    assert call("readv", 3, 0x2000, 2, memory=memory).iov == ((1, 2**63), (3, 2**64 - 1))
    assert call("readv", 3, 0, 0).iov == ()
    refused(errno.EINVAL, lambda: call("readv", 3, 0x2000, 1025, memory=memory).iov)
    refused(errno.EINVAL, lambda: call("readv", 3, 0x2000, 2**63, memory=memory).iov)
    refused(errno.EFAULT, lambda: call("readv", 3, 0x2000, 3, memory=memory).iov)
    made = call("process_vm_readv", 1, 0x2000, 1, 0x2000, 2, 0, memory=memory)
    assert len(made.local_iov) == 1 and len(made.remote_iov) == 2


def test_a_caller_that_goes_away_while_being_read() -> None:
    made = call("open", NAME, memory=FakeMemory({}, gone=True))
    with pytest.raises(CallGone) as caught:
        _ = made.path
    assert caught.value.syscall == "open"
    assert "CallGone" in made.describe() or "ENOENT" in made.describe()


HOSTILE = st.dictionaries(
    st.sampled_from([0x1000, 0x2000, 0x3000, 0x4000]), st.binary(max_size=300), max_size=4
)
ADDRESSES = st.sampled_from([0, 1, 0x1000, 0x1001, 0x2000, 0x2010, 0x3000, 0x4000, 2**64 - 1])
NUMBERS = st.one_of(ADDRESSES, st.integers(0, 2**64 - 1), st.integers(0, 130))


@given(st.data(), HOSTILE, st.lists(NUMBERS, min_size=6, max_size=6))
def test_hostile_memory_gives_values_or_our_errors(
    data: st.DataObject, memory: dict[int, bytes], registers: list[int]
) -> None:
    abi = data.draw(st.sampled_from(["x86_64", "i386", "x32", "s390x"]))
    name = data.draw(st.sampled_from(sorted(tables.numbers(abi))))
    made = call(name, *registers, abi=abi, memory=memory, listener=FakeListener())
    for argument in made.args:
        try:
            made.args[argument]
        except (MemoryUnreadable, CallGone):
            pass
    text = made.describe()
    assert text.startswith(name + "(") and text.isprintable()
