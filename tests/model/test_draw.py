"""The picture of a notification's life: it is the table's, whole, and the committed one is today's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from proctor.model.draw import life as draw
from proctor.model.kernel.errors import ModelError
from proctor.model.kernel.linux import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from proctor.model.kernel.transitions import GONE, INIT, REPLIED, SENT, TABLE

COMMITTED = Path(__file__).parents[2] / "docs" / "notification.svg"
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_committed_picture_is_what_the_table_renders() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == draw.render(), (
        "run: python -m proctor.model.draw.life --out docs/notification.svg, and look at it"
    )


def test_every_row_has_its_arrow_and_its_line() -> None:
    svg = draw.render()
    arrows = [
        each for each in ElementTree.fromstring(svg).iter(f"{SVG}path") if each.get("marker-end")
    ]
    legend = len({row.who for row in TABLE})
    assert len(arrows) == len(TABLE) + legend
    shown = texts(svg)
    for number, row in enumerate(TABLE, 1):
        assert shown.count(str(number)) == 2, "once at the arrow, once in the table"
        assert row.meaning in shown
        assert row.source in shown
    for event in {row.event for row in TABLE}:
        assert shown.count(event) == 2 * sum(row.event == event for row in TABLE)


def test_a_changed_table_changes_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = (TABLE[0]._replace(event="ask", wakes=0), *TABLE[1:])
    before = draw.render()
    monkeypatch.setattr(draw, "TABLE", changed)
    after = draw.render()
    assert after != before
    assert texts(after).count("ask") == 2
    assert texts(before).count("wakes IN") - texts(after).count("wakes IN") == 1


def test_an_arrow_without_a_place_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "TABLE", (*TABLE, TABLE[0]._replace(state=GONE, to=INIT)))
    with pytest.raises(ModelError, match="no place"):
        draw.render()


def test_poll_bits_are_the_models() -> None:
    assert draw.poll_bits(INIT) == POLLIN | POLLRDNORM
    assert draw.poll_bits(SENT) == POLLOUT | POLLWRNORM
    assert draw.poll_bits(REPLIED) == 0


def test_nothing_leaves_the_page_and_no_two_texts_touch() -> None:
    root = ElementTree.fromstring(draw.render())
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    places = []
    for each in root.iter(f"{SVG}text"):
        words, size = each.text or "", float(each.get("font-size", 0))
        x, y = float(each.get("x", 0)), float(each.get("y", 0))
        # DejaVu Sans, the widest of the fonts named, takes about 0.58 of its size for a letter.
        wide = len(words) * size * (0.62 if each.get("font-weight") else 0.55)
        left = x - wide / 2 if each.get("text-anchor") == "middle" else x
        places.append((left, y - size * 0.8, left + wide, y + size * 0.2, words))
    for left, top, right, bottom, words in places:
        assert 0 <= left <= right <= width and 0 <= top <= bottom <= height, words
    for index, one in enumerate(places):
        for other in places[index + 1 :]:
            apart = (
                one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            )
            assert apart, f"{one[4]!r} lies on {other[4]!r}"


def test_the_command_writes_the_file(tmp_path: Path) -> None:
    out = tmp_path / "life.svg"
    command = [sys.executable, "-m", "proctor.model.draw.life"]
    subprocess.run([*command, "--out", str(out)], check=True, timeout=60)
    shown = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert out.read_text(encoding="utf-8") == shown.stdout == draw.render()


def test_what_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "proctor.model.draw.life"]
    where = str(tmp_path / "none" / "a.svg")
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
