"""Fake calls are decoded by the real code: what a test passes is what the handler sees."""

from __future__ import annotations

import errno
import os
import socket

import pytest

import proctor
from proctor.call.call import Call
from proctor.call.decode import sockaddr, structures
from proctor.call.decode.values import NO_LIMIT, Device, Limits, SignalSet, Timespec
from proctor.call.identity import Capabilities, Ids
from proctor.syscalls.architectures import ARCHITECTURES
from proctor.syscalls.flags import OpenFlag
from proctor.testing import ALL_CAPABILITIES, AT_FDCWD, UNMAPPED, FakeCall, FakeTarget, Node

ABIS = tuple(ARCHITECTURES)

ADDRESSES = [
    sockaddr.UnixAddress("pathname", b"/run/x"),
    sockaddr.UnixAddress("abstract", b"x\0y"),
    sockaddr.UnixAddress("unnamed", b""),
    sockaddr.InetAddress("192.0.2.1", 80),
    sockaddr.Inet6Address("2001:db8::1", 443, 7, 3),
    sockaddr.NetlinkAddress(12, 5),
    sockaddr.PacketAddress(0x0800, 3, 1, 0, b"\1\2\3\4\5\6"),
    sockaddr.VsockAddress(2, 1024, 1),
    sockaddr.RawAddress(31, b"bluetooth"),
    sockaddr.RawAddress(-1, b"?"),
]


@pytest.mark.parametrize("abi", ABIS)
def test_arguments_arrive_on_every_architecture(abi: str) -> None:
    with FakeTarget() as target:
        call = target.call("openat", AT_FDCWD, "/etc/hosts", OpenFlag.O_RDWR, 0o640, abi=abi)
        assert isinstance(call, Call)
        assert (call.name, call.abi) == ("openat", abi)
        assert call.args["dirfd"] == AT_FDCWD
        assert call.path == b"/etc/hosts"
        assert int(call.flags) == OpenFlag.O_RDWR
        assert call.mode == 0o640
        assert call.memory_read
        argv = target.call("execve", "/bin/sh", ["sh", "-c", b"\xff"], [], abi=abi)
        assert argv.argv == (b"sh", b"-c", b"\xff")
        assert argv.envp == ()
        how = (int(OpenFlag.O_WRONLY), 0o600, 4)
        opened = target.call("openat2", 7, "x", how, abi=abi)
        assert (int(opened.flags), opened.mode, int(opened.how.resolve)) == (1, 0o600, 4)
        assert opened.args["size"] == 24


@pytest.mark.parametrize("abi", ABIS)
@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_socket_addresses_arrive(abi: str, address: sockaddr.SocketAddress) -> None:
    with FakeTarget() as target:
        assert target.call("connect", 3, address, abi=abi).sockaddr == address
        header = structures.MessageHeader(address, ((UNMAPPED, 5),), 0, 0, 0)
        call = target.call("sendmsg", 3, header, abi=abi)
        assert call.msg.address == address
        assert call.msg.iov == ((UNMAPPED, 5),)


def test_addresses_may_be_pairs_and_bytes() -> None:
    with FakeTarget() as target:
        assert target.call("bind", 3, ("::1", 80)).sockaddr == sockaddr.Inet6Address("::1", 80)
        assert target.call("bind", 3, ("10.1.2.3", 80)).args["addrlen"] == 16
        call = target.call("bind", 3, b"\x02", 500)  # the caller's lie about the length
        with pytest.raises(proctor.MemoryUnreadable) as refused:
            assert call.sockaddr
        assert refused.value.errno == errno.EINVAL
        with pytest.raises(TypeError, match="no socket address"):
            target.call("bind", 3, 5.0)


