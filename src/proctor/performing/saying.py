"""Who sends a message, as it says itself (SCM_CREDENTIALS): its caller, and not the executor that sends it.

The kernel lets a process name itself, and whoever has CAP_SYS_ADMIN anybody (``scm_check_creds`` of net/core/scm.c).
So a lender names the caller, by the caller's number in the monitor's pid namespace, after the ids were judged here as
the kernel would have judged them; whom a receiver sees is for the kernel to translate from there.
"""

from __future__ import annotations

import errno
import socket
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from proctor.call.messages import UCRED
from proctor.performing.lender import Lender
from proctor.performing.trouble import Powerless, Said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proctor.call.identity import IdRange
    from proctor.call.messages import Message
    from proctor.performing.sockets import Socket
    from proctor.performing.task import Task

_CAP_SETGID, _CAP_SETUID, _CAP_SYS_ADMIN = 6, 7, 21
#: What is lent for it: over the lender's own namespaces, for one message on a socket that is no other family's.
RIGHTS: Final = 1 << _CAP_SYS_ADMIN | 1 << _CAP_SETUID | 1 << _CAP_SETGID


def speaker(task: Task, one: Socket, message: Message) -> tuple[Message, Lender] | None:
    """A message that names its caller, and the lender that is to send it, to be closed by whoever asked; None where
    the caller's own executor is to try: it names somebody else, or passes descriptors, of which
    CAP_SYS_ADMIN would have any number in flight (``too_many_unix_fds`` of net/core/scm.c).

    :raises Said: EINVAL, EPERM: the ids are not the caller's to name."""
    if one.domain != socket.AF_UNIX or message.rights or not task.own.initial:
        return None
    # each is looked at in its turn (``__scm_send``), up to one of another length, which is EINVAL
    places = tuple(takewhile(lambda at: at >= 0, message.credentials))
    control, caller, who = bytearray(message.control), task.caller, task.who
    for at in places:
        pid, uid, gid = UCRED.unpack_from(control, at)
        if pid != caller.nstgid[-1]:
            return None
        uid, gid = _outside(caller.uid_map, uid), _outside(caller.gid_map, gid)
        for number, own, right in ((uid, who.uids, _CAP_SETUID), (gid, who.gids, _CAP_SETGID)):
            if number not in own[:3] and not who.effective >> right & 1:
                raise Said(errno.EPERM)
        UCRED.pack_into(control, at, caller.tgid, uid, gid)
    try:
        return (message._replace(control=bytes(control)), Lender(task, RIGHTS)) if places else None
    except Powerless:
        return None


def _outside(ranges: Sequence[IdRange], number: int) -> int:
    """An id of the caller's user namespace, as the monitor knows it.

    :raises Said: EINVAL: there is none."""
    for each in ranges:
        if each.inside <= number < each.inside + each.length:
            return each.outside + number - each.inside
    raise Said(errno.EINVAL)
