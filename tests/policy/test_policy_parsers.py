"""Every reader of a policy's text has one way out for what is malformed: its own error, in a line."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proctor.errors import PolicyError
from proctor.policy import load, load_handlers, loads, warnings
from proctor.policy.addresses import AddressError, AddressPattern
from proctor.policy.globs import Glob, GlobError, Kind
from tests.policy.reference import toml

#: Anything that a string can hold: also halves of characters, NULs, and what patterns make special.
TEXT = st.text(
    st.one_of(
        st.characters(),
        st.characters(categories=["Cs", "Cc"]),
        st.sampled_from("/*?[]!-^\\x0f.:@%|=<>~ \0"),
    ),
    max_size=40,
)


@settings(max_examples=600, deadline=None)
@given(TEXT, st.sampled_from(["path", "text", "name"]), st.binary(max_size=30))
@example("/[\ud800]", "path", b"")
@example("\ud800", "path", b"")
@example("/" + "**/" * 3, "text", b"")
def test_globs(text: str, kind: Kind, seen: bytes) -> None:
    for pattern in (text, "/" + text):
        try:
            glob = Glob(pattern, kind)
        except GlobError as error:
            assert str(error).encode()
            continue
        assert glob.matches(seen) in (True, False)


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(["", "unix:", "unix:@", "inet:", "inet6:", "inet6:[", "netlink:", "unspec"]),
    st.one_of(TEXT, st.from_regex(r"\A[0-9a-f.:/*\[\]-]{0,40}\Z")),
)
@example("unix:@", "\ud800")
@example("", "\ud800:80")
@example("inet:", "1.2.3.4:" + "9" * 5000)
@example("inet:", "1.2.3.4/" + "9" * 5000)
@example("inet6:[", "::1%\ud800]:1")
def test_addresses(family: str, rest: str) -> None:
    try:
        AddressPattern(family + rest)
    except AddressError as error:
        assert str(error).encode()


@settings(max_examples=300, deadline=None)
@given(TEXT)
@example('a = "\ud800"')
@example("\ufeff")
@example("a" + ".a" * 5000 + " = 1")
@example("x = " + "{a = " * 3000)
def test_texts(text: str) -> None:
    _one_sentence(text)


CALLS = ["mknodat", "openat", "connect", "memfd_create", "renameat2", "kill", "socket", "clone3"]
KEYS = [
    "path", "path_text", "newpath", "newpath_text", "address", "addr", "type", "device", "dev", "mode",
    "flags", "access", "caller", "sig", "domain", "name", "_text", "",
]  # fmt: skip
VALUES = st.one_of(
    TEXT.filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text)),
    st.sampled_from(["1:3", "*:*", "!= S_IFIFO", "O_CREAT|0x10", "> -1", "S_IFMT", "read", "char"]),
    st.integers(-(1 << 70), 1 << 70),
    st.just(int("9" * 4000)),
)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(CALLS),
    st.dictionaries(
        st.sampled_from(KEYS),
        st.one_of(
            VALUES,
            st.lists(VALUES, max_size=3),
            st.dictionaries(
                st.sampled_from(["all", "any", "none", "==", "!=", "<", ">=", "mask", "is", "uid"]),
                st.one_of(VALUES, st.lists(VALUES, max_size=2)),
                max_size=3,
            ),
        ),
        max_size=3,
    ),
    st.sampled_from(["deny = 1", "perform = true", 'allow = "unsafe: a test"']),
)
def test_conditions(call: str, when: dict[str, Any], verdict: str) -> None:
    _one_sentence(f'[[rule]]\nname = "r"\ncalls = ["{call}"]\nwhen = {toml(when)}\n{verdict}\n')


@pytest.mark.parametrize(
    "text",
    [
        f"limit = 0x{'f' * 5000}",
        f"deadline = 0x{'f' * 5000}",
        f'[[rule]]\nname = "r"\ncalls = ["kill"]\ndeny = 0x{"f" * 5000}',
        f'[[rule]]\nname = "r"\ncalls = ["kill"]\nwhen = {{ sig = 0b{"1" * 50000} }}\ndeny = 1',
        f'[[rule]]\nname = "r"\ncalls = ["kill"]\nwhen = {{ sig = "0x{"f" * 5000}" }}\ndeny = 1',
    ],
)
def test_numbers_without_an_end(text: str) -> None:
    with pytest.raises(PolicyError):
        loads(text)


@given(st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_files(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "p")
        file.write_bytes(data)
        for read in (load, load_handlers):
            try:
                read(file)
            except PolicyError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", b"\0", "x" * 5000])
@pytest.mark.parametrize("read", [load, load_handlers])
def test_names_of_files(read: Any, name: str | bytes) -> None:
    with pytest.raises(PolicyError) as caught:
        read(name)
    assert str(caught.value).isprintable()


def _one_sentence(text: str) -> None:
    try:
        policy = loads(text, os.devnull)
    except PolicyError as error:
        assert str(error).isprintable()
        return
    policy.filter().compile()
    assert all(warning.isprintable() for warning in warnings(policy))
