"""Calls whose arguments depend on one of them: fcntl, prctl, futex, ioctl and the like.

Each function gives the name and the arguments as strace writes them: those that the kernel looks at.
"""

from __future__ import annotations

import struct
from typing import Final

from proctor.call.decode.values import Address
from proctor.call.strace import files as text_files
from proctor.call.strace import memory as text_memory
from proctor.call.strace import sockets as text_sockets
from proctor.call.strace import tasks as text_tasks
from proctor.call.strace.line import Parts, Special, View, as_int, hexadecimal


def _futex(view: View) -> Parts:
    op = view.number("op")
    command = op & 0x7F
    name = view.word("FutexOp", op & ~0x100)
    if op & 0x100:
        name += "|FUTEX_CLOCK_REALTIME"
    wide = view.call.name == "futex_time64" or view.signature.word == 8
    at, second = view.number("timeout"), view.number("uaddr2")
    uaddr, val, uaddr2 = view.named("uaddr"), view.named("val"), str(Address(second))
    val3 = view.number("val3")
    parts = [uaddr, name]
    if command in (0, 9, 11, 6, 13):  # what takes a timeout
        timeout = view.structure("timespec64" if wide else "timespec", at)
        parts += [timeout] if command in (6, 13) else [val, timeout]
        if command == 9:
            parts.append(_bitset(val3))
        elif command == 11:
            parts.append(uaddr2)
    elif command in (1, 2):
        parts.append(val)
    elif command == 10:
        parts += [val, _bitset(val3)]
    elif command in (3, 4, 12):
        parts += [val, str(as_int(at)), uaddr2]
        parts += [str(val3)] if command != 3 else []
    elif command == 5:
        parts += [val, str(as_int(at)), uaddr2, _wake_op(val3)]
    elif command not in (7, 8):
        parts += [val, hexadecimal(at), uaddr2, hexadecimal(val3)]
    return view.call.name, parts


def _bitset(number: int) -> str:
    return "FUTEX_BITSET_MATCH_ANY" if number == 0xFFFFFFFF else hexadecimal(number)


def _wake_op(number: int) -> str:
    op, compare = number >> 28, number >> 24 & 0xF
    ops = ("SET", "ADD", "OR", "ANDN", "XOR")
    compares = ("EQ", "NE", "LT", "LE", "GT", "GE")
    shift = "FUTEX_OP_OPARG_SHIFT<<28|" if op & 8 else ""
    first = f"FUTEX_OP_{ops[op & 7]}" if op & 7 < 5 else f"{op & 7:#x}"
    second = f"FUTEX_OP_CMP_{compares[compare]}" if compare < 6 else f"{compare:#x}"
    return f"{shift}{first}<<28|{number >> 12 & 0xFFF:#x}<<12|{second}<<24|{number & 0xFFF:#x}"


def _seccomp(view: View) -> Parts:
    parts = view.all()
    address, operation = view.number("args"), view.number("operation")
    if operation == 1:
        parts[2] = view.structure("sock_fprog", address)
    elif operation == 2:
        parts[1] = hexadecimal(view.number("flags"))
        parts[2] = view.try_to(address, lambda: _action(view, address))
    else:
        parts[1] = hexadecimal(view.number("flags"))
    return "seccomp", parts


def _action(view: View, address: int) -> str:
    number = struct.unpack(view.frame.end + "I", view.frame.memory.read(address, 4))[0]
    return f"[{view.word('SeccompAction', number)}]"


#: keyctl's arguments by command: k a key or keyring, d a number, x bits, m
#: permissions, p an address, s a string.
_KEYCTL: Final[dict[int, str]] = {
    0: "kd", 1: "s", 2: "kpd", 3: "k", 4: "kdd", 5: "km", 6: "kpd", 7: "k", 8: "kk", 9: "kk",
    10: "kssk", 11: "kpd", 12: "kpdk", 13: "kdk", 14: "d", 15: "kd", 16: "k", 17: "kpd", 18: "",
    19: "kddk", 20: "kpdk", 21: "k", 22: "dk", 29: "kss", 30: "kkkx", 31: "pd", 32: "kdd",
}  # fmt: skip


