"""What a rule means on architectures that make the same call in other ways.

* 32-bit architectures have ``chown32`` beside ``chown``, ``mmap2``, ``fcntl64``, ``…_time64``: a rule
  on the one name means the others too.
* i386, s390x and ppc64le programs may make ``connect`` as ``socketcall(3, …)``, with the arguments in
  memory where the filter cannot see them.  A rule without conditions covers that as well; for
  a rule with conditions such a call fails with ENOSYS, which is what libcs fall back from.

Both are ordinary clauses of ordinary rules afterwards: filter, handlers and explanations see them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final

from proctor.filter.conditions import Alternatives, either
from proctor.policy.registers import Register, bits_equal
from proctor.policy.rules import DENY, Clause, Rule, Ruling

_WORD32: Final = frozenset(("i386", "arm"))
_SUFFIXES: Final = ("32", "64", "_time64")
_VARIANTS: Final[dict[str, tuple[str, ...]]] = {
    "mmap": ("mmap2",),
    "newfstatat": ("fstatat64",),
    "lseek": ("_llseek",),
    "select": ("_newselect",),
    "umount2": ("umount",),
    "getrlimit": ("ugetrlimit",),
    "fadvise64": ("fadvise64_64",),
    "fcntl": ("fcntl64",),
    "arm_fadvise64_64": (),
}
#: Multiplexed calls that do what another name does: send(2) is sendto(2) without an address.
_SAME: Final[dict[str, tuple[str, ...]]] = {"sendto": ("send",), "recvfrom": ("recv",)}


def variants(call: str, arch: str) -> tuple[str, ...]:
    """Other names of the same call on a 32-bit architecture."""
    from proctor.syscalls import tables

    if arch not in _WORD32:
        return ()
    known = tables.numbers(arch)
    native = tables.numbers("x86_64")
    names = (*(call + suffix for suffix in _SUFFIXES), *_VARIANTS.get(call, ()))
    return tuple(name for name in names if name in known and name not in native)


def multiplexed(calls: Iterable[str], arch: str) -> dict[str, Alternatives]:
    """By ``socketcall`` and ``ipc``: which first arguments stand for one of ``calls``."""
    from proctor.syscalls import multiplex, tables

    if arch not in multiplex.ARCHES:
        return {}
    known = tables.numbers(arch)
    found: dict[str, list[Alternatives]] = {}
    for call in calls:
        for name in (call, *_SAME.get(call, ())):
            through, number = multiplex.MEMBERS.get(name, ("", 0))
            if through in known:
                test = bits_equal(Register(0), multiplex.MASKS[through], number)
                found.setdefault(through, []).append(test)
    return {through: either(tests) for through, tests in found.items()}


def with_multiplexed(rule: Rule, calls: Iterable[str], arches: Iterable[str]) -> list[Rule]:
    """The rule, and the one it implies for multiplexed calls if it has conditions."""
    calls = list(calls)
    clauses = {
        (arch, through): Clause(tests)
        for arch in arches
        for through, tests in multiplexed(calls, arch).items()
        if (arch, through) not in rule.clauses
    }
    if not clauses:
        return [rule]
    if not rule.when and rule.ruling.kind != "perform":
        return [rule._replace(clauses={**rule.clauses, **clauses})]
    return [rule, rule._replace(clauses=clauses, ruling=Ruling(DENY, errno.ENOSYS), implied=True)]
