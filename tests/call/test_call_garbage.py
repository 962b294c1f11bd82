"""What was known of a call is gone with it, not when somebody looks for cycles: a target decides how much that
is (thousands of groups, a list of mounts), and makes calls faster than the collector comes."""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Callable, Iterator

import pytest

from proctor.call.caller import Caller
from proctor.kernel.thread import ProcFiles
from proctor.policy.look import Look, Unknowable

from .fakes import FakeListener, call

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into Linux's /proc")


@pytest.fixture
def garbage() -> Iterator[Callable[[], int]]:
    gc.collect()
    gc.disable()
    yield gc.collect
    gc.enable()


def _refused(files: ProcFiles) -> bytes:
    raise OSError(22, "nothing fills it")


@linux
def test_a_caller_leaves_none(garbage: Callable[[], int]) -> None:
    class Maker:  # as a call is to its caller
        def __init__(self) -> None:
            self.caller = Caller(os.getpid(), FakeListener(), looked=self.looked)

        def looked(self) -> None:
            pass

    made = Maker()
    made.caller.cwd()
    made.caller.key  # noqa: B018
    for _ in range(3):
        with pytest.raises(OSError, match="nothing fills it"):
            made.caller._take("attr/none", _refused)
    made.caller.close()
    del made
    assert garbage() == 0


def test_a_look_that_failed_leaves_none(garbage: Callable[[], int]) -> None:
    look = Look(call("connect", 3, 8, 16))
    for _ in range(3):
        with pytest.raises(Unknowable) as caught:
            look.named("addr")
        assert caught.value.errno == errno.EFAULT
    del look, caught
    assert garbage() == 0
