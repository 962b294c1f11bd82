"""What is answered when handlers do not."""

from __future__ import annotations

from proctor.call.verdict import Deny, HandOver, Perform, Verdict


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
        if isinstance(on_deadline, (Perform, HandOver)):
            raise TypeError(
                f"on_deadline={on_deadline}: it is given for many calls, at once: use deny(), "
                "answer(), let_run() or let_run_unsafe()"
            )
        self.default = default
        self.on_error = on_error
        self.deadline = deadline
        self.on_deadline = on_deadline
        self.close_verdict = close_verdict
