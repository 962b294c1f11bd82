"""What people copy: the commands in the heads of ``deploy/`` and in the agent's pages."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PAGES = [TOP / "docs/agent.md", *(TOP / "docs/agent").glob("*.md")]
FILES = [each for each in (TOP / "deploy").rglob("*") if each.is_file()]


def commands() -> list[str]:
    """Each ``proctor profile`` there is, without where its output goes to."""
    found = set()
    for path in (*PAGES, *FILES):
        text = re.sub(r"\\\n[#\s]*", "", path.read_text(encoding="utf-8"))
        found.update(re.findall(r"proctor (profile [^\s`|>#]+\.toml [^`|>#)\n]*)", text))
    return sorted(each.strip() for each in found)


def test_they_were_found() -> None:
    assert len(commands()) >= 9


@pytest.mark.parametrize("command", commands())
def test_a_profile_is_made_by_it(command: str) -> None:
    words = shlex.split(command)
    words[1] = str(TOP / "examples/devices.toml")
    bases = [word for option, word in pairwise(words) if option == "--base"]
    for base in bases:
        needed = "/usr/share/containers/seccomp.json" if base == "docker-default" else base
        if not Path(needed).exists():
            pytest.skip(f"needs {needed}")
    done = subprocess.run(
        [sys.executable, "-m", "proctor", *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "notify" in done.stdout.lower()


def headings(page: Path) -> set[str]:
    """What a link may have behind ``#`` there."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8"))
    for file, heading in links:
        there = page.parent / file if file else page
        assert there.exists(), file
        assert not heading or heading in headings(there), (file, heading)
