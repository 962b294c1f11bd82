"""The monitor runs out of something while it has a call performed: the caller is denied, the reason
names the monitor's limit, nothing is claimed that did not happen, and it passes with the want."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from proctor.performing import families, registry, scarce
from tests.cli.conftest import COMMAND
from tests.performing.support.callers import (
    Call,
    Caller,
    Performers,
    caller,
    open_directory,
    outcome,
)

# loading takes descriptors
registry.load(registry.SUPPORTED)
assert Call(0, "open", (b"x",)).path == b"x"

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes")
pytestmark = pytest.mark.timeout(120)
MOST = 200


@contextmanager
def free_descriptors(count: int) -> Iterator[None]:
    """For a while this process can open ``count`` descriptors more, and no other."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, hard))
    taken = []
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError as full:
                assert full.errno == errno.EMFILE
                break
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def names_the_limit(troubles: list[str]) -> None:
    (text,) = troubles
    assert "the monitor is out of descriptors" in text, text
    assert f"the monitor's limit of open files (RLIMIT_NOFILE, ulimit -n) is {MOST}, which" in text
    assert "errno 24" in text or "could not receive one" in text
    assert "undumpable" not in text


@contextmanager
def container(user: bool) -> Iterator[Caller]:
    with caller(maps="0 0 4294967295" if user else None) as one:
        yield one


@pytest.mark.parametrize("warm", [False, True])
def test_out_of_descriptors_while_opening(warm: bool) -> None:
    results = []
    with open_directory() as top, caller() as one:
        with os.fdopen(os.open(top + b"/f", os.O_CREAT | os.O_WRONLY), "w") as file:
            file.write("text")
        truth = one.natively("open", top + b"/f", os.O_RDONLY)
        for count in range(16):
            troubles: list[str] = []
            with Performers(on_trouble=troubles.append) as performers:
                if warm:
                    assert one.performed(performers, "open", top + b"/f", os.O_RDONLY) == truth
                before = len(os.listdir("/proc/self/fd"))
                with free_descriptors(count):
                    verdict = performers.perform(one.call("open", top + b"/f", os.O_RDONLY))
                said = outcome(verdict)
                if said == truth:
                    assert troubles == []
                else:
                    assert said == ("errno", errno.EPERM)
                    names_the_limit(troubles)
                    assert verdict.reason.startswith("not performed: ")
                results.append(said == truth)
                # nothing was lost on the way (an executor and what is known of the caller may have
                # stayed, three each, and our own root), and it is over
                assert len(os.listdir("/proc/self/fd")) <= before + 7
                assert one.performed(performers, "open", top + b"/f", os.O_RDONLY) == truth
    assert results == sorted(results), "more descriptors, and it fails again"
    assert True in results and False in results


@root_only
def test_out_of_descriptors_while_making_a_node() -> None:
    """What is answered is what happened: the node is there if and only if the call succeeded."""
    results = []
    with open_directory() as top, container(True) as one:
        os.chown(top, 0, 0)
        for count in range(20):
            troubles: list[str] = []
            path = top + b"/n%d" % count
            with Performers(on_trouble=troubles.append) as performers:
                with free_descriptors(count):
                    said = one.performed(performers, "mknod", path, 0o20666, os.makedev(1, 3))
                made = os.path.exists(path)
                assert made == (said == ("value", 0)), (count, said, troubles)
                if not made:
                    assert said == ("errno", errno.EPERM)
                    names_the_limit(troubles)
                results.append(made)
    assert True in results and False in results


def test_performers_have_more_than_their_monitor() -> None:
    """The monitor's soft limit is not what a caller's open fails for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open_directory() as top, caller() as one, Performers() as performers:
        os.close(os.open(top + b"/f", os.O_CREAT))
        few = (
            max(map(int, os.listdir("/proc/self/fd"))) + 40
        )  # what other tests have is not the matter
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
        try:
            performers.start()
            said = one.performed(performers, "open", top + b"/f", os.O_RDONLY)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert said[0] == "fd"


#: No process of this program can fork; posix_spawn (CLONE_VM) and threads can.
NO_FORK = """
import ctypes, errno, os, sys
from proctor.filter.rules import Filter, Rule
from proctor.filter.actions import ALLOW
from proctor.filter import actions
from proctor.filter.conditions import Condition
from proctor.kernel import seccomp
from proctor.kernel.abi import SECCOMP_SET_MODE_FILTER
from tests.performing.support.callers import Performers, caller, outcome
with caller() as one:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    made = Filter([Rule(("clone",), actions.errno(errno.EAGAIN), (Condition(0, "==", 0, 0x100),))], ALLOW)
    from proctor.kernel import _core
    code = made.compile().code
    import struct
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    assert libc.syscall(317, 1, 0, program) == 0, os.strerror(ctypes.get_errno())
    with Performers(on_trouble=print) as performers:
        for _ in range(2):
            print(outcome(performers.perform(one.call("open", b"/dev/null", 0))))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
