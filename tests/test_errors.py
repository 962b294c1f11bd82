"""Errors as values: what they carry survives being raised, shown and sent."""

from __future__ import annotations

import errno
import pickle

import pytest

from proctor.errors import (
    CallGone,
    LaunchError,
    MemoryUnreadable,
    MemoryUnwritable,
    NestedListener,
    NotPermitted,
    PolicyError,
    ProctorError,
    TargetFdLimit,
    Unsupported,
)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (Unsupported("a thing", "5.9", "nothing works"), errno.ENOSYS),
        (NestedListener(), errno.EBUSY),
        (NotPermitted(errno.EACCES, "no"), errno.EACCES),
        (LaunchError("execve", errno.ENOENT, "cannot run"), errno.ENOENT),
        (CallGone(), errno.ENOENT),
        (MemoryUnreadable(errno.EFAULT, "hole", 5), errno.EFAULT),
        (MemoryUnwritable(errno.EPERM, "no", 5), errno.EPERM),
        (TargetFdLimit(errno.EMFILE, "full"), errno.EMFILE),
        (PolicyError("no such key"), None),
    ],
)
def test_what_an_error_carries_survives_pickling(error: ProctorError, number: int | None) -> None:
    error.about(pid=7, syscall="openat", notif_id=255)
    sent = pickle.loads(pickle.dumps(error))
    assert type(sent) is type(error)
    for each in (error, sent):
        assert getattr(each, "errno", None) == number
        assert str(each) == str(error)
        assert each.__dict__ == error.__dict__
        assert str(each).endswith(" [openat, pid 7, id 0xff]")
        assert number is None or getattr(each, "strerror", None) == error.args[1]
