"""The table of mounts that were made for containers."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

import proctor
from proctor.errors import ProctorError
from proctor.kernel import mounts
from proctor.kernel.mounts import KEY, MOST, Mounts
from proctor.kernel.sealing import sealed

#: As the kernel numbers them: above all that it ever gave to one that it numbers again.
FIRST = 1 << 31


def named(name: str) -> proctor.Container:
    made = proctor.Container(name)
    made.lasting = name.encode().ljust(KEY, b".")
    return made


def test_whoever_has_the_memory_next_knows_the_same() -> None:
    """By what lasts of a container, and not by its object."""
    table = Mounts.create()
    table.add(named("one"), FIRST, True)
    table.add(named("one"), FIRST + 1, False)
    table.add(named("other"), FIRST + 2, True)
    copy = os.dup(table.fd)
    table.close()
    table.close()
    after = Mounts(copy)
    said = [after.writable(named("one"), FIRST + more) for more in range(4)]
    assert said == [True, False, None, None]
    assert after.writable(named("other"), FIRST + 2) is True
    assert after.writable(named("third"), FIRST) is None
    assert after.writable(named("third"), 0) is None  # no number
    after.keep_only([named("other").lasting, named("third").lasting])
    assert after.writable(named("one"), FIRST) is None
    after.drop(named("other"), FIRST + 2)
    assert after.writable(named("other"), FIRST + 2) is None
    after.close()


def test_a_container_pushes_out_its_own_alone() -> None:
    """The oldest, by what the kernel counts; one that is gone goes first."""
    table = Mounts()
    table.add(named("other"), FIRST, True)
    for number in range(1, MOST + 1):
        table.add(named("one"), FIRST + number, True)
    table.drop(named("one"), FIRST + 9)
    table.add(named("one"), FIRST + 1000, True)
    table.add(named("one"), FIRST + 1001, True)
    known = {number for number in range(1002) if table.writable(named("one"), FIRST + number)}
    assert known == {*range(2, MOST + 1), 1000, 1001} - {9}
    assert table.writable(named("other"), FIRST) is True


def test_there_are_places_for_so_many_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is known of others, until one of these is over."""
    monkeypatch.setattr(mounts, "PLACES", 2)
    monkeypatch.setattr(mounts, "_SIZE", 2 * (KEY + 8 * MOST))
    table = Mounts()
    names = ("one", "two", "three")
    for number, name in enumerate(names):
        table.add(named(name), FIRST + number, True)
    assert [table.writable(named(name), FIRST + at) for at, name in enumerate(names)] == [
        True, True, None,
    ]  # fmt: skip
    table.forget(named("one"))
    table.add(named("three"), FIRST + 2, False)
    assert [table.writable(named(name), FIRST + at) for at, name in enumerate(names)] == [
        None, True, False,
    ]  # fmt: skip
    assert table.writable(named("three"), FIRST) is None  # nor what that had


def test_containers_that_nobody_names_are_told_apart() -> None:
    table = Mounts()
    one, other = proctor.Container("same"), proctor.Container("same")
    table.add(one, FIRST, True)
    table.add(None, FIRST + 1, True)
    assert table.writable(one, FIRST) is True and table.writable(other, FIRST) is None
    assert table.writable(None, FIRST + 1) is True and table.writable(None, FIRST) is None
    table.forget(one)
    assert table.writable(one, FIRST) is None


def _of_another_size() -> int:
    return sealed("other", 4096)


def _unsealed() -> int:
    made = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    os.truncate(made, mounts._SIZE)
    return made


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (_of_another_size, ProctorError), (_unsealed, ProctorError),
        (lambda: os.open("/dev/zero", os.O_RDWR), OSError),
    ],
)  # fmt: skip
def test_what_is_no_such_table_is_refused(
    make: Callable[[], int], what: type[BaseException]
) -> None:
    """And closed."""
    fd = make()
    with pytest.raises(what):
        Mounts(fd)
    with pytest.raises(OSError):
        os.fstat(fd)
