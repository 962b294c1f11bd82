"""The pages of the families: each policy is one, and each program runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from proctor.policy import loads, warnings

#: What is said of rules that are not all of a policy; and of families whose calls are not made again.
OF_A_PART = re.compile(r"^io_uring |has clone3? wait for the monitor")
DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [DOCS / "families.md", *sorted((DOCS / "families").glob("*.md"))]


def blocks(language: str) -> list[object]:
    found = [
        pytest.param(text, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, text in enumerate(
            re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.S | re.M), 1
        )
    ]
    assert len(found) >= len(PAGES) - 1
    return found


@pytest.mark.parametrize("text", blocks("toml"))
def test_policies_load_without_a_warning(text: str) -> None:
    policy = loads(text)
    assert [each for each in warnings(policy) if not OF_A_PART.search(each)] == []
    assert policy.filter().compile()


@pytest.mark.parametrize("text", blocks("python"))
def test_programs_run(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0 and "families.exec(" in text:
        pytest.skip("callers are held by root: CAP_SYS_PTRACE")
    monkeypatch.chdir(tmp_path)
    exec(compile(text.replace("/tmp/app.log", f"{tmp_path}/app.log"), "<page>", "exec"), {})
