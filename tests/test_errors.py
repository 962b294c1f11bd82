"""Errors as values: what they carry survives being raised, shown and sent."""

from __future__ import annotations

import ast
import errno
import pickle
from pathlib import Path

import pytest

import proctor
from proctor import errors
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


def _asks(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id in ("isinstance", "issubclass")


def test_every_error_is_raised_somewhere() -> None:
    """A name that nothing raises is a promise that nobody keeps."""
    made: set[str] = set()
    for path in Path(proctor.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and not _asks(node.func):
                made.add(node.func.id if isinstance(node.func, ast.Name) else "")
                made.update(each.id for each in node.args if isinstance(each, ast.Name))
            elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
                made.add(node.exc.id)
    tree = {
        name: each
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, ProctorError) and name[0] != "_"
    }
    kinds = {each for each in tree.values() if not each.__subclasses__()}
    assert len(kinds) >= 14
    assert {each.__name__ for each in kinds} - made == set()
