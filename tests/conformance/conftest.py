"""Fixtures of the conformance tests: the monitor's side as raw ioctls and as proctor's native core."""

from __future__ import annotations

import contextlib

import pytest

from tests.support.kernel import Core, Kernel, Raw

with contextlib.suppress(ImportError):  # it opens the root: before a test counts what is open
    import proctor.kernel._core  # noqa: F401


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
