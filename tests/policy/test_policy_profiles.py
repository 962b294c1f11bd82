"""Policies as profiles of container runtimes: what is notified, and that nothing else changes."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proctor.errors import FilterError, PolicyError
from proctor.filter.actions import ALLOW, NOTIFY, errno
from proctor.filter.profiles import lxc, oci
from proctor.filter.rules import Filter
from proctor.policy import load, loads
from proctor.policy.profile import profile, write
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES

DEVICES = """
[[rule]]
name = "devices"
calls = ["mknod", "mknodat"]
when = { type = "char", device = ["1:3", "1:5"] }
perform = true
[[rule]]
name = "no block devices"
calls = ["mknod", "mknodat"]
when = { type = "block" }
deny = "EPERM"
report = true
"""
BASE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    "syscalls": [
        {"names": ["mknod", "read", "write", "socket"], "action": "SCMP_ACT_ALLOW"},
        {
            "names": ["personality"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}],
        },
    ],
}


def rule(body: str, name: str = "r") -> str:
    return f'[[rule]]\nname = "{name}"\n{body}\n'


def written(policy: str, form: str = "oci", base: Any = None, **how: Any) -> Any:
    made = profile(loads(policy), None if base is None else oci.load(base, arch="x86_64"))
    how = {"name": "p", "listener": "/run/agent.sock", **how}
    return json.loads(write(made, form, **how))


def test_the_conditions_are_in_it() -> None:
    got = written(
        'arches = ["x86_64"]\n'
        + rule('calls = ["mknod"]\nwhen = { type = "char" }\nperform = true')
    )
    assert got["listenerPath"] == "/run/agent.sock"
    assert got["syscalls"][0] == {
        "names": ["mknod"],
        "action": "SCMP_ACT_NOTIFY",
        "args": [{"index": 1, "value": 0o170000, "valueTwo": 0o020000, "op": "SCMP_CMP_MASKED_EQ"}],
    }


def test_what_the_filter_decides_is_not_notified() -> None:
    got = written(rule('calls = ["mkdir", "mkdirat"]\ndeny = "EROFS"'))
    assert got["syscalls"] == [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30}
    ]
    assert "listenerPath" not in got


def test_a_base_holds_where_the_policy_is_silent() -> None:
    got = written(DEVICES, base=BASE, metadata="m", killable=True)
    assert (got["defaultAction"], got["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    assert got["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert got["flags"] == ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    assert got["listenerMetadata"] == "m"
    by_call: dict[str, list[Any]] = {}
    for entry in got["syscalls"]:
        for name in entry["names"]:
            by_call.setdefault(name, []).append(entry)
    # the base allows it without conditions, and such a rule decides wherever it stands
    assert [(e["action"], "args" in e) for e in by_call["mknod"]] == [("SCMP_ACT_NOTIFY", False)]
    # the base does not allow it: only what the policy is about goes to the monitor
    assert all(e["action"] == "SCMP_ACT_NOTIFY" and "args" in e for e in by_call["mknodat"])
    assert by_call["read"][0]["action"] == "SCMP_ACT_ALLOW"
    assert by_call["personality"][0] == BASE["syscalls"][1]  # type: ignore[index]


POLICIES = [
    DEVICES,
    rule('calls = ["kill"]\nwhen = { sig = "> 3", pid = 1 }\nreturn = 3', "a")
    + rule('calls = ["kill"]\nwhen = { sig = 9 }\nallow = true', "b")
    + rule('calls = ["kill"]\nwhen = { sig = [4, 9, 12] }\ndeny = "ESRCH"', "c"),
    rule(
        'calls = ["openat"]\nwhen = { flags = { all = ["O_CREAT"], none = ["O_EXCL"] } }\nperform = true',
        "a",
    )
    + rule('calls = ["openat"]\nwhen = { access = "write" }\ndeny = "EROFS"', "b"),
    rule('calls = ["socket"]\nwhen = { domain = "AF_INET", type = "SOCK_RAW" }\ndeny = 1', "a")
    + rule('calls = ["socket"]\nwhen = { domain = [2, 10] }\nallow = true', "b")
    + rule('calls = ["socket"]\ndeny = "EACCES"\nreport = true', "c"),
    rule('calls = ["mkdir", "mkdirat"]\nwhen = { path = "/x/**" }\ndeny = 1', "a")
    + rule('calls = ["mkdir", "mkdirat"]\nallow = "unsafe: t"', "b"),
]


@pytest.mark.parametrize("text", POLICIES)
@pytest.mark.parametrize("based", [False, True])
def test_who_is_notified_is_decided_as_by_the_policy(text: str, based: bool) -> None:
    """Read as a runtime reads it, the profile decides each call as the policy's filter does, or notifies."""
    policy = loads('arches = ["x86_64", "i386"]\n' + text)
    base = oci.load(BASE, arch="x86_64") if based else None
    made = profile(policy, base).filter()
    meant = policy.filter()
    if base is not None:
        rules = [*meant.rules, *base.filter().rules]
        meant = Filter(rules, base.default, meant.arches, strict=False)
    chance = random.Random(7)
    interesting = [
        0,
        1,
        2,
        3,
        4,
        9,
        10,
        12,
        64,
        65,
        577,
        0o20644,
        0o60600,
        0o100644,
        259,
        261,
        -100 & (1 << 64) - 1,
    ]
    exact = 0
    calls = {name for call in policy.calls for name in (call,)} | {"read", "personality", "getpid"}
    for name, arch, _ in itertools.product(sorted(calls), ("x86_64", "i386"), range(150)):
        if name not in tables.numbers(arch):
            continue
        number = tables.number(name, arch)
        args = tuple(
            chance.choice(interesting) & (0xFFFFFFFF if arch == "i386" else (1 << 64) - 1)
            for _ in range(6)
        )
        audit = ARCHITECTURES[arch].audit
        said = meant.decide(number, audit, args).action
        got = made.decide(number, audit, args).action
        assert got in (said, NOTIFY), (name, arch, args)
        exact += got == said
    assert exact


