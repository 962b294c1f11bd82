"""What the monitor opens itself, for callers that are what it is: as soon as they are not, it does not."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator

import pytest

from proctor.call.verdict import Deny, Verdict
from proctor.kernel import _core
from proctor.kernel.standing import Standing
from proctor.performing.paths import pins
from proctor.performing.short_ways import here
from tests.kernel.test_standing import CHANGES, child, root_only
from tests.performing.support.callers import (
    AT_FDCWD,
    Call,
    Performers,
    caller,
    content,
    describe,
    libc,
    open_directory,
)


@pytest.fixture
def top() -> Iterator[bytes]:
    with open_directory() as path:
        yield path


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


def put(path: bytes, content: bytes, mode: int = 0o644) -> bytes:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(fd, content)
    os.fchmod(fd, mode)
    os.close(fd)
    return path


def link(path: bytes, target: bytes) -> None:
    os.symlink(target, path)
    # Following it changes nothing then: no access time is to be written (relatime of mount(8)).
    os.utime(path, (time.time() + 3600, 1), follow_symlinks=False)


def alone(performers: Performers) -> bool:
    """Whether no process was needed."""
    return not performers.executors.mother.pid


def opened(performers: Performers, tid: int, path: bytes, flags: int = 0, **how: object) -> Verdict:
    call = Call(tid, "openat", (AT_FDCWD, path, flags, 0))
    return performers.perform(call, **how)  # type: ignore[arg-type]


def test_no_process_is_needed(top: bytes) -> None:
    file = put(top + b"/file", b"content")
    link(top + b"/link", b"file")
    os.mkdir(top + b"/directory")
    performers = Performers()
    with caller(lambda: os.chdir(top)) as one:
        for path in (file, top + b"/link", b"file", b"./link", b"directory/../file"):
            os.stat(os.path.join(top, path))  # into the kernel's memory
            assert content(opened(performers, one.tid, path)) == b"content"
        for path, flags, number in (
            (top + b"/missing", 0, errno.ENOENT),
            (file, os.O_DIRECTORY, errno.ENOTDIR),
            (top + b"/link", os.O_NOFOLLOW, errno.ELOOP),
            (top, os.O_WRONLY, errno.EISDIR),
        ):
            os.path.exists(path)
            assert opened(performers, one.tid, path, flags) == Deny(number), path
        assert alone(performers)
    performers.close()


def test_a_rule_is_asked_about_what_is_pinned(top: bytes) -> None:
    put(top + b"/file", b"content")
    link(top + b"/link", b"file")
    performers, seen = Performers(), []

    def allow(argument: str, path: bytes) -> bool:
        seen.append((argument, path))
        return len(seen) == 1

    with caller(lambda: os.chdir(top)) as one:
        os.stat(top + b"/link")
        assert content(opened(performers, one.tid, b"link", allow=allow)) == b"content"
        refused = opened(performers, one.tid, b"link", os.O_TRUNC | os.O_WRONLY, allow=allow)
        assert isinstance(refused, Deny)
        assert refused.errno == errno.EACCES
        assert alone(performers)
    assert seen == [("path", top + b"/file")] * 2
    assert os.stat(top + b"/file").st_size == 7
    performers.close()


def at(path: bytes, flags: int = 0) -> int | None:
    """What the native core opens without waiting for anybody."""
    monitor, us = here.Here(), Standing(os.getpid(), labels=False)
    assert us.known is not None
    try:
        found = _core.open_for(
            us.known,
            False,
            b"",
            -1,
            0,
            -1,
            pins.AT_FDCWD,
            path,
            flags,
            0,
            here.LOCAL,
            monitor.table,
            False,
            0,
            None,
        )
        assert found is not None
        return found[1]
    finally:
        us.close()
        monitor.close()


def test_what_may_wait_is_left_to_others(top: bytes) -> None:
    os.mkfifo(top + b"/fifo")
    for path in (
        top + b"/fifo",
        b"/dev/null",
        b"/proc/version",
        b"/proc/self/status",
        b"/proc/self/fd/0",
    ):
        os.path.exists(path)
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK):
            assert at(path, flags) is None, path
    os.path.exists(b"/proc/self/missing")
    assert at(b"/proc/self/missing") is None  # whose self?


def test_a_lease_is_waited_for_by_others(top: bytes) -> None:
    file = put(top + b"/file", b"content")
    leased = os.open(file, os.O_RDONLY)
    fcntl.fcntl(leased, fcntl.F_SETSIG, 0)
    fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    fd = at(file)
    assert fd is not None
    os.close(fd)
    assert fcntl.fcntl(leased, fcntl.F_GETLEASE) == fcntl.F_RDLCK
    # The signal is the process's, and threads of tests before this one may still be there to take it.
    came = threading.Event()
    before = signal.signal(signal.SIGIO, lambda *_: came.set())
    try:
        assert at(file, os.O_WRONLY) is None
        # as the kernel says to whoever asks so
        assert at(file, os.O_WRONLY | os.O_NONBLOCK) == -errno.EAGAIN
        assert came.wait(20)
    finally:
        os.close(leased)
        signal.signal(signal.SIGIO, before)


def test_flags_are_as_the_caller_said(top: bytes) -> None:
    file = put(top + b"/file", b"content")
    os.stat(file)
    for flags in (
        os.O_RDONLY, os.O_RDWR | os.O_APPEND, os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY | os.O_SYNC,
        os.O_RDONLY | os.O_NOATIME,
    ):  # fmt: skip
        native, fd = os.open(file, flags), at(file, flags)
        assert fd is not None
        assert describe(fd) == describe(native)
        os.close(fd)
        os.close(native)


@root_only
@pytest.mark.parametrize("what", CHANGES)
def test_a_caller_that_changed_is_not_what_we_are(what: str, top: bytes) -> None:
    secret = put(top + b"/secret", b"of nobody else", 0o600)
    os.chown(secret, 4242, 4242)
    performers = Performers()
    with child(lambda: None, CHANGES[what]) as (pid, go_on):
        go_on()
        assert content(opened(performers, pid, secret)) == b"of nobody else"
        assert alone(performers)
        go_on()
        verdict = opened(performers, pid, secret)
        if what in ("user", "file-system user", "user namespace"):
            assert verdict == Deny(errno.EACCES)
        elif what == "root":
            assert verdict == Deny(errno.ENOENT)
        else:
            assert content(verdict) == b"of nobody else"
        # groups decide nothing for whoever may read and write every file
        assert alone(performers) == (what in ("no_new_privs", "groups", "many groups"))
    performers.close()


@root_only
def test_a_caller_that_goes_elsewhere_is_followed(top: bytes) -> None:
    os.mkdir(top + b"/one")
    os.mkdir(top + b"/two")
    put(top + b"/one/file", b"one")
    put(top + b"/two/file", b"two")
    performers = Performers()
    steps = (
        lambda: os.chdir(top + b"/one"),
        lambda: os.chdir(top + b"/two"),
        lambda: os.chroot(top + b"/one"),
    )
    with child(*steps) as (pid, go_on):
        for path, expected in ((b"file", b"one"), (b"file", b"two"), (b"/file", b"one")):
            go_on()
            assert content(opened(performers, pid, path)) == expected
    performers.close()


@root_only
def test_a_monitor_that_changed_is_not_what_the_caller_is(top: bytes) -> None:
    secret = put(top + b"/secret", b"content", 0o600)
    performers, asked = Performers(), []

    def allow(argument: str, path: bytes) -> bool:
        asked.append(alone(performers))
        return True

    with child() as (pid, _):
        assert content(opened(performers, pid, secret, allow=allow)) == b"content"
        own = performers.callers.own()
        assert own.unchanged()
        libc.setfsuid(1000)
        try:
            assert not own.unchanged()
            for _ in range(2):
                assert content(opened(performers, pid, secret, allow=allow)) == b"content"
        finally:
            libc.setfsuid(0)
        assert own.unchanged()
    assert asked == [True, False, False]
    performers.close()


def test_with_a_full_table_nothing_happens(top: bytes) -> None:
    file = put(top + b"/file", b"content")
    os.stat(file)

    def full() -> None:
        import resource

        resource.setrlimit(
            resource.RLIMIT_NOFILE, (8, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
        try:
            while True:
                os.dup(0)
        except OSError:
            pass

    with Performers() as performers, child(full) as (pid, go_on):
        go_on()
        for path, flags in ((file, os.O_WRONLY | os.O_TRUNC), (top + b"/missing", 0)):
            os.path.exists(path)
            assert opened(performers, pid, path, flags) == Deny(errno.EMFILE)
        asked: list[bytes] = []
        for path, flags in ((file, 0), (top, os.O_WRONLY)):  # which a rule is not even asked about

            def allow(argument: str, path: bytes) -> bool:
                asked.append(path)
                return True

            assert opened(performers, pid, path, flags, allow=allow) == Deny(errno.EMFILE)
        assert not asked
    assert stat.S_ISREG(os.stat(file).st_mode)
    assert os.stat(file).st_size == 7
