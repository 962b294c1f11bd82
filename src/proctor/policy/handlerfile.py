"""``--handlers FILE.py``: a Python file whose ``@proctor.on`` functions answer calls.

The file is run once, as a module of its own that nothing else imports.  It is trusted code: it runs
in the monitor with the monitor's rights.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from types import CodeType, ModuleType, TracebackType
from typing import TYPE_CHECKING

from proctor.errors import PolicyError, ProctorError
from proctor.policy.document import Source, read_text
from proctor.words import printable

if TYPE_CHECKING:
    from proctor.supervisor.handlers import Handler


def load_handlers(path: str | bytes | os.PathLike[str]) -> list[Handler]:
    """Run a handler file and return its handlers in the order they stand in it::

        with open("handlers.py", "w") as file:
            file.write('import proctor\\n@proctor.on("mkdir")\\ndef rooms(call):\\n    pass\\n')
        assert [handler.label for handler in load_handlers("handlers.py")] == ["rooms"]

    Its directory is importable while it runs (and afterwards, for imports inside of handlers), so a
    handler file can have helpers beside it.  Handlers made elsewhere and imported by name count too.

    :raises PolicyError: it cannot be read, is not Python, fails while it runs, or has no handler; one
        sentence with file and line.
    """
    from proctor.supervisor.handlers import Handler

    source = read_text(path)
    module = _run(_compiled(source, path), source, path)
    found: list[Handler] = []
    for value in vars(module).values():
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(each, Handler) and not any(each is other for other in found):
                found.append(each)
    if not found:
        raise source.error('no handler in it; decorate a function with @proctor.on("openat")')
    return found


def doubts(handlers: Iterable[Handler]) -> list[str]:
    """Sentences about what is legal and probably not meant, as :func:`proctor.policy.warnings` has them of rules.

    >>> doubts([proctor.Handler(["gettimeofday"], lambda call: None, label="clock")])
    ['handler "clock" is about gettimeofday, which most programs do by the vDSO, without the call being made, so it is not asked']
    """
    from proctor.syscalls.special import FRAGILE, VDSO

    said = []
    for each in handlers:
        unseen = [call for call in sorted(VDSO) if each.wants(call)]
        if unseen:
            said.append(
                f'handler "{each.label}" is about {", ".join(unseen)}, which most programs do by the vDSO, without the call '
                "being made, so it is not asked"
            )
        reasons: dict[str, list[str]] = {}
        for call, why in FRAGILE.items():
            if each.wants(call):
                reasons.setdefault(why, []).append(call)
        for why, calls in reasons.items():
            said.append(f'handler "{each.label}" has {", ".join(calls)} wait for it: {why}')
    return said


def _compiled(source: Source, path: str | bytes | os.PathLike[str]) -> CodeType:
    try:
        return compile(source.text, _absolute(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f"{source.name}:{error.lineno}" if error.lineno else source.name
        raise PolicyError(f"{where}: not valid Python: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise source.error(f"not valid Python: {error}") from None


def _run(code: CodeType, source: Source, path: str | bytes | os.PathLike[str]) -> ModuleType:
    full = _absolute(path)
    name = _module_name(full)
    module = ModuleType(name)
    module.__file__ = full
    directory = os.path.dirname(full) or os.curdir
    if directory not in sys.path:
        sys.path.append(directory)  # last: it must not shadow what is installed
    sys.modules[name] = module  # pickling and typing look classes up by module
    try:
        exec(code, module.__dict__)
    except KeyboardInterrupt:
        raise  # somebody at the terminal had enough of it
    except BaseException as error:  # whatever a file of a user's throws: a sentence, no page
        del sys.modules[name]
        line = _line_in(error.__traceback__, full)
        where = source.name if line is None else f"{source.name}:{line}"
        raise PolicyError(printable(f"{where}: {_told(error)}")) from error
    return module


def _told(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split()) or "no message"
    except Exception:
        text = "no message"
    if isinstance(error, ProctorError):
        return text
    if isinstance(error, SystemExit):
        return f"it ends the program ({text}) instead of defining handlers"
    return f"{type(error).__name__}: {text}"


def _absolute(path: str | bytes | os.PathLike[str]) -> str:
    """The absolute path; where the current directory has none (it was removed, or lies outside of
    the root), the path as it was given: the file was found by it."""
    name = os.fsdecode(path)
    try:
        return os.path.abspath(name)
    except OSError:
        return name


def _module_name(full: str) -> str:
    """A name that no import statement asks for, and that differs for each file."""
    stem = os.path.splitext(os.path.basename(full))[0]
    name, number = f"proctor handlers {stem}", 2
    while name in sys.modules:
        name = f"proctor handlers {stem} {number}"
        number += 1
    return name


def _line_in(trace: TracebackType | None, file: str) -> int | None:
    """The innermost line of ``file`` in a traceback."""
    line = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
