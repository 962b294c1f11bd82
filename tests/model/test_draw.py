"""The chart of a notification's life: it is the table's, whole, and the committed one is today's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from proctor.model.draw import life as draw
from proctor.model.kernel.linux import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from proctor.model.kernel.transitions import INIT, NEW, REPLIED, SENT, TABLE

COMMITTED = Path(__file__).parents[2] / "docs" / "notification.md"
ARROW = re.compile(r"^    (\S+) --> (\S+) : (\d+) (\w+)(.*)$", re.MULTILINE)


def test_the_committed_chart_is_what_the_table_renders() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == draw.render(), (
        "run: python -m proctor.model.draw.life --out docs/notification.md, and look at it"
    )


def test_every_row_has_its_arrow_and_its_line() -> None:
    text = draw.render()
    arrows = ARROW.findall(text)
    assert len(arrows) == len(TABLE)
    for number, (row, (start, end, count, event, words)) in enumerate(
        zip(TABLE, arrows, strict=True), 1
    ):
        assert (int(count), event) == (number, row.event)
        assert start == ("[*]" if row.state == NEW else row.state.upper())
        assert end == row.to.upper()
        assert ("wakes" in words) == bool(row.wakes)
        line = next(line for line in text.splitlines() if line.startswith(f"| {number} |"))
        assert row.meaning in line and row.source in line and line.count(" | ") == 8


def test_every_state_of_an_arrow_is_declared() -> None:
    text = draw.render()
    declared = set(re.findall(r'^    state ".*" as (\S+)$', text, re.MULTILINE))
    assert {place for arrow in ARROW.findall(text) for place in arrow[:2]} - {"[*]"} == declared


def test_a_changed_table_changes_the_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    before = draw.render()
    monkeypatch.setattr(draw, "TABLE", (TABLE[0]._replace(event="ask", wakes=0), *TABLE[1:]))
    after = draw.render()
    assert "1 ask" in after and "1 ask" not in before
    assert before.count("wakes IN") - after.count("wakes IN") == 1


def test_poll_bits_are_the_models() -> None:
    assert draw.poll_bits(INIT) == POLLIN | POLLRDNORM
    assert draw.poll_bits(SENT) == POLLOUT | POLLWRNORM
    assert draw.poll_bits(REPLIED) == 0


def test_the_command_writes_the_file(tmp_path: Path) -> None:
    out = tmp_path / "life.md"
    command = [sys.executable, "-m", "proctor.model.draw.life"]
    subprocess.run([*command, "--out", str(out)], check=True, timeout=60)
    shown = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert out.read_text(encoding="utf-8") == shown.stdout == draw.render()


def test_what_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "proctor.model.draw.life"]
    where = str(tmp_path / "none" / "a.md")
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    name = "python -m proctor.model.draw.life"
    assert done.stderr == f"{name}: standard output: No space left on device\n"
    assert done.returncode == 1
    done = subprocess.run(
        [*command, "--out", where], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{name}: {where}: No such file or directory\n"


def test_a_reader_that_leaves_is_no_trouble() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "proctor.model.draw.life"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as drawing:
        assert drawing.stdout is not None and drawing.stderr is not None
        drawing.stdout.close()
        assert drawing.stderr.read() == b""
        assert drawing.wait(60) == 1
