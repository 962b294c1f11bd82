"""The Call itself: its facts, its end, its text, its honesty about what was looked at."""

from __future__ import annotations

import subprocess
import sys

import pytest

from proctor.call.call import Call
from proctor.errors import CallerInvisible, CallOver
from proctor.kernel.abi import AUDIT_ARCH_X86_64
from proctor.kernel.notification import Notification
from tests.call.fakes import FakeListener, FakeMemory, call

NAME = 0x1000
P = {NAME: b"/dev/null\0"}


def test_facts() -> None:
    listener = FakeListener()
    made = call("openat", -100, NAME, memory=P, listener=listener)
    assert (made.id, made.tid, made.nr, made.arch) == (7, 1234, 257, AUDIT_ARCH_X86_64)
    assert (made.name, made.abi) == ("openat", "x86_64")
    assert made.valid() and listener.asked == 1
    listener.valid = False
    assert not made.valid()


def test_arguments_are_a_mapping() -> None:
    made = call("mknodat", -100, NAME, 0o020666, 0x103, memory=P)
    assert list(made.args) == made.args.keys() == ["dirfd", "path", "mode", "dev"]
    assert len(made.args) == 4 and "mode" in made.args and "flags" not in made.args
    assert dict(made.args) == {"dirfd": -100, "path": b"/dev/null", "mode": 0o020666, "dev": 0x103}
    assert made.args.mode == made.args["mode"] == made.mode
    with pytest.raises(KeyError, match="dirfd, path, mode, dev"):
        made.args["flags"]
    with pytest.raises(AttributeError, match="mknodat has no argument 'flags'"):
        _ = made.flags


def test_arguments_that_share_a_name_with_the_call() -> None:
    made = call("getxattr", NAME, 0x2000, memory={**P, 0x2000: b"user.x\0"})
    assert made.name == "getxattr" and made.args.name == b"user.x"
    assert call("read", 5).args.fd == 5


def test_numbers_that_no_call_has() -> None:
    made = Call(Notification(1, 2, 5000, AUDIT_ARCH_X86_64, (1, 2, 3, 4, 5, 6)), FakeListener())
    assert made.name == "syscall_0x1388" and made.signature is None and list(made.args) == []
    assert repr(made) == "<Call syscall_0x1388(0x1, 0x2, 0x3, 0x4, 0x5, 0x6) tid=2 id=0x1>"
    assert (
        Call(Notification(1, 2, -1, AUDIT_ARCH_X86_64), FakeListener()).name == "syscall_0xffffffff"
    )
    foreign = Call(Notification(1, 2, 0, 0x12345678), FakeListener())
    assert foreign.abi == "0x12345678" and foreign.name == "syscall_0x0"
    with pytest.raises(AttributeError, match="has no argument 'mode'"):
        _ = made.mode


def test_hostile_numbers_are_not_remembered_for_ever() -> None:
    from proctor.call import notified as module

    for nr in range(10_000, 30_000):
        assert Call(Notification(1, 2, nr, AUDIT_ARCH_X86_64), FakeListener()).signature is None
    assert len(module._kinds) <= 4096
    assert call("openat", -100, NAME, memory=P).path == b"/dev/null"


def test_looking_at_memory_is_noted() -> None:
    assert not call("openat", -100, NAME, 0o1, memory=P).memory_read
    for look in (
        lambda made: made.path,
        lambda made: made.args.path,
        lambda made: made.memory,
        lambda made: made.describe(),
    ):
        made = call("openat", -100, NAME, memory=P)
        look(made)
        assert made.memory_read
    made = call("openat", -100, NAME, 0o1, 0o600, memory=P)
    _ = (
        made.flags,
        made.mode,
        made.dirfd,
        made.registers,
        repr(made),
        made.describe(read=False),
        made.valid(),
    )
    assert not made.memory_read


def test_memory_is_read_once() -> None:
    memory = FakeMemory(P)
    made = call("openat", -100, NAME, memory=memory)
    for _ in range(3):
        assert made.path == made.args.path == b"/dev/null"
        made.describe()
    assert memory.reads == 1


def test_repr_reads_no_memory() -> None:
    memory = FakeMemory(P)
    made = call("openat", -100, NAME, 0o2000002, memory=memory)
    assert repr(made) == "<Call openat(AT_FDCWD, 0x1000, O_RDWR|O_CLOEXEC) tid=1234 id=0x7>"
    assert memory.reads == 0
    _ = made.path
    assert '"/dev/null"' in repr(made)


