"""Rules that ask: what is shown, what a yes means, and how it is remembered.

What is shown was looked at, and the caller can change its memory while somebody thinks.  So a call that
can be performed is performed after a yes, on what was shown: its values were taken once, and where its
paths lead is asked again of what is pinned.  Of others only registers are looked at and shown, unless
the rule says ``unsafe``.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from proctor.asking import acting
from proctor.asking.asker import Asker
from proctor.asking.question import Answer, Asking, Question, spoken
from proctor.call import passwords
from proctor.call.verdict import Deny, Perform, Verdict, deny, let_run, let_run_unsafe
from proctor.errors import CallError, ProctorError
from proctor.observe.callers import Callers
from proctor.performing import SUPPORTED
from proctor.policy.answers import Answers
from proctor.policy.explain import exactly
from proctor.policy.look import Look, Unknowable
from proctor.policy.rules import DENY, KILL_CONTAINER, PERFORM, Decision, Reason, errno_name
from proctor.supervisor.ports import Later
from proctor.words import escaped, printable

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.ports import ContainerPort
    from proctor.policy.policy import Policy

#: Parents of a process that are shown.
_PARENTS: Final = 8
#: Of a call that is made again.
_WAS_FROZEN: Final = "refused before it was frozen"


class Asks:
    """Asks for policies, and remembers what was answered.

    :param asker: knows whom.
    :param files: where answers are kept that hold for longer than a call: of a policy for good, or of a
        container as long as there is one; None: nowhere but here.
    """

    def __init__(
        self,
        asker: Asker | None = None,
        files: Callable[[Policy | ContainerPort], str | None] | None = None,
    ) -> None:
        self._asker = Asker() if asker is None else asker
        self._files = files or (lambda whose: None)
        self._most: float | None = None
        self._callers = Callers()
        self._for_good: dict[str, Answers] = {}
        self._of: WeakKeyDictionary[Any, Answers] = WeakKeyDictionary()

    def within(self, seconds: float) -> Asks:
        """The same, for calls that have to be decided within so long."""
        other = copy(self)
        other._most = seconds
        return other

    def forget(self, container: ContainerPort) -> None:
        """There is no such container any more."""
        self._of.pop(container, None)
        path = self._files(container)
        if path is not None:
            try:
                os.unlink(path)
            except OSError:
                pass  # nothing was answered

    # Answers that are known -----------------------------------------------------------------

    def _answers(self, policy: Policy, container: ContainerPort | None) -> Answers:
        known: Any = self._for_good if container is None else self._of
        key = policy.name if container is None else container
        found: Answers | None = known.get(key)
        if found is None or found.arches != policy.settings.arches:
            path = self._files(policy if container is None else container)
            read = policy.read_answers
            assert read is not None  # it was loaded: other rules do not ask
            found = known[key] = Answers(path, policy.settings.arches, read, self._asker.trouble)
        return found

    def _known(self, policy: Policy, look: Look, remember: str) -> tuple[Answers, Decision] | None:
        if remember == "once":
            return None
        kept = [self._answers(policy, look.call.container)]
        if remember == "always":
            kept.append(self._answers(policy, None))
        for answers in kept:
            decision = answers.judge(look)
            if decision is not None:
                return answers, decision
        return None

    # A call ---------------------------------------------------------------------------------

    def decide(self, policy: Policy, look: Look, decision: Decision) -> Verdict | Later:
        """Decide a call that a rule asks about.

        :raises CallGone: its caller is gone.
        """
        asking: Asking = decision.ruling.options  # type: ignore[assignment]
        if self._most is not None:
            asking = asking._replace(timeout=min(asking.timeout, self._most))
        call = look.call
        refused = acting.interrupted(call)
        if refused:
            return deny(
                refused, Reason(f"{decision.because}: {_WAS_FROZEN}", decision.because.rule)
            )
        performed = call.name in SUPPORTED
        paths: dict[str, bytes] = {}
        if performed or decision.ruling.unsafe:
            try:
                paths = _paths(look)
            except Unknowable as unknown:
                # It leads nowhere, as far as we see: whoever performs finds what the caller would find,
                # and gets at nothing.
                if performed:
                    because = decision.because
                    return Perform(
                        lambda argument, path: Deny(asking.default or 1, because), because
                    )
                return deny(unknown.errno or policy.settings.on_error, unknown.why)
        known = self._known(policy, look, asking.remember)
        if known is not None:
            return self._as_known(policy, look, decision, *known)
        question = self._question(policy, look, decision, asking, paths)

        def remember(answer: Answer) -> None:
            container = call.container if answer.remember == "container" else None
            rule = question.tip if not answer.errno else _refusing(question.tip, answer.errno)
            note = f"{' '.join(question.lines()[:2])}; by {answer.by}"
            self._answers(policy, container).add(rule, note)

        def known_by_now() -> Answer | None:
            found = self._known(policy, look, asking.remember)
            if found is None:
                return None
            ruling = found[1].ruling
            if ruling.runs or ruling.kind in (DENY, PERFORM):
                number = ruling.value if ruling.kind == DENY else 0
                return Answer(number, by=f"an answer to the same question, {found[1].because}")
            return None

        def go_on(answer: Answer) -> Verdict | Later:
            return _go_on(look, decision, answer, paths, asking.performing)

        return self._asker.ask(question, call.container, go_on, known_by_now, remember, call.valid)

    def _as_known(
        self, policy: Policy, look: Look, decision: Decision, answers: Answers, known: Decision
    ) -> Verdict:
        because = Reason(
            f"{decision.because}, answered before: {known.because}", decision.because.rule
        )
        if known.ruling.kind == PERFORM:
            pins: dict[str, bytes] = {}

            def allow(argument: str, pinned: bytes) -> bool:
                pins[argument] = pinned
                again = look.with_pinned(pins)
                try:
                    asked, said = policy.judge(again), answers.judge(again)
                except Unknowable:
                    return False
                return asked.rule is decision.rule and said is not None and said.rule is known.rule

            asking: Asking = decision.ruling.options  # type: ignore[assignment]
            return Perform(allow, because, known.ruling.options or asking.performing)
        if known.ruling.unsafe:
            return let_run_unsafe(because)
        if known.ruling.runs:
            return let_run(because)
        return deny(known.ruling.value or policy.settings.on_error, because)

    def _question(
        self,
        policy: Policy,
        look: Look,
        decision: Decision,
        asking: Asking,
        paths: dict[str, bytes],
    ) -> Question:
        call = look.call
        read = call.name in SUPPORTED or bool(decision.ruling.unsafe)
        told = self._callers.told(call)
        caller: dict[str, Any] = json.loads(f"{{{told}}}")
        try:
            caller["uid"] = call.caller.uids.effective
        except (CallError, OSError):
            pass  # it may not be looked at
        assert decision.rule is not None
        tip = exactly(look, decision)
        if not tip:
            asking = asking._replace(remember="once")
        return Question(
            call.describe(read),
            {
                name: escaped(passwords.of(call.name, name, path), "\\")
                for name, path in paths.items()
            },
            call.container.name,
            policy.name,
            decision.rule.name,
            caller,
            _parents(caller.get("pid", 0)),
            tip,
            asking,
        )


def _paths(look: Look) -> dict[str, bytes]:
    """Where the paths of a call lead, its address's too, by the names of their arguments.

    :raises Unknowable: that cannot be told.
    """
    found: dict[str, bytes] = {}
    signature = look.call.signature
    for arg in signature.args if signature is not None else ():
        if arg.role == "path":
            path = look.at("path", arg.name)
            if path is not None:
                found[arg.name] = path
        elif arg.role == "sockaddr" and look.named(arg.name) is not None:
            address = look.at("address", arg.name)
            if address is not None and address.path is not None:
                found[arg.name] = address.path
    return found


def _parents(pid: int) -> list[tuple[int, str]]:
    """Of a process; by numbers, for people: any of them may have ended meanwhile."""
    found: list[tuple[int, str]] = []
    while pid > 1 and len(found) <= _PARENTS:
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                text = file.read(4096)
        except OSError:
            break
        name, _, rest = text.partition(b"(")[2].rpartition(b")")
        found.append((pid, escaped(name)))
        pid = int(rest.split()[1])
    return found[1:]


def _go_on(
    look: Look, decision: Decision, answer: Answer, paths: dict[str, bytes], options: object
) -> Verdict | Later:
    call = look.call
    said = "allowed" if not answer.errno else f"refused ({spoken(answer.errno)})"
    because = Reason(f"{decision.because}: {said} by {printable(answer.by)}", decision.because.rule)
    if answer.then:
        done = _then(answer.then, call, answer.errno)
        because = Reason(f"{because}; container: {done}", because.rule)
    if answer.errno:
        verdict: Verdict = deny(answer.errno, because)
    elif call.name in SUPPORTED:
        verdict = Perform(_only(paths), because, options)
    elif decision.ruling.unsafe:
        verdict = let_run_unsafe(because)
    else:
        verdict = let_run(because)
    then: Verdict | Later = after(answer.delay, lambda: verdict)
    return then


def _then(what: str, call: Call, error: int) -> str:
    """Kill or freeze its container; what became of that.

    :param error: with which the call is refused."""
    try:
        if what == "kill":
            acting.kill(call)
        else:
            acting.freeze(call, error)
    except (CallError, OSError, ProctorError) as problem:
        return str(problem)
    return "killed" if what == "kill" else "frozen"


def to_container(decision: Decision, call: Call) -> Reason:
    """Do to its container what a rule says; why the call is denied."""
    if decision.ruling.kind == KILL_CONTAINER:
        done = _then("kill", call, errno.EPERM)
    elif acting.interrupted(call):
        done = _WAS_FROZEN
    else:
        done = _then("freeze", call, errno.EPERM)
    return Reason(f"{decision.because}; container: {done}", decision.because.rule)


def _only(paths: dict[str, bytes]) -> Callable[[str, bytes], bool | Deny]:
    """Allows what was shown."""

    def allow(argument: str, pinned: bytes) -> bool | Deny:
        if paths.get(argument) == pinned:
            return True
        return deny(13, f"{argument} leads elsewhere than when somebody was asked")

    return allow


def after(seconds: float, go_on: Callable[[], Any]) -> Any:
    """Go on after so long."""
    if not seconds:
        return go_on()
    fd = os.eventfd(0, os.EFD_CLOEXEC)

    def resume() -> Any:
        os.close(fd)
        return go_on()

    return Later(fd, resume, lambda: os.close(fd), seconds)


def _refusing(tip: str, number: int) -> str:
    """The rule that refuses what another one lets through."""
    lines = tip.rstrip().splitlines()
    name = lines[1].replace('"allow ', '"refuse ', 1)
    return "\n".join([lines[0], name, *lines[2:-1], f'deny = "{errno_name(number)}"']) + "\n"
