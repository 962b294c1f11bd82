"""Socket-address patterns: ``unix:…``, ``inet:…``, ``inet6:…`` and other families by name.

=============================  ====================================================================
``unix:/run/x.sock``           a socket file; a path pattern (:mod:`proctor.policy.globs`), matched
                               like ``path`` against what the caller's path resolves to
``unix:@name``                 an abstract name; ``*``, ``?`` and sets match, ``/`` is not special
``unix:``                      the unnamed address (autobind)
``inet:10.0.0.0/8:443``        IPv4 address or network, and port; ``*`` for any of either, ports may
                               be ranges (``8000-8099``); without a port: any
``inet6:[2001:db8::]/32:443``  IPv6 likewise; brackets are needed before a port
``none``                       no address: what is sent on a connected socket
``netlink``, ``packet``, …     a whole family, whatever the address; also ``unix``, ``inet``, ``inet6``
=============================  ====================================================================

An IPv6 socket reaches IPv4 through ``::ffff:a.b.c.d``; ``inet`` patterns match such an address as
the IPv4 address it stands for, so that a rule about ``inet`` cannot be walked around.  connect(2) and sendto(2)
to no address (``0.0.0.0``, ``::``) go to this machine (:func:`proctor.call.decode.sockaddr.reached`), and are matched
as what they are and as what they reach.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from proctor.call.decode.sockaddr import AF_INET, AF_INET6, AF_UNIX
from proctor.errors import PolicyError
from proctor.policy.globs import Glob, GlobError
from proctor.records import NamedTuple
from proctor.words import did_you_mean, quoted

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network


class AddressError(PolicyError):
    """A pattern that cannot be; the message says why and what would do."""


@cache
def families() -> dict[str, int]:
    """Address families by the names that patterns have for them.  ``unspec`` is what dissolves an
    association in connect(2); where AF_UNSPEC stands for IPv4 (bind, sendto), it is ``inet``."""
    from proctor.syscalls import flags

    return {name[3:].lower(): number for name, number in flags.members("AddressFamily").items()}


class Address(NamedTuple):
    """One socket address as the patterns see it.

    ``family`` is the AF_* number; ``host`` the packed IP address of inet and inet6; ``path`` the
    resolved path of a unix socket file; ``abstract`` an abstract name without its leading NUL.
    """

    family: int
    host: bytes = b""
    port: int = 0
    path: bytes | None = None
    abstract: bytes | None = None
    #: What was written where that leads to ``host``: the address that is none.
    written: bytes = b""


class AddressPattern:
    """One compiled pattern.

    >>> AddressPattern("inet:10.0.0.0/8:443").matches(Address(AF_INET, bytes([10, 1, 2, 3]), 443))
    True

    :raises AddressError: it is malformed.
    """

    __slots__ = ("_glob", "_kind", "_network", "_ports", "family", "none", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        #: Whether it is that there is no address at all.
        self.none = text == "none"
        self._glob: Glob | None = None
        self._network: IPv4Network | IPv6Network | None = None
        self._ports = (0, 65535)
        if self.none:
            self._kind, self.family = "none", -1
            return
        try:
            text.encode()  # whatever is wrong, what is said of it has the text
        except UnicodeEncodeError:
            raise AddressError("half of a character (a lone surrogate) is no text") from None
        name, colon, rest = text.partition(":")
        if name not in families():
            raise AddressError(f"no address family {quoted(name)}{_instead(text)}")
        self.family = families()[name]
        self._kind = "family"
        if not colon:
            return
        if name == "unix":
            self._unix(rest)
        elif name in ("inet", "inet6"):
            self._kind = "ip"
            self._ip(name, rest)
        elif rest != "*":
            raise AddressError(f'addresses of family {name} have no pattern; write "{name}"')

    @property
    def looks_at_path(self) -> bool:
        """Whether a socket file's path has to be resolved before this can be matched."""
        return self._kind == "path"

    def _unix(self, rest: str) -> None:
        try:
            if not rest:
                self._kind = "unnamed"
            elif rest.startswith("@"):
                self._kind, self._glob = "abstract", Glob(rest[1:], "name")
            else:
                self._kind, self._glob = "path", Glob(rest)
        except GlobError as error:
            raise AddressError(str(error)) from None

    def _ip(self, name: str, rest: str) -> None:
        import ipaddress

        if name == "inet6" and rest.startswith("["):
            host, bracket, tail = rest[1:].partition("]")
            if not bracket:
                raise AddressError('"[" without "]"; write inet6:[2001:db8::1]:443')
            prefix, _, port = tail.partition(":")
            if tail and not tail.startswith(("/", ":")):
                raise AddressError(f'"{tail}" after the address; write inet6:[2001:db8::]/32:443')
            host += prefix
        elif name == "inet6":
            host, _, port = rest.partition(":") if rest.startswith("*") else (rest, "", "")
        else:
            host, _, port = rest.partition(":")
        if host != "*":
            try:
                self._network = (
                    ipaddress.IPv4Network(host) if name == "inet" else ipaddress.IPv6Network(host)
                )
            except ValueError as error:
                raise AddressError(f"{error}{_better(name, host)}") from None
            mapped = ipaddress.IPv6Network("::ffff:0:0/96")
            if isinstance(self._network, ipaddress.IPv6Network) and self._network.subnet_of(mapped):
                raise AddressError(
                    "an IPv4 address in IPv6 clothes is matched by inet patterns; write inet:ADDRESS"
                )
        if port or (rest.endswith(":") and name == "inet"):
            self._ports = _ports(port)

    def matches(self, address: Address) -> bool:
        """Whether ``address`` is one of those meant."""
        if self.none:
            return False
        hosts = (address.host, address.written)
        if address.family != self.family:
            if self.family != AF_INET or hosts[0][:12] != _MAPPED or len(hosts[0]) != 16:
                return False
            hosts = (hosts[0][12:], hosts[1][12:])
        if self._kind == "family":
            return True
        if self._kind == "unnamed":
            return address.path is None and address.abstract is None
        if self._kind == "abstract":
            return address.abstract is not None and self._matches_glob(address.abstract)
        if self._kind == "path":
            return address.path is not None and self._matches_glob(address.path)
        if not self._ports[0] <= address.port <= self._ports[1]:
            return False
        network = self._network
        return network is None or any(_is_of(host, network) for host in hosts)

    def _matches_glob(self, name: bytes) -> bool:
        return self._glob is not None and self._glob.matches(name)

    def __repr__(self) -> str:
        return f"AddressPattern({self.text!r})"


