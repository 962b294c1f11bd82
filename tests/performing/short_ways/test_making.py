"""What the monitor makes itself, for callers that are what it is: with their umask, whatever its own is."""

from __future__ import annotations

import errno
import os
import random
import stat
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

import proctor
from proctor.call.verdict import Deny
from proctor.kernel import _core
from proctor.kernel.standing import Standing
from proctor.performing import working
from proctor.performing.paths import pins
from proctor.performing.short_ways import here, ways
from tests.performing.support.callers import AT_FDCWD, Caller, Performers, caller, open_directory

TRIES = int(os.environ.get("PROCTOR_TRIES", "80"))
SEED = int(os.environ.get("PROCTOR_SEED", "1"))
PYTHON = sys.executable
#: user::rwx, group::rwx, group 4242:r-x, mask::rwx, other::---
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, bits, number)
    for tag, bits, number in ((1, 7, ~0 & 0xFFFFFFFF), (4, 7, ~0 & 0xFFFFFFFF), (8, 5, 4242), (16, 7, ~0 & 0xFFFFFFFF), (32, 0, ~0 & 0xFFFFFFFF))
)  # fmt: skip


@contextmanager
def unsteady() -> Iterator[None]:
    """Somebody in the monitor sets its umask all the time."""
    over, before, interval = threading.Event(), os.umask(0o22), sys.getswitchinterval()

    def sets() -> None:
        while not over.is_set():
            os.umask(0)
            os.umask(0o777)

    thread = threading.Thread(target=sets)
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval)
        os.umask(before)


def build(top: bytes) -> None:
    for name, mode, group in (
        (b"plain", 0o755, 0), (b"sticky", 0o1777, 0), (b"setgid", 0o2775, 4242), (b"acl", 0o755, 0), (b"shut", 0o555, 0),
    ):  # fmt: skip
        os.mkdir(top + b"/" + name)
        if os.geteuid() == 0:
            os.chown(top + b"/" + name, -1, group)
        os.chmod(top + b"/" + name, mode)
    with suppress(OSError):  # not on every file system
        os.setxattr(top + b"/acl", "system.posix_acl_default", ACL)
    os.symlink(b"file", top + b"/plain/link")
    os.symlink(b"nothing", top + b"/plain/dangling")
    os.mkfifo(top + b"/plain/fifo")


def renew(top: bytes) -> None:
    """As it was before each try."""
    for path in (b"plain/file", b"sticky/mine", b"sticky/theirs"):
        fd = os.open(top + b"/" + path, os.O_RDWR | os.O_TRUNC | os.O_NOFOLLOW | os.O_CREAT, 0o600)
        os.write(fd, b"content")
        os.fchmod(fd, 0o666)
        if path.endswith(b"theirs") and os.geteuid() == 0:
            os.fchown(fd, 1000, 1000)
        os.close(fd)
    for directory in os.listdir(top):
        for name in os.listdir(top + b"/" + directory):
            if name in (b"new", b"nothing"):
                os.unlink(top + b"/" + directory + b"/" + name)


def found(top: bytes) -> list[tuple[bytes, int, int, int, int]]:
    """All that is there, its size and to whom it belongs."""
    seen = []
    for where, _, names in os.walk(top):
        for each in names:
            path = where + b"/" + each
            status = os.lstat(path)
            seen.append(
                (path[len(top) :], status.st_mode, status.st_gid, status.st_uid, status.st_size)
            )
    return sorted(seen)


