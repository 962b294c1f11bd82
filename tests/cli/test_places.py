"""proctor run in odd places: user and pid namespaces, no /proc, a current directory that is gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import COMMAND

pytestmark = pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")

RULES = """
[[rule]]
name = "o"
calls = ["open", "openat"]
when = { flags = { all = ["O_CREAT"] } }
perform = true

[[rule]]
name = "d"
calls = ["mkdir", "mkdirat"]
deny = "EROFS"
report = true

[[rule]]
name = "ring"
calls = ["io_uring_setup"]
deny = "ENOSYS"
"""
ROOTLESS = ["unshare", "--user", "--map-root-user"]


def _namespaces() -> bool:
    return subprocess.run([*ROOTLESS, "true"], check=False, capture_output=True).returncode == 0


needs_namespaces = pytest.mark.skipif(not _namespaces(), reason="no user namespaces here")


def within(
    wrapper: list[str], place: Path, *words: str, options: tuple[str, ...] = ("--policy", "p.toml")
) -> subprocess.CompletedProcess[str]:
    (place / "p.toml").write_text(RULES)
    return subprocess.run(
        [*wrapper, *COMMAND, "run", *options, "--", *words],
        capture_output=True, text=True, timeout=60, check=False, cwd=place,
    )  # fmt: skip


@needs_namespaces
def test_where_no_more_user_namespaces_may_be_made(tmp_path: Path) -> None:
    limited = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    done = within(
        [*ROOTLESS, "sh", "-c", limited, "sh"], tmp_path, "true",
        options=("--policy", "p.toml", "--userns"),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        125,
        "proctor: cannot create a process for 'true', or the namespaces it is to have "
        "(there are as many as may be: see the limits in /proc/sys/user): No space left on device\n",
    )


@needs_namespaces
@pytest.mark.parametrize("userns", [False, True])
def test_as_root_of_a_rootless_container(tmp_path: Path, userns: bool) -> None:
    """setgroups(2) is denied in such a namespace and in all below it."""
    options = ("--policy", "p.toml", *(["--userns"] if userns else []))
    done = within(ROOTLESS, tmp_path, "sh", "-c", "id -u; : >made; mkdir x", options=options)
    assert done.stdout == "0\n"
    assert done.stderr.count("Read-only file system") == 1
    assert 'deny EROFS: rule "d"' in done.stderr
    assert (tmp_path / "made").exists()
    assert done.returncode == 1


@needs_namespaces
@pytest.mark.parametrize("mounted", [False, True])
def test_a_proc_of_another_pid_namespace_is_not_believed(tmp_path: Path, mounted: bool) -> None:
    """The numbers of callers are others there: somebody else's rights and root would be taken."""
    wrapper = [*ROOTLESS, "--pid", "--fork", *(["--mount-proc"] if mounted else [])]
    done = within(wrapper, tmp_path, "sh", "-c", ": >made")
    assert (tmp_path / "made").exists() == mounted
    assert (done.returncode == 0) == mounted
    told = "was not performed: /proc is of another pid namespace: it knows the monitor as "
    assert (told in done.stderr) != mounted
    assert "Traceback" not in done.stderr


@needs_namespaces
def test_without_proc(tmp_path: Path) -> None:
    wrapper = [*ROOTLESS, "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    done = within(wrapper, tmp_path, "true")
    assert done.returncode == 125
    (line,) = done.stderr.splitlines()
    assert line.startswith("proctor: /proc/self/fd: No such file or directory; /proc is not ")


def test_in_a_directory_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text(
        'import proctor\n@proctor.on("mkdir", "mkdirat")\ndef f(call):\n    return proctor.deny(18)\n'
    )
    (tmp_path / "gone").mkdir()
    line = 'cd gone && rmdir ../gone && exec "$@"'
    for path, status in ((str(tmp_path / "h.py"), 1), ("h.py", 125)):
        (tmp_path / "gone").mkdir(exist_ok=True)
        done = subprocess.run(
            ["sh", "-c", line, "sh", *COMMAND, "run", "--handlers", path, "--", "mkdir", "x"],
            capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
            env={**os.environ, "PWD": ""},
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert ("cross-device" in done.stderr) == (status == 1)


#: proctor run in a process that can start so many threads of that name, and no more: at a limit of processes
#: or memory.
NO_THREADS = """
import sys
import proctor.kernel.threads as threads
real = threads.quiet_thread
left = int(sys.argv[2])
def quiet_thread(target, name):
    global left
    if name == sys.argv[1]:
        left -= 1
        if left < 0:
            raise RuntimeError("can't start new thread")
    return real(target, name)
threads.quiet_thread = quiet_thread
from proctor.cli import main
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    ("thread", "left", "status", "out"),
    [
        ("proctor-worker", "0", 125, ""),
        ("proctor-worker", "1", 7, "done\nlate\n"),  # nobody stands by
        ("proctor-idle", "0", 7, "done\nlate\n"),  # it waits for descendants all the same
    ],
)
def test_no_more_threads(tmp_path: Path, thread: str, left: str, status: int, out: str) -> None:
    (tmp_path / "p.toml").write_text(RULES)
    os.mkfifo(tmp_path / "fifo")
    line = "(read x <fifo; mkdir x 2>/dev/null || echo late) & echo done; (echo >fifo) & exit 7"
    done = subprocess.run(
        [sys.executable, "-c", NO_THREADS, thread, left,
         "run", "--policy", "p.toml", "--", "sh", "-c", line],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (status, out), done.stderr
    assert "Traceback" not in done.stderr
    if status == 125:
        (said,) = done.stderr.splitlines()
        assert said.startswith("proctor: cannot start a thread to supervise 'sh' (RLIMIT_NPROC, ")
        assert said.endswith(": Resource temporarily unavailable")
