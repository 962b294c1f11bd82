"""Words of others, as they are shown."""

from __future__ import annotations

import ast
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proctor.words import c_string, did_you_mean, escaped, one_of, printable, quoted, toml


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("mknoda", '; did you mean "mknodat"?'),
        ("xyzzyplugh", ""),
        ("", ""),
        (7, ""),
    ],
)
def test_the_nearest_known_word(word: object, hint: str) -> None:
    assert did_you_mean(word, ("openat", "mknodat")) == hint


def test_words_in_a_list() -> None:
    assert one_of(()) == ""
    assert one_of(("a",)) == '"a"'
    assert one_of(("a", "b", "c")) == '"a", "b" or "c"'


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_what_is_quoted_is_one_printable_line_of_toml(text: str) -> None:
    shown = quoted(text)
    assert shown.isprintable()
    assert tomllib.loads(f"key = {shown}") == {"key": text}


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_keys_are_those_of_toml(text: str) -> None:
    assert tomllib.loads(f"a = {toml({text: 1})}") == {"a": {text: 1}}
    assert tomllib.loads(f"a = {toml({'ä': 1})}") == {"a": {"ä": 1}}


@given(st.text())
def test_printable_text_stays_and_the_rest_is_escaped(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_escaped_bytes_are_printable_and_no_two_look_alike(one: bytes, other: bytes) -> None:
    assert escaped(one).isprintable()
    assert (escaped(one) == escaped(other)) == (one == other)


def test_a_written_escape_is_not_taken_for_the_byte() -> None:
    assert escaped(rb"\x41") == r"\\x41"
    assert escaped(b"\x01\xff") == r"\x01\xff"
    assert escaped('"ä"'.encode()) == r"\"ä\""


@given(st.binary(max_size=80))
def test_a_c_string_is_ascii_and_says_what_it_was(data: bytes) -> None:
    shown = c_string(data)
    assert shown.isascii() and shown.isprintable()
    assert ast.literal_eval("b" + shown) == data  # octal and letter escapes are those of Python


def test_a_c_string_that_is_cut_says_so() -> None:
    assert c_string(b"abc", 2) == '"ab"...'
