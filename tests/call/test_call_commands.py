"""Arguments that depend on a command, and calls that stand for others: handlers get what it is."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proctor.call.decode.sockaddr import InetAddress
from proctor.call.decode.structures import MessageHeader
from proctor.errors import MemoryUnreadable
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from proctor.syscalls.signatures import Signature, signature
from tests.call.fakes import FakeMemory, call

AT = 0x2000
INET = b"\2\0\0\x50\x7f\0\0\1" + bytes(8)


def refused(number: int, read: object) -> None:
    with pytest.raises(MemoryUnreadable) as caught:
        read()  # type: ignore[operator]
    assert caught.value.errno == number


def test_fcntl_by_its_command() -> None:
    memory = {AT: struct.pack("<hh4xqqi4x", 1, 0, -5, 10, 0)}
    lock = call("fcntl", 3, 6, AT, memory=memory)
    assert lock.args.keys() == ["fd", "op", "flock"]
    assert str(lock.flock.l_type) == "F_WRLCK" and lock.flock.l_start == -5
    assert lock.arg == AT and lock.args.number("flock") == AT  # what every fcntl has, still there
    wide = {AT: struct.pack("<hhqqi", 1, 0, -5, 10, 0)}
    assert call("fcntl64", 3, 13, AT, abi="i386", memory=wide).flock.l_len == 10
    narrow = {AT: struct.pack("<hhiii", 1, 0, -5, 10, 0)}
    assert call("fcntl64", 3, 6, AT, abi="i386", memory=narrow).flock.l_len == 10
    flags = call("fcntl", 3, 4, 0o4002)
    assert str(flags.flags) == "O_RDWR|O_NONBLOCK" and not flags.memory_read
    assert call("fcntl", 3, 8, -5).pid == -5 and str(call("fcntl", 3, 10, 10).sig) == "SIGUSR1"
    assert call("fcntl", 3, 1).args.keys() == ["fd", "op"]
    assert call("fcntl", 3, 4711, 5).arg == 5
    with pytest.raises(AttributeError, match="fcntl has no argument 'flock'; it has fd, op, flags"):
        _ = flags.flock
    refused(errno.EFAULT, lambda: call("fcntl", 3, 6, 0).flock)
    refused(errno.EFAULT, lambda: call("fcntl", 3, 6, AT, memory={AT: bytes(8)}).flock)


def test_prctl_by_its_option() -> None:
    name = call("prctl", 15, AT, memory={AT: b"a-name-that-is-too-long\0"})
    assert name.args.name == b"a-name-that-is-"  # TASK_COMM_LEN, as the kernel cuts it
    assert call("prctl", 15, AT, memory={AT: b"worker\0"}).args.name == b"worker"
    assert call("prctl", 15, AT, memory={AT: b"fifteen bytes.."}).args.name == b"fifteen bytes.."
    refused(errno.EFAULT, lambda: call("prctl", 15, AT, memory={AT: b"short"}).args.name)
    memory = {AT: struct.pack("<H6xQ", 5, 0x3000)}
    program = call("prctl", 22, 2, AT, memory=memory)
    assert program.filter.len == 5 and str(program.mode) == "SECCOMP_MODE_FILTER"
    assert call("prctl", 22, 1, AT).args.keys() == ["op", "mode"]
    anonymous = call("prctl", 0x53564D41, 0, 0x7000, 4096, AT, memory={AT: b"x" * 80 + b"\0"})
    refused(errno.EINVAL, lambda: anonymous.args.name)
    assert str(call("prctl", 24, 21).cap) == "CAP_SYS_ADMIN"
    assert str(call("prctl", 1, 9).sig) == "SIGKILL"
    assert call("prctl", 4711, 1, 2, 3, 4).arg4 == 3


@pytest.mark.parametrize("abi", ["x86_64", "s390x"])
def test_socket_options_by_their_level_and_name(abi: str) -> None:
    end = ">" if abi == "s390x" else "<"

    def option(level: int, name: int, data: bytes, length: int | None = None) -> object:
        size = len(data) if length is None else length
        made = call("setsockopt", 3, level, name, AT, size, abi=abi, memory={AT: data})
        assert made.args.keys() == ["sockfd", "level", "optname", "optval", "optlen"]
        return made.optval

    assert option(1, 13, struct.pack(end + "ii", 1, 5)) == (1, 5)
    assert option(1, 13, struct.pack(end + "iii", 1, 5, 7)) == (1, 5)  # the rest is not looked at
    assert option(1, 20, struct.pack(end + "qq", 5, 6)) == (5, 6)
    assert option(1, 2, struct.pack(end + "i", 1)) == 1
    assert option(6, 1, struct.pack(end + "i", -1)) == -1
    assert option(1, 25, b"eth0\0") == b"eth0\0"
    assert option(6, 13, b"cubic") == b"cubic" and option(1, 25, b"x" * 40) == b"x" * 15
    assert option(77, 99, b"abc") == AT  # nobody's option: its address
    refused(errno.EINVAL, lambda: option(1, 13, struct.pack(end + "ii", 1, 5), 7))
    refused(errno.EINVAL, lambda: option(1, 2, b"\1\0\0\0", 3))
    refused(errno.EINVAL, lambda: option(1, 25, b"eth0", -1))
    refused(errno.EFAULT, lambda: option(1, 2, b"\1\0\0", 4))
    name = call("setsockopt", 3, 1, 13, AT, 8).args["optname"]
    assert str(name) == "SO_LINGER" and call("setsockopt", 3, 99, 13, AT, 8).optname == 13
    peer = call("getsockopt", 3, 1, 17, AT, 0x3000, memory={0x3000: struct.pack("<i", 12)})
    assert peer.optval == AT and peer.optlen == 12  # where it goes, and what there is room for
    known = signature("getsockopt")
    assert known is not None
    filled = known.of((3, 1, 17, AT, 0x3000, 0)).arg("optval")
    assert filled is not None and (filled.role, filled.family) == ("out", "ucred")


def test_other_commands() -> None:
    memory = {AT: struct.pack("<4H", 24, 80, 0, 0)}
    assert call("ioctl", 0, 0x5414, AT, memory=memory).argp.ws_col == 80
    assert call("ioctl", 0, 0x5421, AT, memory={AT: struct.pack("<i", 1)}).argp == 1
    assert call("ioctl", 0, 0x4711, AT).arg == AT
    search = call("keyctl", 10, -2, AT, 0x3000, -3, memory={AT: b"user\0", 0x3000: b"desc\0"})
    assert (search.type, search.description) == (b"user", b"desc")
    assert str(search.keyring) == "KEY_SPEC_PROCESS_KEYRING"
    refused(errno.EINVAL, lambda: call("keyctl", 10, -2, AT, memory={AT: b"x" * 32 + b"\0"}).type)
    action = {AT: struct.pack("<I", 0x7FFF0000)}
    assert str(call("seccomp", 2, 0, AT, memory=action).args.args) == "SECCOMP_RET_ALLOW"
    wait = {AT: struct.pack("<qq", 1, 2)}
    for op in (0, 128, 0x100 | 128):  # also private, and by another clock
        assert call("futex", 0x3000, op, 7, AT, memory=wait).timeout == (1, 2)
    assert call("futex_time64", 0x3000, 0, 7, AT, abi="i386", memory=wait).timeout == (1, 2)
    short = {AT: struct.pack("<ii", 1, 2)}
    assert call("futex", 0x3000, 0, 7, AT, abi="i386", memory=short).timeout == (1, 2)
    assert call("futex", 0x3000, 1, 7, AT).args.keys() == ["uaddr", "op", "val"]
    assert call("epoll_ctl", 3, 2, 4, 0x9999).event == 0x9999  # not looked at
    assert str(call("ptrace", 0x4206, 5, 0, 0x50).data) == "PTRACE_O_TRACEEXEC|PTRACE_O_TRACEEXIT"
    reboot = call("reboot", 0, 0, 0xA1B2C3D4, AT, memory={AT: b"recovery\0"})
    assert reboot.arg == b"recovery"
    path = call("fsconfig", 3, 3, AT, 0x3000, -100, memory={AT: b"k\0", 0x3000: b"/x\0"})
    assert (path.path, path.value, path.aux) == (b"/x", b"/x", -100)
    assert str(call("socket", 2, 2, 17).protocol) == "IPPROTO_UDP"
    assert str(call("socket", 17, 3, 0x300).protocol) == "ETH_P_ALL"
    assert call("preadv", 3, AT, 0, 5, 1).offset == 5
    assert call("preadv", 3, AT, 0, 5, 1, abi="i386").offset == (1 << 32) + 5
    assert call("_llseek", 3, 1, 5, AT, 0, abi="i386").offset == (1 << 32) + 5
    refused(errno.EFAULT, lambda: call("landlock_add_rule", 3, 1, 0, 0).rule_attr)


def test_arrays() -> None:
    memory = {AT: struct.pack("<ihhihh", 3, 1, 0, -1, 4, 0)}
    found = call("poll", AT, 2, 0, memory=memory).fds
    assert [each.fd for each in found] == [3, -1] and str(found[0].events) == "POLLIN"
    assert call("setgroups", 3, AT, memory={AT: struct.pack("<3I", 1, 2, 3)}).list == (1, 2, 3)
    old = call("setgroups", 3, AT, abi="i386", memory={AT: struct.pack("<3H", 1, 2, 3)})
    assert old.list == (1, 2, 3)
    assert call("setgroups", 0, 0).list == () and call("poll", 0, 0, 0).fds == ()
    refused(errno.EFAULT, lambda: call("setgroups", 3, 0).list)
    refused(errno.EINVAL, lambda: call("setgroups", 65537, AT).list)
    refused(errno.EINVAL, lambda: call("setgroups", -1, AT).list)
    refused(errno.E2BIG, lambda: call("semop", 5, AT, 501).sops)
    refused(errno.EINVAL, lambda: call("futex_waitv", AT, 129, 0).waiters)
    refused(errno.EFAULT, lambda: call("poll", AT, 3, 0, memory=memory).fds)


def many(*messages: tuple[int, int, int, int]) -> bytes:
    return b"".join(
        struct.pack("<Qi4xQQQQI4xI4x", name, length, iov, count, 0, 0, 0, 0)
        for name, length, iov, count in messages
    )


def test_several_messages() -> None:
    memory = {
        AT: many((0x3000, 16, 0x4000, 1), (0, 0, 0, 0)),
        0x3000: INET,
        0x4000: struct.pack("<QQ", 0x5000, 5),
    }
    found = call("sendmmsg", 3, AT, 2, 0, memory=memory).msgvec
    assert isinstance(found[0], MessageHeader)
    assert found[0].address == InetAddress("127.0.0.1", 80) and found[0].iov == ((0x5000, 5),)
    assert found[1].address is None and found[1].iov == ()
    received = call("recvmsg", 3, AT, memory=memory).msg
    assert received.address is None and (received.name, received.namelen) == (0x3000, 16)
    assert received.iov == ((0x5000, 5),)
    vectors = struct.pack("<QQ", 0x5000, 5) * 1024
    flood = {AT: many(*[(0, 0, 0x4000, 1024)] * 100), 0x4000: vectors}
    refused(errno.ENOMEM, lambda: call("sendmmsg", 3, AT, 100, 0, memory=flood).msgvec)


# Calls that stand for others --------------------------------------------------------------------


def test_socketcall_is_the_call_that_it_stands_for() -> None:
    memory = FakeMemory({AT: struct.pack("<3I", 3, 0x3000, 16), 0x3000: INET})
    made = call("socketcall", 3, AT, abi="i386", memory=memory)
    assert made.name == "socketcall" and made.args.keys() == ["sockfd", "addr", "addrlen"]
    assert memory.reads == 0 and not made.memory_read
    assert made.sockaddr == made.addr == InetAddress("127.0.0.1", 80)
    assert made.sockfd == 3 and made.args.number("addrlen") == 16 and made.memory_read
    assert str(made.args["call"]) == "SYS_CONNECT"
    assert made.describe().startswith("connect(3, {sa_family=AF_INET, ")
    assert "socketcall" not in repr(made) and memory.reads == 2  # the block, and the address
    memory.regions[AT] = struct.pack("<3I", 9, 0, 0)  # another thread writes there
    assert made.sockfd == 3 and made.describe().startswith("connect(3, {sa_family=AF_INET, ")
    wide = call("socketcall", 3, AT, abi="s390x", memory={AT: struct.pack(">3Q", 3, 0x3000, 16)})
    assert wide.sockfd == 3


def test_socketcall_whose_arguments_depend_on_more() -> None:
    block = struct.pack("<5I", 3, 1, 13, 0x3000, 8)
    memory = {AT: block, 0x3000: struct.pack("<ii", 1, 5)}
    made = call("socketcall", 14, AT, abi="i386", memory=memory)
    assert made.optval == (1, 5) and str(made.args["optname"]) == "SO_LINGER"
    assert "SO_LINGER, {l_onoff=1, l_linger=5}" in made.describe()


def test_socketcall_without_its_arguments() -> None:
    made = call("socketcall", 3, AT, abi="i386")
    refused(errno.EFAULT, lambda: made.sockfd)
    refused(errno.EFAULT, lambda: made.sockaddr)
    refused(errno.EFAULT, lambda: made.args.number("sockfd"))
    assert made.describe() == "socketcall(SYS_CONNECT, 0x2000 (EFAULT))"
    assert made.describe(read=False) == "socketcall(SYS_CONNECT, 0x2000)"
    for number in (0, 21, 0xFFFFFFFF):
        odd = call("socketcall", number, AT, abi="i386")
        assert odd.args.keys() == ["call", "args"] and odd.args.number("args") == AT


def test_ipc_is_the_call_that_it_stands_for() -> None:
    memory = {AT: struct.pack("<Hhh", 0, -1, 0x800)}
    made = call("ipc", 1, 5, 1, 0, AT, abi="i386", memory=memory)
    assert made.args.keys() == ["semid", "sops", "nsops"]
    assert made.semid == 5 and made.sops[0].sem_op == -1 and made.nsops == 1
    control = call("ipc", 1 << 16 | 14, 5, 0x100 | 2, 0, AT, abi="i386")  # a version above
    assert control.args.keys() == ["msqid", "op", "buf"] and control.buf == AT
    assert str(control.op) == "IPC_STAT|IPC_64"
    assert control.describe() == "msgctl(5, IPC_STAT|IPC_64, 0x2000)"


ANY = st.lists(
    st.one_of(st.integers(0, 64), st.integers(0, 2**64 - 1), st.sampled_from([0x5414, 0xA1B2C3D4])),
    min_size=6,
    max_size=6,
)


@given(st.data(), ANY)
def test_any_registers_have_a_signature(data: st.DataObject, registers: list[int]) -> None:
    abi = data.draw(st.sampled_from(sorted(ARCHITECTURES)))
    name = data.draw(st.sampled_from(sorted(tables.numbers(abi))))
    known = signature(name, abi)
    assert known is not None
    made = known.of(registers)
    assert made.of(registers) is made or made.block is not None
    assert len({arg.name for arg in made.args}) == len(made.args)
    assert all(0 <= arg.reg < 6 and arg.reg_high < 6 for arg in made.args)


def test_what_is_remembered_of_commands_is_bounded() -> None:
    known = signature("ioctl")
    assert known is not None and known.choice is not None
    before = len(known.choice.made)
    for number in range(0x8000, 0x18000, 7):
        assert isinstance(known.of((3, number, 0, 0, 0, 0)), Signature)
    assert len(known.choice.made) == before < 100
