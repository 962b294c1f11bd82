"""What is given to proctor, looked at when it is given: what cannot be is refused at once, in a sentence that says what
can, and not somewhere below or when the first call comes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from proctor.words import did_you_mean

#: Threads, processes, calls at a time: more of one kind than this no machine gives.
MOST: Final = 10_000
#: A user or group id; the last number stands for none.
MOST_ID: Final = (1 << 32) - 2
#: A number of a descriptor, a process, a process group.
MOST_NUMBER: Final = (1 << 31) - 1
#: A deadline of more seconds, infinity among them, is none: nobody lives so long.
_EVER: Final = 1 << 31


def whole(what: str, given: object, least: int = 1, most: int = MOST) -> int:
    """A whole number.

    >>> whole("workers", 4)
    4

    :param what: what it is given as.
    :raises TypeError: it is something else.
    :raises ValueError: it is less than the least, or more than the most.
    """
    if not isinstance(given, int) or isinstance(given, bool):
        raise TypeError(f"{what}={given!r}: a whole number from {least} to {most} is wanted")
    if given < least and least == 1:
        raise ValueError(f"{what}={given}: at least one is needed")
    if not least <= given <= most:
        raise ValueError(f"{what}={given}: a whole number from {least} to {most} is wanted")
    return given


def number(text: str, most: int) -> int | None:
    """The number that a text is; None if it is something else, or more than the most.  Python reads no more than some
    thousands of digits."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    found = int(text)
    return found if found <= most else None


def seconds(what: str, given: object) -> float | None:
    """Seconds that can be counted with; None: for ever.

    :raises TypeError: it is no number.
    :raises ValueError: it is not more than 0.
    """
    if given is None:
        return None
    if not isinstance(given, (int, float)) or isinstance(given, bool):
        raise TypeError(f"{what}={given!r}: seconds, more than 0, or None")
    if not given > 0:
        raise ValueError(f"{what}={given!r}: seconds, more than 0, or None")
    return None if given > _EVER else float(given)


def one(what: str, given: Any, kind: type | tuple[type, ...], wanted: str) -> Any:
    """What is given, if it is of a kind.

    :param wanted: that kind, in words.
    :raises TypeError: it is not."""
    if not isinstance(given, kind):
        raise TypeError(f"{what}={given!r}: {wanted} is wanted")
    return given


def several(what: str, given: Any, wanted: str) -> tuple[Any, ...]:
    """What is given, if it is some of something: a text is not, though each of its letters is.

    :param wanted: what it is, in words.
    :raises TypeError: it is not."""
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes)):
        raise TypeError(f"{what}={given!r}: {wanted} are wanted, in a list")
    return tuple(given)


def refuse_unknown(options: Iterable[str], known: Iterable[str], what: str = "a launch") -> None:
    """
    :param what: has these options.
    :raises TypeError: an option is none of those that there are."""
    for name in options:
        if name not in known:
            ours = _AS_SUBPROCESS_HAS_IT.get(name, "")
            hint = f'; it is "{ours}" here' if ours in known else _INSTEAD.get(name, "")
            raise TypeError(f"{what} has no option {name!r}{hint or did_you_mean(name, known)}")


#: Options of :class:`subprocess.Popen` that have other names here.
_AS_SUBPROCESS_HAS_IT = {
    "user": "uid", "group": "gid", "extra_groups": "groups", "start_new_session": "new_session",
    "universal_newlines": "text",
}  # fmt: skip
#: Those that are not needed here, and why.
_INSTEAD = {
    "shell": '; a shell is a command: ["sh", "-c", "..."]',
    "close_fds": "; what is not in pass_fds is always closed",
    "encoding": "; text=True is UTF-8, and without it there are bytes",
    "errors": "; text=True is UTF-8, and without it there are bytes",
}
