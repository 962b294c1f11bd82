"""Calls on files and memory whose arguments depend on one of them: fcntl, ioctl, mmap..."""

from __future__ import annotations

from typing import Any, Final

from proctor.call.decode.values import Address, signal_name
from proctor.call.strace import memory as text_memory
from proctor.call.strace.line import Parts, Special, View, as_int, hexadecimal

_FCNTL: Final[dict[int, str]] = {
    0: "int", 1: "", 2: "FdFlag", 3: "", 4: "OpenFlag", 5: "lock", 6: "lock", 7: "lock", 8: "int",
    9: "", 10: "signal", 11: "", 12: "lock64", 13: "lock64", 14: "lock64", 15: "f_owner_ex",
    36: "lock64", 37: "lock64", 38: "lock64", 1024: "LockType", 1025: "", 1026: "NotifyFlag",
    1027: "int", 1030: "int", 1031: "int", 1032: "", 1033: "SealFlag", 1034: "",
}  # fmt: skip


def _fcntl(view: View) -> Parts:
    op, number = view.number("op"), view.number("arg")
    parts = [view.named("fd"), view.named("op")]
    kind = _FCNTL.get(op)
    if kind is None:
        parts.append(str(Address(number)) if 1036 <= op <= 1040 or op == 16 else f"{number:#x}")
    elif kind[:4] == "lock":
        name = "flock64" if kind == "lock64" else "flock"
        parts.append(view.structure(name, number))
    elif kind == "f_owner_ex":
        parts.append(view.structure(kind, number))
    elif kind == "int":
        parts.append(str(as_int(number)))
    elif kind == "signal":
        parts.append(signal_name(as_int(number)) if as_int(number) else "0")
    elif kind:
        parts.append(view.word(kind, number & 0xFFFFFFFF))
    return view.call.name, parts


_IOCTL: Final[dict[int, str]] = {
    0x5412: "text", 0x5414: "winsize", 0x5421: "[i32", 0x5423: "[i32", 0x5410: "[i32",
    0x5452: "[i32", 0x40045431: "[i32", 0x541D: "", 0x540C: "", 0x540D: "", 0x5422: "",
    0x5450: "", 0x5451: "", 0x40049409: "int", 0x5409: "int", 0x540A: "int", 0x540B: "int",
    0x540E: "int", 0x4C00: "int", 0x4C01: "", 0x8913: "ifreq_name", 0x8914: "ifreq_flags",
    0x8915: "ifreq_name", 0x8927: "ifreq_name", 0x8933: "ifreq_name", 0x400454CA: "ifreq_tun",
    0x40086602: "[i32",
}  # fmt: skip


_DIRECTIONS: Final = ("_IOC_NONE", "_IOC_WRITE", "_IOC_READ", "_IOC_READ|_IOC_WRITE")


def _ioctl(view: View) -> Parts:
    op, number = view.number("op"), view.number("arg")
    request = view.named("op")
    if request[:2] == "0x" and op > 0xFFFF:
        request = (
            f"_IOC({_DIRECTIONS[op >> 30]}, {op >> 8 & 0xFF:#x}, {op & 0xFF:#x}, "
            f"{op >> 16 & 0x3FFF:#x})"
        )
    parts = [view.named("fd"), request]
    kind = _IOCTL.get(op)
    if kind is None:
        parts.append(f"{number:#x}")
    elif kind == "int":
        parts.append(str(as_int(number)))
    elif kind == "text":
        parts.append(view.try_to(number, lambda: text_memory.data(view, number, 1)))
    elif kind[:1] == "[":
        parts.append(view.one(kind[1:], number))
    elif kind:
        parts.append(view.structure(kind, number))
    return "ioctl", parts


