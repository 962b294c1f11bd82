"""bind: made on the caller's own socket, with CAP_NET_BIND_SERVICE lent.

A socket that is bound in another network (:mod:`.connect` has how) serves there: it is listened on and
accepted from by the kernel's own calls, which need not stop for anybody.

A low port is for who has CAP_NET_BIND_SERVICE over the user namespace that owns the network
(``inet_port_requires_bind_service`` of include/net/ip.h).  It is lent to a caller that has it over its
own, if that is the target's, and to anybody where the option says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.performing.networks.routes import Route

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work


class Options(Route):
    """See docs/families/bind.md.

    :param privileged: whether low ports are bound for callers without CAP_NET_BIND_SERVICE.
    """

    privileged: bool = False

    def check(self) -> None:
        super().check()
        if not isinstance(self.privileged, bool):
            raise ValueError(f"privileged is true or false, not {self.privileged!r}")


def perform(task: Task) -> Work:
    """Bind the caller's socket."""
    from proctor.performing.networks import binding

    return (yield from binding.bind(task, task.options(Options)))
