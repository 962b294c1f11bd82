"""Instructions: interpreter, checker, text."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proctor.errors import FilterError
from proctor.filter import opcodes as op
from proctor.filter.check import check, constant_allow
from proctor.filter.interpreter import Machine, run
from proctor.filter.program import Program
from proctor.kernel import abi
from proctor.syscalls.architectures import ARCHITECTURES

pack = abi.SOCK_FILTER.pack
X86 = abi.AUDIT_ARCH_X86_64
ARGS = (0x1111111122222222, 0x3333333344444444, 5, 6, 7, 0x8888888899999999)
RET_A = pack(op.RET_A, 0, 0, 0)


def after(*instructions: tuple[int, int]) -> int:
    """A after some (code, k)."""
    return run(
        b"".join(pack(code, 0, 0, k) for code, k in instructions) + RET_A,
        9,
        X86,
        0x7766554433221100,
        ARGS,
    )


LOADS = {
    0: 9,
    4: X86,
    8: 0x33221100,
    12: 0x77665544,
    16: 0x22222222,
    20: 0x11111111,
    24: 0x44444444,
    28: 0x33333333,
    56: 0x99999999,
    60: 0x88888888,
}


@pytest.mark.parametrize(("offset", "word"), LOADS.items())
def test_loads(offset: int, word: int) -> None:
    assert after((op.LD_ABS, offset)) == word


def test_loads_on_a_big_endian_architecture() -> None:
    code = pack(op.LD_ABS, 0, 0, 16) + RET_A
    assert run(code, 9, ARCHITECTURES["s390x"].audit, 0, ARGS) == 0x11111111


@pytest.mark.parametrize(
    ("operation", "a", "b", "result"),
    [
        (op.ADD, 0xFFFFFFFF, 2, 1),
        (op.SUB, 1, 2, 0xFFFFFFFF),
        (op.MUL, 0x10000, 0x10001, 0x10000),
        (op.DIV, 7, 2, 3),
        (op.DIV, 0xFFFFFFFE, 0xFFFFFFFF, 0),
        (op.OR, 5, 6, 7),
        (op.AND, 5, 6, 4),
        (op.XOR, 5, 6, 3),
        (op.LSH, 0x80000001, 1, 2),
        (op.RSH, 0x80000000, 31, 1),
    ],
)
def test_arithmetic(operation: int, a: int, b: int, result: int) -> None:
    assert after((op.LD_IMM, a), (op.ALU | operation, b)) == result
    assert after((op.LD_IMM, a), (op.LDX_IMM, b), (op.ALU | operation | op.SRC_X, 0)) == result


def test_shifts_by_x_use_five_bits() -> None:
    assert after((op.LD_IMM, 3), (op.LDX_IMM, 33), (op.ALU | op.LSH | op.SRC_X, 0)) == 6
    assert after((op.LD_IMM, 3), (op.LDX_IMM, 32), (op.ALU | op.RSH | op.SRC_X, 0)) == 3


def test_division_by_x_zero_ends_with_kill_thread() -> None:
    code = pack(op.LD_IMM, 0, 0, 7) + pack(op.ALU | op.DIV | op.SRC_X, 0, 0, 0)
    assert run(code + pack(op.RET_K, 0, 0, abi.SECCOMP_RET_ALLOW), 0, X86) == 0


def test_registers() -> None:
    assert after((op.LD_LEN, 0)) == 64
    assert after((op.LDX_LEN, 0), (op.TXA, 0)) == 64
    assert after((op.LD_IMM, 1), (op.NEG, 0)) == 0xFFFFFFFF
    assert after((op.LD_IMM, 5), (op.TAX, 0), (op.LD_IMM, 0), (op.TXA, 0)) == 5
    assert after((op.LD_IMM, 5), (op.ST, 15), (op.LD_IMM, 0), (op.LD_MEM, 15)) == 5
    assert after((op.LDX_IMM, 5), (op.STX, 0), (op.LDX_IMM, 0), (op.LDX_MEM, 0), (op.TXA, 0)) == 5
    assert after() == 0


@pytest.mark.parametrize(
    ("jump", "a", "b", "taken"),
    [
        (op.JEQ_K, 5, 5, True),
        (op.JEQ_K, 5, 6, False),
        (op.JGT_K, 6, 5, True),
        (op.JGT_K, 5, 5, False),
        (op.JGT_K, 0x80000000, 5, True),
        (op.JGE_K, 5, 5, True),
        (op.JGE_K, 4, 5, False),
        (op.JSET_K, 6, 2, True),
        (op.JSET_K, 6, 1, False),
    ],
)
def test_jumps(jump: int, a: int, b: int, taken: bool) -> None:
    ends = pack(op.RET_K, 0, 0, 1) + pack(op.RET_K, 0, 0, 2)
    head = pack(op.LD_IMM, 0, 0, a)
    assert run(head + pack(jump, 1, 0, b) + ends, 0, X86) == (2 if taken else 1)
    head += pack(op.LDX_IMM, 0, 0, b)
    assert run(head + pack(jump | op.SRC_X, 1, 0, 0) + ends, 0, X86) == (2 if taken else 1)
    assert run(pack(op.JA, 0, 0, 1) + ends, 0, X86) == 2


def test_the_machine_runs_only_what_the_kernel_would() -> None:
    with pytest.raises(FilterError, match="does not return"):
        Machine(pack(op.LD_ABS, 0, 0, 0))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"", "empty program"),
        (b"\0" * 7, "whole number"),
        (RET_A * 4097, "4097 instructions"),
        (pack(op.LD_ABS, 0, 0, 64) + RET_A, r"instruction 0 .* 64 bytes"),
        (pack(0x28, 0, 0, 0) + RET_A, "seccomp does not allow it"),
        (pack(0xFFFF, 0, 0, 0) + RET_A, "not a classic BPF instruction"),
        (RET_A + pack(op.ALU | op.DIV, 0, 0, 0) + RET_A, "instruction 1 .* constant 0"),
        (pack(op.ALU | op.LSH, 0, 0, 32) + RET_A, "32 or more"),
        (pack(op.JA, 0, 0, 1) + RET_A, "past the end"),
        (pack(op.LD_MEM, 0, 0, 0) + RET_A, "never written"),
        (pack(op.ST, 0, 0, 16) + RET_A, "16 words"),
    ],
)
def test_refusals_say_where_and_why(code: bytes, message: str) -> None:
    with pytest.raises(FilterError, match=message) as caught:
        check(code)
    assert "\n" not in str(caught.value)
    with pytest.raises(FilterError):
        Program(code).check()


def test_constant_allow_gives_up_where_the_kernel_does() -> None:
    allow = pack(op.RET_K, 0, 0, abi.SECCOMP_RET_ALLOW)
    assert constant_allow(allow, X86, 5)
    assert not constant_allow(pack(op.RET_K, 0, 0, abi.SECCOMP_RET_ALLOW | 1), X86, 5)
    assert not constant_allow(pack(op.RET_K, 0, 0, abi.SECCOMP_RET_LOG), X86, 5)
    assert not constant_allow(pack(op.LD_ABS, 0, 0, 16) + allow, X86, 5)
    assert not constant_allow(pack(op.LD_ABS, 0, 0, 8) + allow, X86, 5)
    assert not constant_allow(pack(op.LD_LEN, 0, 0, 0) + allow, X86, 5)
    assert not constant_allow(pack(op.ALU | op.OR, 0, 0, 0) + allow, X86, 5)
    assert not constant_allow(pack(op.LD_IMM, 0, 0, abi.SECCOMP_RET_ALLOW) + RET_A, X86, 5)
    masked = pack(op.LD_ABS, 0, 0, 0) + pack(op.AND_K, 0, 0, 4) + pack(op.JEQ_K, 0, 1, 4)
    kill = pack(op.RET_K, 0, 0, 0)
    assert constant_allow(masked + allow + kill, X86, 5)
    assert not constant_allow(masked + allow + kill, X86, 3)
    by_arch = pack(op.LD_ABS, 0, 0, 4) + pack(op.JSET_K, 0, 1, 0x80000000) + allow + kill
    assert constant_allow(by_arch, X86, 5)
    assert not constant_allow(by_arch, abi.AUDIT_ARCH_I386, 5)
    assert constant_allow(kill, X86, 335, uprobes_exempt=True)
    assert not constant_allow(kill, X86, 335)


def test_the_disassembly_reads_well() -> None:
    text = """\
   0: A = arch
   1: if A == 0xc000003e goto 2 else 8      # x86_64
   2: A = nr
   3: if A == 0x85 goto 4 else 7            # mknod
   4: A = args[1].low
   5: A &= 0xf000
   6: if A == 0x2000 goto 9 else 7
   7: return 0x7fff0000                     # allow
   8: return 0x80000000                     # kill_process
   9: return 0x50001                        # errno(EPERM)
