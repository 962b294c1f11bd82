"""The short way of trusted attributes: whoever goes it gets what the long way gives, or goes the long way."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

import pytest

from proctor.call.verdict import Answer, Deny, LetRun, Perform
from proctor.performing.executing.processes import Executor
from proctor.performing.families.xattr import Options
from proctor.performing.identities.lender import LenderKey
from proctor.supervisor.ports import Later
from tests.performing.short_ways.test_deeds import Stage
from tests.performing.short_ways.test_deeds import stage as stage  # noqa: PLC0414 - a fixture
from tests.performing.support.stages import finished

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="trusted attributes need the host's root")
NAME, VALUE, ROOM = b"trusted.overlay.opaque", b"some value", 0x1000


@pytest.fixture
def marked(stage: Stage) -> Stage:
    """A directory, a link to it, and one of the host's, with an attribute each; the lender is warm."""
    os.symlink(b"first", stage.path(b"link"))
    os.chown(stage.path(b"link"), 100000, 100000, follow_symlinks=False)
    os.mkdir(stage.path(b"hosts"))
    os.setxattr(stage.path(b"hosts"), NAME, VALUE)
    assert set_it(stage.long, b"first", b"before") == Answer(0)
    return stage


def set_it(how: Any, path: bytes, value: bytes, name: bytes = NAME, flags: int = 0) -> Any:
    return how("setxattr", path, name, value, len(value), flags)


def lender(stage: Stage) -> Executor:
    (found,) = [
        each for each in stage.performers.executors._idle if isinstance(each.key, LenderKey)
    ]
    return found


def test_what_it_says(marked: Stage) -> None:
    assert set_it(marked.short, b"link", VALUE) == Answer(0)
    assert os.getxattr(marked.path(b"first"), NAME) == VALUE
    wants: list[tuple[tuple[Any, ...], Any]] = [
        (("getxattr", marked.path(b"first"), NAME, ROOM, 100), Answer(len(VALUE), writes=((ROOM, VALUE),))),
        (("getxattr", b"first", NAME, 0, 0), Answer(len(VALUE))),
        (("getxattr", b"first", NAME, ROOM, 3), Deny(errno.ERANGE)),
        (("lgetxattr", b"link", NAME, ROOM, 100), Deny(errno.ENODATA)),
        (("getxattr", b"missing", NAME, ROOM, 100), Deny(errno.ENOENT)),
        (("removexattr", b"missing/x", NAME), Deny(errno.ENOENT)),
        (("setxattr", b"first", NAME, VALUE, len(VALUE), 1), Deny(errno.EEXIST)),
        (("setxattr", b"first", NAME, VALUE, len(VALUE), 4), Deny(errno.EINVAL)),
        (("setxattr", b"first", NAME, VALUE, 1 << 20, 0), Deny(errno.E2BIG)),
    ]  # fmt: skip
    for call, said in wants:
        assert marked.short(*call) == said == marked.long(*call), call
    assert marked.short("lsetxattr", b"link", NAME, VALUE, len(VALUE), 0) == Answer(0)
    assert os.getxattr(marked.path(b"link"), NAME, follow_symlinks=False) == VALUE
    assert marked.short("lremovexattr", b"link", NAME) == Answer(0)
    assert marked.short("removexattr", b"link", NAME) == Answer(0)
    assert not {NAME.decode()} & {*os.listxattr(marked.path(b"first")), *os.listxattr(marked.path(b"link"), follow_symlinks=False)}  # fmt: skip


def test_what_is_the_kernels_is_left_to_it(marked: Stage) -> None:
    for name in (b"user.own", b"security.capability", b"trusted.other"):
        assert isinstance(marked.short("getxattr", b"first", name, ROOM, 100), LetRun)


def test_what_is_of_the_host_is_not_had(marked: Stage) -> None:
    """Nor is there a short way where attributes are kept apart."""
    for call in (
        ("getxattr", b"hosts", NAME, ROOM, 100),
        ("setxattr", b"hosts", NAME, b"mine", 4, 0),
        ("removexattr", b"hosts", NAME),
    ):
        said = marked.short(*call)
        assert isinstance(said, Deny) and said == marked.long(*call) and said.reason
    assert os.getxattr(marked.path(b"hosts"), NAME) == VALUE
    short = marked.performers.ordinary("getxattr")
    assert short is not None
    wish = Perform(options=Options(apart=["trusted.mine"]))
    assert short(marked.call("getxattr", b"first", NAME, ROOM, 100), wish) is None


@pytest.mark.parametrize("lends", [False, True], ids=["as the caller", "who lends"])
def test_who_takes_longer_is_waited_for(marked: Stage, lends: bool) -> None:
    executors = marked.performers.executors._idle
    pid = next(each.pid for each in executors if isinstance(each.key, LenderKey) is lends)
    os.kill(pid, signal.SIGSTOP)
    said = set_it(lambda *args: marked.begun(marked.call(*args)), b"first", b"slow")
    os.kill(pid, signal.SIGCONT)
    assert isinstance(said, Later) and finished(said) == Answer(0)
    assert os.getxattr(marked.path(b"first"), NAME) == b"slow"
    assert set_it(marked.short, b"first", b"next") == Answer(0)


def test_a_lender_that_has_died_is_replaced(marked: Stage) -> None:
    one = lender(marked)
    os.kill(one.pid, signal.SIGKILL)
    one.wait_for_end(10)
    said = set_it(lambda *args: finished(marked.begun(marked.call(*args))), b"first", b"lost")
    # if the caller's executor takes longer, the long way goes on, by another lender
    assert os.getxattr(marked.path(b"first"), NAME) == (b"lost" if said == Answer(0) else b"before")
    assert set_it(marked.long, b"first", b"next") == Answer(0)
    assert set_it(marked.short, b"first", b"last") == Answer(0)
    assert os.getxattr(marked.path(b"first"), NAME) == b"last"


@pytest.mark.parametrize("asked", [0, 1])
def test_nothing_is_set_for_whoever_is_gone(marked: Stage, asked: int) -> None:
    call = marked.call("setxattr", b"first", NAME, b"gone", 4, 0)
    left = [True] * asked
    call.is_valid = lambda: bool(left and left.pop())
    said = finished(marked.begun(call))
    assert said == (Deny(errno.EINTR, "the caller is gone") if asked else None)
    assert os.getxattr(marked.path(b"first"), NAME) == b"before"
