"""A container's root whose identity is known and whose executors are warm, so that its calls go the short way."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import proctor
from proctor import performing
from proctor.call.verdict import Perform
from proctor.supervisor.ports import Later
from tests.performing.families.test_open_differential import MAP
from tests.performing.support.callers import (
    CLONE_NEWNS,
    Call,
    Caller,
    caller,
    open_directory,
    unshare,
)
from tests.support.processes import eventually


class Stage:
    """One caller in a directory of its own, and who performs for it."""

    def __init__(self, performers: performing.Performers, one: Caller, top: bytes) -> None:
        self.performers, self.one, self.top = performers, one, top
        self.calls: list[Call] = []
        self.warm()

    def warm(self) -> None:
        """Have a first call performed."""
        raise NotImplementedError

    def made(self, *args: Any) -> Call:
        self.calls.append(self.one.call(*args))
        return self.calls[-1]

    def begun(self, call: Call, wish: Perform | None = None) -> Any:
        """What the short way says."""
        short = self.performers.ordinary(call.name)
        assert short is not None
        return short(call, wish or proctor.perform())


S = TypeVar("S", bound=Stage)


@contextmanager
def staged(kind: type[S]) -> Iterator[S]:
    """A stage, of which nothing is left."""

    def setup() -> None:
        unshare(CLONE_NEWNS)
        os.chdir(top)
        os.umask(0o027)

    before = len(os.listdir("/proc/self/fd"))
    with open_directory() as top:
        os.chown(top, 100000, 100000)
        with performing.Performers() as performers, caller(setup, MAP) as one:
            stage = kind(performers, one, top)
            yield stage
            for each in stage.calls:
                if each._caller is not None:
                    each._caller.close()
            eventually("those that were killed are dead", lambda: counted_out(performers))
    eventually(
        "what others were closing is closed", lambda: len(os.listdir("/proc/self/fd")) <= before
    )


def counted_out(performers: performing.Performers) -> bool:
    """Whether nobody works, or is still dying."""
    performers.executors._bury()
    return not performers.executors._taken


def finished(said: Any) -> Any:
    """The verdict, waited for."""
    while isinstance(said, Later):
        poll = select.poll()
        poll.register(said.fd, select.POLLIN)
        poll.poll(None if said.wait is None else said.wait * 1000 + 1)
        said = said.resume()
    return said
