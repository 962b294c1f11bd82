"""What is answered when handlers do not."""

from __future__ import annotations

from proctor.call.verdict import Answer, Deny, LetRun, Perform, Verdict
from proctor.given import seconds


class Rules:
    """What is answered when handlers do not: see :class:`~proctor.supervisor.supervisor.Supervisor`."""

    __slots__ = ("close_verdict", "deadline", "default", "on_deadline", "on_error")

    def __init__(
        self,
        default: Verdict,
        on_error: Deny,
        deadline: float | None,
        on_deadline: Verdict,
        close_verdict: Deny,
    ) -> None:
        if not isinstance(on_deadline, (Deny, Answer, LetRun)):
            raise TypeError(
                f"on_deadline={on_deadline}: it is given for many calls, at once: use deny(), "
                "answer(), let_run() or let_run_unsafe()"
            )
        if not isinstance(default, (Deny, Answer, LetRun, Perform)):
            raise TypeError(
                f"default={default}: it is given for many calls: use deny(), answer(), perform(), "
                "let_run() or let_run_unsafe()"
            )
        for what, denial in (("on_error", on_error), ("close_verdict", close_verdict)):
            if not isinstance(denial, Deny):
                raise TypeError(f"{what}={denial}: use deny()")
        self.default = default
        self.on_error = on_error
        self.deadline = seconds("deadline", deadline)
        self.on_deadline = on_deadline
        self.close_verdict = close_verdict
