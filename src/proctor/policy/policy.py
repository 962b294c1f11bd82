"""A loaded policy: one object from which filter, handlers and explanations are made."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import Perform
from proctor.filter.conditions import ALWAYS
from proctor.policy.look import Look, Unresolved
from proctor.policy.rules import ALLOW, DENY, KILL, PERFORM, Clause, Decision, Reason, Rule, Ruling
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.verdict import Verdict
    from proctor.filter.rules import Filter
    from proctor.observe.amount import Amount
    from proctor.policy.asking import Asks
    from proctor.policy.compile import Wanted
    from proctor.policy.document import Source
    from proctor.supervisor.container import Quotas
    from proctor.supervisor.handlers import Handler


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
    #: What was said of performing, by the names of :class:`proctor.performing.Performers`' parameters:
    #: ``nested``, ``cgroup``, ``limit``.
    performing: Mapping[str, Any] = {}
    #: Most threads for what may take long; None: as many as the supervisor has by itself.
    workers: int | None = None
    #: Most calls that are decided in a second, and that wait or stall at the same time, of a container.
    rate: float | None = None
    in_flight: int | None = None
    #: How much logs have of a container's calls; None: all.
    audit: Amount | None = None

    def quotas(self) -> Quotas | None:
        """What a container may take; None if nothing is said of it."""
        from proctor.supervisor.container import Quotas

        given = {"workers": self.workers, "rate": self.rate, "calls": self.in_flight}
        said = {key: value for key, value in given.items() if value is not None}
        return Quotas(**said) if said else None  # type: ignore[arg-type]


_Chain = tuple[tuple[Rule, Clause], ...]
#: Numbers of calls that are remembered, hostile ones too.
_PLANS: Final = 4096


class Plan(NamedTuple):
    """How calls of one number are decided."""

    #: Rules in order, with what each decides.
    chain: tuple[tuple[Rule, Clause, Decision], ...]
    #: What happens whatever the rules say: their architecture is not the policy's.
    outside: Decision | None
    #: Whether some of them are performed.
    performs: bool
    #: What is said of each of them, where its registers, its memory and its caller decide nothing.
    always: Perform | None


class Policy:
    """Checked rules.  Made by :func:`~proctor.policy.loader.load`; immutable.

    The filter (:meth:`filter`), the handlers (:meth:`handlers`) and :meth:`decide` all read the
    same rules; install that filter and those handlers together::

        from proctor.policy import Policy, loads

        policy = loads('[[rule]]\\nname = "no rooms"\\ncalls = ["mkdir"]\\ndeny = "EROFS"')
        assert isinstance(policy, Policy)
        options = policy.supervisor_options()
        done = proctor.run(["true"], policy.handlers(), filter=policy.filter(), **options)
    """

    __slots__ = (
        "_chains",
        "_decisions",
        "_default",
        "_plans",
        "name",
        "read_answers",
        "rules",
        "settings",
        "settled",
    )

    def __init__(
        self,
        name: str,
        rules: tuple[Rule, ...],
        settings: Settings,
        read_answers: Callable[[Source], Policy] | None = None,
    ) -> None:
        #: Where it came from, for messages.
        self.name = name
        #: Rules in order of the file, with those implied by them (:mod:`proctor.policy.compile`).
        self.rules = rules
        self.settings = settings
        #: Makes rules of what was answered to those that ask.
        self.read_answers = read_answers
        chains: dict[tuple[str, str], list[tuple[Rule, Clause]]] = {}
        for rule in rules:
            for key, clause in rule.clauses.items():
                chains.setdefault(key, []).append((rule, clause))
        self._chains = {key: tuple(chain) for key, chain in chains.items()}
        self._plans: dict[tuple[int, int], Plan] = {}
        #: Verdicts of decisions that always come to the same, by the decision's identity.
        self.settled: dict[int, Verdict] = {}
        self._decisions = {id(rule): Decision.by(rule) for rule in rules}
        self._default = Decision(None, settings.default, Reason("no rule; default"))

    @property
    def otherwise(self) -> Decision:
        """What happens where no rule holds."""
        return self._default

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

        >>> from proctor.policy import loads
        >>> from proctor.testing import FakeCall
        >>> rule = '[[rule]]\\nname = "r"\\ncalls = ["mkdir"]\\nwhen = { path = "/etc/**" }\\ndeny = "EROFS"'
        >>> policy = loads(f'default = "EPERM"\\n{rule}')
        >>> str(policy.decide(FakeCall("mkdir", "/etc/x", files={"/etc": None})).ruling)
        'EROFS'

        :raises Unknowable: a condition cannot be decided; see its ``errno``.
        """
        return self.judge(Look(call))

    def judge(self, look: Look) -> Decision:
        """:meth:`decide` by what was seen of a call, and may be pinned of it already."""
        return self.by(self.plan(look.call), look)

    def by(self, plan: Plan, look: Look) -> Decision:
        """The same, where the plan is at hand."""
        if plan.outside is not None:
            return plan.outside
        for rule, clause, decision in plan.chain:
            try:
                holds = clause.holds(look)
            except Unresolved:
                # Whoever makes the call finds what the caller finds; nobody is refused, nor told what
                # the monitor found, for a path that leads nowhere.  What is pinned is judged anew.
                holds = rule.performs or bool(rule.ruling.unsafe)
            if holds:
                return decision
        return self._default

    def plan(self, call: Call) -> Plan:
        """How calls like this one are decided."""
        key = (call.arch, call.nr)
        found = self._plans.get(key)
        if found is None:
            found = self._plan(call.abi, call.name)
            if len(self._plans) < _PLANS:
                self._plans[key] = found
        return found

    def _plan(self, arch: str, call: str) -> Plan:
        settings = self.settings
        outside = None
        if arch not in settings.arches:
            ruling, why = settings.foreign_arch, f"architecture {arch}"
            if arch == "x32":
                ruling, why = settings.x32, "x32 call"
            outside = Decision(None, ruling, Reason(why))
        chain = [
            (rule, clause, self._decisions[id(rule)]) for rule, clause in self.chain(arch, call)
        ]
        performs = any(rule.performs for rule, _, _ in chain) or settings.default.kind == PERFORM
        always = None
        if chain and outside is None and not any(clause.further for _, clause, _ in chain):
            rule, clause, decision = chain[0]
            if rule.ruling.kind == PERFORM and clause.registers == ALWAYS and not rule.delay:
                always = Perform(None, decision.because, rule.ruling.options)
        return Plan(tuple(chain), outside, performs, always)

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

    def handlers(self, asks: Asks | None = None) -> list[Handler]:
        """Handlers for every call that the policy is about.

        :param asks: asks, for the rules that do; made of its defaults if None: whoever sits at the
            terminal, and nothing is remembered for longer than the handlers are.
        """
        from proctor.policy.handlers import build

        return build(self, asks)

    def explain(self, call: Call) -> Reason:
        """Which rule decides a call, and for a refused one the smallest addition that would let it
        through: what a verdict of the policy's has as its reason.

        :raises Unknowable: see :meth:`decide`.
        """
        from proctor.policy.explain import explain

        look = Look(call)
        return explain(self, look, self.judge(look))

    def supervisor_options(self) -> dict[str, Any]:
        """What the keys at the top say, as :func:`proctor.run` and :func:`proctor.spawn` take it:
        ``default``, ``on_error``, ``deadline``, ``on_deadline``, ``performing``, ``workers``, ``quotas`` and
        ``logging``."""
        from proctor.call.verdict import deny
        from proctor.policy.settled import verdict_of

        settings = self.settings
        return {
            "default": verdict_of(self._default.ruling, self._default.because),
            "on_error": deny(settings.on_error, "on_error"),
            "deadline": settings.deadline,
            "on_deadline": deny(settings.on_deadline, "on_deadline: not decided in time"),
            "performing": dict(settings.performing),
            "workers": settings.workers,
            "quotas": settings.quotas(),
            "logging": settings.audit,
        }

    def __repr__(self) -> str:
        return f"<Policy {self.name}: {len(self.rules)} rules>"
