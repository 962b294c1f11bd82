"""The handlers of a policy: real calls, looked at through the same rules as the filter.

Where a path leads is found out by whoever sees what the caller sees (:class:`~proctor.supervisor.ports.Seek`): a rule
may not tell the caller what it could not see itself.
"""

from __future__ import annotations

import errno
from operator import or_
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import Allow, Deny, Perform, Verdict, deny
from proctor.errors import CallGone
from proctor.policy.further import Memory
from proctor.policy.look import Look, Unknowable, Unlooked, Unread, Unresolved, What, meant
from proctor.policy.rules import (
    ASK,
    FREEZE,
    KILL,
    KILL_CONTAINER,
    PERFORM,
    Decision,
    Reason,
    Ruling,
)
from proctor.policy.settled import by_path, by_registers, constant, settled
from proctor.supervisor.handlers import Handler
from proctor.supervisor.ports import Seek

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.call.call import Call
    from proctor.policy.asking import Asks
    from proctor.policy.further import Condition
    from proctor.policy.policy import Policy
    from proctor.supervisor.ports import Later
    from proctor.supervisor.usual import ByPath

#: Families that perform all of their calls of which somebody asks what the paths lead to.
_BY_PATHS: Final = ("attributes", "mknod", "names", "open", "stat")


class PolicyHandler(Handler):
    """A handler whose calls the policy's own filter notifies: nothing is to be added for it."""

    __slots__ = ("policy",)

    policy: Policy
    #: Whoever makes a filter of handlers leaves those out that are in a policy's filter already.
    in_filter = True

    def by_path(self, call: Call) -> ByPath | None:
        return by_path(self.policy, call)

    def constant(self, call: Call) -> Verdict | None:
        """See there."""
        return constant(self.policy, call)

    def by_registers(self, call: Call) -> tuple[bool, int]:
        """See there."""
        return by_registers(self.policy, call)

    def decide_seen(
        self, call: Call, argument: str, name: bytes | int | None
    ) -> Verdict | Later | Seek:
        """See there."""
        return _decide(self.policy, Look.of_callers(call).seen(argument, name), None)


def build(policy: Policy, asks: Asks | None = None) -> list[Handler]:
    """See :meth:`proctor.policy.policy.Policy.handlers`."""
    if asks is None and any(rule.ruling.kind == ASK for rule in policy.rules):
        from proctor.policy.asking import Asks

        asks = Asks()

    def decide(call: Call) -> Verdict | Later | Seek:
        return policy.plan(call).always or _decide(policy, Look.of_callers(call), asks)

    ways: dict[float | None, list[str]] = {}
    for name in policy.calls:
        ways.setdefault(_deadline(policy, name), []).append(name)
    made: list[Handler] = []
    for deadline, names in ways.items():
        handler = PolicyHandler(names, decide, deadline=deadline, label="policy")
        handler.policy = policy
        handler.performs = any(map(policy.performs, names))
        made.append(handler)
    return made


def as_told(look: Look, decide: Callable[[], Any]) -> Any:
    """What is decided, begun anew whenever somebody has found out where something leads."""
    try:
        return decide()
    except Unlooked as unlooked:
        key = unlooked.key

        def then(found: bytes | int | None) -> Any:
            look.told(key, found)
            return as_told(look, decide)

        return Seek(unlooked.what, then, unlooked.performed)


def _decide(policy: Policy, look: Look, asks: Asks | None) -> Verdict | Later | Seek:
    return as_told(look, lambda: _decide_now(policy, look, asks))  # type: ignore[no-any-return]


def _decide_now(policy: Policy, look: Look, asks: Asks | None) -> Verdict | Later | Seek:
    plan = policy.plan(look.call)
    try:
        if plan.performs:
            performed = _by_what_is_pinned(policy, look)
            if performed is not None:
                return performed
        decision = policy.by(plan, look)
    except Unknowable as unknown:
        return unknowable(policy, look.call, unknown)
    rule = decision.rule
    if rule is None or not (rule.delay or decision.ruling.kind == ASK):
        return decided(policy, look, decision)
    return _at_length(policy, look, decision, asks)


def unknowable(policy: Policy, call: Call, unknown: Unknowable) -> Verdict:
    """What is said where rules cannot decide.  Where they would have the call made, the kernel says in its own order what is wrong with
    one that cannot be read; but not by a family that might let it run."""
    from proctor.performing import registry

    if isinstance(unknown, Unread) and policy.plan(call).performs:
        if meant(call) == "connect":
            from proctor.performing.families import connect

            return Perform(None, unknown.why, connect.Unread())
        if registry.family(call.name) in _BY_PATHS:  # what can be read by then no rule has seen
            return Perform(lambda argument, path: False, unknown.why)
    if unknown.errno:
        return deny(unknown.errno)  # what the kernel says to such a call: no refusal of ours
    return deny(policy.settings.on_error, f"on_error: {unknown.why}")


def _at_length(
    policy: Policy, look: Look, decision: Decision, asks: Asks | None
) -> Verdict | Later | Seek:
    """What waits, or asks."""
    from proctor.policy.asking import after

    def go_on() -> Verdict | Later | Seek:
        if decision.ruling.kind == ASK:
            return as_told(look, ask)  # type: ignore[no-any-return]
        return decided(policy, look, decision)

    def ask() -> Verdict | Later:
        assert asks is not None
        return asks.decide(policy, look, decision)

    assert decision.rule is not None
    said: Verdict | Later | Seek = after(decision.rule.delay, go_on)
    return said


