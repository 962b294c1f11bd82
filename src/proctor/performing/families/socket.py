"""socket: made in another network from the start, so that nothing of it has to be replaced later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.performing.given import Given
from proctor.performing.networks.routes import checked

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work


class Options(Given):
    """See docs/families/bind.md.

    :param network: as for connect.
    """

    network: str = ""

    def check(self) -> None:
        checked(self.network)


def perform(task: Task) -> Work:
    """Make a socket for the caller and hand it over."""
    from proctor.performing.networks import binding

    return (yield from binding.make(task, task.options(Options).network))
