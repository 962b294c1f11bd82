"""docs/races.md, row by row: what is a look, and which verdicts stand after one."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import proctor
from proctor.testing import FakeCall, FakeTarget

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "races.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The table behind a heading, without its head."""
    section = re.findall(rf"## {heading}\n(.*?)\n## ", TEXT, re.DOTALL)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def call(name: str = "openat", *arguments: object) -> FakeCall:
    target = FakeTarget(files={"/etc/hosts": b"x"})
    target.open("/etc/hosts", at=5)
    made: FakeCall = target.call(name, *(arguments or (-100, "/etc/hosts", 0)))
    return made


Looked = Callable[[FakeCall], object]
#: What is done for each row of "By what was looked at", by how the row begins.
LOOKS: dict[str, tuple[Looked, ...]] = {
    "registers": (lambda c: c.flags, lambda c: c.mode, lambda c: c.registers),
    "memory": (lambda c: c.path, lambda c: c.args["path"], lambda c: c.memory),
    "what a path leads to": (lambda c: c.resolve(), lambda c: c.where()),
    "what a descriptor number refers to": (
        lambda c: c.fd(5), lambda c: os.close(c.take_fd(5)), lambda c: c.fd_path(5),
        lambda c: c.caller.dir_fd(5),
    ),
    "the working directory, root, umask": (
        lambda c: c.caller.cwd(), lambda c: c.caller.root(), lambda c: c.caller.umask,
    ),
    "what the thread and its program are called": (
        lambda c: c.comm, lambda c: c.exe, lambda c: c.caller.cmdline,
    ),
    "the caller's ids": (
        lambda c: c.caller.uids, lambda c: c.caller.gids, lambda c: c.caller.groups,
        lambda c: c.caller.caps, lambda c: c.caller.namespace("user"), lambda c: c.caller.label,
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", rows("By what was looked at"), ids=lambda row: row[0][:30])
def test_what_is_a_look(row: list[str]) -> None:
    """Its third column, which is its second."""
    (looks,) = (done for begin, done in LOOKS.items() if row[0].startswith(begin))
    racy = row[2] == "yes"
    assert row[1].startswith("yes" if racy else "no")
    for look in looks:
        one = call()
        look(one)
        assert one.memory_read is racy, look
        outcome = one.made_by.run(lambda c, look=look: (look(c), proctor.let_run())[1], call())
        assert outcome.ran is not racy
        assert isinstance(outcome.error, proctor.errors.RacyVerdict) is racy


def test_every_row_is_looked_at() -> None:
    found = [row[0] for row in rows("By what was looked at")]
    assert all(any(row.startswith(begin) for row in found) for begin in LOOKS)


def looking(verdict: proctor.Verdict) -> Callable[[proctor.Call], proctor.Verdict]:
    def handler(made: proctor.Call) -> proctor.Verdict:
        assert made.where() == b"/etc/hosts"
        return verdict

    return handler


def test_verdicts_after_a_look() -> None:
    """All of the first table but two: what is refused, and what must be said to be a race."""
    named = [row[0] for row in rows("By verdict")]
    assert [re.findall(r"\w+", each)[0] for each in named] == [
        "deny", "answer", "hand_over", "perform", "let_run", "let_run", "let_run_unsafe",
    ]  # fmt: skip
    for verdict, number in ((proctor.deny(errno.EROFS), errno.EROFS), (proctor.answer(7), 0)):
        one = call()
        assert one.made_by.run(looking(verdict), one).errno == number
    one = call()
    given = os.open("/dev/null", os.O_RDONLY)
    assert one.made_by.run(looking(proctor.hand_over(given)), one).fd >= 0
    one = call()
    assert one.made_by.run(looking(proctor.perform()), one, performer=proctor.answer(3)).value == 3
    assert call().made_by.run(lambda c: proctor.let_run(), call()).ran
    one = call()
    refused = one.made_by.run(looking(proctor.let_run()), one)
    assert refused.errno == errno.EPERM and "looked at" in str(refused.error)
    one = call()
    assert one.made_by.run(looking(proctor.let_run_unsafe("a test")), one).ran
