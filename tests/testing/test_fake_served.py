"""Served files on a target that is none."""

from __future__ import annotations

import errno

import proctor
from proctor import families
from proctor.testing import FakePerformer, FakeTarget


def test_what_is_served_is_there() -> None:
    target = FakeTarget({"/etc/motd": b"real", "/etc/other": b"other"})
    asked: list[bytes] = []

    def content(call: proctor.Call) -> str:
        asked.append(call.path)
        return "made"

    for served in (
        families.served(content=b"made", when={"path": "/etc/motd"}),
        families.served(content=content, when={"path": "/etc/motd"}),
    ):
        call = target.call("openat", -100, "/etc/motd", 0)
        assert target.run(served, call, performer=FakePerformer(target)).content == b"made"
    assert asked == [b"/etc/motd"]
    plain = families.open(when={"path": "/etc/**"})
    call = target.call("openat", -100, "/etc/other", 0)
    assert target.run(plain, call, performer=FakePerformer(target)).content == b"other"
    missing = families.served(content="x", when={"path": "/etc/missing"})
    call = target.call("openat", -100, "/etc/missing", 0)
    assert target.run(missing, call, performer=FakePerformer(target)).content == b"x"
    call = target.call("openat", -100, "/nowhere/missing", 0)
    assert (
        target.run(families.served(content="x"), call, performer=FakePerformer(target)).errno
        == errno.ENOENT
    )
