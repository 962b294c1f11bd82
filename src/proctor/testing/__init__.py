"""Testing handlers without a kernel, on any platform that Python runs on.

::

    from proctor.testing import FakeTarget

    def no_secrets(call):
        return proctor.deny(errno.EACCES) if b"secret" in call.path else None

    def test_secrets_are_denied():
        with FakeTarget(cwd="/tmp") as target:
            outcome = target.run(no_secrets, target.call("mkdir", "secrets", 0o755))
        assert outcome.errno == errno.EACCES

    test_secrets_are_denied()
    target = FakeTarget(caps=ALL_CAPABILITIES, namespaces={"user": INITIAL_NAMESPACES["user"] + 1})
    assert target.run(no_secrets, target.call("mkdirat", AT_FDCWD, UNMAPPED, 0)).error is not None

See ``docs/testing.md``.
"""

from __future__ import annotations

from proctor.call.path.files import AT_FDCWD
from proctor.testing.caller import ALL_CAPABILITIES, INITIAL_NAMESPACES
from proctor.testing.performer import FakePerformer, Performed
from proctor.testing.running import FakeOutcome
from proctor.testing.space import UNMAPPED, FakeMemory
from proctor.testing.target import FakeCall, FakeTarget
from proctor.testing.tree import Node, Tree

__all__ = [
    "ALL_CAPABILITIES",
    "AT_FDCWD",
    "INITIAL_NAMESPACES",
    "UNMAPPED",
    "FakeCall",
    "FakeMemory",
    "FakeOutcome",
    "FakePerformer",
    "FakeTarget",
    "Node",
    "Performed",
    "Tree",
]
