"""What would let a refused call through: the smallest rule, or an addition to one that exists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from proctor.filter.conditions import ALWAYS, both, hold
from proctor.policy import addresses, globs
from proctor.policy.arguments import ACCESS, FILE_TYPES, Builder, device_of
from proctor.policy.conditions import Condition
from proctor.policy.numeric import Spec
from proctor.policy.rules import PERFORM, CallView, Rule, Ruling, Unknowable
from proctor.policy.source import Source
from proctor.words import quoted

if TYPE_CHECKING:
    from proctor.policy.policy import Policy
    from proctor.syscalls.signatures import Signature

S_IFMT: Final = 0o170000
TYPE_NAMES: Final = {value: name for name, value in FILE_TYPES.items()} | {0: "regular"}
_ACCESS_NAMES: Final = {value: name for name, value in ACCESS.items()}
#: In a tip that needs it; a policy with these words in it is legal, and shows who did not read.
UNSAFE_PLACEHOLDER: Final = "unsafe: SAY WHY THE RACE IS ACCEPTABLE HERE"


def signature_of(view: CallView) -> Signature | None:
    from proctor.syscalls.signatures import signature

    try:
        return signature(view.name, view.arch)
    except ValueError:
        return None


def tip(policy: Policy, view: CallView, rule: Rule | None) -> str:
    """The smallest rule that lets this call through, as TOML."""
    from proctor.emulate.supported import SUPPORTED

    when = _distinguishing(view, rule)
    if view.name in SUPPORTED:
        verdict = "perform = true"
    elif "path" in when or "address" in when or _memory_before(policy, view, rule, when):
        verdict = f"allow = {quoted(UNSAFE_PLACEHOLDER)}"
    else:
        verdict = "allow = true"
    lines = [
        "[[rule]]",
        f"name = {quoted(_fresh_name(policy, view, when))}",
        f"calls = [{quoted(view.name)}]",
    ]
    if when:
        lines.append(f"when = {_toml(when)}")
    return "\n".join([*lines, verdict]) + "\n"


def _toml(value: Spec | Mapping[str, Spec]) -> str:
    """A condition as TOML."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return "[" + ", ".join(map(_toml, value)) + "]"


def _memory_before(
    policy: Policy, view: CallView, rule: Rule | None, when: dict[str, Spec]
) -> bool:
    """Whether a rule before the deciding one looks at memory of calls that the tip would take."""
    signature = signature_of(view)
    clause = Builder(Source("", ""), (), when).clause(signature) if signature is not None else None
    region = clause.registers if clause is not None else ALWAYS
    for each, other in policy.chain(view.arch, view.name):
        if each is rule:
            return False
        if other.reads_memory and both(region, other.registers):
            return True
    return False


def _distinguishing(view: CallView, rule: Rule | None) -> dict[str, Spec]:
    """Conditions that pick this call out of those the rule refused: on the keys that the rule looks
    at, and always on the device."""
    signature = signature_of(view)
    if signature is None:
        return {}
    raw = tuple(view.registers)
    mode, dev, flags = (signature.first(role) for role in ("mode", "dev", "flags"))
    when: dict[str, Spec] = {}
    if mode is not None and dev is not None:
        kind = mode.value(raw) & S_IFMT
        if kind not in TYPE_NAMES:
            when[mode.name] = {"mask": S_IFMT, "is": kind}
        else:
            when["type"] = TYPE_NAMES[kind]
            if TYPE_NAMES[kind] in ("char", "block"):
                when["device"] = "{}:{}".format(*device_of(dev.value(raw)))
    for key in rule.when if rule is not None else ():
        arg = signature.arg(key)
        if key in when or key in ("type", "device"):
            continue
        if arg is not None and arg.role not in ("path", "sockaddr", "string"):
            when[key] = arg.value(raw)
        elif key == "access" and arg is None and flags is not None:
            access = flags.value(raw) & 3
            when[key] = _ACCESS_NAMES.get(access, "read")
            if access not in _ACCESS_NAMES:
                del when[key]
                when[flags.name] = flags.value(raw)
        else:
            when.update(_looked_up(key, view, signature))
    return when


def _looked_up(key: str, view: CallView, signature: Signature) -> dict[str, Spec]:
    """A condition on what had to be looked at: the caller, or what memory held."""
    try:
        if key == "caller" and signature.arg(key) is None:
            return {key: {"uid": view.identity("uid")}}
        found = _pointed_at(key, view, signature)
    except Unknowable:
        return {}
    return {key: [found]} if found else {}


def _pointed_at(key: str, view: CallView, signature: Signature) -> str:
    """The pattern for what memory held; empty if there is none. :raises Unknowable: not known."""
    arg = signature.arg(key)
    if arg is None and key in ("path", "address"):
        arg = signature.first("path" if key == "path" else "sockaddr")
    if arg is None:
        return ""
    if arg.role == "sockaddr":
        address = view.address(arg.name)
        return addresses.spell(address) if address is not None else ""
    data = None
    if arg.role == "path":
        data = view.path(arg.name)
        # Pinned things without a path are shown as text that no pattern for paths matches.
        data = data if data is not None and data.startswith(b"/") else None
    elif arg.role == "string":
        data = view.string(arg.name)
    return globs.literal(data) if data is not None else ""


def _fresh_name(policy: Policy, view: CallView, when: dict[str, Spec]) -> str:
    words = [view.name]
    if "device" in when:
        words += [str(when["type"]), str(when["device"])]
    base = "allow " + " ".join(words)
    taken = {rule.name for rule in policy.rules}
    name, number = base, 2
    while name in taken:
        name = f"{base} ({number})"
        number += 1
    return name


# Changes to a rule that is there already ----------------------------------------------------------------


def change(policy: Policy, view: CallView, decided: Rule | None) -> str:
    """An addition to an earlier rule that lets calls through and misses this one by one list."""
    signature = signature_of(view)
    if signature is None:
        return ""
    for rule, _ in policy.chain(view.arch, view.name):
        if rule is decided:
            break
        if rule.implied or not _lets_through(rule.ruling) or not rule.when:
            continue
        missing = [key for key in rule.when if not _part_holds(rule, key, signature, view)]
        if len(missing) != 1:
            continue
        addition = _addition(missing[0], signature, view)
        if addition:
            return f'add {addition} to {missing[0]} of rule "{rule.name}"'
    return ""


def _lets_through(ruling: Ruling) -> bool:
    return ruling.runs or ruling.kind == PERFORM


def _part_holds(rule: Rule, key: str, signature: Signature, view: CallView) -> bool:
    """Whether one condition of a rule holds for a call; False where it cannot be told."""
    builder = Builder(Source("", ""), (), rule.when)
    try:
        part = builder.part(key, signature)
        if isinstance(part, tuple):
            return hold(part, view.registers)
        condition: Condition = part
        return condition.holds(view)
    except (Unknowable, ValueError):
        return False


def _addition(key: str, signature: Signature, view: CallView) -> str:
    raw = tuple(view.registers)
    dev = signature.first("dev")
    if key == "device" and dev is not None:
        return quoted("{}:{}".format(*device_of(dev.value(raw))))
    try:
        found = _pointed_at(key, view, signature)
    except Unknowable:
        return ""
    return quoted(found) if found else ""
