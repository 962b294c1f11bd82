"""Socket addresses as values, and as bytes again.

:func:`decode` takes the bytes the kernel would copy and never raises: what does not fit its
family is a :class:`RawAddress`.  :func:`encode` is the inverse, for calls that are answered with an
address.  Their text is strace's.  Sources: unix(7), ip(7), ipv6(7), netlink(7), packet(7), vsock(7).

    >>> decode(encode(("192.0.2.1", 80))), decode(encode(UnixAddress("abstract", b"x"))).kind
    (InetAddress(host='192.0.2.1', port=80, family=2), 'abstract')
    >>> inet6, netlink = Inet6Address("2001:db8::1", 443), NetlinkAddress(pid=0, groups=1)
    >>> packet, vsock = PacketAddress(0x0800, 2, 1, 0, bytes(6)), VsockAddress(cid=2, port=1024)
    >>> all(decode(encode(each)) == each for each in (inet6, netlink, packet, vsock))
    True
    >>> decode(bytes([10, 0, 1])) == RawAddress(family=10, data=bytes([1]))
    True
"""

from __future__ import annotations

import struct
import sys
from typing import Any, Union

from proctor.records import NamedTuple
from proctor.words import c_string

__all__ = [
    "Inet6Address",
    "InetAddress",
    "NetlinkAddress",
    "PacketAddress",
    "RawAddress",
    "UnixAddress",
    "VsockAddress",
    "decode",
    "encode",
]

AF_UNIX = 1
AF_INET = 2
AF_INET6 = 10
AF_NETLINK = 16
AF_PACKET = 17
AF_VSOCK = 40

_MAPPED = bytes(10) + b"\xff\xff"
_LOOPBACK = bytes((127, 0, 0, 1))
#: Where a call that goes to no address goes: to this machine (``ip_route_output_key_hash_rcu`` of net/ipv4/route.c,
#: ``tcp_v6_connect`` of net/ipv6/tcp_ipv6.c, ``udpv6_sendmsg``; "BSD'ism").
_REACHED = {
    bytes(4): _LOOPBACK,
    bytes(16): bytes(15) + b"\1",
    _MAPPED + bytes(4): _MAPPED + _LOOPBACK,
}
#: Where the host is in an address of the family; sendto(2) of IPv4 takes none for its own.
_HOSTS = {0: slice(4, 8), AF_INET: slice(4, 8), AF_INET6: slice(8, 24)}


def reached(host: bytes) -> bytes:
    """The host that connect(2) or sendto(2) to this one, as bytes, goes to.

    >>> reached(bytes(4)), reached(bytes((10, 0, 0, 1)))
    (b'\\x7f\\x00\\x00\\x01', b'\\n\\x00\\x00\\x01')
    """
    return _REACHED.get(host, host)


def reaching(address: bytes) -> bytes:
    """The same address with that host in it.  Of a socket that is bound, no address is that of the socket: whoever makes
    the call on what a rule saw names it."""
    family = int.from_bytes(address[:2], sys.byteorder)
    where = _HOSTS.get(family) if len(address) >= 16 else None
    if where is None or address[where] not in _REACHED:
        return address
    return address[: where.start] + reached(address[where]) + address[where.stop :]


#: sizeof(struct sockaddr_storage): the kernel refuses longer addresses with EINVAL.
MAX_LENGTH = 128


class UnixAddress(NamedTuple):
    """AF_UNIX.  ``kind`` is "pathname", "abstract" (``path`` without the leading NUL; it may hold
    NULs) or "unnamed" (what bind(2) takes as "pick an abstract name")."""

    kind: str
    path: bytes
    family: int = AF_UNIX

    def __str__(self) -> str:
        if self.kind == "unnamed":
            return "{sa_family=AF_UNIX}"
        at = "@" if self.kind == "abstract" else ""
        return f"{{sa_family=AF_UNIX, sun_path={at}{c_string(self.path)}}}"


class InetAddress(NamedTuple):
    """AF_INET: dotted ``host`` and ``port``."""

    host: str
    port: int
    family: int = AF_INET

    def __str__(self) -> str:
        return (
            f'{{sa_family=AF_INET, sin_port=htons({self.port}), sin_addr=inet_addr("{self.host}")}}'
        )


