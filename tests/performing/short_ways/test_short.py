"""The short way of an ordinary open: whoever goes it gets what the long way gives, or goes the long way."""

from __future__ import annotations

import errno
import os
import resource
import select
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import proctor
from proctor.call.verdict import Deny, Perform, Verdict
from proctor.kernel import _core
from proctor.performing.executing.executors import Executors
from proctor.performing.families.open import Options
from proctor.performing.short_ways.short import OpenWay
from proctor.supervisor.answering import Answers
from proctor.supervisor.ports import Later
from tests.kernel.test_standing import CHANGES, child, root_only
from tests.performing.short_ways.test_here import content, link, put
from tests.performing.support.callers import AT_FDCWD, Call, Performers, open_directory
from tests.performing.support.containers import PYTHON
from tests.support.bpf import notify

PLAIN = Perform()
GROUPS = ("groups", "many groups")


#: Those that were made; a supervisor ends each of its calls.
_calls: list[Call] = []


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    while _calls:
        call = _calls.pop()
        if call._caller is not None:
            call._caller.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def opening(tid: int, path: bytes, flags: int = 0) -> Call:
    _calls.append(Call(tid, "openat", (AT_FDCWD, path, flags, 0)))
    return _calls[-1]


@pytest.fixture
def top() -> Iterator[bytes]:
    with open_directory() as path:
        yield path


def begun(
    performers: Performers, tid: int, path: bytes, flags: int = 0, wish: Perform = PLAIN
) -> Verdict | Later | None:
    """The short way, as far as it goes at once."""
    short = performers.ordinary("openat")
    assert short is not None
    return short(opening(tid, path, flags), wish)


def waited_for(said: Verdict | Later | None) -> Verdict | None:
    while isinstance(said, Later):
        poll = select.poll()
        poll.register(said.fd, select.POLLIN)
        poll.poll(20_000)
        said = said.resume()
    return said


def shortly(
    performers: Performers, tid: int, path: bytes, flags: int = 0, wish: Perform = PLAIN
) -> Verdict | None:
    return waited_for(begun(performers, tid, path, flags, wish))


def known(performers: Performers, tid: int) -> None:
    """The first call of everybody goes the long way."""
    assert shortly(performers, tid, b"/") is None
    verdict = performing_for(performers, opening(tid, b"/"))
    assert isinstance(verdict, proctor.HandOver)
    os.close(verdict.fd)


def performing_for(performers: Performers, call: Call) -> Verdict:
    return super(Performers, performers).perform(call)


def nobody() -> None:
    os.setgroups([])
    os.setresgid(1000, 1000, 1000)
    os.setresuid(1000, 1000, 1000)


def capable() -> None:
    """Another one than the monitor, who may change all the same."""
    os.setgroups([4242])
    os.setresgid(9, 9, 9)


def no_more() -> None:
    os.chdir("/")


@root_only
@pytest.mark.parametrize("setup", [no_more, nobody, capable])
def test_what_is_ordinary_goes_it(setup: Callable[[], None], top: bytes) -> None:
    file = put(top + b"/file", b"content")
    link(top + b"/link", b"file")
    # read later than it was made, so that nothing is written down of it (relatime), which not every kernel can in a moment
    os.utime(top + b"/link", (time.time() + 3600, 0), follow_symlinks=False)
    for path in (file, top + b"/link", b"file"):
        os.stat(os.path.join(top, path))

    def begin() -> None:
        setup()
        os.chdir(top)

    with Performers() as performers, child(begin) as (pid, go_on):
        go_on()
        known(performers, pid)
        for path in (file, top + b"/link", b"file", b"./link"):
            verdict = shortly(performers, pid, path)
            assert isinstance(verdict, proctor.HandOver), path
            assert content(verdict) == b"content"
        for path, flags, number in (
            (top + b"/missing", 0, errno.ENOENT),
            (b"file", os.O_DIRECTORY, errno.ENOTDIR),
            (top, os.O_WRONLY, errno.EISDIR),
            (top + b"/link", os.O_NOFOLLOW, errno.ELOOP),
        ):
            os.path.exists(os.path.join(top, path))
            assert shortly(performers, pid, path, flags) == Deny(number), path
        verdict = shortly(performers, pid, file, os.O_CLOEXEC)
        assert isinstance(verdict, proctor.HandOver)
        assert verdict.cloexec
        os.close(verdict.fd)


