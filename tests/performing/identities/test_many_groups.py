"""Lists of groups as long as the kernel takes them, and as many lists as somebody likes to make up: nothing
of that stays in the monitor."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from proctor.performing.identities.lender import LenderKey, Somebody
from proctor.performing.identities.who import MANY
from tests.kernel.test_standing import child, root_only
from tests.performing.support.callers import (
    AT_FDCWD,
    CLONE_NEWNS,
    Call,
    Performers,
    content,
    unshare,
)


def _with(first: int, count: int) -> Callable[[], None]:
    return lambda: os.setgroups(range(first, first + count))


@root_only
@pytest.mark.parametrize("count", [MANY, MANY + 1])
def test_nothing_is_kept_of_who_has_many(count: int) -> None:
    lists = 3
    with Performers() as performers:
        steps = [_with(100000 * (1 + each), count) for each in range(lists)]
        with child(lambda: unshare(CLONE_NEWNS), *steps) as (pid, go_on):
            for each in range(lists + 1):
                go_on()
                verdict = performers.perform(Call(pid, "openat", (AT_FDCWD, b"/dev/null", 0, 0)))
                assert content(verdict) == b"", each
        kept = 1 + (lists if count <= MANY else 0)  # the first one has ours, which are few
        assert len(performers.callers._keys) == kept
        assert len(performers.executors._idle) == kept


@pytest.mark.parametrize("count", [MANY, MANY + 1])
def test_nor_of_who_lends_to_them(count: int) -> None:
    key = LenderKey(1 << 27, b"", None, Somebody(1, 1, tuple(range(count))))
    assert key.lasting == (count == MANY)
