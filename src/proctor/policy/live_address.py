"""The socket address of a real call, as patterns see it."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

from proctor.call.decode import sockaddr
from proctor.policy.addresses import Address
from proctor.policy.rules import Unknowable

if TYPE_CHECKING:
    from proctor.call.call import Call


def convert(call: Call, value: Any) -> Address | None:
    """``value`` (what :mod:`proctor.call.decode.sockaddr` decoded, or None) as an :class:`Address`.

    The path of a socket file is resolved in the caller's view, so that a relative path or a symbolic
    link is no other name for it.

    :raises Unknowable: EINVAL for an address the kernel refuses too: shorter than its family's.
    :raises OSError: the path cannot be resolved.
    """
    if value is None:
        return None
    if isinstance(value, sockaddr.UnixAddress):
        if value.kind == "pathname":
            return Address(socket.AF_UNIX, path=_resolved(call, value.path))
        if value.kind == "abstract":
            return Address(socket.AF_UNIX, abstract=value.path)
        return Address(socket.AF_UNIX)
    if isinstance(value, sockaddr.InetAddress):
        return Address(socket.AF_INET, socket.inet_pton(socket.AF_INET, value.host), value.port)
    if isinstance(value, sockaddr.Inet6Address):
        return Address(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, value.host), value.port)
    if isinstance(value, sockaddr.RawAddress):
        if value.family == socket.AF_UNSPEC and len(value.data) >= 6:
            # sendto(2) and bind(2) of IPv4 take this for AF_INET, so rules on inet must see it.
            return Address(socket.AF_INET, value.data[2:6], int.from_bytes(value.data[:2], "big"))
        if value.family < 0 or value.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            raise Unknowable(
                errno.EINVAL, "the socket address is too short or too long for its family"
            )
    return Address(int(value.family))


def _resolved(call: Call, path: bytes) -> bytes:
    # bind(2) makes the name and does not follow a link there; the others follow.
    with call.caller.locate(path, follow=call.name != "bind") as located:
        return located.path
