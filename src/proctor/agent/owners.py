"""Whether a process is a user's, and whose user namespace it is in: what a runtime claims is looked at
before it is served."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from proctor.agent.sockets import Peer, peer_of
from proctor.call.caller import Caller
from proctor.errors import CallError, CallGone, ProctorError
from proctor.kernel import scm
from proctor.kernel.pidfd import has_ended, number_of
from proctor.kernel.thread import ProcFiles
from proctor.process.standing import lineage
from proctor.records import NamedTuple

#: include/uapi/linux/nsfs.h; Linux 4.9 and 4.11.
_NS_GET_USERNS: Final = 0xB701
_NS_GET_PARENT: Final = 0xB702
_NS_GET_OWNER_UID: Final = 0xB704


class Named(NamedTuple):
    """A process of a container, by its number."""

    #: In our pid namespace; 0 if nobody knows, or it was waited for.
    pid: int
    #: Of that process, the caller's; -1 where it is by its number that somebody else knows it.
    pidfd: int = -1
    #: Whether a user namespace that it is in was given to it, also where it has no pid namespace of its own.
    own: bool = False

    @classmethod
    def by_pidfd(cls, pidfd: int) -> Named:
        """Whose it is; -1 for nobody's."""
        return cls(max(number_of(pidfd), 0) if pidfd >= 0 else 0, pidfd)

    @classmethod
    @contextmanager
    def said(cls, pid: int, sock: socket.socket, container: str) -> Iterator[Named]:
        """The one of which whoever connected said the number, pinned.  The number may be another's by now, or is one of another
        pid namespace: where he is trusted it is nobody's unless the process comes of him, and both are there, or it is in a
        control group of the container's name.  Of others :func:`owner_userns` sees whether it is theirs.

        :param container: its id."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # it is gone, or a thread's
            yield cls(0)
            return
        try:  # that the number was its own all the while is looked at last: owner_userns()
            known = (
                not is_trusted(peer_of(sock).uid)
                or _comes_of(pid, sock)
                or _is_grouped(pid, container)
            )
            yield cls(pid, pidfd) if known else cls(0)
        finally:
            os.close(pidfd)


def _comes_of(pid: int, sock: socket.socket) -> bool:
    """Whether a process is the peer of a connection, or a descendant of that."""
    try:
        peer = scm.peer(sock)
    except OSError:
        return False
    try:
        number, line = number_of(peer), lineage(pid)
        return line is not None and number in [each.tgid for each in line] and not has_ended(peer)
    finally:
        os.close(peer)


def _is_grouped(pid: int, container: str) -> bool:
    """Whether a process is in a control group that has a container's name: alone, or as runtimes write it
    (``docker-NAME.scope``, ``lxc.payload.NAME``)."""
    try:
        with open(
            f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape", newline="\n"
        ) as file:
            parts = {
                part.removesuffix(".scope")
                for line in file
                for part in line.rstrip("\n").split("/")[1:]
            }
    except OSError:
        return False
    ends = tuple(f"{before}{container}" for before in "-.:")
    return any(part == container or part.endswith(ends) for part in parts)


def is_trusted(uid: int) -> bool:
    """Whether what a runtime of that user says of its containers is believed: root's, and our own."""
    return uid == 0 or uid == os.geteuid()


def owner_userns(named: Named, uid: int) -> tuple[int, ...]:
    """Inode numbers of user namespaces in which rights were given by the container's owner: that of
    its process, if ``uid`` made it in our own.

    Of a container of root's, or of our own user, that has no user namespace it is ours: one that it makes
    itself is made by root, too, and rights come for free there.  It may have made one already: so what counts is
    where its pid namespace was made, which no process changes for itself; that of a process in our pid namespace
    counts where the runtime says that it gave it one (``named.own``), and then the outermost below ours.  Of one that
    is gone already, or that nobody names, only ours counts: crun has a process of its own send what an exec needs,
    which ends at once.

    :raises ProctorError: the process is not that user's.
    """
    trusted = is_trusted(uid)
    mine = os.stat("/proc/self/ns/user").st_ino
    gone = (mine,) if trusted else ()
    if named.pid <= 0:
        return gone
    try:
        os.kill(named.pid, 0)
    except ProcessLookupError:
        return gone
    except PermissionError:
        pass  # it is there
    try:
        with Caller(named.pid, None, 0) as process:
            found = _owner(process, mine, uid, own=named.own)
    except CallGone:
        return gone
    except (CallError, OSError) as problem:
        if trusted:
            return gone
        raise ProctorError(f"process {named.pid} cannot be looked at: {problem}") from None
    # the number was its own all the while if it still is
    if named.pidfd >= 0 and has_ended(named.pidfd):
        return gone
    if found is None:
        raise ProctorError(f"process {named.pid} is not one of user {uid}")
    return found


