"""From the text of a policy to a checked :class:`~proctor.policy.policy.Policy`.

The document and its shape (:mod:`proctor.policy.document`), then meanings: call and group names,
verdicts, conditions against each call's signature, and what rules mean together
(:mod:`proctor.policy.check`).  Whatever is wrong is one PolicyError, raised before anything starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from proctor.errors import FilterError
from proctor.filter.conditions import ALWAYS
from proctor.given import MOST, one
from proctor.observe.amount import LEVELS, Amount
from proctor.policy.check import refuse
from proctor.policy.compile import multiplexed, unasked, untaken, with_multiplexed
from proctor.policy.document import KeyPath, Source, parse, read_text
from proctor.policy.policy import Policy, Settings
from proctor.policy.rules import ASK, DENY, PERFORM, Clause, Rule
from proctor.policy.rulings import (
    asked,
    check_time,
    delay_of,
    options,
    performable,
    ruling_of,
    verdict_word,
)
from proctor.syscalls.special import FRAGILE
from proctor.words import did_you_mean, one_of, quoted

#: The version of the format that this release reads.
VERSION: Final = 1
_MAX_NAME: Final = 64
#: Rules are compared with each other; and a filter has no room for many more.
_MAX_RULES: Final = 1000
#: Seconds; what is meant to be longer is meant to be none.
_LONGEST: Final = 86400
#: What can be said of performing, besides how much of it.
_PERFORMING: Final = {"nested": ("deny", "allow"), "cgroup": ("join", "ignore")}
_FASTEST: Final = 10_000_000


def load(path: str | bytes | os.PathLike[str]) -> Policy:
    """Read a policy file.

    ::

        with open("rules.toml", "w") as file:
            file.write('[[rule]]\\nname = "no rooms"\\ncalls = ["mkdir"]\\ndeny = "EROFS"')
        assert load("rules.toml").calls == ("mkdir",)

    :raises PolicyError: it cannot be read, or is wrong; one sentence with file, line and key.
    """
    return build(read_text(path))


def loads(text: str, name: str = "<string>") -> Policy:
    """Read a policy from a string.

    >>> loads('[[rule]]\\nname = "quiet"\\ncalls = ["kill"]\\nwhen = { sig = "SIGTERM" }\\nreturn = 0')
    <Policy <string>: 1 rules>

    :param name: stands for the file name in errors.
    :raises PolicyError: it is wrong.
    """
    one("text", text, str, "the text of a policy")
    return build(Source(name, text))


def build(source: Source, otherwise: Mapping[str, Any] | None = None) -> Policy:
    """The policy that a text is.

    :param otherwise: keys of the top, for a text that does not have them.
    :raises PolicyError: it is wrong.
    """
    table = {**(otherwise or {}), **parse(source)}
    settings = _settings(table, source)
    written = table.get("rule", ())
    if len(written) > _MAX_RULES:
        raise source.error(
            f"{len(written)} rules; a policy has at most {_MAX_RULES}: a condition takes lists of "
            "numbers and patterns",
            ("rule",),
        )
    names: dict[str, int] = {}
    rules: list[Rule] = []
    for position, each in enumerate(written):
        _check_name(each["name"], ("rule", position), names, source)
        names[each["name"]] = position
        rules += _rule(position, each, table, settings, source)
    rules += unasked(rules, settings.arches, settings.default)
    rules += untaken(rules, settings.arches, settings.default)

    def read_answers(other: Source) -> Policy:
        return build(other, {"default": "EPERM", "arches": list(settings.arches)})

    policy = Policy(source.name, tuple(rules), settings, read_answers)
    refuse(policy, source)
    return policy


# Top-level keys ---------------------------------------------------------------------------------


def _settings(table: Mapping[str, Any], source: Source) -> Settings:
    version = table.get("version", VERSION)
    if version != VERSION:
        raise source.error(
            f"this is version {version} of the format, and this release reads version {VERSION}",
            ("version",),
        )
    given: dict[str, Any] = {"arches": _arches(table.get("arches"), source)}
    for key in ("default", "foreign_arch", "x32"):
        if key in table:
            given[key] = verdict_word(table[key], (key,), source)
    for key, when in (("on_error", "deciding fails"), ("on_deadline", "time is over")):
        if key not in table:
            continue
        ruling = verdict_word(table[key], (key,), source)
        if ruling.kind != DENY:
            raise source.error(
                f'the answer when {when} is an errno such as "EPERM": to let a call run because '
                "something went wrong would open every rule",
                (key,),
            )
        given[key] = ruling.value
    given["deadline"] = _seconds(table, (), source)
    if "on_deadline" in table and not any(
        "deadline" in each for each in (table, *table.get("rule", ()))
    ):
        raise source.error(
            "nothing here has a deadline; write deadline = 10 (seconds) beside it", ("on_deadline",)
        )
    for key, words in _PERFORMING.items():
        if key in table and table[key] not in words:
            hint = did_you_mean(table[key], words) or f"; it is {one_of(words)}"
            raise source.error(f"{quoted(table[key])} is no value of it{hint}", (key,))
    for key in ("limit", "workers", "in_flight"):
        if key in table and not 1 <= table[key] <= MOST:
            raise source.error(f"a number from 1 to {MOST}, not {table[key]}", (key,))
    for key in ("rate", "audit_rate"):
        if key in table and not 1 <= table[key] <= _FASTEST:
            raise source.error(f"a number in a second, from 1 to {_FASTEST}", (key,))
    if table.get("audit", "all") not in LEVELS:
        hint = did_you_mean(table["audit"], LEVELS) or f"; it is {one_of(LEVELS)}"
        raise source.error(f"{quoted(table['audit'])} is no value of it{hint}", ("audit",))
    if "audit" in table or "audit_rate" in table:
        given["audit"] = Amount(table.get("audit", "all"), table.get("audit_rate"))
    given["performing"] = {key: table[key] for key in (*_PERFORMING, "limit") if key in table}
    for key in ("workers", "rate", "in_flight"):
        given[key] = table.get(key)
    return Settings(**given)


def _arches(words: Sequence[str] | None, source: Source) -> tuple[str, ...]:
    from proctor.syscalls.architectures import ARCHITECTURES, canonical, native

    if words is None:
        return ARCHITECTURES[native()].family
    found = []
    for number, word in enumerate(words):
        try:
            found.append(canonical(word))
        except FilterError:
            hint = did_you_mean(word, ARCHITECTURES) or f"; there are {', '.join(ARCHITECTURES)}"
            raise source.error(
                f"no architecture {quoted(word)}{hint}", ("arches", number)
            ) from None
    if not found:
        raise source.error(
            "no architecture is left; leave the key out for the machine's own", ("arches",)
        )
    return tuple(dict.fromkeys(found))


def _seconds(table: Mapping[str, Any], path: KeyPath, source: Source) -> float | None:
    value: float | None = table.get("deadline")
    if value is not None and not 0 < value <= _LONGEST:  # what is no number (nan) fails here, too
        raise source.error(
            f"a deadline is in seconds, more than 0 and at most {_LONGEST} (a day)",
            (*path, "deadline"),
        )
    return value


# Rules ------------------------------------------------------------------------------------------


def _check_name(name: str, path: KeyPath, names: Mapping[str, int], source: Source) -> None:
    key = (*path, "name")
    if not name.strip() or len(name) > _MAX_NAME or not name.isprintable():
        raise source.error(
            f"{quoted(name[:80])} is not a name for logs: 1 to {_MAX_NAME} printable characters",
            key,
        )
    if name in names:
        raise source.error(
            f'rule[{names[name]}] has the name "{name}" already; logs tell rules by it', key
        )


def _rule(
    position: int,
    written: Mapping[str, Any],
    table: Mapping[str, Any],
    settings: Settings,
    source: Source,
) -> list[Rule]:
    path: KeyPath = ("rule", position)
    ruling = ruling_of(written, path, source)
    calls, grouped = _calls(written["calls"], settings.arches, path, source)
    if ruling.kind == PERFORM:
        performable(calls, path, source)
        ruling = ruling._replace(options=options(calls, written[PERFORM], (*path, PERFORM), source))
    elif ruling.kind == ASK:
        ruling = asked(ruling, calls, written[ASK], path, source)
    when = written.get("when", {})
    rule = Rule(
        position,
        written["name"],
        clauses(calls, when, settings.arches, path, source),
        ruling,
        written.get("report", table.get("report", False)),
        when,
        deadline=_seconds(written, path, source),
        delay=delay_of(written, settings, path, source),
    )
    check_time(rule, settings, source)
    _check_grouped(rule, grouped, path, source)
    return with_multiplexed(rule, calls, settings.arches)


def _calls(
    written: Sequence[str], arches: Sequence[str], path: KeyPath, source: Source
) -> tuple[list[str], dict[str, str]]:
    """The names that ``calls`` means, and of which group those are that only a group brought in."""
    from proctor.syscalls import tables

    if not written:
        raise source.error("a rule is about at least one system call", (*path, "calls"))
    named: dict[str, None] = {}
    grouped: dict[str, str] = {}
    excluded: set[str] = set()
    for number, word in enumerate(written):
        place = (*path, "calls", number)
        bare = word.removeprefix("!")
        members = _members(bare, place, source)
        if word.startswith("!"):
            excluded.update(members)
        elif bare[:1] in ("%", "@"):
            for member in members:
                grouped.setdefault(member, bare)
        else:
            named.update(dict.fromkeys(members))
    wanted = [name for name in (*named, *sorted(grouped)) if name not in excluded]
    calls = list(dict.fromkeys(wanted))
    if not calls:
        raise source.error("nothing is left after the exclusions", (*path, "calls"))
    here = [
        name
        for name in calls
        if any(name in tables.numbers(arch) or multiplexed((name,), arch) for arch in arches)
    ]
    if not here:
        raise source.error(
            f"{', '.join(arches)} has no {' or '.join(calls[:4])}, so this rule can never match",
            (*path, "calls"),
        )
    return here, {name: group for name, group in grouped.items() if name not in named}


def _members(word: str, place: KeyPath, source: Source) -> Sequence[str]:
    from proctor.syscalls import groups, tables

    if word[:1] in ("%", "@"):
        try:
            return sorted(groups.members(word))
        except FilterError:
            raise source.error(
                f"no group {quoted(word)}{did_you_mean(word, groups.names())}", place
            ) from None
    if not tables.exists(word):
        raise source.error(f"no system call {quoted(word)}{tables.did_you_mean(word)}", place)
    return (word,)


def clauses(
    calls: Sequence[str],
    when: Mapping[str, Any],
    arches: Sequence[str],
    path: KeyPath,
    source: Source,
) -> dict[tuple[str, str], Clause]:
    from proctor.policy.when import Builder
    from proctor.syscalls import tables
    from proctor.syscalls.signatures import signature
    from proctor.syscalls.variants import variants

    builder = Builder(source, path, when)
    clauses: dict[tuple[str, str], Clause] = {}
    built: set[str] = set()
    for arch in arches:
        known = tables.numbers(arch)
        names = [name for call in calls for name in (call, *variants(call, arch))]
        for call in dict.fromkeys(names):
            if call not in known:
                continue
            if not when:
                clauses[arch, call] = Clause(ALWAYS)
                continue
            described = signature(call, arch)
            if described is None:
                raise source.error(
                    f"the arguments of {call} on {arch} are not known, so conditions on them cannot be told; "
                    "leave it out of this rule",
                    (*path, "calls"),
                )
            clause = builder.clause(described, strict=call not in built)
            built.add(call)
            if clause is not None:
                clauses[arch, call] = clause
    return clauses


#: Calls that programs never retry after EINTR, or make in places where a wait hurts; a group does
#: not bring them in where a rule would make them wait for us.
NEVER_BY_GROUP: Final = frozenset(FRAGILE) | {
    *("clock_nanosleep", "nanosleep", "read", "restart_syscall", "write"),
}


def _check_grouped(rule: Rule, grouped: Mapping[str, str], path: KeyPath, source: Source) -> None:
    notified = sorted(
        {
            call
            for (_, call), clause in rule.clauses.items()
            if call in NEVER_BY_GROUP and call in grouped and not rule.in_filter(clause)
        }
    )
    if notified:
        groups = ", ".join(dict.fromkeys(grouped[call] for call in notified))
        out = ", ".join(f'"!{call}"' for call in notified)
        raise source.error(
            f"programs break where these wait for a monitor (a signal then makes them fail), and {groups} would "
            f"bring them in: take them out, {out}, or write the names out if you mean it",
            (*path, "calls"),
        )