def test_what_is_made_is_what_the_kernel_makes() -> None:
    """In turns with a caller that does it by itself."""
    chance, counted = random.Random(SEED), 0
    with open_directory() as first, open_directory() as second, Performers() as performers:
        tops = first, second
        for top in tops:
            build(top)
        with (
            caller(lambda: os.chdir(first)) as one,
            caller(lambda: os.chdir(second)) as other,
            unsteady(),
        ):
            for _ in range(TRIES):
                for top in tops:
                    renew(top)
                mask, mode = chance.choice((0, 0o22, 0o77, 0o777)), chance.randrange(0o10000)
                flags = chance.choice((os.O_CREAT, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE))
                for _ in range(chance.randrange(4)):
                    flags |= chance.choice((os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW, os.O_CLOEXEC, os.O_SYNC,
                                            os.O_DIRECTORY, os.O_NOATIME, os.O_CREAT))  # fmt: skip
                flags |= chance.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR)) | os.O_NONBLOCK
                name = chance.choice((b"new", b"new", b"file", b"mine", b"theirs", b"link", b"dangling", b"fifo", b".",
                                      b"new/", b"x" * 300, b""))  # fmt: skip
                path = (
                    chance.choice((b"plain", b"sticky", b"setgid", b"acl", b"shut", b"missing"))
                    + b"/"
                    + name
                )
                absolute = chance.random() < 0.3
                told = []
                for each, top in ((one, first), (other, second)):
                    each.natively("umask", mask)
                    call = "openat", AT_FDCWD, top + b"/" + path if absolute else path, flags, mode
                    told.append(
                        each.natively(*call) if each is one else each.performed(performers, *call)
                    )
                assert told[0] == told[1], (oct(mask), oct(mode), oct(flags), path)
                assert found(first) == found(second), (oct(mask), oct(mode), oct(flags), path)
                counted += told[0][0] == "fd"
    assert counted > TRIES // (5 if os.geteuid() == 0 else 10)


@pytest.fixture
def made() -> Iterator[tuple[bytes, Caller, Performers]]:
    """Where it is, a caller whose umask is 027, and who performs."""
    with (
        open_directory() as top,
        caller(lambda: (os.chdir(top), os.umask(0o27))) as one,
        Performers() as performers,
    ):
        build(top)
        renew(top)
        for path in (b"/plain/file", b"/sticky/mine"):
            os.stat(top + path)  # into the kernel's memory
        yield top, one, performers


def asked(performers: Performers) -> int:
    """How many executors there are."""
    return sum(map(len, (performers.executors._busy, performers.executors._idle)))


def test_no_process_is_needed(
    made: tuple[bytes, Caller, Performers], monkeypatch: pytest.MonkeyPatch
) -> None:
    top, one, performers = made

    def never(*_: object, **__: object) -> None:
        raise AssertionError("an executor")

    os.makedirs(top + b"/fresh/deep")
    os.close(os.open(top + b"/fresh/deep/there", os.O_CREAT, 0o600))
    monkeypatch.setattr(performers.executors, "borrow", never)
    for each in (working, ways):
        monkeypatch.setattr(each, "session_of", never)
    for path, flags, mode, size in (
        (b"plain/new", os.O_CREAT | os.O_WRONLY, 0o640, 0),
        (b"plain/new", os.O_CREAT | os.O_WRONLY, 0o640, 0),
        (top + b"/sticky/new", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640, 0),
        (b"sticky/mine", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666, 7),
        (b"plain/file", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666, 0),
        (b"plain", os.O_TMPFILE | os.O_RDWR, 0o640, 0),
        (b"fresh/deep/there", os.O_RDONLY, 0o600, 0),
    ):
        said = one.performed(performers, "openat", AT_FDCWD, path, flags, 0o666)
        assert said[:2] == ("fd", oct(stat.S_IFREG | mode)), path
        assert said[4] == size
    exclusive = "openat", AT_FDCWD, b"plain/file", os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o666
    assert one.performed(performers, *exclusive) == ("errno", errno.EEXIST)
    for path in (
        b"fresh/none",
        b"fresh/none",
        b"fresh/nowhere/deep/none",
        top + b"/fresh//deep/none/",
        b"fresh/deep/../no/",
    ):
        said = one.performed(performers, "openat", AT_FDCWD, path, os.O_RDONLY, 0)
        assert said == ("errno", errno.ENOENT), path


