"""Mounts of which a policy says everything but the place: file systems without a device, such as NFS and 9p."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proctor.records import NamedTuple

_NETWORKS: Final = ("host", "container")
_WORDS: Final = ("type", "options", "network")
#: Types for whose options two commas are one in a value, which is all that these can say of a password that has one.
_DOUBLED: Final = ("cifs", "smb3")


class Remote(NamedTuple):
    """What is mounted under the name that a caller gives as source."""

    kind: str
    #: (name, value); no value for those that are flags.
    options: tuple[tuple[bytes, bytes | None], ...]
    #: Whether its connections are made in the caller's network namespace.
    inside: bool


def read(given: Mapping[str, Mapping[str, str]]) -> dict[bytes, Remote]:
    """By source, as ``{"media:/films": {"type": "nfs4", "options": "vers=4.2,addr=192.0.2.7"}}``.

    :raises ValueError: it is no such thing; a sentence."""
    if not isinstance(given, Mapping):
        raise ValueError('remote is { "SOURCE" = { type = "nfs4", options = "..." } }')
    return {source.encode(): _read(source, each) for source, each in given.items()}


def _read(source: str, given: Any) -> Remote:
    if not isinstance(given, Mapping) or not all(isinstance(each, str) for each in given.values()):
        raise ValueError(f"remote {source!r} is a table of {', '.join(_WORDS)}, each a text")
    unknown = next((each for each in given if each not in _WORDS), "")
    if unknown:
        raise ValueError(f"remote {source!r} has {unknown!r}; it may have {', '.join(_WORDS)}")
    network = given.get("network", "host")
    if not given.get("type") or not source or network not in _NETWORKS:
        raise ValueError(
            f"remote {source!r} wants a type, and as network (if it is said) "
            f"{' or '.join(map(repr, _NETWORKS))}"
        )
    options: list[tuple[bytes, bytes | None]] = []
    text = given.get("options", "")
    if given["type"] in _DOUBLED:
        text = text.replace(",,", "\0")
    for word in filter(None, text.split(",")):
        key, equals, value = word.replace("\0", ",").partition("=")
        options.append((key.encode(), value.encode() if equals else None))
    return Remote(given["type"], tuple(options), network == "container")
