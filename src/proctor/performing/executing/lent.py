"""What is done with a right that is lent: the steps before and after it."""

from __future__ import annotations

import struct

from proctor.performing.executing.steps import DIE, Place, Result, Steps


class Lent:
    """In a ``with`` block, steps that are made with these rights::

        with Lent(steps, permitted, rights) as lent:   # all other bytes of the request are there by then
            made = steps.call(..., bad=0)
        steps.freeze(), lent.left

    What the lender has not got itself is left out.

    :param permitted: what the lender can lend.
    :ivar left: the part of the reply that says what was left of it: see :func:`proctor.performing.identities.lender.kept_a_right`.
    """

    def __init__(self, steps: Steps, permitted: int, rights: int) -> None:
        self._steps = steps
        self._permitted = permitted
        self._header = steps.bytes(struct.pack("=Ii", 0x20080522, 0))
        self._none = self.capabilities(0)
        self._rights = self.capabilities(rights)
        self.left = 0

    def capabilities(self, effective: int) -> Place:
        """Others, for :meth:`have`."""
        low, permitted = 0xFFFFFFFF, self._permitted
        effective &= permitted
        words = (effective & low, permitted & low, 0, effective >> 32, permitted >> 32, 0)
        return self._steps.bytes(struct.pack("=6I", *words))

    def have(self, capabilities: Place) -> Result:
        """Have these rights, from here on."""
        return self._steps.call("capset", self._header, capabilities, bad=DIE)

    def __enter__(self) -> Lent:
        self.have(self._rights)
        return self

    def give_back(self) -> None:
        """The rights are taken back; the reply says what is left."""
        left = self._steps.scratch(24)
        self.have(self._none)
        self._steps.call("capget", self._header, left, bad=DIE)
        self.left = self._steps.want(left)

    def __exit__(self, *_: object) -> None:
        self.give_back()
