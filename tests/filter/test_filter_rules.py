"""Rules: what they mean, and which are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from proctor.errors import FilterError
from proctor.filter.actions import (
    ALLOW,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    NOTIFY,
    TRAP,
    Action,
    decoded,
    effective,
    errno,
    rank,
    trace,
    trap,
)
from proctor.filter.check import constant_allow
from proctor.filter.conditions import FULL, Condition
from proctor.filter.rules import Filter, Rule
from proctor.kernel import abi
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES

X86 = abi.AUDIT_ARCH_X86_64


def ask(source: Filter, name: str, *args: int, arch: str = "x86_64") -> Action:
    """A filter's verdict, by rules and by program."""
    nr = tables.number(name, arch)
    return (
        source.compile()
        .explain(nr, ARCHITECTURES[arch].audit, (*args, *(0,) * (6 - len(args))))
        .action
    )


def made(*rules: Rule, **options: object) -> Filter:
    """A filter for x86-64 and i386 whatever this machine is."""
    options.setdefault("arches", ("x86_64", "i386"))
    return Filter(rules, **options)  # type: ignore[arg-type]


def test_the_first_rule_that_matches_decides() -> None:
    source = made(
        Rule(("openat",), errno(1), (Condition("flags", "&=", 1, 3),)),
        Rule(("openat",), NOTIFY),
        Rule(("%file",), errno(2)),
    )
    assert ask(source, "openat", 0, 0, 1) == errno(1)
    assert ask(source, "openat", 0, 0, 2) == NOTIFY
    assert ask(source, "open") == errno(2)
    assert ask(source, "read") == ALLOW


def test_conditions_of_a_rule_must_all_hold_and_may_share_an_argument() -> None:
    source = made(
        Rule(
            ("read",),
            errno(1),
            (Condition(0, ">=", 3), Condition(0, "<", 6), Condition(2, "!=", 0)),
        )
    )
    assert [ask(source, "read", fd, 0, 1) == errno(1) for fd in range(8)] == [
        fd in (3, 4, 5) for fd in range(8)
    ]
    assert ask(source, "read", 4, 0, 0) == ALLOW


def test_names_apply_to_the_compat_abi_by_its_own_numbers() -> None:
    source = made(Rule(("mknodat",), errno(1)))
    assert ask(source, "mknodat") == errno(1)
    assert ask(source, "mknodat", arch="i386") == errno(1)
    assert tables.number("mknodat") != tables.number("mknodat", "i386")
    only = made(Rule(("mknodat",), errno(1), arches=("i386",)))
    assert ask(only, "mknodat") == ALLOW
    assert ask(only, "mknodat", arch="i386") == errno(1)


def test_x32_and_foreign_verdicts_are_explicit() -> None:
    source = made(Rule(("read",), NOTIFY))
    program = source.compile()
    assert program.run(0x40000000, X86) == errno(38).value
    assert program.run(0, ARCHITECTURES["aarch64"].audit) == KILL_PROCESS.value
    assert "x32" in program.explain(0x40000000, X86).reason
    assert "aarch64" in program.explain(0, ARCHITECTURES["aarch64"].audit).reason
    other = made(Rule(("read",), NOTIFY), x32=LOG, foreign=errno(1), arches=("x86_64",)).compile()
    assert other.run(0x40000000, X86) == LOG.value
    assert other.run(3, abi.AUDIT_ARCH_I386) == errno(1).value
    three = made(Rule(("read",), NOTIFY), arches=("x86_64", "i386", "x32"))
    assert ask(three, "read", arch="x32") == NOTIFY
    assert ask(three, "write", arch="x32") == ALLOW


def test_minus_one_gets_the_default() -> None:
    assert made(Rule(("read",), NOTIFY), x32=TRAP).compile().run(-1, X86) == ALLOW.value
    assert made(Rule((-1,), NOTIFY)).compile().run(-1, X86) == NOTIFY.value


def test_raw_numbers_belong_to_the_first_architecture() -> None:
    program = made(Rule((1000, 5000), NOTIFY)).compile()
    assert program.run(1000, X86) == program.run(5000, X86) == NOTIFY.value
    assert program.run(1000, abi.AUDIT_ARCH_I386) == ALLOW.value
    program = made(Rule((1000,), NOTIFY, arches=("i386",))).compile()
    assert program.run(1000, X86) == ALLOW.value
    assert program.run(1000, abi.AUDIT_ARCH_I386) == NOTIFY.value
    program = made(Rule((0x40000000 + 700,), NOTIFY), arches=("x86_64", "x32")).compile()
    assert program.run(0x40000000 + 700, X86) == NOTIFY.value


