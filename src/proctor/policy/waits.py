"""Which calls of a policy wait, and for how long: who decides them, and their deadlines.

What may take long is decided on a worker, never on the receiving thread, where it would hold up every
other caller.  Three things may: performing; resolving a path (network and FUSE file systems); and any
look at a target's memory, which a target can back with what answers late or never (userfaultfd, a
file on a FUSE file system of its own).  No way of reading somebody else's memory avoids that:
process_vm_readv(2), /proc/PID/mem and ptrace(2) all bring missing pages in, interruptible by nothing
but the reader's death, and to ask first whether a page is there (pagemap, move_pages(2)) is a race
with the thread that drops it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proctor.policy.rules import DENY, KILL

if TYPE_CHECKING:
    from proctor.policy.policy import Policy

#: Arguments that an explanation shows with what they point to.
_SHOWN: Final = frozenset(("path", "string", "sockaddr"))


def is_slow(policy: Policy, name: str, *, performs: bool, reported: bool) -> bool:
    """Whether deciding a call may wait.

    :param performs: whether the handler itself performs (else the supervisor does, on a worker).
    :param reported: whether somebody is told of decisions, with the call's arguments.
    """
    if performs and policy.performs(name):
        return True
    for arch in policy.settings.arches:
        chain = policy.chain(arch, name)
        if any(clause.reads_memory for _, clause in chain):
            return True
        rulings = [policy.settings.default, *(rule.ruling for rule, _ in chain)]
        explained = reported or any(ruling.kind in (DENY, KILL) for ruling in rulings)
        if chain and explained and _shows_memory(name, arch):
            return True
    return False


def _shows_memory(name: str, arch: str) -> bool:
    from proctor.syscalls.signatures import signature

    try:
        described = signature(name, arch)
    except ValueError:
        return False
    return described is not None and any(arg.role in _SHOWN for arg in described.args)


def deadline_of(policy: Policy, name: str) -> float | None:
    """The seconds that the rules about a call give it; None: as the policy says at its top."""
    for arch in policy.settings.arches:
        for rule, _ in policy.chain(arch, name):
            if rule.deadline is not None:
                return rule.deadline
    return None