def _fsconfig(view: View) -> Parts:
    parts = view.all()
    value, aux = view.number("value"), view.number("aux")
    command = view.number("cmd")
    if command == 1:
        parts[3] = view.try_to(value, lambda: text_memory.string(view, value, limit=256))
    elif command == 2:
        parts[3] = view.try_to(value, lambda: text_memory.data(view, value, max(aux, 0)))
    elif command in (3, 4):
        parts[3] = view.try_to(value, lambda: text_memory.string(view, value))
        parts[4] = "AT_FDCWD" if aux == -100 else str(aux)
    return "fsconfig", parts


def _quotactl(view: View) -> Parts:
    parts = view.all()
    op = view.number("op")
    command, kind = view.word("QuotaCmd", op >> 8), view.word("QuotaType", op & 0xFF)
    parts[0 if view.call.name == "quotactl" else 1] = f"QCMD({command}, {kind})"
    return view.call.name, parts


def _mremap(view: View) -> Parts:
    parts = view.all()
    return "mremap", parts if view.number("flags") & 6 else parts[:4]


def _flat(view: View) -> Parts:
    """mmap and select of i386, whose arguments are in memory."""
    arg = view.signature.args[0]
    if not view.read and arg.name not in (view.call._values or {}):
        return view.call.name, [view.text(arg)]
    whole = view.text(arg)
    found: Any = (view.call._values or {}).get(arg.name)
    if found is None:
        return view.call.name, [whole]
    if view.call.name == "mmap":
        parts = [str(Address(found.address)), str(found.length), str(found.prot)]
        return "mmap", [*parts, str(found.flags), str(found.fd), hexadecimal(found.offset)]
    sets = [
        view.try_to(at, lambda at=at: text_memory._descriptors(view, at, found.nfds))  # type: ignore[misc]
        for at in found[1:4]
    ]
    return "select", [str(found.nfds), *sets, view.structure("timeval", found.timeout)]


def _mmap(view: View) -> Parts:
    if view.signature.args[0].role == "struct":
        return _flat(view)
    parts = view.all()
    shift = 12 if view.call.name == "mmap2" else 0
    parts[5] = hexadecimal(view.signature.args[5].value(view.call.registers) << shift)
    return view.call.name, parts


def _select(view: View) -> Parts:
    return _flat(view) if view.signature.args[0].role == "struct" else ("select", view.all())


def _llseek(view: View) -> Parts:
    offset = view.number("offset_high") << 32 | view.number("offset_low")
    offset -= offset >> 63 << 64
    return "_llseek", [view.named("fd"), str(offset), view.named("result"), view.named("whence")]


def _position(view: View) -> Parts:
    """preadv and the like: one position in two registers."""
    if "pos_l" not in view.signature:  # x32
        return view.call.name, view.all()
    low, high = view.number("pos_l"), view.number("pos_h")
    at = low | high << 32 if view.signature.word == 4 else low
    at -= at >> 63 << 64
    parts = [view.text(a) for a in view.signature.args if a.name not in ("pos_l", "pos_h")]
    return view.call.name, [*parts[:3], str(at), *parts[3:]]


def _umask(view: View) -> Parts:
    return "umask", [f"0{view.number('mask') & 0xFFFF:02o}"]


def _epoll_ctl(view: View) -> Parts:
    if view.number("op") != 2:  # EPOLL_CTL_DEL does not look at the event
        return "epoll_ctl", view.all()
    event = str(Address(view.number("event")))
    return "epoll_ctl", [view.text(arg) for arg in view.signature.args[:3]] + [event]


CALLS: Final[dict[str, Special]] = {
    "fcntl": _fcntl, "fcntl64": _fcntl, "ioctl": _ioctl, "fsconfig": _fsconfig,
    "quotactl": _quotactl, "quotactl_fd": _quotactl, "mremap": _mremap, "mmap": _mmap,
    "mmap2": _mmap, "select": _select, "_llseek": _llseek, "preadv": _position,
    "preadv2": _position, "pwritev": _position, "pwritev2": _position, "umask": _umask,
    "epoll_ctl": _epoll_ctl,
}  # fmt: skip
