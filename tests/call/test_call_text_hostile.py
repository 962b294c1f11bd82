"""Lines for a log from hostile registers and memory: they never raise, end, and stay one line."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proctor.call.strace.line import LINE_MAX, PART_MAX
from proctor.errors import CallGone, MemoryUnreadable
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from proctor.syscalls.signatures import POINTER_ROLES, Signature, signature
from proctor.words import c_string
from tests.call.fakes import FakeMemory, call
from tests.call.test_call_text import registers, rows
from tests.call.text_table import BASE, IMAGE

#: Most bytes of the caller's memory that one line may cost: three paths, and what is not a path.
READ_MAX = 20 << 10


class Everywhere(FakeMemory):
    """Every address is mapped, with the same bytes again and again; what is read is counted."""

    def __init__(self, pattern: bytes, mapped: int = 1 << 64, most: int = READ_MAX) -> None:
        super().__init__({})
        self.pattern, self.mapped, self.bytes, self.most = pattern, mapped, 0, most

    def read_some(self, address: int, size: int) -> bytes:
        assert size >= 0
        if not 0 <= address < self.mapped:
            raise MemoryUnreadable(errno.EFAULT, "unmapped", address)
        size = min(size, self.mapped - address, 64 << 20)
        self.bytes += size
        assert size <= self.most, f"{size} bytes at once"
        start = address % len(self.pattern)
        return (self.pattern * (size // len(self.pattern) + 2))[start : start + size]

    def string(self, address: int, limit: int = 4096) -> bytes:
        # as the real one: up to the NUL, which is what counts
        found = self.read_some(address, limit)
        end = found.find(b"\0")
        if end >= 0:
            self.bytes -= len(found) - end - 1
            return found[:end]
        raise MemoryUnreadable(errno.ENAMETOOLONG, "no end", address)


def sound(text: str) -> None:
    assert text.isascii() and text.isprintable()
    assert len(text) <= LINE_MAX <= 26_000


NUMBERS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 1 << 12),
    st.sampled_from([1 << bit for bit in range(64)] + [2**64 - 1, 2**32 - 1, 2**31]),
)


@given(
    st.data(),
    st.lists(NUMBERS, min_size=6, max_size=6),
    st.binary(min_size=1, max_size=64),
    st.sampled_from([1 << 64, 1 << 32, 4096, 5]),
)
@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])
def test_any_registers_and_any_memory(
    data: st.DataObject, numbers: list[int], pattern: bytes, mapped: int
) -> None:
    abi = data.draw(st.sampled_from(list(ARCHITECTURES)))
    name = data.draw(st.sampled_from(sorted(tables.numbers(abi))))
    memory = Everywhere(pattern, mapped)
    made = call(name, *numbers, abi=abi, memory=memory)
    text = made.describe()
    sound(text)
    assert memory.bytes <= READ_MAX
    assert made.describe(read=False).isascii()
    sound(repr(made)[:LINE_MAX])


TABLE = rows()
IMAGE_BYTES = bytes(TABLE.m.data)


@given(
    st.sampled_from(TABLE.rows),
    st.lists(st.tuples(st.integers(0, 5), NUMBERS), max_size=2),
    st.lists(st.tuples(st.integers(0, len(IMAGE_BYTES) - 1), st.binary(max_size=9)), max_size=20),
)
@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])
def test_calls_of_the_table_with_some_bytes_changed(
    row: object, changes: list[tuple[int, int]], bytes_changed: list[tuple[int, bytes]]
) -> None:
    numbers = registers(row)  # type: ignore[arg-type]
    for index, number in changes:
        numbers[index] = number
    image = bytearray(IMAGE_BYTES)
    for at, changed in bytes_changed:
        image[at : at + len(changed)] = changed
    memory = FakeMemory({BASE + IMAGE: bytes(image)})
    made = call(row.name, *numbers, abi=row.abi, memory=memory)  # type: ignore[attr-defined]
    sound(made.describe())
    known = made.signature
    assert known is not None
    for arg in known.args:
        try:
            _ = made.args[arg.name]
        except (MemoryUnreadable, CallGone):
            pass
    sound(made.describe())
    made.expire()
    sound(repr(made))  # of what is known; nothing may be looked at any more


@pytest.mark.parametrize("abi", ["x86_64", "i386", "aarch64", "s390x"])
def test_the_worst_line_has_an_end(abi: str) -> None:
    """Every call with all registers leading to memory full of bytes that need most characters."""
    longest = 0
    for name in tables.numbers(abi):
        for pattern in (b"\377", b"\377" * 1000 + b"\0", b"\1\20\0\0\0\0\0\0"):
            memory = Everywhere(pattern)
            text = call(name, *[0x1010] * 6, abi=abi, memory=memory).describe()
            sound(text)
            assert memory.bytes <= READ_MAX, name
            longest = max(longest, len(text))
    assert longest > PART_MAX  # this does reach the limits


@pytest.mark.parametrize("abi", ["x86_64", "i386"])
@pytest.mark.parametrize("edge", [0, 1, -1, 1 << 31, (1 << 31) - 1, 1 << 63, 1025, 4097])
def test_edges_of_every_number(abi: str, edge: int) -> None:
    """Addresses that are mapped; lengths, counts and commands at their edges."""
    for name in tables.numbers(abi):
        known = signature(name, abi)
        assert known is not None
        numbers = [0x1010 * (arg.role in POINTER_ROLES) or edge for arg in known.args]
        raw = [0] * 6
        for arg, number in zip(known.args, numbers, strict=True):
            raw[arg.reg] = number
        for pattern in (b"\377", b"\0", b"\1\20\0\0\0\0\0\0"):
            memory = Everywhere(pattern)
            sound(call(name, *raw, abi=abi, memory=memory).describe())
            assert memory.bytes <= READ_MAX, name


def commands(known: Signature, registers: list[int]) -> Iterator[list[int]]:
    """The registers of each command of a call, and of each command of those."""
    yield registers
    if known.choice is not None:
        for number in list(known.choice.made):
            chosen = list(registers)
            chosen[known.choice.arg.reg] = number
            narrowed = known.of(chosen)
            if narrowed is not known:
                yield from commands(narrowed, chosen)


@pytest.mark.parametrize(
    ("abi", "pattern"),
    [(abi, b"\1\20\0\0\0\0\0\0") for abi in ARCHITECTURES]
    + [(abi, b"\377" * 1000 + b"\0") for abi in ("x86_64", "i386", "s390x")],
)
def test_every_command_of_every_call_has_a_sound_line_and_values(abi: str, pattern: bytes) -> None:
    count = 0
    for name in tables.numbers(abi):
        known = signature(name, abi)
        assert known is not None
        for raw in commands(known, [0x1010] * 6):
            memory = Everywhere(pattern)
            made = call(name, *raw, abi=abi, memory=memory)
            sound(made.describe())
            assert memory.bytes <= READ_MAX, (name, raw)
            again = call(name, *raw, abi=abi, memory=FakeMemory({0x1010: pattern * 5000}))
            for arg in again.args:
                try:
                    again.args[arg]
                except (MemoryUnreadable, CallGone):
                    pass
            count += 1
    assert count > len(tables.numbers(abi)) + 150


def test_callers_that_are_gone() -> None:
    for row in TABLE.rows:
        made = call(row.name, *registers(row), abi=row.abi, memory=FakeMemory({}, gone=True))
        sound(made.describe())


def test_nothing_is_read_where_nothing_may_be() -> None:
    for row in TABLE.rows:
        memory = FakeMemory({BASE + IMAGE: IMAGE_BYTES})
        made = call(row.name, *registers(row), abi=row.abi, memory=memory)
        sound(made.describe(read=False))
        sound(repr(made))
        assert memory.reads == 0 and not made.memory_read, row


def test_calls_that_read_say_so_beforehand() -> None:
    """The supervisor decides by this where a line is made: reading may take long."""
    from proctor.call.decode.argument import reads

    for row in TABLE.rows:
        memory = FakeMemory({BASE + IMAGE: IMAGE_BYTES})
        made = call(row.name, *registers(row), abi=row.abi, memory=memory)
        assert made.frame is not None
        beforehand = reads(made.frame.signature)
        made.describe()
        assert not memory.reads or beforehand, row


class Once(FakeMemory):
    """No byte may be read twice."""

    def __init__(self, data: bytes) -> None:
        super().__init__({BASE + IMAGE: data})
        self.seen: set[int] = set()

    def string(self, address: int, limit: int = 4096) -> bytes:
        found = FakeMemory(self.regions).string(address, limit)
        return self.note(address, found + b"\0")[:-1]

    def read_some(self, address: int, size: int) -> bytes:
        return self.note(address, super().read_some(address, size))

    def note(self, address: int, found: bytes) -> bytes:
        again = self.seen.intersection(range(address, address + len(found)))
        assert not again, f"{min(again):#x} is read again"
        self.seen.update(range(address, address + len(found)))
        return found


def test_what_a_handler_was_told_is_what_the_line_says() -> None:
    """Decoded first, then changed by another thread: the line is made of what was decoded."""
    image = struct.pack("<4Q", 0, 0, 5, 0)
    memory = FakeMemory({0x2000: image, 0x3000: b"/safe\0"})
    made = call("clock_nanosleep", 0, 0, 0x2010, 0, memory=memory)
    assert made.request == (5, 0)
    memory.regions[0x2000] = bytes(32)
    assert "{tv_sec=5, tv_nsec=0}" in made.describe()
    made = call("rt_sigprocmask", 0, 0x2000, 0, 8, memory={0x2000: struct.pack("<Q", 0x4002)})
    assert list(made.set) == [2, 15] and 15 in made.set and 1 not in made.set
    made.memory.regions[0x2000] = bytes(8)  # type: ignore[attr-defined]
    assert "[INT TERM]" in made.describe()


SHARED = {"sendmmsg", "process_vm_readv", "process_vm_writev"}


def test_no_byte_of_a_structure_is_read_twice() -> None:
    for row in TABLE.rows:
        if row.ours or row.name in SHARED or len(set(row.args)) < len(row.args):
            continue  # there the arguments themselves share memory
        known = signature(row.name, row.abi)
        assert known is not None
        memory = Once(IMAGE_BYTES)
        made = call(row.name, *registers(row), abi=row.abi, memory=memory)
        for arg in known.args:
            if arg.role in ("struct", "timespec"):
                try:
                    _ = made.args[arg.name]
                except MemoryUnreadable:
                    pass


@given(st.binary(max_size=80), st.integers(1, 40))
def test_strings_say_exactly_their_bytes(data: bytes, limit: int) -> None:
    import ast

    text = c_string(data, limit)
    assert text.isascii() and text.isprintable()
    literal, cut = (text[:-3], True) if text.endswith('"...') else (text, False)
    assert cut == (len(data) > limit)
    assert ast.literal_eval("b" + literal) == data[:limit]
