"""Where a socket of a caller's is to go, in place of where the caller said."""

from __future__ import annotations

import struct
import sys
from typing import Final

from proctor.performing.given import Given

AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
MAPPED: Final = bytes(10) + b"\xff\xff"


def checked(network: object) -> None:
    """
    :raises ValueError: it can be no network namespace."""
    if not isinstance(network, str) or (network not in ("", "host") and network[:1] != "/"):
        raise ValueError(
            f'network is "host" or the path of a network namespace such as "/run/netns/x", not {network!r}'
        )


class Route(Given):
    """Options of the families that name an address: in which network, and which address instead.

    :param network: "host" (the monitor's), or the path of a file of a network namespace, as
        ``ip netns add`` makes it in ``/run/netns``; "" is the caller's own.
    :param to: ``inet:HOST:PORT`` or ``inet6:[HOST]:PORT`` in the place of the caller's internet address; ``*``
        for what stays as it is.
    """

    network: str = ""
    to: str = ""
    _to: tuple[bytes | None, int | None] | None = None

    def check(self) -> None:
        checked(self.network)
        if self.to:
            self.settle("_to", _parsed(self.to))

    @property
    def plain(self) -> bool:
        """Whether all stays as the caller has it."""
        return not self.network and self._to is None

    def redirect(self, address: bytes) -> bytes:
        """The address in the place of one of the internet, which may be of the other family."""
        host, port = self._to or (None, None)
        family = int.from_bytes(address[:2], sys.byteorder)
        if family not in (AF_INET, AF_INET6) or (host is None and port is None):
            return address
        if len(address) < (16 if family == AF_INET else 24):
            return address  # what is too short is refused as it is
        kept = address[4:8] if family == AF_INET else address[8:24]
        at = address[2:4] if port is None else struct.pack(">H", port)
        return inet(kept if host is None else host, at)


def inet(host: bytes, port: bytes) -> bytes:
    """A ``sockaddr_in`` or ``sockaddr_in6``."""
    if len(host) == 4:
        return struct.pack("=H", AF_INET) + port + host + bytes(8)
    return struct.pack("=H", AF_INET6) + port + bytes(4) + host + bytes(4)


def _parsed(to: object) -> tuple[bytes | None, int | None]:
    said = f'to is "inet:HOST:PORT" or "inet6:[HOST]:PORT", * for what stays as it is, not {to!r}'
    if not isinstance(to, str):
        raise ValueError(said)
    from ipaddress import ip_address

    family, _, rest = to.partition(":")
    host, colon, port = rest.rpartition(":")
    if family == "inet6" and host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif family != "inet" and host != "*":
        raise ValueError(said)
    try:
        packed = None if host == "*" else ip_address(host).packed
        number = None if port == "*" else int(port)
    except ValueError:
        raise ValueError(said) from None
    if not colon or (number is not None and not 0 <= number <= 65535):
        raise ValueError(said)
    if packed is not None and len(packed) != (4 if family == "inet" else 16):
        raise ValueError(said)
    return packed, number
