"""Standard streams of a running program become logs, with rotation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


WRITES = """
import ctypes, errno, mmap, os, random, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
draw, told = random.Random(sys.argv[1]), open(sys.argv[3], "w")
held = mmap.mmap(-1, 1 << 20)
start = ctypes.addressof(ctypes.c_char.from_buffer(held))
end = (1 << 20) - 4096
libc.mprotect(ctypes.c_void_p(start + end), 4096, 0)
held[:end] = draw.randbytes(end)
for fd in (1, 2):
    os.write(fd, b"begun")
def part():
    size = draw.choice([0, 1, 10, 100, 5000, 70000])
    where = draw.choice([start + draw.randrange(4096)] * 8 + [0, 1, start + end, start + end - 7, start + end - 5000, 1 << 63])
    if draw.random() < 0.03:
        size = draw.choice([1 << 63, 1 << 31, (1 << 64) - 1])
    return where, size
for number in range(int(sys.argv[2])):
    fd = draw.choice([1] * 6 + [2, 2, 77, -1, 9])
    if draw.random() < 0.5:
        where, size = part()
        said, result = (size,), libc.write(fd, ctypes.c_void_p(where), ctypes.c_size_t(size))
    else:
        parts = [part() for _ in range(draw.choice([0, 1, 2, 3]))]
        vector = ctypes.create_string_buffer(b"".join(struct.pack("=QQ", *each) for each in parts))
        count = draw.choice([len(parts)] * 9 + [-1, 1025])
        at = draw.choice([ctypes.addressof(vector)] * 15 + [0, 1])
        said, result = ([each[1] for each in parts], count, at > 1), libc.writev(fd, ctypes.c_void_p(at), count)
    print(number, fd, said, result if result >= 0 else errno.errorcode[ctypes.get_errno()], os.stat("/proc/self/fd/1").st_size, file=told, flush=True)
    if draw.random() < 0.05:
        os.close(draw.choice([1, 2])) if draw.random() < 0.3 else os.dup2(draw.choice([1, 2]), 77) if draw.random() < 0.5 else os.lseek(1, 3, 0)
        if not os.path.exists("/proc/self/fd/1") or not os.path.exists("/proc/self/fd/2"):
            break
"""


def test_what_is_written_is_as_natively(tmp_path: Path) -> None:
    """Good and bad writes to a log that takes the place of a file, and to that file itself (both are appended to)."""
    for seed in range(4):
        seen = []
        for performed in (False, True):
            out, log, told = (
                tmp_path / f"{name}{seed}{performed}" for name in ("out", "log", "told")
            )
            command = [sys.executable, "-ISc", WRITES, str(seed), "60", str(told)]
            with open(out, "ab") as stdout:
                options: dict[str, Any] = {
                    "stdout": stdout,
                    "stderr": subprocess.STDOUT,
                    "timeout": 60,
                }
                if performed:
                    handlers = [
                        families.streams(when={"fd": fd}, file=str(log), instead=stdout.fileno())
                        for fd in (1, 2)
                    ]
                    proctor.run(command, handlers, check=True, **options)
                    assert out.read_bytes() == b""
                else:
                    subprocess.run(command, check=True, **options)
            there = (
                log if performed and log.exists() else out
            )  # there is none before the first write
            seen.append((told.read_text(), there.read_bytes()))
        pairs = zip(*(each[0].splitlines() for each in seen), strict=False)
        wrong = [f"{one}\n{other}" for one, other in pairs if one != other]
        assert not wrong, "\n".join(wrong[:10])
        assert seen[0] == seen[1]


def test_options_are_checked() -> None:
    for options in ('file = "x"', 'file = "/x", size = -1', "size = 3", 'file = "/x", keep = true'):
        with pytest.raises(proctor.PolicyError, match=r"rule\[0\].perform: "):
            loads(f'[[rule]]\nname = "r"\ncalls = ["write"]\nperform = {{ {options} }}')
