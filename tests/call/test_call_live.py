"""Calls of a real program, received from the kernel and decoded."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable

import pytest

from proctor.call.call import Call
from proctor.call.decode.sockaddr import InetAddress, UnixAddress
from proctor.errors import CallerInvisible, CallGone, CallOver, MemoryUnreadable
from proctor.kernel import abi
from tests.support import bpf
from tests.support.constants import NR
from tests.support.lab import Child

AT_FDCWD = -100
PAGE = 4096
MAP = 0x22  # MAP_PRIVATE|MAP_ANONYMOUS
MAP_32BIT = 0x40


def test_a_path_and_its_registers(notified: Callable) -> None:
    watch = notified("openat")
    watch.listen()
    path = watch.victim.string(b"/etc/\xff\xfe\n name")
    call = watch.call("openat", AT_FDCWD, path, 0o2000101, 0o10644)
    assert (call.name, call.abi, call.tid) == ("openat", "x86_64", watch.victim.tid)
    assert call.path == b"/etc/\xff\xfe\n name"
    assert str(call.flags) == "O_WRONLY|O_CREAT|O_CLOEXEC"
    assert call.mode == 0o10644 and call.dirfd == AT_FDCWD
    assert call.registers[1] == path
    assert call.describe() == (
        'openat(AT_FDCWD, "/etc/\\377\\376\\n name", O_WRONLY|O_CREAT|O_CLOEXEC, 010644)'
    )
    assert call.valid()
    assert watch.answer(call, error=errno.ENOTTY) == (-1, errno.ENOTTY)
    with pytest.raises(CallOver):
        _ = call.path


def test_our_copy_does_not_change(notified: Callable) -> None:
    watch = notified("openat")
    other = watch.victim.thread()  # without the filter
    watch.listen()
    path = watch.victim.string(b"/one")
    call = watch.call("openat", AT_FDCWD, path, 0)
    assert call.path == b"/one"
    other.poke(path, b"/two")
    assert call.path == call.args.path == b"/one" and '"/one"' in call.describe()
    assert call.memory.string(path) == b"/two"


def test_a_thread_that_is_no_leader(notified: Callable) -> None:
    watch = notified("openat")
    thread = watch.victim.thread()
    watch.listen(thread)
    call = watch.call("openat", AT_FDCWD, thread.string(b"/x"), 0, actor=thread)
    assert call.tid == thread.tid != thread.pid
    assert call.path == b"/x" and call.caller.tgid == thread.pid


def test_paths_at_the_end_of_memory(notified: Callable) -> None:
    watch = notified("openat")
    victim = watch.victim
    area = victim.must("mmap", 0, 2 * PAGE, 3, MAP, -1, 0)
    victim.must("munmap", area + PAGE, PAGE)
    watch.listen()
    edge = area + PAGE
    victim.poke(edge - 3, b"ab\0")
    call = watch.call("openat", AT_FDCWD, edge - 3, 0)
    assert call.path == b"ab"
    watch.answer(call)
    victim.poke(edge - 3, b"abc")
    for address in (edge - 3, edge, 0, 8, 2**64 - 1, 1 << 63):
        call = watch.call("openat", AT_FDCWD, address, 0)
        with pytest.raises(MemoryUnreadable) as caught:
            _ = call.path
        assert caught.value.errno == errno.EFAULT, hex(address)
        assert "(EFAULT)" in call.describe() and call.valid()
        watch.answer(call)


def test_path_lengths(notified: Callable) -> None:
    watch = notified("openat")
    victim = watch.victim
    area = victim.must("mmap", 0, 3 * PAGE, 3, MAP, -1, 0)
    watch.listen()
    victim.poke(area, b"a" * 4095 + b"\0")
    call = watch.call("openat", AT_FDCWD, area, 0)
    assert call.path == b"a" * 4095
    watch.answer(call)
    victim.poke(area + 4095, b"a\0")
    call = watch.call("openat", AT_FDCWD, area, 0)
    with pytest.raises(MemoryUnreadable) as caught:
        _ = call.path
    assert caught.value.errno == errno.ENAMETOOLONG


def test_the_kernel_says_the_same_of_bad_paths(notified: Callable) -> None:
    """What reading refuses has the errno that the unsupervised call gets."""
    watch = notified("openat")
    victim = watch.victim
    free = watch.lab.victim()
    for memory, offset in ((b"a" * 5000, 0), (b"", 0)):
        addresses = []
        for each in (victim, free):
            area = each.must("mmap", 0, 2 * PAGE, 3, MAP, -1, 0)
            for start in range(0, len(memory), 1000):
                each.poke(area + start, memory[start : start + 1000])
            addresses.append(area + offset if memory else 0)
        if watch.listener is None:
            watch.listen()
        call = watch.call("openat", AT_FDCWD, addresses[0], 0)
        with pytest.raises(MemoryUnreadable) as caught:
            _ = call.path
        assert (-1, caught.value.errno) == free.call("openat", AT_FDCWD, addresses[1], 0)
        watch.answer(call)


def test_socket_addresses(notified: Callable) -> None:
    watch = notified("connect", "sendto", "sendmsg")
    watch.listen()
    victim = watch.victim
    inet = struct.pack("<H", socket.AF_INET) + b"\x1f\x90\x7f\0\0\1" + bytes(8)
    call = watch.call("connect", 5, victim.place(inet), len(inet))
    assert call.sockaddr == call.addr == InetAddress("127.0.0.1", 8080) and call.sockfd == 5
    watch.answer(call)
    unix = struct.pack("<H", socket.AF_UNIX) + b"\0name"
    call = watch.call("sendto", 5, 0, 0, 0x4000, victim.place(unix), len(unix))
    assert call.sockaddr == UnixAddress("abstract", b"name")
    assert str(call.flags) == "MSG_NOSIGNAL"
    watch.answer(call)
    vector = victim.place(struct.pack("<QQ", 0x1000, 5))
    header = struct.pack("<Qi4xQQQQI4x", victim.place(unix), len(unix), vector, 1, 0, 0, 0)
    call = watch.call("sendmsg", 5, victim.place(header), 0)
    assert call.msg.iov == ((0x1000, 5),) and call.sockaddr.path == b"name"
    watch.answer(call)
    call = watch.call("connect", 5, victim.place(inet), 0x7FFFFFFF)
    with pytest.raises(MemoryUnreadable) as caught:
        _ = call.sockaddr
    assert caught.value.errno == errno.EINVAL


def test_the_kernel_says_the_same_of_structures(notified: Callable) -> None:
    """openat2's extensible structure: each size gets the errno that the kernel itself gives."""
    watch = notified("openat2")
    free = watch.lab.victim()
    watch.listen()
    how = struct.pack("<3Q", 0o2000000, 0, 0)
    for size, tail in ((24, b""), (23, b""), (0, b""), (32, bytes(8)), (32, b"\0\0\0\0\0\0\0\1")):
        places = []
        for each in (watch.victim, free):
            places.append((each.string(b"/"), each.place(how + tail)))
        call = watch.call("openat2", AT_FDCWD, *places[0], size)
        value, number = free.call(437, AT_FDCWD, *places[1], size)
        if value >= 0:
            assert str(call.how.flags) == "O_RDONLY|O_CLOEXEC"
        else:
            with pytest.raises(MemoryUnreadable) as caught:
                _ = call.how
            assert caught.value.errno == number, size
        watch.answer(call)


