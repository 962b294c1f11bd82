"""Lines for descriptors: whole, in order, whatever the descriptor does."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from proctor.observe.lines import Lines


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds one page."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


def drain(fd: int, size: int) -> bytes:
    found = b""
    while len(found) < size:
        assert select.select([fd], [], [], 30)[0]
        found += os.read(fd, 65536)
    return found


def test_text_becomes_ascii(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb") as file:
        lines = Lines(file.fileno(), "a file")
        lines.put("text\n")
        lines.put("\udcff\n")
        assert lines.close(30)
    assert (tmp_path / "log").read_text() == "text\n\\udcff\n"


def test_pieces_of_a_pipe_are_whole_lines(pipe: tuple[int, int]) -> None:
    """Others write there as well: what is written at once must be what a pipe takes at once."""
    reader, writer = pipe
    lines = Lines(writer, "a pipe")
    sent = [f"{number:04}{'x' * 995}\n" for number in range(20)]
    for line in sent:
        lines.put(line)
    seen: list[bytes] = []
    while sum(map(len, seen)) < 20_000:
        assert select.select([reader], [], [], 30)[0]
        seen.append(os.read(reader, 65536))
    assert all(len(piece) % 1000 == 0 for piece in seen)
    assert b"".join(seen).decode() == "".join(sent)
    assert lines.close(30)


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    lines = Lines(writer, "a pipe")
    for _ in range(30):
        lines.put("y" * 999 + "\n")
    assert len(drain(reader, 30_000)) == 30_000
    assert lines.close(30)


def test_a_pipe_without_a_reader_is_told_once(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    broken: list[int | None] = []
    lines = Lines(writer, "a pipe", lambda problem: broken.append(problem.errno))
    for _ in range(3):
        lines.put("line\n")
        assert lines.flush(30)
    assert broken == [32]


def test_a_terminal_that_is_stopped_is_waited_for_and_not_for_ever() -> None:
    ours, theirs = pty.openpty()
    try:
        termios.tcflow(theirs, termios.TCOOFF)
        lines = Lines(theirs, "a terminal")
        lines.put("late\n")
        assert not lines.flush(0.05)
        assert not lines._is_ready(0)
        termios.tcflow(theirs, termios.TCOON)
        assert lines.flush(30)
        assert drain(ours, 6) == b"late\r\n"
    finally:
        os.close(ours)
        os.close(theirs)