@pytest.mark.parametrize("abi", ABIS)
def test_the_other_structures_arrive(abi: str) -> None:
    with FakeTarget() as target:
        clone = (0x100, 0, 0, 0, 17, 0, 0, 0, 0, 0, 9)
        assert target.call("clone3", clone, abi=abi).cl_args == clone
        event = (5, 1 << 40)
        assert target.call("epoll_ctl", 3, 1, 4, event, abi=abi).event == event
        limits = (10, 1 << 33)
        assert target.call("prlimit64", 0, 7, limits, abi=abi).new_limit == limits
        attributes = (1, 0, 1 << 18, 5)
        call = target.call("mount_setattr", AT_FDCWD, "/x", 0, attributes, abi=abi)
        assert tuple(map(int, call.args[call.args.keys()[3]])) == attributes
        when = target.call("clock_nanosleep", 1, 0, Timespec(3, 4), abi=abi)
        assert when.request == Timespec(3, 4)
        if abi != "x32":  # a call of its own there
            vector = target.call("writev", 1, [b"abc", b"", b"de"], abi=abi)
            assert [length for _, length in vector.iov] == [3, 0, 2]


def test_lengths_are_filled_in_and_negative_numbers_have_c_s_width() -> None:
    with FakeTarget() as target:
        assert target.call("write", 1, b"12345").args["count"] == 5
        assert target.call("write", 1, b"12345", 99).args["count"] == 99
        assert target.call("openat", AT_FDCWD, "x").registers[0] == 0xFFFFFF9C
        pread = target.call("pread64", 3, None, 1, (1 << 40) + 5, abi="i386")
        assert pread.registers[3:5] == (5, 1 << 8)
        assert pread.offset == (1 << 40) + 5
        named = target.call("mknod", "/dev/x", dev=Device.make(1, 3), mode=0o20666)
        assert (named.dev.major, named.dev.minor, named.mode.is_device) == (1, 3, True)


def test_what_means_nothing_is_refused() -> None:
    with FakeTarget() as target:
        with pytest.raises(TypeError, match="has no argument 'pathname'"):
            target.call("openat", pathname="x")
        with pytest.raises(TypeError, match="twice"):
            target.call("mkdir", "x", path="y")
        with pytest.raises(TypeError, match="arguments"):
            target.call("mkdir", "x", 1, 2)
        with pytest.raises(TypeError, match="is a number"):
            target.call("mkdir", "x", "0755")
        with pytest.raises(TypeError, match="NUL"):
            target.call("mkdir", b"a\0b")
        with pytest.raises(proctor.FilterError, match="did you mean"):
            target.call("mkdri", "x")
        with pytest.raises(proctor.FilterError):
            target.call("open", "x", abi="aarch64")


def test_a_call_without_a_name() -> None:
    with FakeTarget() as target:
        call = target.call(0x1F4 + 400, 1, -1)
        assert call.name == "syscall_0x384"
        assert call.registers[:2] == (1, (1 << 64) - 1)
        with pytest.raises(TypeError, match="six numbers"):
            target.call(900, "x")


def test_hostile_memory() -> None:
    with FakeTarget() as target:
        for address in (0, UNMAPPED, (1 << 64) - 1):
            with pytest.raises(proctor.MemoryUnreadable) as refused:
                assert target.call("mkdir", address).path
            assert refused.value.errno == errno.EFAULT
        endless = target.call("mkdir", target.memory.place(b"x" * 4096))
        with pytest.raises(proctor.MemoryUnreadable) as refused:
            assert endless.path
        assert refused.value.errno == errno.ENAMETOOLONG
        cut = target.call("mkdir", target.memory.place(b"no end"))
        with pytest.raises(proctor.MemoryUnreadable) as refused:
            assert cut.path
        assert refused.value.errno == errno.EFAULT


