"""Filters on the real kernel: what we refuse it refuses, what we compute it computes.

Rules are on numbers that no kernel gives a meaning, so that a call is either judged by the rule
or fails with ENOSYS, and nothing else happens.
"""

from __future__ import annotations

import errno as errnos
import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proctor.errors import FilterError
from proctor.filter import opcodes as op
from proctor.filter.actions import ALLOW, KILL_PROCESS, Action, errno
from proctor.filter.check import check
from proctor.filter.conditions import FULL, Condition
from proctor.filter.interpreter import Machine
from proctor.filter.rules import Filter, Rule
from proctor.kernel import abi
from proctor.syscalls import architectures, tables
from proctor.syscalls.architectures import ARCHITECTURES

NATIVE = architectures.native()
AUDIT = ARCHITECTURES[NATIVE].audit
pack = abi.SOCK_FILTER.pack
RET_ALLOW = pack(op.RET_K, 0, 0, abi.SECCOMP_RET_ALLOW)

Ask = Callable[[dict[str, Any]], list[Any]]


@pytest.fixture(scope="module")
def kernel() -> Iterator[Ask]:
    """Puts programs to the kernel, in processes of their own."""
    pytest.importorskip("proctor.kernel._core", reason="the native core is not built")
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux")
    script = Path(__file__).with_name("victim.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as victim:
        assert victim.stdin is not None
        assert victim.stdout is not None
        stdin, stdout = victim.stdin, victim.stdout

        def ask(request: dict[str, Any]) -> list[Any]:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            answer = json.loads(stdout.readline())
            assert isinstance(answer, list)
            return answer

        yield ask
        stdin.close()
        victim.wait(timeout=30)


def seen(verdict: Action) -> list[int]:
    """[value, errno] of a call of an invented number under ``verdict``."""
    if verdict == ALLOW:
        return [-1, errnos.ENOSYS]
    return [-1, verdict.data] if verdict.data else [0, 0]


def _random_rules(chance: random.Random, numbers: list[int]) -> list[Rule]:
    rules = []
    for _ in range(chance.randrange(20, 120)):
        wanted = []
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            mask = chance.choice((FULL, FULL, 0xFFFFFFFF, 0xF0F0F0F0F0, 1 << 63, 0xFFFF << 28))
            value = chance.choice((0, 1, 5, 1 << 32, 0xFFFFFFFF, FULL - 1, chance.getrandbits(64)))
            op_ = chance.choice(("==", "!=", "<", "<=", ">", ">=", "&="))
            value = value & mask if op_ in ("==", "!=", "&=") else min(max(value, 1), mask - 1)
            wanted.append(Condition(chance.randrange(6), op_, value, mask))
        rule = Rule((chance.choice(numbers),), errno(chance.randrange(0, 4096)), tuple(wanted))
        try:
            Filter([rule], arches=(NATIVE,))
        except FilterError:
            continue
        rules.append(rule)
    return rules


@pytest.mark.parametrize("seed", range(6))
def test_compiled_rules_on_the_kernel(kernel: Ask, seed: int) -> None:
    chance = random.Random(seed)
    numbers = chance.sample(range(600, 900), 40)
    source = Filter(_random_rules(chance, numbers), arches=(NATIVE,), strict=False)
    pools = [[0, 1, FULL] for _ in range(6)]
    for rule in source.rules:
        for condition in rule.conditions:
            value = condition.value
            for near in (value, value + 1, value - 1, value ^ (1 << 32), value | ~condition.mask):
                pools[int(condition.arg)].append(near & FULL)
    probes = [
        (nr, tuple(chance.choice(pool) for pool in pools)) for nr in numbers for _ in range(12)
    ]
    answers = kernel(
        {
            "code": source.compile().code.hex(),
            "calls": [["native", nr, *args] for nr, args in probes],
        }
    )
    expected = [seen(source.decide(nr, AUDIT, args).action) for nr, args in probes]
    assert answers == expected
    assert len({str(answer) for answer in answers}) > 10


def test_c122_jumps_over_255_on_the_kernel(kernel: Ask) -> None:
    numbers = list(range(600, 1200, 2))
    rules = [
        Rule((nr,), errno(1 + nr % 1000), (Condition(0, "==", nr << 20), Condition(1, ">", nr)))
        for nr in numbers
    ]
    source = Filter(rules, arches=(NATIVE,))
    program = source.compile()
    code = list(abi.SOCK_FILTER.iter_unpack(program.code))
    assert len(code) > 2500
    assert any(opcode == op.JA for opcode, *_ in code)
    probes = [(nr, (nr << 20, nr + extra)) for nr in range(600, 1200) for extra in (0, 1)]
    answers = kernel(
        {"code": program.code.hex(), "calls": [["native", nr, *args] for nr, args in probes]}
    )
    padded = [(nr, (*args, 0, 0, 0, 0)) for nr, args in probes]
    assert answers == [seen(source.decide(nr, AUDIT, args).action) for nr, args in padded]


@pytest.mark.skipif(NATIVE != "x86_64", reason="x32 and int 0x80 are x86-64's")
def test_c121_x32_and_i386_on_the_kernel(kernel: Ask) -> None:
    ids = ("getpid", "getppid")
    both = Filter([Rule(ids, errno(71))], x32=errno(72), foreign=errno(73))
    getppid = tables.number("getppid", "i386")
    calls = [
        ["native", tables.number("getppid", "x86_64")],
        ["native", tables.number("getppid", "x32")],
        ["int80", getppid],
        ["int80", 900],
    ]
    answers = kernel({"code": both.compile().code.hex(), "calls": calls})
    if ["died", int(signal.SIGSEGV)] in answers:
        pytest.skip("this kernel has no int 0x80")
    assert answers == [[-1, 71], [-1, 72], [-1, 71], [-1, errnos.ENOSYS]]

    alone = Filter([Rule(ids, errno(71))], arches=("x86_64",), foreign=errno(73))
    answers = kernel({"code": alone.compile().code.hex(), "calls": calls})
    assert answers == [[-1, 71], [-1, errnos.ENOSYS], [-1, 73], [-1, 73]]

    x32 = Filter([Rule(ids, errno(71))], arches=("x86_64", "i386", "x32"))
    answers = kernel({"code": x32.compile().code.hex(), "calls": calls})
    assert answers == [[-1, 71], [-1, 71], [-1, 71], [-1, errnos.ENOSYS]]


@pytest.mark.skipif(NATIVE != "x86_64", reason="int 0x80 is x86-64's")
def test_a_rule_on_socket_holds_for_socketcall_too(kernel: Ask) -> None:
    program = Filter([Rule(("socket",), errno(70))]).compile()
    number = tables.number("socketcall", "i386")
    answers = kernel(
        {"code": program.code.hex(), "calls": [["int80", number, 1, 0], ["int80", number, 2, 0]]}
    )
    if ["died", int(signal.SIGSEGV)] in answers:
        pytest.skip("this kernel has no int 0x80")
    assert answers == [[-1, 70], [-1, errnos.EFAULT]]


@pytest.mark.skipif(NATIVE != "x86_64", reason="int 0x80 is x86-64's")
def test_the_default_for_a_foreign_call_is_death(kernel: Ask) -> None:
    program = Filter([], arches=("x86_64",)).compile()
    assert program.run(20, abi.AUDIT_ARCH_I386) == KILL_PROCESS.value
    answers = kernel({"code": program.code.hex(), "calls": [["int80", 20]]})
    if answers == [["died", int(signal.SIGSEGV)]]:
        pytest.skip("this kernel has no int 0x80")
    assert answers == [["died", int(signal.SIGSYS)]]


# C024 and C025 by themselves ------------------------------------------------------------------

REFUSED = {
    "load at 2": pack(op.LD_ABS, 0, 0, 2) + RET_ALLOW,
    "load at 64": pack(op.LD_ABS, 0, 0, 64) + RET_ALLOW,
    "load a half word": pack(0x28, 0, 0, 0) + RET_ALLOW,
    "load a byte": pack(0x30, 0, 0, 0) + RET_ALLOW,
    "indirect load": pack(0x40, 0, 0, 0) + RET_ALLOW,
    "load MSH": pack(0xB1, 0, 0, 0) + RET_ALLOW,
    "ancillary load": pack(op.LD_ABS, 0, 0, 0xFFFFF000) + RET_ALLOW,
    "modulo k": pack(op.ALU | op.MOD, 0, 0, 3) + RET_ALLOW,
    "modulo X": pack(op.ALU | op.MOD | op.SRC_X, 0, 0, 0) + RET_ALLOW,
    "divide by 0": pack(op.ALU | op.DIV, 0, 0, 0) + RET_ALLOW,
    "shift left by 32": pack(op.ALU | op.LSH, 0, 0, 32) + RET_ALLOW,
    "shift right by 32": pack(op.ALU | op.RSH, 0, 0, 32) + RET_ALLOW,
    "return X": pack(0x0E, 0, 0, 0),
    "no return at the end": pack(op.LD_ABS, 0, 0, 0),
    "jump out": pack(op.JA, 0, 0, 1) + RET_ALLOW,
    "jump far out": pack(op.JA, 0, 0, 0xFFFFFFFF) + RET_ALLOW,
    "jump if equal out": pack(op.JEQ_K, 1, 0, 0) + RET_ALLOW,
    "jump if not equal out": pack(op.JEQ_K, 0, 1, 0) + RET_ALLOW,
    "scratch never stored": pack(op.LD_MEM, 0, 0, 0) + RET_ALLOW,
    "scratch stored on one way only": pack(op.JEQ_K, 0, 1, 0)
    + pack(op.ST, 0, 0, 1)
    + pack(op.LD_MEM, 0, 0, 1)
    + RET_ALLOW,
    "store beyond scratch": pack(op.ST, 0, 0, 16) + RET_ALLOW,
    "code 0xffff": pack(0xFFFF, 0, 0, 0) + RET_ALLOW,
    "eBPF's JLT": pack(0xA5, 0, 0, 0) + RET_ALLOW,
    "no instruction": b"",
    "4097 instructions": RET_ALLOW * 4097,
}

ACCEPTED = {
    "load at 60": pack(op.LD_ABS, 0, 0, 60) + RET_ALLOW,
    "load at 4": pack(op.LD_ABS, 0, 0, 4) + RET_ALLOW,
    "length": pack(op.LD_LEN, 0, 0, 0) + pack(op.LDX_LEN, 0, 0, 0) + RET_ALLOW,
    "negate": pack(op.NEG, 0, 0, 0) + RET_ALLOW,
    "shift right by 31": pack(op.ALU | op.RSH, 0, 0, 31) + RET_ALLOW,
    "shift by X": pack(op.ALU | op.LSH | op.SRC_X, 0, 0, 0) + RET_ALLOW,
    "divide by X": pack(op.ALU | op.DIV | op.SRC_X, 0, 0, 0) + RET_ALLOW,
    "multiply by X": pack(op.ALU | op.MUL | op.SRC_X, 0, 0, 0) + RET_ALLOW,
    "exclusive or": pack(op.ALU | op.XOR, 0, 0, 5) + RET_ALLOW,
    "scratch": pack(op.ST, 0, 0, 15) + pack(op.LD_MEM, 0, 0, 15) + RET_ALLOW,
    "scratch behind a return": pack(op.ST, 0, 0, 1)
    + RET_ALLOW
    + pack(op.LD_MEM, 0, 0, 1)
    + RET_ALLOW,
    "TAX, TXA": pack(op.TAX, 0, 0, 0) + pack(op.TXA, 0, 0, 0) + RET_ALLOW,
    "immediates": pack(op.LD_IMM, 0, 0, 1) + pack(op.LDX_IMM, 0, 0, 2) + RET_ALLOW,
    "compare with X": pack(op.JSET_X, 0, 0, 0) + RET_ALLOW,
    "return A": pack(op.RET_A, 0, 0, 0),
    "unused fields": pack(op.LD_IMM, 3, 4, 1) + pack(op.RET_A, 9, 9, 9),
    "4096 instructions": RET_ALLOW * 4096,
}


def accepted(code: bytes) -> bool:
    """Our verdict."""
    try:
        check(code)
    except FilterError:
        return False
    return True


def test_refusals_are_the_kernels(kernel: Ask) -> None:
    cases = {**REFUSED, **ACCEPTED}
    (answers,) = kernel({"judge": [code.hex() for code in cases.values()]})
    assert dict(zip(cases, answers, strict=True)) == {name: name in ACCEPTED for name in cases}
    assert {name: accepted(code) for name, code in cases.items()} == {
        name: name in ACCEPTED for name in cases
    }


def _random_program(chance: random.Random) -> bytes:
    """A short program; about half of them are good."""
    length = chance.randrange(1, 8)
    good = sorted(op.SECCOMP)
    out = []
    for left in range(length - 1, -1, -1):
        opcode = chance.choice(good)
        if chance.random() < 0.04:
            opcode = chance.choice((*sorted(op.CLASSIC_ONLY), 0xA5, 0x0E, 0x10, 0xC0, 0x107))
        if not left and chance.random() < 0.9:
            opcode = chance.choice((op.RET_K, op.RET_A))
        k = chance.choice((0, 1, 3, 4, 8, 15, 16, 31, 32, 60, 64, 0xFFFFFFFF))
        if opcode == op.LD_ABS and chance.random() < 0.9:
            k = 4 * chance.randrange(16)
        if opcode == op.JA and chance.random() < 0.9:
            k = chance.randrange(left + 1) if left else 0
        if opcode in (op.LD_MEM, op.LDX_MEM, op.ST, op.STX) and chance.random() < 0.9:
            k = chance.randrange(2)
        most = max(1, left + (chance.random() < 0.1))
        out.append(pack(opcode, chance.randrange(most), chance.randrange(most), k))
    return b"".join(out)


def test_random_programs_are_refused_by_both_or_neither(kernel: Ask) -> None:
    chance = random.Random(24025)
    programs = [_random_program(chance) for _ in range(4000)]
    (answers,) = kernel({"judge": [code.hex() for code in programs]})
    for code, taken in zip(programs, answers, strict=True):
        assert accepted(code) == taken, code.hex()
    assert 800 < sum(answers) < 3200


def _random_arithmetic(chance: random.Random, nr: int) -> bytes:
    """For call ``nr``: arithmetic on its arguments, then twelve bits of A as an errno.

    Which twelve is in the last argument.
    """
    operations = [
        op.ALU | operation | source
        for operation in (op.ADD, op.SUB, op.MUL, op.DIV, op.OR, op.AND, op.LSH, op.RSH, op.XOR)
        for source in (0, op.SRC_X)
    ]
    head = [pack(op.LD_ABS, 0, 0, 0), pack(op.JEQ_K, 1, 0, nr), RET_ALLOW]
    body = [pack(op.LD_ABS, 0, 0, 16), pack(op.ST, 0, 0, 0)]
    body += [pack(op.LD_ABS, 0, 0, 24), pack(op.STX, 0, 0, 1)]
    length = chance.randrange(4, 25)
    for left in range(length - 1, -1, -1):
        k = chance.choice((1, 2, 31, 0x80000000, 0xFFFFFFFF, chance.getrandbits(32)))
        kind = chance.randrange(9)
        if kind == 0:
            body.append(pack(op.LD_ABS, 0, 0, 4 * chance.randrange(4, 14)))
        elif kind == 1:
            body.append(pack(chance.choice((op.TAX, op.TAX, op.TXA, op.NEG)), 0, 0, 0))
        elif kind == 2:
            body.append(pack(chance.choice((op.LD_MEM, op.LDX_MEM)), 0, 0, chance.randrange(2)))
        elif kind == 3:
            body.append(pack(chance.choice((op.ST, op.STX)), 0, 0, chance.randrange(2)))
        elif kind == 4:
            body.append(
                pack(chance.choice((op.LD_IMM, op.LDX_IMM, op.LD_LEN, op.LDX_LEN)), 0, 0, k)
            )
        elif kind == 5:
            jump = chance.choice(sorted(op.CONDITIONAL))
            most = min(left, 3) + 1
            body.append(pack(jump, chance.randrange(most), chance.randrange(most), k))
        else:
            opcode = chance.choice(operations)
            if opcode in (op.ALU | op.LSH, op.ALU | op.RSH):
                k &= 31
            body.append(pack(opcode, 0, 0, k))
    tail = [
        pack(op.ST, 0, 0, 2),
        pack(op.LD_ABS, 0, 0, 56),
        pack(op.TAX, 0, 0, 0),
        pack(op.LD_MEM, 0, 0, 2),
        pack(op.ALU | op.RSH | op.SRC_X, 0, 0, 0),
        pack(op.AND_K, 0, 0, 0x7FF),
        pack(op.ALU | op.OR, 0, 0, abi.SECCOMP_RET_ERRNO),
        pack(op.RET_A, 0, 0, 0),
    ]
    return b"".join(head + body + tail)


@pytest.mark.skipif(
    ARCHITECTURES[NATIVE].big_endian, reason="offsets of low halves are little-endian's"
)
def test_random_arithmetic_comes_out_as_on_the_kernel(kernel: Ask) -> None:
    chance = random.Random(26)
    died = 0
    for _ in range(400):
        code = _random_arithmetic(chance, 700)
        machine = Machine(code)
        args = [chance.choice((0, 1, FULL, chance.getrandbits(64))) for _ in range(5)]
        calls = [["native", 700, *args, shift] for shift in (0, 11, 22)]
        expected: list[list[object]] = []
        for call in calls:
            value = machine.run(700, AUDIT, [int(word) for word in call[2:]])
            if value == 0:  # C026: division by X == 0
                expected.append(["died", int(signal.SIGSYS)])
                died += 1
                break
            expected.append(list(seen(Action(abi.SECCOMP_RET_ERRNO, value & 0xFFFF))))
        assert kernel({"code": code.hex(), "calls": calls}) == expected, code.hex()
    assert 0 < died < 200
