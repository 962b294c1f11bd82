"""UNIX sockets of the agent, made without a moment in which others may connect; and who connected."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from typing import Final

from proctor.errors import ProctorError
from proctor.records import NamedTuple
from proctor.words import quoted

#: Most bytes of a path (sun_path with its final NUL, unix(7)).
_LONGEST: Final = 107

#: include/uapi/asm-generic/socket.h, and the longest option that Python takes.
_SO_PEERGROUPS, _GROUPS = 59, 1024
_PEERCRED: Final = struct.Struct("=iII")


class Peer(NamedTuple):
    """Who connected, as the kernel knows it (SO_PEERCRED): whoever called connect(2), which may have
    ended since, or have given the connection to another process."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: socket.socket) -> Peer:
    """The peer of a connection."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    return Peer(*_PEERCRED.unpack(data))


def groups_of(sock: socket.socket) -> tuple[int, ...]:
    """The supplementary groups of a connection's peer (SO_PEERGROUPS, Linux 4.13); none if it has more
    than Python asks for."""
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS)
    except OSError:
        return ()
    return struct.unpack(f"={len(data) // 4}I", data)


def listen(
    path: str,
    kind: int = socket.SOCK_STREAM,
    *,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
) -> socket.socket:
    """A listening socket at ``path``, non-blocking; what a dead process left there is replaced.

    :param kind: ``SOCK_STREAM`` or ``SOCK_SEQPACKET``.
    :param mode: who may connect: write permission is asked for (unix(7)).
    :param owner: uid and gid of the socket, -1 for unchanged.
    :raises ProctorError: the path is too long, or cannot be bound, or somebody listens there, or it is no
        socket.
    :raises OSError: chown(2)'s.
    """
    if len(os.fsencode(path)) > _LONGEST:
        raise ProctorError(
            f"socket {quoted(path)}: a path of a socket has at most {_LONGEST} bytes (unix(7))"
        )
    made = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        _clear(path, kind)
        before = os.umask(0o777 & ~mode)
        try:
            made.bind(path)
        except FileNotFoundError:
            where = os.path.dirname(path)
            raise ProctorError(
                f"socket {quoted(path)}: its directory is not there: mkdir -p {quoted(where)}"
            ) from None
        except OSError as problem:
            raise ProctorError(f"socket {quoted(path)}: {problem.strerror}") from None
        finally:
            os.umask(before)
        if owner is not None:
            os.chown(path, *owner, follow_symlinks=False)
        made.listen(socket.SOMAXCONN)
    except BaseException:
        made.close()
        raise
    return made


def _clear(path: str, kind: int) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ProctorError(f"socket {quoted(path)}: something is there that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # its process is gone
            return
        except OSError as problem:
            if problem.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
                raise
    raise ProctorError(f"socket {quoted(path)}: somebody listens there already")