def test_arguments_by_name_are_cut_to_what_the_kernel_uses() -> None:
    source = made(Rule(("openat", "mknod", "mknodat"), errno(1), (Condition("mode", "==", 0o644),)))
    garbage = 0xDEADBEEF << 32
    assert ask(source, "openat", 0, 0, 0, 0o644 | garbage) == errno(1)
    assert ask(source, "mknod", 0, 0o644 | 0xF0000) == errno(1)  # umode_t is 16 bits
    assert ask(source, "mknodat", 0, 0, 0o644) == errno(1)
    assert ask(source, "mknod", 0o644) == ALLOW
    raw = made(Rule(("openat",), errno(1), (Condition(3, "==", 0o644),)))
    assert ask(raw, "openat", 0, 0, 0, 0o644 | garbage) == ALLOW


def test_negative_values_are_twos_complement_in_the_arguments_width() -> None:
    source = made(Rule(("openat",), errno(1), (Condition("dirfd", "==", -100),)))
    assert ask(source, "openat", 0xFFFFFF9C) == errno(1)
    assert ask(source, "openat", FULL - 99) == errno(1)
    assert ask(source, "openat", 0xFFFFFF9C, arch="i386") == errno(1)
    raw = made(Rule(("openat",), errno(1), (Condition(0, "==", -100),)))
    assert ask(raw, "openat", FULL - 99) == errno(1)
    assert ask(raw, "openat", 0xFFFFFF9C) == ALLOW


def test_the_mask_works_with_every_operator() -> None:
    for op, hits in (("==", {4}), ("!=", {0, 8, 12}), ("<", {0}), (">=", {4, 8, 12})):
        source = made(Rule(("read",), errno(1), (Condition(0, op, 4, 0xC),)))
        for value in (0, 4, 8, 12):
            assert (ask(source, "read", value | 0xF00000003) == errno(1)) == (value in hits)


def test_a_condition_by_name_in_a_group_passes_over_calls_without_that_argument() -> None:
    source = made(Rule(("@chown",), errno(1), (Condition("owner", "==", 0),)))
    assert ask(source, "chown", 0, 0) == errno(1)
    assert ask(source, "fchownat", 0, 0, 0) == errno(1)
    assert ask(source, "fchownat", 0, 0, 7) == ALLOW
    with pytest.raises(FilterError, match='has no argument "sockfd"'):
        made(Rule(("@chown",), errno(1), (Condition("sockfd", "==", 0),)))


def test_a_rule_on_a_socket_call_covers_socketcall_unless_it_has_conditions() -> None:
    source = made(Rule(("connect",), errno(13)))
    assert ask(source, "socketcall", 3, arch="i386") == errno(13)
    assert ask(source, "socketcall", 3 | 1 << 32, arch="i386") == errno(13)
    assert ask(source, "socketcall", 2, arch="i386") == ALLOW
    assert ask(made(Rule(("semop",), errno(1))), "ipc", 0x50001, arch="i386") == errno(1)
    narrow = made(Rule(("connect",), errno(13), (Condition("sockfd", "==", 3),)))
    assert ask(narrow, "socketcall", 3, arch="i386") == ALLOW
    assert ask(narrow, "connect", 3, arch="i386") == errno(13)


def test_un_notified_calls_stay_in_the_bitmap() -> None:
    """The kernel proves every call but the named one to be allowed."""
    program = made(Rule(("ioctl",), NOTIFY, (Condition(1, "==", 0x5412),))).compile()
    for arch in ("x86_64", "i386"):
        ioctl = tables.number("ioctl", arch)
        for nr in range(600):
            constant = constant_allow(program.code, ARCHITECTURES[arch].audit, nr)
            assert constant == (nr != ioctl)


def test_identical_conditions_share_their_code() -> None:
    conditions = (Condition(0, "==", 1 << 40), Condition(3, "&=", 2, 6))
    names = ("read", "write", "ioctl", "mmap", "fcntl", "lseek")
    one = made(Rule(("read",), NOTIFY, conditions)).compile()
    six = made(Rule(names, NOTIFY, conditions)).compile()
    assert len(six) < len(one) + 4 * len(names)


