"""Who calls: found out once, and known for as long as the caller is who it was."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from proctor.errors import CallGone, NotPermitted
from proctor.kernel.standing import Standing
from proctor.kernel.standings import Standings, room
from proctor.performing import scarce
from proctor.performing.entitled import root_of
from proctor.performing.identities.who import Key, Own, who
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.ports import ContainerPort

_MOST_KEYS: Final = 256


class Known(NamedTuple):
    """What is known of a caller, as long as it is who it was."""

    key: Key
    #: Whether devices may be opened and made.
    devices: bool
    #: Whether it is what the monitor is.
    here: bool
    #: Whether its groups decide anything.
    groups: bool
    #: Whether it is also in the monitor's cgroups, which are charged with what the monitor makes.
    makes: bool
    #: Whether access(2) looks as who it is.
    itself: bool


class Callers:
    """All callers that calls are performed for, and what the monitor is itself."""

    def __init__(self) -> None:
        self.standings = Standings(room(32))
        self._own: Own | None = None
        #: Who somebody is, by all that was seen of him.
        self._keys: dict[object, Known] = {}

    def own(self) -> Own:
        """What the monitor has itself; taken once."""
        own = self._own
        if own is None:
            own = self._own = Own()
        return own

    def meet(
        self, call: Call, container: ContainerPort | None, cgroup: str, devices: bool = True
    ) -> Standing:
        """Find out who calls, and remember it.

        :param cgroup: "join" or "ignore": see :class:`~proctor.performing.performers.Performers`.
        :param devices: False if the caller's cgroup is known to be out of reach.
        :raises CallGone: nobody calls any more, or it is somebody else by now.
        :raises NotPermitted: the monitor may not look at the caller.
        """
        own = self.own()
        try:
            standing = Standing(call.tid, labels=bool(own.who.label))
        except OSError as error:
            call.caller.check()
            if error.errno in scarce.OURS:
                raise
            raise NotPermitted(
                error.errno or errno.EACCES,
                "the kernel does not let the monitor look at the caller: it may have changed its user id "
                "or made itself undumpable; a monitor with more rights can",
            ) from None
        try:
            same = (standing.identity, container, devices)
            known = self._keys.get(same)
            if known is None:
                key = call.caller.key
                wanted = own.to_join(key.cgroups) if cgroup == "join" else []
                devices = devices and None not in wanted
                one = who(key, bool(wanted) and devices)
                here = key.unlike is None and own.is_like(standing, one)
                known = Known(
                    Key(one, container), devices, here, not here or own.groups_decide(one),
                    here and key.cgroups == own.who.cgroups, one.really(root_of(standing)) == one,
                )  # fmt: skip
                if not standing.unchanged():
                    raise CallGone  # or it was given another root or cgroup just now
                if one.lasting:
                    if len(self._keys) > _MOST_KEYS:
                        self._keys.clear()
                    self._keys[same] = known
            if known.here and not own.unchanged():
                known = known._replace(here=False, groups=True, makes=False)
            if not call.valid():
                raise CallGone
            standing.kept = known
        except BaseException:
            standing.close()
            raise
        return standing

    def close(self) -> None:
        """Forget all of them."""
        self.standings.close()