def test_memory_is_the_tests_own() -> None:
    memory = FakeTarget().memory
    at = memory.place(b"abcdef")
    memory.write(at + 2, b"XY")
    assert memory.peek(at, 100) == b"abXYef"
    memory.place(b"gh", at + 6)
    assert memory.peek(at + 4, 4) == b"efgh"
    for wrong in (at, at + 7, at - 1):
        with pytest.raises(ValueError, match="mapped"):
            memory.place(b"zz", wrong)
    with pytest.raises(ValueError, match="only 2 bytes"):
        memory.write(at + 4, b"long")
    memory.unmap(at)
    with pytest.raises(ValueError, match="nothing is mapped"):
        memory.write(at, b"x")


def test_values_are_read_once_and_races_can_be_staged() -> None:
    with FakeTarget() as target:
        call = target.call("mkdir", "/good")
        target.memory.on_read = lambda address: target.memory.write(address, b"/evil")
        assert call.path == call.path == b"/good"
        assert len(target.memory.reads) == 1
        assert call.memory.string(call.registers[0]) == b"/evil"


def test_the_caller() -> None:
    target = FakeTarget(
        uid=(1, 2, 3, 4), gid=5, groups=[6, 7], caps=["CAP_MKNOD", "CAP_CHOWN"], umask=0o27,
        inside=(12, 1), exe="/bin/x", cmdline=("x", b"\xff y"), comm="name", cgroup="/a.slice",
        label="unconfined", namespaces={"user": 77},
    )  # fmt: skip
    with target:
        caller = target.call("getpid").caller
        assert caller.uids == Ids(1, 2, 3, 4)
        assert caller.gids == Ids(5, 5, 5, 5)
        assert caller.groups == (6, 7)
        assert caller.caps == Capabilities(0, 1 << 27 | 1, 1 << 27 | 1, ALL_CAPABILITIES, 0)
        assert caller.umask == 0o27
        assert caller.nspid == caller.nstgid == (target.tid, 12, 1)
        assert caller.tgid == target.pid
        assert (caller.exe, caller.cmdline) == (b"/bin/x", (b"x", b"\xff y"))
        assert (caller.comm, caller.cgroup, caller.label) == ("name", b"/a.slice", b"unconfined")
        assert (caller.userns, caller.namespace("pid")) == (77, 0xEFFFFFFC)
        assert caller.anchored_thread
        target.pending = {15, 64}
        assert list(caller.pending()) == [15, 64]
        assert caller.no_new_privs and caller.filters == 1
        assert caller.uid_map[0].length == 0xFFFFFFFF and caller.userns_origin is not None
        assert caller.limits["Max open files"].soft == 1024
        assert (caller.started, caller.tty) == (target.tid, 0)
        assert not target.call("getpid").memory_read


def test_nothing_that_was_decoded_is_read_again() -> None:
    """Whoever decides, performs and logs has the bytes of one moment."""
    with FakeTarget() as target:
        call = target.call("openat2", AT_FDCWD, "/x", {"flags": OpenFlag.O_RDONLY}, 24)
        how = call.registers[2]
        assert call.how.flags == OpenFlag.O_RDONLY and call.flags == OpenFlag.O_RDONLY
        target.memory.write(how, (2).to_bytes(8, "little"))  # O_RDWR, by another thread
        reads = len(target.memory.reads)
        assert call.frame.memory.read(how, 24) == bytes(24)
        assert call.frame.memory.read(how, 8) == bytes(8)
        assert "O_RDONLY" in call.describe() and call.how.flags == 0
        assert len(target.memory.reads) == reads + 1  # the path, for the line
        assert call.memory.read(how, 1) == b"\2"  # whoever asks for what is there now gets that
        connect = target.call("connect", 3, ("192.0.2.1", 80))
        address, size = connect.registers[1:3]
        assert connect.sockaddr.port == 80
        target.memory.write(address + 2, b"\0\0")
        kept = connect.frame.memory
        assert kept.read(address, size)[:4] == b"\2\0\0\x50"
        assert kept.read_some(address, 2) == b"\2\0"
        # What reaches further has what was copied before as it was.
        longer = target.memory.place(b"abcdef")
        assert kept.read(longer, 3) == b"abc"
        target.memory.write(longer, b"XYZ")
        assert kept.read(longer, 6) == b"abcdef" and kept.read_some(longer, 99) == b"abcdef"
        text = target.memory.place(b"one\0")
        assert kept.string(text) == b"one"
        target.memory.write(text, b"two")
        assert kept.string(text) == b"one" and connect.memory.string(text) == b"two"


