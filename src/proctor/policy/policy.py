"""A loaded policy: one object from which filter, handlers and explanations are made.

A :class:`Rule` says the same thing to all three, in one form: for each system call (and each
architecture, where arguments stand elsewhere) its conditions on registers, then those on the caller
and on what the call's memory holds, then a ruling.  There is no other description of the policy
that could drift away from this one.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proctor.filter.conditions import ALWAYS, Alternatives, hold

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.filter.rules import Filter
    from proctor.policy.compile import Wanted
    from proctor.policy.look import Condition, Look
    from proctor.supervisor.handlers import Handler

DENY: Final = "deny"
RETURN: Final = "return"
PERFORM: Final = "perform"
ALLOW: Final = "allow"
KILL: Final = "kill"
LOG: Final = "log"


def errno_name(number: int) -> str:
    """``EPERM`` for 1; the number itself where it has no name."""
    return errno.errorcode.get(number, str(number))


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

    @property
    def refuses(self) -> bool:
        """Whether the call does not go through."""
        return self.kind in (DENY, KILL)

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
        """Whether all conditions hold. :raises Unknowable: one cannot be decided."""
        return hold(self.registers, look.call.registers) and all(
            condition.holds(look) for condition in self.further
        )


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

    @property
    def performs(self) -> bool:
        """Whether the monitor makes its calls on the callers' behalf."""
        return self.ruling.kind == PERFORM

    def in_filter(self, clause: Clause) -> bool:
        """Whether the kernel decides this rule for calls of ``clause`` alone."""
        return not clause.further and self.ruling.in_filter and not self.report


class Settings(NamedTuple):
    """The keys at the top of a policy file, checked."""

    arches: tuple[str, ...]
    default: Ruling = Ruling(ALLOW)
    on_error: int = errno.EPERM
    foreign_arch: Ruling = Ruling(KILL)
    x32: Ruling = Ruling(DENY, errno.ENOSYS)
    #: Seconds that a call may wait for its answer where no rule says otherwise; None: no limit.
    deadline: float | None = None
    #: The errno then.
    on_deadline: int = errno.EPERM
    #: What was said of performing, by the names of :class:`proctor.emulate.Performers`' parameters:
    #: ``nested``, ``cgroup``, ``limit``.
    performing: Mapping[str, Any] = {}
    #: Most threads for what may take long; None: as many as the supervisor has by itself.
    workers: int | None = None


class Reason(str):
    """Why a policy decided as it did, in one line, as its verdicts carry it: a string that knows its
    parts, for logs that want them.  Everything in it that comes from the target is escaped."""

    __slots__ = ("change", "rule", "tip")

    #: Name of the rule that decided; empty for the default.
    rule: str
    #: For what was refused: a rule, as TOML, that before the one that decided (at the end, for the
    #: default) would let this very call through.
    tip: str
    #: The addition to an existing rule that would do as well, as a sentence; empty if there is none.
    change: str

    def __new__(cls, text: str, rule: str = "", tip: str = "", change: str = "") -> Reason:
        made = super().__new__(cls, text)
        made.rule, made.tip, made.change = rule, tip, change
        return made

    def with_tip(self, tip: str, change: str = "") -> Reason:
        """The same, followed by what would let the call through."""
        place = f'before rule "{self.rule}"' if self.rule else "as last rule"
        text = f"{self}; would be allowed by, {place}: {' '.join(tip.splitlines())}"
        return Reason(f"{text}; or: {change}" if change else text, self.rule, tip, change)


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


_Chain = tuple[tuple[Rule, Clause], ...]


