"""OCI profiles and the dialect of Docker and Podman."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    trace,
    trap,
)
from proctor.filter.conditions import Condition
from proctor.filter.profiles import oci
from proctor.filter.profiles.profile import Profile
from proctor.filter.rules import Filter, Rule
from proctor.kernel import abi
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from tests.filter.strategies import agreeing_filters, arguments_near, filters

OURS = Path(__file__).with_name("profile_like_dockers.json")
#: Debian's package golang-github-containers-common has Podman's default profile.
DEBIANS = Path("/usr/share/containers/seccomp.json")

EPERM = errno(1)


def verdict(source: Filter, name: str, *args: int, arch: str = "x86_64") -> Action:
    """What a filter says of a call by name; checked against its program."""
    nr, audit = tables.number(name, arch), ARCHITECTURES[arch].audit
    return source.compile().explain(nr, audit, (*args, *(0,) * (6 - len(args)))).action


def load(**options: Any) -> Filter:
    """Our profile, for x86_64 unless said."""
    return oci.load(OURS, **{"arch": "x86_64", "kernel": "6.1.0-13-amd64", **options}).filter()


def minimal(**more: Any) -> dict[str, Any]:
    """A profile with one entry."""
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mknod"], "action": "SCMP_ACT_ERRNO"}],
        **more,
    }


def with_call(**call: Any) -> dict[str, Any]:
    """A profile whose one entry is ``call``, completed."""
    return minimal(syscalls=[{"names": ["mknod"], "action": "SCMP_ACT_ERRNO", **call}])


def with_arg(**arg: Any) -> dict[str, Any]:
    """A profile with one condition, completed."""
    return with_call(args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ", **arg}])


def test_a_profile_in_dockers_dialect_is_expanded_for_the_container() -> None:
    plain = load()
    assert plain.arches == ("x86_64", "i386", "x32")
    assert plain.default == EPERM
    assert verdict(plain, "openat") == ALLOW
    assert verdict(plain, "mknodat") == EPERM
    assert verdict(load(caps=["CAP_MKNOD"]), "mknodat") == ALLOW
    assert verdict(plain, "clone3") == errno(38)
    assert verdict(plain, "clone", 0x10000000) == EPERM
    assert verdict(plain, "clone", 0x11) == ALLOW
    admin = load(caps=["CAP_SYS_ADMIN"])
    assert verdict(admin, "clone3") == ALLOW
    assert verdict(admin, "clone", 0x10000000) == ALLOW
    assert verdict(plain, "arch_prctl") == ALLOW
    assert verdict(plain, "openat", arch="i386") == ALLOW
    assert verdict(plain, "openat", arch="x32") == ALLOW


def test_includes_by_kernel_and_architecture() -> None:
    assert verdict(load(kernel="4.4.302"), "ptrace") == EPERM
    assert verdict(load(kernel="4.8"), "ptrace") == ALLOW
    assert verdict(load(kernel="10.0-rc1"), "ptrace") == ALLOW
    s390x = load(arch="s390x")
    assert s390x.arches == ("s390x", "s390")
    assert verdict(s390x, "clone", 0, 0x11, arch="s390x") == ALLOW
    assert verdict(s390x, "clone", 0x11, 0x10000000, arch="s390x") == EPERM
    assert load(arch="aarch64").arches == ("aarch64", "arm")
    assert load(arch="riscv64").arches == ("riscv64",)
    assert load(arch="ppc64le").arches == ("ppc64le",)  # not in archMap


def test_several_conditions_on_one_argument_are_alternatives() -> None:
    plain = load()
    assert [verdict(plain, "personality", value) for value in (0, 8, 1)] == [ALLOW, ALLOW, EPERM]
    assert verdict(plain, "personality", 1 << 32) == EPERM


def test_conditions_on_different_arguments_must_all_hold() -> None:
    args = [
        {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
        {"index": 1, "value": 5, "op": "SCMP_CMP_GE"},
    ]
    source = oci.load(with_call(args=args), arch="x86_64").filter()
    assert verdict(source, "mknod", 1, 5) == EPERM
    assert verdict(source, "mknod", 1, 4) == ALLOW
    assert verdict(source, "mknod", 2, 5) == ALLOW
    # A third one on an argument already named: now each by itself is enough.
    args.append({"index": 1, "value": 9, "op": "SCMP_CMP_GE"})
    source = oci.load(with_call(args=args), arch="x86_64").filter()
    assert verdict(source, "mknod", 1, 0) == EPERM
    assert verdict(source, "mknod", 0, 5) == EPERM
    assert verdict(source, "mknod", 0, 4) == ALLOW


@pytest.mark.parametrize(
    ("op", "value", "second", "hits", "misses"),
    [
        ("SCMP_CMP_EQ", 7, None, [7], [6, 8, 7 | 1 << 32]),
        ("SCMP_CMP_NE", 7, None, [6, 8], [7]),
        ("SCMP_CMP_LT", 7, None, [0, 6], [7, 1 << 63]),
        ("SCMP_CMP_LE", 7, None, [0, 7], [8]),
        ("SCMP_CMP_GT", 7, None, [8, 1 << 63], [7, 0]),
        ("SCMP_CMP_GE", 7, None, [7, 1 << 32], [6]),
        ("SCMP_CMP_MASKED_EQ", 0xF000, 0x2000, [0x2000, 0x2FFF, 0x12000], [0x6000, 0]),
        ("SCMP_CMP_MASKED_EQ", 0xF0, 0xFF, [0xF0, 0xFF], [0x0F]),  # bits outside the mask
        ("SCMP_CMP_MASKED_EQ", 0x7E020000, None, [0x11], [0x10000000, 0x20000]),
        ("SCMP_CMP_GE", 0, None, [0, 1], []),  # always
        ("SCMP_CMP_LT", 0, None, [], [0, 1]),  # never
        ("SCMP_CMP_MASKED_EQ", 0, 5, [0, 1], []),
    ],
)
def test_operators(
    op: str, value: int, second: int | None, hits: list[int], misses: list[int]
) -> None:
    two = {} if second is None else {"valueTwo": second}
    source = oci.load(with_arg(op=op, value=value, **two), arch="x86_64").filter()
    assert [verdict(source, "mknod", hit) for hit in hits] == [EPERM] * len(hits)
    assert [verdict(source, "mknod", miss) for miss in misses] == [ALLOW] * len(misses)


@pytest.mark.parametrize(
    ("word", "number", "action"),
    [
        ("SCMP_ACT_KILL", None, KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", None, KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", None, KILL_PROCESS),
        ("SCMP_ACT_TRAP", None, TRAP),
        ("SCMP_ACT_ERRNO", None, EPERM),
        ("SCMP_ACT_ERRNO", 38, errno(38)),
        ("SCMP_ACT_ERRNO", 0, errno(0)),
        ("SCMP_ACT_TRACE", None, trace(1)),
        ("SCMP_ACT_TRACE", 9, trace(9)),
        ("SCMP_ACT_LOG", None, LOG),
        ("SCMP_ACT_NOTIFY", None, NOTIFY),
    ],
)
def test_actions(word: str, number: int | None, action: Action) -> None:
    extra = {} if number is None else {"errnoRet": number}
    source = oci.load(with_call(action=word, **extra), arch="x86_64").filter()
    assert verdict(source, "mknod") == action


def test_an_entry_without_conditions_decides_wherever_it_stands() -> None:
    conditional = {
        "names": ["mknod"],
        "action": "SCMP_ACT_NOTIFY",
        "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}],
    }
    certain = {"names": ["mknod"], "action": "SCMP_ACT_LOG"}
    second = {"names": ["mknod"], "action": "SCMP_ACT_TRAP"}
    for calls in ([conditional, certain, second], [certain, second, conditional]):
        source = oci.load(minimal(syscalls=calls), arch="x86_64").filter()
        assert verdict(source, "mknod", 1) == LOG
    # What only repeats the default is skipped, and then the condition counts.
    same = {"names": ["mknod"], "action": "SCMP_ACT_ALLOW"}
    source = oci.load(minimal(syscalls=[same, conditional]), arch="x86_64").filter()
    assert verdict(source, "mknod", 1) == NOTIFY


def test_foreign_calls_get_what_libseccomp_gives_them() -> None:
    source = oci.load(minimal(), arch="x86_64").filter()
    program = source.compile()
    assert program.run(14, abi.AUDIT_ARCH_I386) == KILL_THREAD.value
    assert program.run(0x40000000 | 133, abi.AUDIT_ARCH_X86_64) == KILL_THREAD.value
    other = oci.load(minimal(), arch="x86_64").filter(foreign=KILL_PROCESS, x32=errno(38))
    assert other.compile().run(14, abi.AUDIT_ARCH_I386) == KILL_PROCESS.value


def test_a_profile_as_a_base() -> None:
    mine = load().before([Rule(("mknod", "mknodat"), NOTIFY)])
    assert verdict(mine, "mknodat") == NOTIFY
    assert verdict(mine, "openat") == ALLOW
    assert verdict(mine, "mount") == EPERM


def test_explanations_name_the_entry_in_the_file() -> None:
    explanation = load().compile().explain(tables.number("clone3", "x86_64"), abi.AUDIT_ARCH_X86_64)
    assert explanation.label == "syscalls[7]"


def test_metadata_is_read_and_written() -> None:
    data = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "listenerPath": "/run/agent.sock",
        "listenerMetadata": "{}",
        "syscalls": [
            {
                "names": ["mknod"],
                "action": "SCMP_ACT_NOTIFY",
                "args": [
                    {"index": 1, "value": 61440, "valueTwo": 8192, "op": "SCMP_CMP_MASKED_EQ"},
                    {"index": 2, "value": 259, "op": "SCMP_CMP_EQ"},
                ],
            },
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        ],
    }
    profile = oci.load(data, arch="x86_64")
    assert oci.dump(profile) == data
    assert profile.listener_path == "/run/agent.sock"
    assert profile.filter_flags == (
        abi.SECCOMP_FILTER_FLAG_LOG | abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    )
    assert oci.load({"linux": {"seccomp": data}}, arch="x86_64") == profile
    assert oci.load(json.dumps(data), arch="x86_64") == profile
    assert oci.load(json.dumps(data).encode(), arch="x86_64") == profile


@pytest.mark.parametrize("word", oci._ACTIONS)
def test_every_action_survives_the_round_trip(word: str) -> None:
    number = {"SCMP_ACT_ERRNO": 4095, "SCMP_ACT_TRACE": 65535}.get(word)
    entry: dict[str, Any] = {"names": ["mknod"], "action": word}
    data: dict[str, Any] = {"defaultAction": word, "syscalls": [entry]}
    if number is not None:
        data["defaultErrnoRet"] = entry["errnoRet"] = number
    if word == "SCMP_ACT_KILL":  # an older word for the same, in the specification as well
        entry["action"] = data["defaultAction"] = "SCMP_ACT_KILL_THREAD"
    profile = oci.load({**data, "defaultAction": word, "syscalls": [{**entry, "action": word}]})
    assert oci.dump(profile) == data
    assert oci.load(oci.dumps(profile)) == profile


def test_every_flag_survives_the_round_trip() -> None:
    flags = [f"SECCOMP_FILTER_FLAG_{name}" for name in abi.FILTER_FLAGS]
    profile = oci.load(minimal(flags=flags, listenerPath="/run/x", listenerMetadata="a\n"))
    data = oci.dump(profile)
    assert (data["flags"], data["listenerPath"], data["listenerMetadata"]) == (
        flags,
        "/run/x",
        "a\n",
    )
    assert profile.filter_flags == sum(abi.FILTER_FLAGS.values())
    assert oci.load(data) == profile
    source = Filter([Rule(("mknod",), NOTIFY)], arches=("x86_64",))
    written = oci.dump(source, flags=flags, listener_path="/run/x", listener_metadata="{}")
    assert oci.dump(oci.load(written, arch="x86_64")) == written


def test_the_expanded_dialect_survives_the_round_trip() -> None:
    for arch in ("x86_64", "aarch64", "s390x"):
        profile = oci.load(OURS, arch=arch, caps=["CAP_MKNOD"], kernel="6.1")
        again = oci.load(oci.dumps(profile), arch=arch)
        assert again == profile
        assert again.filter().compile() == profile.filter().compile()


def test_unknown_calls_are_ignored_and_named() -> None:
    assert oci.load(OURS, arch="x86_64").unknown == ("a_call_of_tomorrow",)


def test_a_rule_that_no_architecture_here_has_is_left_out() -> None:
    data = with_call(names=["s390_sthyi", "sync_file_range2"])
    assert oci.load(data, arch="x86_64").filter().rules == ()
    assert len(oci.load(data, arch="s390x").filter().rules) == 1


def test_a_long_number_leaves_out_the_architectures_that_have_not_the_call() -> None:
    """Its rule is another one where registers have 32 bits."""
    args = [{"index": 4, "value": 1 << 32 | 7, "op": "SCMP_CMP_EQ"}]
    data = with_call(names=["mmap", "newfstatat"], args=args)
    data["architectures"] = ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    (rule,) = oci.load(data, arch="aarch64").filter().rules
    assert rule.arches == ("aarch64",)


def test_a_filter_is_written_and_read_back() -> None:
    source = Filter(
        [
            Rule(("%clock",), NOTIFY),
            Rule(("mknod", "mknodat"), errno(1), (Condition("mode", "&=", 0x6000, 0xF000),)),
            Rule(("read",), ALLOW, (Condition(0, "==", 3),)),
            Rule(("read",), LOG, (Condition(0, "==", 4), Condition(2, ">", 9))),
        ],
        arches=("x86_64",),
    )
    data = oci.dump(source, listener_path="/run/x", flags=["SECCOMP_FILTER_FLAG_LOG"])
    profile = oci.load(data, arch="x86_64")
    assert profile.listener_path == "/run/x"
    again = profile.filter(foreign=KILL_PROCESS, x32=errno(38))
    program, expected = again.compile(), source.compile()
    for nr in range(600):
        for args in arguments_near(again.rules, nr, 12):
            assert program.run(nr, abi.AUDIT_ARCH_X86_64, args) == expected.run(
                nr, abi.AUDIT_ARCH_X86_64, args
            )


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.one_of(agreeing_filters(), agreeing_filters(), filters()))
def test_what_can_be_written_means_the_same_when_read(source: Filter) -> None:
    """Filters without regard to order can always be written, others sometimes."""
    orderly = source.foreign == source.x32 == KILL_THREAD
    try:
        data = oci.dump(source)
    except FilterError:
        assert not orderly
        return
    if source.arches[0] == "x32":
        return  # reading adds the native architecture
    again = oci.load(data, arch=source.arches[0]).filter(source.foreign, source.x32)
    program, expected = again.compile(), source.compile()
    for arch in source.arches:
        for nr in source.bodies()[arch]:
            for args in arguments_near(source.rules, nr, 6):
                assert program.run(nr, ARCHITECTURES[arch].audit, args) == expected.run(
                    nr, ARCHITECTURES[arch].audit, args
                )


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([Rule((700,), NOTIFY)], "number 700 has no name"),
        ([Rule(("read",), NOTIFY, arches=("x86_64",))], "for some architectures only"),
        ([Rule(("read",), trap(3))], "only errno and trace have a number"),
        (
            [Rule(("read",), NOTIFY, (Condition("fd", "!=", 3),))],
            "part of the register",
        ),
        (
            [Rule(("read",), NOTIFY, (Condition(0, ">", 3), Condition(0, "<", 9)))],
            "several conditions on one argument",
        ),
        (
            [Rule(("read",), NOTIFY, (Condition(0, "==", 3),)), Rule(("read",), LOG)],
            "last word on read",
        ),
        (
            [
                Rule(("read",), NOTIFY, (Condition(0, "==", 3),)),
                Rule(("read",), LOG, (Condition(1, "==", 3),)),
            ],
            "may both match one read",
        ),
        (
            [Rule(("read",), NOTIFY, (Condition(0, "<", 1 << 33),))],
            "i386 has 32 bits in a register",
        ),
        (
            [
                Rule(("read",), NOTIFY, (Condition(0, ">", 3), Condition(1, "==", 3))),
                Rule(("read",), NOTIFY, (Condition(0, ">", 5), Condition(1, "==", 4))),
            ],
            "on its last argument",
        ),
    ],
)
def test_what_an_oci_profile_cannot_say_is_refused(rules: list[Rule], message: str) -> None:
    with pytest.raises(FilterError, match=message):
        oci.dump(Filter(rules, arches=("x86_64", "i386")))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "defaultAction is missing"),
        ({"linux": {}}, "no linux.seccomp"),
        (minimal(defaultAction="SCMP_ACT_ALOW"), 'did you mean "SCMP_ACT_ALLOW"'),
        (minimal(defaultErrnoRet=1), "SCMP_ACT_ALLOW takes no number"),
        (minimal(defaultAction=["x"]), "unknown action"),
        (minimal(syscalls={}), "syscalls"),
        (minimal(syscalls=[3]), r"syscalls\[0\]: an object"),
        (minimal(syscalls="mknod"), "syscalls: a list"),
        (minimal(architectures=["SCMP_ARCH_X8664"]), 'did you mean "SCMP_ARCH_X86_64"'),
        (minimal(architectures="SCMP_ARCH_X86"), "architectures: a list"),
        (minimal(architectures=["SCMP_ARCH_X86"], archMap=[{}]), "not both"),
        (minimal(archMap=[3]), "archMap"),
        (minimal(flags=["SECCOMP_FILTER_FLAG_LOGS"]), 'did you mean "SECCOMP_FILTER_FLAG_LOG"'),
        (minimal(flags=["LOG"]), 'unknown flag "LOG"'),
        (minimal(listenerMetadata="x"), "without listenerPath"),
        (minimal(listenerPath=7), "listenerPath: a string"),
        (with_call(names=[]), r"syscalls\[0\].names"),
        (with_call(names=[""]), r"syscalls\[0\].names"),
        (with_call(names=[7]), r"syscalls\[0\].names: a list of strings"),
        (with_call(name="read"), "either name or names"),
        (with_call(action="ERRNO"), r"syscalls\[0\].action: unknown action"),
        (with_call(action=None), r"syscalls\[0\].action is missing"),
        (with_call(errnoRet=5000), r"syscalls\[0\].errnoRet: a number from 0 to 4095"),
        (with_call(errnoRet=-1), "a number from 0"),
        (with_call(errnoRet=True), "a number from 0"),
        (with_call(errno="EWHAT"), "unknown errno 'EWHAT'"),
        (with_call(action="SCMP_ACT_LOG", errno="EPERM"), "takes no number"),
        (with_call(args=[3]), r"args\[0\]: an object"),
        (with_call(args={}), "args: a list"),
        (with_call(args={"a": 1}), "args: a list"),
        (with_arg(index=6), r"args\[0\].index: a number from 0 to 5"),
        (with_arg(value=-1), "value: a number"),
        (with_arg(value=1 << 64), "value: a number"),
        (with_arg(value="1"), "value: a number"),
        (with_arg(valueTwo=1.5), "valueTwo: a number"),
        (with_arg(op="SCMP_CMP_EQUAL"), 'did you mean "SCMP_CMP_EQ"'),
        (with_arg(op="=="), "unknown operator"),
        (with_call(includes=3), r"syscalls\[0\].includes: an object"),
        (with_call(includes={"caps": "CAP_X"}), "includes.caps: a list"),
        (with_call(includes={"minKernel": "five"}), "a version such as"),
    ],
)
def test_bad_profiles_are_refused_in_a_sentence(data: dict[str, Any], message: str) -> None:
    with pytest.raises(FilterError, match=message) as caught:
        oci.load(data)
    assert "\n" not in str(caught.value)


def test_bad_sources(tmp_path: Path) -> None:
    with pytest.raises(FilterError, match="No such file"):
        oci.load(tmp_path / "none.json")
    for text in ("{", '{"a": }', "[" * 100_000):
        path = tmp_path / "bad.json"
        path.write_text(text)
        with pytest.raises(FilterError, match="is not JSON"):
            oci.load(path)
    path.write_text("[]")
    with pytest.raises(FilterError, match="no JSON object"):
        oci.load(path)
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(FilterError, match="is not JSON"):
        oci.load(str(path))


def test_a_profile_refuses_what_a_profile_cannot_be() -> None:
    with pytest.raises(FilterError, match="unknown architecture"):
        Profile([], ALLOW, architectures=["x86_64"])
    with pytest.raises(FilterError, match="carries no data"):
        Profile([], Action(abi.SECCOMP_RET_ALLOW, 3))


@pytest.mark.skipif(
    not DEBIANS.exists(), reason="Debian's golang-github-containers-common is not installed"
)
@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "s390x", "riscv64", "ppc64le", "arm"])
def test_podmans_default_profile_as_a_base(arch: str) -> None:
    profile = oci.load(DEBIANS, arch=arch, caps=["CAP_MKNOD"], kernel="6.1")
    source = profile.filter()
    source.compile().check()
    assert verdict(source, "openat", arch=arch) == ALLOW
    assert verdict(source, "init_module", arch=arch) != ALLOW
    assert oci.load(oci.dumps(profile), arch=arch) == profile
    notifying = source.before([Rule(("mknodat",), NOTIFY)])
    assert verdict(notifying, "mknodat", arch=arch) == NOTIFY
