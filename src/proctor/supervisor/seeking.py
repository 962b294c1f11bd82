"""Finding out where paths of calls lead for handlers that return :class:`~proctor.supervisor.ports.Seek`.

A look with more rights than the caller's must not decide what the caller is told.  So the monitor looks itself for
those alone who are what it is; for others somebody looks who is what they are.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Any

from proctor.call.verdict import Deny
from proctor.errors import SCARCE
from proctor.supervisor.ports import Later, Seek

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.kernel.alikes import Alikes
    from proctor.supervisor.ports import Seeker


class Seeking:
    """
    :param seeker: looks as callers who are not what the monitor is.
    :param on_error: the refusal of those, where there is none.
    """

    def __init__(self, seeker: Seeker | None, on_error: Deny) -> None:
        self._seeker = seeker
        #: Who looks for others in the core; None: nobody.
        self.lend = getattr(seeker, "lend", None)
        self.took_back = getattr(seeker, "took_back", None)
        self._nobody = Deny(
            getattr(on_error, "errno", errno.EPERM),
            "nobody here sees what this caller sees, so where its paths lead is not looked at "
            "(Supervisor(seeker=...))",
        )
        self._alikes: Alikes | None = None
        self._tried = False
        self._lock = threading.Lock()

    @property
    def alikes(self) -> Alikes | None:
        """Callers that are what the monitor is; None if that cannot be seen here."""
        if not self._tried:
            try:
                from proctor.kernel.alikes import Alikes
            except (ImportError, OSError):
                return None  # out of descriptors: the next call may have one
            with self._lock:
                if not self._tried:
                    try:
                        self._alikes = Alikes()
                    except OSError as error:
                        if error.errno in SCARCE:
                            return None  # as above
                    self._tried = True  # without a procfs of ours nobody is taken for one
        return self._alikes

    def go_on(self, call: Call, said: Any) -> Any:
        """Go on with what a handler said until it says something else than a Seek: that, or a Later."""
        while isinstance(said, Seek):
            alikes = self.alikes
            if alikes is not None and alikes.has(call.tid):
                said = said.then(None)
                continue
            found = self._nobody if self._seeker is None else self._seeker.seek(call, said.what)
            said = _after(found, said)
        return said

    def forget(self) -> None:
        """Some callers are gone: let go of all that are known, who are met again."""
        if self._alikes is not None:
            self._alikes.close()

    def close(self) -> None:
        """Let go of callers."""
        with self._lock:
            alikes, self._alikes, self._tried = self._alikes, None, True
        if alikes is not None:
            alikes.close()


def _after(found: Any, seek: Seek) -> Any:
    """What is said when it was found."""
    if isinstance(found, Later):
        return found._replace(resume=lambda: _after(found.resume(), seek))
    if isinstance(found, Deny) and seek.performed:
        found = found.errno
    return seek.then(found) if isinstance(found, (bytes, int)) else found