@root_only
@pytest.mark.parametrize("setup", [no_more, nobody])
def test_what_is_not_leaves_nothing_behind(setup: Callable[[], None], top: bytes) -> None:
    file = put(top + b"/file", b"content", 0o666)
    os.mkfifo(top + b"/fifo", 0o666)
    with Performers() as performers, child(setup) as (pid, go_on):
        go_on()
        known(performers, pid)
        others = setup is not no_more
        for path, flags in (
            (file, os.O_WRONLY | os.O_CREAT),
            (file, os.O_PATH),
            (top, os.O_TMPFILE | os.O_RDWR),
            (b"", 0),
            (b"x" * 300, 0),
            (b"/proc/version", 0),
        ):
            if path == b"/proc/version" and others:
                continue  # asked ahead, and gone on with
            if flags & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY) and not others:
                continue  # made here: tests/performing/short_ways/test_making.py
            assert shortly(performers, pid, path, flags) is None, (path, flags)
        assert not os.path.exists(top + b"/new")
        if others:
            said = shortly(performers, pid, b"/proc/version")
            assert isinstance(said, proctor.HandOver)
            assert content(said).startswith(b"Linux")
            # O_TRUNC is something that happens
            assert shortly(performers, pid, file, os.O_WRONLY | os.O_TRUNC) is None
            assert os.stat(file).st_size == 7
        assert len(performers.executors._busy) == 0


@root_only
def test_what_waits_is_gone_on_with(top: bytes) -> None:
    """A FIFO is opened once, by the executor that was asked ahead, and nobody waits for it."""
    os.mkfifo(top + b"/fifo", 0o666)
    os.chmod(top + b"/fifo", 0o666)
    with Performers() as performers, child(nobody) as (pid, go_on):
        go_on()
        known(performers, pid)
        said = begun(performers, pid, top + b"/fifo")
        assert isinstance(said, Later)
        writer = os.open(top + b"/fifo", os.O_WRONLY)
        os.write(writer, b"content")
        verdict = waited_for(said)
        assert isinstance(verdict, proctor.HandOver)
        assert stat.S_ISFIFO(os.fstat(verdict.fd).st_mode)
        os.close(writer)
        assert content(verdict) == b"content"
        # and given up by whoever gives it up
        said = begun(performers, pid, top + b"/fifo")
        assert isinstance(said, Later)
        said.cancel()


@root_only
@pytest.mark.parametrize("before", ["own", "capable"])
@pytest.mark.parametrize("what", CHANGES)
def test_whoever_changed_does_not(before: str, what: str, top: bytes) -> None:
    """Whatever changes who somebody is between two calls is seen by the next one."""
    secret = put(top + b"/secret", b"of nobody else", 0o600)
    os.chown(secret, 4242, 4242)
    setup = capable if before == "capable" else no_more
    with Performers() as performers, child(setup, CHANGES[what]) as (pid, go_on):
        go_on()
        known(performers, pid)
        verdict = shortly(performers, pid, secret)
        assert isinstance(verdict, proctor.HandOver)
        os.close(verdict.fd)
        go_on()
        verdict = shortly(performers, pid, secret)
        if before == "own" and what in ("no_new_privs", *GROUPS):
            assert isinstance(verdict, proctor.HandOver)  # they decide nothing there
            os.close(verdict.fd)
        else:
            assert verdict is None


