"""What a socket that replaces another one is given of it.

Options of the socket itself, of IP, TCP and UDP, as far as they can be set without a right and mean the
same in another network; its status flags; the address that it was bound to.  Not carried: filters
(SO_ATTACH_FILTER), memberships of multicast groups, SO_BINDTODEVICE and SO_MARK (they are about the other
network), SO_PEEK_OFF, owners of signals (F_SETOWN), membership in an epoll instance, and duplicates of
the descriptor: those are still the old socket.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Final

from proctor.performing.executing.requests import Reply, Request
from proctor.performing.executing.steps import END, Place, Result, Steps
from proctor.records import NamedTuple

_F_GETFL: Final = 3
_SOCKET, _IP, _IPV6, _TCP, _UDP = socket.SOL_SOCKET, 0, 41, 6, 17
_STREAM: Final = 1
#: SO_NETNS_COOKIE, since Linux 5.14.
_COOKIE: Final = (_SOCKET, 71, 8)


def _numbers(names: str) -> list[tuple[int, int, int]]:
    """Options of a socket itself, whose numbers architectures do not agree on."""
    found = [getattr(socket, f"SO_{name}", None) for name in names.split()]
    return [(_SOCKET, number, 4) for number in found if number is not None]


_TIMES: Final = [(_SOCKET, socket.SO_RCVTIMEO, 16), (_SOCKET, socket.SO_SNDTIMEO, 16)]
_LINGER: Final = [(_SOCKET, socket.SO_LINGER, 8)]
_BUFFERS: Final = ((_SOCKET, socket.SO_RCVBUF), (_SOCKET, socket.SO_SNDBUF))
_EACH: Final = [
    *_numbers("REUSEADDR REUSEPORT KEEPALIVE OOBINLINE PRIORITY BROADCAST DONTROUTE PASSCRED RCVLOWAT"),
    *_numbers("RCVBUF SNDBUF"),
    *((_SOCKET, number, 4) for number in (29, 35, 37, 40, 60)),  # SO_TIMESTAMP*, RXQ_OVFL, ZEROCOPY
    *_LINGER,
    *_TIMES,
]  # fmt: skip
#: include/uapi/linux/in.h, in6.h, tcp.h, udp.h
_OF_IP: Final = (1, 2, 6, 8, 10, 11, 12, 13, 15, 20, 21, 24, 25, 33, 34, 51)
_OF_IPV6: Final = (16, 18, 19, 23, 25, 26, 49, 51, 62, 66, 67, 78)
_OF_TCP: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 18, 25, 27, 30)
_CONGESTION: Final = (_TCP, 13, 16)
_OF_UDP: Final = (1, 103, 104)


@cache
def options(domain: int, kind: int, protocol: int) -> tuple[tuple[int, int, int], ...]:
    """(level, name, size) of all that is carried by sockets of this kind."""
    found = list(_EACH)
    if domain in (socket.AF_INET, socket.AF_INET6):
        found += [(_IP, each, 4) for each in _OF_IP]
        if kind == _STREAM and protocol in (0, _TCP):
            found += [*((_TCP, each, 4) for each in _OF_TCP), _CONGESTION]
        elif protocol in (0, _UDP):
            found += [(_UDP, each, 4) for each in _OF_UDP]
    if domain == socket.AF_INET6:
        found += [(_IPV6, each, 4) for each in _OF_IPV6]
    return tuple(found)


class Carried(NamedTuple):
    """What an old socket was given that a new one has not got."""

    #: (level, name, value).
    differing: tuple[tuple[int, int, bytes], ...]
    #: What fcntl(F_GETFL) says.
    flags: int
    #: The address that it is bound to; empty if to none.
    bound: bytes
    #: Whether the new one's network is the old one's.
    same_network: bool


class Reading(NamedTuple):
    """Read what an old socket has, and make a new one."""

    request: Request
    made: Result
    flags: Result
    name: Result
    known: tuple[tuple[int, int, int], ...]
    cookies: tuple[Result, Result]

    def read(self, reply: Reply) -> Carried:
        """What came of it."""
        old, new, address, one, other = reply.parts
        differing, at = [], 0
        for level, name, size in self.known if old != new else ():
            value = old[at : at + size]
            if value != new[at : at + size]:
                if (level, name) in _BUFFERS:  # the kernel doubles what is asked for
                    value = struct.pack("=i", struct.unpack("=i", value)[0] // 2)
                differing.append((level, name, value))
            at += size
        bound = b""
        if reply.made(self.name) and any(address[2:24]):
            inet = int.from_bytes(address[:2], sys.byteorder) == socket.AF_INET
            bound = address[: 16 if inet else 28]
        cookies = [reply.made(each) for each in self.cookies]
        return Carried(
            tuple(differing),
            reply.results[self.flags.step],
            bound,
            all(cookies) and one == other,
        )


@lru_cache(64)
def reading(domain: int, kind: int, protocol: int, new: int) -> Reading:
    """Sent: the old socket.  The new one, of domain ``new``, is given."""
    steps = Steps()
    known = options(domain, kind, protocol)
    lengths = {size: steps.bytes(struct.pack("=I", size)) for size in (4, 8, 16)}
    storage = steps.bytes(struct.pack("=I", 128))
    room = sum(size for _, _, size in known)
    old, fresh = steps.scratch(room), steps.scratch(room)
    name, one, other = steps.scratch(128), steps.scratch(8), steps.scratch(8)
    given = steps.sent()
    for (level, option, size), place in _placed(known, old):
        steps.call("getsockopt", given, level, option, place, lengths[size], bad=0)
    first = steps.call("getsockopt", given, *_COOKIE[:2], one, lengths[8], bad=0)
    bound = steps.call("getsockname", given, name, storage, bad=0)
    flags = steps.call("fcntl", given, _F_GETFL, 0)
    protocol = protocol if new in (socket.AF_INET, socket.AF_INET6) else 0
    made = steps.call("socket", new, kind | socket.SOCK_CLOEXEC, protocol)
    for (level, option, size), place in _placed(known, fresh):
        steps.call("getsockopt", made, level, option, place, lengths[size], bad=0)
    second = steps.call("getsockopt", made, *_COOKIE[:2], other, lengths[8], good=END, bad=END)
    steps.give(made)
    for place in (old, fresh, name, one, other):
        steps.want(place)
    return Reading(steps.freeze(), made, flags, bound, known, (first, second))


def _placed(
    known: tuple[tuple[int, int, int], ...], room: Place
) -> Iterator[tuple[tuple[int, int, int], Place]]:
    """Each option with its place, one after the other."""
    at = room.offset
    for each in known:
        yield each, Place(at, each[2])
        at += each[2]


class Setting(NamedTuple):
    """Give a new socket what differs."""

    request: Request


@lru_cache(64)
def setting(which: tuple[tuple[int, int], ...]) -> Setting:
    """Holes: the values; two names to try to bind to, one after the other, and the length of each.  Sent:
    the socket."""
    steps = Steps()
    values = [steps.hole(16) for _ in which]
    sizes = {(level, name): size for kind in _ALL for level, name, size in kind}
    names = [(steps.hole(128), steps.number()) for _ in range(2)]
    given = steps.sent()
    for (level, option), value in zip(which, values, strict=True):
        steps.call("setsockopt", given, level, option, value, sizes[level, option], bad=0)
    for name, length in names:
        steps.call("bind", given, name, length, good=END, bad=0)
    return Setting(steps.freeze())


_ALL: Final = [
    options(domain, kind, protocol)
    for domain in (socket.AF_INET6, socket.AF_UNIX)
    for kind, protocol in ((_STREAM, _TCP), (2, _UDP))
]
