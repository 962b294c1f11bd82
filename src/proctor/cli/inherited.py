"""What the command has of whoever started us, as if we were not in between.

Descriptors beyond the standard streams: what a shell makes of ``<(...)`` and ``7>file``, make's jobserver, a socket of a service manager: whoever stands
between a shell and a command passes them on, under their numbers.  They are the command's: when it closes its
end of a pipe, nobody of ours is to be that end still.  And the environment, of which the interpreter that runs us
makes another one where no locale is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from proctor.process.asking import VARIABLE

_STANDARD = 3  # 0, 1 and 2 have ways of their own
_LOCALE = b"LC_CTYPE"
_COERCED = (b"C.UTF-8", b"C.utf8", b"UTF-8")  # Python/pylifecycle.c, PEP 538


def take() -> list[int]:
    """Find them, and have no other program that we start inherit them.  To be called before anything of ours is
    opened that is to be inherited.

    The way to a supervisor above is none of them: whether the command gets it is decided elsewhere.
    """
    found = []
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        try:
            if number < _STANDARD or not os.get_inheritable(number):
                continue
            if name != os.environ.get(VARIABLE):
                os.set_inheritable(number, False)
                found.append(number)
        except OSError:
            pass  # by which the directory was read
    return sorted(found)


def give_up(numbers: Iterable[int]) -> None:
    """Close them here: the command has its own, or never will."""
    for number in numbers:
        os.close(number)


def restore_environment() -> None:
    """Take back the locale that the interpreter set for itself and for all that it starts (PEP 538)."""
    if os.environb.get(_LOCALE) not in _COERCED:
        return
    try:
        with open(
            "/proc/self/environ", "rb"
        ) as file:  # as it was when the interpreter was executed
            given = file.read().split(b"\0")
    except OSError:
        return
    was = [item.partition(b"=")[2] for item in given if item.startswith(_LOCALE + b"=")]
    if was:
        os.environb[_LOCALE] = was[0]
    else:
        del os.environb[_LOCALE]
