"""Containers: what listeners belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from proctor.given import MOST_ID, one, refuse_unknown, several, whole
from proctor.observe.amount import Amount
from proctor.records import NamedTuple
from proctor.supervisor.handlers import handlers_of

if TYPE_CHECKING:
    from proctor.supervisor.handlers import Handler
    from proctor.supervisor.ports import Below

#: What can be said of how the calls of one container are performed, and the words that it is one of; ``limit`` is a number.
_PERFORMING: Final = {
    "nested": ("deny", "allow"),
    "o_path": ("deny", "run"),
    "cgroup": ("join", "ignore"),
    "limit": (),
}


def performing_options(given: object) -> dict[str, Any]:
    """What :class:`Container` and :class:`~proctor.performing.Performers` are given of that.

    :raises TypeError: it is no mapping, there is no such option, or one is no number.
    :raises ValueError: one is no such word, or the number less than 1, or more than a machine has."""
    options: dict[str, Any] = dict(one("performing", given, Mapping, "a mapping of options"))
    for name, value in options.items():
        refuse_unknown((name,), _PERFORMING, "performing, of a container,")
        words = _PERFORMING[name]
        if not words:
            whole(name, value)
        elif value not in words:
            raise ValueError(f"{name}={value!r}: it is one of {', '.join(map(repr, words))}")
    return options


def owners(given: Any) -> frozenset[int]:
    """User namespaces.

    :raises TypeError, ValueError: they are no inode numbers."""
    numbers = several("owner_userns", given, "inode numbers")
    return frozenset([whole("owner_userns", each, 1, MOST_ID + 1) for each in numbers])


class Quotas(NamedTuple):
    """What one container may take of a supervisor; beyond that its own calls wait, or fail.

    >>> proctor.Container("web-1", quotas=proctor.Quotas(workers=4)).quotas.workers
    4
    """

    #: Most threads that its calls may keep which stall (once more as many for calls of numbers that
    #: did not stall lately); further calls of its callers wait for one of them, in turn.
    workers: int = 16
    #: Most of its calls that may wait, or stall, at the same time; more are denied with ENOMEM.  None:
    #: as many as it has threads.
    calls: int | None = None
    #: Most of its calls that are performed at the same time; whoever performs sees to it.
    performers: int = 64
    #: Most of its calls that are decided in a second, in the long run; a tenth of that, and at least one,
    #: at once.  Further ones wait until it is their turn, which costs nobody else anything.  None: as many as it makes.
    rate: float | None = None

    def check(self) -> Quotas:
        """The same.

        :raises ValueError: one is less than 1, or more than a machine has.
        :raises TypeError: one is no number."""
        whole("quotas: workers", self.workers)
        whole("quotas: performers", self.performers)
        if self.calls is not None:
            whole("quotas: calls", self.calls)
        if self.rate is not None:
            one("quotas: rate", self.rate, (int, float), "a number or None")
            if not self.rate >= 1:
                raise ValueError(f"quotas: rate={self.rate}: at least one is needed")
        return self


class Container:
    """What a listener belongs to; handlers see it as :attr:`Call.container
    <proctor.call.call.Call.container>`.

    ::

        web = proctor.Container("web-1", labels={"tenant": "blue"})
        target = FakeTarget(container=web)
        assert target.call("getpid").container.labels["tenant"] == "blue"

    One container can have several listeners: a runtime brings a new one for each program that it
    executes in there.  They share its quotas and its state.

    :param name: for logs and metrics.
    :param handlers: tried in order; those of the supervisor if None.
    :param labels: what its owner calls it besides.
    :param performing: for whoever performs its calls: ``nested``, ``o_path``, ``cgroup`` and ``limit``, as
        :class:`~proctor.performing.Performers` takes them.
    :param owner_userns: inode numbers of the user namespaces (``/proc/PID/ns/user``) that its owner
        made it with: rights in there were given, and not taken by the target itself.
    :param quotas: what it may take.
    :param state: whatever its handlers want to keep from one call to the next.  Handlers may run at
        the same time, on several threads.
    :param logging: how much of its calls logs have (:class:`proctor.Amount`); None: all.
    :raises ValueError: a quota is less than 1, or more than 10,000; of the log there is no such level; an option is no
        such word.
    :raises TypeError: something is not what it is to be.
    """

    __slots__ = (
        "__weakref__",
        "below",
        "handlers",
        "labels",
        "lasting",
        "logging",
        "name",
        "owner_userns",
        "performing",
        "quotas",
        "state",
    )

    def __init__(
        self,
        name: str = "",
        handlers: Iterable[Handler] | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        performing: Mapping[str, Any] | None = None,
        owner_userns: Iterable[int] = (),
        quotas: Quotas | None = None,
        state: dict[str, Any] | None = None,
        logging: Amount | None = None,
    ) -> None:
        self.name: str = one("name", name, str, "a text")
        #: Supervisors below, which have their say where a call would run or be performed: set before its
        #: first listener is served.
        self.below: Below | None = None
        #: What a monitor that takes over knows it by, 16 bytes that no other one has; none where nobody does.
        self.lasting = b""
        self.handlers = None if handlers is None else handlers_of(handlers)
        self.labels: Mapping[str, str] = dict(
            one("labels", {} if labels is None else labels, Mapping, "a mapping")
        )
        for key, value in self.labels.items():
            one("a name in labels", key, str, "a text")
            one(f"labels[{key!r}]", value, str, "a text")
        self.performing: Mapping[str, Any] = performing_options(
            {} if performing is None else performing
        )
        self.owner_userns = owners(owner_userns)
        self.quotas = (
            Quotas()
            if quotas is None
            else one("quotas", quotas, Quotas, "proctor.Quotas()").check()
        )
        self.logging = (
            None if logging is None else one("logging", logging, Amount, "proctor.Amount()").check()
        )
        self.state: dict[str, Any] = (
            {} if state is None else one("state", state, MutableMapping, "a dictionary")
        )

    def __repr__(self) -> str:
        return f"<Container {self.name!r}>"
