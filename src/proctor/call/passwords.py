"""Credentials in options of mounts, in their sources and in words of command lines: nobody is shown them, since logs are
read by others.

Which options these are the kernel's file systems and their helpers decide, each by itself (``pass`` and ``password2`` of CIFS,
``secret`` of Ceph, ``passwd`` of older ones), so whatever is called anything like that is taken for one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from proctor.errors import CallError

if TYPE_CHECKING:
    from proctor.call.decode.frame import Frame
    from proctor.syscalls.signatures import Arg

HIDDEN: Final = b"***"
_WORD: Final = rb"(?:pass|pwd|secret|credential|token|private)"
#: Keys of fsconfig(2) may have any bytes (``legacy_parse_param`` of fs/fs_context.c puts an "=" behind them).
_IS_ONE: Final = re.compile(_WORD, re.IGNORECASE).search
#: CIFS has two separators for one in a value (``smb3_fs_context_parse_monolithic`` of fs/smb/client/fs_context.c).
_FORM: Final = (
    rb"(?<![^%(sep)b])([^=%(sep)b]*" + _WORD + rb"[^=%(sep)b]*)=(?:%(sep)b%(sep)b|[^%(sep)b])*"
)
_AMONG: Final = re.compile(_FORM % {b"sep": b","}, re.IGNORECASE)
#: There options may say first what stands between them.
_OTHERWISE: Final = re.compile(rb"sep=([^,=\0])", re.DOTALL).match
#: RFC 3986, 3.2.1; the kernel's own paths have one slash where a source has two.
_USER: Final = re.compile(rb"(//[^/:@]*:)[^/]*@")
_USER_OF_SOURCE: Final = re.compile(rb"(?<![^/])([^/:@]*:)[^/]*@")


def is_one(name: bytes) -> bool:
    """Whether an option of this name is a credential."""
    return _IS_ONE(name) is not None


def hidden(text: bytes) -> bytes:
    """Options as mount(2) takes them, ``name=value`` between commas, or one word of a command line, without the values of
    credentials and without the password of ``//user:password@host``."""
    other = _OTHERWISE(text)
    if other is not None:
        form = _FORM % {b"sep": re.escape(other[1])}
        text = re.sub(form, rb"\1=" + HIDDEN, text, flags=re.IGNORECASE)
    return _USER.sub(rb"\1" + HIDDEN + b"@", _AMONG.sub(rb"\1=" + HIDDEN, text))


def source(text: bytes) -> bytes:
    """What is mounted, as :func:`hidden` has words."""
    return _USER_OF_SOURCE.sub(rb"\1" + HIDDEN + b"@", text)


def of(call: str, argument: str, value: Any) -> Any:
    """What is shown of an argument: of strings (argv) and of what a mount is told, without credentials; all else as it is.

    :param value: as it was decoded."""
    if type(value) is tuple and all(type(each) is bytes for each in value):
        return tuple(map(hidden, value))
    which = {"mount": ("source",), "fsconfig": ("key", "value")}.get(call, ())
    return source(hidden(value)) if argument in which and isinstance(value, bytes) else value


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
