"""Profiles made of two: held to what the kernel makes of two filters, and to the order of actions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proctor.errors import FilterError
from proctor.filter import actions
from proctor.filter.conditions import Condition
from proctor.filter.profiles import oci
from proctor.filter.profiles.merge import How, merged
from proctor.filter.profiles.profile import Profile
from proctor.filter.rules import Rule
from proctor.syscalls import tables

ACTIONS = [
    actions.KILL_PROCESS, actions.KILL_THREAD, actions.TRAP, actions.errno(1), actions.NOTIFY,
    actions.trace(0), actions.LOG, actions.ALLOW,
]  # fmt: skip
CALLS = ("mkdir", "kill", "clone")
conditions = st.builds(
    Condition, st.just(0), st.sampled_from(["==", "!=", "<", ">="]), st.sampled_from([1, 2, 3])
)
entries = st.builds(
    Rule,
    st.sampled_from(CALLS).map(lambda call: (call,)),
    st.sampled_from(ACTIONS),
    st.lists(conditions, max_size=1).map(tuple),
)
profiles = st.builds(
    lambda entries, default: Profile(entries, default, native="x86_64"),
    st.lists(entries, max_size=3),
    st.sampled_from(ACTIONS),
)


def decided(profile: Profile, call: str, first: int) -> int:
    number = tables.numbers("x86_64")[call]
    program = profile.filter().compile()
    return program.run(number, 0xC000003E, (first, 0, 0, 0, 0, 0))


@given(profiles, profiles, st.sampled_from(["union", "intersect"]))
@settings(max_examples=150, deadline=None)
def test_each_call_gets_the_one_or_the_other(one: Profile, other: Profile, how: How) -> None:
    try:
        both = merged(one, other, how)
        filters = [each.filter() for each in (one, other, both)]
    except FilterError:
        assume(False)
    del filters
    for call in (*CALLS, "getpid"):
        for first in range(5):
            found = [decided(each, call, first) for each in (one, other)]
            pick = min if how == "intersect" else max
            assert decided(both, call, first) == pick(found, key=actions.rank)


def text(**more: Any) -> str:
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", **more})


@pytest.mark.parametrize(
    ("one", "other", "how", "says"),
    [
        (
            {"architectures": ["SCMP_ARCH_X86"]}, {}, "union", "alone is allowed; give both the same, a policy by its arches",
        ),
        (
            {"listenerPath": "/a", "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_NOTIFY"}]},
            {"listenerPath": "/b", "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_NOTIFY"}]},
            "intersect", "send their listeners elsewhere: /a and /b",
        ),
        (
            {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_GE"}]}]},
            {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 9, "op": "SCMP_CMP_LE"}]}]},
            "intersect", "kill: the profiles together cannot be written as one",
        ),
    ],
)  # fmt: skip
def test_what_a_file_cannot_say(one: Any, other: Any, how: How, says: str) -> None:
    with pytest.raises(FilterError, match=says):
        merged(oci.load(text(**one), arch="x86_64"), oci.load(text(**other), arch="x86_64"), how)


def test_flags_and_listeners() -> None:
    notifies = {
        "listenerPath": "/a",
        "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_NOTIFY"}],
    }
    one = oci.load(
        text(flags=["SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"], **notifies)
    )
    other = oci.load(text())
    both = merged(one, other, "intersect")
    assert both.flags == ("SECCOMP_FILTER_FLAG_LOG",)
    assert both.listener_path == "/a"
    either = merged(one, other, "union")
    assert either.flags == one.flags
    assert either.listener_path == ""
    assert either.entries == ()


def test_the_verb(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[[rule]]\nname = "n"\ncalls = ["mknod"]\nperform = true\n')
    (tmp_path / "o.json").write_text(
        text(syscalls=[{"names": ["kill"], "action": "SCMP_ACT_ERRNO"}])
    )
    done = subprocess.run(
        [sys.executable, "-m", "proctor", "profile", "p.toml", "--intersect", "o.json", "--listener", "/x"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    made = oci.load(done.stdout)
    found = {entry.names: entry.action for entry in made.entries}
    assert found["mknod",] == actions.NOTIFY
    assert found["kill",] == actions.errno(1)
