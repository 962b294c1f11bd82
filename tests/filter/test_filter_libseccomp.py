"""The compiler against libseccomp: the same rules, the same verdict on every probe.

libseccomp's rules have no order, so the rule sets here never let two actions compete: a call
has one unconditional rule, or conditional ones that agree.  Left out, with the reason:

* values above 32 bits for 32-bit ABIs: libseccomp drops the upper half, we compare it (registers
  there have none, so only such a condition differs);
* several ordering conditions on one call with libseccomp before 2.6.1, which merges them wrongly
  (GHSA-4q85-33p6-j5g6);
* calls that one of the ABIs lacks (open on aarch64, semop on i386): libseccomp 2.5.4 may then
  forget to load the number, and its program compares the architecture with numbers of calls;
* conditions on socketcall's and ipc's members on i386: libseccomp applies them to the direct
  number alone, as we do, but refuses some.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proctor.filter.actions import (
    ALLOW,
    KILL_THREAD,
    LOG,
    Action,
    errno,
)
from proctor.filter.conditions import Condition
from proctor.filter.interpreter import Machine
from proctor.filter.profiles import oci
from proctor.filter.rules import Filter, Rule
from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from tests.filter.conftest import Export
from tests.filter.strategies import ALL_NUMBERS, agreeing_filters, arguments_near


def _probes(source: Filter, seed: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    wide = source.arches in (("x86_64",), ("aarch64",))
    tuples = arguments_near(source.rules, seed, 6)
    if not wide:
        tuples = [tuple(value & 0xFFFFFFFF for value in args) for args in tuples]
    judged = {arch: set(bodies) for arch, bodies in source.bodies().items()}
    for arch in source.arches:
        audit = ARCHITECTURES[arch].audit
        bit = 0x40000000 if arch == "x32" else 0
        for nr in (n | bit for n in ALL_NUMBERS):
            for args in tuples if nr in judged[arch] else tuples[:1]:
                if arch == "i386" and nr in (102, 117):
                    for call in range(30):
                        yield nr, audit, (call, *args[1:])
                else:
                    yield nr, audit, args
    for audit in (*(each.audit for each in ARCHITECTURES.values()), 0xC0000032, 0):
        for nr in (-1, -2, 0, 1, 59, 600, 1000, 5000, 0x3FFFFFFF, 0x40000000, 0x40000208):
            yield nr, audit, tuples[0]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(agreeing_filters(), st.integers(0, 1 << 30), st.sampled_from((0, 2)))
def test_same_verdicts_as_libseccomp(
    libseccomp: Export, source: Filter, seed: int, optimize: int
) -> None:
    ours, theirs = source.compile(), Machine(libseccomp(source, optimize))
    for nr, arch, args in _probes(source, seed):
        assert ours.run(nr, arch, args) == theirs.run(nr, arch, args), (
            nr,
            hex(arch),
            [hex(arg) for arg in args],
            [str(rule) for rule in source.rules],
        )


def test_libseccomp_is_asked_at_all(libseccomp: Export) -> None:
    """A mistake on either side would show: two filters that differ in one value do."""
    one = Filter([Rule(("read",), errno(1), (Condition(0, "==", 3),))], arches=("x86_64",))
    other = Filter([Rule(("read",), errno(1), (Condition(0, "==", 4),))], arches=("x86_64",))
    audit = ARCHITECTURES["x86_64"].audit
    assert Machine(libseccomp(one)).run(0, audit, (3,)) == errno(1).value
    assert other.compile().run(0, audit, (3, 0, 0, 0, 0, 0)) == ALLOW.value


@pytest.mark.parametrize("name", ["socket", "connect", "sendto", "recvmsg", "shmget"])
@pytest.mark.parametrize("default", [ALLOW, errno(1)])
def test_multiplexed_calls_as_libseccomp(libseccomp: Export, name: str, default: Action) -> None:
    source = Filter([Rule((name,), LOG)], default, ("i386",), KILL_THREAD, KILL_THREAD)
    ours, theirs = source.compile(), Machine(libseccomp(source))
    audit = ARCHITECTURES["i386"].audit
    for nr in ALL_NUMBERS:
        for first in range(30):
            args = (first, 1, 2, 3, 4, 5)
            assert ours.run(nr, audit, args) == theirs.run(nr, audit, args), (nr, first)


@pytest.mark.parametrize("caps", [(), ("CAP_SYS_ADMIN", "CAP_MKNOD")])
def test_an_oci_profile_as_runc_gives_it_to_libseccomp(
    libseccomp: Export, caps: tuple[str, ...]
) -> None:
    path = Path(__file__).with_name("profile_like_dockers.json")
    data = oci.dump(oci.load(path, arch="x86_64", caps=caps, kernel="6.1"))
    del data["architectures"]  # the native one alone: see above for the others
    profile = oci.load(data, arch="x86_64")
    rules = []
    for entry in profile.entries:
        names = tuple(name for name in entry.names if name in tables.numbers("x86_64"))
        arguments = [condition.arg for condition in entry.conditions]
        if len(set(arguments)) < len(arguments):
            rules += [Rule(names, entry.action, (c,)) for c in entry.conditions]
        else:
            rules.append(Rule(names, entry.action, entry.conditions))
    # Only a carrier here: libseccomp gets these rules as they are.
    carrier = SimpleNamespace(
        default=profile.default,
        foreign=KILL_THREAD,
        arches=("x86_64",),
        rules=[rule for rule in rules if rule.names and rule.action != profile.default],
    )
    theirs = Machine(libseccomp(carrier))
    ours = profile.filter().compile()
    audit = ARCHITECTURES["x86_64"].audit
    for nr in (*ALL_NUMBERS, 0x40000000, 0x40000101, 0xFFFFFFFF):
        for args in arguments_near(profile.filter().rules, nr, 12):
            assert ours.run(nr, audit, args) == theirs.run(nr, audit, args), (nr, args)
    assert ours.run(0, 0x40000003) == theirs.run(0, 0x40000003)
