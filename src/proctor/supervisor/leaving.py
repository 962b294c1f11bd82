"""Handing listeners over on purpose: whoever serves them next, with the same journals, decides what is received and
not answered, as after our death; but nothing is left of which nobody knows how far it came.

Nobody receives any more.  What is being performed goes on to its end and is answered; what takes longer is
interrupted, as by a signal for its caller, as soon as one would end it, and is then as if nobody had begun
(:attr:`Later.interrupt <proctor.supervisor.ports.Later>`).  The rest waits as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proctor.supervisor.ports import INSIST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proctor.kernel.notification import NotificationLike
    from proctor.supervisor.deciding import Decider
    from proctor.supervisor.jobs import Job, Served
    from proctor.supervisor.ports import Engine
    from proctor.supervisor.role import Role
    from proctor.supervisor.world_port import World

#: Seconds for what is just being performed, before it is interrupted.
_GRACE: Final = 0.1
#: Seconds between looks at what no descriptor tells of.
_LOOK: Final = 0.01
#: Seconds that whoever receives has to give that up.
_PATIENCE: Final = 5.0


def leave(
    world: World,
    engine: Engine,
    decider: Decider,
    role: Role,
    served: Iterable[Served],
    patience: float,
) -> int:
    """See :meth:`Supervisor.hand_over <proctor.supervisor.supervisor.Supervisor.hand_over>`; the supervisor is closed for
    others by then."""
    decider.leave_off()
    token = role.lead(INSIST, _PATIENCE)
    for each in served:
        try:
            engine.remove(each.listener, _left)
        except ValueError:
            pass  # somebody closed it before us
    began = world.clock()
    while (left := _performed(decider)) and token:
        now = world.clock()
        if now - began >= patience:
            break
        for job in left if now - began >= _GRACE else ():
            decider.interrupt(job)  # which comes to nothing where it was, and where no signal would
        token = role.finish_some(token, _LOOK, _PATIENCE)
    return len(_performed(decider))


def _left(notification: NotificationLike) -> None:
    """It was received, and is in the journal."""


def _performed(decider: Decider) -> list[Job]:
    return [job for job in decider.calls.pending(None) if not job.done and decider.performs(job)]