def test_ranges_with_one_verdict_are_merged() -> None:
    # Allowing 0..330 costs a comparison or two, not 330.
    source = Filter([Rule(tuple(range(331)), ALLOW)], errno(1), ("x86_64",), foreign=KILL_PROCESS)
    assert len(source.compile()) < 14


def test_an_empty_filter_still_tells_architectures_apart() -> None:
    program = made().compile()
    assert program.run(0, X86) == ALLOW.value
    assert program.run(0, ARCHITECTURES["s390x"].audit) == KILL_PROCESS.value


def test_before_puts_rules_in_front() -> None:
    base = made(Rule(("mknod",), errno(1)), Rule(("read",), LOG))
    mine = base.before([Rule(("mknod",), NOTIFY, (Condition("dev", "==", 0x103),))])
    assert ask(mine, "mknod", 0, 0, 0x103) == NOTIFY
    assert ask(mine, "mknod", 0, 0, 0x104) == errno(1)
    assert ask(mine, "read") == LOG


def test_explain_says_which_rule() -> None:
    program = made(Rule(("mknod",), NOTIFY, label="devices"), Rule(("read",), LOG)).compile()
    hit = program.explain(133, X86)
    assert (hit.rule_index, hit.label) == (0, "devices")
    assert "devices" in hit.reason
    assert program.explain(0, X86).rule_index == 1
    missed = program.explain(1, X86)
    assert (missed.rule_index, missed.rule, missed.label) == (None, None, "")
    assert "write" in missed.reason


def test_explain_without_rules_names_the_instruction() -> None:
    program = made(Rule(("mknod",), NOTIFY)).compile()
    bare = type(program)(program.code)
    told = bare.explain(133, X86)
    assert told.action == NOTIFY
    assert told.rule_index is None
    assert f"instruction {told.instruction}" in told.reason


def test_explain_notices_a_program_that_is_not_its_rules() -> None:
    program = made(Rule(("mknod",), NOTIFY)).compile()
    forged = type(program)(made(Rule(("mknod",), LOG)).compile().code, program.source)
    with pytest.raises(AssertionError, match="please report"):
        forged.explain(133, X86)


def test_a_repeated_verdict_is_harmless() -> None:
    source = made(Rule(("mknod",), NOTIFY), Rule(("mknod",), NOTIFY, (Condition(0, "==", 1),)))
    assert ask(source, "mknod") == NOTIFY