def test_what_is_made_is_charged_to_whoever_wants_it(
    made: tuple[bytes, Caller, Performers],
) -> None:
    """A caller in other cgroups than the monitor's has its own executor make it."""
    top, one, performers = made
    own = performers.callers.own()
    own.who = own.who._replace(cgroups=b"0::/elsewhere\n")
    for number in range(2):
        path = b"%s/plain/%d" % (top, number)
        assert (
            one.performed(performers, "openat", AT_FDCWD, path, os.O_CREAT | os.O_RDWR, 0o666)[0]
            == "fd"
        )
        assert asked(performers) == 1
        assert one.performed(performers, "openat", AT_FDCWD, path, os.O_RDWR, 0)[0] == "fd"


def test_its_thread_ends_with_it() -> None:
    with open_directory() as top, caller() as one:
        build(top)
        before = set(os.listdir("/proc/self/task"))
        with Performers() as performers:
            said = one.performed(
                performers, "openat", AT_FDCWD, top + b"/plain/new", os.O_CREAT | os.O_RDWR, 0o600
            )
            assert said[0] == "fd"
            (thread,) = set(os.listdir("/proc/self/task")) - before
        while os.path.exists(f"/proc/self/task/{thread}"):
            os.sched_yield()


def test_a_child_of_the_monitor_has_none(made: tuple[bytes, Caller, Performers]) -> None:
    """What is to be made there is left to others."""
    top, _, _ = made
    monitor, us = here.Here(), Standing(os.getpid(), labels=False)

    def make(name: bytes, known: Standing) -> object:
        path, flags = top + b"/plain/" + name, os.O_CREAT | os.O_RDWR
        assert known.known is not None
        found = _core.open_for(
            known.known, False, b"", -1, 0, -1, pins.AT_FDCWD, path, flags, 0, here.LOCAL, monitor.table, False, 0o600,
            monitor.maker,
        )  # fmt: skip
        assert found is not None
        return found[1]

    fd = make(b"one", us)
    assert isinstance(fd, int)
    os.close(fd)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if make(b"other", us) is None else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not os.path.exists(top + b"/plain/other")
    us.close()
    monitor.close()


def test_with_a_full_table_nothing_is_made(made: tuple[bytes, Caller, Performers]) -> None:
    import resource

    top, one, performers = made
    call = "openat", AT_FDCWD, top + b"/plain/new", os.O_CREAT | os.O_RDWR, 0o600
    before = resource.prlimit(one.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(one.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    for _ in range(2):
        assert performers.perform(one.call(*call)) == Deny(errno.EMFILE)
    assert not os.path.exists(top + b"/plain/new")


def test_under_supervision() -> None:
    """The short way: each file has the mode that its own program's umask leaves."""
    program = (
        "import os, sys\n"
        "for i in range(300):\n"
        "    mask = (0, 0o22, 0o77, 0o777 if os.geteuid() == 0 else 0o177)[i % 4]\n"
        "    os.umask(mask)\n"
        "    fd = os.open(f'{i}', os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)\n"
        "    assert os.fstat(fd).st_mode & 0o7777 == 0o666 & ~mask, i\n"
        "    os.write(fd, b'content')\n"
        "    os.close(fd)\n"
        "    fd = os.open(f'{i}', os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666)\n"
        "    assert os.fstat(fd).st_size == 0\n"
        "    os.close(fd)\n"
        "    fd = os.open('.', os.O_TMPFILE | os.O_RDWR, 0o666)\n"
        "    assert os.fstat(fd).st_mode & 0o7777 == 0o666 & ~mask, i\n"
        "    os.close(fd)\n"
    )
    handler = proctor.Handler(["openat"], lambda call: proctor.perform())
    with open_directory() as top, unsteady():
        proctor.run([PYTHON, "-IS", "-c", program], [handler], check=True, cwd=os.fsdecode(top))