class Policy:
    """Checked rules.  Made by :func:`~proctor.policy.loader.load`; immutable.

    The filter (:meth:`filter`), the handlers (:meth:`handlers`) and :meth:`decide` all read the
    same rules; install that filter and those handlers together.
    """

    __slots__ = ("_chains", "_decisions", "_default", "name", "rules", "settings")

    def __init__(self, name: str, rules: tuple[Rule, ...], settings: Settings) -> None:
        #: Where it came from, for messages.
        self.name = name
        #: Rules in order of the file, with those implied by them (:mod:`proctor.policy.compile`).
        self.rules = rules
        self.settings = settings
        chains: dict[tuple[str, str], list[tuple[Rule, Clause]]] = {}
        for rule in rules:
            for key, clause in rule.clauses.items():
                chains.setdefault(key, []).append((rule, clause))
        self._chains = {key: tuple(chain) for key, chain in chains.items()}
        self._decisions = {id(rule): Decision.by(rule) for rule in rules}
        self._default = Decision(None, settings.default, Reason("no rule; default"))

    def chain(self, arch: str, call: str) -> _Chain:
        """The rules that are about one system call of one architecture, in order."""
        return self._chains.get((arch, call), ())

    @property
    def chains(self) -> Mapping[tuple[str, str], _Chain]:
        """Every :meth:`chain`, by architecture and system call."""
        return self._chains

    @property
    def calls(self) -> tuple[str, ...]:
        """Every system call that a rule is about."""
        return tuple(dict.fromkeys(call for _, call in self._chains))

    def performs(self, call: str) -> bool:
        """Whether a rule has the call performed."""
        return any(
            rule.performs for arch in self.settings.arches for rule, _ in self.chain(arch, call)
        )

    def decide(self, call: Call) -> Decision:
        """What happens to a call: the first rule all of whose conditions hold, else the default.

        :param call: real, or made by a test (:mod:`proctor.testing`).
        :raises Unknowable: a condition cannot be decided; see its ``errno``.
        """
        from proctor.policy.look import Look

        return self.judge(Look(call))

    def judge(self, look: Look) -> Decision:
        """:meth:`decide` by what was seen of a call, and may be pinned of it already."""
        settings = self.settings
        arch = look.call.abi
        if arch not in settings.arches:
            if arch == "x32":
                return Decision(None, settings.x32, Reason("x32 call"))
            return Decision(None, settings.foreign_arch, Reason(f"architecture {arch}"))
        for rule, clause in self.chain(arch, look.call.name):
            if clause.holds(look):
                return self._decisions[id(rule)]
        return self._default

    def for_all(self, arch: str, call: str) -> Decision | None:
        """What every call of a name gets, whatever its arguments and its caller; None where that
        depends on them."""
        for rule, clause in self.chain(arch, call):
            if clause.registers != ALWAYS or clause.further:
                return None
            return self._decisions[id(rule)]
        return self._default

    def filter(self, extra_notify: Iterable[Wanted] = ()) -> Filter:
        """The filter: what registers decide is decided there, the rest notifies.

        :param extra_notify: calls to notify besides, where no rule of the policy took them first:
            names, groups, or handlers with ``names`` and ``conditions``.
        :raises PolicyError: the policy is too large for a filter.
        """
        from proctor.policy.compile import build

        return build(self, extra_notify)

    def handlers(self) -> list[Handler]:
        """Handlers for every call that the policy is about."""
        from proctor.policy.handlers import build

        return build(self)

    def explain(self, call: Call) -> Reason:
        """Which rule decides a call, and for a refused one the smallest addition that would let it
        through: what a verdict of the policy's has as its reason.

        :raises Unknowable: see :meth:`decide`.
        """
        from proctor.policy.explain import explain
        from proctor.policy.look import Look

        look = Look(call)
        return explain(self, look, self.judge(look))

    def supervisor_options(self) -> dict[str, Any]:
        """What the keys at the top say, as :func:`proctor.run` and :func:`proctor.spawn` take it:
        ``default``, ``on_error``, ``deadline``, ``on_deadline``, ``performing`` and ``workers``."""
        from proctor.call.verdict import deny
        from proctor.policy.handlers import verdict_of

        settings = self.settings
        return {
            "default": verdict_of(self._default.ruling, self._default.because),
            "on_error": deny(settings.on_error, "on_error"),
            "deadline": settings.deadline,
            "on_deadline": deny(settings.on_deadline, "on_deadline: not decided in time"),
            "performing": dict(settings.performing),
            "workers": settings.workers,
        }

    def __repr__(self) -> str:
        return f"<Policy {self.name}: {len(self.rules)} rules>"