class Inet6Address(NamedTuple):
    """AF_INET6; ``scope_id`` is 0 where the short (RFC 2133) form was given."""

    host: str
    port: int
    flowinfo: int = 0
    scope_id: int = 0
    family: int = AF_INET6

    def __str__(self) -> str:
        return (
            f"{{sa_family=AF_INET6, sin6_port=htons({self.port}), "
            f"sin6_flowinfo=htonl({self.flowinfo}), "
            f'inet_pton(AF_INET6, "{self.host}", &sin6_addr), sin6_scope_id={self.scope_id}}}'
        )


class NetlinkAddress(NamedTuple):
    """AF_NETLINK: port id and multicast groups."""

    pid: int
    groups: int
    family: int = AF_NETLINK

    def __str__(self) -> str:
        groups = f"{self.groups:#08x}" if self.groups else "00000000"
        return f"{{sa_family=AF_NETLINK, nl_pid={self.pid}, nl_groups={groups}}}"


class PacketAddress(NamedTuple):
    """AF_PACKET; ``protocol`` is the Ethernet type in host order."""

    protocol: int
    ifindex: int
    hatype: int
    pkttype: int
    address: bytes
    family: int = AF_PACKET

    def __str__(self) -> str:
        octets = ", ".join(f"{byte:#04x}" for byte in self.address)
        return (
            f"{{sa_family=AF_PACKET, sll_protocol=htons({_named('EtherType', self.protocol)}), "
            f"sll_ifindex={self.ifindex}, sll_hatype={self.hatype}, "
            f"sll_pkttype={_named('PacketType', self.pkttype)}, "
            f"sll_halen={len(self.address)}, sll_addr=[{octets}]}}"
        )


class VsockAddress(NamedTuple):
    """AF_VSOCK."""

    cid: int
    port: int
    flags: int = 0
    family: int = AF_VSOCK

    def __str__(self) -> str:
        flags = "VMADDR_FLAG_TO_HOST" if self.flags == 1 else f"{self.flags:#x}"
        return (
            f"{{sa_family=AF_VSOCK, svm_cid={_CIDS.get(self.cid) or f'{self.cid:#x}'}, "
            f"svm_port={'VMADDR_PORT_ANY' if self.port == 0xFFFFFFFF else f'{self.port:#x}'}"
            + (f", svm_flags={flags}}}" if self.flags else "}")
        )


class RawAddress(NamedTuple):
    """A family we do not take apart, or bytes too few for their family.  ``family`` is -1 when not
    even that is there; ``data`` is everything after it."""

    family: int
    data: bytes

    def __str__(self) -> str:
        if self.family < 0:
            return f"{{{c_string(self.data, 32)}}}"
        return f"{{sa_family={_named('AddressFamily', self.family)}, sa_data={c_string(self.data, 128)}}}"


_CIDS = {
    0: "VMADDR_CID_HYPERVISOR",
    1: "VMADDR_CID_LOCAL",
    2: "VMADDR_CID_HOST",
    0xFFFFFFFF: "VMADDR_CID_ANY",
}


def _named(family: str, number: int) -> str:
    from proctor.syscalls.flags import decode

    found = decode(family, number)
    return f"{number:#x}" if type(found) is int else str(found)


SocketAddress = Union[
    UnixAddress,
    InetAddress,
    Inet6Address,
    NetlinkAddress,
    PacketAddress,
    VsockAddress,
    RawAddress,
]


