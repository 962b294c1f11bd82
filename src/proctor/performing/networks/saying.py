"""Who sends a message, as it says itself (SCM_CREDENTIALS): its caller, and not the executor that sends it.

The kernel lets a process name itself, and whoever has CAP_SYS_ADMIN anybody (``scm_check_creds`` of net/core/scm.c).  So
the caller's own executor asks first, with itself in the caller's place: what the kernel has against the ids and against the
rest is said then.  A lender sends it, and names the caller by its number in the monitor's pid namespace; whom a
receiver sees is for the kernel to translate from there.

Who has CAP_SYS_ADMIN may have any number of descriptors in flight (``too_many_unix_fds`` of net/unix/af_unix.c, or
scm.c there).  Whoever asks has not, and is told with the caller's limit; what a lender sends is counted as the caller's user's
(``scm_fp_copy``), whose real uid it has.  The kernel's own check is one before they are counted, too: who sends from several threads
at once gets beyond his limit there by what each of them sends, and here by what each executor of his container does.
"""

from __future__ import annotations

import errno
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from proctor.call.messages import UCRED
from proctor.performing.identities.lender import Lender, Somebody
from proctor.performing.trouble import Powerless, Said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proctor.call.identity import IdRange
    from proctor.call.messages import Message
    from proctor.performing.task import Task

_CAP_DAC_OVERRIDE, _CAP_SETGID, _CAP_SETUID, _CAP_SYS_ADMIN = 1, 6, 7, 21
#: What is lent for it: over the lender's own namespaces, for one message on a socket that is no other family's.
_RIGHTS: Final = 1 << _CAP_SYS_ADMIN | 1 << _CAP_SETUID | 1 << _CAP_SETGID


def speaker(task: Task, message: Message, *, to_file: bool) -> Lender | None:
    """The lender that is to send a message whose caller names itself, to be closed by whoever asked; None where
    the caller's own executor is to try: it names somebody else, too.

    :param to_file: whether it goes to a socket file, which the caller's executor is asked about before."""
    whole = tuple(takewhile(lambda at: at >= 0, message.credentials))
    if not task.own.initial or not whole or named(task, message) != whole:
        return None
    somebody = Somebody.of(task.who)
    if message.rights:
        somebody = somebody._replace(real=task.who.uids[0])
    lent = task.who.effective & 1 << _CAP_DAC_OVERRIDE if to_file else 0
    try:
        return Lender(task, _RIGHTS, lent, somebody)
    except Powerless:
        return None


def named(task: Task, message: Message) -> tuple[int, ...]:
    """Where in its control data a message names its caller, up to what is no credentials by its length, and EINVAL."""
    places = takewhile(lambda at: at >= 0, message.credentials)
    caller = task.caller.nstgid[-1]
    return tuple([at for at in places if UCRED.unpack_from(message.control, at)[0] == caller])


def outside(task: Task, message: Message) -> Message:
    """The same, with who is named as the monitor knows it."""
    control, caller = bytearray(message.control), task.caller
    for at in named(task, message):
        _, uid, gid = UCRED.unpack_from(control, at)
        uid, gid = _outside(caller.uid_map, uid), _outside(caller.gid_map, gid)
        UCRED.pack_into(control, at, caller.tgid, uid, gid)
    return message._replace(control=bytes(control))


def _outside(ranges: Sequence[IdRange], number: int) -> int:
    """An id of the caller's user namespace, as the monitor knows it.

    :raises Said: EINVAL: there is none."""
    for each in ranges:
        if each.inside <= number < each.inside + each.length:
            return each.outside + number - each.inside
    raise Said(errno.EINVAL)