CONDITION = Condition(0, "==", 1)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([Rule(("opneat",), NOTIFY)], 'no system call "opneat"; did you mean "openat"'),
        ([Rule(("%fil",), NOTIFY)], 'no group of system calls "%fil"; did you mean "%file"'),
        ([Rule(("@muont",), NOTIFY)], 'did you mean "@mount"'),
        ([Rule(("",), NOTIFY)], "empty system call name"),
        ([Rule((), NOTIFY)], "names no system call"),
        ([Rule("openat", NOTIFY)], r"write \('openat',\)"),  # type: ignore[arg-type]
        ([Rule(("riscv_hwprobe",), NOTIFY)], "exists, but not on x86_64, i386"),
        ([Rule((1 << 32,), NOTIFY)], "does not fit in 32 bits"),
        ([Rule((0x40000000,), NOTIFY)], "number of x32"),
        ([Rule(("read",), NOTIFY, arches=("amiga",))], "unknown architecture 'amiga'"),
        ([Rule(("read",), Action(0x12340000))], "unknown filter action 0x12340000"),
        ([Rule(("read",), Action(abi.SECCOMP_RET_ALLOW, 5))], "allow carries no data"),
        ([Rule(("read",), Action(abi.SECCOMP_RET_USER_NOTIF, 5))], "user_notif carries no data"),
        ([Rule(("read",), Action(abi.SECCOMP_RET_ERRNO, 4096))], "errno 4096 is not in 0..4095"),
        ([Rule(("read",), Action(abi.SECCOMP_RET_ERRNO, -1))], "errno -1 is not in"),
        ([Rule(("read",), NOTIFY, (Condition(6, "==", 1),))], "argument 6 does not exist"),
        ([Rule(("read",), NOTIFY, (Condition(-1, "==", 1),))], "argument -1 does not exist"),
        ([Rule(("read",), NOTIFY, (Condition(0, "=", 1),))], "unknown operator '='"),
        ([Rule(("read",), NOTIFY, (Condition(0, "==", 1 << 64),))], "does not fit in 64 bits"),
        ([Rule(("read",), NOTIFY, (Condition("fd", "==", 1 << 32),))], "does not fit in 32 bits"),
        ([Rule(("read",), NOTIFY, (Condition("fd", "==", -(1 << 40)),))], "does not fit in 32"),
        ([Rule(("read",), NOTIFY, (Condition(0, "<", -1),))], "compared unsigned"),
        ([Rule(("read",), NOTIFY, (Condition(0, "<", 0),))], "never true"),
        ([Rule(("read",), NOTIFY, (Condition(0, ">=", 0),))], "always true"),
        ([Rule(("read",), NOTIFY, (Condition(0, ">", FULL),))], "never true"),
        ([Rule(("read",), NOTIFY, (Condition(0, "<=", FULL),))], "always true"),
        ([Rule(("read",), NOTIFY, (Condition(0, "&=", 3, 1),))], "never true"),
        ([Rule(("read",), NOTIFY, (Condition(0, "!=", 3, 1),))], "always true"),
        ([Rule(("read",), NOTIFY, (Condition(0, "&=", 0, 0),))], "always true"),
        ([Rule(("read",), NOTIFY, (Condition(0, ">", 3, 3),))], "never true"),
        ([Rule(("read",), NOTIFY, (Condition(0, "==", 1, -1),))], "mask does not fit"),
        ([Rule(("read",), NOTIFY, (Condition("fds", "==", 1),))], 'did you mean "fd"'),
        ([Rule(("read",), NOTIFY, (Condition("mode", "==", 1),))], "it has fd, buf, count"),
        ([Rule((700,), NOTIFY, (Condition("fd", "==", 1),))], "of a raw number"),
        (
            [Rule(("read",), NOTIFY, (CONDITION, Condition(0, "==", 2)))],
            "exclude each other: arg0 == 0x1 and arg0 == 0x2",
        ),
        ([Rule(("read",), NOTIFY, (Condition(0, "<", 3), Condition(0, ">", 7)))], "exclude"),
        ([Rule(("read",), NOTIFY, (CONDITION, Condition(0, ">", 7)))], "exclude"),
        ([Rule(("read",), NOTIFY, (CONDITION, Condition(0, "!=", 1)))], "exclude"),
        (
            [Rule(("read",), NOTIFY, (Condition(0, "&=", 1, 3), Condition(0, "&=", 2, 6)))],
            "exclude",
        ),
        (
            [Rule(("read",), NOTIFY), Rule(("read",), LOG)],
            r"rule 1: read -> log can never decide: rule 0 comes first and says notify",
        ),
        ([Rule(("%file",), NOTIFY), Rule(("openat",), LOG)], "can never decide"),
        ([Rule(("read",), NOTIFY, (CONDITION,)), Rule(("read",), LOG, (CONDITION,))], "can never"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(rules: list[Rule], message: str) -> None:
    with pytest.raises(FilterError, match=message) as caught:
        made(*rules)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("rule ")


def test_a_label_is_in_the_refusal() -> None:
    with pytest.raises(FilterError, match=r"rule 0 \(my rule\): "):
        made(Rule(("opneat",), NOTIFY, label="my rule"))


def test_other_refusals() -> None:
    with pytest.raises(FilterError, match="at least one architecture"):
        Filter([], arches=())
    with pytest.raises(FilterError, match="unknown architecture 'vax'"):
        Filter([], arches=("vax",))
    with pytest.raises(FilterError, match="unknown filter action"):
        Filter([], default=Action(0x10000000))
    with pytest.raises(FilterError, match="64-bit ABI"):
        # pread64's offset comes in two registers there
        Filter([Rule(("pread64",), NOTIFY, (Condition("offset", "==", 0),))], arches=("i386",))


def test_a_program_that_is_too_long_is_refused_before_the_kernel_does() -> None:
    rules = [
        Rule((nr,), errno(1), (Condition(0, "==", (nr << 33) + value), Condition(1, ">", 1 << 35)))
        for nr in range(500)
        for value in range(3)
    ]
    with pytest.raises(FilterError, match="kernel takes at most 4096"):
        made(*rules).compile()


def test_lenient_filters_keep_rules_that_never_decide() -> None:
    source = made(Rule(("read",), NOTIFY), Rule(("read",), LOG), strict=False)
    assert ask(source, "read") == NOTIFY


def test_precedence_of_actions_is_the_kernels() -> None:
    order = [KILL_PROCESS, KILL_THREAD, TRAP, errno(1), NOTIFY, trace(1), LOG, ALLOW]
    ranks = [rank(each.value) for each in order]
    assert ranks == sorted(ranks) and len(set(ranks)) == len(ranks)
    # Of equal ones the newest filter's data counts (C029).
    assert rank(errno(5).value) == rank(errno(6).value)
    # C027: unknown actions take part by their number.
    unknown = [
        rank(KILL_PROCESS.value),
        rank(0x90000000),
        rank(0),
        rank(0x7FFE0000),
        rank(ALLOW.value),
    ]
    assert unknown == sorted(unknown)


def test_what_the_kernel_makes_of_a_result() -> None:
    assert effective(0x10000000) == KILL_PROCESS
    assert effective(abi.SECCOMP_RET_ERRNO | 65535) == errno(4095)
    assert effective(0) == KILL_THREAD
    assert decoded(abi.SECCOMP_RET_TRACE | 7) == trace(7)


def test_verdicts_read_well() -> None:
    assert [str(v) for v in (ALLOW, NOTIFY, errno(1), errno(4000), trap(3), KILL_PROCESS)] == [
        *("allow", "notify", "errno(EPERM)", "errno(4000)", "trap(3)", "kill_process")
    ]


def test_compiling_imports_little() -> None:
    """What `proctor run` pays before the target starts."""
    script = (
        "import sys\n"
        "from proctor.filter.rules import Filter, Rule, NO_X32\n"
        "Filter([Rule(('openat', '%network'), NO_X32)]).compile()\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    heavy = {"inspect", "dataclasses", "difflib", "json", "asyncio", "argparse", "logging"}
    assert not heavy.intersection(loaded)
    assert "proctor.kernel._core" not in loaded
    assert "proctor.filter.interpreter" not in loaded


def test_conditions_by_index_are_cut_to_32_bits_for_i386_calls() -> None:
    """A 64-bit process that makes an i386 call (int 0x80) chooses the upper halves of the registers,
    which filters see and the kernel ignores (found by the conformance tests, C034)."""
    rules = [
        Rule(("kill",), errno(1), (Condition(1, "==", 9),)),
        Rule(("mkdir",), errno(2), (Condition(1, "==", 1 << 40),)),
        Rule(("rmdir",), errno(3), (Condition(1, "<=", 1 << 40),)),
    ]
    filter = Filter(rules, ALLOW, arches=("x86_64", "i386"))
    program = filter.compile()
    i386, native = 0x40000003, 0xC000003E
    high = 0xDEADBEEF << 32

    def both(nr: int, arch: int, *args: int) -> int:
        registers = (*args, *[0] * (6 - len(args)))
        verdict = program.run(nr, arch, registers)
        assert verdict == filter.decide(nr, arch, registers).action.value
        return verdict

    assert both(37, i386, 0, 9) == both(37, i386, 0, high | 9) == errno(1).value
    assert both(62, native, 0, 9) == errno(1).value
    assert both(62, native, 0, high | 9) == ALLOW.value  # a whole register there
    assert both(39, i386, 0, 1 << 40) == ALLOW.value  # never true in 32 bits
    assert both(83, native, 0, 1 << 40) == errno(2).value
    assert both(40, i386, 0, high) == errno(3).value  # always true in 32 bits
    assert both(84, native, 0, high) == ALLOW.value


def test_lists_do_for_a_rule_as_tuples_do() -> None:
    """At run time, and for who has his program's types checked: this file's are."""
    conditions = [Condition("mode", "==", 0o700)]
    lists = Rule(["mkdir"], NOTIFY, conditions)
    assert ask(Filter([lists]), "mkdir", 0, 0o700) == NOTIFY
    assert ask(Filter([lists]), "mkdir", 0, 0o755) == ALLOW
