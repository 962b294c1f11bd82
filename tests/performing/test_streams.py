"""Standard streams of a running program become logs, with rotation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import proctor
from proctor import families
from proctor.policy import loads
from tests.support.processes import eventually

COUNT = 'i=0; while [ $i -lt {} ]; do echo "line $i"; i=$((i+1)); done'


def under(policy: str, command: list[str], stdout: Path) -> None:
    """Run a command whose standard output is the monitor's own."""
    code = (
        "import sys, proctor; from proctor.policy import loads; p = loads(sys.argv[1]);"
        "done = proctor.run(sys.argv[2:], p.handlers(), filter=p.filter(), **p.supervisor_options());"
        "print('the monitor', flush=True); sys.exit(done.returncode)"
    )
    with open(stdout, "wb") as out:
        subprocess.run([sys.executable, "-c", code, policy, *command], stdout=out, check=True, timeout=60)  # fmt: skip


def rule(log: Path, more: str = "") -> str:
    return f"""
        [[rule]]
        name = "to the log"
        calls = ["write", "writev"]
        when = {{ fd = 1 }}
        perform = {{ file = "{log}" {more} }}
    """


def test_what_was_inherited_goes_to_the_log_and_nothing_else(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    script = f"echo first; (echo child); echo piped | cat > {tmp_path}/own; echo last; cat {tmp_path}/own"
    under(rule(log), ["sh", "-c", script], out)
    assert log.read_text() == "first\nchild\nlast\npiped\n"
    assert (tmp_path / "own").read_text() == "piped\n"
    assert out.read_text() == "the monitor\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_it_is_rotated_by_size(tmp_path: Path) -> None:
    log = tmp_path / "log"
    under(rule(log, ", size = 50, keep = 2"), ["sh", "-c", COUNT.format(30)], tmp_path / "out")
    parts = [tmp_path / name for name in ("log.2", "log.1", "log")]
    assert sorted(each.name for each in tmp_path.glob("log*")) == ["log", "log.1", "log.2"]
    assert all(50 <= each.stat().st_size < 60 for each in parts[:2])
    lines = "".join(each.read_text() for each in parts).splitlines()
    assert lines == [f"line {number}" for number in range(30 - len(lines), 30)]


def test_it_is_rotated_by_others(tmp_path: Path) -> None:
    """Renamed or removed from outside, as logrotate does, while the program runs on with the old one."""
    log = tmp_path / "log"
    reader, writer = os.pipe()
    instead = os.open(tmp_path / "inherited", os.O_WRONLY | os.O_CREAT)
    handler = families.streams(when={"fd": 1}, file=str(log), instead=instead)
    try:
        with proctor.spawn(
            ["sh", "-c", "while read line; do echo $line; done"], [handler], stdin=reader, stdout=instead
        ) as process:  # fmt: skip
            for number, rotate in enumerate(
                (lambda: None, lambda: log.rename(tmp_path / "old"), log.unlink)
            ):
                rotate()
                os.write(writer, b"%d\n" % number)
                eventually(
                    "the line",
                    lambda number=number: log.exists() and log.read_text() == f"{number}\n",
                )
            os.close(writer)
            assert process.wait() == 0
        assert (tmp_path / "old").read_text() == "0\n"
        assert (tmp_path / "inherited").read_text() == ""
    finally:
        os.close(instead)
        os.close(reader)


def test_a_log_that_cannot_be_is_an_error_of_the_write(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    for bad in (tmp_path, tmp_path / "none/x", tmp_path / "link"):
        out = tmp_path / "out"
        with pytest.raises(subprocess.CalledProcessError):
            under(rule(bad), ["sh", "-c", "set -e; echo x"], out)
    assert not (tmp_path / "target").exists()


def test_options_are_checked() -> None:
    for options in ('file = "x"', 'file = "/x", size = -1', "size = 3", 'file = "/x", keep = true'):
        with pytest.raises(proctor.PolicyError, match=r"rule\[0\].perform: "):
            loads(f'[[rule]]\nname = "r"\ncalls = ["write"]\nperform = {{ {options} }}')
