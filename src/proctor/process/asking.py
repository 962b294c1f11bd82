"""How a supervisor asks one below it: what both sides send.

A supervisor below registers with one datagram on the socket that it inherits: JSON, its own credentials
(SCM_CREDENTIALS), and one end of a connection of its own.  On that it is sent, for each call, a ``struct
seccomp_notif`` and one end of a socket on which that one call is settled; whoever hangs up has no more to
say of it.
"""

from __future__ import annotations

import struct
from typing import Final

#: The variable of the environment that says which descriptor leads to the supervisor above.
VARIABLE: Final = "PROCTOR_ABOVE"
#: Filters by which a tree below is marked: more than a program installs for itself.
MARKS: Final = 32
#: Most bytes of a registration.
LONGEST: Final = 1 << 16

#: From below: what, a value, a negative errno, flags; from above: a value, an errno.
SAID: Final = struct.Struct("=IqiI")
REPLY: Final = struct.Struct("=qi")

#: Of ``SAID``.  The answer (flags 1: it may run); whether the call still waits; a descriptor for the
#: caller (the value is its number there, or -1); whether it may be performed below.
ANSWER, VALID, ADDFD, PERFORM = range(4)
#: Flags of ``ADDFD``.
CLOEXEC, SEND = 1, 2