@root_only
def test_a_full_table_has_no_short_way(top: bytes) -> None:
    def full() -> None:
        import resource

        nobody()
        resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))
        try:
            while True:
                os.dup(0)
        except OSError:
            pass

    with Performers() as performers, child(no_more, full) as (pid, go_on):
        go_on()
        go_on()
        assert performing_for(performers, opening(pid, b"/")) == Deny(errno.EMFILE)
        assert shortly(performers, pid, top) is None


@root_only
def test_whoever_looked_or_has_a_rule_is_heard(top: bytes) -> None:
    file = put(top + b"/file", b"content")
    os.stat(file)
    with Performers() as performers, child(nobody) as (pid, go_on):
        go_on()
        known(performers, pid)
        verdict = shortly(performers, pid, file, 0, proctor.perform(lambda *_: False))
        assert isinstance(verdict, Deny)
        assert verdict.errno == errno.EACCES
        call = opening(pid, file)
        assert call.caller.comm
        short = performers.ordinary("openat")
        assert short is not None
        assert short(call, Perform()) is None
        verdict = shortly(
            performers, pid, file, os.O_SYNC, proctor.perform(options=Options(sync=False))
        )
        assert isinstance(verdict, proctor.HandOver)
        assert content(verdict) == b"content"
        assert shortly(performers, pid, file, 0, proctor.perform(options=object())) is None


@root_only
@pytest.mark.parametrize("relative", [False, True])
def test_a_rule_is_asked_once_about_what_is_opened(relative: bool, top: bytes) -> None:
    """In another identity: what has the name after that is something else, and is not opened."""
    asked: list[tuple[str, bytes]] = []

    def swapped(argument: str, path: bytes) -> bool:
        asked.append((argument, path))
        os.rename(put(top + b"/other", b"other"), file)
        return True

    def begin() -> None:
        nobody()
        os.chdir(top)

    file = put(top + b"/file", b"content")
    link(top + b"/link", b"file")
    rule = proctor.perform(swapped)
    with Performers() as performers, child(begin) as (pid, go_on):
        go_on()
        known(performers, pid)
        verdict = shortly(performers, pid, b"link" if relative else top + b"/link", 0, rule)
        assert isinstance(verdict, proctor.HandOver)
        assert content(verdict) == b"content"
        assert asked == [("path", file)]
        # what is nothing is nobody's business, and what cannot be opened was asked about
        assert shortly(performers, pid, top + b"/missing", 0, rule) == Deny(errno.ENOENT)
        assert asked == [("path", file)]
        os.chmod(file, 0o600)
        assert shortly(performers, pid, file, 0, proctor.perform(lambda *_: True)) == Deny(13)
        assert shortly(performers, pid, file, os.O_NOFOLLOW, rule) is None
        assert shortly(performers, pid, top + b"/file", os.O_DIRECTORY, rule) == Deny(20)
        assert len(asked) == 1
        assert not performers.executors._busy


@root_only
def test_a_rule_may_go_on_elsewhere(top: bytes) -> None:
    """What takes a second thought after the first question is asked by the long way, once."""
    os.mkfifo(top + b"/fifo", 0o666)
    os.chmod(top + b"/fifo", 0o666)
    asked = []
    rule = proctor.perform(lambda _, path: not asked.append(path))  # type: ignore[func-returns-value]
    with Performers() as performers, child(nobody) as (pid, go_on):
        go_on()
        known(performers, pid)
        said = begun(performers, pid, top + b"/fifo", 0, rule)
        assert isinstance(said, Later)
        writer = os.open(top + b"/fifo", os.O_RDWR)  # its first question may be what takes longer
        verdict = waited_for(said)
        os.close(writer)
        assert isinstance(verdict, proctor.HandOver)
        os.close(verdict.fd)
        verdict = shortly(performers, pid, b"/proc/version", 0, rule)
        assert isinstance(verdict, proctor.HandOver)
        assert content(verdict).startswith(b"Linux")
        assert asked == [top + b"/fifo", b"/proc/version"]


