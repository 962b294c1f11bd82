"""``proctor check``: what is doubtful about policies."""

from __future__ import annotations

import argparse

from proctor.cli.say import say
from proctor.errors import PolicyError
from proctor.words import printable


def check(options: argparse.Namespace) -> int:
    """Print their warnings, and say which cannot be read, or are no policies; the worst of 0, 1 and 2."""
    from proctor.policy import load, warnings

    worst = 0
    for file in options.policies:
        try:
            found = warnings(load(file))
        except PolicyError as problem:
            say(str(problem))
            worst = int(options.trouble)
            continue
        for warning in found:
            print(printable(f"{file}: {warning}"))
            worst = max(worst, 1)
    return worst
