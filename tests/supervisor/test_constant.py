"""Calls that all come to the same are answered without their handler, unless one may have to wait or somebody is told."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

import proctor
from proctor.call.verdict import Verdict
from proctor.observe.events import Outcome
from proctor.policy import loads
from proctor.supervisor.world import KernelWorld
from proctor.testing import FakeTarget

CALLS = 200
#: Prints what that many calls came to; and again, with one more, for each byte that it is sent.
PROGRAM = f"""
import ctypes, os
syscall = ctypes.CDLL(None, use_errno=True).syscall
def came():
    result = syscall(83, b"/nowhere/x", 0)  # mkdir
    return result if result >= 0 else -ctypes.get_errno()
print(*[came() for _ in range({CALLS})], flush=True)
while os.read(0, 1):
    print(came(), flush=True)
"""


class Alike(proctor.Handler):
    """Says the same to every call, and counts whom it was asked about."""

    def __init__(self, verdict: Verdict) -> None:
        self.asked = 0
        super().__init__(["mkdir"], self._say, label="alike")
        self.verdict = verdict

    def _say(self, call: proctor.Call) -> Verdict:
        self.asked += 1
        return self.verdict

    def constant(self, call: proctor.Call) -> Verdict:
        return self.verdict


def ran(handler: Alike, *, native: bool = True, **options: Any) -> list[int]:
    done = proctor.run(
        [sys.executable, "-IS", "-c", PROGRAM], [handler], world=KernelWorld(native=native),
        capture_output=True, stdin=proctor.DEVNULL, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize(
    ("verdict", "comes_to", "counted"),
    [
        (proctor.deny(errno.EROFS), -errno.EROFS, "deny EROFS"),
        (proctor.answer(1 << 40), 1 << 40, "answer"),
        (proctor.let_run(), -errno.ENOENT, "let run"),
        (proctor.let_run_unsafe("a test"), -errno.ENOENT, "let run"),
    ],
)
def test_no_handler_is_asked(verdict: Verdict, comes_to: int, counted: str) -> None:
    for native in (True, False):
        handler, counters = Alike(verdict), proctor.Counters()
        found = ran(handler, native=native, observers=[counters])
        assert found == [ctypes_of(comes_to)] * CALLS
        # natively of some, if the first of them stalls on a busy machine: the number is known for it for a while
        assert handler.asked < CALLS if native else handler.asked == CALLS
        assert list(counters.table().values()) == [CALLS]
        ((_, call, kind),) = counters.table()
        assert (call, kind) == ("mkdir", counted)


def ctypes_of(value: int) -> int:
    """As a C int, which ctypes takes results for."""
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def test_whoever_is_told_is_told_of_each() -> None:
    seen: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        seen.append(outcome)

    tell.events = (Outcome,)  # type: ignore[attr-defined]
    handler = Alike(proctor.deny(errno.EROFS))
    assert ran(handler, observers=[tell]) == [-errno.EROFS] * CALLS
    assert handler.asked == len(seen) == CALLS
    assert {str(outcome.verdict) for outcome in seen} == {"deny EROFS"}


def test_who_may_have_to_wait_goes_the_ordinary_way() -> None:
    """A rate holds for such calls, too: their share says so before each."""
    handler = Alike(proctor.deny(errno.EROFS))
    found = ran(handler, quotas=proctor.Quotas(rate=10_000))
    assert found == [-errno.EROFS] * CALLS
    assert handler.asked == CALLS


@pytest.mark.parametrize("other", ["replaced", "writes"])
def test_what_is_said_may_change(other: str) -> None:
    first, second = Alike(proctor.deny(errno.EROFS)), Alike(proctor.deny(errno.EDOM))
    if other == "writes":  # to memory that cannot be written to: its handler's way
        second.verdict = proctor.answer(0, writes=[(0, b"x")])
    reading, out = os.pipe()
    told, tell = os.pipe()
    program = proctor.filter_for([first]).compile().code
    with open(os.devnull, "wb") as null, proctor.Supervisor([first]) as supervisor:
        target = proctor.launch(
            [sys.executable, "-IS", "-c", PROGRAM], program=program,
            fds=[(told, 0), (out, 1), (null.fileno(), 2)],
        )  # fmt: skip
        os.close(told), os.close(out)
        with open(reading) as said, target:
            listener = proctor.Listener(target.take_listener())
            supervisor.add(listener)
            supervisor.start()
            assert said.readline().split() == [str(-errno.EROFS)] * CALLS
            supervisor.replace(listener, [second])
            os.write(tell, b"x")
            assert int(said.readline()) == (-errno.EDOM if other == "replaced" else -errno.EFAULT)
            os.close(tell)
            assert target.wait(30) == 0
        assert first.asked < CALLS
        assert second.asked == 1 or other == "replaced"


RULES = """
default = "allow"
[[rule]]
name = "all"
calls = ["mkdir"]
deny = "EROFS"
report = true
[[rule]]
name = "some"
calls = ["chmod"]
when = { mode = 0 }
deny = "EROFS"
[[rule]]
name = "later"
calls = ["rmdir"]
deny = "EROFS"
delay = 0.1
[[rule]]
name = "done"
calls = ["mknod"]
perform = true
"""


def test_policies_know_what_all_calls_of_a_number_come_to() -> None:
    handlers = loads(RULES).handlers()

    def known(name: str, *registers: int) -> Verdict | None:
        (handler,) = [each for each in handlers if each.wants(name)]
        says: Callable[[proctor.Call], Verdict | None] | None = handler.constant
        assert says is not None
        return says(FakeTarget().call(name, *registers))

    said = known("mkdir", 0, 0)
    assert isinstance(said, proctor.Deny) and said.errno == errno.EROFS
    assert known("chmod", 0, 0) is known("rmdir", 0) is None
    performed = known("mknod", 0, 0, 0)
    assert isinstance(performed, proctor.call.verdict.Perform) and performed.allow is None
