"""Every step of a launch fails once, and says so exactly: (step, errno), with nothing left over.

Where nature does not let a step fail, a filter on the monitor does: its children inherit it.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable

import pytest

import proctor
from proctor.errors import LaunchError, NestedListener
from proctor.kernel.launch import launch

Monitor = Callable[..., str]

#: Numbers of x86-64 calls that only helper or target make (not Python, or not with these arguments).
INJECTED = [
    # step, call, errno, fields of the plan, which calls are meant
    ("socketpair", 53, "EMFILE", "", ""),
    ("clone", 56, "EAGAIN", "", ""),
    ("clone", 56, "ENOSPC", "namespaces=0x10000000", "argument=0, value=0x10000000, bits=True"),
    ("pipe2", 293, "ENFILE", "", ""),
    ("sendmsg", 46, "ETOOMANYREFS", "", ""),
    ("setsid", 112, "EPERM", "new_session=True", ""),
    ("setpgid", 109, "EACCES", "process_group=0", ""),
    ("mount", 165, "EINVAL", "namespaces=0x00020000", ""),
    ("dup2", 292, "EBUSY", "fds=[(2, 5)]", ""),
    ("close_range", 302, "EPERM", "", "both=436"),
    ("setgroups", 116, "EINVAL", "groups=[1, 2]", ""),
    ("setgid", 119, "EAGAIN", "gid=1", ""),
    ("setuid", 117, "EAGAIN", "uid=1", ""),
    ("chdir", 80, "EIO", "cwd=b'/'", ""),
    ("pdeathsig", 157, "EINVAL", "death_signal=9", "argument=0, value=1"),
    ("no_new_privs", 157, "EINVAL", "no_new_privs=True", "argument=0, value=38"),
    ("seccomp", 317, "ENOMEM", "program=one(6, 0, 0, 0x7FFF0000)", "argument=0, value=1"),
    ("recvmsg", 47, "EMFILE", "", ""),
    ("execve", 59, "ENOMEM", "", ""),
]


@pytest.mark.parametrize(
    ("step", "number", "code", "options", "when"),
    INJECTED,
    ids=[f"{step}-{code}" for step, _, code, _, _ in INJECTED],
)
def test_step_fails(
    monitor: Monitor, step: str, number: int, code: str, options: str, when: str
) -> None:
    if "mount" in step and os.geteuid() != 0:
        pytest.skip("a mount namespace without a user namespace needs root")
    if when.startswith("both="):  # close_range and what replaces it before Linux 5.11
        first = f"refuse(436, errno.ENOSYS); refuse({number}, errno.{code}, argument=1, value=7)"
    else:
        first = f"refuse({number}, errno.{code}{', ' + when if when else ''})"
    out = monitor(f"{first}\nprint(failure({options}))")
    assert out == str((step, code))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("fds=[(999, 1)]", ("dup2", "EBADF")),
        ("fds=[(2, 1 << 30)]", ("dup2", "EBADF")),
        ("fds=[(2, -5)]", ("dup2", "EBADF")),
        ("process_group=4194304", ("setpgid", "EPERM")),
        ("foreground_tty=os.pipe()[0]", ("tcsetpgrp", "ENOTTY")),
        ("new_session=True, foreground_tty=os.pipe()[0]", ("tiocsctty", "ENOTTY")),
        ("namespaces=0x10000000, uid_map=b'nonsense'", ("uid_map", "EINVAL")),
        ("namespaces=0x10000000, gid_map=b'nonsense'", ("gid_map", "EINVAL")),
        ("namespaces=0x10000000, uid=5, uid_map=b'0 %d 1' % os.geteuid()", ("setuid", "EINVAL")),
        ("namespaces=0x10000000, gid=5", ("setgid", "EINVAL")),
        ("namespaces=0x10000000, groups=[5], deny_setgroups=True", ("setgroups", "EPERM")),
        ("cwd=b'/proc/missing'", ("chdir", "ENOENT")),
        ("cwd=subject.encode()", ("chdir", "ENOTDIR")),
        ("program=b''", ("seccomp", "EINVAL")),
        ("program=b'1234567'", ("seccomp", "EINVAL")),
        ("program=one(0x06, 0, 0, 0) * 4097", ("seccomp", "EINVAL")),
        ("program=one(0x15, 9, 9, 0)", ("seccomp", "EINVAL")),
        ("program=one(0x06, 0, 0, 0x7FFF0000), filter_flags=1 << 20", ("seccomp", "EINVAL")),
        ("candidates=[b'/proc/missing']", ("execve", "ENOENT")),
        ("candidates=[]", ("execve", "ENOENT")),
        ("candidates=[subject.encode() + b'/x']", ("execve", "ENOTDIR")),
        ("candidates=[b'/proc/self/status']", ("execve", "EACCES")),
        ("candidates=[b'/proc']", ("execve", "EACCES")),
        # a refused one is remembered, a missing one is not; neither ends the search
        ("candidates=[b'/proc', b'/proc/missing']", ("execve", "EACCES")),
        ("candidates=[b'/proc/missing', b'/proc']", ("execve", "EACCES")),
        ("candidates=[b'/proc/missing', subject.encode()]", None),
        ("candidates=[b'/proc', subject.encode()]", None),
        ("argv=[b'subject', b'x' * (1 << 18)]", ("execve", "E2BIG")),
        ("env=[b'X=' + b'x' * (1 << 18)]", ("execve", "E2BIG")),
    ],
)
def test_natural_failures(monitor: Monitor, options: str, expected: tuple[str, str] | None) -> None:
    text = f"""
    found = failure({options}) if "pipe()" not in {options!r} else None
    if "pipe()" in {options!r}:
        reader, writer = os.pipe()
        found = failure({options.replace("os.pipe()[0]", "reader")})
    print(found)
    """
    assert monitor(text) == str(expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("namespaces=0x40000000", ("clone", "EPERM")),
        ("groups=[1]", ("setgroups", "EPERM")),
        ("gid=1", ("setgid", "EPERM")),
        ("uid=1", ("setuid", "EPERM")),
        ("namespaces=0x10000000, uid_map=b'0 0 1'", ("uid_map", "EPERM")),
        ("namespaces=0x10000000, uid_map=b'0 %d 2' % os.getuid()", ("uid_map", "EPERM")),
        ("namespaces=0x10000000, gid_map=b'0 %d 1' % os.getgid()", ("gid_map", "EPERM")),
        ("program=one(6, 0, 0, 0x7FFF0000), no_new_privs=False", ("seccomp", "EACCES")),
        ("program=one(6, 0, 0, 0x7FFF0000), no_new_privs=True", None),
        ("program=one(6, 0, 0, 0x7FFF0000)", None),
        ("candidates=[b'/nonroot/x']", ("execve", "ENOENT")),
    ],
)
def test_unprivileged_failures(
    monitor: Monitor, options: str, expected: tuple[str, str] | None
) -> None:
    assert monitor(f"print(failure({options}))", nobody=True) == str(expected)


def test_no_processes_left(monitor: Monitor) -> None:
    """RLIMIT_NPROC: the helper itself cannot be made."""
    out = monitor(
        """
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        print(failure())
        """,
        nobody=True,
    )
    assert out == str(("clone", "EAGAIN"))


def test_no_descriptors_left(monitor: Monitor) -> None:
    """With little room in our table (the helper's is a copy) it fails somewhere, and cleanly."""
    out = monitor(
        """
        low = os.open("/", os.O_RDONLY)
        before = sorted(os.listdir("/proc/self/fd"))
        for room in range(30):
            resource.setrlimit(resource.RLIMIT_NOFILE, (low + room, 4096))
            try:
                started = start(Plan([b"subject", b"exit"], [subject.encode()],
                                     fds=[(0, 0), (1, 1), (2, 2)],
                                     program=one(6, 0, 0, 0x7FFF0000), filter_flags=8))
            except OSError as problem:
                print(problem.filename, errno.errorcode[problem.errno])
            else:
                print("good")
                os.waitpid(started.pid, 0x40000000)
                for fd in (started.pidfd, started.listener, started.status_fd):
                    os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        assert sorted(os.listdir("/proc/self/fd")) == before
        try:
            os.waitpid(-1, os.WNOHANG | 0x40000000)
        except ChildProcessError:
            print("no child")
        """
    )
    lines = out.splitlines()
    assert lines[0] == "socketpair EMFILE"
    assert lines[-2:] == ["good", "no child"]
    failed = [line for line in lines[:-1] if line != "good"]
    assert all(line.endswith(" EMFILE") for line in failed)
    assert lines[:-1] == failed + ["good"] * (len(lines) - 1 - len(failed))


def test_helper_killed(monitor: Monitor) -> None:
    out = monitor("inject(293, abi.SECCOMP_RET_KILL_PROCESS)\nprint(failure())")
    assert out == str(("helper", "ECANCELED"))


def test_helper_killed_after_the_target_is_there(monitor: Monitor) -> None:
    """The target waits for the helper's word: it must not stay behind."""
    out = monitor("inject(46, abi.SECCOMP_RET_KILL_PROCESS)\nprint(failure())")
    assert out == str(("helper", "ECANCELED"))


def test_target_killed_while_being_set_up(monitor: Monitor) -> None:
    out = monitor("inject(80, abi.SECCOMP_RET_KILL_PROCESS)\nprint(failure(cwd=b'/'))")
    assert out == str(("setup", "ESRCH"))


def test_failed_target_cannot_run_on(monitor: Monitor) -> None:
    """exec fails and the filter denies exit_group (and exit): an illegal instruction ends it."""
    out = monitor(
        """
        code = one(0x20, 0, 0, 0) + one(0x15, 1, 0, 231) + one(0x15, 0, 1, 60)
        code += one(6, 0, 0, abi.SECCOMP_RET_ERRNO | 1) + one(6, 0, 0, abi.SECCOMP_RET_ALLOW)
        started = start(Plan([b"x"], [b"/proc/missing"], program=code))
        _, status = os.waitpid(started.pid, 0x40000000)
        print(os.waitstatus_to_exitcode(status), started.failure())
        """
    )
    assert out == f"{-signal.SIGILL} {('execve', errno.ENOENT)}"


def test_nested_listener(monitor: Monitor) -> None:
    """Under a listener a second one is EBUSY, and the error says what that means."""
    out = monitor(
        """
        code = one(6, 0, 0, abi.SECCOMP_RET_ALLOW)
        inner = (
            "from proctor.kernel.launch import launch\\n"
            "from proctor.errors import NestedListener\\n"
            "try: launch(['true'], program=%r)\\n"
            "except NestedListener as problem: print(problem.errno, problem)\\n"
        ) % code
        with launch([sys.executable, "-c", inner], program=code) as target:
            print(target.wait(30))
        """
    )
    first, second = out.splitlines()
    assert first.startswith(f"{errno.EBUSY} another seccomp listener")
    assert second == "0"


@pytest.mark.parametrize(
    ("argv", "options", "sentence"),
    [
        (
            ["no-such-program"],
            {"env": {"PATH": "/bin:/usr/bin:/nonexistent"}},
            "cannot run 'no-such-program' (tried 3 places on PATH): No such file or directory",
        ),
        (["/etc/passwd"], {}, "cannot run '/etc/passwd': Permission denied"),
        (["/etc"], {}, "cannot run '/etc': Permission denied"),
        (
            ["true"],
            {"cwd": "/nowhere"},
            "cannot change to the directory '/nowhere' for 'true': No such file or directory",
        ),
        (
            ["true"],
            {"fds": [(999, 0)]},
            "cannot give 'true' its descriptors: Bad file descriptor",
        ),
        (
            ["true"],
            {"program": b"\0" * 8},
            "the kernel refuses the filter for 'true': Invalid argument",
        ),
    ],
)
def test_one_sentence(argv: list[str], options: dict[str, object], sentence: str) -> None:
    with pytest.raises(LaunchError) as caught, launch(argv, **options) as target:  # type: ignore[arg-type]
        target.executed(30)
    assert str(caught.value) == sentence
    assert (
        caught.value.errno
        == {
            "No such file or directory": errno.ENOENT,
            "Permission denied": errno.EACCES,
            "Bad file descriptor": errno.EBADF,
            "Invalid argument": errno.EINVAL,
        }[sentence.rpartition(": ")[2]]
    )


def test_missing_interpreter_is_told_apart(tmp_path: os.PathLike[str]) -> None:
    script = os.path.join(tmp_path, "script")
    with open(script, "w") as file:
        file.write("#!/no/such/interpreter\n")
    os.chmod(script, 0o755)
    missing = pytest.raises(LaunchError, match="the interpreter it names is not")
    with missing as caught, launch([script]) as target:
        target.executed(30)
    assert (caught.value.step, caught.value.errno) == ("execve", errno.ENOENT)


def test_no_interpreter_is_not_run_by_a_shell(tmp_path: os.PathLike[str]) -> None:
    script = os.path.join(tmp_path, "script")
    with open(script, "w") as file:
        file.write("exit 7\n")
    os.chmod(script, 0o755)
    with pytest.raises(LaunchError) as caught, launch([script]) as target:
        target.executed(30)
    assert caught.value.errno == errno.ENOEXEC


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        ([], {}),
        (["a\0b"], {}),
        (["true"], {"env": {"A=B": "c"}}),
        (["true"], {"env": {"": "c"}}),
        (["true"], {"env": {"A": "b\0c"}}),
        (["true"], {"cwd": "a\0b"}),
        (["true"], {"namespaces": ["mount"]}),
        (["true"], {"uid_map": [(0, 0, 1)]}),
        (["true"], {"fds": [(0, 5), (1, 5)]}),
    ],
)
def test_impossible_arguments(argv: list[str], options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        launch(argv, **options)  # type: ignore[arg-type]


def test_an_unknown_option_is_no_option() -> None:
    with pytest.raises(TypeError, match="no option 'new_sesion'; did you mean \"new_session\""):
        launch(["true"], new_sesion=True)  # type: ignore[call-arg]


def test_nested_listener_is_an_os_error() -> None:
    assert issubclass(NestedListener, OSError)


def test_unreadable_working_directory(monitor: Monitor, tmp_path: os.PathLike[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make a directory that the target may not enter")
    place = os.path.join(tmp_path, "closed")
    os.mkdir(place, 0o700)
    subprocess.run(["chmod", "700", place], check=True)
    assert monitor(
        f"print(failure(uid=65534, gid=65534, groups=[], cwd={place.encode()!r}))"
    ) == str(("chdir", "EACCES"))


def test_a_kernel_before_5_9_is_refused(monitor: Monitor) -> None:
    """/proc does not count filters and ADDFD is not known there: said in words, and nothing ran."""
    out = monitor(
        """
        from proctor.kernel import launch as launching
        assert launching._filters_are_counted()
        launching._filters_are_counted = lambda: False
        refuse(16, errno.EINVAL, argument=1, value=abi.SECCOMP_IOCTL_NOTIF_ADDFD)
        program = one(0x06, 0, 0, abi.SECCOMP_RET_ALLOW)
        before = sorted(os.listdir("/proc/self/fd"))
        for _ in range(2):
            try:
                launch([subject, "fds"], program=program, fds=[(1, 1)])
            except OSError as problem:
                print(type(problem).__name__, problem)
        assert sorted(os.listdir("/proc/self/fd")) == before
        try:
            os.waitpid(-1, os.WNOHANG | 0x40000000)
            print("a child is left")
        except ChildProcessError:
            pass
        with launch([subject, "exit"], fds=[]) as target:  # no listener, no need
            assert target.wait(30) == 0
        """
    )
    lines = out.splitlines()
    assert len(lines) == 2, out
    for line in lines:
        assert line.startswith("Unsupported SECCOMP_IOCTL_NOTIF_ADDFD"), out
        assert "Linux 5.9 has it" in line


def test_without_proc_s_word_the_listener_is_asked(monitor: Monitor) -> None:
    """It may be hidden: a kernel that is young enough is not refused."""
    out = monitor(
        """
        from proctor.kernel import launch as launching
        launching._filters_are_counted = lambda: False
        with launch([subject, "exit"], program=one(6, 0, 0, abi.SECCOMP_RET_ALLOW)) as target:
            print(target.wait(30), launching._young_enough)
        """
    )
    assert out == "0 True"


def test_marks_are_filters_that_change_nothing() -> None:
    """So many more than the program's own, which may be without a listener."""
    program = proctor.Filter([proctor.Rule(("reboot",), proctor.actions.errno(1))]).compile().code
    reader, writer = os.pipe()
    with open("/proc/self/status") as file:
        before = next(int(line.split()[1]) for line in file if line.startswith("Seccomp_filters"))
    command = ["sh", "-c", "grep Seccomp_filters /proc/self/status"]
    with proctor.launch(
        command, program=program, listen=False, marks=7, fds={writer: 1, 2: 2}
    ) as target:
        os.close(writer)
        assert target.listener is None
        assert int(os.read(reader, 100).split()[1]) == before + 8
        assert target.wait(30) == 0
    os.close(reader)
