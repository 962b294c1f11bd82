"""Runtimes without containers: processes with a filter, and what is sent for them."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import proctor
from proctor.kernel import scm


def state(id: str, **more: Any) -> bytes:
    """A container process state."""
    made: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "fds": ["seccompFd"],
        "pid": os.getpid(),
        "state": {"ociVersion": "1.2.0", "id": id, "status": "creating", "pid": os.getpid()},
    }
    return json.dumps(made | more).encode()


def connect(path: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A connection."""
    made = socket.socket(socket.AF_UNIX, kind)
    # not by settimeout(), whose connect(2) says EAGAIN where it would wait for its turn
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 20, 0))
    made.connect(path)
    made.settimeout(20)
    return made


#: What commands of these notify of.
NOTIFIED = ("mkdir", "mkdirat", "chmod", "fchmodat", "fchmodat2")


def filtered(
    *command: str, namespaces: Iterable[str] = (), names: Sequence[str] = NOTIFIED
) -> proctor.Target:
    """A command some of whose calls notify a listener that nobody serves yet."""
    program = proctor.Filter([proctor.Rule(names, proctor.actions.NOTIFY)]).compile().code
    nulls = [os.open(os.devnull, os.O_RDWR) for _ in range(3)]
    try:
        return proctor.launch(
            list(command),
            program=program,
            fds=[(fd, to) for to, fd in enumerate(nulls)],
            namespaces=namespaces,
        )
    finally:
        for fd in nulls:
            os.close(fd)


def hand_over(
    path: str, id: str, *command: str, names: Sequence[str] = NOTIFIED, first: int | None = None
) -> proctor.Target:
    """Such a command, brought to an agent as a runtime does.

    :param first: so many bytes come with the listener, and the rest by itself."""
    target = filtered(*command, names=names)
    listener = target.take_listener()
    with connect(path) as sock:
        data = state(id)
        scm.send(sock, data[:first], [listener])
        if first is not None:
            sock.sendall(data[first:])
    os.close(listener)
    return target


def gone(sock: socket.socket) -> bool:
    """Whether the other side has given it up; waits for that."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True
