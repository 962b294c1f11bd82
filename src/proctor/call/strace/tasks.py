"""Calls on processes and their times whose arguments depend on one of them: clone, prctl..."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from proctor.call.decode.values import Address, SignalSet, signal_name
from proctor.call.strace import memory as text_memory
from proctor.call.strace.line import Parts, Special, View, as_int, hexadecimal


def _clone(view: View) -> Parts:
    flags = view.number("flags")
    names, ends = view.word("CloneFlag", flags & ~0xFF), flags & 0xFF
    text = "|".join(([names] if flags & ~0xFF else []) + ([signal_name(ends)] if ends else []))
    parts = [f"child_stack={view.named('stack')}", f"flags={text or '0'}"]
    if flags & 0x101000:  # CLONE_PARENT_SETTID, CLONE_PIDFD
        parts.append(f"parent_tid={view.named('parent_tid')}")
    if flags & 0x80000:
        parts.append(f"tls={Address(view.number('tls'))}")
    if flags & 0x1200000:
        parts.append(f"child_tidptr={view.named('child_tid')}")
    return "clone", parts


#: How many arguments an option has, and what they are: a family, "int", "ulong", "address".
_PRCTL: Final[dict[int, tuple[str, ...]]] = {
    1: ("signal",), 2: ("address",), 3: (), 4: ("PrDumpable",), 5: ("address",), 6: ("int",), 7: (),
    8: ("int",), 9: ("address",), 11: ("address",), 13: (), 14: ("int",), 15: ("name",),
    16: ("address",), 19: ("address",), 21: (), 22: ("SeccompMode", "fprog"),
    23: ("Capability",), 24: ("Capability",), 25: ("address",), 26: ("int",), 27: (),
    28: ("PrSecurebits",), 29: ("ulong",), 30: (), 31: (), 32: (), 35: ("PrMm", "address", "hex", "hex"),
    36: ("ulong",), 37: ("address",), 38: ("int", "int", "int", "int"),
    39: ("int", "int", "int", "int"), 40: ("address",),
    41: ("ulong", "int", "int", "int"), 42: ("int", "int", "int", "int"),
    47: ("PrCapAmbient", "Capability", "int", "int"),
    52: ("PrSpeculation",), 53: ("PrSpeculation", "PrSpeculationCtrl"),
    62: ("PrSchedCore", "int", "int", "address"),
    0x53564D41: ("PrVma", "address", "ulong", "text"), 0x59616D61: ("tracer",),
}  # fmt: skip


def _prctl(view: View) -> Parts:
    op = view.number("op")
    kinds = _PRCTL.get(op)
    numbers = [view.number(f"arg{n}") for n in range(2, 6)]
    parts = [view.named("op")]
    if kinds is None:
        return "prctl", parts + [hexadecimal(number) for number in numbers]
    for kind, number in zip(kinds, numbers, strict=False):
        parts.append(_prctl_argument(view, kind, number))
    if op == 22 and numbers[0] != 2:
        del parts[2:]
    return "prctl", parts


def _prctl_argument(view: View, kind: str, number: int) -> str:
    if kind == "signal":
        return signal_name(number) if number else "0"
    if kind == "address":
        return str(Address(number))
    if kind == "name":  # TASK_COMM_LEN
        return view.try_to(number, lambda: text_memory.string(view, number, limit=15))
    if kind == "text":
        return view.try_to(number, lambda: text_memory.string(view, number, limit=80))
    if kind == "fprog":
        return view.structure("sock_fprog", number)
    if kind == "tracer":
        word = view.signature.word
        return "PR_SET_PTRACER_ANY" if number == (1 << word * 8) - 1 else str(as_int(number))
    if kind == "int":
        return str(number if number < 0x80000000 else as_int(number))
    if kind in ("ulong", "hex"):
        return str(number) if kind == "ulong" or not number else f"{number:#x}"
    return view.word(kind, number)


def _ptrace(view: View) -> Parts:
    op, data = view.number("op"), view.number("data")
    parts = view.all()
    if op == 0:
        return "ptrace", parts[:1]
    if op in (16, 0x4207, 0x4208):  # ATTACH, INTERRUPT, LISTEN
        return "ptrace", parts[:2]
    parts[2] = str(Address(view.number("addr")))
    if op in (0x4200, 0x4206):  # SETOPTIONS, SEIZE
        parts[3] = view.word("PtraceOption", data)
    elif op in (7, 9, 17, 24):  # CONT, SINGLESTEP, DETACH, SYSCALL
        parts[3] = signal_name(data) if data else "0"
    else:
        parts[3] = str(Address(data))
    return "ptrace", parts


def _ioprio(view: View) -> Parts:
    parts = view.all()
    value = view.number("ioprio")
    parts[2] = f"IOPRIO_PRIO_VALUE({view.word('IoprioClass', value >> 13 & 7)}, {value & 0x1FFF})"
    return "ioprio_set", parts


def _one_int(index: int) -> Callable[[View], Parts]:
    """sched_setparam and sched_setscheduler: strace writes the structure's one number in brackets."""

    def write(view: View) -> Parts:
        parts = view.all()
        if parts[index].lstrip("-").isdigit():
            parts[index] = f"[{parts[index]}]"
        return view.call.name, parts

    return write


def _personality(view: View) -> Parts:
    number = view.number("persona")
    if number == 0xFFFFFFFF:
        return "personality", ["0xffffffff"]
    base, names = number & 0xFF, view.word("Personality", number & ~0xFF)
    first = {0: "PER_LINUX", 8: "PER_LINUX32"}.get(base, f"{base:#x}")
    return "personality", [f"{first}|{names}" if number & ~0xFF else first]


def _clock_nanosleep(view: View) -> Parts:
    parts = view.all()
    clock = view.number("clockid")
    if clock < 0:  # the clock of a process or thread, or of a file: clock_getres(2)
        parts[0] = f"{clock & 0xFFFFFFFF:#x}"
    return view.call.name, parts


def _kcmp(view: View) -> Parts:
    parts = view.all()
    return "kcmp", parts if view.number("type") in (0, 7) else parts[:3]  # FILE, EPOLL_TFD


def _signal_word(view: View) -> Parts:
    """sigsuspend and ssetmask of 32-bit programs: a set in a register."""
    argument = "mask" if view.call.name == "sigsuspend" else "newmask"
    return view.call.name, [str(SignalSet(view.number(argument) & 0xFFFFFFFF))]


def _signal(view: View) -> Parts:
    handler = view.number("handler")
    text = ("SIG_DFL", "SIG_IGN")[handler] if handler < 2 else str(Address(handler))
    return "signal", [view.named("signum"), text]


CALLS: Final[dict[str, Special]] = {
    "clone": _clone, "prctl": _prctl, "ptrace": _ptrace, "ioprio_set": _ioprio,
    "sched_setparam": _one_int(1), "sched_setscheduler": _one_int(2),
    "kcmp": _kcmp, "sigsuspend": _signal_word, "ssetmask": _signal_word, "signal": _signal,
    "personality": _personality, "clock_nanosleep": _clock_nanosleep,
}  # fmt: skip
