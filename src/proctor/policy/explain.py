"""Why a call got its verdict, and what would let it through.

An :class:`Explanation` names the rule that decided and carries a *tip*: the smallest rule that would
let this very call through, as TOML ready to paste before the deciding rule; where a rule for such
calls exists and misses this one by a single condition, also the addition to that rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from proctor.policy import addresses, tips
from proctor.policy.arguments import device_of
from proctor.policy.rules import (
    ALLOW,
    PERFORM,
    RETURN,
    CallView,
    Rule,
    Unknowable,
    errno_name,
)
from proctor.policy.tips import S_IFMT, TYPE_NAMES, signature_of
from proctor.words import escaped

if TYPE_CHECKING:
    from proctor.policy.policy import Policy
    from proctor.syscalls.signatures import Arg


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
    #: Seconds that deciding and performing may take before the caller gets :attr:`late` instead;
    #: None where that is no question.
    deadline: float | None = None
    #: The errno's name then; empty without a deadline.
    late: str = ""

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
        if self.deadline is not None:
            what += f" (within {self.deadline:g} s, else {self.late})"
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
            "deadline": self.deadline,
            "on_deadline": self.late or None,
        }


class Reason(str):
    """A verdict's reason that knows its explanation: text to whoever prints it, and
    ``verdict.reason.explanation.as_dict()`` to a log that wants the parts."""

    __slots__ = ("explanation",)

    explanation: Explanation

    @classmethod
    def of(cls, explanation: Explanation) -> Reason:
        """:meth:`Explanation.why`, with the explanation behind it."""
        made = cls(explanation.why())
        made.explanation = explanation
        return made


def explain(policy: Policy, view: CallView) -> Explanation:
    """See :meth:`proctor.policy.policy.Policy.explain`."""
    made = _explain(policy, view)
    seconds = policy.deadline(view.name)
    if seconds is None:
        return made
    return made._replace(deadline=seconds, late=errno_name(policy.settings.on_deadline))


def _explain(policy: Policy, view: CallView) -> Explanation:
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
        tip=tips.tip(policy, view, rule),
        before=rule.name if rule else "",
        change=tips.change(policy, view, rule),
    )


def _made(view: CallView, rule: Rule | None, ruling: str, reason: str) -> Explanation:
    return Explanation(
        view.name, view.arch, view.tid, describe(view), rule.name if rule else None, ruling, reason
    )


# Arguments for people -----------------------------------------------------------------------------


def describe(view: CallView) -> dict[str, str]:
    """The arguments that say what a call is about, rendered; pointers are left out unless known."""
    signature = signature_of(view)
    if signature is None:
        return {}
    out: dict[str, str] = {}
    raw = tuple(view.registers)
    for arg in signature.args:
        value = arg.value(raw)
        if arg.role in ("path", "string"):
            data = view.hint(arg.name)
            if data is not None:
                out[arg.name] = f'"{escaped(data)}"'
        elif arg.role == "mode" and signature.first("dev"):
            out["type"] = TYPE_NAMES.get(value & S_IFMT, f"{value & S_IFMT:#o}")
            out[arg.name] = f"{value & ~S_IFMT:#o}"
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
    from proctor.syscalls import flags

    if arg.family is None or arg.family not in flags.family_names():
        return str(value)
    return str(flags.decode(arg.family, value, arch))