def _instead(text: str) -> str:
    """What somebody may have meant who named no family."""
    import ipaddress

    name, _, rest = text.partition(":")
    near = did_you_mean(name.lower().removeprefix("af_"), families())
    if near:
        return near
    for kind, host in (("inet", name), ("inet6", text)):
        try:
            ipaddress.ip_network(host, strict=False)
        except ValueError:
            continue
        return f'; write "{kind}:{text}"'
    return f'; write "inet:ADDRESS{":PORT" if rest else ""}", "unix:/PATH" or the name of a family'


def _better(name: str, host: str) -> str:
    """What would be an address, or a network, in the place of ``host``."""
    import ipaddress

    try:
        return f"; write {name}:{ipaddress.ip_network(host, strict=False)}"
    except ValueError:
        pass
    if name == "inet":
        return "; write inet:ADDRESS, inet:NETWORK/BITS or inet:*, in numbers"
    return "; write inet6:ADDRESS, inet6:NETWORK/BITS or inet6:*, and before a port inet6:[ADDRESS]:PORT"


def _is_of(host: bytes, network: IPv4Network | IPv6Network) -> bool:
    number = int.from_bytes(host, "big") & int(network.netmask)
    return len(host) * 8 == network.max_prefixlen and number == int(network.network_address)


_MAPPED: Final = bytes(10) + b"\xff\xff"


def _ports(text: str) -> tuple[int, int]:
    if text == "*":
        return (0, 65535)
    low, dash, high = text.partition("-")
    if not (low.isascii() and low.isdigit() and (not dash or (high.isascii() and high.isdigit()))):
        raise AddressError(
            f'"{text}" is not a port; write a number, a range such as 8000-8099, or *'
        )
    if len(low) > 5 or len(high) > 5:
        raise AddressError(f'"{text}" is not a port: they end at 65535')
    first, last = int(low), int(high) if dash else int(low)
    if last > 65535:
        raise AddressError(f'"{text}" is not a port: they end at 65535')
    if last < first:
        raise AddressError(f'"{text}": the range runs backwards')
    return (first, last)


def spell(address: Address) -> str:
    """The pattern that matches exactly ``address`` (the family alone where there is no finer one;
    empty for a family without a name)."""
    import ipaddress

    from proctor.policy.globs import literal

    family, host = address.family, address.host
    if family == AF_INET6 and host[:12] == _MAPPED:
        family, host = AF_INET, host[12:]
    name = next((name for name, number in families().items() if number == family), "")
    if family == AF_UNIX:
        if address.path is not None:
            return "unix:" + literal(address.path)
        if address.abstract is not None:
            return "unix:@" + literal(address.abstract)
        return "unix:"
    if name == "inet" and len(host) == 4:
        return f"inet:{ipaddress.IPv4Address(host)}:{address.port}"
    if name == "inet6" and len(host) == 16:
        return f"inet6:[{ipaddress.IPv6Address(host)}]:{address.port}"
    return name
