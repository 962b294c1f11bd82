"""Calls on sockets whose arguments depend on one of them: protocols, options, socketcall."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from proctor.call.call import Call
from proctor.call.strace import memory as text_memory
from proctor.call.strace.line import Parts, Special, View

if TYPE_CHECKING:
    from proctor.call.ports import MemoryPort
    from proctor.syscalls.signatures import Signature


_PROTOCOLS: Final = {2: "IpProtocol", 10: "IpProtocol", 16: "NetlinkProtocol", 29: "CanProtocol"}


def _socket(view: View) -> Parts:
    parts = view.all()
    domain, protocol = view.number("domain"), view.number("protocol")
    family = _PROTOCOLS.get(domain)
    if family is not None:
        parts[2] = view.word(family, protocol)
    elif domain == 17:
        swapped = (protocol & 0xFF) << 8 | protocol >> 8 & 0xFF
        parts[2] = f"htons({view.word('EtherType', swapped)})" if protocol else "0"
    return view.call.name, parts


_OPTIONS: Final = {0: "IpOpt", 1: "SockOpt", 6: "TcpOpt", 41: "Ipv6Opt"}


#: Options of SOL_SOCKET that are no int.
_OPTION_SHAPES: Final = {
    "SO_LINGER": "linger", "SO_ATTACH_FILTER": "sock_fprog",
    "SO_ATTACH_REUSEPORT_CBPF": "sock_fprog", "SO_BINDTODEVICE": "", "SO_RCVTIMEO_OLD": "",
    "SO_SNDTIMEO_OLD": "", "SO_RCVTIMEO_NEW": "", "SO_SNDTIMEO_NEW": "",
}  # fmt: skip


def _sockopt(view: View) -> Parts:
    parts = view.all()
    level, name = view.number("level"), view.number("optname")
    family = _OPTIONS.get(level)
    if family is not None:
        parts[2] = view.word(family, name)
    if view.call.name == "setsockopt":
        address, size = view.number("optval"), view.number("optlen")
        shape = _OPTION_SHAPES.get(parts[2], "int")
        if shape in ("linger", "sock_fprog"):
            parts[3] = view.structure(shape, address)
        elif size == 4 and shape == "int":
            parts[3] = view.one("i32", address)
        elif size > 0:
            parts[3] = view.try_to(address, lambda: text_memory.data(view, address, size))
    return view.call.name, parts


_SOCKETCALLS: Final = (
    "", "socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername",
    "socketpair", "send", "recv", "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt",
    "sendmsg", "recvmsg", "accept4", "recvmmsg", "sendmmsg",
)  # fmt: skip


class _Inner(Call):
    """The call that a multiplexer's arguments in memory stand for."""

    def __init__(self, outer: Call, signature: Signature, raw: tuple[int, ...]) -> None:
        # No Call.__init__: a call that is over, for one, is written from its registers alone.
        self._notification, self._outer = outer._notification, outer
        self._known, self._raw = signature, (*raw, *[0] * (6 - len(raw)))

    @property
    def memory(self) -> MemoryPort:
        return self._outer.memory  # which notes that it was looked at

    @property
    def name(self) -> str:
        return self._known.name

    @property
    def signature(self) -> Signature | None:
        return self._known

    @property
    def registers(self) -> Any:
        return self._raw


def _socketcall(view: View) -> Parts:
    """The call that it stands for, as if it had been made by itself."""
    from proctor.syscalls.signatures import signature

    number, address = view.number("call"), view.number("args")
    name = _SOCKETCALLS[number] if 0 < number < len(_SOCKETCALLS) else ""
    inner = signature(name, view.call.abi) if name else None
    if inner is None or not view.read:
        return view.call.name, view.all()
    count, found = len(inner.args), []

    def numbers() -> str:
        words = view.frame.memory.read(address, count * view.signature.word)
        code = "I" if view.signature.word == 4 else "Q"
        found.append(struct.unpack(f"{view.frame.end}{count}{code}", words))
        return ""

    text = view.try_to(address, numbers)
    if not found:
        return view.call.name, [view.named("call"), text]
    return write_inner(view, inner, found[0], CALLS)


def write_inner(
    view: View, inner: Signature, raw: tuple[int, ...], calls: Mapping[str, Special]
) -> Parts:
    """A multiplexed call as if it had been made by itself.

    :param calls: the calls that have a way of their own to be written."""
    within = View(_Inner(view.call, inner, raw), view.read)
    special = calls.get(inner.name)
    return special(within) if special is not None else (inner.name, within.all())


CALLS: Final[dict[str, Special]] = {
    "socket": _socket, "socketpair": _socket, "setsockopt": _sockopt, "getsockopt": _sockopt,
    "socketcall": _socketcall,
}  # fmt: skip
