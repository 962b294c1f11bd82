"""Our text of a call against strace's, call by call, on the running kernel."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import struct
import subprocess
from pathlib import Path

import pytest

import proctor
from proctor.syscalls import tables
from tests.call import text_rows_compat, text_rows_files, text_rows_processes
from tests.call.text_table import ENTRIES, IMAGE, Row, Table

HERE = Path(__file__).parent


def rows() -> Table:
    """The whole table."""
    table = Table()
    for module in (text_rows_files, text_rows_processes, text_rows_compat):
        for add in module.ROWS:
            add(table)
    return table


def file_of(table: Table) -> bytes:
    """What the victim maps."""
    entries = b""
    for row in table.rows:
        entries += struct.pack(
            "<8Q", row.abi == "i386", tables.number(row.name, row.abi), *registers(row)
        )
    head = struct.pack("<Q", len(table.rows)).ljust(ENTRIES, b"\0")
    body = (head + entries).ljust(IMAGE, b"\0") + bytes(table.m.data)
    return body + bytes(-len(body) % 4096)


def registers(row: Row) -> list[int]:
    raw = [number & 0xFFFFFFFFFFFFFFFF for number in row.args]
    return raw + [0] * (6 - len(raw))


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the victim with")
    if os.uname().machine != "x86_64":
        pytest.skip("the victim speaks x86-64 Linux")
    made = tmp_path_factory.mktemp("text") / "victim"
    source = HERE / "text_victim.c"
    command = [compiler, "-std=gnu11", "-O2", "-mno-red-zone", "-Wall", "-Wextra"]
    command += ["-no-pie", "-o", str(made), str(source)]
    if subprocess.run([*command, "-static"], capture_output=True, check=False).returncode != 0:
        subprocess.run(command, check=True, timeout=60)
    return made


@pytest.fixture(scope="module")
def table(victim: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, Path]:
    made = rows()
    path = tmp_path_factory.mktemp("text") / "table"
    one = Table()
    one("getpid", abi="i386")
    path.write_bytes(file_of(one))
    tried = subprocess.run([victim, path, "sealed"], check=False, timeout=60)
    if tried.returncode == -signal.SIGSEGV:  # a kernel without 32-bit calls
        made.rows = [row for row in made.rows if row.abi != "i386"]
    else:
        assert tried.returncode == 0
    path.write_bytes(file_of(made))
    return made, path


@pytest.fixture(scope="module")
def theirs(
    victim: Path, table: tuple[Table, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """strace's line for each row."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not here; tools/test-packages installs it")
    out = tmp_path_factory.mktemp("strace") / "out"
    done = subprocess.run(
        [
            strace,
            "-qq",
            "-v",
            "-e",
            "abbrev=execve,execveat",
            "-s",
            "32",
            "-o",
            out,
            victim,
            table[1],
            "sealed",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if not out.exists() or "getppid" not in out.read_text(errors="replace"):
        pytest.skip(f"strace cannot trace here: {done.stderr.strip() or done.returncode}")
    lines = [
        each
        for each in out.read_text(errors="surrogateescape").splitlines()
        if not each.startswith(("[ Process PID", "strace:"))
    ]
    begin = next(at for at, each in enumerate(lines) if each.startswith("getppid"))
    said = [re.sub(r"\s+= -1 EPERM .*$", "", each) for each in lines[begin + 1 : -1]]
    assert done.returncode == 0, done.stderr
    return said


@pytest.fixture(scope="module")
def ours(victim: Path, table: tuple[Table, Path]) -> list[str]:
    """Our line for each row: from real notifications of a real program, all of them refused."""
    names = {row.name for row in table[0].rows}
    begun = False

    @proctor.on("getppid", *names)
    def refuse(call: proctor.Call) -> proctor.Verdict:
        nonlocal begun
        if begun:
            return proctor.deny(errno.EPERM)
        begun = call.name == "getppid"
        return proctor.let_run()

    told: list[tuple[float, str]] = []  # workers tell of a call when the next one may be over
    done = proctor.run(
        [victim, table[1]],
        [refuse],
        observers=[
            proctor.outcomes(
                lambda outcome: told.append((outcome.received, outcome.text)), text=True
            )
        ],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = [text for _, text in sorted(told)]
    return said[said.index("getppid()") + 1 :]


def plain(text: str) -> str:
    """A line without what differs for every call, and says why below."""
    text = re.sub(r" ?/\* (?!\d+ var).*? \*/", "", text)  # comments: times as dates, "no such flag"
    text = re.sub(r" \(E[A-Z0-9]+\)", "", text)  # we say why something cannot be read
    text = re.sub(  # device numbers as rules have them
        r"makedev\((\w+), (\w+)\)",
        lambda found: f"{int(found[1], 16)}:{int(found[2], 16)}",
        text,
    )
    text = text.replace("FASYNC", "O_ASYNC").replace("AT_STATX_SYNC_AS_STAT|", "")
    # strace has its own order of bits; ours is theirs
    return re.sub(r"[\w<]+(\|[\w<]+)+", lambda found: "|".join(sorted(found[0].split("|"))), text)


def test_the_table_is_worth_it() -> None:
    table = rows()
    assert len({row.name for row in table.rows}) > 250
    assert sum(row.abi == "i386" for row in table.rows) > 50
    assert all(row.why for row in table.rows if row.ours)


def test_every_line_is_straces(
    table: tuple[Table, Path], theirs: list[str], ours: list[str]
) -> None:
    made = table[0]
    assert len(made.rows) == len(ours) == len(theirs)
    wrong = [
        f"{row.abi} strace {line}\n       ours {mine}"
        for row, line, mine in zip(made.rows, theirs, ours, strict=True)
        if not row.ours and plain(line) != plain(mine)
    ]
    version = subprocess.run(["strace", "-V"], capture_output=True, text=True, check=True).stdout
    # Another strace has some other words; most of them stay.
    allowed = 0 if "version 6.1\n" in version else len(ours) // 20
    assert len(wrong) <= allowed, "\n".join(wrong)


def test_what_we_say_otherwise(table: tuple[Table, Path], ours: list[str]) -> None:
    """Where strace says less, or something else: exactly what we say, so that a change is seen."""
    for row, mine in zip(table[0].rows, ours, strict=True):
        if row.ours:
            assert re.sub(r"0x101[0-9a-f]{5}", "@", mine) == row.ours, row.why
