"""``proctor check``: what is doubtful about a policy."""

from __future__ import annotations

import argparse

from proctor.words import printable


def check(options: argparse.Namespace) -> int:
    """Print its warnings; 1 if there are any.

    :raises PolicyError: it cannot be read, or is no policy.
    """
    from proctor.policy import load, warnings

    found = warnings(load(options.policy))
    for warning in found:
        print(printable(f"{options.policy}: {warning}"))
    return 1 if found else 0
