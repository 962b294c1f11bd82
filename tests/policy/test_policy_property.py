"""Filter and handlers together decide what the rules say; what needs no monitor never asks it."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from proctor.call.decode.sockaddr import InetAddress
from proctor.errors import PolicyError
from proctor.filter import actions
from proctor.kernel import abi
from proctor.policy import Policy, loads
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from tests.policy.reference import (
    LAYOUT,
    Case,
    Generated,
    cases,
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


@pytest.mark.timeout(600)
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
@example([], "allow", [Case("getpid", {}, b"", InetAddress("10.0.0.1", 1), 0)])
def test_filter_and_rules_decide_as_the_reference(
    generated: list[Generated], default: str, calls: list[Case]
) -> None:
    policy = load_generated(generated, default)
    program = policy.filter().compile()
    for case in calls:
        expected = meant(generated, DEFAULTS[default], case)
        call = case.call()
        decision = policy.decide(call)
        ruling = decision.ruling
        value = ruling.value if ruling.kind in ("deny", "return") else None
        assert (ruling.kind, value) == expected, case

        said = program.run(tables.number(case.name), abi.AUDIT_ARCH_X86_64, call.registers)
        assert (said == NOTIFY) == needs_monitor(generated, case), case
        if said != NOTIFY:
            assert said == ACTIONS[expected], case

        if ruling.runs and call.memory_read:
            # The promise of the check at load time: no silent "let it run" after a look.
            assert ruling.unsafe, case


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(rules(), min_size=1, max_size=5), st.lists(cases(), min_size=5, max_size=15))
def test_a_tip_pasted_before_the_rule_lets_the_call_through(
    generated: list[Generated], calls: list[Case]
) -> None:
    policy = load_generated(generated, "EPERM")
    texts = [rule.text(i) for i, rule in enumerate(generated)]
    for case in calls:
        reason = policy.explain(case.call())
        assert reason.isprintable()
        if not policy.decide(case.call()).ruling.refuses:
            assert not reason.tip
            continue
        at = int(reason.rule.removeprefix("rule ")) if reason.rule else len(texts)
        try:
            amended = loads(
                'default = "EPERM"\n' + "\n".join([*texts[:at], reason.tip, *texts[at:]])
            )
        except PolicyError as error:
            # Only this: the tip takes everything that the refusing rule was for.
            assert "can never match" in str(error), reason.tip
            continue
        assert not amended.decide(case.call()).ruling.refuses, (case, reason.tip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(rules(), min_size=1, max_size=5), st.lists(cases(), min_size=5, max_size=15))
def test_other_architectures_by_their_own_numbers(
    generated: list[Generated], calls: list[Case]
) -> None:
    """i386 decides by its own table (these calls have the same arguments there), x32 and foreign
    architectures by the words at the top."""
    policy = load_generated(generated, "allow")
    program = policy.filter().compile()
    for case in calls:
        registers = tuple(value & 0xFFFFFFFF for value in case.call().registers)
        if case.name in tables.numbers("i386"):
            there = case.call("i386")
            expected = meant(generated, ("allow", None), case)
            ruling = policy.decide(there).ruling
            value = ruling.value if ruling.kind in ("deny", "return") else None
            assert (ruling.kind, value) == expected
            said = program.run(
                tables.number(case.name, "i386"), abi.AUDIT_ARCH_I386, there.registers
            )
            assert (said == NOTIFY) == needs_monitor(generated, case)
            if said != NOTIFY:
                assert said == ACTIONS[expected]
        number = tables.number(case.name)
        x32 = program.run(number | abi.X32_SYSCALL_BIT, abi.AUDIT_ARCH_X86_64, registers)
        assert x32 == actions.errno(errno.ENOSYS).value
        arm = program.run(number, ARCHITECTURES["aarch64"].audit, registers)
        assert arm == actions.KILL_PROCESS.value


def test_every_generated_call_is_described_as_the_reference_thinks() -> None:
    from proctor.policy.numbers import judged
    from proctor.syscalls.signatures import signature

    for name, layout in LAYOUT.items():
        described = signature(name)
        assert described is not None
        for key, (register, bits, signed) in layout.items():
            arg = described.arg(key)
            assert arg is not None
            arg = judged(arg, name)
            assert (arg.reg, arg.bits, arg.signed) == (register, bits, signed), (name, key)