def _owner(process: Caller, mine: int, uid: int, *, own: bool) -> tuple[int, ...] | None:
    trusted = is_trusted(uid)
    if trusted and (made_in := _pid_namespaces(process)) is not None:
        return (made_in,)
    if process.userns == mine:
        return (mine,) if trusted else () if process.uids.real == uid else None
    outermost = _below_ours(process.namespace_fd("user"), mine)
    if outermost is not None and outermost[1] == uid and (own or not trusted):
        return (outermost[0],)
    return (mine,) if trusted else None  # root's runtimes may make a container of any process


def _pid_namespaces(process: Caller) -> int | None:
    """Inode number of the user namespace in which a process's pid namespace was made; None if that is ours."""
    if process.namespace("pid") == os.stat("/proc/self/ns/pid").st_ino:
        return None
    owner = fcntl.ioctl(process.namespace_fd("pid"), _NS_GET_USERNS)
    try:
        return os.fstat(owner).st_ino
    finally:
        os.close(owner)


class Claimed:
    """A thread of which somebody other than the kernel says that it is calling, pinned: whoever answers for
    it must know that it is one of that user's, and stays one.

    Its rights are the user's if it is in a user namespace that he made, or in one within that, with ids that
    have a number there; or if it has his ids, no capability, and no_new_privs.  None of that can be lost for
    more.  (A thread that waits in a system call could not be another's either, but that it waits is his
    word.)

    :raises ProctorError: it is not the user's, or there is no such thread.
    """

    def __init__(self, tid: int, peer: Peer, groups: Collection[int]) -> None:
        try:
            self._files = ProcFiles(tid)
            self._thread = Caller(tid, None, 0, files=self._files)
        except (ProctorError, OSError) as problem:
            raise ProctorError(f"thread {tid} cannot be looked at: {problem}") from None
        try:
            if not _belongs(self._thread, peer, groups):
                raise ProctorError(f"thread {tid} is not one of user {peer.uid}")
        except BaseException as problem:
            self.close()
            if isinstance(problem, (CallError, OSError)):
                raise ProctorError(f"thread {tid} cannot be looked at: {problem}") from None
            raise

    def lives(self) -> bool:
        """Whether its number is still its own."""
        try:
            self._files.size("status")
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of it.  Idempotent."""
        self._thread.close()


def _belongs(thread: Caller, peer: Peer, groups: Collection[int]) -> bool:
    mine = os.stat("/proc/self/ns/user").st_ino
    if thread.userns == mine:
        return (
            set(thread.uids) == {peer.uid}
            and set(thread.gids) == {peer.gid}
            and set(thread.groups) <= {peer.gid, *groups}
            and not thread.caps.permitted
            and thread.no_new_privs
        )
    inside = [
        any(0 <= number - each.outside < each.length for each in ranges)
        for numbers, ranges in (
            (thread.uids, thread.uid_map),
            (thread.gids, thread.gid_map),
            ([group for group in thread.groups if group not in groups], thread.gid_map),
        )
        for number in numbers
    ]
    made = _below_ours(thread.namespace_fd("user"), mine)
    return all(inside) and made is not None and made[1] == peer.uid


def _below_ours(namespace: int, mine: int) -> tuple[int, int] | None:
    """Inode number of the user namespace directly below ours that one is, or is below, and who made it; None if there
    is none."""
    at, made = os.dup(namespace), bytearray(4)
    try:
        while True:
            try:
                above = fcntl.ioctl(at, _NS_GET_PARENT)
            except PermissionError:  # beyond ours
                return None
            if os.fstat(above).st_ino == mine:
                os.close(above)
                fcntl.ioctl(at, _NS_GET_OWNER_UID, made)
                return os.fstat(at).st_ino, int.from_bytes(made, sys.byteorder)
            os.close(at)
            at = above
    finally:
        os.close(at)
