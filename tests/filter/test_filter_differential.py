"""The compiler against the plain meaning of the rules (C119, C120, C121)."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proctor.filter.actions import ALLOW, decoded
from proctor.filter.check import check, constant_allow
from proctor.filter.program import Program
from proctor.filter.rules import Filter
from proctor.syscalls.architectures import ARCHITECTURES
from tests.filter.strategies import ALL_NUMBERS, arguments_near, filters, probes

SLOW = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


@SLOW
@given(filters(), st.integers(0, 1 << 30))
def test_c119_compiled_program_means_what_the_rules_mean(source: Filter, seed: int) -> None:
    program = source.compile()
    check(program.code)
    tuples = arguments_near(source.rules, seed, 8)
    judged = {nr for bodies in source.bodies().values() for nr in bodies}
    for position, (nr, arch) in enumerate(probes(source)):
        # Numbers with rules get every tuple; the others one, in turn.
        chosen = tuples if nr in judged else [tuples[position % len(tuples)]]
        for args in chosen:
            assert decoded(program.run(nr, arch, args)) == source.decide(nr, arch, args).action, (
                nr,
                hex(arch),
                args,
                program.disassemble(),
            )


@SLOW
@given(filters(), st.integers(0, 1 << 30))
def test_explain_names_the_rule_that_decides(source: Filter, seed: int) -> None:
    program = source.compile()
    for args in arguments_near(source.rules, seed, 3):
        for arch, bodies in source.bodies().items():
            for nr in bodies:
                explanation = program.explain(nr, ARCHITECTURES[arch].audit, args)
                assert explanation.action.value == program.run(nr, ARCHITECTURES[arch].audit, args)
                if explanation.rule_index is not None:
                    assert source.rules[explanation.rule_index] == explanation.rule
                    assert explanation.rule.action == explanation.action


@SLOW
@given(filters())
def test_c120_every_call_without_an_argument_condition_stays_in_the_bitmap(source: Filter) -> None:
    program = source.compile()
    for arch in source.arches:
        bodies, audit = source.bodies()[arch], ARCHITECTURES[arch].audit
        for nr in ALL_NUMBERS:
            clauses = bodies.get(nr, [])
            if arch == "x32" or (arch == "i386" and nr in (102, 117)):
                continue
            if any(clause.tests for clause in clauses):
                continue
            verdict = clauses[0].action if clauses else source.default
            assert constant_allow(program.code, audit, nr) == (verdict == ALLOW), nr


@SLOW
@given(filters())
def test_generated_programs_survive_the_text_round_trip(source: Filter) -> None:
    program = source.compile()
    assert Program.parse(program.disassemble()) == program
    assert Program.parse(program.disassemble(comments=False)) == program


@SLOW
@given(filters())
def test_compiling_is_deterministic(source: Filter) -> None:
    again = Filter(
        source.rules, source.default, source.arches, source.foreign, source.x32, strict=False
    )
    assert again.compile() == source.compile()