def decided(policy: Policy, look: Look, decision: Decision) -> Verdict:
    """The verdict for what the rules say."""
    ruling = decision.ruling
    if ruling.refuses:
        return _refused(policy, look, decision)
    if ruling.kind == PERFORM:
        return Perform(_pinned_check(policy, look, decision), decision.because, ruling.options)
    return settled(policy, decision)


def _refused(policy: Policy, look: Look, decision: Decision) -> Deny:
    """A refusal; what would let the call through is found out if somebody is told of it."""
    if decision.ruling.kind == KILL:
        _kill(look.call)
    elif decision.ruling.kind in (KILL_CONTAINER, FREEZE):
        from proctor.policy.asking import to_container

        return deny(errno.EPERM, to_container(decision, look.call))

    def explained() -> Reason:
        from proctor.policy.explain import explain

        return explain(policy, look.freely(), decision)

    refused = settled(policy, decision)
    assert type(refused) is Deny
    look.call.explains = refused, explained
    return refused


class _Unseen(Exception):
    """A rule asks where a path leads, and nobody looked yet."""


class _Blind(Look):
    """A call of whose paths nothing is seen."""

    __slots__ = ()

    def at(self, what: What, argument: str) -> Any:
        """:raises _Unseen: it is a path."""
        if what == "path":
            raise _Unseen
        if what == "address" and getattr(self.named(argument), "kind", "") == "pathname":
            raise _Unseen
        return super().at(what, argument)


def _by_what_is_pinned(policy: Policy, look: Look) -> Verdict | None:
    """Where rules about paths have a call performed or refused, and nothing else, the path is walked
    once: by whoever performs, with the caller's rights; the rules are asked about what that pinned.
    None where they decide otherwise, or without a path."""
    call = look.call
    blind = look.blind(_Blind)
    possible: list[Ruling] = []
    unseen = False
    for rule, clause in policy.chain(call.abi, call.name):
        if rule.delay:
            return None
        try:
            if not clause.holds(blind):
                continue
        except Unresolved:
            return None
        except _Unseen:
            unseen = True
            possible.append(rule.ruling)
            continue
        possible.append(rule.ruling)
        break
    else:
        possible.append(policy.settings.default)
    performed = [each.kind == PERFORM for each in possible]
    options = [each.options for each in possible if each.kind == PERFORM]
    if any(each != options[0] for each in options):
        return None  # how it is to be performed is for one rule to say
    if not unseen or not any(performed):
        return None
    if not all(map(or_, performed, [each.refuses for each in possible])):
        return None
    _see_together(
        look, [each for _, clause in policy.chain(call.abi, call.name) for each in clause.further]
    )
    because = Reason("rules about its path")
    pins: dict[str, bytes] = {}

    def allow(argument: str, pinned: bytes) -> bool | Deny:
        pins[argument] = pinned
        seen = look.with_pinned(pins)
        try:
            decision = policy.judge(seen)
        except Unlooked as unlooked:
            return deny(
                policy.settings.on_error, f"on_error: {unlooked} is not among what is performed"
            )
        except Unknowable as unknown:
            return deny(unknown.errno or policy.settings.on_error, f"on_error: {unknown.why}")
        because.rule = decision.because.rule
        if decision.ruling.kind == PERFORM:
            return True
        return _refused(policy, seen, decision)

    return Perform(allow, because, options[0])


def _see_together(look: Look, conditions: list[Condition]) -> None:
    """Of a call that is about several paths one is pinned before the other: for rules about several of them it is
    found out before that where they lead.

    :raises Unlooked: by others."""
    known = look.call.signature
    if known is None or sum(arg.role in ("path", "sockaddr") for arg in known.args) < 2:
        return
    for each in conditions:
        if isinstance(each, Memory) and each.looks_at_path:
            try:
                look.at(each.what, each.argument)
            except Unlooked as unlooked:
                unlooked.performed = True
                raise
            except Unknowable:
                pass  # as whoever judges will see


def _pinned_check(policy: Policy, look: Look, decision: Decision) -> Allow | None:
    """What is asked about each thing that was pinned; None if no condition is about paths.

    The whole chain is decided again with the pinned path in place of the resolved one, so that an
    earlier rule which refuses that path refuses it here as well.
    """
    chain = policy.chain(look.call.abi, look.call.name)
    conditions = [each for _, clause in chain for each in clause.further]
    if not any(isinstance(each, Memory) and each.looks_at_path for each in conditions):
        return None
    pins: dict[str, bytes] = {}

    def allow(argument: str, pinned: bytes) -> bool:
        pins[argument] = pinned
        try:
            again = policy.judge(look.with_pinned(pins))
        except (Unknowable, Unlooked):
            return False
        return again.rule is decision.rule

    return allow


def _kill(call: Call) -> None:
    """End the caller's process as the filter would; its call never runs."""
    from proctor.kernel.pidfd import send_signal

    if not send_signal(call.caller.anchor()):
        raise CallGone()


# Who decides, and for how long ------------------------------------------------------------------


def _deadline(policy: Policy, name: str) -> float | None:
    """The seconds that the rules about a call give it; None: as the policy says at its top."""
    given = (
        rule.deadline for arch in policy.settings.arches for rule, _ in policy.chain(arch, name)
    )
    return next((seconds for seconds in given if seconds is not None), None)
