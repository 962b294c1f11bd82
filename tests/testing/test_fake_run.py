"""What a test sees is what the supervisor would answer."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import tempfile
from collections.abc import Callable

import pytest

import proctor
from proctor.call.call import Call
from proctor.call.decode.values import Device
from proctor.call.verdict import Deny, HandOver, LetRun, Perform, Verdict
from proctor.syscalls.flags import OpenFlag
from proctor.testing import AT_FDCWD, FakeCall, FakeTarget, Node

Make = Callable[..., FakeTarget]


def temporary(data: bytes) -> int:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        return os.dup(file.fileno())


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_the_first_verdict_wins(fake_target: Make) -> None:
    asked = []

    @proctor.on("mkdir")
    def passes(call: Call) -> None:
        asked.append("passes")

    @proctor.on("rmdir")
    def other(call: Call) -> Verdict:
        asked.append("other")
        return proctor.deny(1)

    @proctor.on("%file")
    def denies(call: Call) -> Verdict:
        return proctor.deny(errno.EROFS, "read-only")

    @proctor.on("mkdir")
    def late(call: Call) -> Verdict:
        asked.append("late")
        return proctor.answer(0)

    target = fake_target()
    outcome = target.run([passes, other, denies, late], target.call("mkdir", "x"))
    assert asked == ["passes"]
    assert (outcome.errno, outcome.value, outcome.ran) == (errno.EROFS, -1, False)
    assert outcome.reason == "read-only"
    assert "denies" in outcome.decided_by
    assert outcome.delivered and outcome.error is None


def test_nobody_s_call_runs(fake_target: Make) -> None:
    target = fake_target()
    outcome = target.run([], target.call("mkdir", "x"))
    assert outcome.ran and outcome.decided_by == "default" and outcome.value is None
    outcome = target.run([], target.call("mkdir", "x"), default=proctor.deny(errno.ENOSYS))
    assert outcome.errno == errno.ENOSYS


def test_conditions_are_kept(fake_target: Make) -> None:
    @proctor.on("mknod", when=proctor.Condition("mode", "&=", 0o60000, 0o170000))
    def block(call: Call) -> Verdict:
        return proctor.deny(errno.EPERM)

    target = fake_target()
    assert target.run(block, target.call("mknod", "x", 0o60600, 5)).errno == errno.EPERM
    assert target.run(block, target.call("mknod", "x", 0o20600, 5)).ran


def test_a_racy_let_run_is_refused(fake_target: Make) -> None:
    def racy(call: Call) -> Verdict:
        assert call.path
        return proctor.let_run()

    def said(call: Call) -> Verdict:
        assert call.path
        return proctor.let_run_unsafe("a test")

    def fine(call: Call) -> Verdict:
        assert call.mode
        return proctor.let_run()

    target = fake_target()
    outcome = target.run(racy, target.call("mkdir", "x", 1))
    assert isinstance(outcome.error, proctor.RacyVerdict)
    assert outcome.errno == errno.EPERM
    assert target.run(said, target.call("mkdir", "x", 1)).ran
    assert target.run(fine, target.call("mkdir", "x", 1)).ran


@pytest.mark.parametrize("nonsense", [0, "deny", object(), (1, 2)])
def test_nonsense_is_an_error(fake_target: Make, nonsense: object) -> None:
    target = fake_target()
    outcome = target.run(
        lambda call: nonsense,  # type: ignore[arg-type, return-value]
        target.call("mkdir", "x"),
        on_error=Deny(errno.EIO),
    )
    assert isinstance(outcome.error, TypeError)
    assert outcome.errno == errno.EIO


@pytest.mark.parametrize(
    "problem", [ValueError("x"), SystemExit(3), proctor.MemoryUnreadable(14, "")]
)
def test_what_is_raised_is_an_error(fake_target: Make, problem: BaseException) -> None:
    def raises(call: Call) -> Verdict:
        raise problem

    target = fake_target()
    outcome = target.run(raises, target.call("mkdir", "x"))
    assert outcome.error is problem
    assert outcome.errno == errno.EPERM


def test_what_the_call_owned_is_handed_over_and_closed_once(
    fake_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = fake_target({"/etc/motd": b"hello"})
    fd = target.open("/etc/motd")
    given: list[int] = []
    closed: list[int] = []
    real = os.close
    monkeypatch.setattr(os, "close", lambda fd: (closed.append(fd), real(fd))[1])

    def doubles(call: Call) -> Verdict:
        given.append(call.fd(fd))
        return proctor.hand_over(given[0])

    assert target.run(doubles, target.call("dup", fd)).content == b"hello"
    assert closed.count(given[0]) == 1

    def keeps(call: Call) -> Verdict:
        given.append(call.fd(fd))
        return proctor.hand_over(given[1], close=False)

    closed.clear()
    assert target.run(keeps, target.call("dup", fd)).content == b"hello"
    assert closed.count(given[1]) == 1  # with the call, after it was handed over

    @proctor.on("dup", deadline=1.0)
    def late(call: Call) -> Verdict:
        given.append(call.fd(fd))
        target.advance(2.0)
        return proctor.hand_over(given[2])

    closed.clear()
    outcome = target.run(late, target.call("dup", fd))
    assert (outcome.decided_by, closed.count(given[2])) == ("deadline", 1)


def test_a_call_is_over_afterwards(fake_target: Make) -> None:
    kept = []

    def keeps(call: Call) -> Verdict:
        kept.append((call, call.caller, call.caller.cwd(), call.resolve()))
        return proctor.deny(errno.EPERM)

    target = fake_target()
    outcome = target.run(keeps, target.call("mkdir", "x"), describe=True)
    call, caller, cwd, located = kept[0]
    assert outcome.text == 'mkdir("x", 000)' or outcome.text.startswith('mkdir("x"')
    assert call.name == "mkdir"
    for use in (lambda: call.path, lambda: caller.uids):
        with pytest.raises(proctor.CallOver):
            use()
    assert located.parent == -1
    assert not is_open(cwd)
    with pytest.raises(proctor.CallOver, match="make another"):
        target.run(keeps, call)


def test_a_descriptor_is_handed_over_and_closed(fake_target: Make) -> None:
    given = []

    def hands(call: Call) -> Verdict:
        given.append(temporary(b"content"))
        return proctor.hand_over(given[-1])

    target = fake_target()
    outcome = target.run(hands, target.call("open", "x"))
    assert isinstance(outcome.verdict, HandOver)
    assert outcome.value == outcome.fd == 3
    assert outcome.content == outcome.content == b"content"
    assert len(target.fds) == 4
    target.close()
    assert not is_open(given[0])


def test_content_is_what_the_target_would_read(fake_target: Make) -> None:
    """The position is shared: who forgets to rewind hands over an empty file (C071)."""

    def forgets(call: Call) -> Verdict:
        fd = temporary(b"")
        os.write(fd, b"content")
        return proctor.hand_over(fd, at=30)

    target = fake_target()
    outcome = target.run(forgets, target.call("open", "x"))
    assert (outcome.fd, outcome.content) == (30, b"")


def test_pipes_can_be_handed_over(fake_target: Make) -> None:
    target = fake_target()

    def hands(call: Call) -> Verdict:
        reading, writing = os.pipe()
        os.write(writing, b"through a pipe")
        os.close(writing)
        return proctor.hand_over(reading)

    assert target.run(hands, target.call("open", "x")).content == b"through a pipe"


def test_what_cannot_be_handed_over(fake_target: Make) -> None:
    target = fake_target(nofile=4)
    closed = temporary(b"")
    os.close(closed)
    outcome = target.run(lambda call: proctor.hand_over(closed), target.call("open", "x"))
    assert isinstance(outcome.error, OSError)
    assert outcome.errno == errno.EPERM
    with pytest.raises(AttributeError):
        assert outcome.content
    fds = [temporary(b"") for _ in range(3)]
    run = target.run
    assert run(lambda call: proctor.hand_over(fds[0]), target.call("open", "x")).value == 3
    full = run(lambda call: proctor.hand_over(fds[1]), target.call("open", "x"))
    assert full.errno == errno.EMFILE
    beyond = run(lambda call: proctor.hand_over(fds[2], at=4), target.call("open", "x"))
    assert beyond.errno == errno.EBADF
    assert not any(is_open(fd) for fd in fds[1:])


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="no O_PATH on this platform")
def test_path_descriptors_cannot_be_handed_over(fake_target: Make) -> None:
    def hands(call: Call) -> Verdict:
        return proctor.hand_over(os.open("/", os.O_PATH))

    target = fake_target()
    outcome = target.run(hands, target.call("open", "x"))
    assert isinstance(outcome.error, OSError) and outcome.error.errno == errno.EBADF


def test_a_caller_that_dies_meanwhile(fake_target: Make) -> None:
    given = []

    def handler(call: Call) -> Verdict:
        target.die()
        given.append(temporary(b""))
        return proctor.hand_over(given[-1])

    target = fake_target()
    outcome = target.run(handler, target.call("open", "x"))
    assert not outcome.delivered
    assert outcome.wire is None and outcome.value is None and not outcome.ran
    assert not is_open(given[0])


def test_a_caller_that_dies_while_its_memory_is_read(fake_target: Make) -> None:
    target = fake_target()
    target.memory.on_read = lambda _: target.die()
    outcome = target.run(lambda call: proctor.deny(len(call.path)), target.call("open", "x"))
    assert isinstance(outcome.error, proctor.CallGone)
    assert not outcome.delivered


# Looking, then performing ----------------------------------------------------------------------


def test_what_was_looked_at_is_what_is_performed(fake_target: Make) -> None:
    files = {"/open/a": b"A", "/closed/a": b"C", "/x": Node.symlink("open"), "/d": None}
    target = fake_target(files)

    def swap() -> None:
        target.files["/x"] = Node.symlink("closed")

    def replace() -> None:
        del target.files["/open/a"]
        target.files["/open/a"] = b"B"

    def looks(call: Call) -> Verdict:
        where = call.resolve(*argument)
        for meanwhile in between:
            meanwhile()
        return proctor.deny(errno.EACCES) if b"/closed/" in where.path else proctor.perform()

    argument: tuple[str, ...] = ()
    between: list[Callable[[], None]] = []
    assert target.run(looks, target.call("open", "/x/a")).content == b"A"
    for meanwhile, why in ((replace, "something else there"), (swap, "/closed/a")):
        between = [meanwhile]
        outcome = target.run(looks, target.call("open", "/x/a"))
        assert outcome.errno == errno.EACCES
        assert "led to /open/a" in outcome.reason and why in outcome.reason
    # What comes where nothing was is no contradiction: so it is with every O_CREAT.
    between = [lambda: target.files.__setitem__("/d/new", b"N")]
    made = target.run(looks, target.call("open", "/d/new", OpenFlag.O_CREAT))
    assert made.content == b"N"


def test_looks_that_bind_nothing(fake_target: Make) -> None:
    target = fake_target({"/a": b"A", "/b": b"B", "/x": Node.symlink("a")})

    def swap() -> None:
        target.files["/x"] = Node.symlink("b")

    for look in (
        lambda call: call.resolve(binds=False),
        lambda call: call.resolve(follow=False),  # the link itself, which open() does not mean
    ):
        target.files["/x"] = Node.symlink("a")
        call = target.call("open", "/x")
        assert call.looks == {}
        look(call)
        assert call.looks["path"].path in (b"/a", b"/x")
        swap()
        outcome = target.run(lambda call: proctor.perform(), call)
        assert outcome.content == b"B"


def test_both_paths_of_a_call_are_remembered(fake_target: Make) -> None:
    target = fake_target({"/a": b"A", "/d": None}, cwd="/d")
    call = target.call("rename", "/a", "new")
    call.resolve("oldpath"), call.resolve("newpath")
    old, new = call.looks["oldpath"], call.looks["newpath"]
    assert (old.path, new.path, new.file) == (b"/a", b"/d/new", None)
    assert call.contradiction("oldpath", b"/a", old.file) is None
    assert call.contradiction("newpath", b"/d/new", old.file) is None
    for argument, path, file in (
        ("oldpath", b"/b", old.file), ("oldpath", b"/a", None), ("newpath", b"/x", None),
        ("oldpath", b"/a", old.file._replace(inode=0)), ("oldpath", b"/a", old.file._replace(mount=9)),
    ):  # fmt: skip
        refused = call.contradiction(argument, path, file)
        assert refused is not None and refused.errno == errno.EACCES
    assert call.contradiction("source", b"/x", None) is None


def test_the_monitors_errno_is_not_the_callers(fake_target: Make) -> None:
    target = fake_target({"/a": b"A"})
    call = target.call("open", "/none/x")
    with pytest.raises(proctor.NotResolved, match="by the monitor") as refused:
        call.resolve()
    assert refused.value.errno == errno.ENOENT and call.looks == {}


# Performing ------------------------------------------------------------------------------------


def performs(call: Call) -> Perform:
    return proctor.perform(lambda argument, path: not path.startswith(b"/secret"))


def test_performing_acts_on_the_tree(fake_target: Make) -> None:
    files = {"/a": b"A", "/secret/s": b"S", "/l": Node.symlink("/secret/s"), "/d": None}
    target = fake_target(files, uid=7, umask=0o022)
    flags = OpenFlag

    def open_(*arguments: object) -> int | bytes:
        outcome = target.run(performs, target.call("openat", AT_FDCWD, *arguments))
        assert outcome.performed
        return outcome.errno or outcome.content

    assert open_("/a", flags.O_RDONLY) == b"A"
    assert open_("/secret/s", flags.O_RDONLY) == errno.EACCES
    assert open_("/l", flags.O_RDONLY) == errno.EACCES
    assert open_("/l", flags.O_RDONLY | flags.O_NOFOLLOW) == errno.ELOOP
    assert open_("/none", flags.O_RDONLY) == errno.ENOENT
    assert open_("/none/x", flags.O_RDONLY) == errno.ENOENT
    assert open_("/d", flags.O_RDWR) == errno.EISDIR
    assert open_("/a", flags.O_DIRECTORY) == errno.ENOTDIR
    assert open_("/a", flags.O_CREAT | flags.O_EXCL) == errno.EEXIST
    assert open_("/d/new", flags.O_CREAT | flags.O_WRONLY, 0o666) == b""
    made = target.files["/d/new"]
    assert (made.mode, made.uid) == (0o100644, 7)
    assert open_("/a", flags.O_WRONLY | flags.O_TRUNC) == b""
    assert target.files["/a"].content == b""
    assert [each.path for each in target.performed][:3] == [b"/a", b"/secret/s", b"/secret/s"]
    assert open_(0, flags.O_RDONLY) == errno.EFAULT


def test_device_nodes_are_made_in_the_tree(fake_target: Make) -> None:
    target = fake_target({"/dev": None})
    null = Device.make(1, 3)
    for name, wanted in (("null", 0), ("null", errno.EEXIST), ("x/y", errno.ENOENT)):
        call = target.call("mknod", f"/dev/{name}", 0o20666, null)
        assert target.run(performs, call).errno == wanted
    node = target.files["/dev/null"]
    assert (node.mode, node.rdev) == (0o20644, null)
    outcome = target.run(performs, target.call("mkdir", "/dev/x"))
    assert (outcome.errno, outcome.performed) == (errno.ENOSYS, True)


def test_performers_of_the_tests_own(fake_target: Make) -> None:
    target = fake_target()
    asked = []

    def performer(call: Call, verdict: Perform) -> Verdict:
        asked.append(call.path)
        return proctor.answer(9)

    assert target.run(performs, target.call("mkdir", "x"), performer=performer).value == 9
    assert asked == [b"x"]
    answered = target.run(performs, target.call("mkdir", "x"), performer=Deny(errno.EROFS))
    assert (answered.errno, answered.performed) == (errno.EROFS, True)
    racy = target.run(performs, target.call("mkdir", "x"), performer=Perform())
    assert isinstance(racy.error, TypeError)


# Time ------------------------------------------------------------------------------------------


def test_slow_handlers_and_deadlines(fake_target: Make) -> None:
    seen = []

    @proctor.on("mkdir", deadline=5)
    def slow(call: Call) -> Verdict:
        target.advance(6)
        try:
            assert call.path
        except proctor.CallOver as over:
            seen.append(over)
        return proctor.answer(0)

    target = fake_target()
    outcome = target.run(slow, target.call("mkdir", "x"), on_deadline=Deny(errno.ETIMEDOUT))
    assert (outcome.decided_by, outcome.errno) == ("deadline", errno.ETIMEDOUT)
    assert outcome.seconds == 5.0
    assert len(seen) == 1


def test_a_deadline_that_is_over_before_the_handler(fake_target: Make) -> None:
    @proctor.on("mkdir", deadline=5)
    def late(call: Call) -> Verdict:
        target.advance(6)
        return proctor.answer(0)

    target = fake_target()
    assert target.run(late, target.call("mkdir", "x")).decided_by == "deadline"


def test_the_container_of_a_fake_call(fake_target: Make) -> None:
    def count(call: Call) -> Verdict:
        call.container.state["calls"] = call.container.state.get("calls", 0) + 1
        return proctor.answer(call.container.state["calls"])

    target = fake_target(container=proctor.Container("web", labels={"tenant": "blue"}))
    assert [target.run(count, target.call("mkdir", "x")).value for _ in range(2)] == [1, 2]
    assert count(target.call("mkdir", "x")) == proctor.answer(3)
    assert (target.container.name, target.container.labels) == ("web", {"tenant": "blue"})
    with pytest.raises(ValueError, match="run\\(\\) is given them"):
        fake_target(container=proctor.Container("web", [proctor.Handler(("mkdir",), count)]))


def test_coroutines_share_one_loop(fake_target: Make) -> None:
    loops = []

    @proctor.on("mkdir")
    async def handler(call: Call) -> Verdict | None:
        loops.append(asyncio.get_running_loop())
        result = await asyncio.to_thread(lambda: 7)
        await asyncio.wait_for(asyncio.sleep(2), 100)
        return proctor.answer(result)

    target = fake_target()
    for _ in range(2):
        outcome = target.run([handler], target.call("mkdir", "x"))
        assert (outcome.value, outcome.seconds) == (7, 2.0)
    assert loops[0] is loops[1]


def test_in_an_async_test(fake_target: Make) -> None:
    @proctor.on("mkdir")
    async def handler(call: Call) -> Verdict:
        await asyncio.sleep(1)
        return proctor.deny(len(call.path))

    async def test() -> int:
        target = fake_target()
        return target.run(handler, target.call("mkdir", "xx")).errno

    assert asyncio.run(test()) == 2


def test_what_never_ends_is_ended_by_its_deadline(fake_target: Make) -> None:
    ended = []

    @proctor.on("mkdir", deadline=3)
    async def handler(call: Call) -> Verdict:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        return proctor.answer(0)

    target = fake_target()
    outcome = target.run(handler, target.call("mkdir", "x"))
    assert (outcome.decided_by, outcome.seconds, ended) == ("deadline", 3.0, [True])


def test_what_never_ends_without_a_deadline_is_told(
    fake_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proctor.testing.loop.PATIENCE", 0.05)

    @proctor.on("mkdir")
    async def handler(call: Call) -> Verdict:
        await asyncio.Event().wait()
        return proctor.answer(0)

    target = fake_target()
    with pytest.raises(TimeoutError, match="never comes"):
        target.run(handler, target.call("mkdir", "x"))


def test_coroutines_fall_through_to_the_next(fake_target: Make) -> None:
    @proctor.on("mkdir")
    async def first(call: Call) -> None:
        await asyncio.sleep(0)

    @proctor.on("mkdir")
    def second(call: Call) -> Verdict:
        return proctor.let_run()

    target = fake_target()
    outcome = target.run([first, second], target.call("mkdir", "x"))
    assert isinstance(outcome.verdict, LetRun) and "second" in outcome.decided_by


def test_nothing_is_left_open(fake_target: Make) -> None:
    before = temporary(b"")
    os.close(before)
    with FakeTarget({"/x": b"x"}) as target:
        for _ in range(5):
            call = target.call("openat", AT_FDCWD, "/x")
            target.run(lambda call: (call.resolve(), call.caller.anchor(), None)[2], call)
            assert target.call("read", target.open("/x")).caller.dir_fd(3)
        target.run(performs, target.call("open", "/x"))
    after = temporary(b"")
    os.close(after)
    assert after == before


def test_a_forgotten_target_gives_everything_back() -> None:
    gc.collect()
    before = temporary(b"")
    os.close(before)
    call = FakeCall("open", "/x", files={"/x": b""})
    call.caller.cwd()
    call.made_by.run(performs, FakeCall("open", "/x", target=call.made_by))
    del call
    gc.collect()
    after = temporary(b"")
    os.close(after)
    assert after == before


def test_a_handler_in_a_class_is_a_method(fake_target: Make) -> None:
    class Disk:
        opens = proctor.families.open()

        def __init__(self, left: int) -> None:
            self.left = left

        @proctor.on("write", when=proctor.Condition("fd", "==", 1), deadline=2.0)
        def fills_up(self, call: Call) -> Verdict | None:
            self.left -= 1
            return proctor.deny(errno.ENOSPC) if self.left < 0 else None

        @proctor.on("mkdir")
        async def later(self, call: Call) -> Verdict:
            await asyncio.sleep(self.left)
            return proctor.deny(errno.EROFS)

    target = fake_target()
    full, empty = Disk(0), Disk(1)
    handlers = [full.fills_up, empty.fills_up]
    outcome = target.run(handlers, target.call("write", 1, b"x", 1))
    assert (outcome.errno, full.left, empty.left) == (errno.ENOSPC, -1, 1)
    assert outcome.decided_by == Disk.fills_up.label == full.fills_up.label
    assert target.run(empty.fills_up, target.call("write", 2, b"x", 1)).ran and empty.left == 1
    assert (full.fills_up.deadline, full.fills_up.conditions) == (2.0, Disk.fills_up.conditions)
    outcome = target.run(empty.later, target.call("mkdir", "x", 0o755))
    assert (outcome.errno, outcome.seconds) == (errno.EROFS, 1.0)
    assert full.opens is Disk.opens
