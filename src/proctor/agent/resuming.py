"""In which order a monitor goes on with the listeners that an earlier one left: those come first for whose calls somebody
waits, so that no caller waits for thousands of containers that are idle."""

from __future__ import annotations

import select
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from proctor.agent.keeping import read_memory
from proctor.kernel.journal import may_pend

if TYPE_CHECKING:
    from proctor.agent.keeping import Item

#: Containers that are gone on with before it is looked again who waits: some milliseconds.
_AT_ONCE: Final = 64


class _Facts(msgspec.Struct, frozen=True):
    door: str
    uid: int
    id: str


class _Record(msgspec.Struct, frozen=True):
    """Of :class:`~proctor.agent.held.Record`, what makes listeners those of one container."""

    facts: _Facts


def in_turn(items: Sequence[Item]) -> Iterator[list[Item]]:
    """All of them, some at a time, and those of a container together: else it would end, for all who are told, with the first
    of them.  Each is its taker's from then on.

    :param items: listeners, each with its journal and the memory of its record.
    """
    containers: defaultdict[object, list[Item]] = defaultdict(list)
    whose: dict[int, object] = {}
    waiting: set[object] = set()
    poll = select.poll()
    for item in items:
        key = _container(item)
        containers[key].append(item)
        if item.fds:
            whose[item.fds[0]] = key
            poll.register(item.fds[0], select.POLLIN)
        if _may_pend(item):
            waiting.add(key)
    while containers:
        polled = poll.poll(0)
        waiting.update(whose[fd] for fd, events in polled if events & select.POLLIN)
        waiting &= containers.keys()
        over = {fd for fd, events in polled if events & select.POLLHUP}
        some: list[Item] = []
        for key in list(islice(waiting or containers, _AT_ONCE)):
            # those that nobody uses any more last: with one of them alone the container would end, too
            some += sorted(containers.pop(key), key=lambda item: not over.isdisjoint(item.fds[:1]))
        for item in some:
            if item.fds:
                poll.unregister(item.fds[0])  # whoever takes it may close it
        yield some


def _container(item: Item) -> object:
    try:
        return msgspec.json.decode(read_memory(item.fds[2]), type=_Record).facts
    except (IndexError, OSError, msgspec.MsgspecError):
        return item.name  # whoever takes it says what is wrong


def _may_pend(item: Item) -> bool:
    try:
        return may_pend(item.fds[1])
    except (IndexError, OSError):
        return False
