"""Every reader of text raises the error that it promises, for any text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proctor.errors import FilterError
from proctor.filter import text
from proctor.filter.profiles import lxc, oci
from proctor.filter.program import Program
from proctor.filter.rules import Filter, Rule
from proctor.syscalls import groups, tables
from proctor.syscalls.architectures import canonical

LXC = """2
denylist allow
# a comment
reject_force_umount
mknod notify [1,8192,SCMP_CMP_MASKED_EQ,61440]
[x86]
socketcall errno 38
[all]
ioctl errno 1 [1,0x5401,SCMP_CMP_EQ][2,010,SCMP_CMP_GT]
kexec_load kill
"""
PROFILE = Path(__file__).with_name("profile_like_dockers.json").read_text(encoding="utf-8")
PROGRAM = """0: A = arch
1: if A == 0xc000003e goto 2 else 6
2: A = nr
3: A &= 0xff
4: M[3] = A
5: raw 0x16 0 0 0x0
6: return 0x7fff0000
"""

#: Everything that a str can hold, lone surrogates and NUL included, and what the formats are made of.
CHARACTERS = st.one_of(
    st.characters(),
    st.sampled_from('\0\n\r\t []{}",:#%@=0123456789abcxALRM&\ud800\udcff\x85\u2028²٣_-+'),
)
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=40),
    st.sampled_from(
        ["", "\0", "9" * 5000, "0" * 5000 + "1", "-1", "1e999", "[" * 5000, "1_0", "٣"]
    ),
)
#: As many as there is patience for, always the same ones.
MANY = settings(
    max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


@st.composite
def damaged(draw: st.DrawFn, whole: str) -> str:
    """A good text in which some stretches are gone, or are something else."""
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(0, len(whole)))
        last = min(len(whole), first + draw(st.integers(0, 12)))
        whole = whole[:first] + draw(TEXTS) + whole[last:]
    return whole


def _raises_nothing_else(reader: Callable[[Any], object], given_: Any) -> None:
    try:
        reader(given_)
    except FilterError as error:
        assert str(error)


@MANY
@given(st.one_of(TEXTS, damaged(LXC)))
def test_lxc(source: str) -> None:
    _raises_nothing_else(lxc.load, source)
    _raises_nothing_else(lxc.load, "2\nallowlist\n" + source)
    _raises_nothing_else(lxc.load, source.encode("utf-8", "surrogatepass"))


@MANY
@given(st.one_of(TEXTS, damaged(PROFILE)))
def test_oci(source: str) -> None:
    _raises_nothing_else(oci.load, source)
    _raises_nothing_else(oci.load, source.encode("utf-8", "surrogatepass"))


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        found += [place for key in value for place in _places(value[key], (*path, key))]
    elif isinstance(value, list):
        found += [place for at in range(len(value)) for place in _places(value[at], (*path, at))]
    return found


WHOLE = json.loads(PROFILE)
PLACES = [path for path in _places(WHOLE) if path]


@MANY
@given(st.sampled_from(PLACES), JSON)
def test_oci_with_something_else_in_one_place(path: tuple[Any, ...], other: Any) -> None:
    data = json.loads(PROFILE)
    holder = data
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = other

    def load(source: Any) -> None:
        oci.load(source, kernel="6.1").filter()

    _raises_nothing_else(load, data)


@MANY
@given(st.one_of(TEXTS, damaged(PROGRAM)))
def test_programs(source: str) -> None:
    _raises_nothing_else(text.parse, source)
    _raises_nothing_else(Program.parse, source)


@MANY
@given(st.binary(max_size=64))
def test_bytes_of_programs(code: bytes) -> None:
    _raises_nothing_else(text.disassemble, code)
    _raises_nothing_else(lambda source: Program(source).check(), code)


@MANY
@given(TEXTS)
def test_names(name: str) -> None:
    for reader in (canonical, tables.number, groups.members):
        _raises_nothing_else(reader, name)
    _raises_nothing_else(lambda word: oci.load({"defaultAction": word}, arch=name), name)
    _raises_nothing_else(lambda word: oci.load(json.loads(PROFILE), kernel=word), name)
    _raises_nothing_else(lambda word: Filter([Rule((word,), Filter().default)]), name)


@pytest.mark.parametrize(
    ("reader", "source", "message"),
    [
        (lxc.load, "2\nallowlist errno 5\n [1,8192,SCMP_CMP_EQ]\n", "line 3: a rule begins"),
        (lxc.load, "2\nallowlist\nmk\ud800nod\n", "an LXC profile is text"),
        (lxc.load, "2\nallowlist\nopen errno " + "9" * 5000, "line 3: errno needs a number"),
        (lxc.load, "1\nallowlist\n" + "9" * 5000, "line 3: '999"),
        (lxc.load, "\0", "no path"),
        (oci.load, "\ud800", "no path"),
        (oci.load, "{" * 100_000, "not JSON"),
        (oci.load, '{"defaultAction":' + "[" * 900 + "]" * 900 + "}", "defaultAction|deep"),
        (text.parse, "04: return 0x7fff0000", "line 1: instruction 0 should stand here"),
        (text.parse, "0: return " + "9" * 5000, "line 1: not an instruction"),
        (text.parse, "٠: return 0x0", "line 1: instruction 0 should stand here"),
    ],
)
def test_what_is_wrong_is_said(reader: Callable[[Any], object], source: str, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        reader(source)


def test_a_profile_that_is_nested_too_deep() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(FilterError, match="nested too deep"):
        oci.load({"defaultAction": deep})
