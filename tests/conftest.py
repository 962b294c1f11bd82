"""Fixtures of all tests: victims, hard limits, and where a test cannot run."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.build import build
from tests.support.constants import NR, SLOWNESS
from tests.support.lab import Lab

# How fast something is, is no reason to fail: first uses import, and pages fault.
settings.register_profile("proctor", deadline=None)
settings.load_profile("proctor")

#: Seconds after which a test is over, its processes killed; elsewhere it is pytest's ``timeout``.
HARD_LIMITS = {"conformance": 30, "call": 60}


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Directories for tests are this run's alone: another pytest that begins takes all others' rights to the common one away,
    and users and containers of tests are to walk through."""
    if config.option.basetemp is None:
        made = tempfile.mkdtemp(prefix="pytest-")
        os.chmod(made, 0o755)
        config.option.basetemp = (
            f"{made}/pytest-0"  # parents as far up as pytest's own: tests open those, too
        )
        config.add_cleanup(lambda: shutil.rmtree(made, ignore_errors=True))


def pytest_sessionstart() -> None:
    """What a script starts in the background ignores Ctrl-C, what nohup(1) starts a hang-up, and so would every command of
    a test: a program that ignores a signal is another one than that under test.  And a PATH that is somebody else's
    has directories that may not be searched: execvp(3) says EACCES then of what is nowhere."""
    searched = os.environ.get("PATH", os.defpath).split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join(
        each for each in searched if os.access(each or ".", os.X_OK)
    )
    for number, usual in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests their hard limits, and say why one cannot run elsewhere."""
    machine = f"{platform.system()} {platform.machine()}"
    for item in items:
        limit = HARD_LIMITS.get(item.path.parent.name)
        if limit is not None:
            item.add_marker(pytest.mark.timeout(limit * SLOWNESS, method="signal"))
        elif (own := item.get_closest_marker("timeout")) is not None and SLOWNESS != 1:
            item.add_marker(
                pytest.mark.timeout(own.args[0] * SLOWNESS, *own.args[1:], **own.kwargs),
                append=False,
            )
        if "lab" in getattr(item, "fixturenames", ()) and not NR:
            item.add_marker(pytest.mark.skip(reason=f"no numbers of {machine} for the victim"))
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