@root_only
@pytest.mark.parametrize("when", ["before", "between"])
def test_a_rule_whose_executor_dies_is_asked_again(when: str, top: bytes) -> None:
    file = put(top + b"/file", b"content")
    asked = []

    def ends(argument: str, path: bytes) -> bool:
        if when == "between" and not asked:
            (executor,) = performers.executors._busy
            executor.signal()
            executor.wait_for_end(20)
        asked.append(path)
        return True

    with Performers() as performers, child(nobody) as (pid, go_on):
        go_on()
        known(performers, pid)
        if when == "before":
            (executor,) = performers.executors._idle
            executor.signal()
            executor.wait_for_end(20)
            assert shortly(performers, pid, file, 0, proctor.perform(ends)) is None
            assert not asked
        else:
            verdict = shortly(performers, pid, file, 0, proctor.perform(ends))
            assert isinstance(verdict, proctor.HandOver)
            assert content(verdict) == b"content"
            assert asked == [file, file]


@root_only
@pytest.mark.parametrize("setup", [no_more, nobody])
def test_a_rules_own_mistakes_leave_nothing_open(setup: Callable[[], None], top: bytes) -> None:
    def mistaken(argument: str, path: bytes) -> bool:
        raise LookupError("a mistake")

    file = put(top + b"/file", b"content")
    with Performers() as performers, child(setup) as (pid, go_on):
        go_on()
        for _ in range(3):
            known(performers, pid)
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(LookupError):
                shortly(performers, pid, file, wish=Perform(mistaken))
            assert len(os.listdir("/proc/self/fd")) <= before
        assert not performers.executors._busy


@root_only
def test_an_executor_that_died_is_no_answer(top: bytes) -> None:
    file = put(top + b"/file", b"content")
    with Performers() as performers, child(nobody) as (pid, go_on):
        go_on()
        known(performers, pid)
        (executor,) = performers.executors._idle
        executor.signal()
        executor.wait_for_end(20)
        assert shortly(performers, pid, file) is None
        verdict = performing_for(performers, opening(pid, file))
        assert isinstance(verdict, proctor.HandOver)
        os.close(verdict.fd)


@pytest.mark.parametrize("options", [{}, {"uid": 1000, "gid": 1000, "groups": ()}])
def test_under_supervision(options: dict[str, object], top: bytes) -> None:
    """Results, counts, and what the long way has to do besides: all that a program sees is the same."""
    if options and os.geteuid() != 0:
        pytest.skip("another identity takes root")
    put(top + b"/file", b"content")
    counters = proctor.Counters()
    program = (
        "import os, sys\n"
        "for i in range(200):\n"
        "    fd = os.open('file', os.O_RDONLY)\n"
        "    assert os.read(fd, 9) == b'content' and not os.get_inheritable(fd)\n"
        "    os.close(fd)\n"
        "    try: os.open('missing', os.O_RDONLY)\n"
        "    except FileNotFoundError: pass\n"
    )
    handler = proctor.Handler(["openat"], lambda call: proctor.perform())
    proctor.run(
        [PYTHON, "-IS", "-c", program],
        [handler],
        observers=[counters],
        check=True,
        cwd=os.fsdecode(top),
        **options,  # type: ignore[arg-type]
    )
    table = counters.table()
    name = next(key[0] for key in table)
    assert table[name, "openat", "perform"] >= 200
    assert table[name, "openat", "perform ENOENT"] >= 200


