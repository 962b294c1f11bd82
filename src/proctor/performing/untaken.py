"""What of a caller an executor cannot take on, and what follows.

Namespaces, root, ids, groups, capabilities, umask, cgroups and the label of a security module are
taken on (:mod:`proctor.performing.identities.identity`).  What is not is in this list, and docs/policy.md has it for people.  Where it
would hold a program that asks for it, and not what is performed for it, the calls by which it asks are
refused by every policy that performs and says nothing about them.
"""

from __future__ import annotations

import errno
from typing import Final

from proctor.records import NamedTuple


class Untaken(NamedTuple):
    """One such thing."""

    what: str
    #: What that means for what is performed.
    then: str
    #: Calls that bring it about, refused unless a rule is about them.
    calls: tuple[str, ...] = ()
    #: What they fail with: as on a kernel that does not have it.
    errno: int = 0


UNTAKEN: Final = (
    Untaken(
        "Landlock domains",
        "they cannot be joined, and nothing shows them: a program would be refused less than it asked for",
        ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
        errno.EOPNOTSUPP,
    ),
    Untaken(
        "seccomp filters of the caller's own",
        "what is performed is what the policy says, also where another filter would refuse it",
    ),
    Untaken(
        "the pid namespace",
        "procfs is walked so that it is the caller's all the same; kernel/pid_max, which is another one "
        "there, is only read, and shows the monitor's, as /proc/sysvipc shows its numbers of processes",
    ),
    Untaken(
        "the time namespace",
        "only sysinfo and the files that limits are shown in tell of the clocks since the boot, and have its offset",
    ),
    Untaken(
        "keyrings", "network file systems with keys for each user see the executor, which has none"
    ),
    Untaken(
        "resource limits",
        "RLIMIT_NOFILE is looked at before anything is done, RLIMIT_FSIZE where a file grows; a queue that open(2) makes in "
        "a mounted mqueue file system is held to the monitor's RLIMIT_MSGQUEUE",
    ),
    Untaken(
        "securebits",
        "nothing shows them: where `SECBIT_NO_SETUID_FIXUP` is set, `access` and its like go by the capabilities as they are, "
        "and performed by those that the real user id has",
    ),
    Untaken(
        "the controlling terminal",
        "/dev/tty is the one of the caller's descriptors 0-2 that is its terminal, else ENXIO",
    ),
    Untaken(
        "ptrace of itself",
        "a program that made itself undumpable gets at what the kernel lets it get at in its own /proc, but for `pagemap`; and "
        "on its own `fd`, `fdinfo` and what is in them `utimensat`, `truncate` and attributes of the name `user.*` are `EACCES`, "
        "which otherwise change nothing or are `ENOTSUP`",
    ),
    Untaken(
        "having opened a file",
        "the kernel remembers with a file whose rights it was opened with, which were an executor's or the monitor's: "
        "`linkat` with `AT_EMPTY_PATH` and an empty path is `ENOENT` for who has no CAP_DAC_READ_SEARCH (with another path it "
        "is what it is without the flag), and commands that are written to /dev/sg*, InfiniBand's uverbs and /dev/uhid are "
        "refused (`EPERM`, `EACCES`)",
    ),
    Untaken(
        "being the one who does it",
        "fanotify(7) and the audit log name the executor, or the monitor, as who opened or changed something",
    ),
    Untaken(
        "priorities",
        "nice values, io priorities, memory policies and oom scores are the executor's own while something is performed",
    ),
)
