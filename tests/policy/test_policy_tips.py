"""The tip of a refusal is the smallest rule that lets this very call through: each fact once."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from proctor.errors import PolicyError
from proctor.policy import Reason, loads
from proctor.syscalls.multiplex import MEMBERS
from proctor.testing.target import FakeCall
from tests.policy.calls import call


def rule(body: str, name: str = "r") -> str:
    return f'[[rule]]\nname = "{name}"\n{body}\n'


def reason(text: str, refused: FakeCall) -> Reason:
    policy = loads('arches = ["x86_64"]\n' + text)
    assert policy.decide(refused).ruling.refuses
    return policy.explain(refused)


def when(conditions: str, refused: FakeCall) -> dict[str, Any]:
    """What the tip asks for where a rule with ``conditions`` refuses the call, and that it lets the
    call through."""
    text = rule(f'calls = ["{refused.name}"]\nwhen = {{ {conditions} }}\ndeny = "EXDEV"')
    text += rule(f'calls = ["{refused.name}"]\ndeny = "EBADE"', "rest")
    tip = reason(text, refused).tip
    assert not loads(tip + text).decide(refused).ruling.refuses
    (made,) = tomllib.loads(tip)["rule"]
    found: dict[str, Any] = made.get("when", {})
    return found


FIFO, CHAR, BLOCK = 0o010644, 0o020600, 0o060600


@pytest.mark.parametrize(
    ("conditions", "refused", "keys"),
    [
        ('type = "char", dev = "!= 0"', call("mknod", path="/x", mode=CHAR, dev="5:1"), "type device"),
        ('type = "char", device = "5:*", dev = "> 1"', call("mknod", path="/x", mode=CHAR, dev="5:1"), "type device"),
        ('type = ["block", "char"]', call("mknod", path="/x", mode=BLOCK, dev="8:0"), "type device"),
        # all of the mode says the type as well, but "device" has to stand beside "type"
        ('type = "fifo", mode = "> 0"', call("mknod", path="/x", mode=FIFO, dev=0), "mode"),
        ('type = "block", mode = "> 0"', call("mknod", path="/x", mode=BLOCK, dev="8:0"), "type device mode"),
        ('access = "write", flags = { none = ["O_CREAT"] }', call("open", path="/x", flags=1), "flags"),
        ('access = ["write", "read"], mode = "< 9"', call("open", path="/x", flags=1), "access mode"),
        ('address = "inet", addr = "inet:10.0.0.0/8"', call("connect", sockfd=3, addr=("10.0.0.1", 80)), "address"),
        ('path = "/x", path_text = "x"', call("open", path="x", flags=1), "path path_text"),
        ('path = "/x", newpath = "/y"', call("rename", oldpath="/x", newpath="/y"), "path newpath"),
        ('path = "/x", oldpath = "/*"', call("rename", oldpath="/x", newpath="/y"), "path"),
        ('path_text = "/x", oldpath_text = "/*"', call("rename", oldpath="/x", newpath="/y"), "path_text"),
        ("caller = { uid = 7 }, pid = 1, sig = 9", call("kill", pid=1, sig=9, uid=7), "caller pid sig"),
        ('mode = "> 0o700"', call("chmod", path="/x", mode=0o100755), "mode"),
    ],
)  # fmt: skip
def test_no_condition_that_others_imply(conditions: str, refused: FakeCall, keys: str) -> None:
    assert set(when(conditions, refused)) == set(keys.split())


@pytest.mark.parametrize(
    ("conditions", "refused", "said"),
    [
        ("mode = { any = ['S_ISUID'] }", call("chmod", path="/x", mode=0o6755), "mode = 0o6755"),
        ("sig = '> 3', pid = 1", call("kill", pid=1, sig=15), 'sig = "SIGTERM", pid = 1'),
        (
            "flags = { all = ['O_CREAT'] }",
            call("open", path="/x", flags=577),
            'flags = { "==" = "O_WRONLY|O_CREAT|O_TRUNC" }',
        ),
        # "O_WRONLY" would be all that open for writing
        ("flags = '> 0'", call("open", path="/x", flags=1), "flags = 1"),
        (
            "domain = 'AF_INET', type = 'SOCK_DGRAM'",
            call("socket", domain=2, type=0o2000002, protocol=0),
            'domain = "AF_INET", type = { "==" = "SOCK_DGRAM|SOCK_CLOEXEC" }',
        ),
    ],
)
def test_numbers_have_their_names(conditions: str, refused: FakeCall, said: str) -> None:
    found = when(conditions, refused)
    assert found == tomllib.loads(f"when = {{ {said} }}")["when"]
    text = rule(f'calls = ["{refused.name}"]\nwhen = {{ {conditions} }}\ndeny = 1')
    assert f"when = {{ {said} }}" in reason(text, refused).tip


@pytest.mark.parametrize(
    ("body", "instead"),
    [
        ('calls = ["mkdir"]', True),
        ('calls = ["mkdir", "mkdirat"]', False),
        ('calls = ["mkdir"]\nwhen = { mode = 0o700 }', True),
        ('calls = ["mkdir"]\nwhen = { mode = "> 0" }', False),
        ('calls = ["mkdir"]\nwhen = { path = "/x" }', False),
    ],
)
def test_a_tip_is_pasted_where_it_says(body: str, instead: bool) -> None:
    """A rule that could never match behind the tip is replaced by it: a policy with both is refused."""
    refused, text = call("mkdir", path="/x", mode=0o700), rule(f"{body}\ndeny = 1")
    text += "" if "path" not in body else rule('calls = ["mkdir"]\ndeny = 2', "rest")
    found = reason(text, refused)
    assert (' in the place of rule "r": ' in found) == instead
    assert (' before rule "r": ' in found) != instead
    if instead:
        with pytest.raises(PolicyError, match="can never match"):
            loads('arches = ["x86_64"]\n' + found.tip + text)
        text = ""
    assert not loads('arches = ["x86_64"]\n' + found.tip + text).decide(refused).ruling.refuses


def test_what_the_tip_says_is_how_the_call_was() -> None:
    found = when('type = "char", dev = "!= 0"', call("mknod", path="/x", mode=CHAR, dev="5:1"))
    assert found == {"type": "char", "device": "5:1"}
    abstract = call("connect", sockfd=3, addr=b"\1\0\0a\0*")
    assert when('address = "unix"', abstract) == {"address": [r"unix:@a\x00\*"]}


def test_a_text_that_was_looked_at_is_a_race_to_let_run() -> None:
    text = rule('calls = ["chdir"]\nwhen = { path_text = "/x" }\ndeny = 1')
    text += rule('calls = ["chdir"]\ndeny = 2', "rest")
    tip = reason(text, call("chdir", path="/x")).tip
    assert 'allow = "unsafe: ' in tip
    tip = reason(text, call("chdir", path="/y")).tip  # an earlier rule looked
    assert 'allow = "unsafe: ' in tip


def test_logs_have_the_parts_of_a_reason() -> None:
    text = rule(
        'calls = ["mkdir"]\nwhen = { path = ["/a", "/b"] }\nallow = "unsafe: a test"', "some"
    )
    text += rule('calls = ["mkdir"]\ndeny = "EROFS"', "no rooms")
    found = reason(text, call("mkdir", path="/c", mode=0))
    assert found.rule == "no rooms"
    assert found.change == 'add "/c" to path of rule "some"'
    assert found == (
        f'rule "no rooms"; would be allowed by, in the place of rule "no rooms": {" ".join(found.tip.split(chr(10))).strip()}'
        f"; or: {found.change}"
    )
    let = loads(text).explain(call("mkdir", path="/a", mode=0))
    assert (let, let.rule, let.tip, let.change) == ('rule "some": a test', "some", "", "")
    assert loads("default = 'EPERM'").explain(call("mkdir", path="/a", mode=0)).rule == ""


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", MEMBERS)
def test_of_a_multiplexed_call_one_is_let_through(name: str, listed: bool) -> None:
    """What stands for one call draws no tip that opens all others."""
    through, number = MEMBERS[name]
    for first in (number, number | 1 << 40, *([number | 1 << 16] if through == "ipc" else [])):
        text = 'default = "EPERM"\n' + rule('calls = ["execve"]\nallow = true')
        if listed:
            text = rule(f'calls = ["{name}"]\ndeny = "EPERM"')
        refused = call(through, first, 0, 0, 0, 0, 0, abi="i386")
        before = loads(text)
        assert before.decide(refused).ruling.refuses
        found = before.explain(refused)
        instead = " in the place of " in found
        after = loads(found.tip + text * (not instead) if listed else text + found.tip)
        for other in range(33):
            made = call(through, other, 0, 0, 0, 0, 0, abi="i386")
            if other == number and first >> 16 & 0xFFFF == 0:
                assert not after.decide(made).ruling.refuses
            elif other != number:
                assert str(after.decide(made).ruling) == str(before.decide(made).ruling)
        assert not after.decide(refused).ruling.refuses
