"""What rules look at: one call, of which each thing is looked at once and kept.

So the rule that decides, the reason it gives and the tip speak of the same.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from proctor.call.path.following import Sought, sought
from proctor.errors import CallerInvisible, CallGone, NotPermitted, NotResolved, Unsupported

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.decode import sockaddr
    from proctor.policy.addresses import Address

#: What can be looked at behind an argument: the path it resolves to in the caller's view, the text
#: as it was passed, the socket address, or strings (argv), with a NUL between them.
What = Literal["path", "text", "address", "words"]

#: What reading memory fails with for reasons that the kernel would find as well.
_KERNELS_OWN: Final = frozenset(
    (errno.EFAULT, errno.ENAMETOOLONG, errno.EINVAL, errno.E2BIG, errno.EMSGSIZE)
)


class Unknowable(Exception):
    """A condition cannot be decided.

    ``errno`` is what the kernel itself would answer for the same reason (EFAULT for a bad pointer),
    0 if the reason is ours: then the policy's ``on_error`` holds.
    """

    def __init__(self, errno: int, why: str) -> None:
        super().__init__(why)
        self.errno = errno
        self.why = why


class Unread(Unknowable):
    """A socket address is none of its family, or a path or another text cannot be read: the kernel finds that, too, but what else is wrong
    with the call may come first."""


class Unresolved(Unknowable):
    """A path cannot be followed by the monitor.  What it met is not for the caller, whose own way may
    end elsewhere: where a rule would have the call made, the making finds out."""


class Unlooked(Exception):
    """Where something leads is to be found out by somebody who sees what the caller sees."""

    def __init__(self, key: tuple[str, str], what: Sought) -> None:
        super().__init__(key)
        self.key = key
        self.what = what
        #: Whether the call is performed, whatever is found out.
        self.performed = False


_UNSEEN: Final = object()
#: Among what was seen: it is not for us to look where something leads.
_NOT_OURS: Final = ("look", "as the caller")
#: What leads somewhere: a path, and the file of a socket.
_PLACES: Final = ("path", "socket")
_TEXTS: Final = ("path", "text")


class Look:
    """One call as rules see it.

    :param call: real or fake (:mod:`proctor.testing`).
    :param pinned: paths by argument, of what is held already and will be acted on: they stand in the
        place of what the arguments resolve to.
    """

    __slots__ = ("_pinned", "_seen", "call")

    def __init__(self, call: Call, pinned: Mapping[str, bytes] | None = None) -> None:
        self.call = call
        self._pinned = pinned or {}
        self._seen: dict[tuple[str, str], Any] = {}

    @classmethod
    def of_callers(cls, call: Call) -> Look:
        """The same, as its caller sees it: what takes a look at a file system raises :class:`Unlooked`, until it is
        :meth:`told`.  But a call of which something is made up (:mod:`proctor.testing`) is only looked at."""
        look = cls(call)
        if call.is_real:
            look._seen[_NOT_OURS] = True
        return look

    def told(self, key: tuple[str, str], found: bytes | int | None) -> None:
        """What was found in the place of an :class:`Unlooked`: a name, or an errno; None if the monitor sees no
        more than the caller, and may look itself."""
        if found is None:
            self._seen.pop(_NOT_OURS, None)
            return
        name = key[1]
        if isinstance(found, bytes):
            self._seen[key] = found
            if key[0] == "path":
                self.call.found(name, found)
        else:
            why = f"{name} of {self.call.name}: {os.strerror(found)}, as the caller"
            self._seen[key] = Unresolved(0, why)

    def freely(self) -> Look:
        """The same call, and what was seen of it, for whoever tells nothing to the caller."""
        other = Look(self.call, self._pinned)
        other._seen = {key: seen for key, seen in self._seen.items() if key != _NOT_OURS}
        return other

    def with_pinned(self, pinned: Mapping[str, bytes]) -> Look:
        """The same call, and what was seen of it, but with these paths."""
        other = Look(self.call, pinned)
        other._seen = self._seen
        return other

    def seen(self, argument: str, name: bytes | int | None) -> Look:
        """Itself, if where a path leads was found out already.

        :param name: what it leads to, an errno if it cannot be followed, None if nobody asked."""
        if isinstance(name, bytes):
            self._seen["path", argument] = name
        elif name is not None:
            self._seen["path", argument] = Unresolved(
                0, f"{argument} of {self.call.name}: {os.strerror(name)}"
            )
        return self

    def blind(self, kind: type[Look]) -> Look:
        """The same call, and what was seen of it, for whoever sees less."""
        other = kind(self.call)
        other._seen = self._seen
        return other

    def at(self, what: What, argument: str) -> Any:
        """What stands behind an argument: bytes, or an :class:`~proctor.policy.addresses.Address`;
        None for a NULL pointer that means nothing.

        :raises Unknowable: it cannot be told.
        :raises CallGone: the caller is gone.
        """
        if self._pinned and argument in self._pinned:
            if what == "path":
                return self._pinned[argument]
            if what == "address":
                return _file(self._pinned[argument])
        if what == "address":
            return self._address(argument)
        return self._once(what, argument)

    def _address(self, argument: str) -> Address | None:
        """A socket address as patterns see it.  The path of a socket file is followed in the caller's view, so that a
        relative path or a symbolic link is no other name for it."""
        value = self._once("sockaddr", argument)
        if getattr(value, "kind", "") == "pathname":
            return _file(self._once("socket", argument))
        return None if value is None else _address(self.call, value)

    def named(self, argument: str) -> Any:
        """The socket address in an argument, wherever it leads.

        :raises Unknowable: it cannot be read."""
        return self._once("sockaddr", argument)

    def identity(self, which: str) -> int:
        """``uid`` or ``gid``: the caller's effective one, as the monitor's user namespace counts.

        :raises Unknowable: it cannot be told.
        """
        found: int = self._once("identity", which)
        return found

    def ancestors(self) -> tuple[bytes, ...]:
        """What the caller and those that it comes of run.

        :raises Unknowable: it cannot be told."""
        found: tuple[bytes, ...] = self._once("ancestors", "caller")
        return found

    def _once(self, what: str, argument: str) -> Any:
        key = (what, argument)
        found = self._seen.get(key, _UNSEEN)
        if found is _UNSEEN:
            try:
                if what in _PLACES and _NOT_OURS in self._seen:
                    where = _sought(self.call, what, argument)
                    if where.path or where.empty or self.call.args[argument] is not None:
                        raise Unlooked(key, where)
                    self._seen[key] = None  # a NULL that means nothing
                    return None
                found = self._seen[key] = _look(self.call, what, argument)
                return found
            except CallGone:
                raise
            except (CallerInvisible, NotPermitted, Unsupported) as error:
                found = Unknowable(0, str(error))
            except NotResolved as error:
                found = Unresolved(0, f"{argument} of {self.call.name}: {error.strerror}")
            except OSError as error:
                number = error.errno or 0
                why = f"{argument} of {self.call.name}: {error.strerror or error}"
                kind = Unread if what in _TEXTS and number in _KERNELS_OWN else Unknowable
                found = kind(number if number in _KERNELS_OWN else 0, why)
            self._seen[key] = found
        if isinstance(found, Unknowable):
            raise type(found)(
                found.errno, found.why
            )  # anew: a traceback holds the frames, and they hold us
        return found


def _look(call: Call, what: str, argument: str) -> Any:
    if what == "identity":
        return (call.caller.uids if argument == "uid" else call.caller.gids).effective
    if what == "ancestors":
        from proctor.call.ancestry import programs

        return programs(call.caller)
    if what == "path":
        # binds nothing: what is pinned is judged anew (perform's allow)
        return call.where(argument)
    if what == "socket":
        with call.caller.locate(**_sought(call, what, argument)._asdict()) as located:
            return located.path
    value = call.args[argument]
    if what == "sockaddr":
        if meant(call) in ("sendmsg", "sendmmsg"):
            return _of_messages(call, value)
        # nothing is read of an address of no length, which connected sockets send without (move_addr_to_kernel)
        empty = meant(call) == "sendto" and value is not None and value == (-1, b"")
        return None if empty else value
    if what == "words":  # no vector, or an empty one, is one empty string (do_execveat_common)
        return b"\0".join(value or ())
    return value


def _sought(call: Call, what: str, argument: str) -> Sought:
    if what == "path":
        return sought(call, argument)
    # bind(2) makes the name and does not follow a link there; the others follow.
    return Sought(_look(call, "sockaddr", argument).path, follow=meant(call) != "bind")


def meant(call: Call) -> str:
    """The name of a call, or of the one that socketcall stands for."""
    frame = call.frame if call.name == "socketcall" else None
    return call.name if frame is None else frame.signature.name


def _of_messages(call: Call, value: Any) -> sockaddr.SocketAddress | None:
    """The address that sendmsg(2) and sendmmsg(2) have in the headers of messages.

    :raises Unknowable: messages go to several, or by a way of their own."""
    from proctor.call.messages import routed

    headers = value if not hasattr(value, "namelen") else (value,)
    frame = call.frame
    if frame is not None and any(routed(frame, each) for each in headers):
        raise Unknowable(0, "a message says itself by which hosts it goes")
    addresses = {each.address for each in headers}
    if len(addresses) > 1:
        raise Unknowable(0, "messages to several addresses in one call")
    return addresses.pop() if addresses else None


# What is only for addresses is loaded with the first pattern of one (:mod:`proctor.policy.addresses`).


def _file(path: bytes) -> Address:
    """The address of a socket file."""
    from proctor.call.decode.sockaddr import AF_UNIX
    from proctor.policy.addresses import Address

    return Address(AF_UNIX, path=path)


def _address(call: Call, value: sockaddr.SocketAddress) -> Address:
    """A decoded address, which is no socket file's, as patterns see it."""
    from proctor.call.decode import sockaddr
    from proctor.policy.addresses import Address

    if isinstance(value, sockaddr.UnixAddress) and value.kind == "abstract":
        return Address(sockaddr.AF_UNIX, abstract=value.path)
    if isinstance(value, (sockaddr.InetAddress, sockaddr.Inet6Address)):
        from ipaddress import ip_address

        return _of_host(call, value.family, ip_address(value.host).packed, value.port)
    if isinstance(value, sockaddr.RawAddress):
        # What it means that no family is given is for each call to say: connect(2) dissolves an
        # association (inet_dgram_connect and __inet_stream_connect of net/ipv4/af_inet.c, likewise
        # net/unix/af_unix.c and net/netlink/af_netlink.c), while bind(2) and sendto(2) of IPv4 take
        # the rest for an IPv4 address (__inet_bind of net/ipv4/af_inet.c, udp_sendmsg of
        # net/ipv4/udp.c; Linux 6.18), so rules on inet must see it.
        if value.family == 0 and meant(call) != "connect" and len(value.data) >= 6:
            port = int.from_bytes(value.data[:2], "big")
            return _of_host(call, sockaddr.AF_INET, value.data[2:6], port)
        short = (sockaddr.AF_INET, sockaddr.AF_INET6, sockaddr.AF_UNIX)
        if value.family < 0 or value.family in short:
            raise Unread(errno.EINVAL, "the socket address is too short or too long for its family")
    return Address(int(value.family))


def _of_host(call: Call, family: int, host: bytes, port: int) -> Address:
    from proctor.call.decode.sockaddr import reached
    from proctor.policy.addresses import Address

    leads = host if meant(call) == "bind" else reached(host)
    if leads == host:
        return Address(family, host, port)
    call.names_reached = True  # a bound socket's would be its own, which nobody was asked about
    return Address(family, leads, port, written=host)