def test_names_that_can_change_count_as_looks() -> None:
    with FakeTarget({"/etc/motd": b"hello"}, exe="/bin/x", comm="name") as target:
        fd = target.open("/etc/motd")
        for look, found in (
            (lambda call: call.exe, b"/bin/x"),
            (lambda call: call.comm, "name"),
            (lambda call: call.fd_path(fd), b"/etc/motd"),
            (lambda call: call.fd_path(0), b"/dev/null"),
            (lambda call: call.caller.umask, 0o22),
        ):
            call = target.call("read", fd)
            assert not call.memory_read
            assert look(call) == found and call.memory_read
            assert isinstance(
                target.run(lambda _: proctor.let_run(), call).error, proctor.RacyVerdict
            )
        del target.files["/etc/motd"]
        assert target.call("read", fd).fd_path(fd) == b"/etc/motd (deleted)"


def test_keys_tell_callers_apart() -> None:
    with FakeTarget({"/jail": None}, uid=1000) as target:
        key = target.call("getpid").caller.key
        assert target.thread().call("getpid").caller.key == key
        for other in (
            target.thread(uid=1001),
            target.thread(gid=7),
            target.thread(caps=["CAP_KILL"]),
        ):
            assert other.call("getpid").caller.key != key
        target.chroot("/jail")
        assert target.call("getpid").caller.key != key
    # A tree is a machine of its own: nodes of two trees are never the same.
    with FakeTarget(uid=1000) as another:
        assert another.call("getpid").caller.key != key


def test_room_in_the_table() -> None:
    with FakeTarget(nofile=5) as target:
        call = target.call("open", "/")
        assert call.caller.has_room() and call.memory_read
        for _ in range(2):
            assert target.call("open", "/").caller.has_room()
            target.open("/")
        assert not target.call("open", "/").caller.has_room()
        target.close_fd(1)
        assert target.call("open", "/").caller.has_room()


def test_capabilities_follow_the_user() -> None:
    assert FakeTarget(uid=0).caps.effective == ALL_CAPABILITIES
    assert FakeTarget(uid=1000).caps.effective == 0
    assert FakeTarget(uid=0, caps=0).caps.effective == 0
    assert FakeTarget(uid=0).thread(uid=8).caps.effective == 0


def test_nobody_can_look_at_an_invisible_caller() -> None:
    with FakeTarget(tid=0) as target:
        call = target.call("mkdir", "/x")
        assert call.valid()
        for look in (lambda: call.path, lambda: call.caller, lambda: call.fd(0)):
            with pytest.raises(proctor.CallerInvisible):
                look()


def test_a_caller_above_the_monitor_shows_little() -> None:
    with FakeTarget(dumpable=False) as target:
        call = target.call("mkdir", "/x")
        with pytest.raises(proctor.MemoryUnreadable) as refused:
            assert call.path
        assert refused.value.errno == errno.EPERM
        for look in (
            call.caller.cwd,
            call.caller.root,
            lambda: call.fd(0),
            lambda: call.caller.exe,
        ):
            with pytest.raises(proctor.NotPermitted):
                look()
        assert call.caller.uids.real == 1000