def _keyctl(view: View) -> Parts:
    kinds = _KEYCTL.get(view.number("op"), "xxxx")
    parts = [view.named("op")]
    for index, kind in enumerate(kinds):
        number = view.number(f"arg{index + 2}")
        if kind == "k":
            parts.append(view.word("KeySpec", as_int(number)))
        elif kind == "d":
            parts.append(str(as_int(number)))
        elif kind == "m":
            parts.append(view.word("KeyPermission", number & 0xFFFFFFFF))
        elif kind == "s":
            parts.append(_short(view, number))
        else:
            parts.append(str(Address(number)) if kind == "p" else hexadecimal(number))
    return "keyctl", parts


def _short(view: View, address: int) -> str:
    return view.try_to(address, lambda: text_memory.string(view, address, limit=256))


def _ipc(view: View) -> Parts:
    """The control calls: a command that 32-bit libraries mark as "with 64-bit structures"."""
    parts = view.all()
    index = [arg.name for arg in view.signature.args].index("op")
    op = view.number("op")
    if op & 0x100:
        family = view.signature.args[index].family or ""
        parts[index] = f"IPC_64|{view.word(family, op & ~0x100)}"
    if view.call.name == "semctl":
        number = view.number("arg")
        parts[3] = f"{number:#x}" if number else "NULL"
    return view.call.name, parts


#: ipc's calls, and which of its arguments theirs are.
_IPC_CALLS: Final[dict[int, tuple[str, tuple[str, ...]]]] = {
    1: ("semop", ("first", "ptr", "second")), 2: ("semget", ("first", "second", "third")),
    4: ("semtimedop", ("first", "ptr", "second", "fifth")),
    11: ("msgsnd", ("first", "ptr", "second", "third")), 13: ("msgget", ("first", "second")),
    14: ("msgctl", ("first", "second", "ptr")), 21: ("shmat", ("first", "ptr", "second")),
    22: ("shmdt", ("ptr",)), 23: ("shmget", ("first", "second", "third")),
    24: ("shmctl", ("first", "second", "ptr")),
}  # fmt: skip


def _ipc_call(view: View) -> Parts:
    """The call that it stands for, as if it had been made by itself."""
    from proctor.syscalls.signatures import signature

    name, arguments = _IPC_CALLS.get(view.number("call"), ("", ()))
    inner = signature(name, view.call.abi) if name else None
    if inner is None:
        return "ipc", view.all()
    raw = tuple(view.number(each) for each in arguments)
    return text_sockets.write_inner(view, inner, raw, CALLS)


def _get(view: View) -> Parts:
    """semget, shmget, msgget: a key in hexadecimal."""
    parts = view.all()
    key = view.number("key") & 0xFFFFFFFF
    parts[0] = f"{key:#x}" if key else "IPC_PRIVATE"
    return view.call.name, parts


def _reboot(view: View) -> Parts:
    parts = view.all()
    address = view.number("arg")
    if view.number("op") != 0xA1B2C3D4:  # RESTART2
        return "reboot", parts[:3]
    parts[3] = _short(view, address)
    return "reboot", parts


def _membarrier(view: View) -> Parts:
    parts = view.all()
    return "membarrier", parts if view.number("flags") else parts[:2]


CALLS: Final[dict[str, Special]] = {
    **text_files.CALLS,
    **text_sockets.CALLS,
    **text_tasks.CALLS,
    "futex": _futex, "futex_time64": _futex, "seccomp": _seccomp, "keyctl": _keyctl,
    "semctl": _ipc, "shmctl": _ipc, "msgctl": _ipc, "semget": _get, "shmget": _get,
    "msgget": _get, "ipc": _ipc_call, "reboot": _reboot, "membarrier": _membarrier,
}  # fmt: skip
