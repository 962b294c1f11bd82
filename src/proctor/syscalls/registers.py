"""Arguments by name: which register, and how much of it the kernel uses."""

from __future__ import annotations

from proctor.errors import FilterError
from proctor.words import did_you_mean, quoted

_found: dict[tuple[str, str, str], tuple[int, int]] = {}


def locate(arg: str, call: str | None, arch: str) -> tuple[int, int]:
    """(register, bits) of argument ``arg`` of ``call``.

    :raises FilterError: the call has no such argument, or its arguments are not known.
    """
    if call is None:
        raise FilterError(f"argument {arg!r} of a raw number: give its index, 0 to 5")
    key = (arg, call, arch)
    found = _found.get(key)
    if found is None:
        found = _found[key] = _locate(arg, call, arch)
    return found


def _locate(arg: str, call: str, arch: str) -> tuple[int, int]:
    from proctor.syscalls.signatures import signature

    known = signature(call, arch)
    if known is None:
        raise FilterError(f"the arguments of {call} on {arch} are not known: give an index, 0 to 5")
    for candidate in known.args:
        if candidate.name == arg:
            if candidate.reg_high >= 0:
                raise FilterError(
                    f"{call} takes {arg!r} in two registers on {arch}: give their indexes, or "
                    "keep the rule to the 64-bit ABI with arches="
                )
            return candidate.reg, candidate.mask.bit_length()
    names = [candidate.name for candidate in known.args]
    has = f"it has {', '.join(names)}" if names else "it has none"
    raise FilterError(f"{call} has no argument {quoted(arg)}: {has}{did_you_mean(arg, names)}")
