"""Verdicts that write into the caller's memory: on real programs, and where they cannot."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

import proctor
from proctor.call.verdict import WRITE_MAX
from proctor.testing import FakeTarget


def python(code: str, *handlers: Callable, **options: object) -> str:
    """What a Python program prints, with these handlers."""
    done = proctor.run(
        [sys.executable, "-I", "-S", "-c", code], handlers, capture_output=True, text=True,
        timeout=60, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return str(done.stdout).strip()


def test_getrandom_is_answered() -> None:
    @proctor.on("getrandom")
    def certain(call: proctor.Call) -> proctor.Verdict:
        if call.flags == 1:  # GRND_NONBLOCK: the interpreter's own
            return proctor.let_run()
        data = bytes(number & 0xFF for number in range(call.buflen))
        return proctor.answer(len(data), writes=[(call.buf, data)])

    code = "import os; print(*os.getrandom(4), len(os.getrandom(1000)))"
    assert python(code, certain) == "0 1 2 3 1000"


def test_what_is_plainly_there_is_written_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 11):
        pytest.skip("mappings are asked one by one since Linux 6.11 (PROCMAP_QUERY)")

    def longer(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "the longer way")

    monkeypatch.setattr("proctor.kernel.address_space.AddressSpace", longer)
    test_a_read_has_a_length_of_our_choosing()


def test_a_read_has_a_length_of_our_choosing() -> None:
    @proctor.on("read")
    def short(call: proctor.Call) -> proctor.Verdict | None:
        if call.args.fd != 0:
            return None
        return proctor.answer(3, writes=[(call.buf, b"ab"), (call.buf + 2, b"c")])

    assert python("import os; print(os.read(0, 100))", short, stdin=-3) == "b'abc'"


def test_what_cannot_be_written_is_efault() -> None:
    """As the kernel's own copy: read-only pages stay read-only, and what is before stays written."""
    code = """if True:
        import ctypes, mmap, os
        libc = ctypes.CDLL(None, use_errno=True)
        page = mmap.PAGESIZE
        libc.mmap.restype = ctypes.c_void_p
        area = libc.mmap(None, ctypes.c_size_t(3 * page), 3, 0x22, -1, ctypes.c_long(0))
        libc.mprotect(ctypes.c_void_p(area + page), ctypes.c_size_t(page), 1)
        libc.munmap(ctypes.c_void_p(area + 2 * page), ctypes.c_size_t(page))
        for at in (area + page - 4, area + page, area + 2 * page, 0, area):
            got = libc.getrandom(ctypes.c_void_p(at), ctypes.c_size_t(8), 0)
            print(got, ctypes.get_errno() if got < 0 else 0)
        print(ctypes.string_at(area, 8), ctypes.string_at(area + page - 4, 8))
    """
    seen: list[str] = []

    @proctor.on("getrandom")
    def certain(call: proctor.Call) -> proctor.Verdict:
        if call.flags:
            return proctor.let_run()
        return proctor.answer(8, writes=[(call.buf, b"01234567")])

    observer = proctor.outcomes(lambda outcome: seen.append(str(outcome.verdict)))
    said = python(code, certain, observers=[observer])
    assert said.splitlines() == [
        *[f"-1 {errno.EFAULT}"] * 4, "8 0", r"b'01234567' b'0123\x00\x00\x00\x00'",
    ]  # fmt: skip
    assert [each for each in seen if each != "let run"] == [
        *["deny EFAULT"] * 4, "answer 8, 8 bytes written",
    ]  # fmt: skip


def test_what_is_handed_over_and_cannot_be_written_stays_here() -> None:
    """accept(2) with a bad address: EFAULT, and no descriptor more in the target."""
    given: list[int] = []

    @proctor.on("getsockname")
    def odd(call: proctor.Call) -> proctor.Verdict:
        given.append(os.memfd_create("given"))
        return proctor.hand_over(given[-1], writes=[(call.addr, b"x" * 8)])

    code = """if True:
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        room = ctypes.create_string_buffer(16)
        before = len(os.listdir("/proc/self/fd"))
        print(libc.getsockname(0, ctypes.c_void_p(4096), None), ctypes.get_errno())
        print(len(os.listdir("/proc/self/fd")) - before)
        print(libc.getsockname(0, room, None) > 2, room.value, len(os.listdir("/proc/self/fd")) - before)
    """
    assert python(code, odd).split("\n") == [f"-1 {errno.EFAULT}", "0", "True b'xxxxxxxx' 1"]
    for fd in given:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


