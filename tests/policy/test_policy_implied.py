"""What rules mean on architectures that make the same call in other ways, and for whom."""

from __future__ import annotations

import errno

import pytest

from proctor.filter import actions
from proctor.kernel import abi
from proctor.policy import Policy, loads
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from tests.policy.calls import call as made

ALLOW, NOTIFY = actions.ALLOW.value, actions.NOTIFY.value
EPERM = actions.errno(errno.EPERM).value
ENOSYS = actions.errno(errno.ENOSYS).value


def both(policy: Policy, call: str, arch: str, *registers: int) -> int:
    """What the filter says; the rules must agree."""
    audit = ARCHITECTURES[arch].audit
    said = (
        policy.filter().compile().run(tables.number(call, arch), audit, (*registers, *(0,) * 6)[:6])
    )
    ruling = policy.decide(made(call, *registers, abi=arch)).ruling
    if said != NOTIFY:
        expected = {ALLOW: "allow", EPERM: "EPERM", ENOSYS: "ENOSYS"}[said]
        assert str(ruling) == expected
    return said


def rule(body: str, name: str = "r") -> str:
    return f'[[rule]]\nname = "{name}"\n{body}\n'


@pytest.mark.parametrize(
    ("written", "also"),
    [
        ("chown", "chown32"),
        ("mmap", "mmap2"),
        ("fcntl", "fcntl64"),
        ("umount2", "umount"),
        ("futex", "futex_time64"),
        ("newfstatat", "fstatat64"),
        ("lseek", "_llseek"),
        ("truncate", "truncate64"),
    ],
)
def test_the_32_bit_names_of_a_call_are_meant_too(written: str, also: str) -> None:
    policy = loads(rule(f'calls = ["{written}"]\ndeny = "EPERM"'))
    assert both(policy, also, "i386") == EPERM


def test_conditions_hold_for_the_32_bit_names_too() -> None:
    policy = loads(rule('calls = ["chown"]\nwhen = { owner = 0 }\ndeny = "EPERM"'))
    assert both(policy, "chown32", "i386", 1, 0) == EPERM
    assert both(policy, "chown32", "i386", 1, 5) == ALLOW
    # the old call's ids are 16 bits wide, what stands above them is not read
    assert both(policy, "chown", "i386", 1, 0x10000) == EPERM


def test_a_number_too_large_for_one_architecture_just_does_not_match_there() -> None:
    policy = loads(rule('calls = ["chown"]\nwhen = { owner = 70000 }\ndeny = "EPERM"'))
    assert both(policy, "chown", "x86_64", 1, 70000) == EPERM
    assert both(policy, "chown32", "i386", 1, 70000) == EPERM
    assert both(policy, "chown", "i386", 1, 70000 & 0xFFFF) == ALLOW
    policy = loads(rule('calls = ["chown"]\nwhen = { owner = "< 70000" }\ndeny = "EPERM"'))
    assert both(policy, "chown", "i386", 1, 5) == EPERM


def test_a_rule_without_conditions_covers_socketcall() -> None:
    policy = loads(rule('calls = ["connect"]\ndeny = "EPERM"'))
    assert both(policy, "connect", "i386") == EPERM
    assert both(policy, "socketcall", "i386", 3) == EPERM
    assert both(policy, "socketcall", "i386", 3 | 1 << 40) == EPERM
    assert both(policy, "socketcall", "i386", 4) == ALLOW


def test_a_rule_with_conditions_closes_the_multiplexed_way() -> None:
    policy = loads(
        rule('calls = ["socket"]\nwhen = { domain = "AF_INET" }\ndeny = "EPERM"', "a")
        + rule('calls = ["socket"]\nallow = true', "b")
    )
    assert both(policy, "socket", "i386", 2) == EPERM
    assert both(policy, "socket", "i386", 1) == ALLOW
    assert both(policy, "socketcall", "i386", 1) == ENOSYS  # its domain is out of sight
    assert both(policy, "socketcall", "i386", 2) == ALLOW
    # no tip: what lets that through goes by the rule's condition
    closed = made("socketcall", 1, 0, 0, 0, 0, 0, abi="i386")
    assert policy.decide(closed).ruling.refuses and policy.explain(closed).tip == ""
    refused = made("socket", 2, 0, 0, 0, 0, 0, abi="i386")
    assert "socket" in policy.explain(refused).tip


