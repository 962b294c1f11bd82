"""Standard streams that are closed, full or the null device, and descriptors that run out."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import COMMAND

#: With it there are a listener and an engine, whose descriptors could end up elsewhere.
HANDLER = """
import proctor

@proctor.on("getcwd")
def answer(call):
    return proctor.let_run()
"""

WITHOUT = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-"}


def shell(line: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which ``"$@"`` is the command proctor."""
    (place / "h.py").write_text(HANDLER)
    (place / "prints.py").write_text(
        HANDLER.replace("getcwd", "mkdir").replace("return", "print(1); return")
    )
    (place / "warns.toml").write_text(
        '[[rule]]\nname = "r"\ncalls = ["mkdir"]\ndeny = "EROFS"\nreport = true\n'
    )
    return subprocess.run(
        ["sh", "-c", line, "sh", *COMMAND],
        capture_output=True, text=True, timeout=60, check=False, cwd=place, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("closed", WITHOUT)
@pytest.mark.parametrize("options", ["", "--handlers h.py"])
def test_closed_streams_are_closed_for_the_command(
    tmp_path: Path, closed: str, options: str
) -> None:
    """No descriptor of ours, least of all a listener, becomes the command's standard stream."""
    done = shell(
        f'"$@" run {options} -- sh -c '
        f"'for n in 0 1 2; do [ -e /proc/$$/fd/$n ] && echo $n; done >seen; exit 0' {WITHOUT[closed]}",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    # sh itself has 1 open while it writes "seen"
    expected = {
        "stdin": ["1", "2"], "stdout": ["0", "1", "2"], "stderr": ["0", "1"], "all": ["1"],
    }[closed]  # fmt: skip
    assert (tmp_path / "seen").read_text().split() == expected
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ('"$@" run -- sh -c "exit 5" >&-', 5),
        ('"$@" run -- sh -c "exit 5" 2>&-', 5),
        ('"$@" run --no-such-option -- true 2>&-', 125),
        ('"$@" run -- /nonexistent/program 2>&-', 127),
        ('"$@" run -- /nonexistent/program 2>/dev/full', 127),
        ('"$@" run --policy missing.toml -- true 2>/dev/full', 125),
        # a warning (the sibling "mkdirat", io_uring) that cannot be written is no reason to fail
        ('"$@" run --policy warns.toml -- sh -c "exit 5" 2>/dev/full', 5),
        ('"$@" run --policy warns.toml --summary -- sh -c "mkdir x; exit 5" 2>/dev/full', 5),
        ('"$@" run --handlers prints.py -- sh -c "mkdir x; exit 5" >/dev/full 2>/dev/null', 5),
        ('"$@" doctor >/dev/full', 2),
        ('"$@" doctor --json >/dev/full', 2),
    ],
)
def test_exit_status_without_somewhere_to_write(tmp_path: Path, line: str, status: int) -> None:
    done = shell(line, tmp_path)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stdout == ""


def test_full_log_is_told_once_and_the_command_goes_on(tmp_path: Path) -> None:
    done = shell(
        '"$@" run --handlers h.py --log /dev/full -- sh -c "/bin/pwd; /bin/pwd; exit 4"', tmp_path
    )
    assert done.returncode == 4
    assert done.stdout == f"{tmp_path}\n" * 2
    assert done.stderr.splitlines() == [
        "proctor: --log /dev/full: No space left on device; what comes now is not logged"
    ]


@pytest.mark.parametrize("most", range(5, 24, 2))
def test_too_few_descriptors_are_one_sentence(tmp_path: Path, most: int) -> None:
    (tmp_path / "h.py").write_text(HANDLER)
    done = subprocess.run(
        [*COMMAND, "run", "--handlers", "h.py", "--", "true"],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most)),
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert (done.returncode, len(done.stderr.splitlines())) == (125, 1)
        assert os.strerror(24) in done.stderr
    else:
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--", "/nonexistent/program"], 127),
        (["--policy", "missing.toml", "--", "true"], 125),
        (["--policy", "warns.toml", "--", "sh", "-c", "mkdir x; exit 5"], 5),
        (["--policy", "warns.toml", "--summary", "--", "sh", "-c", "mkdir x; exit 5"], 5),
        (["--policy", "warns.toml", "--log", "-", "--", "sh", "-c", "mkdir x; exit 5"], 5),
    ],
)
def test_exit_status_where_nobody_reads_what_is_said(
    tmp_path: Path, words: list[str], status: int
) -> None:
    """EPIPE at every line for people: it was status 0, whatever had happened."""
    shell("true", tmp_path)  # writes the files
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as broken:
        done = subprocess.run(
            [*COMMAND, "run", *words], stderr=broken, stdout=subprocess.PIPE, timeout=60,
            check=False, cwd=tmp_path,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (status, b"")


def test_a_followed_log_ends_with_its_reader(tmp_path: Path) -> None:
    """Though no line comes that could not be written."""
    (tmp_path / "log").write_text('{"event": "ended", "time": 0, "container": "web"}\n')
    words = [sys.executable, "-m", "proctor", "logs", "-f", "--file", str(tmp_path / "log")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as reader:
        assert reader.readline().endswith(b"web ended\n")
    try:
        assert process.wait(60) == 0
    finally:
        process.kill()
