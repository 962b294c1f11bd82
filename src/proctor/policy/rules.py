"""A policy's rules after checking: one form that filter, handlers and explanations share.

For each system call (and each architecture, where arguments stand elsewhere) a :class:`Rule` has its
conditions on registers, then those on the caller and on what the call's memory holds, then a ruling.
There is no other description of the policy that could drift away from this one.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, Final

from proctor.call.verdict import Stated
from proctor.filter.conditions import ALWAYS, Alternatives, hold
from proctor.policy.further import Condition
from proctor.policy.look import Look, Unresolved
from proctor.records import NamedTuple

DENY: Final = "deny"
RETURN: Final = "return"
PERFORM: Final = "perform"
ALLOW: Final = "allow"
KILL: Final = "kill"
KILL_CONTAINER: Final = "kill container"
FREEZE: Final = "freeze"
LOG: Final = "log"
ASK: Final = "ask"


def errno_name(number: int) -> str:
    """``EPERM`` for 1; the number itself where it has no name."""
    return errno.errorcode.get(number, str(number))


class Ruling(NamedTuple):
    """What happens to a call: ``kind`` is a verdict key of a policy file.

    ``value`` is the errno of ``deny`` or the value of ``return``; ``unsafe`` the reason given for
    letting the call run after looking at its memory (of ``ask``: if somebody says yes), empty if none
    was given.
    """

    kind: str
    value: int = 0
    unsafe: str = ""
    #: Of ``perform``: the family's, checked.  Of ``ask``: an :class:`~proctor.asking.question.Asking`.
    options: object = None

    @property
    def in_filter(self) -> bool:
        """Whether the kernel can carry it out alone, once registers have decided."""
        # SECCOMP_RET_ERRNO with data 0 makes the call return 0; no other value can be returned.
        return self.kind in (DENY, ALLOW, KILL, LOG) or (self.kind == RETURN and self.value == 0)

    @property
    def runs(self) -> bool:
        """Whether the kernel goes on to run the call with the caller's registers and memory."""
        return self.kind in (ALLOW, LOG)

    def may_run(self, call: str) -> bool:
        """:attr:`runs`, also for those that somebody is asked about: what cannot be performed runs
        after a yes."""
        if self.kind != ASK:
            return self.runs
        from proctor.performing import SUPPORTED

        return call not in SUPPORTED

    @property
    def refuses(self) -> bool:
        """Whether the call does not go through."""
        return self.kind in (DENY, KILL, KILL_CONTAINER, FREEZE)

    def __str__(self) -> str:
        if self.kind == DENY:
            return errno_name(self.value)
        if self.kind == RETURN:
            return f"return {self.value}"
        return f"{self.kind} (unsafe)" if self.unsafe else self.kind


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

    def holds(self, look: Look) -> bool:
        """Whether all conditions hold.

        :raises Unknowable: one cannot be decided.
        :raises Unresolved: one is about a path that cannot be followed, and all others hold."""
        if self.registers != ALWAYS and not hold(self.registers, look.call.registers):
            return False
        unresolved: Unresolved | None = None
        for condition in self.further:
            try:
                if not condition.holds(look):
                    return False
            except Unresolved as problem:
                unresolved = problem
        if unresolved is not None:
            raise unresolved
        return True


class Rule(NamedTuple):
    """One rule.  ``clauses`` is by (architecture, system call); ``position`` counts from 0."""

    position: int
    name: str
    clauses: Mapping[tuple[str, str], Clause]
    ruling: Ruling
    report: bool = False
    #: The conditions as they were written, by key. For explanations.
    when: Mapping[str, Any] = {}
    #: Not written but implied: by the rule of that position, or by the policy (at its end).
    implied: bool = False
    #: Seconds that deciding and performing may take; None: as the policy says at its top.
    deadline: float | None = None
    #: Seconds that its calls wait before it is carried out.
    delay: float = 0.0

    @property
    def performs(self) -> bool:
        """Whether the monitor makes its calls on the callers' behalf, perhaps after asking."""
        if self.ruling.kind == ASK:
            from proctor.performing import SUPPORTED

            return any(call in SUPPORTED for _, call in self.clauses)
        return self.ruling.kind == PERFORM

    def in_filter(self, clause: Clause) -> bool:
        """Whether the kernel decides this rule for calls of ``clause`` alone."""
        return not (clause.further or self.report or self.delay) and self.ruling.in_filter


class Reason(Stated):
    """Why a policy decided as it did, in one line, as its verdicts carry it: a string that knows its
    parts, for logs that want them.  Everything in it that comes from the target is escaped.

    >>> reason = Reason('rule "no rooms"', "no rooms").with_tip("[[rule]]\\nname = ...")
    >>> print(reason)
    rule "no rooms"; would be allowed by, before rule "no rooms": [[rule]] name = ...
    >>> reason.rule, reason.tip
    ('no rooms', '[[rule]]\\nname = ...')
    """

    __slots__ = ("change", "looks", "rule", "tip")

    #: Name of the rule that decided; empty for the default.
    rule: str
    #: For what was refused: a rule, as TOML, that before the one that decided (at the end, for the
    #: default) would let this very call through.
    tip: str
    #: The addition to an existing rule that would do as well, as a sentence; empty if there is none.
    change: str
    #: Arguments of which the tip says more than the call's registers and the rules' patterns do:
    #: see :func:`proctor.performing.suggesting.looks_at`.
    looks: frozenset[str]

    def __new__(
        cls,
        text: str,
        rule: str = "",
        tip: str = "",
        change: str = "",
        looks: frozenset[str] = frozenset(),
    ) -> Reason:
        made = super().__new__(cls, text)
        made.rule, made.tip, made.change, made.looks = rule, tip, change, looks
        return made

    def with_tip(
        self,
        tip: str,
        change: str = "",
        instead: bool = False,
        looks: frozenset[str] = frozenset(),
    ) -> Reason:
        """The same, followed by what would let the call through.

        :param instead: in the place of the rule that decided, which takes no other calls."""
        where = "in the place of" if instead else "before"
        place = f'{where} rule "{self.rule}"' if self.rule else "as last rule"
        text = f"{self}; would be allowed by, {place}: {' '.join(tip.splitlines())}"
        return Reason(f"{text}; or: {change}" if change else text, self.rule, tip, change, looks)


class Decision(NamedTuple):
    """What the rules say about one call.  ``rule`` is None where no rule took it."""

    rule: Rule | None
    ruling: Ruling
    #: Why, for logs: ``rule "NAME"``, ``no rule; default`` …
    because: Reason

    @classmethod
    def by(cls, rule: Rule) -> Decision:
        """What a rule decides."""
        unsafe = f": {rule.ruling.unsafe}" if rule.ruling.unsafe else ""
        return cls(rule, rule.ruling, Reason(f'rule "{rule.name}"{unsafe}', rule.name))
