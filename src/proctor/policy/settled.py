"""What a policy comes to before anybody has looked at a call: verdicts that are made once, and what all calls of a number, or
all with the same registers, have in common, so that the core decides them alone (:mod:`proctor.supervisor.usual`)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import LetRun, Perform, Verdict, answer, deny, let_run, let_run_unsafe
from proctor.filter.conditions import ALWAYS, hold
from proctor.policy.further import Memory, is_text
from proctor.policy.rules import ALLOW, DENY, LOG, PERFORM, RETURN, Decision, Ruling
from proctor.supervisor.usual import ByPath, Case

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.policy.policy import Policy

#: Rulings that take no work of ours; and those that are about what whoever performs pins, where one performs.
_AT_ONCE: Final = frozenset((ALLOW, DENY, LOG, RETURN))
_PERFORMED_OR_NOT: Final = frozenset((PERFORM, DENY))
_PLAINLY: Final = Ruling(PERFORM)


def verdict_of(ruling: Ruling, because: str) -> Verdict:
    """The verdict for a ruling that needs no work of ours (not ``perform``)."""
    if ruling.refuses:
        return deny(ruling.value if ruling.kind == DENY else errno.EPERM, because)
    if ruling.kind == RETURN:
        return answer(ruling.value, because)
    if ruling.unsafe:
        return let_run_unsafe(because)
    return let_run(because)


def settled(policy: Policy, decision: Decision) -> Verdict:
    """The verdict for a decision, made once."""
    settled = policy.settled.get(id(decision))
    if settled is None:
        settled = verdict_of(decision.ruling, decision.because)
        if decision.rule is not None:  # else the decision itself may be made anew for each call
            policy.settled[id(decision)] = settled
    return settled


def _at_once(policy: Policy, decision: Decision) -> Verdict:
    if decision.ruling.kind == PERFORM:
        return Perform(None, decision.because)
    return settled(policy, decision)


def constant(policy: Policy, call: Call) -> Verdict | None:
    """What all calls of this number come to; None if that depends on more, or takes work of ours."""
    plan = policy.plan(call)
    if plan.outside is not None or plan.always is not None:
        return plan.always
    decision = policy.for_all(call.abi, call.name)
    if (
        decision is None
        or decision.ruling.kind not in _AT_ONCE
        or decision.ruling.options is not None
    ):
        return None
    if decision.rule is not None and decision.rule.delay:
        return None
    return settled(policy, decision)


def by_registers(policy: Policy, call: Call) -> tuple[bool, int]:
    """Whether calls with these registers are performed, whatever else is so; and which registers are looked at."""
    plan, found, registers = policy.plan(call), None, 0
    if plan.outside is not None:
        return False, 0
    for rule, clause, _ in plan.chain:
        for tests in clause.registers:
            for test in tests:
                registers |= 1 << test.register
        if found is None and (clause.registers == ALWAYS or hold(clause.registers, call.registers)):
            found = rule.ruling == _PLAINLY and not (rule.delay or clause.further)
    return bool(found), registers


def by_path(policy: Policy, call: Call) -> ByPath | None:
    """How calls with these registers are decided, if only one path of theirs does, and the verdict is
    one that is given without work of ours; or they are all performed, or refused."""
    plan = policy.plan(call)
    if plan.outside is not None:
        return None
    kinds = _PERFORMED_OR_NOT if plan.performs else _AT_ONCE
    arguments: set[str] = set()
    registers = 0
    cases: list[Case] = []
    otherwise: Decision | None = None
    for rule, clause, decision in plan.chain:
        for tests in clause.registers:
            for test in tests:
                registers |= 1 << test.register
        if clause.registers != ALWAYS and not hold(clause.registers, call.registers):
            continue
        if rule.delay or rule.ruling.kind not in kinds or rule.ruling.options is not None:
            return None
        if not clause.further:
            otherwise = decision
            break
        condition = clause.further[0]
        if len(clause.further) > 1 or not isinstance(condition, Memory):
            return None
        programs = condition.programs()
        if programs is None:
            return None
        arguments.add(condition.argument)
        unresolved = condition.what == "path" and bool(rule.ruling.unsafe)
        unresolved = unresolved and not is_text(call, condition.argument)
        verdict = _at_once(policy, decision)
        cases.append(Case(condition.what == "text", programs, verdict, unresolved))
    else:
        otherwise = policy.otherwise
    last = _at_once(policy, otherwise)
    verdicts = [*(case.verdict for case in cases), last]
    if (
        len(arguments) > 1
        or not (arguments or plan.performs)
        or otherwise.ruling.kind not in kinds
        or otherwise.ruling.options is not None
    ):
        return None
    if any(type(each) is LetRun and not each.unsafe for each in verdicts):
        return None  # it is refused after a look
    if plan.performs and not any(type(each) is Perform for each in verdicts):
        return None
    return ByPath("".join(arguments), tuple(cases), last, registers)
