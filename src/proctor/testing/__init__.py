"""Testing handlers without a kernel, on any platform that Python runs on.

::

    import errno
    from proctor.testing import FakeTarget
    from handlers import no_secrets

    def test_secrets_are_denied():
        with FakeTarget(cwd="/tmp") as target:
            outcome = target.run(no_secrets, target.call("mkdir", "secrets", 0o755))
        assert outcome.errno == errno.EACCES

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
