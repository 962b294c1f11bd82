"""A loaded policy: one object from which filter, handlers and explanations are made."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from proctor.policy.rules import DENY, PERFORM, CallView, Clause, Rule, Ruling

if TYPE_CHECKING:
    from proctor.call.verdict import Deny, Verdict
    from proctor.filter.rules import Filter
    from proctor.policy.compile import Wanted
    from proctor.policy.explain import Explanation
    from proctor.supervisor.handlers import Handler


class Settings(NamedTuple):
    """The keys at the top of a policy file, checked."""

    default: Ruling
    on_error: int
    arches: tuple[str, ...]
    foreign_arch: Ruling
    x32: Ruling
    report: bool = False
    #: Seconds that a call may wait for its answer where no rule says otherwise; None: no limit.
    deadline: float | None = None
    #: The errno then.
    on_deadline: int = errno.EPERM


class Decision(NamedTuple):
    """What the rules say about one call.  ``rule`` is None where no rule took it."""

    rule: Rule | None
    ruling: Ruling
    #: Why, for logs: ``rule "NAME"``, ``no rule; default`` …
    because: str


#: Receives the explanation of every decision that was not "let it run".
Report = Callable[["Explanation"], object]


class Policy:
    """Checked rules.  Made by :func:`~proctor.policy.loader.load`; immutable.

    The filter (:meth:`filter`), the handlers (:meth:`handlers`) and :meth:`decide` all read the
    same rules; install that filter and those handlers together.
    """

    __slots__ = ("_chains", "name", "rules", "settings", "warnings")

    def __init__(
        self, name: str, rules: tuple[Rule, ...], settings: Settings, warnings: tuple[str, ...] = ()
    ) -> None:
        #: Where it came from, for messages.
        self.name = name
        #: Rules in order of the file, then those implied by them (:mod:`proctor.policy.implied`).
        self.rules = rules
        self.settings = settings
        #: Sentences about what is legal and probably not meant.
        self.warnings = warnings
        chains: dict[tuple[str, str], list[tuple[Rule, Clause]]] = {}
        for rule in rules:
            for key, clause in rule.clauses.items():
                chains.setdefault(key, []).append((rule, clause))
        self._chains = {key: tuple(chain) for key, chain in chains.items()}

    def chain(self, arch: str, call: str) -> tuple[tuple[Rule, Clause], ...]:
        """The rules that are about one system call of one architecture, in order."""
        return self._chains.get((arch, call), ())

    @property
    def calls(self) -> tuple[str, ...]:
        """Every system call that a rule is about."""
        return tuple(dict.fromkeys(call for _, call in self._chains))

    def performs(self, call: str) -> bool:
        """Whether a rule has the call performed."""
        return any(
            rule.ruling.kind == PERFORM
            for arch in self.settings.arches
            for rule, _ in self.chain(arch, call)
        )

    def decide(self, view: CallView) -> Decision:
        """What happens to a call: the first rule all of whose conditions hold, else the default.

        :raises Unknowable: a condition cannot be decided; see its ``errno``.
        """
        settings = self.settings
        if view.arch not in settings.arches:
            if view.arch == "x32":
                return Decision(None, settings.x32, "x32 call")
            return Decision(None, settings.foreign_arch, f"architecture {view.arch}")
        for rule, clause in self.chain(view.arch, view.name):
            if clause.holds(view):
                return Decision(rule, rule.ruling, rule.label)
        return Decision(None, settings.default, "no rule; default")

    def filter(self, extra_notify: Iterable[Wanted] = ()) -> Filter:
        """The filter: what registers decide is decided there, the rest notifies.

        :param extra_notify: calls to notify besides, where no rule of the policy took them first:
            names, groups, or handlers with ``names`` and ``conditions``.
        :raises PolicyError: the policy is too large for a filter.
        """
        from proctor.policy.compile import build

        return build(self, extra_notify)

    def handlers(self, performers: Any = None, *, report: Report | None = None) -> list[Handler]:
        """Handlers for every call that the policy is about.

        :param performers: something with ``perform(call, allow=...) -> Verdict`` (a
            :class:`proctor.emulate.Performers`); with None a handler returns
            :func:`~proctor.call.verdict.perform` and the supervisor's own performer does the work.
        :param report: is called with an explanation of each decision but plain "let it run",
            before the verdict is given.
        """
        from proctor.policy.handlers import build

        return build(self, performers, report)

    def explain(self, view: CallView) -> Explanation:
        """Which rule decides a call, and the smallest addition that would let it through."""
        from proctor.policy.explain import explain

        return explain(self, view)

    def reporting(self, every: bool = True) -> Policy:
        """The same policy with every refusal decided by the monitor, so that it can be logged
        (``every=False``: none, except where memory has to be looked at anyway)."""
        rules = tuple(
            rule._replace(report=every) if rule.ruling.kind == DENY else rule for rule in self.rules
        )
        return Policy(self.name, rules, self.settings, self.warnings)

    @property
    def default_verdict(self) -> Verdict:
        """What a supervisor should answer where no handler decides."""
        from proctor.policy.handlers import verdict_of

        return verdict_of(self.settings.default, "no rule; default")

    @property
    def on_error(self) -> Deny:
        """What a supervisor should answer where a handler fails."""
        from proctor.call.verdict import deny

        return deny(self.settings.on_error, "on_error")

    @property
    def on_deadline(self) -> Deny:
        """What a supervisor should answer in place of a decision that takes too long."""
        from proctor.call.verdict import deny

        return deny(self.settings.on_deadline, "on_deadline: not decided in time")

    def supervisor_options(self) -> dict[str, Any]:
        """``default``, ``on_error``, ``deadline`` and ``on_deadline`` as a supervisor takes them."""
        return {
            "default": self.default_verdict,
            "on_error": self.on_error,
            "deadline": self.settings.deadline,
            "on_deadline": self.on_deadline,
        }

    def deadline(self, call: str) -> float | None:
        """Seconds after which ``on_deadline`` is answered in the place of the rules; None: never,
        since the call is decided at once or has all the time there is."""
        from proctor.policy.waits import deadline_of, is_slow

        if not is_slow(self, call, performs=True, reported=False):
            return None
        given = deadline_of(self, call)
        return self.settings.deadline if given is None else given

    def __repr__(self) -> str:
        return f"<Policy {self.name}: {len(self.rules)} rules>"
