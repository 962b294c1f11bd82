"""What rules mean together: refused where it cannot be meant, warned about where it may not be.

* A rule that can never match, because earlier ones take all of it, is refused.
* A rule that lets the kernel run a call after the caller's memory was looked at is refused unless
  it says ``unsafe``: the kernel reads the memory again, and a thread of the target can have changed
  it in between (C110).  The same holds for what *falls through* a rule on memory to a later rule,
  or to the default, that lets it run.
* Deadlines that say nothing, or contradict each other, are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from proctor.filter.conditions import ALWAYS, Alternative, both, covers
from proctor.policy.parts import devices_of_none, whole_fields
from proctor.policy.rules import ALLOW, ASK, LOG, PERFORM, Clause, Rule

if TYPE_CHECKING:
    from proctor.policy.document import Source
    from proctor.policy.policy import Policy

_Chain = tuple[tuple[Rule, Clause], ...]


def refuse(policy: Policy, source: Source) -> None:
    """Refuse what cannot be meant.

    :raises PolicyError: see the head of this module.
    """
    _refuse_deadlines(policy.rules, source)
    _refuse_unreachable(policy, source)
    for (_, call), chain in policy.chains.items():
        for position in range(len(chain)):
            _refuse_race(call, chain, position, policy, source)


# Rules that never match ---------------------------------------------------------------------------


def _takes(chain: _Chain, upto: int, tests: Alternative) -> Rule | None:
    """The rule before ``upto`` that takes every call for which ``tests`` hold, without a look at
    anything but registers."""
    for rule, clause in chain[:upto]:
        if not clause.further and covers(clause.registers, tests):
            return rule
    return None


def _refuse_unreachable(policy: Policy, source: Source) -> None:
    for rule in policy.rules:
        if rule.implied:
            continue
        takers: dict[str, None] = {}
        for key, clause in rule.clauses.items():
            chain = policy.chain(*key)
            at = next(i for i, (each, _) in enumerate(chain) if each is rule)
            for tests in clause.registers:
                taker = _takes(chain, at, tests)
                if taker is None:
                    break
                takers[f'rule[{taker.position}] "{taker.name}"'] = None
            else:
                continue
            break
        else:
            raise source.error(
                f'"{rule.name}" can never match: {" and ".join(takers)} before it '
                f"{'take' if len(takers) > 1 else 'takes'} every such call; move it up, or remove it",
                ("rule", rule.position),
            )


# Races ---------------------------------------------------------------------------------------------


def _refuse_race(call: str, chain: _Chain, position: int, policy: Policy, source: Source) -> None:
    rule, clause = chain[position]
    if not clause.reads_memory:
        return
    looked_at = ", ".join(dict.fromkeys(each.key for each in clause.further if each.reads_memory))

    def again() -> str:
        return (
            f"{looked_at}, which the kernel then reads again: a thread of the target can change it in "
            f"between. {_ways_out(call)}"
        )

    reachable = [t for t in clause.registers if _takes(chain, position, t) is None]
    if reachable and rule.ruling.may_run(call) and not rule.ruling.unsafe:
        raise source.error(
            f'"{rule.name}" would let {call} run after looking at {again()}',
            ("rule", rule.position, rule.ruling.kind),
        )
    for tests in reachable:
        for later, other in chain[position + 1 :]:
            if not both((tests,), other.registers):
                continue
            if later.ruling.may_run(call) and not later.ruling.unsafe:
                raise source.error(
                    f'"{later.name}" would let {call} run after "{rule.name}" (rule[{rule.position}]) '
                    f"looked at {again()}",
                    ("rule", later.position, later.ruling.kind),
                )
            if not other.further and covers(other.registers, tests):
                break
        else:
            if policy.settings.default.runs:
                raise source.error(
                    f'"{rule.name}" looks at {looked_at}, and what it does not take of {call} would run by '
                    f'default = "{policy.settings.default.kind}", although the kernel reads that memory '
                    "again and a thread of the target can change it in between: such a rule is no "
                    f"boundary. Add a last rule for {call}. {_ways_out(call)}",
                    ("rule", rule.position),
                )


def _ways_out(call: str) -> str:
    from proctor.performing import SUPPORTED

    ways = ['deny = "EPERM"']
    if call in SUPPORTED:
        ways.insert(0, "perform = true (the monitor does it, on what it checked)")
    ways.append('allow = "unsafe: why this race is acceptable"')
    return f"Safe is {' or '.join(ways[:-1])}; otherwise say {ways[-1]}"


# Deadlines -----------------------------------------------------------------------------------------


def _refuse_deadlines(rules: Iterable[Rule], source: Source) -> None:
    """Which rule takes a call is known only when it is decided, and a deadline counts from the call's
    arrival: so it belongs to the call, and the rules about one call agree on it."""
    first: dict[str, Rule] = {}
    for rule in rules:
        if rule.deadline is None or rule.implied:
            continue
        place = ("rule", rule.position, "deadline")
        if rule.ruling.kind == ASK:
            raise source.error(
                f'"{rule.name}" asks: its time is the timeout of ask, and no deadline goes with it',
                place,
            )
        if not rule.performs and not any(c.reads_memory for c in rule.clauses.values()):
            raise source.error(
                f'"{rule.name}" is decided at once; a deadline is for a rule that performs, or whose '
                "conditions are on a path, a string or an address",
                place,
            )
        for _, call in rule.clauses:
            other = first.setdefault(call, rule)
            if other.deadline != rule.deadline:
                raise source.error(
                    f'"{other.name}" (rule[{other.position}]) gives {call} {other.deadline:g} seconds '
                    f"and this one {rule.deadline:g}: which rule takes a call is known only when it is "
                    "decided, so rules about one call have one deadline",
                    place,
                )


# Warnings ------------------------------------------------------------------------------------------


def warnings(policy: Policy) -> list[str]:
    """Sentences about what is legal and probably not meant; none for a policy that is sound.

    >>> from proctor.policy import loads
    >>> warnings(loads('[[rule]]\\nname = "no nodes"\\ncalls = ["mknod"]\\ndeny = "EPERM"'))
    ['rule "no nodes" refuses mknod, and no rule is about mknodat, by which a program does the same \
(makes a file, FIFO, socket or device)']
    """
    return [
        *_siblings(policy),
        *_io_uring(policy),
        *_vdso(policy),
        *_unstarted(policy),
        *_fragile(policy),
        *whole_fields(policy.rules),
        *devices_of_none(policy.rules),
        *_needless_unsafe(policy),
        *_unheld(policy),
    ]


def _siblings(policy: Policy) -> Iterator[str]:
    """Who restricts one call and leaves others that do the same is walked around."""
    from proctor.syscalls import siblings, tables
    from proctor.syscalls.variants import plain, variants

    if not policy.settings.default.runs:
        return
    about: dict[str, list[Rule]] = {call: [] for _, call in policy.chains}
    for rule in policy.rules:
        for call in () if rule.implied else dict.fromkeys(call for _, call in rule.clauses):
            about[call].append(rule)
    arches = policy.settings.arches
    here: set[str] = set().union(*map(tables.numbers, arches))

    def is_meant(other: str) -> bool:
        """Whether a rule on a plain name means this one, too."""
        names = here.intersection(plain(other))
        return any(other in variants(name, arch) for name in names for arch in arches)

    def decided(call: str) -> list[bool]:
        """Of each architecture that has it, whether rules decide about all of it."""
        chains = [policy.chain(arch, call) for arch in arches if call in tables.numbers(arch)]
        return [
            any(not each.further and each.registers == ALWAYS for _, each in chain)
            for chain in chains
        ]

    def is_left(call: str, other: str) -> bool:
        """Whether nobody decided about this one by itself: no rule names it, or those alone that let both through, or
        some of its calls are left to the default, as none are of the other form of the same call."""
        if other not in about:
            return not is_meant(other)
        if siblings.are_forms(call, other) and all(decided(call)) and not all(decided(other)):
            return True
        return all(
            rule in about[call] and rule.ruling.kind in (ALLOW, LOG, PERFORM)
            for rule in about[other]
        )

    told: set[str] = set()
    for rule in policy.rules:
        if not rule.ruling.refuses or rule.implied:
            continue
        ways: dict[tuple[str, bool, tuple[str, ...]], list[str]] = {}
        for call in dict.fromkeys(call for _, call in rule.clauses):
            free = [
                (siblings.why(call, other), other in about, other)
                for other in sorted(siblings.siblings(call))
                if other in here and other not in told and is_left(call, other)
            ]
            for why, is_named in dict.fromkeys(each[:2] for each in free):
                found = tuple(other for *kind, other in free if kind == [why, is_named])
                ways.setdefault((why, is_named, found), []).append(call)
        for (why, is_named, found), calls in ways.items():
            told.update(found)
            yield (
                f'rule "{rule.name}" refuses {", ".join(calls)}, and no rule '
                f"{'refuses all of' if is_named else 'is about'} {', '.join(found)}, by which a program does the same ({why})"
            )


def _io_uring(policy: Policy) -> Iterator[str]:
    from proctor.syscalls.special import by_io_uring

    if not policy.settings.default.runs or "io_uring_setup" in policy.calls:
        return
    if not any(rule.ruling.refuses for rule in policy.rules):
        return
    restricted = (rule for rule in policy.rules if rule.ruling.refuses or rule.performs)
    calls = dict.fromkeys(call for rule in restricted for _, call in rule.clauses)
    ringed = [call for call in calls if by_io_uring(call)]
    if ringed:
        yield (
            f"io_uring does what {', '.join(ringed[:4])} does without the call being made, so no rule "
            'sees it; add a rule with calls = ["io_uring_setup"] and deny = "ENOSYS"'
        )


def _vdso(policy: Policy) -> Iterator[str]:
    from proctor.syscalls.special import VDSO

    for rule in policy.rules:
        calls = dict.fromkeys(call for _, call in rule.clauses if call in VDSO)
        if calls and not rule.implied and rule.ruling.kind not in (ALLOW, LOG):
            yield (
                f'rule "{rule.name}" is about {", ".join(calls)}, which most programs do by the vDSO, without the call '
                "being made, so no rule sees it"
            )


def _unstarted(policy: Policy) -> Iterator[str]:
    from proctor.syscalls.architectures import native
    from proctor.syscalls.special import UNASKED

    foreign = policy.settings.foreign_arch
    if native() not in policy.settings.arches and not foreign.runs:
        yield (
            f"arches lacks {native()}, which this machine's programs are of: each of their calls is the foreign_arch's, "
            "the one by which the command is started, too"
        )
        return
    if not policy.settings.default.runs and not policy.chain(native(), "execve"):
        yield f"no rule is about execve: {UNASKED['execve']}"


def _fragile(policy: Policy) -> Iterator[str]:
    from proctor.syscalls.special import FRAGILE

    for rule in policy.rules:
        reasons: dict[str, dict[str, None]] = {}
        for (_, call), clause in rule.clauses.items():
            if call in FRAGILE and not rule.in_filter(clause):
                reasons.setdefault(FRAGILE[call], {})[call] = None
        for why, calls in reasons.items():
            yield f'rule "{rule.name}" has {", ".join(calls)} wait for the monitor: {why}'


def _needless_unsafe(policy: Policy) -> Iterator[str]:
    needed: dict[str, bool] = {}
    for chain in policy.chains.values():
        looked = False
        for rule, clause in chain:
            looked = looked or clause.reads_memory
            if rule.ruling.unsafe and rule.ruling.kind != ASK:  # who is asked sees more by it
                needed[rule.name] = needed.get(rule.name, False) or looked
    for name in (name for name, is_needed in needed.items() if not is_needed):
        yield f'rule "{name}" says unsafe, but no rule before it looks at memory: allow = true is enough'


def _unheld(policy: Policy) -> Iterator[str]:
    """A program may confine itself by what does not hold for performed calls."""
    from proctor.performing.untaken import UNTAKEN

    performing = [rule.name for rule in policy.rules if rule.performs]
    for rule in policy.rules if performing else ():
        for each in UNTAKEN:
            named = [call for call in each.calls if any(call == name for _, name in rule.clauses)]
            if named and not rule.ruling.refuses:
                yield (
                    f'rule "{rule.name}" lets programs have {", ".join(named)}, and rule '
                    f'"{performing[0]}" performs: {each.what} do not hold for what is performed'
                )