def test_descriptors_of_the_target() -> None:
    with FakeTarget({"/etc/motd": b"hello", "/l": Node.symlink("/etc/motd")}) as target:
        fd = target.open("/l")
        assert (fd, target.fds) == (3, (0, 1, 2, 3))
        call = target.call("read", fd)
        mine = call.fd(call.args["fd"])
        assert call.memory_read
        assert os.read(mine, 2) == b"he"
        assert target.read(fd) == b"llo"  # one open file description: the position is shared
        taken = call.take_fd(fd)
        call.expire()
        assert os.read(taken, 5) == b"llo"  # still open; what call.fd() gave is not
        os.close(taken)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(mine)
        target.close_fd(fd)
        for number in (fd, -1, 99):
            with pytest.raises(OSError) as refused:
                target.call("read", fd).fd(number)
            assert refused.value.errno == errno.EBADF
        with pytest.raises(FileNotFoundError):
            target.open("/none")


def test_descriptors_from_outside() -> None:
    ours, theirs = socket.socketpair()
    with FakeTarget() as target, ours, theirs:
        fd = target.give(theirs.fileno(), at=9)
        assert fd == 9
        ours.send(b"ping")
        call = target.call("recvfrom", fd)
        with socket.socket(fileno=call.take_fd(9)) as duplicate:
            assert duplicate.recv(10) == b"ping"


def test_threads_share_what_threads_share() -> None:
    with FakeTarget(uid=0) as target:
        thread = target.thread(uid=65534)
        assert thread.tid != target.tid and thread.pid == target.pid
        fd = thread.open("/")
        assert fd in target.fds
        call = thread.call("mkdir", "x")
        assert call.caller.uids.real == 65534
        assert call.caller.tgid == target.pid
        mine = target.call("mkdir", "x")
        thread.die()
        assert (call.valid(), mine.valid()) == (False, True)
        again = target.thread()
        call = again.call("mkdir", "x")
        target.die()
        assert (call.valid(), mine.valid()) == (False, False)


def test_an_interrupted_call() -> None:
    with FakeTarget() as target:
        call, other = target.call("mkdir", "x"), target.call("mkdir", "y")
        target.interrupt(call)
        with pytest.raises(proctor.CallGone):
            assert call.path
        with pytest.raises(proctor.CallGone):
            assert call.caller.uids
        assert other.path == b"y"


def test_a_call_of_its_own() -> None:
    call = FakeCall("mkdir", "/x", 0o755, uid=5)
    assert call.caller.uids.real == 5
    assert isinstance(call.made_by, FakeTarget)
    assert call.describe() == 'mkdir("/x", 0755)'
    call.made_by.close()
    with pytest.raises(proctor.CallOver):
        assert call.path
    with pytest.raises(TypeError, match="exists already"):
        FakeCall("mkdir", target=FakeTarget(), uid=3)


@pytest.mark.parametrize("abi", ["x86_64", "i386", "aarch64", "s390x"])
def test_structures_of_the_kernel_by_their_fields(abi: str) -> None:
    with FakeTarget() as target:
        call = target.call("sched_setattr", 0, {"size": 48, "sched_nice": -5}, abi=abi)
        assert call.attr.sched_nice == -5 and call.attr.size == 48 and not call.attr.sched_policy
        again = target.call("sched_setattr", 0, call.attr, abi=abi)
        assert again.attr == call.attr
        timer = {"it_value": {"tv_sec": 5, "tv_nsec": 7}}
        value = target.call("timer_settime", 1, 0, timer, abi=abi).new_value
        assert value.it_value == (5, 7) and value.it_interval == (0, 0)
        masked = target.call("rt_sigprocmask", 0, SignalSet(0x4002), 0, 8, abi=abi)
        assert list(masked.args.set) == [2, 15]
        limits = Limits(5, NO_LIMIT)
        assert target.call("setrlimit", 7, limits, abi=abi).rlim == limits
        with pytest.raises(TypeError, match="no field 'nice'; it has size"):
            target.call("sched_setattr", 0, {"nice": 1}, abi=abi)
        with pytest.raises(TypeError, match="pass bytes"):
            target.call("rt_sigsuspend", {"bits": 1}, abi=abi)
        how = target.call("openat2", -100, "x", {"flags": 1, "resolve": 8}, abi=abi).how
        assert how == (1, 0, 8)
