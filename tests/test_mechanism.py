"""docs/mechanism.md: its snippets run, its tests exist, and what it lists is what there is."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PAGE = TOP / "docs" / "mechanism.md"
TEXT = PAGE.read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the page names a number of x86-64")
def test_the_snippets_run_from_top_to_bottom() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(SNIPPETS)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")


def test_every_section_about_the_kernel_names_its_tests() -> None:
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        assert re.search(r"\bC\d{3}\b", section), section.partition("\n")[0]


def test_links_lead_somewhere() -> None:
    for place in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (PAGE.parent / place).exists(), place
