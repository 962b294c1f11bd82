"""Handlers: code that turns a call into a verdict."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Optional, Protocol, Union, overload

from proctor.errors import FilterError
from proctor.filter.conditions import conditions_of
from proctor.filter.rules import expand
from proctor.given import one, seconds, several
from proctor.syscalls import tables
from proctor.words import quoted

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Verdict
    from proctor.filter.conditions import Condition
    from proctor.supervisor.ports import Later, Seek
    from proctor.supervisor.usual import ByPath

#: What a handler's function is: a verdict, or None for "not mine, ask the next one".
Said = Union[Optional["Verdict"], "Later", "Seek", Coroutine[Any, Any, Optional["Verdict"]]]
HandlerFunction = Callable[["Call"], Said]


class Decorator(Protocol):
    """What :func:`on` returns: for functions, and for methods, which get their object first."""

    @overload
    def __call__(self, function: HandlerFunction) -> Handler: ...
    @overload
    def __call__(self, function: Callable[[Any, Call], Said]) -> Handler: ...


_CO_COROUTINE = 0x80  # inspect.CO_COROUTINE, without importing inspect (7 ms)


class Handler:
    """A function, the calls it wants, and how it wants to be run.  Immutable; made by :func:`on`.

    >>> handler = proctor.Handler(["mkdir"], lambda call: proctor.deny(errno.EROFS), label="no rooms")
    >>> handler.wants("mkdir"), handler.wants("rmdir")
    (True, False)

    >>> class Disk:
    ...     left = 2
    ...     @proctor.on("write")
    ...     def fills_up(self, call):
    ...         self.left -= 1
    ...         return proctor.deny(errno.ENOSPC) if self.left < 0 else None
    >>> disk = Disk()
    >>> FakeTarget().run(disk.fills_up, FakeTarget().call("write", 1, b"", 0)).ran, disk.left
    (True, 1)

    Calling it calls the function, so a decorated function stays usable by itself.

    :param names: system calls, or groups of them such as ``"%file"``.
    :param function: called with the :class:`~proctor.Call`; gives a :class:`~proctor.Verdict`, a
        :class:`~proctor.Later`, or None, and then the next handler is asked.
    :param label: what logs and troubles call it; its function's name by default.

    The others are as :func:`on` has them.

    :raises FilterError: no call is named, there is no such call, or a condition is none.
    :raises TypeError, ValueError: the function is none, the deadline not more than 0 seconds.
    """

    #: How calls with the registers of one given are decided, if nothing but a path does: so that those
    #: are decided without this handler (:mod:`proctor.supervisor.usual`); None where that is not so.
    by_path: Callable[[Call], ByPath | None] | None = None
    #: What all calls of the number of one given come to, whatever their registers and their memory, and whoever makes them:
    #: those are answered without this handler, unless somebody is to be told of it; None where that is not so.
    constant: Callable[[Call], Verdict | None] | None = None
    #: Whether calls are performed that have the registers of one given, whatever else is so, without options and nobody being asked
    #: about paths; and which registers decide that of its number, a bit for each: 0 if others decide, too.
    by_registers: Callable[[Call], tuple[bool, int]] | None = None

    __slots__ = (
        "_calls",
        "conditions",
        "deadline",
        "function",
        "is_async",
        "label",
        "names",
        "performs",
    )

    def __init__(
        self,
        names: Iterable[str],
        function: HandlerFunction,
        conditions: Condition | Iterable[Condition] = (),
        *,
        deadline: float | None = None,
        performs: bool = False,
        label: str = "",
    ) -> None:
        self.names: tuple[str, ...] = several("names", names, "names of system calls")
        if not self.names:
            raise FilterError('a handler wants at least one system call: @proctor.on("mknodat")')
        for name in self.names:
            one("a name of a system call", name, str, "a text")
            if name[:1] not in ("%", "@") and not tables.exists(name):
                raise FilterError(
                    f"there is no system call {quoted(name)}{tables.did_you_mean(name)}"
                )
        if not callable(function):
            raise TypeError(f"{function!r} is not callable, so it cannot handle calls")
        self._calls = frozenset(name for name, _ in expand(self.names))
        self.function = function
        self.conditions = conditions_of(conditions)
        self.is_async = bool(_code_flags(function) & _CO_COROUTINE)
        self.deadline = seconds("deadline", deadline)
        self.performs = performs
        self.label: str = one("label", label, str, "a text") or getattr(
            function, "__qualname__", repr(function)
        )

    def __call__(self, call: Call) -> Any:
        return self.function(call)

    def __get__(self, thing: object, owner: type | None = None) -> Handler:
        bind = getattr(self.function, "__get__", None)
        if thing is None or bind is None or type(self) is not Handler:
            return self
        return Handler(
            self.names,
            bind(thing, owner),
            self.conditions,
            deadline=self.deadline,
            performs=self.performs,
            label=self.label,
        )

    def decide_seen(self, call: Call, argument: str, name: bytes | int | None) -> Any:
        """What the function would say to a call whose path was read, and perhaps followed, already.

        :param name: what it leads to, an errno if it cannot be followed, None if nobody asked.
        """
        raise NotImplementedError

    def wants(self, name: str) -> bool:
        """Whether this handler names the call, by itself or in a group."""
        return name in self._calls

    def applies(self, call: Call) -> bool:
        """Whether the conditions hold for the call's registers; no memory is looked at."""
        from proctor.filter.rules import locate

        for condition in self.conditions:
            try:
                index, bits = locate(condition.arg, call.name, call.abi)
            except FilterError:
                return False  # a member of a group, without that argument
            if not condition.holds(call.registers[index], bits):
                return False
        return True

    @property
    def where(self) -> str:
        """What people find it by: its label, and the line where its function is, if it is somebody's own."""
        code = getattr(getattr(self.function, "__func__", self.function), "__code__", None)
        if code is None or type(self) is not Handler:
            return self.label
        return f"{self.label} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"

    def __repr__(self) -> str:
        return f"<Handler {self.label} for {', '.join(self.names)}>"