@pytest.mark.parametrize("options", [{}, {"uid": 1000, "gid": 1000, "groups": ()}])
def test_what_cannot_be_read_to_its_end_is_no_path(options: dict[str, object]) -> None:
    """Not its beginning, either, which may be the name of something."""
    if options and os.geteuid() != 0:
        pytest.skip("another identity takes root")
    program = (
        "import ctypes, errno, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]\n"
        "libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]\n"
        "page = os.sysconf('SC_PAGESIZE')\n"
        "end = libc.mmap(None, 2 * page, 3, 0x22, -1, 0) + page\n"
        "libc.munmap(end, page)\n"
        "ctypes.memmove(end - 4, b'/etc', 4)\n"
        "long = ctypes.create_string_buffer(b'/' * 5000)\n"
        "wanted = (end - 4, errno.EFAULT), (end, errno.EFAULT), (ctypes.addressof(long), errno.ENAMETOOLONG)\n"
        "for address, number in wanted:\n"
        "    for _ in range(2): os.close(os.open('/etc', os.O_RDONLY))\n"
        "    made = libc.openat(-100, ctypes.c_void_p(address), 0)\n"
        "    assert (made, ctypes.get_errno()) == (-1, number), (made, ctypes.get_errno(), number)\n"
    )
    handler = proctor.Handler(["openat"], lambda call: proctor.perform())
    proctor.run([PYTHON, "-IS", "-c", program], [handler], check=True, **options)  # type: ignore[arg-type]


def test_a_rules_own_mistake_is_answered_as_any_handlers(top: bytes) -> None:
    """Also where it is asked on the short way."""
    file = os.fsdecode(put(top + b"/file", b"content"))

    def mistaken(argument: str, path: bytes) -> bool:
        if path.endswith(b"/file"):
            raise LookupError("a mistake")
        return True

    program = (
        "import errno, os, sys\n"
        "for _ in range(3):\n"
        "    for _ in range(2): os.close(os.open('/etc', os.O_RDONLY))\n"
        "    try: os.open(sys.argv[1], os.O_RDONLY)\n"
        "    except OSError as failed: assert failed.errno == errno.EIO, failed\n"
        "    else: raise SystemExit(1)\n"
    )
    handler = proctor.Handler(["openat"], lambda call: proctor.perform(mistaken))
    proctor.run(
        [PYTHON, "-IS", "-c", program, file],
        [handler],
        check=True,
        on_error=proctor.deny(errno.EIO),
        stderr=subprocess.DEVNULL,
    )


def _limit(pid: int, files: int) -> None:
    """As somebody of the same ids may."""
    helper = os.fork()
    if not helper:
        try:
            nobody()
            most = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, most))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(helper, 0)[1] == 0


