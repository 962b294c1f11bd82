"""Path patterns against a plain recursive definition of what they mean."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proctor.policy.globs import Glob, GlobError, literal


def means(pattern: str, path: bytes) -> bool:
    """What a pattern of literals, ``*``, ``?`` and ``**`` means, with no thought of speed."""

    def component(pattern: str, name: bytes) -> bool:
        if not pattern:
            return not name
        if pattern[0] == "*":
            return any(component(pattern[1:], name[i:]) for i in range(len(name) + 1))
        matches = bool(name) and (pattern[0] == "?" or pattern[0].encode() == name[:1])
        return matches and component(pattern[1:], name[1:])

    def whole(patterns: list[str], names: list[bytes]) -> bool:
        if not patterns:
            return not names
        if patterns == ["**"]:
            return bool(names)
        if patterns[0] == "**":
            return any(whole(patterns[1:], names[i:]) for i in range(len(names) + 1))
        return bool(names) and component(patterns[0], names[0]) and whole(patterns[1:], names[1:])

    if not path.startswith(b"/"):  # words
        patterns, names = pattern.split(" "), path.split(b"\0")
        lengths = range(len(names) + 1 if patterns[-1] == "**" else 0)
        return whole(patterns, names) or any(whole(patterns[:-1], names[:n]) for n in lengths)
    names = [] if path == b"/" else path[1:].split(b"/")
    return whole(pattern[1:].split("/"), names)


COMPONENTS = st.one_of(
    st.just("**"),
    st.text("ab*?", min_size=1, max_size=5).filter(lambda text: "**" not in text),
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(COMPONENTS, min_size=1, max_size=6).filter(
        lambda parts: not any(a == b == "**" for a, b in itertools.pairwise(parts))
    ),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=8),
)
def test_matches_what_the_definition_says(parts: list[str], names: list[str]) -> None:
    pattern = "/" + "/".join(parts)
    path = ("/" + "/".join(names)).encode()
    assert Glob(pattern).matches(path) == means(pattern, path)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(COMPONENTS, min_size=1, max_size=6).filter(
        lambda parts: not any(a == b == "**" for a, b in itertools.pairwise(parts))
    ),
    st.lists(st.text("ab", max_size=4), min_size=1, max_size=8),
)
def test_words_match_what_the_definition_says(parts: list[str], words: list[str]) -> None:
    pattern, seen = " ".join(parts), "\0".join(words).encode()
    assert Glob(pattern, "words").matches(seen) == means(pattern, seen)


@given(st.lists(st.binary(max_size=6).filter(lambda data: not set(data) & {0, 47}), min_size=1))
def test_a_literal_of_words_matches_exactly_these(words: list[bytes]) -> None:
    seen = b"\0".join(words)
    glob = Glob(literal(seen, "words"), "words")
    assert glob.matches(seen)
    assert not glob.matches(seen + b"\0")
    assert not glob.matches(seen + b"x")


@given(st.binary(min_size=1, max_size=30).filter(lambda data: b"\0" not in data))
def test_a_literal_matches_exactly_its_bytes(data: bytes) -> None:
    path = b"/" + b"/".join(p for p in data.split(b"/") if p not in (b"", b".", b".."))
    glob = Glob(literal(path))
    assert literal(path).isprintable()
    assert glob.matches(path)
    assert not glob.matches(path + b"x")


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/dev/*", b"/dev/null", True),
        ("/dev/*", b"/dev/pts/0", False),
        ("/dev/**", b"/dev/pts/0", True),
        ("/dev/**", b"/dev", False),
        ("/**", b"/", False),
        ("/**", b"/a", True),
        ("**/x", b"/x", True),
        ("/**/x", b"/a/b/x", True),
        ("/a/**/b/**/c", b"/a/b/c", True),
        ("/a/**/b/**/c", b"/a/x/c/b/c", True),
        ("/", b"/", True),
        ("/", b"/a", False),
        (r"/a\xff", b"/a\xff", True),
        (r"/a\*", b"/a*", True),
        (r"/a\*", b"/ab", False),
        ("/[a-c]x", b"/bx", True),
        ("/[!a-c]x", b"/bx", False),
        ("/[!a-c]x", b"/\xffx", True),
        ("/[]x]", b"/]", True),
        ("/[a-]", b"/-", True),
        ("/é", "/é".encode(), True),
        ("/?", "/é".encode(), False),  # two bytes
        ("/.*", b"/.env", True),
        ("/*", b"/.env", True),  # a leading dot is not special
        ("/a*a", b"/a", False),  # the star's two sides do not share a byte
        ("/*\n*", b"/x\ny", True),
    ],
)
def test_examples(pattern: str, path: bytes, matches: bool) -> None:
    assert Glob(pattern).matches(path) is matches


def test_a_name_is_one_component_with_slashes_in_it() -> None:
    assert Glob("a*b", "name").matches(b"a/x/b")
    assert Glob("plain", "name").matches(b"plain")


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("/etc/*", b"/etc/passwd", True),
        ("/etc/*", b"etc/passwd", False),
        ("etc/*", b"etc/passwd", True),
        ("etc/*", b"/etc/passwd", False),
        ("**/passwd", b"passwd", True),
        ("**/passwd", b"/etc/passwd", True),
        ("**/passwd", b"../etc//passwd", True),
        ("../*", b"../x", True),
        ("a//b/", b"a//b/", True),
        ("a/*/b", b"a//b", True),
        ("a/b", b"a//b", False),
        ("", b"", True),
        ("**", b"", True),
        ("*", b"a/b", False),
        ("./**", b".", False),
    ],
)
def test_a_path_as_it_was_passed(pattern: str, text: bytes, matches: bool) -> None:
    assert Glob(pattern, "text").matches(text) is matches


def test_relative_paths_match_nothing() -> None:
    assert not Glob("/**").matches(b"a/b")
    assert not Glob("/a/*").matches(b"")


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("dev/null", "begins with /"),
        ("", "begins with /"),
        ("/dev/../etc", '".." never occurs'),
        ("/a//b", "empty component"),
        ("/a/", "empty component"),
        ("/a**b", "stands alone"),
        ("/[a", 'without its "]"'),
        ("/[z-a]", "runs backwards"),
        ("/[é]", "single bytes"),
        ("/a\\", "at the end"),
        ("/\\xg0", "two hexadecimal digits"),
        ("/\\x2f", "always separates"),
        ("/\\x00", "NUL byte"),
        ("/a\0*", "NUL byte"),
        ("/a\ud800", "lone surrogate"),
        ("/[\udfff]", "lone surrogate"),
    ],
)
def test_what_could_never_match_is_refused(pattern: str, says: str) -> None:
    with pytest.raises(GlobError, match=r"(?s).*") as caught:
        Glob(pattern)
    assert says in str(caught.value)


def test_hostile_paths_do_not_make_it_backtrack() -> None:
    # Each of these takes longer than the universe with a backtracking matcher.
    assert not Glob("/" + "a*" * 30 + "b").matches(b"/" + b"a" * 4000)
    assert not Glob("/**/a" * 20 + "/b").matches(b"/a" * 2000)


PATTERNS = st.lists(
    st.one_of(
        st.just("**"),
        st.text("ab*?", min_size=1, max_size=5),
        st.sampled_from(["[ab]*", "*[!a]", "[!\\x00-a]", "a[b-b]?", "\\*", "\\xff*", "b" * 300 + "*", "", "*" + "a*" * 9]),
    ).filter(lambda text: text == "**" or "**" not in text),
    min_size=1,
    max_size=6,
)  # fmt: skip
TEXTS = st.one_of(
    st.lists(
        st.one_of(st.text("ab*", max_size=4).map(str.encode), st.sampled_from([b"\xff", b"\xffa", b"b" * 301, b"a" * 40])),
        max_size=8,
    ).map(b"/".join),
    st.binary(max_size=8),
)  # fmt: skip


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PATTERNS, st.booleans(), st.lists(TEXTS, min_size=1, max_size=6))
def test_the_native_reader_says_the_same(parts: list[str], text: bool, seen: list[bytes]) -> None:
    from proctor.kernel import _core

    try:
        glob = Glob(("" if text else "/") + "/".join(parts), "text" if text else "path")
    except GlobError:
        return
    program = glob.program()
    assert program is not None
    for each in [*seen, *(b"/" + one for one in seen), b"/", b"", b"/" + b"/".join(p.encode() for p in parts)]:  # fmt: skip
        assert _core.matches(program, each) == glob.matches(each), (glob, each)


def test_the_native_reader_needs_no_time_for_hostile_names() -> None:
    from proctor.kernel import _core

    glob = Glob("/**/" + "*a" * 40 + "b/**/x")
    program = glob.program()
    assert program is not None
    for path in (b"/" + b"a" * 4000, b"/a" * 2000, b"/" + b"a" * 250 + b"/x" * 1800):
        assert not _core.matches(program, path)
        assert not glob.matches(path)
    assert Glob("git ** push", "words").program() is None
    assert Glob("/" + "ab*" * 30_000).program() is None
