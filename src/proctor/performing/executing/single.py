"""Requests that are made for one of their steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

from proctor.performing.executing.lent import Lent
from proctor.performing.executing.requests import Reply, Request
from proctor.performing.executing.steps import Argument, Result, Steps
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator

    from proctor.performing.executing.workers import Wait
    from proctor.performing.session import Session


class Single(NamedTuple):
    """One; the others lead there, or do what follows from it."""

    request: Request
    made: Result
    #: Of the loan that the step takes; 0 for none.
    left: int = 0
    #: Where in the reply is what it tells.
    found: int = 0

    def ask(
        self, session: Session, *values: bytes | int, fds: tuple[int, ...] = (), table: bool = False
    ) -> Generator[Wait, Reply, int]:
        """Have it made, where nothing else is wanted to be known: 0, or the errno.  Parameters as of
        :meth:`~proctor.performing.session.Session.ask`."""
        reply = yield from session.ask(self.request, *values, fds=fds, table=table)
        reply.close()
        return reply.error(self.made)


class Hole(NamedTuple):
    """As an argument of :class:`Shape`: bytes that are filled in, so many at most."""

    size: int


class _Word:
    """Another one."""


#: A number that is filled in; a descriptor that is sent along.
NUMBER, SENT = _Word(), _Word()
#: An argument of :class:`Shape`; bytes are these bytes, with a NUL behind them.
Piece = Union[int, bytes, Hole, _Word]


class Shape:
    """One system call, put together as a :class:`Single` when it is first wanted, with what is filled in and sent in
    the order of its arguments::

        _LISTENING = Shape("listen", SENT, NUMBER)
        failed = yield from _LISTENING().ask(session, 128, fds=(fd,))

    :param gives: whether the descriptor that it makes is given.
    :param right: what is lent for it.
    """

    def __init__(self, what: str, *given: Piece, gives: bool = False, right: int = 0) -> None:
        self._what, self._given, self._gives, self._right = what, given, gives, right
        self._made: dict[int, Single] = {}

    def __call__(self, permitted: int = 0) -> Single:
        """
        :param permitted: what a lender can lend, of one with a right."""
        made = self._made.get(permitted)
        if made is None:
            made = self._made[permitted] = self._single(permitted)
        return made

    def _single(self, permitted: int) -> Single:
        steps = Steps()
        arguments = [self._argument(steps, each) for each in self._given]
        if not self._right:
            made, left = steps.call(self._what, *arguments), 0
        else:
            with Lent(steps, permitted, self._right) as lent:
                made = steps.call(self._what, *arguments, bad=0)
            left = lent.left
        if self._gives:
            steps.give(made)
        return Single(steps.freeze(), made, left)

    @staticmethod
    def _argument(steps: Steps, given: Piece) -> Argument:
        if isinstance(given, Hole):
            return steps.hole(given.size)
        if isinstance(given, bytes):
            return steps.bytes(given)
        if isinstance(given, int):
            return given
        return steps.number() if given is NUMBER else steps.sent()