def decode(data: bytes, byteorder: str = "little") -> SocketAddress:
    """The address in ``data`` (as many bytes as the call said its length is).

    :param byteorder: of the caller's machine; ports and hosts are in network order anyway.
    """
    if len(data) < 2:
        return RawAddress(-1, data)
    end = "<" if byteorder == "little" else ">"
    family = int(struct.unpack_from(end + "H", data)[0])
    rest = data[2:]
    if family == AF_UNIX:
        return _unix(rest)
    if family == AF_INET and len(data) >= 16:
        return InetAddress(".".join(map(str, rest[2:6])), int.from_bytes(rest[:2], "big"))
    if family == AF_INET6 and len(data) >= 24:
        scope = int(struct.unpack_from(end + "I", data, 24)[0]) if len(data) >= 28 else 0
        flow = int.from_bytes(rest[2:6], "big")
        return Inet6Address(_ipv6(rest[6:22]), int.from_bytes(rest[:2], "big"), flow, scope)
    if family == AF_NETLINK and len(data) >= 12:
        pid, groups = struct.unpack_from(end + "II", data, 4)
        return NetlinkAddress(pid, groups)
    if family == AF_PACKET and len(data) >= 12:
        index, hatype, pkttype, length = struct.unpack_from(end + "iHBB", data, 4)
        protocol = int.from_bytes(rest[:2], "big")
        return PacketAddress(protocol, index, hatype, pkttype, data[12 : 12 + min(length, 8)])
    if family == AF_VSOCK and len(data) >= 16:
        port, cid, flags = struct.unpack_from(end + "IIB", data, 4)
        return VsockAddress(cid, port, flags)
    return RawAddress(family, rest)


def _unix(rest: bytes) -> SocketAddress:
    if len(rest) > 108:  # sizeof(sun_path); the kernel says EINVAL
        return RawAddress(AF_UNIX, rest)
    if not rest:
        return UnixAddress("unnamed", b"")
    if rest[0]:
        return UnixAddress("pathname", rest.partition(b"\0")[0])
    return UnixAddress("abstract", rest[1:])


def _ipv6(packed: bytes) -> str:
    """RFC 5952 text, the same from every version of Python."""
    from ipaddress import IPv6Address

    if packed[:12] == bytes(10) + b"\xff\xff":
        return "::ffff:" + ".".join(map(str, packed[12:]))
    return str(IPv6Address(packed))


def encode(value: Any, byteorder: str = "little") -> bytes:
    """The bytes of an address, as many as its length is; a pathname with its NUL.

    :param value: one of the values of this module, or ``(host, port)`` for AF_INET and, with a colon in
        the host, AF_INET6.
    :param byteorder: of the caller's machine.
    :raises TypeError: something else.
    :raises ValueError: a host that is no address, or a number that does not fit.
    """
    try:
        return _encoded(value, "<" if byteorder == "little" else ">")
    except struct.error as error:
        raise ValueError(f"{value!r}: {error}") from None


def _encoded(value: Any, end: str) -> bytes:
    if isinstance(value, UnixAddress):
        lead = b"\0" if value.kind == "abstract" else b""
        close = b"\0" if value.kind == "pathname" and len(value.path) < 108 else b""
        return struct.pack(end + "H", AF_UNIX) + lead + value.path + close
    if isinstance(value, NetlinkAddress):
        return struct.pack(end + "HHII", AF_NETLINK, 0, value.pid, value.groups)
    if isinstance(value, PacketAddress):
        head = struct.pack(end + "H", AF_PACKET) + struct.pack(">H", value.protocol)
        tail = struct.pack(
            end + "iHBB", value.ifindex, value.hatype, value.pkttype, len(value.address)
        )
        return head + tail + value.address.ljust(8, b"\0")
    if isinstance(value, VsockAddress):
        family = AF_VSOCK
        return struct.pack(end + "HHIIB3x", family, 0, value.port, value.cid, value.flags)
    if isinstance(value, RawAddress):
        return (struct.pack(end + "H", value.family) if value.family >= 0 else b"") + value.data
    if isinstance(value, tuple) and len(value) == 2:  # host and port
        value = (Inet6Address if ":" in value[0] else InetAddress)(*value)
    if isinstance(value, (InetAddress, Inet6Address)):
        from ipaddress import ip_address

        host = ip_address(value.host).packed
        head = struct.pack(end + "H", value.family) + struct.pack(">H", value.port)
        if isinstance(value, InetAddress):
            return head + host + bytes(8)
        tail = struct.pack(end + "I", value.scope_id)
        return head + struct.pack(">I", value.flowinfo) + host + tail
    raise TypeError(
        f"{value!r} is no socket address: pass (host, port), bytes, or a value of "
        "proctor.call.decode.sockaddr"
    )
