"""Threads that are what the monitor is, and see what it sees."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Final

from proctor.kernel.standing import Standing, over_groups, rights
from proctor.kernel.standings import Standings, room
from proctor.kernel.thread import ProcFiles

_MOST_OTHERS: Final = 512
_WHOLE: Final = [b"0", b"0", b"4294967295"]


def _text(name: str) -> bytes:
    with open(f"/proc/self/{name}", "rb", buffering=0) as file:
        return file.read()


def _has_label() -> bool:
    """Whether a security module labels threads here."""
    try:
        return bool(_text("attr/current"))
    except OSError:
        return False


def _overflows(ids: bytes) -> bool:
    """Whether one of these ids, as ``status`` has them, may be one without a number in our user namespace."""
    none = [_text(f"../sys/kernel/overflow{kind}").strip() for kind in ("uid", "gid")]
    return any(each in ids.split() for each in none)


class Alikes(Standings):
    """Threads that are what the monitor is: same ids, groups, capabilities, label, root directory, user and
    mount namespace.  What it sees of the file systems they see, too, so it may look for them.

    :ivar known: those that were seen to be, for the core (``Usual``), which takes them out while it looks.
    :ivar groups: and :attr:`ours`: as for ``_core.Known.same``.
    """

    __slots__ = ("_labels", "_others", "_rank", "groups", "ours")

    def __init__(self) -> None:
        """:raises OSError: /proc is not about our own pid namespace."""
        super().__init__(room(16))
        ProcFiles.check()
        self._labels = _has_label()
        with closing(Standing(os.getpid(), labels=self._labels)) as us:
            self.ours = rights()
        ids, (effective, _), *_ = us.rank
        whole = all(_text(name).split() == _WHOLE for name in ("uid_map", "gid_map"))
        #: None: an id that has no number here looks like any other such id, and is nobody's equal.
        self._rank = us.rank if whole or not _overflows(ids) else None
        self.groups = not (whole and over_groups(int(effective, 16)))
        #: Those that were others: to take one for another costs time only.
        self._others: set[int] = set()

    def has(self, tid: int) -> bool:
        """Whether a thread is; to be asked while it waits, and that it does to be seen after that."""
        if tid in self._others:
            return False
        standing = self.take(tid)
        if standing is not None and not standing.unchanged(groups=self.groups, ours=self.ours):
            standing.close()
            standing = None
        if standing is None:
            standing = self._seen_anew(tid)
            if standing is None:
                if len(self._others) >= _MOST_OTHERS:
                    self._others.clear()
                self._others.add(tid)
                return False
        self.give_back(standing)
        return True

    def _seen_anew(self, tid: int) -> Standing | None:
        try:
            standing = Standing(tid, labels=self._labels, groups=self.groups, places=False)
        except OSError:
            return None
        if standing.rank == self._rank and (not self.ours or rights() == self.ours):
            return standing
        standing.close()
        return None