def test_a_rule_that_performs_reaches_the_multiplexed_way() -> None:
    """As the call itself, where its conditions can be asked; else that way is closed."""
    last = rule('calls = ["connect"]\ndeny = "EACCES"', "b")
    for conditions, number, performed in (
        ("", 3, True), ('address = "inet:10.0.0.0/8"', 3, True), ("caller = { uid = 0 }", 3, True),
        ("sockfd = 3", 3, False),
    ):  # fmt: skip
        policy = loads(
            rule(f'calls = ["connect"]\nwhen = {{ {conditions} }}\nperform = true', "a")
            + last * bool(conditions)
        )
        clauses = [
            each
            for each in policy.rules
            if ("i386", "socketcall") in each.clauses and each.performs
        ]
        assert bool(clauses) == performed, conditions
        assert policy.filter().compile().run(
            tables.number("socketcall", "i386"), abi.AUDIT_ARCH_I386, (number,)
        ) == (actions.NOTIFY.value if performed else ENOSYS), conditions
    policy = loads(rule('calls = ["accept", "sendto"]\nperform = true'))
    reached = [each.clauses.get(("i386", "socketcall")) for each in policy.rules if each.performs]
    assert len([each for each in reached if each is not None]) == 3  # accept, sendto, send


def test_send_is_sendto_without_an_address() -> None:
    policy = loads(rule('calls = ["sendto"]\ndeny = "EPERM"'))
    assert both(policy, "socketcall", "i386", 9) == EPERM
    assert both(policy, "socketcall", "i386", 11) == EPERM


def test_ipc_reads_sixteen_bits() -> None:
    policy = loads(rule('calls = ["msgget"]\ndeny = "EPERM"'))
    assert both(policy, "ipc", "i386", 13 | 1 << 16) == EPERM


def test_a_call_that_only_the_multiplexer_has() -> None:
    policy = loads(rule('calls = ["accept"]\ndeny = "EPERM"'))
    assert "accept" not in tables.numbers("i386")
    assert both(policy, "socketcall", "i386", 5) == EPERM


def test_architectures_by_name() -> None:
    policy = loads(
        'arches = ["amd64", "arm64"]\nforeign_arch = "EPERM"\nx32 = "kill"\n'
        + rule('calls = ["mknod", "mknodat"]\ndeny = "EPERM"')
    )
    assert policy.settings.arches == ("x86_64", "aarch64")
    assert both(policy, "mknodat", "aarch64") == EPERM
    assert both(policy, "mknod", "x86_64") == EPERM
    program = policy.filter().compile()
    assert program.run(1, abi.AUDIT_ARCH_I386) == EPERM
    assert program.run(1 | abi.X32_SYSCALL_BIT, abi.AUDIT_ARCH_X86_64) == actions.KILL_PROCESS.value
    assert str(policy.decide(made("write", abi="i386")).ruling) == "EPERM"
    assert str(policy.decide(made("write", abi="x32")).ruling) == "kill"


def test_constants_are_those_of_the_architecture() -> None:
    policy = loads(
        'arches = ["x86_64", "aarch64"]\n'
        + rule('calls = ["openat"]\nwhen = { flags = { all = ["O_DIRECTORY"] } }\ndeny = "EPERM"')
    )
    assert both(policy, "openat", "x86_64", 0, 0, 0o200000) == EPERM
    assert both(policy, "openat", "x86_64", 0, 0, 0o40000) == ALLOW
    assert both(policy, "openat", "aarch64", 0, 0, 0o40000) == EPERM


def test_groups_and_exclusions() -> None:
    policy = loads(rule('calls = ["%file", "!%stat", "!openat", "getpid"]\ndeny = "EPERM"'))
    assert both(policy, "open", "x86_64") == EPERM
    assert both(policy, "getpid", "x86_64") == EPERM
    assert both(policy, "openat", "x86_64") == ALLOW
    assert both(policy, "stat", "x86_64") == ALLOW
    loads(rule('calls = ["%desc", "!close", "!read", "!write"]\nreturn = 5'))


def test_nothing_is_imported_before_a_policy_is_loaded() -> None:
    import subprocess
    import sys

    code = "import proctor.policy, sys; print(*[m for m in ('tomllib', 'difflib') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == ""
