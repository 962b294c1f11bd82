"""Arguments as JSON has them: bounded, without what logs should not hold, for any memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proctor.call.structured import LONGEST, MOST, plain, structured
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from proctor.testing import FakeTarget
from tests.call.fakes import FakeMemory, call
from tests.call.test_call_text_hostile import NUMBERS, Everywhere


def arguments(name: str, *values: Any, read: bool = True, **options: Any) -> dict[str, Any]:
    found = structured(FakeTarget().call(name, *values, **options), read=read)
    json.dumps(found, allow_nan=False)
    return found


def test_kinds() -> None:
    found = arguments("openat", -100, b"/etc/hosts", 0o2000001, 0)
    assert found == {
        "dirfd": "AT_FDCWD", "path": "/etc/hosts", "flags": "O_WRONLY|O_CLOEXEC", "mode": "000"
    }  # fmt: skip
    assert arguments("mknod", b"\xff", 0o20666, 0x103)["dev"] == "1:3"
    assert arguments("mknod", b"\xff", 0o20666, 0x103)["path"] == {"hex": "ff"}
    assert arguments("read", 3, 0x7000, 10) == {"fd": 3, "buf": "0x7000", "count": 10}


def test_environments_are_counted() -> None:
    found = arguments("execve", b"/bin/x", [b"x", b"-v"], [b"PASSWORD=secret"])
    assert found["argv"] == ["x", "-v"]
    assert found["envp"] == {"count": 1}
    assert "secret" not in json.dumps(found)


def test_without_reading_pointers_are_addresses_unless_they_were_decoded() -> None:
    made = FakeTarget().call("rename", b"/a", b"/b")
    assert made.path == b"/a"
    first, second = structured(made, read=False).values()
    assert first == "/a"
    assert second.startswith("0x")


def test_sizes_are_bounded() -> None:
    assert plain(b"x" * (LONGEST + 3)) == {"text": "x" * LONGEST, "more": 3}
    assert plain(b"\xff" * (LONGEST + 3)) == {"hex": "ff" * LONGEST, "more": 3}
    # a character that the end cuts is no reason to take the rest for bytes
    assert plain("é".encode() * LONGEST)["text"] == "é" * (LONGEST // 2)
    assert plain(tuple(range(MOST + 9))) == [*range(MOST), {"more": 9}]
    found = arguments("execve", b"/bin/x", [b"y" * 1000] * 40, [])
    assert found["argv"]["error"] == "E2BIG"


def test_unknown_calls_have_registers() -> None:
    made = call("getpid", 1, 2)
    made._notification = made._notification._replace(nr=1_000_000)  # type: ignore[attr-defined]
    found = structured(made, read=True)
    assert list(found) == ["a0", "a1", "a2", "a3", "a4", "a5"]
    assert (found["a0"], found["a1"]) == ("0x1", "0x2")


class Numbers(int):
    """Something that has a text."""

    def __str__(self) -> str:
        return "NAME"


@pytest.mark.parametrize(
    ("value", "found"),
    [(None, None), (True, True), (5, 5), (Numbers(5), "NAME"), ("s", "s"), ((1, b"a"), [1, "a"])],
)
def test_plain(value: Any, found: Any) -> None:
    assert plain(value) == found


#: Most bytes of the caller's memory that are read at once for a record: 65,536 of poll's structures.
READ_MAX = 65536 * 8


@given(
    st.data(),
    st.lists(NUMBERS, min_size=6, max_size=6),
    st.binary(min_size=1, max_size=64),
    st.sampled_from([1 << 64, 1 << 32, 4096, 5]),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_registers_and_any_memory(
    data: st.DataObject, numbers: list[int], pattern: bytes, mapped: int
) -> None:
    abi = data.draw(st.sampled_from(list(ARCHITECTURES)))
    name = data.draw(st.sampled_from(sorted(tables.numbers(abi))))
    made = call(name, *numbers, abi=abi, memory=Everywhere(pattern, mapped, READ_MAX))
    text = json.dumps(structured(made, read=True), allow_nan=False)
    assert len(text) < 200_000
    assert json.dumps(structured(made, read=False), allow_nan=False)


def test_callers_that_are_gone() -> None:
    made = call("execve", 0x1000, 0x1000, 0x1000, memory=FakeMemory({}, gone=True))
    found = structured(made, read=True)
    assert next(iter(found.values()))["error"] == "gone"
