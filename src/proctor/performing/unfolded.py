"""socketcall(2) as the call that it stands for.

Programs of i386, s390 and others connect by ``socketcall(3, args)``, with the arguments in memory.  They are
taken once (:mod:`proctor.call.decode.frame`), and families see the call that is meant, as if it had been made
itself, with what was decoded of it already: nothing is read twice.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

from proctor.kernel.notification import Notification
from proctor.syscalls import multiplex, tables

if TYPE_CHECKING:
    from proctor.call.call import Call


def unfolded(call: Call) -> Call:
    """What a socketcall stands for; the call itself if nobody knows.

    :raises MemoryUnreadable: its arguments are not there."""
    meant = multiplex.meant(call.name, call.registers[0] & 0xFFFFFFFF)
    name = multiplex.directly(meant, call.abi)
    frame = call.frame
    if name is None or frame is None:
        return call
    number = tables.numbers(call.abi)[name]
    call.memory_read = True
    frame.settle()
    registers = tuple(frame.registers[:6])
    call._keep(_NOTHING)  # what the other one keeps is closed with this one
    inner = copy.copy(call)
    inner._notification = Notification(call.id, call.tid, number, call.arch, registers)  # type: ignore[arg-type]
    inner._kind = None  # what is known of the other number
    return inner


class _Nothing:
    def close(self) -> None:
        """There is nothing."""


_NOTHING: Final = _Nothing()
