"""One call on a pinned socket with one right lent (:mod:`proctor.performing.lender`)."""

from __future__ import annotations

from collections.abc import Generator
from functools import lru_cache
from typing import TYPE_CHECKING

from proctor.performing.lender import Lender, Loan
from proctor.performing.single import Single
from proctor.performing.steps import Steps

if TYPE_CHECKING:
    from proctor.performing.executors import Wait
    from proctor.performing.steps import Reply
    from proctor.performing.task import Task


@lru_cache(64)
def _lent(permitted: int, right: int, what: str, numbers: int) -> Single:
    """Holes: so many numbers, bytes and their length.  Sent: the socket."""
    steps = Steps()
    more = [steps.number() for _ in range(numbers)]
    data, length = steps.hole(256), steps.number()
    loan = Loan(steps, permitted)
    lent = loan.capabilities(1 << right)
    given = steps.sent()
    loan.have(lent)
    made = steps.call(what, given, *more, data, length, bad=0)
    loan.give_back()
    return Single(steps.freeze(), made, loan.left)


def with_right(
    task: Task, right: int, what: str, fd: int, *values: bytes | int
) -> Generator[Wait, Reply, int]:
    """Make a call whose arguments are a socket, numbers, and bytes with their length: 0, or an errno.

    :param right: the capability, by its number.
    :raises Powerless: the monitor has not got it.
    :raises Trouble: it was not performed."""
    with Lender(task, 1 << right) as lender:
        lent = _lent(lender.permitted, right, what, len(values) - 2)
        return (yield from lender.made(lent, *values, fds=(fd,)))
