"""Options of mounts that are credentials: nobody is shown their values, since logs are read by others.

Which these are the kernel's file systems and their helpers decide, each by itself (``pass`` and ``password2`` of CIFS,
``secret`` of Ceph, ``passwd`` of older ones), so whatever is called anything like that is taken for one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from proctor.errors import CallError

if TYPE_CHECKING:
    from proctor.call.decode.frame import Frame
    from proctor.syscalls.signatures import Arg

HIDDEN: Final = b"***"
_WORD: Final = rb"(?:pass|pwd|secret|credential|token|private)"
_NAME: Final = rb"[^=,]*" + _WORD + rb"[^=,]*"
#: Keys of fsconfig(2) may have any bytes (``legacy_parse_param`` of fs/fs_context.c puts an "=" behind them).
_IS_ONE: Final = re.compile(_WORD, re.IGNORECASE).search
#: CIFS has two commas for one in a value (``smb3_fs_context_parse_monolithic`` of fs/smb/client/fs_context.c).
_AMONG: Final = re.compile(rb"(?<![^,])(" + _NAME + rb")=(?:,,|[^,])*", re.IGNORECASE)


def is_one(name: bytes) -> bool:
    """Whether an option of this name is a credential."""
    return _IS_ONE(name) is not None


def hidden(options: bytes) -> bytes:
    """Options as mount(2) takes them, ``name=value`` between commas, without the values of credentials."""
    return _AMONG.sub(rb"\1=" + HIDDEN, options)


def shown(name: bytes, value: bytes | None) -> str:
    """One option for a sentence."""
    text = name if value is None else name + b"=" + (HIDDEN if is_one(name) else value)
    return text.decode(errors="replace")


def hides(frame: Frame, arg: Arg, read: bool) -> bool:
    """Whether an argument is a credential by what another one says: the value of a key (fsconfig(2)).

    :param read: whether the caller's memory may be read for that; what is not known is taken for one."""
    if arg.name != "value" or "key" not in frame.signature:
        return False
    key = frame.signature.arg("key")
    if key is None or key.family != "FsKey":
        return False
    if key.name not in frame.values and not read:
        return True
    try:
        return is_one(frame.value(key) or b"")
    except (CallError, OSError):
        return True