def test_a_caller_that_nobody_can_write_to_is_told_on_error() -> None:
    with FakeTarget(dumpable=False) as target:
        call = target.call("getrandom", 4096, 8, 0)
        outcome = target.run(lambda call: proctor.answer(8, writes=[(call.buf, b"x")]), call)
        assert isinstance(outcome.error, proctor.MemoryUnwritable)
        assert (outcome.errno, outcome.written) == (errno.EPERM, ())
    with FakeTarget(tid=0) as target:
        call = target.call("getrandom", 4096, 8, 0)
        outcome = target.run(lambda call: proctor.answer(8, writes=[(4096, b"x")]), call)
        assert isinstance(outcome.error, proctor.CallerInvisible)
        assert outcome.errno == errno.EPERM


def test_a_dead_caller_is_not_written_to() -> None:
    with FakeTarget() as target:

        def late(call: proctor.Call) -> proctor.Verdict:
            target.die()
            return proctor.answer(8, writes=[(call.buf, b"x")])

        outcome = target.run(late, target.call("getrandom", target.memory.place(bytes(8)), 8, 0))
        assert (outcome.delivered, outcome.written, outcome.error) == (False, (), None)


def test_nothing_is_written_for_a_call_that_its_deadline_answered() -> None:
    with FakeTarget() as target:

        @proctor.on("getrandom", deadline=1.0)
        def late(call: proctor.Call) -> proctor.Verdict:
            target.advance(2.0)
            return proctor.answer(8, writes=[(call.buf, b"x")])

        outcome = target.run(late, target.call("getrandom", target.memory.place(bytes(8)), 8, 0))
        assert (outcome.decided_by, outcome.written) == ("deadline", ())


def test_a_write_that_waits_holds_up_nobody() -> None:
    """Memory can answer late: another caller is received and answered meanwhile."""
    entered, release = threading.Event(), threading.Event()

    def decide(call: proctor.Call) -> proctor.Verdict | None:
        if call.flags:
            return None  # the interpreter's own
        if call.registers[1] == 5:
            assert entered.wait(30)
            release.set()
            return None
        real = call.memory.write

        def write(address: int, data: bytes) -> None:
            entered.set()
            assert release.wait(30)
            real(address, data)

        call._memory = SimpleNamespace(write=write)  # type: ignore[assignment]
        return proctor.answer(4, writes=[(call.buf, b"abcd")])

    handler = proctor.Handler(("getrandom",), decide)
    program = (
        "import os\nif os.fork() == 0: print(os.getrandom(4))\nelse: os.getrandom(5); os.wait()"
    )
    assert python(program, handler) == "b'abcd'"


@pytest.mark.parametrize(
    "writes",
    [[(0, "text")], [(-1, b"x")], [(1 << 64, b"x")], [b"x"], [(1, b"", 2)], [(1.5, b"x")], [5],
     [(0, bytes(WRITE_MAX)), (0, b"x")]],
)  # fmt: skip
def test_writes_that_are_none(writes: list) -> None:
    for make in (
        lambda: proctor.answer(0, writes=writes),
        lambda: proctor.hand_over(0, writes=writes),
    ):
        with pytest.raises(ValueError, match="writes has"):
            make()


def test_fakes_show_what_was_written() -> None:
    with FakeTarget() as target:
        place = target.memory.place(b"........")
        edge = target.memory.place(b"....", readonly=True)

        def fills(call: proctor.Call) -> proctor.Verdict:
            return proctor.answer(8, writes=[(call.buf + 2, bytearray(b"ab")), (call.buf, b"c")])

        outcome = target.run(fills, target.call("getrandom", place, 8, 0))
        assert outcome.value == 8 and outcome.written == ((place + 2, b"ab"), (place, b"c"))
        assert target.memory.peek(place, 8) == b"c.ab...."
        outcome = target.run(fills, target.call("getrandom", edge, 8, 0))
        assert (outcome.errno, outcome.written) == (errno.EFAULT, ())
        outcome = target.run(fills, target.call("getrandom", place + 5, 8, 0))
        assert (outcome.errno, outcome.written) == (errno.EFAULT, ((place + 7, b"a"),))
