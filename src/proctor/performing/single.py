"""Requests that are made for one of their steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator

    from proctor.performing.executors import Wait
    from proctor.performing.session import Session
    from proctor.performing.steps import Reply, Request, Result


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
