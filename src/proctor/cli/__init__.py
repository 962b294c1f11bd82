"""The command ``proctor``: one module per verb, each thin."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import argparse


def command() -> NoReturn:
    """Entry point: :func:`main`, and the process ends.

    At once where nobody else's code was loaded: what an interpreter does at its end is for that, and it takes
    longer than many a command.
    """
    gc.disable()
    status = main()
    try:
        sys.stdout.flush()
        if not _have_others_been_loaded():
            os._exit(status & 0xFF)
    except OSError:
        pass  # which the interpreter will say
    raise SystemExit(status)


def _have_others_been_loaded() -> bool:
    """Whether something may want to be told of the end: handlers' files, or who imported us, and their threads."""
    from threading import enumerate, main_thread

    return "proctor.policy.handlerfile" in sys.modules or any(
        not each.daemon and each is not main_thread() for each in enumerate()
    )


def main(argv: Sequence[str] | None = None) -> int:
    """What the command does; returns the exit status.

    A user's mistake is one sentence on standard error and status 2 (125 for ``run``, so that it
    cannot be taken for the command's own); never a traceback.
    """
    _end_by_ctrl_c()
    _occupy_standard_streams()
    from proctor.cli.arguments import parse
    from proctor.cli.say import finish

    options = parse(sys.argv[1:] if argv is None else argv)
    try:
        return _do(options)
    finally:
        finish()


def _do(options: argparse.Namespace) -> int:
    from proctor.cli.say import give_up_output, say
    from proctor.errors import ProctorError

    try:
        status: int = options.verb(options)
        sys.stdout.flush()
    except ProctorError as problem:
        say(str(problem))
        return int(options.trouble)
    except BrokenPipeError:
        # whoever read our output has gone (proctor doctor | head): nothing to report, no traceback
        give_up_output()
        return 0 if options.trouble == 2 else int(options.trouble)
    except OSError as problem:
        # a full disk behind our output, no descriptors left: trouble of the machine, one sentence
        say(_told(problem))
        give_up_output()
        return int(options.trouble)
    except MemoryError:
        say("out of memory (ulimit -v, the cgroup's memory.max, or the machine's)")
        return int(options.trouble)
    except ImportError as problem:
        say(f"cannot load a part of it: {problem}")
        return int(options.trouble)
    except KeyboardInterrupt:
        return 130  # a handler file brought Python's way back
    return status


def _told(problem: OSError) -> str:
    """What a user can make of it; nothing more is loaded for that."""
    from errno import EMFILE

    name, hint = str(problem.filename or ""), ""
    if name.startswith("/proc/") and not os.path.exists("/proc/self"):
        hint = "; /proc is not mounted here, and proctor cannot do without it"
    if problem.errno == EMFILE:
        hint = " (raise the limit of open files: ulimit -n)"
        if name.endswith((".py", ".pyc", ".so")):  # of ours, which was to be loaded
            name = ""
    return f"{name}{name and ': '}{problem.strerror or problem}{hint}"


def _end_by_ctrl_c() -> None:
    """Ctrl-C ends us as it ends any program until a command runs, whose it is from then on: no page
    of Python, and a shell sees what happened."""
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        except ValueError:
            pass  # not on the main thread: whoever calls us so has made his own choice


def _occupy_standard_streams() -> None:
    """Open the null device where we were started without a standard stream (``>&-``).

    Otherwise the next descriptor of ours would take its place: a listener as somebody's output.  The
    command does not inherit the placeholder: what was closed for us is closed for it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115
