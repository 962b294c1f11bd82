"""The short way of calls that are answered by what is read of their thread alone: a family's ``SEEN``, by name with the
module that has a function ``seen``.

As in :mod:`proctor.performing.short_ways.short`: it decides nothing that the families do not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from proctor.errors import CallGone
from proctor.performing.short_ways.ways import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Verdict
    from proctor.kernel.standing import Standing
    from proctor.performing.performers import Performers


class SeenWay:
    """That of one call's family.

    :param name: of the call."""

    def __init__(self, performers: Performers, family: Any, name: str) -> None:
        self._performers = performers
        self._options = getattr(family, "Options", None)
        self._usual = None if self._options is None else self._options()
        #: What is said to it, None where a longer way is to find out; its thread is dead where that raises
        #: :class:`CallGone`.
        module = import_module(family.SEEN[name])
        self._seen: Callable[[Call, Standing, Any, Performers], Verdict | None] = module.seen

        closers = performers.executors.closers
        #: For the core: see :class:`proctor.kernel._core.Seen`.
        self.native = (
            performers.standings.known,
            performers.standings.give_back,
            closers.close_shortly,
            getattr(module, "STORED", b""),
        )

    def __call__(self, call: Call, wish: Perform) -> Verdict | None:
        """The verdict; None if :meth:`~proctor.performing.Performers.begin` is to be called."""
        performers, said = self._performers, None
        standing = performers.standings.take(call.tid)
        if standing is None:
            return None
        try:
            if plain(call, wish, standing, self._options):
                said = self._seen(call, standing, wish.options or self._usual, performers)
        except CallGone:  # another thread had its number
            standing.close()
            return None
        except BaseException as failed:
            said = performers.translate(call, failed)
        performers.standings.give_back(standing)
        return said
