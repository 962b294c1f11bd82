"""Rule files on fake targets."""

from __future__ import annotations

import errno
from collections.abc import Callable

from proctor.call.path.files import RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS
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


BENEATH = """
version = 1

[[rule]]
name = "secrets"
calls = ["openat2"]
when = { path = "/secret/**" }
deny = "EACCES"

[[rule]]
name = "everything else"
calls = ["openat2"]
perform = true
"""


def test_a_path_that_the_caller_itself_forbids(fake_target: Make) -> None:
    """openat2 says EXDEV where a path leaves its directory; a program that asks for that acts on it."""
    target = fake_target({"/box/a": b"A", "/box/out": Node.symlink("/secret/s"), "/secret/s": b"S"})
    handlers = loads(BENEATH).handlers()
    box = target.open("/box")
    for path, resolve, number in (
        ("../secret/s", RESOLVE_BENEATH, errno.EXDEV),
        ("out", RESOLVE_BENEATH, errno.EXDEV),
        ("out", RESOLVE_BENEATH | RESOLVE_IN_ROOT, errno.EINVAL),
        ("out", RESOLVE_NO_SYMLINKS, errno.ELOOP),
        ("out", RESOLVE_IN_ROOT, errno.ENOENT),
        ("out", 0, errno.EACCES),
        ("a", RESOLVE_BENEATH, 0),
    ):
        how = (0, 0, resolve)
        outcome = target.run(handlers, target.call("openat2", box, path, how))
        assert outcome.errno == number, (path, resolve)