@pytest.mark.parametrize(
    ("name", "registers", "text"),
    [
        (
            "openat",
            (-100, NAME, 0o100, 0o640),
            'openat(AT_FDCWD, "/dev/null", O_RDONLY|O_CREAT, 0640)',
        ),
        ("openat", (3, NAME, 0, 0o640), 'openat(3, "/dev/null", O_RDONLY)'),
        ("openat", (3, 0, 0), "openat(3, NULL (EFAULT), O_RDONLY)"),
        ("openat", (3, 0x9999, 0), "openat(3, 0x9999 (EFAULT), O_RDONLY)"),
        ("mknod", (NAME, 0o060600, 0x700), 'mknod("/dev/null", S_IFBLK|0600, 7:0)'),
        ("mount", (0, NAME, 0, 4096, 0), 'mount(NULL, "/dev/null", NULL, MS_BIND, NULL)'),
        ("chown", (NAME, 2**32 - 1, 0), 'chown("/dev/null", -1, 0)'),
        ("kill", (1, 9), "kill(1, SIGKILL)"),
        ("open", (0x2000, 0), 'open("a\\n\\"\\\\\\377", O_RDONLY)'),
        ("getpid", (), "getpid()"),
    ],
)
def test_describe(name: str, registers: tuple[int, ...], text: str) -> None:
    memory = {**P, 0x2000: b'a\n"\\\xff\0'}
    assert call(name, *registers, memory=memory).describe() == text


def test_long_strings_are_cut_in_logs() -> None:
    made = call("open", NAME, memory={NAME: b"x" * 4000 + b"\0"})
    assert len(made.describe()) < 1100 and '"...' in made.describe() and len(made.path) == 4000


# The end ----------------------------------------------------------------------------------------


def test_use_after_the_verdict_is_our_error() -> None:
    memory = FakeMemory(P)
    made = call("openat", -100, NAME, 0, memory=memory)
    args = made.args
    assert made.path == b"/dev/null"
    made.expire()
    made.expire()
    for use in (
        lambda: made.path,
        lambda: made.flags,
        lambda: made.args,
        lambda: made.memory,
        lambda: made.caller,
        lambda: made.valid(),  # noqa: PLW0108 - read when called
        lambda: made.fd(1),
        lambda: made.resolve(),  # noqa: PLW0108 - read when called
        lambda: made.describe(),  # noqa: PLW0108 - read when called
        lambda: args.flags,
        lambda: args["path"],
        lambda: made.no_such_thing,
    ):
        with pytest.raises(CallOver) as caught:
            use()
        assert caught.value.syscall == "openat" and caught.value.notif_id == 7
    assert memory.reads == 1


def test_facts_outlive_the_call() -> None:
    made = call("openat", -100, NAME, 0, memory=P)
    made.expire()
    assert (made.id, made.tid, made.nr, made.name, made.abi) == (7, 1234, 257, "openat", "x86_64")
    assert not made.memory_read
    assert repr(made) == "<Call openat(AT_FDCWD, 0x1000, O_RDONLY) tid=1234 id=0x7 over>"
    assert isinstance(made, Call)


def test_what_was_taken_is_closed_at_the_end() -> None:
    class Thing:
        closed = 0

        def close(self) -> None:
            self.closed += 1

    made = call("getpid")
    things = [Thing(), Thing()]
    for each in things:
        made._keep(each)
    made.expire()
    made.expire()
    assert [each.closed for each in things] == [1, 1]


# pid 0 ------------------------------------------------------------------------------------------


def test_an_invisible_caller_can_only_be_answered() -> None:
    made = Call(
        Notification(7, 0, 257, AUDIT_ARCH_X86_64, (0xFFFFFF9C, NAME, 0, 0, 0, 0)), FakeListener()
    )
    assert made.tid == 0 and made.flags == 0 and made.dirfd == -100 and made.valid()
    for need in (
        lambda: made.path,
        lambda: made.memory,
        lambda: made.caller,
        lambda: made.fd(0),
        lambda: made.resolve(),  # noqa: PLW0108 - read when called
    ):
        with pytest.raises(CallerInvisible) as caught:
            need()
        assert "pid namespace" in str(caught.value) and caught.value.notif_id == 7
    assert "CallerInvisible" in made.describe()
    made.expire()


def test_importable_without_the_native_core() -> None:
    script = (
        "import sys\n"
        "sys.modules['proctor.kernel._core'] = None\n"
        "sys.modules['fcntl'] = None\n"
        "import proctor.call.call, proctor.call.caller, proctor.call.path.located, proctor.call.path.walk\n"
        "import proctor.call.decode.sockaddr, proctor.syscalls.flags, proctor.call.decode.structures\n"
        "import proctor.call.path.following, proctor.call.strace.line, proctor.call.decode.argument\n"
        "for heavy in ('asyncio', 'argparse', 'logging', 'inspect', 'ctypes', 'socket'):\n"
        "    assert heavy not in sys.modules, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
