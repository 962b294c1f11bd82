"""Fixtures of the call tests: the conformance victims, one :class:`victim.lab.Lab` for each test."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from victim.build import build
from victim.lab import Lab

HARD_LIMIT = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test here its hard limit, and say why it cannot run elsewhere."""
    here = Path(__file__).parent
    machine = f"{platform.system()} {platform.machine()}"
    for item in items:
        if here not in item.path.parents:
            continue
        item.add_marker(pytest.mark.timeout(HARD_LIMIT, method="signal"))
        if "lab" in getattr(item, "fixturenames", ()) and machine != "Linux x86_64":
            item.add_marker(
                pytest.mark.skip(reason=f"the victim speaks x86-64 Linux, not {machine}")
            )
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def victim_binary() -> Iterator[int]:
    """The compiled victim, open."""
    fd = os.open(build(), os.O_RDONLY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.fixture
def lab(victim_binary: int) -> Iterator[Lab]:
    """This test's victims, descriptors, threads and processes; all gone afterwards."""
    made = Lab(victim_binary)
    yield made
    made.close()


@pytest.fixture
def notified(lab: Lab) -> Iterator[Callable]:
    """``notified(actor, "openat", *registers)``: a victim's call, received, as a Call."""
    from call_live import Watch

    watches: list[Watch] = []

    def make(*calls: str | int) -> Watch:
        watch = Watch(lab, calls)
        watches.append(watch)
        return watch

    yield make
    for watch in watches:
        watch.close()
