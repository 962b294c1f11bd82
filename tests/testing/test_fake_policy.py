"""Rule files on fake targets."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

import pytest

from proctor.policy import loads
from proctor.testing import AT_FDCWD, FakeTarget, Node

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="a policy that performs loads the performers"
)

Make = Callable[..., FakeTarget]

POLICY = """
version = 1

[[rule]]
name = "secrets"
calls = ["open", "openat"]
when = { path = "/secret/**" }
deny = "EACCES"

[[rule]]
name = "everything else"
calls = ["open", "openat"]
perform = true
"""


def test_policies_are_handlers(fake_target: Make) -> None:
    target = fake_target({"/secret/s": b"S", "/l": Node.symlink("secret/s"), "/a": b"A"})
    handlers = loads(POLICY).handlers()
    outcome = target.run(handlers, target.call("open", "/l"))
    assert outcome.errno == errno.EACCES and 'rule "secrets"' in outcome.reason
    assert target.run(handlers, target.call("openat", AT_FDCWD, "a")).content == b"A"
