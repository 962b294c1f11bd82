"""The command ``proctor``: one module per verb, each thin."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status.

    A user's mistake is one sentence on standard error and status 2 (125 for ``run``, so that it
    cannot be taken for the command's own); never a traceback.
    """
    from proctor.cli.arguments import parse
    from proctor.kernel.errors import ProctorError

    options = parse(sys.argv[1:] if argv is None else argv)
    try:
        status: int = options.verb(options)
        sys.stdout.flush()
    except ProctorError as problem:
        print(f"proctor: {problem}", file=sys.stderr)
        return int(options.trouble)
    except BrokenPipeError:
        # whoever read our output has gone (proctor doctor | head): nothing to report, no traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return status
