"""Calls for tests of rules: real ones, of fake targets."""

from __future__ import annotations

from typing import Any

from proctor.syscalls import tables
from proctor.testing import FakeTarget
from proctor.testing.target import FakeCall


def call(
    name: str, *raw: int, abi: str = "x86_64", uid: int = 0, tree: Any = None, **named: Any
) -> FakeCall:
    """A call by its arguments' names, or by its registers (also one that has no signature)."""
    target = FakeTarget(tree, uid=uid)
    if not named:
        return target.call(tables.number(name, abi), *raw, abi=abi)
    if isinstance(device := named.get("dev"), str):
        major, minor = map(int, device.split(":"))
        named["dev"] = major << 8 | minor
    return target.call(name, abi=abi, **named)
