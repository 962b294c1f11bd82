"""Why a call got its verdict, and what would let it through: the smallest rule, or an addition to
one that exists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from proctor.call import passwords
from proctor.call.decode import argument as decode
from proctor.errors import PolicyError
from proctor.filter.conditions import ALWAYS, Alternatives, both, covers, hold
from proctor.policy.document import Source, Spec
from proctor.policy.further import Condition, Identity, Memory
from proctor.policy.look import Look, Unknowable
from proctor.policy.numbers import judged
from proctor.policy.rules import Clause, Decision, Reason, Rule
from proctor.policy.when import ACCESS, FILE_TYPES, S_IFMT, WORDS, Builder, device_of
from proctor.syscalls.multiplex import MASKS
from proctor.words import Octal, quoted, toml

if TYPE_CHECKING:
    from proctor.policy.policy import Policy
    from proctor.syscalls.signatures import Arg, Signature

_TYPE_NAMES: Final = {value: name for name, value in FILE_TYPES.items()} | {0: "regular"}
_ACCESS_NAMES: Final = {value: name for name, value in ACCESS.items()}
#: In a tip that needs it; a policy with these words in it is legal, and shows who did not read.
UNSAFE_PLACEHOLDER: Final = "unsafe: SAY WHY THE RACE IS ACCEPTABLE HERE"


def explain(policy: Policy, look: Look, decision: Decision) -> Reason:
    """See :meth:`proctor.policy.policy.Policy.explain`."""
    call, signature = look.call, look.call.signature
    if not decision.ruling.refuses or call.abi not in policy.settings.arches:
        return decision.because
    if decision.rule is not None and decision.rule.implied:
        return decision.because  # what lets that through goes by the conditions that it stands for
    if signature is None:
        return decision.because.with_tip(_tip(policy, look, decision.rule, {}))
    written = decision.rule.when if decision.rule is not None else {}
    when = _smallest(_distinguishing(look, signature, written), signature)
    tip = _tip(policy, look, decision.rule, when)
    change = _change(policy, look, signature, decision.rule)
    instead = _takes_all(look, decision.rule, when, signature)
    return decision.because.with_tip(tip, change, instead, _looks_at(call.name))


def _takes_all(look: Look, rule: Rule | None, when: dict[str, Spec], signature: Signature) -> bool:
    """Whether a tip takes every call that the deciding rule is about, which could never match behind it."""
    if rule is None or any(call != look.call.name for _, call in rule.clauses):
        return False
    tip, own = _clause(when, signature), rule.clauses[look.call.abi, look.call.name]
    return not tip.further and all(covers(tip.registers, tests) for tests in own.registers)


# The smallest rule ----------------------------------------------------------------------------------


def _tip(policy: Policy, look: Look, rule: Rule | None, when: dict[str, Spec]) -> str:
    name = look.call.name
    performed = _performed(look)
    if performed:
        verdict = performed
    elif _looks_at_memory(policy, look, rule, when):
        verdict = f"allow = {quoted(UNSAFE_PLACEHOLDER)}"
    else:
        verdict = "allow = true"
    device = f" {when['type']} {when['device']}" if "device" in when else ""
    title = base = f"allow {name}{device}"
    taken = {rule.name for rule in policy.rules}
    number = 1
    while title in taken:
        number += 1
        title = f"{base} ({number})"
    lines = ["[[rule]]", f"name = {quoted(title)}", f"calls = [{quoted(name)}]"]
    if when:
        lines.append(f"when = {toml(when)}")
    return "\n".join([*lines, verdict]) + "\n"


def _performed(look: Look) -> str:
    """How a rule has a call performed, with the options without which its family would not; "" if it cannot be."""
    from proctor.performing import SUPPORTED, suggesting

    options = suggesting.needed(look.call) if look.call.name in SUPPORTED else None
    if options is None:
        return ""
    return f"perform = {toml(options)}" if options else "perform = true"


def _looks_at(name: str) -> frozenset[str]:
    from proctor.performing import SUPPORTED, suggesting

    return suggesting.looks_at(name) if name in SUPPORTED else frozenset()


#: Numbers that tell one call from another: what stands in the others is an address, a size, or another
#: one each time.
_TOLD: Final = frozenset(("flags", "mode", "cmd", "signal", "uid", "gid", "int", "uint", "pid"))
#: In the place of a password, which no rule is to hold.
_NOT_SAID: Final = passwords.HIDDEN.decode().replace("*", r"\\*")
#: Patterns of memory that is looked at, to be replaced by what is found there.
_ANY: Final = {"path": "/**", "sockaddr": "unix:*", "string": "*", "strings": "*"}


def exactly(look: Look, decision: Decision) -> str:
    """The rule that lets through what is like a call in all that a rule can say of it, as TOML; "" if
    something of it cannot be said.

    :param decision: by a rule that asks.
    """
    call, signature, rule = look.call, look.call.signature, decision.rule
    assert rule is not None
    when: dict[str, Spec] = {}
    performed = _performed(look)
    if performed:
        verdict = performed
    elif rule.ruling.unsafe:
        verdict = f"allow = {quoted('unsafe: ' + rule.ruling.unsafe)}"
    else:
        verdict = "allow = true"
    if signature is not None:
        reads = verdict != "allow = true"
        opens = getattr(signature.first("flags"), "family", "") == "OpenFlag"
        written, needed = dict(rule.when), []
        for arg in signature.args:
            if arg.role in _ANY and reads and arg.value(call.registers):
                written.setdefault(arg.name, _ANY[arg.role])
                needed.append(arg.name)
            elif arg.role in _TOLD and not (opens and arg.role == "mode"):
                written.setdefault(arg.name, 0)
        found = _distinguishing(look, signature, written)
        if any(name not in found for name in needed) or _NOT_SAID in str(found):
            return ""
        when = _smallest(found, signature)
    lines = ["[[rule]]", f"name = {quoted(f'allow {call.name}')}", f"calls = [{quoted(call.name)}]"]
    if when:
        lines.append(f"when = {toml(when)}")
    return "\n".join([*lines, verdict]) + "\n"


def _looks_at_memory(policy: Policy, look: Look, rule: Rule | None, when: dict[str, Spec]) -> bool:
    """Whether the tip, or a rule before the deciding one, looks at memory of calls that the tip
    would take."""
    signature = look.call.signature
    clause = _clause(when, signature) if signature is not None else None
    if clause is not None and clause.reads_memory:
        return True
    region = clause.registers if clause is not None else ALWAYS
    for each, other in policy.chain(look.call.abi, look.call.name):
        if each is rule:
            return False
        if other.reads_memory and both(region, other.registers):
            return True
    return False


def _distinguishing(
    look: Look, signature: Signature, written: Mapping[str, Spec]
) -> dict[str, Spec]:
    """Conditions that pick this call out of those the rule refused: on the keys that the rule looks
    at, and always on the device, and on what a multiplexed call stands for."""
    raw = look.call.registers
    mode, dev, flags = (signature.first(role) for role in ("mode", "dev", "flags"))
    when: dict[str, Spec] = {}
    if look.call.name in MASKS:
        which = signature.args[0]
        when[which.name] = _spelled(which, which.value(raw), signature)
    if mode is not None and dev is not None:
        kind = mode.value(raw) & S_IFMT
        if kind not in _TYPE_NAMES:
            when[mode.name] = {"mask": S_IFMT, "is": kind}
        else:
            when["type"] = _TYPE_NAMES[kind]
            if when["type"] in ("char", "block"):
                when["device"] = "{}:{}".format(*device_of(dev.value(raw)))
    for key in written:
        arg = signature.arg(key)
        if key in when or (arg is None and key in ("type", "device")):
            continue
        if key == "access" and arg is None and flags is not None:
            access = flags.value(raw) & 3
            if access in _ACCESS_NAMES:
                when[key] = _ACCESS_NAMES[access]
            else:
                when[flags.name] = _spelled(flags, flags.value(raw), signature)
        elif arg is not None and arg.role not in ("path", "sockaddr", "string", "strings"):
            when[key] = _spelled(arg, arg.value(raw), signature)
        else:
            when.update(_looked_up(written, key, look, signature))
    return when


def _spelled(arg: Arg, value: int, signature: Signature) -> Spec:
    """A number by its names, where these mean that number in a policy and no other."""
    if arg.role == "mode":
        return Octal(value & judged(arg, signature.name).mask)
    decoded = decode.plain(arg, value, signature.abi)
    if type(decoded) is int:
        return value
    names = str(decoded)
    spellings: list[Spec] = [names, {"==": names}] if "|" in names else [names]
    exactly = _part({arg.name: value}, arg.name, signature)
    for spelling in spellings:
        try:
            if _part({arg.name: spelling}, arg.name, signature) == exactly:
                return spelling
        except PolicyError:
            continue  # no names, or none that policies know
    return value


def _looked_up(
    written: Mapping[str, Spec], key: str, look: Look, signature: Signature
) -> dict[str, Spec]:
    """A condition on what had to be looked at: the caller, or what memory held."""
    try:
        part = _part(written, key, signature)
        if isinstance(part, Memory):
            found = _pattern(part, look)
            return {key: [found]} if found else {}
        return {key: {"uid": look.identity("uid")}} if isinstance(part, Identity) else {}
    except (Unknowable, PolicyError):
        return {}


def _pattern(condition: Memory, look: Look) -> str:
    """The pattern for what was looked at; empty if there is none. :raises Unknowable: not known."""
    from proctor.policy import addresses, globs

    seen = look.at(condition.what, condition.argument)
    if seen is None:
        return ""
    if condition.what == "address":
        return addresses.spell(seen)
    # Pinned things without a path are shown as text that no pattern for paths matches.
    if condition.what == "path" and seen[:1] != b"/":
        return ""
    if condition.what == "words":
        words = passwords.of(look.call.name, condition.argument, tuple(seen.split(b"\0")))
        return globs.literal(b"\0".join(words), "words")
    return globs.literal(passwords.of(look.call.name, condition.argument, seen))


def _smallest(when: dict[str, Spec], signature: Signature) -> dict[str, Spec]:
    """Without the conditions that the others imply; of two that say the same, the word stays."""
    for key in sorted(when, key=lambda key: key in WORDS):
        others = {each: spec for each, spec in when.items() if each != key}
        try:
            rest, part = _clause(others, signature), _part(when, key, signature)
        except PolicyError:
            continue  # "device" needs "type" beside it
        if isinstance(part, tuple):
            implied = all(covers(part, tests) for tests in rest.registers)
        else:
            implied = isinstance(part, Memory) and any(
                isinstance(each, Memory) and each.says_as_much_as(part) for each in rest.further
            )
        if implied:
            when = others
    return when


def _part(when: Mapping[str, Spec], key: str, signature: Signature) -> Alternatives | Condition:
    """See :meth:`proctor.policy.when.Builder.part`; for conditions that are known to be right."""
    return Builder(Source("", ""), (), when).part(key, signature)


def _clause(when: Mapping[str, Spec], signature: Signature) -> Clause:
    made = Builder(Source("", ""), (), when).clause(signature)
    assert made is not None  # strict
    return made


# Changes to a rule that is there already ----------------------------------------------------------------


def _change(policy: Policy, look: Look, signature: Signature, decided: Rule | None) -> str:
    """An addition to an earlier rule that lets calls through and misses this one by one list."""
    for rule, _ in policy.chain(look.call.abi, look.call.name):
        if rule is decided:
            break
        if rule.implied or not (rule.ruling.runs or rule.performs):
            continue
        try:
            parts = {key: _part(rule.when, key, signature) for key in rule.when}
            missing = [key for key, part in parts.items() if not _holds(part, look)]
            if len(missing) != 1:
                continue
            addition = _addition(missing[0], parts[missing[0]], signature, look)
        except (Unknowable, PolicyError):
            continue  # whether it misses this one cannot be told
        if addition:
            return f'add {quoted(addition)} to {missing[0]} of rule "{rule.name}"'
    return ""


def _holds(part: Alternatives | Condition, look: Look) -> bool:
    return hold(part, look.call.registers) if isinstance(part, tuple) else part.holds(look)


def _addition(key: str, part: Alternatives | Condition, signature: Signature, look: Look) -> str:
    dev = signature.first("dev")
    if key == "device" and dev is not None:
        return "{}:{}".format(*device_of(dev.value(look.call.registers)))
    return _pattern(part, look) if isinstance(part, Memory) else ""
