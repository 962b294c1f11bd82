"""listen, accept, accept4: made on the caller's own socket.

Nothing is gained by that over the kernel's own calls but that they are seen, counted and refused
in the same way as others; what is accepted becomes a descriptor of the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work


def perform(task: Task) -> Work:
    """Listen or accept for the caller."""
    from proctor.performing.networks import binding

    act = binding.listen if task.call.name == "listen" else binding.accept
    return (yield from act(task))
