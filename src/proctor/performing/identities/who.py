"""Who calls, as far as that matters to what is done for it; and who the monitor is."""

from __future__ import annotations

import errno
import os
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final

from proctor.call.caller import Caller, IdentityKey
from proctor.call.credentials import NAMESPACES
from proctor.call.identity import IdRange
from proctor.errors import NotPermitted
from proctor.kernel.standing import over_groups, rights, same_rights
from proctor.performing.identities.cgroups import device_groups
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.path.located import FileId
    from proctor.kernel.standing import Standing

#: Supplementary groups of somebody of whom nothing is kept: 65,536 of them are some megabytes for each
#: list, and whoever has CAP_SETGID in a namespace of his own makes up as many lists as he likes.
MANY: Final = 512

#: Supplementary groups; real, effective, saved and file-system group ids; the same of user ids.
Ids = tuple[int, int, int, int]


_PLACES: Final = {kind: place for place, kind in enumerate(NAMESPACES)}


class Who(NamedTuple):
    """What an executor is made to be: equal ones can share it."""

    uids: Ids
    gids: Ids
    groups: tuple[int, ...]
    effective: int
    permitted: int
    #: Inode numbers, in the order of :data:`proctor.call.credentials.NAMESPACES`.
    namespaces: tuple[int, ...]
    root: FileId
    cgroups: bytes
    label: bytes
    unlike: Hashable
    #: Whether it joins the caller's cgroups.
    joins: bool

    @property
    def lasting(self) -> bool:
        """Whether anything about it is kept for its next call."""
        return self.unlike is None and len(self.groups) <= MANY

    def namespace(self, kind: str) -> int:
        """Inode number of one namespace."""
        return self.namespaces[_PLACES[kind]]

    def really(self, root: int | None) -> Who:
        """As whom access(2) looks: the real ids, with none or all of the capabilities, as programs with set-user-ID ask for whoever
        started them (``access_override_creds`` of fs/open.c).

        :param root: the user who is root in its user namespace; None: nobody is."""
        return self._replace(
            uids=(*self.uids[:3], self.uids[0]),
            gids=(*self.gids[:3], self.gids[0]),
            effective=self.permitted if self.uids[0] == root else 0,
        )

    def within(self, kind: str, inode: int) -> Who:
        """The same in another namespace of a kind."""
        place = NAMESPACES.index(kind)
        return self._replace(
            namespaces=(*self.namespaces[:place], inode, *self.namespaces[place + 1 :])
        )


def who(key: IdentityKey, joins: bool) -> Who:
    """What matters of a caller's key: inheritable and bounding capabilities and no_new_privs only
    mean something to execve(2), and the pid and time namespaces nothing to what is done here."""
    return Who(
        key.uids,
        key.gids,
        key.groups,
        key.caps.effective,
        key.caps.permitted,
        tuple([
            0 if kind in ("pid", "time") else inode
            for kind, inode in zip(NAMESPACES, key.namespaces, strict=True)
        ]),
        key.root,
        key.cgroups,
        key.label,
        key.unlike,
        joins,
    )  # fmt: skip


class Key:
    """Whose executors these are: an identity, in a container.  It is looked for with every call."""

    __slots__ = ("_hash", "container", "lasting", "lenders", "who")

    def __init__(self, who: Who, container: object) -> None:
        self.who = who
        #: Whose executors lend to it, by what they can: for :func:`proctor.performing.identities.lender.whose`.
        self.lenders: dict[int, Hashable] = {}
        self.container = container
        self.lasting = who.lasting
        self._hash = hash((who, container))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Key):
            return NotImplemented
        return self.container is other.container and self.who == other.who


class Own:
    """What the monitor has itself, and so a fresh executor."""

    __slots__ = ("_groups", "initial", "key", "rights", "who")

    def __init__(self) -> None:
        """
        :raises NotPermitted: what /proc says is not about the threads we know by their numbers.
        """
        seen = os.readlink("/proc/self")
        if seen != str(os.getpid()):
            raise NotPermitted(
                errno.EPERM,
                f"/proc is of another pid namespace: it knows the monitor as {seen}, not as "
                f"{os.getpid()}, and would show others in the place of callers; mount the "
                "monitor's own (unshare --mount-proc)",
            )
        self._groups: dict[bytes, list[bytes | None]] = {}
        with Caller(os.getpid(), None) as me:
            self.key = me.key
            #: Whether our user namespace looks like the initial one: every id, as it is.
            self.initial = me.uid_map == (IdRange(0, 0, 0xFFFFFFFF),)
        self.who = who(self.key, False)
        #: As :func:`proctor.kernel.standing.rights` has it; empty where that is not to be had.
        self.rights = b"" if self.key.unlike is not None else rights()

    def unchanged(self) -> bool:
        """Whether that is so still: a monitor may give rights up, or take them, while it runs."""
        return rights() == self.rights

    def is_like(self, standing: Standing, one: Who) -> bool:
        """Whether a caller has our rights in our place; it is as :meth:`unchanged` says of us."""
        mine = self.who
        return (
            bool(self.rights)
            and same_rights(standing.rights, self.rights)
            and sorted(one.groups) == sorted(mine.groups)
            and one.label == mine.label
            and one.namespace("user") == mine.namespace("user")
            and one.namespace("mnt") == mine.namespace("mnt")
        )

    def groups_decide(self, one: Who) -> bool:
        """Whether the groups of somebody who is like us decide what he may open."""
        return not (self.initial and over_groups(one.effective))

    def to_join(self, cgroups: bytes) -> list[bytes | None]:
        """:func:`~proctor.performing.identities.cgroups.device_groups` of a caller, remembered."""
        if cgroups == self.who.cgroups:
            return []
        found = self._groups.get(cgroups)
        if found is None:
            if len(self._groups) > 256:
                self._groups.clear()
            found = self._groups[cgroups] = device_groups(cgroups, self.who.cgroups)
        return found
