"""What calls fill: on real programs, on paper for other machines, and what is refused."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable

import pytest

import proctor
from proctor.call.decode.sockaddr import Inet6Address, InetAddress, UnixAddress
from proctor.call.decode.values import Timespec
from proctor.testing import UNMAPPED, FakeTarget


def runs(command: list[str], *handlers: Callable, **options: object) -> str:
    """What a program prints."""
    done = proctor.run(
        command,
        handlers,
        capture_output=True,
        text=True,
        timeout=60,
        # What is put before a program, a sanitizer's run-time for one, does not stand false answers.
        env={name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
        **options,  # type: ignore[arg-type]
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout).strip()


def python(code: str, *handlers: Callable, **options: object) -> str:
    return runs([sys.executable, "-I", "-S", "-c", code], *handlers, **options)


# Real programs -----------------------------------------------------------------------------------


def test_uname_is_answered() -> None:
    @proctor.on("uname")
    def other(call: proctor.Call) -> proctor.Verdict:
        names = {"sysname": "Proctor", "nodename": b"box", "release": "9.9", "machine": "abacus"}
        return proctor.answer(0, writes=call.fill("buf", version="#1", **names))

    assert runs(["uname", "-snrvm"], other) == "Proctor box 9.9 #1 abacus"
    assert python("import os; print(*os.uname())", other) == "Proctor box 9.9 #1 abacus"


def test_getrandom_is_answered() -> None:
    @proctor.on("getrandom")
    def certain(call: proctor.Call) -> proctor.Verdict:
        if call.flags:  # the interpreter's own
            return proctor.let_run()
        data = b"certainly"[: call.buflen]
        return proctor.answer(len(data), writes=call.fill("buf", data))

    assert (
        python("import os; print(os.getrandom(4), os.getrandom(20))", certain)
        == "b'cert' b'certainly'"
    )


def test_reads_of_a_chosen_length() -> None:
    @proctor.on("read", "readv")
    def short(call: proctor.Call) -> proctor.Verdict | None:
        if call.args.fd != 0:
            return None
        return proctor.answer(
            5, writes=call.fill("buf" if call.name == "read" else "iov", b"short")
        )

    code = """if True:
        import os
        a, b, c = bytearray(2), bytearray(0), bytearray(9)
        print(os.read(0, 100), os.readv(0, [a, b, c]), a, c)
    """
    assert python(code, short, stdin=-3) == (
        r"b'short' 5 bytearray(b'sh') bytearray(b'ort\x00\x00\x00\x00\x00\x00')"
    )


def test_structures_are_what_the_program_takes_them_for(tmp_path: object) -> None:
    there = os.stat(__file__)

    @proctor.on(
        "newfstatat", "stat", "statx", "getresuid", "getgroups", "sysinfo", "getrlimit", "prlimit64"
    )
    def filled(call: proctor.Call) -> proctor.Verdict | None:
        if call.name == "sysinfo":
            return proctor.answer(0, writes=call.fill("info", uptime=77, procs=5, mem_unit=1))
        if call.name == "getresuid":
            writes = [
                write
                for name, uid in (("ruid", 1), ("euid", 2), ("suid", 3))
                for write in call.fill(name, uid)
            ]
            return proctor.answer(0, writes=writes)
        if call.name == "getgroups":
            groups = (7, 8, 9)
            return proctor.answer(3, writes=call.fill("list", groups) if call.size else ())
        if call.name == "prlimit64":
            return proctor.answer(0, writes=call.fill("old_limit", rlim_cur=11, rlim_max=12))
        if call.name in ("newfstatat", "stat") and call.path == b"/never/there":
            return proctor.answer(0, writes=call.fill("statbuf", there))
        return proctor.let_run_unsafe("not ours")

    code = """if True:
        import ctypes, os, resource
        print(os.stat("/never/there"))
        print(os.getresuid(), os.getgroups())
        print(resource.getrlimit(resource.RLIMIT_CORE))
        words = (ctypes.c_long * 32)()
        assert ctypes.CDLL(None).sysinfo(words) == 0
        print(words[0], words[10] & 0xFFFF)
    """
    done = python(code.replace("-S", ""), filled).splitlines()
    assert done == [str(there), "(1, 2, 3) [7, 8, 9]", "(11, 12)", "77 5"]


def test_socket_addresses_and_messages() -> None:
    """accept(2) hands a connection over with the address of our choosing; recvmsg(2) fills it all."""
    ours, theirs = socket.socketpair()

    @proctor.on("accept4", "getsockname", "getpeername", "recvfrom", "recvmsg")
    def filled(call: proctor.Call) -> proctor.Verdict | None:
        if call.name == "accept4":
            fd = os.dup(theirs.fileno())
            return proctor.hand_over(fd, cloexec=True, writes=call.fill("addr", ("192.0.2.1", 80)))
        if call.name == "getsockname":
            return proctor.answer(0, writes=call.fill("addr", ("2001:db8::1", 443)))
        if call.name == "getpeername":
            return proctor.answer(0, writes=call.fill("addr", UnixAddress("abstract", b"x\0y")))
        if call.name == "recvfrom":
            writes = (*call.fill("buf", b"data"), *call.fill("src_addr", ("192.0.2.2", 53)))
            return proctor.answer(4, writes=writes)
        control = struct.pack("QiiI4x", 20, socket.SOL_SOCKET, socket.SCM_RIGHTS, 0)[:0]
        address = InetAddress("192.0.2.3", 7)
        filled = call.fill("msg", data=b"scattered", address=address, control=control, flags=0x20)
        return proctor.answer(9, writes=filled)

    code = """if True:
        import os, socket
        s = socket.socket()
        fd, address = s._accept()
        print(address, os.read(fd, 9))
        s6 = socket.socket(socket.AF_INET6)
        print(s6.getsockname())
        print(socket.socket(socket.AF_UNIX).getpeername())
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        print(u.recvfrom(10))
        a, b = bytearray(3), bytearray(20)
        print(u.recvmsg_into([a, b], 64), a, bytes(b[:6]))
    """
    with ours, theirs:
        ours.send(b"hello")
        assert python(code.replace("-S", ""), filled).splitlines() == [
            "('192.0.2.1', 80) b'hello'",
            "('2001:db8::1', 443, 0, 0)",
            r"b'\x00x\x00y'",
            "(b'data', ('192.0.2.2', 53))",
            "(9, [], 32, ('192.0.2.3', 7)) bytearray(b'sca') b'ttered'",
        ]


# On paper ----------------------------------------------------------------------------------------


def writes_of(
    target: FakeTarget, call: proctor.Call, *value: object, **fields: object
) -> dict[int, bytes]:
    argument, *rest = value
    return dict(call.fill(argument, *rest, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("abi", "size", "order"),
    [("x86_64", 16, "<"), ("i386", 8, "<"), ("s390x", 16, ">"), ("arm", 8, "<")],
)
def test_each_machine_has_its_own_width_and_order(abi: str, size: int, order: str) -> None:
    with FakeTarget() as target:
        place = target.memory.place(bytes(size))
        call = target.call("clock_gettime", 0, place, abi=abi)
        codes = order + ("qq" if size == 16 else "ii")
        for made in (call.fill("tp", Timespec(5, 7)), call.fill("tp", tv_sec=5, tv_nsec=7)):
            assert made == ((place, struct.pack(codes, 5, 7)),)
        outcome = target.run(
            lambda call: proctor.answer(0, writes=call.fill("tp", Timespec(1, 2))), call
        )
        assert outcome.written == ((place, struct.pack(codes, 1, 2)),)
        assert target.memory.peek(place, size) == struct.pack(codes, 1, 2)


def test_addresses_are_cut_as_the_kernel_cuts_them() -> None:
    """Held to a real accept(2) above; here to ``move_addr_to_user``."""
    with FakeTarget() as target:
        full = struct.pack("<H", 2) + bytes.fromhex("0050c0000201") + bytes(8)
        for given in (0, 2, 16, 100):
            length = target.memory.place(struct.pack("<i", given))
            room = target.memory.place(bytes(128))
            call = target.call("accept", 3, room, length)
            made = dict(call.fill("addr", InetAddress("192.0.2.1", 80)))
            assert made.pop(length) == struct.pack("<i", 16)
            assert made == ({room: full[:given]} if given else {})
        call = target.call("accept", 3, 0, 0)
        assert call.fill("addr", InetAddress("192.0.2.1", 80)) == ()
        for bad, number in ((0, errno.EFAULT), (UNMAPPED, errno.EFAULT)):
            with pytest.raises(proctor.MemoryUnreadable) as refused:
                target.call("accept", 3, room, bad).fill("addr", Inet6Address("::1", 1))
            assert refused.value.errno == number
        negative = target.memory.place(struct.pack("<i", -1))
        with pytest.raises(proctor.MemoryUnreadable) as refused:
            target.call("getsockname", 3, room, negative).fill("addr", b"x")
        assert refused.value.errno == errno.EINVAL


def test_the_length_of_an_option_is_told_in_its_place() -> None:
    with FakeTarget() as target:
        length = target.memory.place(struct.pack("<i", 8))
        value = target.memory.place(bytes(8))
        call = target.call("getsockopt", 3, 1, 7, value, length)
        assert dict(call.fill("optval", b"abc")) == {value: b"abc", length: struct.pack("<i", 3)}
        with pytest.raises(ValueError, match="room for 8"):
            call.fill("optval", bytes(9))


def test_what_cannot_be_filled() -> None:
    with FakeTarget() as target:
        room = target.memory.place(bytes(500))
        read = target.call("read", 0, room, 4)
        for problem, match, fill in (
            (ValueError, "room for 4 bytes, not for 5", lambda: read.fill("buf", b"12345")),
            (TypeError, "does not fill 'fd'; it fills buf", lambda: read.fill("fd", 1)),
            (TypeError, "does not fill 'none'", lambda: read.fill("none", b"")),
            (TypeError, "with bytes", lambda: read.fill("buf", 5)),
            (TypeError, "one value, or with fields", lambda: read.fill("buf")),
            (TypeError, "one value, or with fields", lambda: read.fill("buf", b"", x=1)),
            (
                TypeError,
                "no field 'colour'; it has sysname",
                lambda: target.call("uname", room).fill("buf", colour=1),
            ),
            (
                ValueError,
                "nodename has room for 65",
                lambda: target.call("uname", room).fill("buf", nodename="x" * 66),
            ),
            (
                ValueError,
                "ruid cannot be -1",
                lambda: target.call("getresuid", room, room, room).fill("ruid", -1),
            ),
            (
                TypeError,
                "no 'colour'",
                lambda: target.call("recvmsg", 3, room, 0).fill("msg", colour=1),
            ),
            (TypeError, "not known", lambda: target.call(4000, 1).fill("buf", b"")),
        ):
            with pytest.raises(problem, match=match):
                fill()  # type: ignore[no-untyped-call]
        assert target.call("times", 0).fill("buf", tms_utime=1) == ()  # NULL is allowed there
        null = target.call("uname", 0)
        outcome = target.run(
            lambda call: proctor.answer(0, writes=call.fill("buf", sysname="x")), null
        )
        assert outcome.errno == errno.EFAULT and outcome.written == ()


def test_messages_of_a_hostile_caller() -> None:
    with FakeTarget() as target:
        for iovlen, number in ((1025, errno.EMSGSIZE), (3, errno.EFAULT)):
            header = struct.pack("<Qi4xQQQQi4x", 0, 0, UNMAPPED, iovlen, 0, 0, 0)
            call = target.call("recvmsg", 3, target.memory.place(header), 0)
            with pytest.raises(proctor.MemoryUnreadable) as refused:
                call.fill("msg", data=b"x")
            assert refused.value.errno == number
        header = struct.pack("<Qi4xQQQQi4x", 0, 0, 0, 0, 0, 0, 0)
        call = target.call("recvmsg", 3, target.memory.place(header), 0)
        for what in ({"data": b"x"}, {"control": b"x"}):
            with pytest.raises(ValueError, match="room for 0"):
                call.fill("msg", **what)
