"""The README's examples do what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proctor.policy import loads

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_ten_lines_are_a_supervisor(tmp_path: Path) -> None:
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    done = subprocess.run(
        [sys.executable, "-c", code.replace("/tmp/", f"{tmp_path}/")],
        capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    assert "secrets" in done.stderr
    assert "Permission denied" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["ordinary"]


def headings(page: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    words = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", each).lower() for each in found)
    return {re.sub(r"[^\w -]", "", each).replace(" ", "-") for each in words}


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(README.parent)) for p in README.parent.glob("docs/**/*.md"))]
)  # fmt: skip
def test_links_lead_somewhere(name: str) -> None:
    page = README.parent / name
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, heading = link.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), link
        assert not heading or there.suffix != ".md" or heading in headings(there), link


def test_the_policy_loads() -> None:
    policies = [loads(text) for text in blocks("toml")]
    assert [policy.rules[0].name for policy in policies] == [
        "no block devices",
        "ext4 and squashfs images",
    ]


def test_the_package_docstring_runs(tmp_path: Path) -> None:
    import proctor

    assert proctor.__doc__ is not None
    code = "\n".join(
        line[4:] for line in proctor.__doc__.splitlines() if line.startswith("    ") or not line
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path
    )  # fmt: skip
    assert done.stdout == "refused\n"
    assert not list(tmp_path.iterdir())


def test_performers_of_ones_own_are_given_as_the_documentation_says() -> None:
    """docs/policy.md: O_PATH is left to the kernel, and need not be."""
    import proctor
    from proctor.performing import Performers

    @proctor.on("openat")
    def performed(call: proctor.Call) -> proctor.Verdict:
        return proctor.perform()

    text = (README.parent / "docs" / "policy.md").read_text()
    written = re.search(r"performer=(Performers\(.*?\))\)`", text)
    assert written is not None
    opens = [sys.executable, "-c", "import os; os.open('/', os.O_PATH)"]
    assert proctor.run(opens, [performed]).returncode == 0
    with eval(written[1], {"Performers": Performers}) as performer:
        done = proctor.run(opens, [performed], performer=performer, stderr=subprocess.DEVNULL)
        assert done.returncode == 1
