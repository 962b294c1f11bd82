"""What identity files in /proc say, as values: parsing only, nothing is opened here."""

from __future__ import annotations

from typing import Final, NamedTuple

#: Capability numbers by name (linux/capability.h).
CAPABILITIES: Final = {
    name: number
    for number, name in enumerate(
        """CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID
        CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST
        CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO
        CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE
        CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE
        CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM
        CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE""".split()  # noqa: SIM905
    )
}


class Ids(NamedTuple):
    """The four user or group ids of a thread, in *our* user namespace; those that have no number
    here read as the overflow id (65534)."""

    real: int
    effective: int
    saved: int
    fs: int


class Capabilities(NamedTuple):
    """Capability sets as bit masks, relative to the thread's own user namespace."""

    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int

    def has(self, capability: int | str) -> bool:
        """Whether a capability (number, or name as in ``"CAP_MKNOD"``) is in the effective set.

        :raises KeyError: no capability has that name."""
        number = capability if isinstance(capability, int) else CAPABILITIES[capability]
        return bool(self.effective >> number & 1)


def parse_status(data: bytes) -> dict[str, str]:
    """The lines of a status file.  The first line with a key counts, and lines without one do not."""
    found: dict[str, str] = {}
    for line in data.split(b"\n"):
        key, colon, rest = line.partition(b":")
        if colon and key.replace(b"_", b"").isalnum():
            found.setdefault(
                key.decode("ascii"), rest.strip(b"\t ").decode("utf-8", "surrogateescape")
            )
    return found


def parse_arguments(data: bytes) -> tuple[bytes, ...]:
    """The strings of a cmdline file, each ended by NUL."""
    return tuple(data.removesuffix(b"\0").split(b"\0")) if data else ()


def parse_cgroups(data: bytes) -> dict[str, bytes]:
    """``0::/path`` and ``4:cpu,cpuacct:/path`` lines; names are escaped by the kernel."""
    found: dict[str, bytes] = {}
    for line in data.split(b"\n"):
        parts = line.split(b":", 2)
        if len(parts) == 3:
            found.setdefault(parts[1].decode("utf-8", "surrogateescape"), parts[2])
    return found
