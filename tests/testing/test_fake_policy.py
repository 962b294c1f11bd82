"""Rule files on fake targets."""

from __future__ import annotations

import errno
from collections.abc import Callable

from proctor.policy import loads
from proctor.testing import AT_FDCWD, FakeTarget, Node

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
