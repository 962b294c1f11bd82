"""Taking on a caller's identity: runs in a fresh performer, once.

Order matters.  With rights over the host (the usual monitor: root) everything is set by the numbers
the *host* has for it, and the user namespace is entered last: ids and groups without a mapping there
come out right too, and entering gives the full capability set from which the caller's is cut.
Without rights over the host, the user namespace comes first, since it is what gives us rights.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import Any, Final

from proctor.emulate import raw

#: Namespaces that change what a path or a device means, in the order they are entered.
#: net and ipc decide what /proc/sys and /dev/net/tun are; user is special.
NAMESPACES: Final = ("mnt", "net", "ipc", "uts")

_HOST_RIGHTS: Final = (
    1 << raw.CAP_SETUID | 1 << raw.CAP_SETGID | 1 << raw.CAP_SYS_ADMIN | 1 << raw.CAP_SYS_CHROOT
)

#: Supplementary groups; real, effective and saved group ids; the same of user ids.
_Ids = tuple[list[int], list[int], list[int]]
_Map = Callable[[int], int]


class Trouble(Exception):
    """The performer cannot do its work; the text is one clause that says why."""


def _step(what: str, error: OSError) -> Trouble:
    return Trouble(f"{what}: {error.strerror or error}")


def become(spec: dict[str, Any], fds: dict[str, int]) -> None:
    """Become the caller that ``spec`` describes (:meth:`proctor.emulate.identity.Identity.spec`).

    ``fds`` are the namespaces to enter by name, and ``root``; they stay open.
    :raises Trouble: if any part cannot be had; the process is then of no use.
    """
    label = label_file(spec["label"])
    have = (os.getgroups(), list(os.getresgid()), list(os.getresuid()))
    effective = raw.capget()[0]
    host = effective & _HOST_RIGHTS == _HOST_RIGHTS
    try:
        if host:
            raw.keep_capabilities()
            _enter(fds)
            _ids(spec, have, _same, _same)
            if "user" in fds:
                raw.setns(fds["user"])
        elif "user" in fds:
            _enter_from_below(fds)
            raw.keep_capabilities()
            _ids(spec, have, _mapper(spec["uid_map"], "user"), _mapper(spec["gid_map"], "group"))
        else:
            _enter(fds)
            _ids(spec, have, _same, _same)
        take_label(label, spec["label"])
        permitted = spec["permitted"] & raw.capget()[1]
        raw.capset(spec["effective"] & permitted, permitted)
    except OSError as error:
        raise _step(str(error.filename or "taking on the caller's identity"), error) from None


def _enter(fds: dict[str, int]) -> None:
    for name in NAMESPACES:
        if name in fds:
            _setns(name, fds[name])
    if "root" in fds:
        _chroot(fds["root"])


def _setns(name: str, fd: int) -> None:
    try:
        raw.setns(fd)
    except OSError as error:
        raise _step(f"entering the caller's {name} namespace", error) from None


def _chroot(root: int) -> None:
    try:
        os.fchdir(root)
        os.chroot(b".")
    except OSError as error:
        raise _step("taking the caller's root directory", error) from None


def _enter_from_below(fds: dict[str, int]) -> None:
    """Without rights over the host: the user namespace that owns a thing is entered before it, so
    what an outer one owns (the caller may sit in a nested one) comes before the caller's own."""
    target = os.fstat(fds["user"]).st_ino
    left = {name: fds[name] for name in NAMESPACES if name in fds}
    entered = 0
    for name in list(left):
        owner = fcntl.ioctl(left[name], raw.NS_GET_USERNS)
        try:
            inode = os.fstat(owner).st_ino
            if inode == target:
                continue
            if inode != entered:
                _setns("user", owner)
                entered = inode
            _setns(name, left.pop(name))
        finally:
            os.close(owner)
    if "root" in fds and "mnt" not in left and entered:
        _chroot(fds["root"])
    _setns("user", fds["user"])
    for name, fd in left.items():
        _setns(name, fd)
    if "root" in fds and ("mnt" in left or not entered):
        _chroot(fds["root"])


def _ids(spec: dict[str, Any], have: _Ids, uid: _Map, gid: _Map) -> None:
    """Take the ids on; what is there already is left alone, since it may have no number inside."""
    try:
        what = "supplementary groups"
        if sorted(have[0]) != sorted(spec["groups"]):
            os.setgroups([gid(one) for one in spec["groups"]])
        what = "group ids"
        *gids, fsgid = spec["gids"]
        if gids != have[1]:
            os.setresgid(*map(gid, gids))
        if fsgid != gids[1]:
            raw.setfsgid(gid(fsgid))
        what = "user ids"
        *uids, fsuid = spec["uids"]
        if uids != have[2]:
            os.setresuid(*map(uid, uids))
        if fsuid != uids[1]:
            raw.setfsuid(uid(fsuid))
    except OSError as error:
        raise _step(f"taking the caller's {what}", error) from None


def _same(number: int) -> int:
    return number


def _mapper(ranges: list[tuple[int, int, int]], what: str) -> _Map:
    def inside(outside: int) -> int:
        for first, host, count in ranges:
            if host <= outside < host + count:
                return first + outside - host
        raise Trouble(f"{what} id {outside} of the caller has no number in its user namespace")

    return inside


def label_file(label: bytes | None) -> int | None:
    """Where this process's LSM label is changed; opened while /proc is still the host's."""
    if label is None:
        return None
    for path in (b"/proc/self/attr/apparmor/current", b"/proc/self/attr/current"):
        try:
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _step("opening the LSM label", error) from None
    raise Trouble("this kernel shows a label but has no way to take it on")


def take_label(fd: int | None, label: bytes | None) -> None:
    """Take the label on; ``fd`` comes from :func:`label_file`."""
    if fd is None or label is None:
        return
    try:
        os.write(fd, label)
    except OSError as error:
        raise _step("taking on the caller's LSM label", error) from None
    finally:
        os.close(fd)
