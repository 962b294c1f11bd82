"""``proctor doctor``: what this kernel and machine can do."""

from __future__ import annotations

import argparse
import os
import sys

from proctor.kernel.probe import listener_above, report, usable
from proctor.kernel.support import Support
from proctor.process.neighbours import who_is_above
from proctor.syscalls.architectures import ARCHITECTURES, native


def doctor(options: argparse.Namespace) -> int:
    """Print the table; 1 if supervision cannot work here."""
    found = [_architecture(), *report()]
    works = usable(found)
    above = None
    if listener_above():
        above = Support("who sits above", None, who_is_above())
        found.append(above)
    if options.json:
        import json

        kernel = os.uname()
        json.dump(
            {
                "kernel": kernel.release,
                "machine": kernel.machine,
                "usable": works,
                "features": [line._asdict() for line in found],
            },
            sys.stdout,
            indent=2,
        )
        print()
    else:
        _table(found, works, above)
    return 0 if works else 1


def _architecture() -> Support:
    here = ARCHITECTURES[native()]
    return Support(
        "architecture",
        here.listener,
        here.name,
        consequence="calls are decoded and filters compiled, but nothing can be supervised here",
        essential=True,
    )


def _table(found: list[Support], works: bool, above: Support | None) -> None:
    kernel = os.uname()
    print(f"Linux {kernel.release} {kernel.machine}\n")
    width = max(len(line.feature) for line in found)
    for line in found:
        mark = {True: "yes", False: "NO", None: "?"}[line.ok]
        notes = [line.detail] if line.detail else []
        if not line.ok:
            if line.since:
                notes.append(f"since Linux {line.since}" if line.since[0].isdigit() else line.since)
            if line.consequence:
                notes.append(f"without it: {line.consequence}")
        print(f"{line.feature:<{width}}  {mark:<3}  {'; '.join(notes)}".rstrip())
    print()
    if works:
        print("Supervision works here.")
    else:
        missing = ", ".join(line.feature for line in found if line.essential and not line.ok)
        if above is None:
            print(f"Supervision cannot work here: {missing}.")
        else:
            print(
                f'Supervision cannot work here by itself: {missing}; "{above.feature}" has what helps.'
            )
