"""Rule files on fake targets."""

from __future__ import annotations

import errno
from collections.abc import Callable

import proctor
from proctor.call.call import Call
from proctor.call.path.files import RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS
from proctor.call.verdict import Perform, Verdict
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


UNRESOLVED = """
version = 1
default = "EROFS"

[[rule]]
name = "secrets"
calls = ["open", "mkdir", "rmdir"]
when = { path = "/secret/**" }
deny = "EACCES"

[[rule]]
name = "ours"
calls = ["open"]
when = { path = "/ours/**", caller = { uid = 1000 } }
perform = true

[[rule]]
name = "made"
calls = ["rmdir"]
when = { path = "/ours/**" }
return = 0

[[rule]]
name = "anywhere below ours"
calls = ["mkdir"]
when = { path = "/ours/**" }
allow = "unsafe: only a test"
"""


def test_a_path_that_leads_nowhere_is_for_whoever_makes_the_call(fake_target: Make) -> None:
    """The monitor's errno is not given to the caller: a performer finds the caller's, the kernel too."""
    target = fake_target({"/ours/a": b"A", "/secret/s": b"S"})
    handlers = loads(UNRESOLVED).handlers()
    outcome = target.run(handlers, target.call("open", "/none/x"))
    assert (outcome.performed, outcome.errno) == (True, errno.ENOENT)
    assert target.run(handlers, target.call("mkdir", "/none/x", 0o700)).ran
    # Where no rule would have the call made nobody finds out: it is as for any other path.
    assert target.run(handlers, target.call("rmdir", "/none/x")).errno == errno.EROFS
    assert target.run(handlers, target.thread(uid=7).call("open", "/none/x")).errno == errno.EROFS
    # What is pinned is judged anew: it was not there to be followed, and then is.

    def pins(call: Call, verdict: Perform) -> Verdict:
        for path, allowed in ((b"/secret/s", False), (b"/ours/a", True), (b"/none/x", False)):
            assert (verdict.refusal("path", path) is None) == allowed
        return proctor.answer(3)

    assert target.run(handlers, target.call("open", "/none/x"), performer=pins).value == 3
