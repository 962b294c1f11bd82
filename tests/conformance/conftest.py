"""Fixtures of the conformance tests: a :class:`victim.lab.Lab` for each test, and the monitor's side
as raw ioctls and as proctor's native core."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from victim.build import build
from victim.kernel import Core, Kernel, Raw
from victim.lab import Lab

#: Seconds after which a test is over, its processes killed.
HARD_LIMIT = 30


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
            item.add_marker(pytest.mark.skip(reason="needs root, to have another uid to be"))


@pytest.fixture(scope="session")
def victim_binary() -> Iterator[int]:
    """The compiled victim, open: its path may be out of reach for another uid."""
    fd = os.open(build(), os.O_RDONLY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.fixture
def lab(victim_binary: int) -> Iterator[Lab]:
    """This test's victims, descriptors, threads and processes; all gone afterwards."""
    made = Lab(victim_binary)
    yield made
    made.close()


@pytest.fixture(params=["raw", "core"])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """The monitor's side, in both ways."""
    if request.param == "raw":
        return Raw()
    try:
        return Core()
    except ImportError as error:
        pytest.skip(f"the native core is not built: {error}")


@pytest.fixture
def raw() -> Raw:
    """The monitor's side by raw ioctls only: for arguments that no wrapper would pass."""
    return Raw()
