"""What the command line is parsed with."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, NoReturn

from proctor.given import MOST, number
from proctor.words import printable, quoted

#: What argparse says besides is English as the rest: to look for translations, which we have not, takes as long as all
#: else that it does.
argparse._ = str  # type: ignore[attr-defined]


@cache
def _columns() -> int:
    """As shutil.get_terminal_size(), which takes a millisecond to load."""
    try:
        return int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        pass
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return 80


class _Help(argparse.HelpFormatter):
    """Made for each argument, whether help is wanted or not."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=(_columns() or 80) - 2)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints end with the verb's own exit status for trouble."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, allow_abbrev=False, **options)
        self.set_defaults(trouble=2, parser=self)

    def words(self) -> list[str]:
        """The options that there are."""
        return list(self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(self.get_default("trouble"), f"{self.prog}: error: {printable(message)}\n")


class Once(argparse.Action):
    """An option that says which rules hold: of two the last would win, and the first be forgotten."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option} is given twice; put it all into one file")
        setattr(namespace, self.dest, values)


def take(parser: argparse._ActionsContainer, *options: tuple[Any, ...]) -> None:
    """Have a parser take options: ``(what is written, help)``, and a dict of what else argparse wants to know.

    What is written is ``--name VALUE``; ``--name VALUE ...`` may be repeated, ``--name`` has no value."""
    for written, help, *more in options:
        name, _, value = written.partition(" ")
        value, many, _ = value.partition(" ...")
        how: dict[str, Any] = dict(*more)
        if value:
            how["metavar"] = value
        if many or not (value or how):
            how["action"] = "append" if many else "store_true"
        parser.add_argument(name, help=help, **how)


def whole(text: str) -> int:
    """A whole number from 1 on."""
    found = number(text, 1 << 63)
    if not found:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: a whole number from 1 on")
    return found


def amount(text: str) -> int:
    """How many threads or processes there may be at a time."""
    found = whole(text)
    if found > MOST:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: a whole number from 1 to {MOST}")
    return found


def seconds(text: str) -> float:
    """Seconds, more than 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: seconds, more than 0")
    return number


def duration(text: str) -> float:
    """Seconds, or none."""
    return 0.0 if text == "0" else seconds(text)


def nonempty(text: str) -> str:
    """Any text but none."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def unicode(text: str) -> str:
    """A text that can be said to an agent, in JSON: bytes that are no UTF-8 come as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not UTF-8") from None
    return text


def absolute(text: str) -> str:
    """A path that means the same to whoever reads it elsewhere."""
    if not nonempty(text).startswith("/"):
        raise argparse.ArgumentTypeError(f"{quoted(text)}: runtimes want an absolute path")
    return text


def verb(module: str, name: str = "") -> Callable[[argparse.Namespace], int]:
    """What a verb does, loaded when it is to."""

    def do(options: argparse.Namespace) -> int:
        made = getattr(import_module(f"proctor.cli.{module}"), name or module)
        gc.enable()  # what is loaded stays: the command did not look it through
        status: int = made(options)
        return status

    return do