"""
    program = Program.parse(text)
    assert program.disassemble() == text
    program.check()
    assert program.run(133, X86, (0, 0x2180)) == 0x50001


words = st.integers(0, 0xFFFFFFFF)
instructions = st.tuples(
    st.one_of(
        st.sampled_from(sorted(op.SECCOMP | op.CLASSIC_ONLY)),
        st.integers(0, 0xFFFF),
    ),
    st.one_of(st.just(0), st.integers(0, 255)),
    st.one_of(st.just(0), st.integers(0, 255)),
    st.one_of(st.integers(0, 64), words),
)


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(instructions, max_size=30))
def test_any_instructions_survive_the_text_round_trip(code: list[tuple[int, ...]]) -> None:
    program = Program(b"".join(pack(*instruction) for instruction in code))
    text = program.disassemble()
    assert Program.parse(text) == program
    assert Program.parse(program.disassemble(comments=False)) == program
    assert len(text.splitlines()) == len(program)


@settings(max_examples=200, deadline=None, database=None)
@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_checked_without_a_surprise(data: bytes) -> None:
    try:
        check(data)
    except FilterError:
        return
    assert 0 <= run(data, 1, X86, 0, ARGS) <= 0xFFFFFFFF


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0: frobnicate", "line 1: not an instruction: 'frobnicate'"),
        ("1: A = nr", "line 1: instruction 0 should stand here"),
        ("A = nr", "should stand here"),
        ("# a comment\n\n0: A = nr\n2: A = nr", "line 4: instruction 1 should stand here"),
        ("0: A = cpu", "line 1: not an instruction"),
        ("0: X = nr", "only A loads"),
        ("0: if A == 1 goto 0 else 1", "they go forward"),
        ("0: if A == 1 goto 1 else 257", "they go forward, at most 256"),
        ("0: if A < 1 goto 1 else 2", "not an instruction"),
        ("0: goto 0", "they go forward"),
        ("0: return 0x100000000", "not an instruction"),
        ("0: return -1", "not an instruction"),
        ("0: raw 1 2 3", "not an instruction"),
        ("0: raw 0 256 0 0", "not an instruction"),
        ("0: A **= 3", "not an instruction"),
        ("0: return 09", "not an instruction"),
    ],
)
def test_bad_text_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(FilterError, match=message) as caught:
        Program.parse(text)
    assert "\n" not in str(caught.value)


def test_half_an_instruction_is_no_text() -> None:
    with pytest.raises(FilterError, match="whole number"):
        Program(b"\0" * 9).disassemble()


def test_programs_compare_by_their_code() -> None:
    one, other = Program(RET_A), Program(RET_A)
    assert one == other
    assert hash(one) == hash(other)
    assert one != Program(RET_A * 2)
    assert one != RET_A
    assert len(Program(RET_A * 2)) == 2
    assert repr(one) == "Program(1 instructions)"


def test_parse_and_disassemble_agree_on_long_programs() -> None:
    chance = random.Random(7)
    code = b"".join(
        struct.pack("=HBBI", chance.choice(sorted(op.SECCOMP)), 0, 0, chance.getrandbits(32))
        for _ in range(4095)
    )
    program = Program(code + RET_A)
    assert Program.parse(program.disassemble()) == program
