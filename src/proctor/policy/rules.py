"""A policy's rules after checking: values that the compiler, the handlers and the explainer share.

A :class:`Rule` says the same thing to all three, in one form: for each system call (and each
architecture, where arguments stand elsewhere) its conditions on registers, then those on the caller
and on what the call's memory holds, then a ruling.  There is no other description of the policy
that could drift away from this one.
"""

from __future__ import annotations

import errno as _errno
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from proctor.filter.conditions import Alternatives, hold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proctor.policy.addresses import Address
    from proctor.policy.conditions import Condition

DENY: Final = "deny"
RETURN: Final = "return"
PERFORM: Final = "perform"
ALLOW: Final = "allow"
KILL: Final = "kill"
LOG: Final = "log"


class Ruling(NamedTuple):
    """What happens to a call: ``kind`` is a verdict key of a policy file.

    ``value`` is the errno of ``deny`` or the value of ``return``; ``unsafe`` the reason given for
    letting the call run after looking at its memory, empty if none was given.
    """

    kind: str
    value: int = 0
    unsafe: str = ""

    @property
    def in_filter(self) -> bool:
        """Whether the kernel can carry it out alone, once registers have decided."""
        # SECCOMP_RET_ERRNO with data 0 makes the call return 0; no other value can be returned.
        return self.kind in (DENY, ALLOW, KILL, LOG) or (self.kind == RETURN and self.value == 0)

    @property
    def runs(self) -> bool:
        """Whether the kernel goes on to run the call with the caller's registers and memory."""
        return self.kind in (ALLOW, LOG)

    def __str__(self) -> str:
        if self.kind == DENY:
            return errno_name(self.value)
        if self.kind == RETURN:
            return f"return {self.value}"
        return f"{self.kind} (unsafe)" if self.unsafe else self.kind


class CallView(Protocol):
    """A call as far as rules look at it; :class:`~proctor.policy.handlers.LiveView` reads a real
    one, :class:`~proctor.policy.facts.Facts` is one in plain values."""

    @property
    def name(self) -> str:
        """The system call's name."""
        ...

    @property
    def arch(self) -> str:
        """The caller's architecture: ``x86_64``, ``i386``, …"""
        ...

    @property
    def registers(self) -> Sequence[int]:
        """Six raw registers."""
        ...

    def path(self, argument: str) -> bytes | None:
        """The absolute path that a path argument resolves to in the caller's view, None for a
        NULL pointer where that is allowed. :raises Unknowable: it cannot be told."""
        ...

    def string(self, argument: str) -> bytes | None:
        """The bytes of a string argument, None for NULL. :raises Unknowable: it cannot be told."""
        ...

    def address(self, argument: str) -> Address | None:
        """The socket address in an argument, None for a NULL pointer.
        :raises Unknowable: it cannot be told."""
        ...

    def identity(self, what: str) -> int:
        """``uid`` or ``gid``: the caller's effective one. :raises Unknowable: it cannot be told."""
        ...

    def hint(self, argument: str) -> bytes | None:
        """The bytes that a path or string argument holds, if they can be had, for logs only."""
        ...

    @property
    def tid(self) -> int:
        """The caller's thread id, 0 if it is not known."""
        ...


class Unknowable(Exception):
    """A condition cannot be decided.

    ``errno`` is what the kernel itself would answer for the same reason (EFAULT for a bad pointer,
    ENOENT for a missing directory…), 0 if the reason is ours: then the policy's ``on_error`` holds.
    """

    def __init__(self, errno: int, why: str) -> None:
        super().__init__(why)
        self.errno = errno
        self.why = why


class Clause(NamedTuple):
    """A rule's conditions for one system call of one architecture.

    ``registers`` come first; ``further`` are looked at in order only if those hold: conditions on
    the caller before those on memory, so that memory is read only where it matters.
    """

    registers: Alternatives
    further: tuple[Condition, ...] = ()

    @property
    def reads_memory(self) -> bool:
        """Whether deciding may need the caller's memory (or a path in it)."""
        return any(condition.reads_memory for condition in self.further)

    def holds(self, view: CallView) -> bool:
        """Whether all conditions hold. :raises Unknowable: one cannot be decided."""
        return hold(self.registers, view.registers) and all(
            condition.holds(view) for condition in self.further
        )


class Rule(NamedTuple):
    """One rule.  ``clauses`` is by (architecture, system call); ``position`` counts from 0."""

    position: int
    name: str
    clauses: dict[tuple[str, str], Clause]
    ruling: Ruling
    report: bool
    #: The rule as it was written: calls, conditions by key. For explanations.
    calls: tuple[str, ...] = ()
    when: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple field, never changed
    #: Not written but implied by the rule of that position (:mod:`proctor.policy.implied`).
    implied: bool = False
    #: Seconds that deciding and performing may take; None: as the policy says at its top.
    deadline: float | None = None

    def in_filter(self, clause: Clause) -> bool:
        """Whether the kernel decides this rule for calls of ``clause`` alone."""
        return not clause.further and self.ruling.in_filter and not self.report

    @property
    def label(self) -> str:
        """How logs and reasons name it."""
        return f'rule "{self.name}"'


def errno_name(number: int) -> str:
    """``EPERM`` for 1; the number itself where it has no name."""
    return _errno.errorcode.get(number, str(number))
