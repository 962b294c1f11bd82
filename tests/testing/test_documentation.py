"""docs/testing.md shows what is tested."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "testing.md"


def test_the_examples_are_the_tests() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    chapter = text[text.index("## Three examples") : text.index("## Making a target")]
    blocks = re.findall(r"```python\n(.*?)```", chapter, re.DOTALL)
    assert len(blocks) == 5
    tests = (HERE / "test_examples.py").read_text(encoding="utf-8")
    for block in blocks:
        shown = re.sub(r"  # type: ignore\[[a-z-]+\]", "", tests)
        assert block in shown, "copy the example from test_examples.py"


def test_links_lead_somewhere() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (DOCUMENT.parent / link).exists(), link
