"""The handlers of a policy: real calls, looked at through the same rules as the filter."""

from __future__ import annotations

import errno as _errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proctor.call.verdict import Verdict, answer, deny, let_run, let_run_unsafe, perform
from proctor.kernel.errors import CallGone, MemoryUnreadable
from proctor.policy.addresses import FAMILIES, Address
from proctor.policy.conditions import PathCondition
from proctor.policy.rules import DENY, KILL, PERFORM, RETURN, Clause, Rule, Ruling, Unknowable
from proctor.supervisor.handlers import Handler

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.policy.policy import Decision, Policy, Report


class PolicyHandler(Handler):
    """A handler whose calls the policy's own filter notifies: nothing is to be added for it."""

    __slots__ = ()

    #: Whoever makes a filter of handlers leaves those out that are in a policy's filter already.
    in_filter = True


def build(policy: Policy, performers: Any, report: Report | None) -> list[Handler]:
    """See :meth:`proctor.policy.policy.Policy.handlers`."""
    decide = _decider(policy, performers, report)
    quick: list[str] = []
    slow: list[str] = []
    for name in policy.calls:
        (slow if _is_slow(policy, name, performers is not None) else quick).append(name)
    return [
        PolicyHandler(names, decide, quick=names is quick, label="policy")
        for names in (quick, slow)
        if names
    ]


def _is_slow(policy: Policy, name: str, performs: bool) -> bool:
    """Whether deciding may wait: resolving a path can (network and FUSE file systems), performing
    does."""
    return any(
        (performs and rule.ruling.kind == PERFORM)
        or any(
            isinstance(condition, PathCondition)
            or any(pattern.looks_at_path for pattern in getattr(condition, "patterns", ()))
            for condition in clause.further
        )
        for arch in policy.settings.arches
        for rule, clause in policy.chain(arch, name)
    )


def _decider(
    policy: Policy, performers: Any, report: Report | None
) -> Callable[[Call], Verdict | None]:
    def decide(call: Call) -> Verdict | None:
        view = LiveView(call)
        try:
            decision = policy.decide(view)
        except Unknowable as unknown:
            if report is not None:
                report(policy.explain(view))
            return deny(unknown.errno or policy.settings.on_error, unknown.why)
        ruling, because = decision.ruling, decision.because
        if ruling.kind in (DENY, KILL) or (report is not None and not ruling.runs):
            explanation = policy.explain(view)
            if ruling.kind in (DENY, KILL):
                because = explanation.why()
            if report is not None:
                report(explanation)
        if ruling.kind == PERFORM:
            allow = _pinned_check(policy, view, decision)
            if performers is None:
                return perform(allow, because)
            made: Verdict = performers.perform(call, allow=allow)
            return made
        if ruling.kind == KILL:
            return _kill(call, because)
        return verdict_of(ruling, because)

    return decide


def verdict_of(ruling: Ruling, because: str) -> Verdict:
    """The verdict for a ruling that needs no work of ours (not ``perform``, not ``kill``)."""
    if ruling.kind in (DENY, KILL):
        return deny(ruling.value if ruling.kind == DENY else _errno.EPERM, because)
    if ruling.kind == RETURN:
        return answer(ruling.value, because)
    if ruling.unsafe:
        return let_run_unsafe(f"{because}: {ruling.unsafe}")
    return let_run(because)


def _pinned_check(
    policy: Policy, view: LiveView, decision: Decision
) -> Callable[[bytes], bool] | None:
    """What the performer asks about the object it pinned; None if no condition is about paths.

    The whole chain is decided again with the pinned path in place of the resolved one, so that an
    earlier rule which refuses that path refuses it here as well.
    """
    chain = policy.chain(view.arch, view.name)
    if not any(
        isinstance(condition, PathCondition) for _, clause in chain for condition in clause.further
    ):
        return None
    rule = decision.rule

    def allow(pinned: bytes) -> bool:
        again = PinnedView(view, pinned)
        try:
            return policy.decide(again).rule is rule
        except Unknowable:
            return False

    return allow


def _kill(call: Call, because: str) -> Verdict:
    """End the caller's process as the filter would; its call never runs."""
    import signal

    try:
        signal.pidfd_send_signal(call.caller.anchor(), signal.SIGKILL)
    except ProcessLookupError:
        raise CallGone() from None
    return deny(_errno.EPERM, because)


class LiveView:
    """A notified call as rules see it.  What was looked at is kept: each thing is read once."""

    __slots__ = ("_call", "_seen", "arch", "name", "registers")

    def __init__(self, call: Call) -> None:
        self._call = call
        self.name: str = call.name or f"syscall_{call.nr}"
        self.arch: str = call.abi
        self.registers: tuple[int, ...] = tuple(call.raw)
        self._seen: dict[tuple[str, str], Any] = {}

    @property
    def tid(self) -> int:
        """The caller's thread id."""
        return self._call.tid

    def _once(self, what: str, argument: str, look: Callable[[], Any]) -> Any:
        key = (what, argument)
        if key not in self._seen:
            try:
                self._seen[key] = look()
            except Unknowable as unknown:
                self._seen[key] = unknown
        found = self._seen[key]
        if isinstance(found, Unknowable):
            raise found
        return found

    def path(self, argument: str) -> bytes | None:
        """The path in ``argument``, resolved in the caller's view."""
        return self._once("path", argument, lambda: self._resolve(argument))  # type: ignore[no-any-return]

    def _resolve(self, argument: str) -> bytes | None:
        raise NotImplementedError

    def string(self, argument: str) -> bytes | None:
        """The bytes of a string argument."""
        return self._once("string", argument, lambda: self._read(argument))  # type: ignore[no-any-return]

    def _read(self, argument: str) -> bytes | None:
        raise NotImplementedError

    def address(self, argument: str) -> Address | None:
        """The socket address in ``argument``."""
        return self._once("address", argument, lambda: self._address(argument))  # type: ignore[no-any-return]

    def _address(self, argument: str) -> Address | None:
        raise NotImplementedError

    def identity(self, what: str) -> int:
        """``uid`` or ``gid``: effective, as the monitor's user namespace counts."""
        raise NotImplementedError

    def hint(self, argument: str) -> bytes | None:
        """What a string argument holds, if it can be read."""
        return None


class PinnedView:
    """A call whose path is that of the object a performer pinned; the rest as seen before."""

    __slots__ = ("_path", "_view")

    def __init__(self, view: LiveView, path: bytes) -> None:
        self._view = view
        self._path = path

    def path(self, argument: str) -> bytes | None:
        """The pinned path: performed calls have one path argument."""
        return self._path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)


_ = (Clause, Rule, FAMILIES, MemoryUnreadable)
