"""sendto, sendmsg, sendmmsg: messages with an address of their own, sent on the caller's own socket.

What is sent is copied with its address, once; :mod:`.connect` has how other networks are reached.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from proctor.call.verdict import deny
from proctor.performing.networks.routes import Route

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work


class Options(Route):
    """See docs/families/connect.md."""


def perform(task: Task) -> Work:
    """Send for the caller."""
    from proctor.call import messages
    from proctor.performing.networks import sending, sockets
    from proctor.performing.paths import pins

    if not sending.takes(task.call):
        return deny(errno.EINVAL)
    if not messages.importable(task.call):
        return deny(errno.EFAULT)
    number = pins.signed(task.call.registers[0])
    fd = sockets.take(task, number)
    return (yield from sending.perform(task, task.options(Options), fd, number))
