"""The handlers of a policy: real calls, looked at through the same rules as the filter."""

from __future__ import annotations

import errno as _errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from proctor.call.verdict import Allow, Verdict, answer, deny, let_run, let_run_unsafe, perform
from proctor.errors import CallerInvisible, CallGone, NotPermitted, Unsupported
from proctor.policy.addresses import Address
from proctor.policy.conditions import PathCondition
from proctor.policy.rules import DENY, KILL, PERFORM, RETURN, Ruling, Unknowable
from proctor.policy.waits import deadline_of, is_slow
from proctor.supervisor.handlers import Handler

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.policy.policy import Decision, Policy, Report


_Seen = TypeVar("_Seen")


class PolicyHandler(Handler):
    """A handler whose calls the policy's own filter notifies: nothing is to be added for it."""

    __slots__ = ()

    #: Whoever makes a filter of handlers leaves those out that are in a policy's filter already.
    in_filter = True


def build(policy: Policy, performers: Any, report: Report | None) -> list[Handler]:
    """See :meth:`proctor.policy.policy.Policy.handlers`."""
    decide = _decider(policy, performers, report)
    ways: dict[tuple[bool, float | None], list[str]] = {}
    for name in policy.calls:
        slow = is_slow(policy, name, performs=performers is not None, reported=report is not None)
        ways.setdefault((not slow, deadline_of(policy, name)), []).append(name)
    made: list[Handler] = []
    for (quick, deadline), names in ways.items():
        handler = PolicyHandler(names, decide, quick=quick, deadline=deadline, label="policy")
        handler.performs = performers is None and any(map(policy.performs, names))
        made.append(handler)
    return made


def _decider(
    policy: Policy, performers: Any, report: Report | None
) -> Callable[[Call], Verdict | None]:
    def decide(call: Call) -> Verdict | None:
        view = LiveView(call)
        try:
            decision = policy.decide(view)
        except Unknowable as unknown:
            if unknown.errno:
                return deny(
                    unknown.errno
                )  # what the kernel says to such a call: no refusal of ours
            if report is not None:
                report(policy.explain(view))
            return deny(policy.settings.on_error, f"on_error: {unknown.why}")
        ruling, because = decision.ruling, decision.because
        if ruling.kind in (DENY, KILL) or (report is not None and not ruling.runs):
            from proctor.policy.explain import Reason

            explanation = policy.explain(view)
            if ruling.kind in (DENY, KILL):
                because = Reason.of(explanation)
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


def _pinned_check(policy: Policy, view: LiveView, decision: Decision) -> Allow | None:
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

    pins: dict[str, bytes] = {}

    def allow(argument: str, pinned: bytes) -> bool:
        pins[argument] = pinned
        again = PinnedView(view, pins)
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


#: What resolving a path fails with for reasons that the kernel would find as well.
_KERNELS_OWN: Final = frozenset(
    (
        _errno.EFAULT, _errno.ENOENT, _errno.ENOTDIR, _errno.ELOOP, _errno.ENAMETOOLONG,
        _errno.EBADF, _errno.EACCES, _errno.EINVAL, _errno.EXDEV, _errno.EAGAIN,
    )
)  # fmt: skip


class LiveView:
    """A notified call as rules see it.  Each thing is looked at once, and kept."""

    __slots__ = ("_call", "_seen", "arch", "name", "registers", "tid")

    def __init__(self, call: Call) -> None:
        self._call = call
        self.name: str = call.name
        self.arch: str = call.abi
        self.registers: tuple[int, ...] = call.registers
        self.tid: int = call.tid
        self._seen: dict[tuple[str, str], Any] = {}

    def _once(self, what: str, argument: str, look: Callable[[str], _Seen]) -> _Seen:
        key = (what, argument)
        if key not in self._seen:
            try:
                self._seen[key] = look(argument)
            except CallGone:
                raise
            except (CallerInvisible, NotPermitted, Unsupported) as error:
                self._seen[key] = Unknowable(0, str(error))
            except OSError as error:
                number = error.errno or 0
                why = f"{argument} of {self.name}: {error.strerror or error}"
                self._seen[key] = Unknowable(number if number in _KERNELS_OWN else 0, why)
        found = self._seen[key]
        if isinstance(found, Unknowable):
            raise found
        seen: _Seen = found
        return seen

    def path(self, argument: str) -> bytes | None:
        """The path in ``argument``, resolved in the caller's view."""
        return self._once("path", argument, self._resolve)

    def _resolve(self, argument: str) -> bytes | None:
        from proctor.call.path.following import meaning

        call = self._call
        if call.args[argument] is None:  # NULL can mean the descriptor beside it
            arg = call.signature.arg(argument) if call.signature is not None else None
            if arg is None or not meaning(call, arg).empty:
                return None
        with call.resolve(argument) as located:
            return located.path

    def string(self, argument: str) -> bytes | None:
        """The bytes of a string argument."""
        return self._once("string", argument, self._read)

    def _read(self, argument: str) -> bytes | None:
        text: bytes | None = self._call.args[argument]
        return text

    def address(self, argument: str) -> Address | None:
        """The socket address in ``argument``."""
        return self._once("address", argument, self._address)

    def _address(self, argument: str) -> Address | None:
        from proctor.policy.live_address import convert

        return convert(self._call, self._call.args[argument])

    def identity(self, what: str) -> int:
        """``uid`` or ``gid``: effective, as the monitor's user namespace counts."""
        return self._once("identity", what, self._identity)

    def _identity(self, what: str) -> int:
        caller = self._call.caller
        number: int = (caller.uids if what == "uid" else caller.gids).effective
        return number

    def hint(self, argument: str) -> bytes | None:
        """What a string argument holds, if it can be read."""
        try:
            return self._once("string", argument, self._read)
        except (Unknowable, CallGone):
            return None


class PinnedView:
    """A call whose paths are those of the objects a performer pinned; the rest as seen before."""

    __slots__ = ("_pins", "_view")

    def __init__(self, view: LiveView, pins: dict[str, bytes]) -> None:
        self._view = view
        self._pins = pins

    def path(self, argument: str) -> bytes | None:
        """The path that is pinned for an argument; what is not asked about yet as seen before."""
        return self._pins[argument] if argument in self._pins else self._view.path(argument)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)
