"""Comparisons of arguments: what they mean on registers."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proctor.errors import PolicyError
from proctor.filter.conditions import hold
from proctor.policy import loads
from proctor.policy.numbers import OutOfRange, compare
from proctor.syscalls.signatures import Arg

from .calls import call

OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
RAW = st.integers(0, (1 << 64) - 1)


def argument(number: int, bits: int = 64, signed: bool = False) -> Arg:
    return Arg("x", "int", None, bits, signed, False, number)


def value_of(register: Arg, raw: int) -> int:
    """The argument as the kernel reads it."""
    value = raw & register.mask
    if register.signed and value >> (register.bits - 1):
        value -= 1 << register.bits
    return value


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[Arg, str, int]:
    register = argument(0, draw(st.sampled_from([16, 32, 64])), draw(st.booleans()))
    low = -(1 << (register.bits - 1)) if register.signed else 0
    high = register.mask >> register.signed
    number = draw(st.one_of(st.integers(low, high), st.sampled_from([low, high, 0, 1, high // 2])))
    return register, draw(st.sampled_from(sorted(OPERATORS))), number


@settings(max_examples=500, deadline=None)
@given(comparisons(), RAW, st.integers(-2, 2))
def test_a_comparison_means_what_it_says(
    comparison: tuple[Arg, str, int], garbage: int, near: int
) -> None:
    register, op, number = comparison
    tests = compare(register, op, number)
    for raw in (garbage, (number + near) & register.mask | garbage & ~register.mask):
        expected = OPERATORS[op](value_of(register, raw), number)
        assert hold(tests, (raw, 0, 0, 0, 0, 0)) == expected


@pytest.mark.parametrize(
    ("register", "op", "number"),
    [
        (argument(0, 32), "==", 1 << 32),
        (argument(0, 32), "<", -1),
        (argument(0, 32, True), "<", 1 << 31),
        (argument(0, 16), ">", 65536),
        (argument(0, 64), "==", 1 << 64),
    ],
)
def test_a_number_that_no_value_has_is_out_of_range(register: Arg, op: str, number: int) -> None:
    with pytest.raises(OutOfRange):
        compare(register, op, number)


def test_a_bit_beyond_the_width_does_not_walk_around_a_condition() -> None:
    tests = compare(argument(2, 32), "==", 0x803)
    assert hold(tests, (0, 0, 0x803 | 1 << 40, 0, 0, 0))


# Constants that are a part of their argument -----------------------------------------------------

FIFO, CHAR, BLOCK = 0o010000, 0o020000, 0o060000


@pytest.mark.parametrize(
    ("call", "condition", "holds", "fails"),
    [
        ("mknod", '{ mode = "S_IFIFO" }', [FIFO | 0o644, FIFO], [CHAR | 0o644, 0o644]),
        ("mknod", '{ mode = "!= S_IFIFO" }', [CHAR, 0], [FIFO | 0o644, FIFO]),
        ("mknod", '{ mode = ["S_IFIFO", "S_IFCHR"] }', [FIFO | 1, CHAR | 2], [BLOCK]),
        ("mknod", '{ mode = { all = ["S_IFCHR"] } }', [CHAR | 0o600], [BLOCK | 0o600]),
        ("mknod", '{ mode = { all = ["S_IFCHR", "S_IRUSR"] } }', [CHAR | 0o600], [CHAR, BLOCK | 0o400]),
        ("mknod", '{ mode = { any = ["S_IFCHR", "S_ISUID"] } }', [CHAR, FIFO | 0o4000], [BLOCK]),
        ("mknod", '{ mode = { none = ["S_IFCHR", "S_ISUID"] } }', [BLOCK], [CHAR, BLOCK | 0o4000]),
        ("mknod", '{ mode = { all = ["S_IFCHR|S_IRUSR"] } }', [CHAR | 0o400], [CHAR, BLOCK | 0o400]),
        ("mknod", '{ mode = { mask = "S_IFMT", is = "S_IFIFO" } }', [FIFO | 7], [CHAR]),
        ("mknod", '{ mode = { "==" = "S_IFIFO" } }', [FIFO], [FIFO | 0o644]),
        ("mknod", '{ mode = "S_IFIFO|0o644" }', [FIFO | 0o644], [FIFO]),
        ("open", '{ flags = { all = ["O_RDWR"] } }', [2, 0o102], [3, 1]),
        ("open", '{ flags = { none = ["O_WRONLY"] } }', [0, 2, 3, 0o102], [1, 0o101]),
        ("open", '{ flags = { any = ["O_WRONLY", "O_RDWR"] } }', [1, 2], [0, 3]),
        ("open", '{ flags = { "==" = "O_RDWR|O_CREAT" } }', [0o102], [0o1102, 2]),
        ("futex", '{ op = "FUTEX_LOCK_PI" }', [6, 6 | 128, 6 | 128 | 256], [0, 7]),  # futex(2): options
        ("futex", '{ op = "FUTEX_WAIT_PRIVATE" }', [128, 128 | 256], [0, 129]),
        ("sched_setscheduler", '{ policy = "SCHED_FIFO" }', [1, 1 | 1 << 30], [2, 0, 1 << 30]),
        ("io_uring_register", '{ opcode = "IORING_REGISTER_FILES" }', [2, 2 | 1 << 31], [3, 1 << 31]),
        # fchmodat(2) and the like take S_IALLUGO of it: os.chmod(x, os.stat(x).st_mode) has a file type, too
        ("chmod", "{ mode = 0o755 }", [0o755, 0o100755, 0o40755], [0o644, 0o4755]),
        ("fchmod", '{ mode = "> 0o777" }', [0o4755, 0o101777], [0o100644, 0o777, FIFO]),
        ("creat", '{ mode = "!= 0o600" }', [0o644, 0o100644], [0o600, 0o100600]),
        ("mkdir", "{ mode = 0o755 }", [0o755, 0o40755], [0o700]),
        # vfs_mkdir() takes S_IRWXUGO and S_ISVTX of it
        ("mkdir", "{ mode = 0o777 }", [0o777, 0o6777, 0o4777], [0o1777, 0o755]),
        ("mkdir", '{ mode = { any = ["S_ISUID", "S_ISGID"] } }', [0o4755, 0o2755], [0o755]),
        ("ptrace", "{ pid = 5 }", [5, 5 | 1 << 32], [6]),  # find_get_task_by_vpid(pid_t)
    ],
)  # fmt: skip
def test_a_constant_that_is_a_part_is_compared_with_the_part(
    call: str, condition: str, holds: list[int], fails: list[int]
) -> None:
    policy = loads(f'[[rule]]\nname = "r"\ncalls = ["{call}"]\nwhen = {condition}\ndeny = 1\n')
    clause = policy.rules[0].clauses["x86_64", call]
    for value in (*holds, *fails):
        assert hold(clause.registers, (0, value | 1 << 40, 0, 0, 0, 0)) == (value in holds)


@pytest.mark.parametrize(("call", "register"), [("mbind", 2), ("set_mempolicy", 0)])
@pytest.mark.parametrize("arch", ["x86_64", "i386"])
def test_a_memory_policy_is_the_same_with_its_flags(call: str, register: int, arch: str) -> None:
    """``sanitize_mpol_flags`` takes them off an int (mm/mempolicy.c), which mbind(2) is given as a long."""
    text = f'[[rule]]\nname = "r"\ncalls = ["{call}"]\nwhen = {{ mode = "MPOL_BIND" }}\ndeny = 1\n'
    registers = loads(text).rules[0].clauses[arch, call].registers

    def holds(mode: int) -> bool:
        raw = [0] * 6
        raw[register] = mode
        return hold(registers, raw)

    for flag in (0, 0x8000, 0x4000, 0x2000, 1 << 32):
        assert holds(2 | flag) and not holds(3 | flag)


def test_a_umask_is_what_it_leaves_to_nobody() -> None:
    """umask(2) takes S_IRWXUGO of it."""
    rule = loads('[[rule]]\nname = "r"\ncalls = ["umask"]\nwhen = { mask = 0 }\ndeny = 1\n').rules[
        0
    ]
    for clause in rule.clauses.values():
        for mask in (0, 0o7000, 0o1000, 1 << 31):
            assert hold(clause.registers, (mask, *[0] * 5))
        assert not hold(clause.registers, (0o1022, *[0] * 5))


@pytest.mark.parametrize("call", ["chmod", "mkdir", "open"])
def test_a_file_type_is_no_part_of_permissions(call: str) -> None:
    with pytest.raises(PolicyError, match="has bits that this argument has not"):
        loads(
            f'[[rule]]\nname = "r"\ncalls = ["{call}"]\nwhen = {{ mode = "S_IFREG" }}\ndeny = 1\n'
        )


@pytest.mark.parametrize(
    ("condition", "raw", "other"),
    [('"SOCK_RAW"', True, False), ('"!= SOCK_RAW"', False, True), ('["SOCK_RAW", 1]', True, True)],
)
def test_the_type_of_a_socket_without_its_flags(condition: str, raw: bool, other: bool) -> None:
    policy = loads(
        f'[[rule]]\nname = "r"\ncalls = ["socket"]\nwhen = {{ type = {condition} }}\ndeny = 1\n'
    )
    registers = policy.rules[0].clauses["x86_64", "socket"].registers
    for flags in (0, 0o2000000, 0o2004000):
        assert hold(registers, (2, 3 | flags, 0, 0, 0, 0)) == raw
    assert hold(registers, (2, 1, 0, 0, 0, 0)) == other


def test_values_of_one_part_exclude_each_other() -> None:
    with pytest.raises(PolicyError, match="can never hold"):
        loads('[[rule]]\nname = "r"\ncalls = ["open"]\nwhen = { flags = { all = ["O_WRONLY", "O_RDWR"] } }\ndeny = 1\n')  # fmt: skip


@pytest.mark.parametrize(
    ("abi", "name", "command", "number", "means"),
    [
        ("x86_64", "ioctl", "FS_IOC_SETFLAGS", 0x40086602, True),
        ("x86_64", "ioctl", "FS_IOC_SETFLAGS", 0x40046602, False),  # that kernel does not know it
        ("i386", "ioctl", "FS_IOC_SETFLAGS", 0x40046602, True),
        ("i386", "ioctl", "FS_IOC_SETFLAGS", 0x40086602, True),  # compat_sys_ioctl takes both
        ("i386", "ioctl", "FS_IOC_SETFLAGS", 0x40086601, False),
        ("i386", "ioctl", "BLKGETSIZE64", 0x80041272, True),
        ("x86_64", "fcntl", "F_SETLK", 6, True),
        ("x86_64", "fcntl", "F_SETLK", 13, False),
        ("i386", "fcntl64", "F_SETLK", 6, True),
        ("i386", "fcntl64", "F_SETLK", 13, True),  # F_SETLK64, as C libraries have it
        ("i386", "fcntl64", "F_SETLK", 14, False),
    ],
)
def test_a_command_has_the_numbers_that_programs_of_32_bits_know_it_by(
    abi: str, name: str, command: str, number: int, means: bool
) -> None:
    for spec, expected in ((f'"{command}"', means), (f'"!= {command}"', not means)):
        policy = loads(
            f'[[rule]]\nname = "one"\ncalls = ["{name}"]\nwhen = {{ op = {spec} }}\ndeny = "EXFULL"'
        )
        decision = policy.decide(call(name, 3, number, 0, abi=abi))
        assert decision.ruling.refuses == expected
        assert (decision.rule is not None) == expected


def test_a_mode_in_a_text_is_that_mode() -> None:
    """Also one that is no C number for Python's stat module: -1 is all bits, as of every argument."""
    rule = '[[rule]]\nname = "r"\ncalls = ["mknod"]\nwhen = {{ mode = {} }}\ndeny = 1'
    for text in ('"-1"', "-1", '["-1"]', "0xffff", '"0xffff"'):
        policy = loads(rule.format(text))
        assert policy.rules[0].clauses["x86_64", "mknod"].registers == (
            loads(rule.format("0xffff")).rules[0].clauses["x86_64", "mknod"].registers
        ), text