def test_out_of_processes(request: pytest.FixtureRequest) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_FORK, str(request.config.rootpath)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[1::2] == [f"('errno', {errno.EPERM})"] * 2
    for line in lines[::2]:
        assert line.endswith(
            "was not performed: an executor cannot be forked: the monitor can have no more processes: "
            "Resource temporarily unavailable (errno 11); that would be more than RLIMIT_NPROC, its "
            "cgroup's pids.max or the machine allow"
        )


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EMFILE, "the monitor is out of descriptors: Too many open files (errno 24); the monitor's"),
        (errno.ENFILE, "the machine is out of open files"),
        (errno.ENOMEM, "the monitor is out of memory: Cannot allocate memory (errno 12)"),
        (errno.ENOBUFS, "the monitor is out of memory"),
        (errno.EAGAIN, "the monitor can have no more processes"),
        (errno.ETOOMANYREFS, "descriptors of the monitor's user are being passed"),
        (errno.EACCES, "Permission denied (errno 13)"),
    ],
)  # fmt: skip
def test_words(number: int, says: str) -> None:
    assert says in scarce.why(OSError(number, os.strerror(number)))


@pytest.mark.parametrize("before", ["", "os.open('first', os.O_CREAT);"])
def test_proctor_run_says_so_and_denies(tmp_path: Path, before: str) -> None:
    """The command is told an error of its own call; the terminal, whose limit it was."""
    (tmp_path / "p.toml").write_text(
        '[[rule]]\nname = "o"\ncalls = ["open", "openat"]\n'
        'when = { flags = { all = ["O_CREAT"] } }\nperform = true\n'
    )
    (tmp_path / "h.py").write_text(
        "import os, proctor\n"
        '@proctor.on("getppid")\n'
        "def leak(call):\n"
        "    try:\n"
        "        while True:\n"
        "            os.dup(0)\n"
        "    except OSError:\n"
        "        return proctor.answer(0)\n"
    )
    done = subprocess.run(
        [*COMMAND, "run", "--policy", "p.toml", "--handlers", "h.py", "--",
         sys.executable, "-S", "-c",
         f"import os; {before} os.getppid()\ntry: os.open('made', os.O_CREAT)\n"
         "except PermissionError as no: os.write(2, repr(no).encode()); os._exit(1)"],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 99)),
    )  # fmt: skip
    assert done.returncode == 1
    assert "PermissionError(1, 'Operation not permitted')" in done.stderr
    assert "was not performed: the monitor " in done.stderr
    assert "the monitor's limit of open files (RLIMIT_NOFILE, ulimit -n) is " in done.stderr
    if before:  # else the performers themselves could not be loaded, which can tell nothing
        assert "is 64, which can be raised to 99" in done.stderr
    assert not (tmp_path / "made").exists()


def test_every_family_is_in_the_table_and_what_it_names_can_be_loaded() -> None:
    modules = {each.stem for each in Path(families.__path__[0]).glob("[a-z]*.py")}
    assert modules == {*families.CALLS, *families.ALSO}
    registry.load(registry.SUPPORTED)
    for name in modules:
        assert callable(import_module(f"{families.__name__}.{name}").perform)
        for call in families.CALLS.get(name, ()):
            assert registry.family(call) == name


def test_what_a_mount_takes_is_loaded_before_the_first_one() -> None:
    """When that comes there may be no descriptor left, and to load it takes as long as several mounts."""
    names = ("loop_devices.loops", "mounts.mounter", "mounts.placing", "mounts.remounting")
    program = (
        "import sys\n"
        "from proctor.performing import registry\n"
        "registry.load(['mount'])\n"
        f"print(*[each for each in {names} if 'proctor.performing.' + each not in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not done.stdout.split()


def test_a_limit_of_file_sizes_is_no_limit_of_memory() -> None:
    """The soft one (``ulimit -Sf``): the executor's program is written past it, and it is as before.  What it may
    not raise is told."""
    script = (
        "import errno, os, resource as r; from proctor.performing import scarce; from proctor.performing.executing import image;"
        "hard = r.getrlimit(r.RLIMIT_FSIZE)[1]; r.setrlimit(r.RLIMIT_FSIZE, (4096, hard));"
        "made = image.sealed(); assert os.fstat(made).st_size == os.stat(image.PATH).st_size;"
        "assert r.getrlimit(r.RLIMIT_FSIZE) == (4096, hard);"
        "assert 'RLIMIT_FSIZE' in scarce.why(OSError(errno.EFBIG, ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
