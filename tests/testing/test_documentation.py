"""docs/testing.md: every snippet runs, and the examples are the tests."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proctor.testing import FakeTarget

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "testing.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
TESTS = re.findall(r"^def (test_\w+)\(", "\n".join(SNIPPETS), re.MULTILINE)


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """All snippets of the page, run from top to bottom as one module."""
    names: dict[str, Any] = {"__name__": "page"}
    for snippet in SNIPPETS:
        line = TEXT[: TEXT.index(snippet)].count("\n")
        exec(compile("\n" * line + snippet, str(DOCUMENT), "exec"), names)
    return names


@pytest.mark.parametrize("name", TESTS)
def test_every_test_of_the_page_passes(
    page: dict[str, Any], fake_target: Callable[..., FakeTarget], name: str
) -> None:
    if name == "test_the_release_is_ours" and not hasattr(os, "memfd_create"):
        pytest.skip("the handler uses memfd_create, as the page says")
    test = page[name]
    test(fake_target) if test.__code__.co_argcount else test()


def test_the_page_has_them_all() -> None:
    assert len(TESTS) == len(set(TESTS)) >= 20


def test_the_examples_are_the_tests() -> None:
    chapter = TEXT[TEXT.index("## Three examples") : TEXT.index("## Making a target")]
    blocks = re.findall(r"```python\n(.*?)```", chapter, re.DOTALL)
    assert len(blocks) == 6
    tests = (HERE / "test_examples.py").read_text(encoding="utf-8")
    shown = re.sub(r"  # type: ignore\[[a-z-]+\]", "", tests)
    for block in blocks[1:]:  # the first one is what they import
        assert block in shown, "copy the example from test_examples.py"


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (DOCUMENT.parent / link).exists(), link
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert anchor in headings, anchor
