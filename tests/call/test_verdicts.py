"""Verdicts as values: what their constructors take, and what ``perform`` asks."""

from __future__ import annotations

import errno

import pytest

import proctor
from proctor.call.verdict import Answer, Deny, HandOver


def test_what_allow_may_say() -> None:
    asked: list[tuple[str, bytes]] = []
    says: list[object] = []

    def allow(argument: str, path: bytes) -> object:
        asked.append((argument, path))
        return says[-1]

    verdict = proctor.perform(allow)  # type: ignore[arg-type]
    for said, errno_ in (
        (False, errno.EACCES),
        (None, errno.EACCES),
        (Deny(errno.EROFS, "x"), errno.EROFS),
    ):
        says.append(said)
        refused = verdict.refusal("newpath", b"/b")
        assert refused is not None and refused.errno == errno_ and refused.reason
    says.append(True)
    assert verdict.refusal("oldpath", b"/a") is None
    assert asked == [("newpath", b"/b")] * 3 + [("oldpath", b"/a")]
    assert proctor.perform().refusal("path", b"/") is None
    for said in (1, "yes", proctor.answer(0), proctor.let_run()):
        says.append(said)
        with pytest.raises(TypeError, match="True, False or deny"):
            verdict.refusal("path", b"/")


def test_writes_are_copied() -> None:
    data = bytearray(b"ab")
    made = proctor.answer(2, writes=iter([(4096, data), (4098, memoryview(data))]))
    data[:] = b"xy"
    assert made == Answer(2, "", ((4096, b"ab"), (4098, b"ab")))
    assert str(made) == "answer 2, 4 bytes written"
    assert proctor.hand_over(3, writes=[(1, b"z")]) == HandOver(3, writes=((1, b"z"),))
    assert (
        str(proctor.hand_over(3, at=5, writes=[(1, b"z")]))
        == "hand over fd 3 at 5, 1 bytes written"
    )
    assert proctor.answer(2) == Answer(2) and hash(made) == hash(made)
