"""What rules mean together: refused where it would surprise, warned about where it might.

* A rule that can never match, because earlier ones take all of it, is refused.
* A rule that lets the kernel run a call after the caller's memory was looked at is refused unless
  it says ``unsafe``: the kernel reads the memory again, and a thread of the target can have changed
  it in between (C110).  The same holds for what *falls through* a rule on memory to a later rule,
  or to the default, that lets it run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from proctor.filter.conditions import Alternative, both, covers
from proctor.policy.rules import DENY, KILL, PERFORM, Clause, Rule

if TYPE_CHECKING:
    from proctor.policy.policy import Settings
    from proctor.policy.source import Source

_Chain = list[tuple[Rule, Clause]]


def check(rules: Sequence[Rule], settings: Settings, source: Source) -> tuple[str, ...]:
    """Refuse what cannot be meant; the sentences about what may not be meant are returned.

    :raises PolicyError: see the head of this module.
    """
    chains: dict[tuple[str, str], _Chain] = {}
    for rule in rules:
        for key, clause in rule.clauses.items():
            chains.setdefault(key, []).append((rule, clause))
    _refuse_unreachable(rules, chains, source)
    for (_, call), chain in chains.items():
        for position in range(len(chain)):
            _refuse_race(call, chain, position, settings, source)
    return (*_siblings(rules, settings), *_io_uring(rules, settings), *_needless_unsafe(chains))


# Rules that never match ---------------------------------------------------------------------------


def _takes(chain: _Chain, upto: int, tests: Alternative) -> Rule | None:
    """The rule before ``upto`` that takes every call for which ``tests`` hold, without a look at
    anything but registers."""
    for rule, clause in chain[:upto]:
        if not clause.further and covers(clause.registers, tests):
            return rule
    return None


def _refuse_unreachable(
    rules: Sequence[Rule], chains: dict[tuple[str, str], _Chain], source: Source
) -> None:
    for rule in rules:
        if rule.implied:
            continue
        takers: dict[str, None] = {}
        for key, clause in rule.clauses.items():
            chain = chains[key]
            at = next(i for i, (each, _) in enumerate(chain) if each is rule)
            for tests in clause.registers:
                taker = _takes(chain, at, tests)
                if taker is None:
                    break
                takers[f'rule[{taker.position}] "{taker.name}"'] = None
            else:
                continue
            break
        else:
            raise source.error(
                f'"{rule.name}" can never match: {" and ".join(takers)} before it '
                f"{'take' if len(takers) > 1 else 'takes'} every such call; move it up, or remove it",
                ("rule", rule.position),
            )


# Races ---------------------------------------------------------------------------------------------


def _refuse_race(
    call: str, chain: _Chain, position: int, settings: Settings, source: Source
) -> None:
    rule, clause = chain[position]
    if not clause.reads_memory:
        return
    looked_at = ", ".join(
        dict.fromkeys(each.argument for each in clause.further if each.reads_memory)
    )
    reachable = [t for t in clause.registers if _takes(chain, position, t) is None]
    if reachable and rule.ruling.runs and not rule.ruling.unsafe:
        raise source.error(
            f'"{rule.name}" would let {call} run after looking at {looked_at}, which the kernel then '
            f"reads again: a thread of the target can change it in between. {_ways_out(call)}",
            ("rule", rule.position, rule.ruling.kind),
        )
    for tests in reachable:
        for later, other in chain[position + 1 :]:
            if not both((tests,), other.registers):
                continue
            if later.ruling.runs and not later.ruling.unsafe:
                raise source.error(
                    f'"{later.name}" would let {call} run after "{rule.name}" (rule[{rule.position}]) '
                    f"looked at {looked_at}, which the kernel then reads again: a thread of the target can "
                    f"change it in between. {_ways_out(call)}",
                    ("rule", later.position, later.ruling.kind),
                )
            if not other.further and covers(other.registers, tests):
                break
        else:
            if settings.default.runs:
                raise source.error(
                    f'"{rule.name}" looks at {looked_at}, and what it does not take of {call} would run by '
                    f'default = "{settings.default.kind}", although the kernel reads that memory again and a '
                    "thread of the target can change it in between: such a rule is no boundary. "
                    f"Add a last rule for {call}. {_ways_out(call)}",
                    ("rule", rule.position),
                )


def _ways_out(call: str) -> str:
    from proctor.emulate.supported import SUPPORTED

    ways = ['deny = "EPERM"']
    if call in SUPPORTED:
        ways.insert(0, "perform = true (the monitor does it, on what it checked)")
    ways.append('allow = "unsafe: why this race is acceptable"')
    return f"Safe is {' or '.join(ways[:-1])}; otherwise say {ways[-1]}"


# Warnings ------------------------------------------------------------------------------------------

#: Calls that do the same by another name: who restricts one and leaves the others is walked around.
FAMILIES: Final = (
    ("open", "openat", "openat2", "creat", "open_by_handle_at"),
    ("mknod", "mknodat"),
    ("mkdir", "mkdirat"),
    ("rename", "renameat", "renameat2"),
    ("link", "linkat"),
    ("symlink", "symlinkat"),
    ("unlink", "unlinkat", "rmdir"),
    ("chmod", "fchmodat", "fchmodat2"),
    ("chown", "lchown", "fchownat"),
    ("execve", "execveat"),
    ("truncate", "open", "openat"),
    ("mount", "fsmount", "move_mount", "open_tree"),
    ("connect", "sendto", "sendmsg", "sendmmsg"),
    ("fork", "vfork", "clone", "clone3"),
    ("ptrace", "process_vm_writev"),
    ("init_module", "finit_module"),
    ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "pidfd_send_signal"),
)
#: What io_uring does without making the call.
_RING: Final = frozenset((
    "open", "openat", "openat2", "connect", "accept", "accept4", "socket", "bind", "listen",
    "sendto", "sendmsg", "recvfrom", "recvmsg", "mkdir", "mkdirat", "rename", "renameat",
    "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "statx",
    "setxattr", "getxattr", "ftruncate", "read", "write",
))  # fmt: skip


def _refused_calls(rules: Sequence[Rule]) -> dict[str, Rule]:
    """Calls that some rule refuses or performs, by the first such rule."""
    found: dict[str, Rule] = {}
    for rule in rules:
        if rule.ruling.kind in (DENY, KILL):
            for _, call in rule.clauses:
                found.setdefault(call, rule)
    return found


def _siblings(rules: Sequence[Rule], settings: Settings) -> list[str]:
    from proctor.syscalls import tables

    if not settings.default.runs:
        return []
    refused = _refused_calls(rules)
    named = {call for rule in rules for _, call in rule.clauses}
    out = []
    for family in FAMILIES:
        first = next((call for call in family if call in refused), None)
        if first is None or (first != family[0] and family[0] not in named):
            continue
        free = [
            call
            for call in family
            if call not in named and any(call in tables.numbers(arch) for arch in settings.arches)
        ]
        if free:
            out.append(
                f'rule "{refused[first].name}" refuses {first}, but no rule is about {", ".join(free)}, '
                "with which a program does the same"
            )
    return out


def _io_uring(rules: Sequence[Rule], settings: Settings) -> list[str]:
    if not settings.default.runs or any(c == "io_uring_setup" for r in rules for _, c in r.clauses):
        return []
    ringed = sorted(
        {c for r in rules if r.ruling.kind in (DENY, KILL, PERFORM) for _, c in r.clauses} & _RING
    )
    if not ringed or not any(rule.ruling.kind in (DENY, KILL) for rule in rules):
        return []
    return [
        f"io_uring does {', '.join(ringed[:3])} without making the call, so no rule sees it; "
        'add a rule with calls = ["io_uring_setup"] and deny = "ENOSYS"'
    ]


def _needless_unsafe(chains: dict[tuple[str, str], _Chain]) -> list[str]:
    needed: dict[str, bool] = {}
    for chain in chains.values():
        looked = False
        for rule, clause in chain:
            looked = looked or clause.reads_memory
            if rule.ruling.unsafe:
                needed[rule.name] = needed.get(rule.name, False) or looked
    return [
        f'rule "{name}" says unsafe, but no rule before it looks at memory: allow = true is enough'
        for name, is_needed in needed.items()
        if not is_needed
    ]
