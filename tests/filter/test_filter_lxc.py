"""LXC profiles."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from proctor.errors import FilterError
from proctor.filter.actions import (
    ALLOW,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    NOTIFY,
    TRAP,
    Action,
    errno,
)
from proctor.filter.conditions import Condition
from proctor.filter.profiles import lxc
from proctor.filter.rules import Filter, Rule
from proctor.kernel import abi
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from tests.filter.strategies import agreeing_filters, arguments_near

PROFILE = """\
2
denylist
# what a container must not do
reject_force_umount
kexec_load errno 1
open_by_handle_at errno 1   # a comment
init_module
a_call_of_tomorrow errno 38
mknod notify [1,8192,SCMP_CMP_MASKED_EQ,61440][2,0x105,==]
mknod notify [1,24576,&=,61440]
swapon trap [1,3,SCMP_CMP_GT]

[x86]
vm86 errno 38
[x86_64]
iopl errno 2
[arm64]
bpf errno 7
[ALL]
swapoff errno 3
"""


def verdict(source: Filter, name: str, *args: int, arch: str = "x86_64") -> Action:
    """What a filter says of a call by name; checked against its program."""
    nr, audit = tables.number(name, arch), ARCHITECTURES[arch].audit
    return source.compile().explain(nr, audit, (*args, *(0,) * (6 - len(args)))).action


def test_a_denylist() -> None:
    source = lxc.load(PROFILE, arch="x86_64")
    assert source.arches == ("x86_64", "i386", "x32")
    assert source.default == ALLOW
    assert verdict(source, "umount2", 0, 1) == errno(13)
    assert verdict(source, "umount2", 0, 2) == ALLOW
    assert verdict(source, "umount2", 0, 3, arch="i386") == errno(13)
    assert verdict(source, "kexec_load") == errno(1)
    assert verdict(source, "open_by_handle_at", arch="x32") == errno(1)
    assert verdict(source, "init_module") == KILL_THREAD
    assert verdict(source, "mknod", 0, 0o20644, 0x105) == NOTIFY
    assert verdict(source, "mknod", 0, 0o20644, 0x106) == ALLOW
    assert verdict(source, "mknod", 0, 0o60644, 7) == NOTIFY
    assert verdict(source, "swapon", 0, 4) == TRAP
    assert verdict(source, "swapon", 0, 3) == ALLOW
    assert verdict(source, "swapoff") == errno(3)


def test_headings_restrict_to_an_abi_and_skip_other_machines() -> None:
    source = lxc.load(PROFILE, arch="x86_64")
    assert verdict(source, "vm86", arch="i386") == errno(38)
    assert verdict(source, "iopl") == errno(2)
    assert verdict(source, "iopl", arch="i386") == ALLOW
    assert verdict(source, "bpf") == ALLOW
    arm = lxc.load(PROFILE, arch="arm64")
    assert arm.arches == ("aarch64", "arm")
    assert verdict(arm, "bpf", arch="aarch64") == errno(7)
    assert verdict(arm, "bpf", arch="arm") == ALLOW
    assert lxc.load(PROFILE, arch="s390x").arches == ("s390x",)


def test_an_allowlist_and_defaults() -> None:
    source = lxc.load("2\nallowlist errno 38\nread\nwrite errno 1\n", arch="x86_64")
    assert source.default == errno(38)
    assert verdict(source, "read") == ALLOW
    assert verdict(source, "write") == errno(1)
    assert verdict(source, "openat") == errno(38)
    assert lxc.load("2\nwhitelist\nread\n").default == KILL_THREAD
    assert lxc.load("2\nblacklist trap\nread\n").default == TRAP
    assert lxc.load("2\ndenylist notify\nread\n").default == NOTIFY


def test_version_1() -> None:
    source = lxc.load("1\nallowlist\n0\n1\n\n60\n", arch="x86_64")
    assert verdict(source, "read") == ALLOW
    assert verdict(source, "openat") == KILL_THREAD
    assert source.arches == ("x86_64",)
    assert lxc.load("1\nallowlist\n").compile().run(0, abi.AUDIT_ARCH_X86_64) == 0


def test_a_rule_without_conditions_decides_wherever_it_stands() -> None:
    source = lxc.load("2\ndenylist\nread notify [0,1,==]\nread errno 5\n", arch="x86_64")
    assert verdict(source, "read", 1) == errno(5)


def test_rules_know_their_line() -> None:
    program = lxc.load(PROFILE, arch="x86_64").compile()
    explanation = program.explain(tables.number("kexec_load"), abi.AUDIT_ARCH_X86_64)
    assert explanation.label == "line 5"


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "profile"
    path.write_bytes(PROFILE.replace("\n", "\r\n").encode())
    assert lxc.load(path, arch="x86_64").compile() == lxc.load(PROFILE, arch="x86_64").compile()
    path.write_bytes(b"2\ndenylist\n\xff\n")
    with pytest.raises(FilterError, match="is text"):
        lxc.load(path)
    with pytest.raises(FilterError, match="No such file"):
        lxc.load(tmp_path / "none")


def test_written_and_read_back() -> None:
    source = lxc.load(PROFILE, arch="x86_64")
    text = lxc.dump(source)
    assert text.startswith("2\ndenylist allow\n")
    assert "[x86]\nvm86 errno 38" in text
    again = lxc.load(text, arch="x86_64")
    assert lxc.dump(again) == text
    program, expected = again.compile(), source.compile()
    for arch in source.arches:
        for nr, clauses in source.bodies()[arch].items():
            rules = tuple(source.rules[clause.rule] for clause in clauses)
            for args in arguments_near(rules, nr, 10):
                audit = ARCHITECTURES[arch].audit
                assert program.run(nr, audit, args) == expected.run(nr, audit, args)


def test_conditions_by_name_are_written_by_index_with_a_mask() -> None:
    rule = Rule(("mknodat",), NOTIFY, (Condition("dirfd", "==", -100),))
    text = lxc.dump(Filter([rule], arches=("x86_64",)))
    assert text == (
        "2\ndenylist allow\nmknodat notify [0,0xffffff9c,SCMP_CMP_MASKED_EQ,0xffffffff]\n"
    )


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    agreeing_filters(
        (ALLOW, KILL_THREAD, TRAP, NOTIFY, errno(1), errno(38)),
        (("x86_64", "i386", "x32"), ("aarch64", "arm"), ("s390x",)),
    )
)
def test_what_is_written_means_the_same_when_read(source: Filter) -> None:
    again = lxc.load(lxc.dump(source), arch=source.arches[0])
    program, expected = again.compile(), source.compile()
    assert again.arches == source.arches
    for arch in source.arches:
        for nr in range(600):
            number = nr | 0x40000000 if arch == "x32" else nr
            judged = number in source.bodies()[arch]
            for args in arguments_near(source.rules, nr, 6 if judged else 1):
                assert program.run(number, ARCHITECTURES[arch].audit, args) == expected.run(
                    number, ARCHITECTURES[arch].audit, args
                )


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(("read",), LOG), "no action log"),
        (Rule(("read",), KILL_PROCESS), "no action kill_process"),
        (Rule((700,), errno(1)), "no name"),
        (
            Rule(("read",), errno(1), (Condition(0, ">", 1), Condition(0, "<", 9))),
            "several conditions on one argument",
        ),
        (Rule(("read",), errno(1), arches=("riscv64",)), "no heading for riscv64"),
    ],
)
def test_what_a_profile_cannot_say_is_refused(rule: Rule, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        lxc.dump(Filter([rule], arches=("x86_64", "riscv64")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "line 1: the version"),
        ("3\ndenylist\n", "line 1: the version"),
        ("2\n", "line 2: allowlist or denylist"),
        ("2\nlist\n", "line 2: allowlist or denylist"),
        ("2\ndenylist deny\n", "line 2: unknown action 'deny'"),
        ("2\ndenylist errno\n", "line 2: errno needs a number"),
        ("2\ndenylist\nread deny\n", "line 3: unknown action 'deny'"),
        ("2\ndenylist\nread errno x\n", "line 3: errno needs a number"),
        ("2\ndenylist\nread errno 4096\n", "line 3: errno needs a number"),
        ("2\ndenylist\n[x68]\nread\n", "line 3: unknown architecture"),
        ("2\ndenylist\nread kill [6,1,==]\n", "line 3: '6' is no number"),
        ("2\ndenylist\nread kill [0,-1,==]\n", "is no number"),
        ("2\ndenylist\nread kill [0,18446744073709551616,==]\n", "is no number"),
        ("2\ndenylist\nread kill [0,1_0,==]\n", "is no number"),
        ("2\ndenylist\nread kill [0,1,=]\n", "unknown operator '='"),
        ("2\ndenylist\nread kill [0,1]\n", "a condition is"),
        ("2\ndenylist\nread kill [0,1,==,1,1]\n", "a condition is"),
        ("2\ndenylist\nread kill [0,1,==] x\n", "a condition is"),
        ("1\ndenylist\n0\n", "version 1 knows allowlist only"),
        ("1\nallowlist\nread\n", "line 3: version 1 has system call numbers"),
    ],
)
def test_bad_profiles_are_refused_with_their_line(text: str, message: str) -> None:
    with pytest.raises(FilterError, match=message) as caught:
        lxc.load(text, arch="x86_64")
    assert "\n" not in str(caught.value)


def test_numbers_may_be_octal_or_hexadecimal() -> None:
    text = "2\ndenylist\nmknod errno 1 [1,0020000,&=,0xf000]\n"
    source = lxc.load(text, arch="x86_64")
    assert verdict(source, "mknod", 0, 0x2000) == errno(1)
