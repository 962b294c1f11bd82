"""Whether every listener has its turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.model.kernel.linux import POLLIN

if TYPE_CHECKING:
    from proctor.model.kernel.listener import Notifications
    from proctor.model.sim.ledger import Ledger
    from proctor.model.sim.listener import SimListener


class Fairness:
    """Each listener that has something is received from within a bounded number of rounds."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.round = 0
        #: Listener to the round in which it was found readable.
        self._since: dict[SimListener, int] = {}

    def served(self, port: SimListener) -> None:
        """Something was received."""
        self._since.pop(port, None)

    def look(self, ports: list[SimListener], at_once: int) -> None:
        """Look at all listeners that are served.

        :param at_once: how many ready listeners a round takes up.
        """
        bound = len(ports) // at_once + 3
        since: dict[SimListener, int] = {}
        for port in ports:
            notif = port.inside
            if notif is not None and readable(notif):
                since[port] = first = self._since.get(port, self.round)
                if self.round - first > bound:
                    self._ledger.broken(
                        f"{port.name} waits to be received from for {self.round - first} rounds"
                    )
        self._since = since


def readable(notif: Notifications) -> bool:
    """Whether poll says IN."""
    return bool(notif.poll() & POLLIN)
