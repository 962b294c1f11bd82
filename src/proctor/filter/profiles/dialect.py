"""The profile dialect of Docker (moby/profiles) and Podman (containers/common), expanded.

On top of OCI such files have, and this resolves for one machine and one container:

* ``archMap``: the native architecture to the list of architectures;
* ``includes`` and ``excludes`` of an entry, each with ``caps``, ``arches`` (Go's names: amd64)
  and ``minKernel``.  All that ``includes`` names must be so, nothing of what ``excludes`` names
  may be.  Capabilities are those of the container's bounding set.
* ``name`` for ``names`` with one element (old files).

Errno names (``errno``, ``defaultErrno``) are read in :mod:`proctor.filter.profiles.oci`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from proctor.errors import FilterError
from proctor.syscalls.architectures import ARCHITECTURES


def expand(
    data: Mapping[str, Any], native: str, caps: frozenset[str], kernel: str | None
) -> tuple[list[str], list[tuple[int, Mapping[str, Any]]]]:
    """Architectures and the entries that apply, each with its index in the file.

    :param native: the machine, by our name.
    :param caps: the container's bounding capabilities.
    :param kernel: the kernel's release; None is this one's.
    :raises FilterError: a key with a wrong shape.
    """
    calls = [] if data.get("syscalls") is None else data["syscalls"]
    if not isinstance(calls, list):
        raise FilterError("syscalls: a list is needed")
    entries: list[tuple[int, Mapping[str, Any]]] = []
    for index, written in enumerate(calls):
        where = f"syscalls[{index}]"
        if not isinstance(written, Mapping):
            raise FilterError(f"{where}: an object is needed")
        call = written
        if written.get("name"):
            if written.get("names"):
                raise FilterError(f"{where}: either name or names, not both")
            call = {**written, "names": [written["name"]]}
        excluded = _met(call, "excludes", where, native, caps, kernel)
        included = _met(call, "includes", where, native, caps, kernel)
        if not any(excluded) and all(included):
            entries.append((index, call))
    return _architectures(data, native), entries


def _architectures(data: Mapping[str, Any], native: str) -> list[str]:
    listed = _strings(data, "architectures", "")
    mapped = [] if data.get("archMap") is None else data["archMap"]
    if not isinstance(mapped, list) or not all(isinstance(entry, Mapping) for entry in mapped):
        raise FilterError("archMap: a list of objects is needed")
    if listed and mapped:
        raise FilterError("either architectures or archMap, not both")
    ours = f"SCMP_ARCH_{ARCHITECTURES[native].scmp}"
    for index, entry in enumerate(mapped):
        where = f"archMap[{index}]"
        below = _strings(entry, "subArchitectures", where)
        if entry.get("architecture") == ours:
            return [ours, *below]
    return listed


def _met(
    call: Mapping[str, Any],
    key: str,
    where: str,
    native: str,
    caps: frozenset[str],
    kernel: str | None,
) -> list[bool]:
    """Which of the things a condition asks for are so: one truth for each."""
    asked = {} if call.get(key) is None else call[key]
    where = f"{where}.{key}"
    if not isinstance(asked, Mapping):
        raise FilterError(f"{where}: an object is needed")
    truths = [cap in caps for cap in _strings(asked, "caps", where)]
    arches = _strings(asked, "arches", where)
    if arches:
        truths.append(ARCHITECTURES[native].go in arches)
    minimum = asked.get("minKernel")
    if minimum:
        release = os.uname().release if kernel is None else kernel
        truths.append(
            _version(release, "the kernel's release") >= _version(minimum, f"{where}.minKernel")
        )
    return truths


def _version(text: object, where: str) -> tuple[int, int]:
    """The first two numbers of a release: all that profiles compare."""
    if isinstance(text, str):
        major, _, rest = text.partition(".")
        minor = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        if major.isascii() and major.isdigit() and minor and len(major) + len(minor) < 20:
            return int(major), int(minor)
    raise FilterError(f"{where}: a version such as 5.19 is needed, not {text!r}")


def _strings(holder: Mapping[str, Any], key: str, where: str) -> list[str]:
    words = [] if holder.get(key) is None else holder[key]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise FilterError(f"{where}{'.' if where else ''}{key}: a list of strings is needed")
    return words