def test_execve_arguments(notified: Callable) -> None:
    watch = notified("execve")
    watch.listen()
    victim = watch.victim
    strings = [victim.string(each) for each in (b"prog", b"", b"\xff")]
    argv = victim.place(struct.pack("<4Q", *strings, 0))
    call = watch.call("execve", victim.string(b"/bin/x"), argv, 0)
    assert call.path == b"/bin/x" and call.argv == (b"prog", b"", b"\xff") and call.envp == ()
    assert call.describe() == 'execve("/bin/x", ["prog", "", "\\377"], NULL)'


def test_i386_calls_of_a_64_bit_program(notified: Callable) -> None:
    watch = notified()
    victim = watch.victim
    low = victim.must("mmap", 0, PAGE, 3, MAP | MAP_32BIT, -1, 0)
    victim.poke(low, b"/low\0")
    notify_i386 = (
        bpf.load(4)
        + bpf.insn(0x15, abi.AUDIT_ARCH_I386, 0, 1)  # JEQ K
        + bpf.ret(abi.SECCOMP_RET_USER_NOTIF)
        + bpf.ret(abi.SECCOMP_RET_ALLOW)
    )
    watch.listen(program=notify_i386)

    def i386(nr: int, *registers: int) -> Call:
        return watch.receive(victim.command("call-i386", nr, *registers))

    call = i386(295, 0xFFFFFF9C, low, 0o102, 0o600)
    assert (call.abi, call.name, call.arch) == ("i386", "openat", abi.AUDIT_ARCH_I386)
    assert call.path == b"/low" and call.dirfd == AT_FDCWD and call.mode == 0o600
    watch.answer(call)
    call = i386(180, 3, low, 10, 0xFFFFFFFF, 1)
    assert (call.name, call.offset, call.count) == ("pread64", (1 << 32) + 0xFFFFFFFF, 10)
    watch.answer(call)
    victim.poke(low + 64, struct.pack("<6I", 0x1000, 4096, 3, 0x22, 0xFFFFFFFF, 0))
    call = i386(90, low + 64)
    assert call.name == "mmap" and call.length == 4096 and call.args.fd == -1
    watch.answer(call)
    victim.poke(low + 128, struct.pack("<2I", low, 4))
    call = i386(146, 1, low + 128, 1)
    assert call.name == "writev" and call.iov == ((low, 4),)


def test_an_i386_error_reaches_the_program(notified: Callable) -> None:
    watch = notified()
    program = (
        bpf.load(4)
        + bpf.insn(0x15, abi.AUDIT_ARCH_I386, 0, 1)
        + bpf.ret(abi.SECCOMP_RET_USER_NOTIF)
        + bpf.ret(abi.SECCOMP_RET_ALLOW)
    )
    watch.listen(program=program)
    call = watch.receive(watch.victim.command("call-i386", 20))
    assert call.name == "getpid"
    value, _ = watch.answer(call, 77)
    assert value == 77


