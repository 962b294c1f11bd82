"""What came of a run: lines while it goes on, and the table at its end."""

from __future__ import annotations

from typing import Any

from tools.kernels.packages import KernelImage


class Outcome:
    """One kernel's parts, and whether all is well."""

    def __init__(self, image: KernelImage) -> None:
        self.image = image
        self.release = image.release
        self.profile = ""
        self.parts: dict[str, dict[str, Any]] = {}
        self.problems: list[str] = []
        self.down = False

    def take(self, event: dict[str, Any]) -> str:
        """Note an event; a line about it."""
        if "problem" in event:
            self.problems.append(event["problem"])
            return f"PROBLEM: {event['problem']}"
        if "up" in event:
            self.release, self.profile = event["up"], event["profile"]
            if self.release != self.image.release:
                self.problems.append(f"booted {self.release}, not {self.image.release}")
            return f"up after {event['seconds']:.0f} s, profile {self.profile}"
        if "down" in event:
            self.down = True
            return ""
        if event.get("begins"):
            return ""
        name = event["part"]
        self.parts[name] = event
        # Before 5.9 supervision cannot work, and doctor has to say so.
        wanted = int(name == "doctor" and _numbers(self.release)[:2] < [5, 9])
        if event["code"] != wanted:
            how = "took too long" if event["code"] is None else f"exit code {event['code']}"
            self.problems.append(f"{name}: {how}")
        words = "ok" if event["code"] == wanted else "FAILED"
        return f"{name}: {words}{self.about(name)}, {event['seconds']:.0f} s"

    def about(self, name: str) -> str:
        """The figures of a part."""
        part = self.parts.get(name, {})
        if "steps" in part:
            return f", {part['steps']} steps compared"
        if "counts" in part:
            bad = part["counts"]["failures"] + part["counts"]["errors"]
            return f", {passed(part)} passed, {part['counts']['skipped']} skipped, {bad} failed"
        if "doctor" in part:
            lacks = [line["feature"] for line in part["doctor"]["features"] if line["ok"] is False]
            return f", {'usable' if part['doctor']['usable'] else 'NOT usable'}; lacks {', '.join(lacks) or 'nothing'}"
        if "features" in part:
            lacks = [key for key, word in part["features"].items() if word == "lacks"]
            return f", lacks {', '.join(lacks) or 'nothing'}"
        return ""

    def finish(self) -> None:
        """The machine is down: was it on purpose?"""
        if not self.down and not self.problems:
            self.problems.append("the machine went down early: see the console's log")

    def as_dict(self, before: dict[str, Any]) -> dict[str, Any]:
        """For a file.

        :param before: parts of an earlier run, kept where this one has none of that name.
        """
        return {
            "wanted": self.image.wanted,
            "package": self.image.package,
            "release": self.release,
            "profile": self.profile,
            "problems": self.problems,
            "parts": before | self.parts,
        }


def passed(part: dict[str, Any]) -> int:
    """Tests that passed."""
    counts = part["counts"]
    return int(counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"])


def table(results: list[dict[str, Any]]) -> str:
    """Results as a table in Markdown, oldest kernel first."""
    lines = [
        "| kernel | steps compared | differences | tests passed | skipped | failed | ported back |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in sorted(results, key=lambda result: _numbers(result["release"])):
        parts = result["parts"]
        compare = parts.get("compare", {})
        suites = [part for part in parts.values() if "counts" in part]
        cells = [result["release"]]
        cells += (
            [f"{compare['steps']:,}", "0" if compare["code"] == 0 else "1"]
            if compare
            else ["-", "-"]
        )
        if suites:
            counts = [part["counts"] for part in suites]
            cells += [str(sum(map(passed, suites))), str(sum(c["skipped"] for c in counts))]
            cells += [str(sum(c["failures"] + c["errors"] for c in counts))]
        else:
            cells += ["-", "-", "-"]
        features = parts.get("features", {}).get("features", {})
        cells.append(", ".join(name for name, word in features.items() if word == "ported") or "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _numbers(release: str) -> list[int]:
    return [int(word) for word in release.replace("-", ".").split(".") if word.isdecimal()]
