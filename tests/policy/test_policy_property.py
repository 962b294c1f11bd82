"""Filter and handlers together decide what the rules say; what needs no monitor never asks it."""

from __future__ import annotations

import errno
from typing import Any

from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from proctor.errors import PolicyError
from proctor.filter import actions
from proctor.kernel import abi
from proctor.policy import Facts, Policy, loads
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from tests.policy.reference import (
    LAYOUT,
    Case,
    Generated,
    cases,
    condition_holds,
    meant,
    needs_monitor,
    rules,
)

DEFAULTS: dict[str, tuple[str, Any]] = {
    "allow": ("allow", None),
    "log": ("log", None),
    "kill": ("kill", None),
    "EPERM": ("deny", errno.EPERM),
}
ACTIONS = {
    ("allow", None): actions.ALLOW.value,
    ("log", None): actions.LOG.value,
    ("kill", None): actions.KILL_PROCESS.value,
    ("deny", errno.EPERM): actions.errno(errno.EPERM).value,
    ("return", 0): actions.errno(0).value,
}
NOTIFY = actions.NOTIFY.value


def load_generated(generated: list[Generated], default: str) -> Policy:
    """The policy, or a rejected example if it is one of those that are rightly refused."""
    text = f'default = "{default}"\n' + "\n".join(rule.text(i) for i, rule in enumerate(generated))
    try:
        return loads(text)
    except PolicyError as error:
        sentence = str(error)
        for why in ("never", "reads again", "reads that memory again"):
            if why in sentence:
                event(f"refused: {why}")
                break
        else:
            raise AssertionError(f"{sentence}\n{text}") from error
        assume(False)
        raise


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@given(
    st.lists(rules(), max_size=6),
    st.sampled_from(sorted(DEFAULTS)),
    st.lists(cases(), min_size=10, max_size=30),
)
@example([], "allow", [(Case("getpid", {}, None, None, 0), Facts("getpid"))])
def test_filter_and_rules_decide_as_the_reference(
    generated: list[Generated], default: str, calls: list[tuple[Case, Facts]]
) -> None:
    policy = load_generated(generated, default)
    program = policy.filter().compile()
    for case, facts in calls:
        expected = meant(generated, DEFAULTS[default], case)
        decision = policy.decide(facts)
        ruling = decision.ruling
        value = ruling.value if ruling.kind in ("deny", "return") else None
        assert (ruling.kind, value) == expected, case

        said = program.run(tables.number(case.name), abi.AUDIT_ARCH_X86_64, facts.registers)
        assert (said == NOTIFY) == needs_monitor(generated, case), case
        if said != NOTIFY:
            assert said == ACTIONS[expected], case

        if ruling.runs and looked_at_memory(generated, case):
            # The promise of the check at load time: no silent "let it run" after a look.
            assert ruling.unsafe, case


def looked_at_memory(generated: list[Generated], case: Case) -> bool:
    """Whether deciding read the caller's memory: conditions on registers and the caller go first."""
    for rule in generated:
        if case.name not in rule.calls:
            continue
        first = {k: v for k, v in rule.when.items() if k not in ("path", "address")}
        if not all(condition_holds(k, v, case) for k, v in first.items()):
            continue
        return len(first) < len(rule.when)
    return False


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(rules(), min_size=1, max_size=5), st.lists(cases(), min_size=5, max_size=15))
def test_a_tip_pasted_before_the_rule_lets_the_call_through(
    generated: list[Generated], calls: list[tuple[Case, Facts]]
) -> None:
    policy = load_generated(generated, "EPERM")
    texts = [rule.text(i) for i, rule in enumerate(generated)]
    for case, facts in calls:
        explanation = policy.explain(facts)
        assert explanation.line().isprintable()
        if not explanation.refused:
            assert not explanation.tip
            continue
        at = len(texts)
        if explanation.before:
            at = next(i for i in range(len(texts)) if explanation.before == f"rule {i}")
        try:
            amended = loads(
                'default = "EPERM"\n' + "\n".join([*texts[:at], explanation.tip, *texts[at:]])
            )
        except PolicyError as error:
            # Only this: the tip takes everything that the refusing rule was for.
            assert "can never match" in str(error), explanation.tip
            continue
        assert not amended.explain(facts).refused, (case, explanation.tip)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(rules(), min_size=1, max_size=5), st.lists(cases(), min_size=5, max_size=10))
def test_reporting_changes_who_answers_and_not_what(
    generated: list[Generated], calls: list[tuple[Case, Facts]]
) -> None:
    policy = load_generated(generated, "allow")
    reporting = policy.reporting()
    program = reporting.filter().compile()
    for case, facts in calls:
        assert reporting.decide(facts).ruling == policy.decide(facts).ruling
        if policy.decide(facts).rule is not None and policy.decide(facts).ruling.kind == "deny":
            number = tables.number(case.name)
            assert program.run(number, abi.AUDIT_ARCH_X86_64, facts.registers) == NOTIFY


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(rules(), min_size=1, max_size=5), st.lists(cases(), min_size=5, max_size=15))
def test_other_architectures_by_their_own_numbers(
    generated: list[Generated], calls: list[tuple[Case, Facts]]
) -> None:
    """i386 decides by its own table (these calls have the same arguments there), x32 and foreign
    architectures by the words at the top."""
    policy = load_generated(generated, "allow")
    program = policy.filter().compile()
    for case, facts in calls:
        registers = tuple(value & 0xFFFFFFFF for value in facts.registers)
        if case.name in tables.numbers("i386"):
            there = Facts(
                case.name, "i386", registers, paths={"path": case.path},
                addresses={"addr": case.address}, identity={"uid": case.uid},
            )  # fmt: skip
            expected = meant(generated, ("allow", None), case)
            ruling = policy.decide(there).ruling
            value = ruling.value if ruling.kind in ("deny", "return") else None
            assert (ruling.kind, value) == expected
            said = program.run(tables.number(case.name, "i386"), abi.AUDIT_ARCH_I386, registers)
            assert (said == NOTIFY) == needs_monitor(generated, case)
            if said != NOTIFY:
                assert said == ACTIONS[expected]
        number = tables.number(case.name)
        x32 = program.run(number | abi.X32_SYSCALL_BIT, abi.AUDIT_ARCH_X86_64, registers)
        assert x32 == actions.errno(errno.ENOSYS).value
        arm = program.run(number, ARCHITECTURES["aarch64"].audit, registers)
        assert arm == actions.KILL_PROCESS.value


def test_every_generated_call_is_described_as_the_reference_thinks() -> None:
    from proctor.syscalls.signatures import signature

    for name, layout in LAYOUT.items():
        described = signature(name)
        assert described is not None
        for key, (register, bits, signed) in layout.items():
            arg = described.arg(key)
            assert arg is not None
            assert (arg.reg, arg.bits, arg.signed) == (register, bits, signed), (name, key)
