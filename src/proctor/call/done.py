"""What a call is answered with that was done by somebody who cannot say so any more."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from proctor.call.verdict import Verdict, answer, deny
from proctor.errors import CallError

if TYPE_CHECKING:
    from proctor.call.call import Call


def done(number: int, call: Call) -> Verdict:
    """
    :param number: what it came to, for its caller or in what it was given; a negative errno."""
    if number < 0:
        return deny(-number)
    if call.name == "sendmmsg":  # which says of each message how much of it was sent
        from proctor.call import messages

        try:
            count, lengths = messages.sent(call, number)
        except (CallError, OSError):
            return deny(errno.EINTR, "perhaps performed")
        return answer(count, writes=lengths)
    return answer(number)