def handlers_of(given: Iterable[Handler]) -> tuple[Handler, ...]:
    """What handlers are given.

    :raises TypeError: it is one alone, or some are none."""
    if isinstance(given, Handler):
        raise TypeError(f"{given!r} is one handler: they are given in a list")
    handlers = several("handlers", given, "functions that are decorated with proctor.on()")
    for handler in handlers:
        if not isinstance(handler, Handler):
            raise TypeError(
                f"{handler!r} is not a handler: decorate the function with "
                '@proctor.on("openat", ...)'
            )
    return handlers


def _code_flags(function: object) -> int:
    """co_flags of a function, a method, a partial or an object with ``__call__``; 0 if there are none."""
    for _ in range(8):
        code = getattr(function, "__code__", None)
        if code is not None:
            return int(code.co_flags)
        function = getattr(function, "func", None) or getattr(
            function,
            "__func__",
            getattr(type(function), "__call__", None),  # noqa: B004
        )
        if function is None:
            return 0
    return 0


def on(
    *names: str,
    when: Condition | Iterable[Condition] = (),
    deadline: float | None = None,
    performs: bool = False,
) -> Decorator:
    """Decorate a function, or a method, as the handler of some system calls.

    It runs on the thread that received the call, for as long as it likes: if it stalls, another thread
    receives, and up to :attr:`Quotas.workers <proctor.Quotas>` may do so at the same time.  ``async
    def`` functions run on an event loop.  What waits for a descriptor without a thread returns
    :class:`~proctor.supervisor.ports.Later`.

    ::

        @proctor.on("mkdir", "mkdirat")
        def no_directories(call):
            return proctor.deny(errno.EROFS)

        assert proctor.run(["mkdir", "x"], [no_directories], stderr=proctor.DEVNULL).returncode == 1

    In a class it makes a method: ``disk.fills_up`` is the handler that knows its ``disk``.

    :param names: system calls, or groups of them such as ``"%file"``.
    :param when: conditions on registers; they are compiled into the filter, so that calls that do
        not meet them never stop.  All must hold.
    :param deadline: seconds after which the supervisor answers in the handler's place.
    :param performs: whether it will probably answer with ``perform()``: what performs is then started
        along with the command, and the first such call need not wait for that.
    """
    if isinstance(when, (str, bytes)):
        raise FilterError(f'{when!r} is no condition: when=proctor.Condition("mode", "==", 0)')

    def decorate(function: Any) -> Handler:
        return Handler(names, function, when, deadline=deadline, performs=performs)

    if names and callable(names[0]):
        raise FilterError('name the system calls: @proctor.on("mknodat"), not a bare @proctor.on')
    return decorate