@root_only
@pytest.mark.parametrize("before", [0, 3], ids=["new", "foreseen"])
def test_who_takes_an_executor_its_descriptors_is_told_no_more(
    top: bytes, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """It has one left for the thing, and none to see whether its name leads there: no rule is asked about less."""
    os.chmod(top, 0o755)
    os.mkdir(top + b"/secret")
    os.chmod(top + b"/secret", 0o755)
    file = put(top + b"/secret/file", b"content")
    lend, files, pids, asked = OpenWay._lend, 0, [0], []

    def lends(self: OpenWay, known: Any) -> Any:
        executor = lend(self, known)
        if executor is not None and files:
            pids[0] = executor.pid
            _limit(executor.pid, files)
        return executor

    def allow(argument: str, path: bytes) -> bool:
        asked.append(path)
        if files:
            _limit(pids[0], 100)
            return not path.startswith(top + b"/secret/")
        return True

    monkeypatch.setattr(OpenWay, "_lend", lends)
    for number in range(8, 14):
        with Performers() as performers, child(nobody) as (pid, go_on):
            go_on()
            files = 0
            known(performers, pid)
            for _ in range(before):
                verdict = shortly(performers, pid, file, 0, Perform(allow))
                if isinstance(verdict, proctor.HandOver):
                    os.close(verdict.fd)
            files = number
            verdict = shortly(performers, pid, file, 0, Perform(allow))
            assert verdict is None or isinstance(verdict, Deny), (number, verdict)
    assert set(asked) == {file}


FORESEEN = """
import errno, os, sys
top = os.getcwd()
def read(path, flags=os.O_RDONLY):
    fd = os.open(path, flags)
    try: return os.read(fd, 9)
    finally: os.close(fd)
def put(path, text):
    fd = os.open("new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(fd, text); os.close(fd)
    os.rename("new", path)
def fails(number, path, flags=os.O_RDONLY):
    for _ in range(3):
        try: read(path, flags)
        except OSError as failed: assert failed.errno == number, (path, failed)
        else: raise SystemExit(f"{path} was opened")
file = top + "/file"
put(file, b"")
for _ in range(300): read(file)  # the first calls are slow, so that none goes the short way for a while
for path in (file, "file", top + "/link", "./link"):
    put(file, b"one")
    for _ in range(20): assert read(path) == b"one"
    put(file, b"two")
    for _ in range(3): assert read(path) == b"two"
    os.unlink(file)
    fails(errno.ENOENT, path)
    put(file, b"three")
    os.chmod(file, 0o200)
    fails(errno.EACCES, path)
    os.chmod(file, 0o644)
    for _ in range(3): assert read(path) == b"three"
    os.rename(file, "secret")
    os.symlink("secret", file)
    fails(errno.EACCES, path)
    os.rename("secret", file)
    for _ in range(3): assert read(path) == b"three"
    os.unlink(file)
    os.mkfifo(file)
    for _ in range(3): os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    os.unlink(file)
    os.mkdir(file)
    for _ in range(3): os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
    for _ in range(3): os.close(os.open(path, os.O_RDONLY))
    put("plain", b"four")
    os.rmdir(file)
    os.rename("plain", file)
    fails(errno.ENOTDIR, path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(3):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"+"); os.close(fd)
    assert read(path) == b"four+++"
    os.chmod(file, 0o444)
    fails(errno.EACCES, path, os.O_WRONLY)
for each in ("a", "b"):
    os.mkdir(each)
    put(each + "/same", each.encode())
for _ in range(5):
    for each in ("a", "b"):
        os.chdir(top + "/" + each)
        assert read("same") == each.encode()
"""


@root_only
def test_what_a_rule_allowed_before_is_foreseen(
    top: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another identity: where it still is the same thing of that name; whatever else it is, the rule is asked about
    that, and once each time as long as nothing changes."""
    asked: list[bytes] = []
    given: list[object] = []
    allows, goes_on = OpenWay._allows, OpenWay._goes_on

    def counted(self: OpenWay, *about: Any) -> bool:
        said = allows(self, *about)
        given.extend([about] * said)
        return said

    def late(self: OpenWay, told: tuple[Any, ...]) -> Any:
        if told[-1] == 2:  # it was foreseen
            given.pop()
        return goes_on(self, told)

    def allow(argument: str, path: bytes) -> bool:
        asked.append(path)
        return not path.endswith(b"/secret")

    monkeypatch.setattr(OpenWay, "_allows", counted)
    monkeypatch.setattr(OpenWay, "_goes_on", late)
    os.chown(top, 1000, 1000)
    os.symlink("file", top + b"/link")
    handler = proctor.Handler(["openat"], lambda call: proctor.perform(allow))
    other: dict[str, Any] = {"uid": 1000, "gid": 1000, "groups": ()}
    command = [PYTHON, "-IS", "-c", FORESEEN]
    for _ in range(9):
        proctor.run(command, [handler], check=True, cwd=os.fsdecode(top), **other)
        if given:
            break
        subprocess.run(["rm", "-rf", "a", "b", "file", "secret", "plain"], cwd=top, check=True)
    steady = [top + b"/new", *[top + b"/file"] * 20, top + b"/new"]
    assert steady in (asked[i : i + 22] for i in range(len(asked)))
    assert given  # nearly all of them where nothing makes executors late; none on a busy machine


@root_only
def test_what_is_foreseen_may_come_late(top: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has a lease on it, and gives it up some time after he was asked."""
    file = put(top + b"/file", b"content")
    asked: list[bytes] = []
    discarded: list[object] = []
    before = Executors.discard
    reader, writer = os.pipe()

    def discard(self: Executors, worker: Any) -> None:
        discarded.append(worker)
        before(self, worker)

    def allow(argument: str, path: bytes) -> bool:
        if path == file:
            asked.append(path)
            if len(asked) == 3:
                os.write(writer, b"x")
                os.read(reader_of_lease, 1)
        return True

    holds = (
        "import fcntl, os, signal, sys, time\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])\n"
        "os.read(0, 1)\n"
        "fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
        "os.write(1, b'x')\n"
        "signal.sigwait([signal.SIGIO])\n"
        "time.sleep(0.03)\n"  # longer than any executor is waited for
        "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)\n"
    )
    program = (
        "import os, sys\n"
        "for path in ['/etc'] * 300 + [sys.argv[1]] * 5:\n"
        "    fd = os.open(path, os.O_RDONLY)\n"
        "    assert path == '/etc' or os.read(fd, 9) == b'content'\n"
        "    os.close(fd)\n"
    )
    reader_of_lease, lease = os.pipe()
    holder = subprocess.Popen([PYTHON, "-c", holds, file], stdin=reader, stdout=lease)
    monkeypatch.setattr(Executors, "discard", discard)
    handler = proctor.Handler(["openat"], lambda call: proctor.perform(allow))
    other: dict[str, Any] = {"uid": 1000, "gid": 1000, "groups": ()}
    try:
        proctor.run([PYTHON, "-IS", "-c", program, file], [handler], check=True, **other)
        assert holder.wait(20) == 0
    finally:
        holder.kill()
        holder.wait()
        for fd in (reader, writer, reader_of_lease, lease):
            os.close(fd)
    assert len(asked) in (5, 6)
    assert not discarded


@root_only
def test_who_calls_is_seen_again_when_a_rule_has_thought_for_long(
    top: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its other thread goes into another root meanwhile, which is its root, too."""
    foresees = False
    before = OpenWay._allows

    def allows(self: OpenWay, *rest: Any) -> bool:
        nonlocal foresees
        foresees = True
        try:
            return before(self, *rest)
        finally:
            foresees = False

    monkeypatch.setattr(OpenWay, "_allows", allows)
    put(top + b"/file", b"outside")
    os.mkdir(top + b"/jail")
    os.chmod(top + b"/jail", 0o755)
    inside = top + b"/jail" + top
    os.makedirs(inside)
    put(inside + b"/file", b"jail")
    subprocess.run(["chmod", "-R", "a+rX", os.fsdecode(top)], check=True)
    asked, third = 0, b""

    def allow(argument: str, path: bytes) -> bool:
        nonlocal asked, third
        if path == top + b"/file":
            asked += 1
            if asked == 3:
                third = b"jail" if foresees else b"outside"  # what is pinned is opened
                os.write(go_on, b"x")
                os.read(gone, 1)
                until = time.monotonic() + 0.003
                while time.monotonic() < until:
                    pass
        return True

    wait, go_on = os.pipe()
    gone, goes = os.pipe()
    program = (
        "import os, sys, threading\n"
        "wait, goes, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]\n"
        "def go():\n"
        "    os.read(wait, 1); os.chroot(os.path.dirname(file) + '/jail'); os.write(goes, b'x')\n"
        "threading.Thread(target=go).start()\n"
        "for _ in range(300): os.close(os.open('/etc', os.O_RDONLY))\n"
        "seen = []\n"
        "for _ in range(4):\n"
        "    fd = os.open(file, os.O_RDONLY); seen.append(os.read(fd, 9)); os.close(fd)\n"
        "os.write(1, b' '.join(seen))\n"
    )
    handler = proctor.Handler(["openat"], lambda call: proctor.perform(allow))
    try:
        done = proctor.run(
            [PYTHON, "-IS", "-c", program, str(wait), str(goes), os.fsdecode(top + b"/file")],
            [handler],
            check=True,
            capture_output=True,
            userns=[(0, 100000, 65536)],
            pass_fds=(wait, goes),
        )
    finally:
        for fd in (wait, go_on, gone, goes):
            os.close(fd)
    assert done.stdout.split() == [b"outside", b"outside", third, b"jail"]


def test_a_listener_that_was_closed_is_not_spoken_to_by_its_number() -> None:
    """It may be another one's by then."""
    missing = b"/missing/file"
    program = f"import os\nfor _ in range(3):\n try: os.open({missing!r}, 0)\n except OSError: pass"
    performers, said = Performers(), []
    with proctor.launch([PYTHON, "-IS", "-c", program], program=notify("openat")) as target:
        listener = proctor.Listener(target.take_listener())
        short = performers.ordinary("openat", listener)
        while len(said) < 2:
            notification = listener.recv()
            call = proctor.Call(notification, listener)
            if call.path != missing:
                listener.send(notification.id, 0, 0, 1)  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
                continue
            call = proctor.Call(notification, listener)  # nothing was read of it yet
            call.container = None  # type: ignore[assignment]
            _calls.append(call)  # type: ignore[arg-type]
            if not said:
                said.append(performing_for(performers, call))
                listener.send(notification.id, 0, -errno.ENOENT, 0)
                continue
            kept, number = os.dup(listener.fileno()), listener.fileno()
            listener.close()
            os.dup2(kept, number)
            try:
                verdict = short(
                    call, proctor.perform()
                )  # as of a caller that is gone: it could not be told any other
                assert isinstance(verdict, Deny) and verdict.errno == errno.EINTR
                assert _core.id_valid(kept, notification.id)
            finally:
                os.close(number)
                os.close(kept)
            said.append(None)
    performers.close()


@pytest.mark.parametrize("deadline", [None, 1e-6])
def test_what_was_given_by_who_lost_the_role_is_given_once(
    deadline: float | None, top: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call's thread may lose the role at any time on its way, also between a descriptor and its answer; a
    deadline may then answer what nobody has claimed, and nothing else."""
    put(top + b"/file", b"content")
    done: list[bool] = []
    given = Answers.given

    def counted(self: Answers, job: Any) -> None:
        given(self, job)
        done.append(job.done)

    monkeypatch.setattr(Answers, "given", counted)
    program = (
        "import os\n"
        "refused = 0\n"
        "for i in range(1000):\n"
        "    try: fd = os.open('file', os.O_NOATIME)\n"
        "    except TimeoutError: refused += 1; continue\n"
        "    assert os.read(fd, 9) == b'content' and fd == 3, fd\n"
        "    os.close(fd)\n"
        "print(refused)\n"
    )
    made: list[proctor.Process] = []
    ready = threading.Event()

    def stalls(call: proctor.Call) -> proctor.Verdict:
        if call.registers[2] & os.O_NOATIME:
            ready.wait()
            handler.deadline = deadline
            made[0].supervisor._decider._engine.surrender()
        return proctor.perform()

    counters = proctor.Counters()
    handler = proctor.Handler(["openat"], stalls)
    process = proctor.spawn(
        [PYTHON, "-IS", "-c", program],
        [handler],
        observers=[counters],
        cwd=os.fsdecode(top),
        stdout=subprocess.PIPE,
        on_deadline=proctor.deny(errno.ETIMEDOUT),
    )
    made.append(process)
    ready.set()
    with process:
        assert process.stdout is not None
        refused = int(process.stdout.read())
        assert process.wait(60) == 0
    table = counters.table()
    name = next(key[0] for key in table)
    assert table[name, "openat", "perform"] >= 1000 - refused
    assert deadline or not refused
    assert all(done)
