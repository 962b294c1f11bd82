"""Rule sets for the differential tests, and the calls worth probing them with."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from proctor.errors import FilterError
from proctor.filter.actions import (
    ALLOW,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    NOTIFY,
    TRAP,
    Action,
    errno,
    trace,
)
from proctor.filter.conditions import FULL, Condition
from proctor.filter.rules import Filter, Rule
from proctor.syscalls import multiplex, tables
from proctor.syscalls.architectures import ARCHITECTURES

#: Numbers every differential asks about, on every architecture.
ALL_NUMBERS = range(601)

ACTIONS = (ALLOW, NOTIFY, LOG, TRAP, KILL_THREAD, KILL_PROCESS, errno(1), errno(38), trace(7))

#: Dense and sparse numbers, calls that only some ABIs have, multiplexed ones, neighbours.
NAMES = (
    *("read", "write", "open", "close", "stat", "mmap", "ioctl", "dup", "socket", "connect"),
    *("sendto", "recvmsg", "shmget", "semop", "mknod", "mknodat", "openat", "openat2", "clone3"),
    *("mount", "umount2", "socketcall", "waitpid", "getpid", "close_range", "set_thread_area"),
)

_INTERESTING = (0, 1, 2, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, 1 << 63)

values = st.one_of(
    st.sampled_from((*_INTERESTING, FULL - 1, FULL)),
    st.integers(0, FULL),
    st.integers(0, 20),
)
masks = st.one_of(
    st.just(FULL),
    st.sampled_from((0xFFFFFFFF, 0xFFFFFFFF << 32, 0xF000, 1, 1 << 40, FULL ^ 1, 0xFF << 28)),
    st.integers(1, FULL),
)


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    """A condition that is neither always nor never true."""
    op = draw(st.sampled_from(("==", "&=", "!=", "<", "<=", ">", ">=")))
    mask = draw(masks)
    value = draw(values)
    if op in ("==", "!=", "&="):
        value &= mask
    else:
        value = min(value, mask)
        if op in ("<", ">="):
            value = max(value, 1)
        if op in (">", "<="):
            value = min(value, mask - 1)
    return Condition(draw(st.sampled_from((0, 0, 1, 1, 2, 3, 4, 5))), op, value, mask)


def rules(names: tuple[str, ...] = NAMES) -> st.SearchStrategy[Rule]:
    """A rule with up to three conditions."""
    return st.builds(
        Rule,
        st.lists(st.sampled_from(names), min_size=1, max_size=4).map(tuple),
        st.sampled_from(ACTIONS),
        st.one_of(
            st.lists(conditions(), min_size=1, max_size=3),
            st.lists(conditions(), min_size=1, max_size=1),
            st.just([]),
        ).map(tuple),
        st.just(""),
        st.just(()),
    )


#: Mostly few names, so that several rules judge one call.
_few_names = st.one_of(
    st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True).map(tuple), st.just(NAMES)
)


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    """A filter for some ABIs; contradicting rules are left out."""
    arches = draw(
        st.sampled_from(
            (
                ("x86_64", "i386"),
                ("x86_64", "i386", "x32"),
                ("x86_64",),
                ("x32",),
                ("i386", "x86_64"),
                ("aarch64", "arm"),
                ("s390x",),
                ("ppc64le", "riscv64"),
            )
        )
    )
    kept: list[Rule] = []
    for rule in draw(st.lists(rules(draw(_few_names)), min_size=3, max_size=14)):
        try:
            Filter([rule], arches=arches)
        except FilterError:
            continue
        kept.append(rule)
    return Filter(
        kept,
        draw(st.sampled_from(ACTIONS)),
        arches,
        draw(st.sampled_from((KILL_PROCESS, ALLOW, NOTIFY))),
        draw(st.sampled_from((errno(38), ALLOW, NOTIFY))),
        strict=False,
    )


#: ABIs of one machine.
FAMILIES = (
    *(("x86_64",), ("x86_64", "i386"), ("x86_64", "i386", "x32")),
    *(("aarch64",), ("aarch64", "arm")),
)


@st.composite
def agreeing_filters(
    draw: st.DrawFn,
    actions: tuple[Action, ...] = (*ACTIONS, errno(13), trace(3)),
    families: tuple[tuple[str, ...], ...] = FAMILIES,
) -> Filter:
    """Filters whose rules do not depend on order, as files for container runtimes need."""
    arches = draw(st.sampled_from(families))
    narrow = arches not in (("x86_64",), ("aarch64",))
    default = draw(st.sampled_from(actions))
    others = [action for action in actions if action != default]
    rules: list[Rule] = []
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=14, unique=True)):
        if name in multiplex.MASKS or not all(name in tables.numbers(arch) for arch in arches):
            continue
        action = draw(st.sampled_from(others))
        multiplexed = any(multiplex.member(name, arch) for arch in arches)
        if multiplexed or draw(st.integers(0, 2)) == 0:
            rules.append(Rule((name,), action))
            continue
        if draw(st.booleans()):
            # One rule, any operators, on different arguments.
            chosen = draw(st.lists(conditions(), min_size=1, max_size=3, unique_by=_argument))
            alternatives = [tuple(chosen)]
        else:
            # Several rules of equalities.
            alternatives = [
                (Condition(index, "==", value),)
                for index, value in draw(
                    st.lists(
                        st.tuples(st.integers(0, 5), st.integers(0, FULL)),
                        min_size=1,
                        max_size=4,
                        unique=True,
                    )
                )
            ]
        rules += [
            Rule((name,), action, tuple(_expressible(c, narrow) for c in alternative))
            for alternative in alternatives
        ]
    kept = []
    for rule in rules:
        try:
            Filter([rule], arches=arches)
        except FilterError:
            continue  # cut to 32 bits it is always or never true
        kept.append(rule)
    return Filter(kept, default, arches, foreign=KILL_THREAD, x32=KILL_THREAD, strict=False)


def _argument(condition: Condition) -> int:
    return int(condition.arg)


def _expressible(condition: Condition, narrow: bool) -> Condition:
    """The nearest condition libseccomp can express and both understand alike."""
    arg, op, value, mask = condition
    if op != "&=":
        mask = FULL
    if narrow:
        value &= 0xFFFFFFFF
        mask = mask & 0xFFFFFFFF if op == "&=" else mask
    return Condition(arg, op, value, mask)


def arguments_near(rules: tuple[Rule, ...], seed: int, count: int) -> list[tuple[int, ...]]:
    """Registers at, just below and just above what the conditions mention."""
    chance = random.Random(seed)
    pools: list[list[int]] = [[0, 1, FULL] for _ in range(6)]
    for rule in rules:
        for condition in rule.conditions:
            pool = pools[int(condition.arg)]
            value, outside = condition.value, FULL ^ condition.mask
            for near in (value, value - 1, value + 1, value | outside, value ^ (1 << 32)):
                pool.append(near & FULL)
            pool.append(value ^ (condition.mask & -condition.mask))
    return [tuple(chance.choice(pool) for pool in pools) for _ in range(count)]


def probes(source: Filter) -> list[tuple[int, int]]:
    """(nr, audit architecture) of all numbers 0..600, x32, and foreign architectures."""
    result = []
    for audit in sorted({*(each.audit for each in ARCHITECTURES.values()), 0xC0000032, 0}):
        ours = any(ARCHITECTURES[arch].audit == audit for arch in source.arches)
        result += [(nr, audit) for nr in (ALL_NUMBERS if ours else (0, 1, 59, 600))]
        if ours:
            result += [(nr | 0x40000000, audit) for nr in (0, 1, 41, 59, 257, 512, 547, 600)]
            result += [(nr, audit) for nr in (-1, -2, 0x3FFFFFFF, 0x7FFFFFFF, 1000, 5000)]
    return result
