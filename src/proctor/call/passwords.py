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
#: What has a value among options, where one ends there, and what has one anywhere in a word.  All that is searched with is linear in
#: a caller's text, which may be long: nothing that one of these takes can begin another one, or be taken back.
_NAMED: Final = rb"(?<![^%(sep)b])([^=%(sep)b]*)="
#: CIFS has two separators for one in a value (``smb3_fs_context_parse_monolithic`` of fs/smb/client/fs_context.c).
_VALUE: Final = rb"(?:%(sep)b%(sep)b|[^%(sep)b])*+"
_AMONG: Final = re.compile(_NAMED % {b"sep": b","}), re.compile(_VALUE % {b"sep": b","})
_IN_A_WORD: Final = re.compile(rb"(?<![^\s=,;&?'\"])([^\s=,;&?'\"]*)=")
#: There options may say first what stands between them.
_OTHERWISE: Final = re.compile(rb"sep=([^,=\0])", re.DOTALL).match
#: RFC 3986, 3.2.1; the kernel's own paths have one slash where a source has two.
_USER: Final = re.compile(rb"(//[^/:@]*:)[^/]*@")
_USER_OF_SOURCE: Final = re.compile(rb"(?<![^/])([^/:@]*:)[^/]*@")


def is_one(name: bytes) -> bool:
    """Whether an option of this name is a credential."""
    return _IS_ONE(name) is not None


def hidden(text: bytes) -> bytes:
    """Options as mount(2) takes them, ``name=value`` between commas, without the values of credentials and without the
    password of ``//user:password@host``."""
    other = _OTHERWISE(text)
    if other is not None:
        sep = {b"sep": re.escape(other[1])}
        text = _among(text, re.compile(_NAMED % sep), re.compile(_VALUE % sep))
    return _USER.sub(rb"\1" + HIDDEN + b"@", _among(text, *_AMONG))


def word(text: bytes, goes_on: bool = False) -> bytes:
    """The same of one word of a command line, which may be a line of its own, or have an option's value in its option.
    Where a credential is not one of several options, all behind it may be its value.

    :param goes_on: there is more of it, which is not looked at."""
    if goes_on:
        return word(text + b"@").removesuffix(b"@")
    for found in _IN_A_WORD.finditer(text):
        if is_one(found[1]) and text[found.start() - 1 : found.start()] != b",":
            text = text[: found.end()] + HIDDEN
            break
    return hidden(text)


def _among(text: bytes, named: re.Pattern[bytes], value: re.Pattern[bytes]) -> bytes:
    parts: list[bytes] = []
    at = 0
    for found in named.finditer(text):
        if found.start() >= at and is_one(found[1]):
            parts += text[at : found.end()], HIDDEN
            ends = value.match(text, found.end())
            at = len(text) if ends is None else ends.end()
    return b"".join((*parts, text[at:]))


def source(text: bytes) -> bytes:
    """What is mounted, as :func:`hidden` has words."""
    return _USER_OF_SOURCE.sub(rb"\1" + HIDDEN + b"@", text)


def of(call: str, argument: str, value: Any) -> Any:
    """What is shown of an argument: of strings (argv) and of what a mount is told, without credentials; all else as it is.

    :param value: as it was decoded."""
    if type(value) is tuple and all(type(each) is bytes for each in value):
        return tuple(map(word, value))
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