def test_no_more_than_needed_is_notified() -> None:
    """Conditions that a file cannot hold are left out, not all that stands beside them."""
    made = profile(load("examples/devices.toml")).entries
    notified = [each for each in made if each.action == NOTIFY]
    assert {name for each in notified for name in each.names} == {"mknod", "mknodat"}
    assert all(each.conditions for each in notified)


def test_lxc() -> None:
    made = profile(loads(DEVICES))
    text = write(made, "lxc", name="")
    assert "mknod notify [1,0x6000,SCMP_CMP_MASKED_EQ,0xf000]" in text
    assert lxc.load(text).default == ALLOW
    with pytest.raises(FilterError, match=r"notify\.proxy"):
        write(made, "lxc", name="", listener="/x")


def test_spo_and_nri() -> None:
    with pytest.raises(FilterError, match="/var/run/security-profiles-operator/"):
        written(DEVICES, "spo")
    socket = "/var/run/security-profiles-operator/agent.sock"
    got = written(DEVICES, "spo", listener=socket)
    assert (got["kind"], got["metadata"], got["spec"]["listenerPath"]) == (
        "SeccompProfile",
        {"name": "p"},
        socket,
    )
    got = written(rule('calls = ["mkdir"]\ndeny = 2') + DEVICES, "nri", base=BASE)
    assert got["default_errno"] == {"value": 38}
    assert got["listener_path"] == "/run/agent.sock"
    mkdir = next(each for each in got["syscalls"] if each["names"] == ["mkdir"])
    assert mkdir["errno_ret"] == {"value": 2}
    assert any("value_two" in arg for each in got["syscalls"] for arg in each.get("args", ()))


def test_what_a_runtime_cannot_have() -> None:
    with pytest.raises(FilterError, match="artifact"):
        written(DEVICES, "oci-artifact")
    assert written(rule('calls = ["mkdir"]\ndeny = 2'), "oci-artifact", listener="")["syscalls"]
    with pytest.raises(FilterError, match="--listener"):
        written(DEVICES, listener="")
    for call in ("write", "sendmsg"):
        with pytest.raises(PolicyError, match="wait for its own answer"):
            written(rule(f'calls = ["{call}"]\ndeny = 1\nreport = true'))
    with pytest.raises(PolicyError, match="no say"):
        written('default = "EPERM"\n' + rule('calls = ["read"]\nallow = true'), base=BASE)


def test_the_command(tmp_path: Path) -> None:
    policy = tmp_path / "My_Nodes.toml"
    policy.write_text(DEVICES)

    def command(*options: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "proctor", "profile", str(policy), *options]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)

    done = command("--format", "spo", "--listener", "/var/run/security-profiles-operator/a.sock")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metadata"] == {"name": "my-nodes"}
    assert oci.load(command("--listener", "/x").stdout).listener_path == "/x"
    (tmp_path / "base.json").write_text(json.dumps(BASE))
    done = command("--listener", "/x", "--base", str(tmp_path / "base.json"))
    assert oci.load(done.stdout).default == errno(38)
    (tmp_path / "base").write_text(
        "2\ndenylist\nreject_force_umount\n[all]\nkexec_load errno 1\nmknod errno 1\n"
    )
    lines = command("--format", "lxc", "--base", str(tmp_path / "base")).stdout.splitlines()
    assert lines[:2] == ["2", "denylist allow"]
    assert "kexec_load errno 1" in lines and "umount2 errno 13" in " ".join(lines)
    assert any(line.startswith("mknod notify") for line in lines)
    for options in ((), ("--base", "/nowhere"), ("--listener", "/x", "--base", str(policy))):
        done = command(*options)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