# A caller that goes away ------------------------------------------------------------------------


def test_a_dead_caller_is_gone_wherever_one_looks(notified: Callable) -> None:
    watch = notified("openat")
    child = watch.victim.fork()
    watch.listen(child)
    call = watch.call("openat", AT_FDCWD, child.string(b"/x"), 0, actor=child)
    caller = call.caller
    os.kill(child.pid, 9)
    child.wait_gone()
    assert not call.valid()
    for look in (
        lambda: call.path,
        lambda: call.memory.read(4096, 1),
        lambda: caller.tgid,
        lambda: caller.uids,
        lambda: caller.exe,
        lambda: caller.cmdline,
        lambda: caller.root(),  # noqa: PLW0108 - read when called
        lambda: caller.cwd(),  # noqa: PLW0108 - read when called
        lambda: caller.dir_fd(1),
        lambda: caller.anchor(),  # noqa: PLW0108 - read when called
        lambda: caller.fd(1),
        lambda: caller.label,
        lambda: caller.userns,
        lambda: call.fd(1),
        lambda: caller.locate(b"/"),
    ):
        with pytest.raises(CallGone):
            look()
    assert "openat(" in call.describe()
    call.expire()
    watch.pending.clear()


def test_a_caller_that_dies_after_it_was_pinned(notified: Callable) -> None:
    watch = notified("openat")
    child = watch.victim.fork()
    watch.listen(child)
    call = watch.call("openat", AT_FDCWD, child.string(b"/x"), 0, actor=child)
    caller = call.caller
    assert caller.tgid == child.pid  # status is read and kept
    held = caller.root()
    os.kill(child.pid, 9)
    child.wait_gone()
    assert caller.tgid == child.pid
    for look in (lambda: caller.exe, caller.cwd, caller.anchor):
        with pytest.raises(CallGone):
            look()
    call.expire()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(held)
    call.expire()
    watch.pending.clear()


def test_an_interrupted_call_is_gone_though_the_thread_lives(notified: Callable) -> None:
    watch = notified("openat")
    victim = watch.victim
    victim.on_signal(10, "count")
    watch.listen()
    pending = victim.begin("openat", AT_FDCWD, victim.string(b"/x"), 0)
    call = watch.receive(pending)
    caller = call.caller
    assert caller.umask >= 0
    victim.signal(10)
    assert pending.result() == (-1, errno.EINTR)
    for look in (
        lambda: call.path,
        lambda: caller.exe,
        lambda: caller.dir_fd(0),
        lambda: call.fd(0),
    ):
        with pytest.raises(CallGone):
            look()
    call.expire()
    watch.pending.clear()


def test_nothing_is_left_open(notified: Callable) -> None:
    watch = notified("openat")
    watch.listen()
    path = watch.victim.string(b"/etc/passwd")
    before = None
    for _ in range(30):
        call = watch.call("openat", AT_FDCWD, path, 0)
        call.caller.anchor(), call.caller.cwd(), call.caller.namespace_fd("mnt")
        call.resolve(), call.resolve(follow=False)
        call.caller.locate(b"/proc/self/fd/0").close()
        call.fd(0)
        os.close(call.take_fd(0))
        watch.answer(call)
        count = len(os.listdir("/proc/self/fd"))
        before = before or count
        assert count == before


def test_numbers_of_the_victim_are_the_tables() -> None:
    from proctor.syscalls import tables

    assert all(tables.number(name) == number for name, number in NR.items())


def test_a_caller_in_an_unrelated_pid_namespace(notified: Callable) -> None:
    """The monitor sees pid 0: it can answer and read registers, and says what it cannot do."""
    watch = notified("openat")
    watch.listen()
    pending = watch.victim.begin(257, AT_FDCWD, watch.victim.string(b"/x"), 0o2000000)
    listener = watch.listener

    def monitor() -> str:
        notification = listener.recv()
        assert notification is not None
        call = Call(notification, listener)
        said = [str(call.tid), call.name, str(call.flags), str(call.valid())]
        for need in (
            lambda: call.path,
            lambda: call.caller,
            lambda: call.fd(0),
            lambda: call.resolve(),  # noqa: PLW0108 - read when called
        ):
            try:
                need()
                said.append("no error")
            except CallerInvisible as error:
                said.append("invisible" if "pid namespace" in str(error) else str(error))
        said.append(call.describe().split("(")[0])
        listener.send(call.id, 55, 0, 0)
        return " ".join(said)

    def in_another_namespace(child: Child) -> str:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x20000000) != 0:  # CLONE_NEWPID, for the next child
            return "skip"
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                os.write(writer, monitor().encode())
            except BaseException as error:
                os.write(writer, repr(error).encode())
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as file:
            text = file.read().decode()
        os.wait()
        return text

    told = watch.lab.child(in_another_namespace).result()
    if told == "skip":
        pytest.skip("pid namespaces are not allowed here")
    expected = "0 openat O_RDONLY|O_CLOEXEC True invisible invisible invisible invisible openat"
    assert told == expected
    assert pending.result() == (55, 0)
