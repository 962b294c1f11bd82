"""Why a call got its verdict, and what would let it through.

An :class:`Explanation` names the rule that decided and carries a *tip*: the smallest rule that would
let this very call through, as TOML ready to paste before the deciding rule; where a rule for such
calls exists and misses this one by a single condition, also the addition to that rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proctor.policy import addresses, globs
from proctor.policy.arguments import ACCESS, FILE_TYPES, Builder, device_of
from proctor.policy.conditions import Condition
from proctor.policy.numeric import Spec
from proctor.policy.registers import ALWAYS, both, hold
from proctor.policy.rules import (
    ALLOW,
    PERFORM,
    RETURN,
    CallView,
    Rule,
    Ruling,
    Unknowable,
    errno_name,
)
from proctor.policy.source import Source, quoted

if TYPE_CHECKING:
    from proctor.filter.signatures import Arg, Signature
    from proctor.policy.policy import Policy

_S_IFMT: Final = 0o170000
_TYPE_NAMES: Final = {value: name for name, value in FILE_TYPES.items()} | {0: "regular"}
_ACCESS_NAMES: Final = {value: name for name, value in ACCESS.items()}
#: In a tip that needs it; a policy with these words in it is legal, and shows who did not read.
UNSAFE_PLACEHOLDER: Final = "unsafe: SAY WHY THE RACE IS ACCEPTABLE HERE"


class Explanation(NamedTuple):
    """What happened to one call and why.  Plain values: it outlives the call."""

    #: The system call and the caller's architecture.
    call: str
    arch: str
    #: The caller's thread id, 0 if not known.
    tid: int
    #: What is known of the arguments, rendered for people, by name.
    arguments: dict[str, str]
    #: Name of the rule that decided; None for the default.
    rule: str | None
    #: What was decided: an errno's name, ``return N``, ``perform``, ``allow``, ``kill``, ``log``.
    ruling: str
    #: The reason as a verdict carries it.
    reason: str
    #: A rule, as TOML, that would let the call through; empty if it goes through.
    tip: str = ""
    #: Name of the rule that the tip goes before; empty: at the end.
    before: str = ""
    #: The addition to an existing rule that would do, as a sentence; empty if there is none.
    change: str = ""

    @property
    def refused(self) -> bool:
        """Whether the call did not go through."""
        return self.ruling not in (PERFORM, ALLOW, "log", "allow (unsafe)") and not (
            self.ruling.startswith(RETURN)
        )

    def spelled(self) -> str:
        """The call as one reads it: ``mknodat(path="/x/sda", type=block, device=8:0)``."""
        inside = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.call}({inside})"

    def why(self) -> str:
        """The reason, and what would let the call through; one line."""
        text = self.reason
        if self.tip:
            place = f'before rule "{self.before}"' if self.before else "as last rule"
            text += f"; would be allowed by, {place}: {' '.join(self.tip.split(chr(10))).strip()}"
        if self.change:
            text += f"; or: {self.change}"
        return text

    def line(self) -> str:
        """One line for a log: what was decided, by which rule, which rule would allow it.

        Everything that comes from the target is escaped, so the line stays one line.
        """
        who = f" by tid {self.tid}" if self.tid else ""
        what = f"refused with {self.ruling}" if self.refused else self.ruling
        return f"{self.spelled()}{who}: {what}: {self.why()}"

    def as_dict(self) -> dict[str, Any]:
        """The same for a JSON log; all values are strings, numbers, dicts of strings, or None."""
        return {
            "event": "refused" if self.refused else "decided",
            "call": self.call,
            "arch": self.arch,
            "tid": self.tid or None,
            "arguments": dict(self.arguments),
            "ruling": self.ruling,
            "rule": self.rule,
            "reason": self.reason,
            "tip": self.tip or None,
            "tip_before": self.before or None,
            "change": self.change or None,
        }


def explain(policy: Policy, view: CallView) -> Explanation:
    """See :meth:`proctor.policy.policy.Policy.explain`."""
    try:
        decision = policy.decide(view)
    except Unknowable as unknown:
        number = unknown.errno or policy.settings.on_error
        return _made(view, None, errno_name(number), unknown.why)
    rule, ruling = decision.rule, decision.ruling
    known = view.arch in policy.settings.arches
    if ruling.runs or ruling.kind in (PERFORM, RETURN) or not known:
        return _made(view, rule, str(ruling), decision.because)
    return _made(view, rule, str(ruling), decision.because)._replace(
        tip=_tip(policy, view, rule),
        before=rule.name if rule else "",
        change=_change(policy, view, rule),
    )


def _made(view: CallView, rule: Rule | None, ruling: str, reason: str) -> Explanation:
    return Explanation(
        view.name, view.arch, view.tid, describe(view), rule.name if rule else None, ruling, reason
    )


def _signature(view: CallView) -> Signature | None:
    from proctor.filter.signatures import signature

    try:
        return signature(view.name, view.arch)
    except ValueError:
        return None


# Arguments for people -----------------------------------------------------------------------------


def describe(view: CallView) -> dict[str, str]:
    """The arguments that say what a call is about, rendered; pointers are left out unless known."""
    signature = _signature(view)
    if signature is None:
        return {}
    out: dict[str, str] = {}
    raw = tuple(view.registers)
    for arg in signature.args:
        value = arg.value(raw)
        if arg.role in ("path", "string"):
            data = view.hint(arg.name)
            if data is not None:
                out[arg.name] = quoted_bytes(data)
        elif arg.role == "mode" and signature.first("dev"):
            out["type"] = _TYPE_NAMES.get(value & _S_IFMT, f"{value & _S_IFMT:#o}")
            out[arg.name] = f"{value & ~_S_IFMT:#o}"
        elif arg.role == "dev":
            out["device"] = "{}:{}".format(*device_of(value))
        elif arg.role == "mode":
            out[arg.name] = f"{value:#o}"
        elif arg.role == "sockaddr":
            try:
                address = view.address(arg.name)
            except Unknowable:
                continue
            if address is not None:
                out[arg.name] = addresses.spell(address)
        elif arg.role in ("flags", "cmd"):
            out[arg.name] = _named(arg, value, view.arch)
        elif arg.role == "dirfd" and value == -100:
            continue
        elif arg.role not in (
            "strings",
            "iovec",
            "struct",
            "timespec",
            "pointer",
            "address",
            "socklen",
        ):
            out[arg.name] = str(value)
    return out


def _named(arg: Arg, value: int, arch: str) -> str:
    from proctor.call import flags

    if arg.family is None or arg.family not in flags.family_names():
        return str(value)
    return str(flags.decode(arg.family, value, arch))


def quoted_bytes(data: bytes) -> str:
    """Bytes of the target in double quotes: printable text as it is, the rest as ``\\xHH``."""
    return quoted(
        "".join(_shown(char) for char in data.decode("utf-8", "surrogateescape"))
    ).replace("\\\\x", "\\x")


def _shown(char: str) -> str:
    if 0xDC80 <= ord(char) <= 0xDCFF:
        return f"\\x{ord(char) - 0xDC00:02x}"
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))


# Tips ------------------------------------------------------------------------------------------------


def _tip(policy: Policy, view: CallView, rule: Rule | None) -> str:
    """The smallest rule that lets this call through, as TOML."""
    from proctor.emulate import SUPPORTED

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
    signature = _signature(view)
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
    signature = _signature(view)
    if signature is None:
        return {}
    raw = tuple(view.registers)
    mode, dev, flags = (signature.first(role) for role in ("mode", "dev", "flags"))
    when: dict[str, Spec] = {}
    if mode is not None and dev is not None:
        kind = mode.value(raw) & _S_IFMT
        if kind not in _TYPE_NAMES:
            when[mode.name] = {"mask": _S_IFMT, "is": kind}
        else:
            when["type"] = _TYPE_NAMES[kind]
            if _TYPE_NAMES[kind] in ("char", "block"):
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


def _change(policy: Policy, view: CallView, decided: Rule | None) -> str:
    """An addition to an earlier rule that lets calls through and misses this one by one list."""
    signature = _signature(view)
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
