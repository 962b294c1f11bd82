"""Structures whose layout depends on something: on a size, on a command, on what they hold.

As everywhere: what was read once is not read again, and what the kernel would refuse raises with its
errno.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from proctor.call.decode.layouts import PAGE_SIZE, Structure, layout
from proctor.call.decode.structures import Frame, extensible
from proctor.call.decode.values import Address, FileTime, SignalSet, signal_name
from proctor.errors import MemoryUnreadable
from proctor.syscalls.architectures import ARCHITECTURES


class CapabilitySet(int):
    """Capabilities as bits: bit 21 is CAP_SYS_ADMIN."""

    __slots__ = ()

    def __contains__(self, number: int) -> bool:
        return number >= 0 and bool(self >> number & 1)

    def __str__(self) -> str:
        from proctor.syscalls.flags import decode

        found = [decode("Capability", bit) for bit in range(64) if self >> bit & 1]
        return "|".join(f"1<<{each}" for each in found) or "0"

    def __repr__(self) -> str:
        return f"<CapabilitySet {self}>"


class Capabilities(NamedTuple):
    """What capset(2) sets."""

    effective: CapabilitySet
    permitted: CapabilitySet
    inheritable: CapabilitySet

    def __str__(self) -> str:
        return (
            f"{{effective={self.effective}, permitted={self.permitted}, "
            f"inheritable={self.inheritable}}}"
        )


class SignalEvent(NamedTuple):
    """``struct sigevent``; ``thread_id`` counts with SIGEV_THREAD_ID."""

    value: int
    signo: int
    notify: int
    thread_id: int

    def __str__(self) -> str:
        low = self.value & 0xFFFFFFFF
        pointer = f"{self.value:#x}" if self.value else "NULL"
        thread = f", sigev_notify_thread_id={self.thread_id}" if self.notify == 4 else ""
        signo = signal_name(self.signo) if self.signo else "0"
        return (
            f"{{sigev_value={{sival_int={low - (low >> 31 << 32)}, sival_ptr={pointer}}}, "
            f"sigev_signo={signo}, sigev_notify={_named(self.notify)}{thread}}}"
        )


class SignalInfo(NamedTuple):
    """``siginfo_t`` as somebody sends it: what SI_QUEUE has."""

    signo: int
    error: int
    code: int
    pid: int
    uid: int
    value: int

    def __str__(self) -> str:
        name = errno.errorcode.get(self.error, self.error)
        error = f", si_errno={name}" if self.error else ""
        text = f"si_signo={signal_name(self.signo)}, si_code={_named(self.code)}{error}"
        text += f", si_pid={self.pid}, si_uid={self.uid}"
        if self.code:  # not SI_USER: a value comes along
            low = self.value & 0xFFFFFFFF
            pointer = f"{self.value:#x}" if self.value else "NULL"
            text += f", si_int={low - (low >> 31 << 32)}, si_ptr={pointer}"
        return "{" + text + "}"


class FileHandle(NamedTuple):
    """``struct file_handle``."""

    type: int
    handle: bytes

    def __str__(self) -> str:
        shown = "".join(f"\\x{byte:02x}" for byte in self.handle)
        return f'{{handle_bytes={len(self.handle)}, handle_type={self.type}, f_handle="{shown}"}}'


class SignalMaskArgument(NamedTuple):
    """What pselect6 takes for its mask."""

    sigmask: SignalSet | None
    sigsetsize: int

    def __str__(self) -> str:
        mask = "NULL" if self.sigmask is None else str(self.sigmask)
        return f"{{sigmask={mask}, sigsetsize={self.sigsetsize}}}"


def _named(number: int) -> str:
    return f"{number & 0xFFFFFFFF:#x}" if type(number) is int else str(number)


def _flag(name: str, value: int) -> int:
    from proctor.syscalls import flags

    return flags.decode(name, value)


def refuse(number: int, what: str, address: int) -> MemoryUnreadable:
    """The error of what the kernel would not take."""
    return MemoryUnreadable(number, what, address)


def _sigset(frame: Frame, address: int) -> SignalSet:
    for name in ("sigsetsize", "sizemask"):
        if name in frame.signature and frame.other(name) != 8:
            raise refuse(errno.EINVAL, f"a signal set of {frame.other(name)} bytes", address)
    return _read_set(frame, address)


def _read_set(frame: Frame, address: int) -> SignalSet:
    return SignalSet(struct.unpack(frame.end + "Q", frame.memory.read(address, 8))[0])


def _old_sigset(frame: Frame, address: int) -> SignalSet:
    word = frame.signature.word
    data = frame.memory.read(address, word)
    return SignalSet(int.from_bytes(data, "little" if frame.end == "<" else "big"))


def _argpack(frame: Frame, address: int) -> SignalMaskArgument:
    code = "2I" if frame.signature.word == 4 else "2Q"
    mask, size = struct.unpack(
        frame.end + code, frame.memory.read(address, 2 * frame.signature.word)
    )
    if mask and size != 8:
        raise refuse(errno.EINVAL, f"a signal set of {size} bytes", address)
    return SignalMaskArgument(_read_set(frame, mask) if mask else None, size)


def _times(wide: bool) -> Callable[[Frame, int], tuple[FileTime, FileTime]]:
    def decode(frame: Frame, address: int) -> tuple[FileTime, FileTime]:
        code = "4i" if frame.signature.time32 and not wide else "4q"
        data = frame.memory.read(address, struct.calcsize("=" + code))
        first, part, second, part2 = struct.unpack(frame.end + code, data)
        if ARCHITECTURES[frame.signature.abi].word == 4:
            part, part2 = part & 0xFFFFFFFF, part2 & 0xFFFFFFFF
        return FileTime(first, part), FileTime(second, part2)

    return decode


def _timevals(frame: Frame, address: int) -> tuple[Structure, Structure]:
    one = layout("timeval", frame.signature)
    data = frame.memory.read(address, 2 * one.size)
    return one.value(data), one.value(data[one.size :])


def _capabilities(frame: Frame, address: int) -> Capabilities:
    """Three sets of 32 bits, and with the newer versions three more for the upper halves."""
    header = frame.sibling("hdrp")
    if type(header.version) is int:
        raise refuse(errno.EINVAL, f"capabilities of version {header.version:#x}", address)
    wide = "VERSION_1" not in str(header.version)
    data = frame.memory.read(address, 24 if wide else 12)
    low = struct.unpack_from(frame.end + "3I", data)
    high = struct.unpack_from(frame.end + "3I", data, 12) if wide else (0, 0, 0)
    return Capabilities(*(CapabilitySet(a | b << 32) for a, b in zip(low, high, strict=True)))


def _sigevent(frame: Frame, address: int) -> SignalEvent:
    word = frame.signature.word
    data = frame.memory.read(address, 64)  # all of it, whatever counts
    value, signo, notify, thread = struct.unpack_from(
        frame.end + ("Iiii" if word == 4 else "Qiii"), data
    )
    return SignalEvent(value, signo, _flag("SigevNotify", notify), thread)


def _siginfo(frame: Frame, address: int) -> SignalInfo:
    data = frame.memory.read(address, 128)
    code = "5iI" if frame.signature.word == 4 else "3i4xiiQ"
    signo, error, reason, pid, uid, value = struct.unpack_from(frame.end + code, data)
    return SignalInfo(signo, error, _flag("SiCode", reason), pid, uid & 0xFFFFFFFF, value)


def _file_handle(frame: Frame, address: int) -> FileHandle:
    size, kind = struct.unpack(frame.end + "Ii", frame.memory.read(address, 8))
    if not 0 < size <= 128:  # MAX_HANDLE_SZ
        raise refuse(errno.EINVAL, f"a file handle of {size} bytes", address)
    return FileHandle(kind, frame.memory.read(address + 8, size))


def _sized(name: str, first: int, argument: str = "size") -> Callable[[Frame, int], Structure]:
    """A structure whose size is another argument of the call."""

    def decode(frame: Frame, address: int) -> Structure:
        found = layout(name, frame.signature)
        size = frame.other(argument)
        data = extensible(frame.memory, address, size, first, found.size)
        value: Structure = found.value(data, frame.memory)
        value.given = size
        return value

    return decode


def _self_sized(
    name: str, offset: int, first: int, small: int = errno.E2BIG
) -> Callable[[Frame, int], Structure]:
    """A structure that holds its own size, where 0 may stand for that of the first version.

    :param small: the errno of a size below that, 0 too if it is not E2BIG.

    Read from its beginning to its end, no byte twice: the size that counts is the one we have."""

    def decode(frame: Frame, address: int) -> Structure:
        found = layout(name, frame.signature)
        data = frame.memory.read_some(address, found.size)
        if len(data) < offset + 4:
            raise refuse(errno.EFAULT, f"{name} is not all there", address)
        size = struct.unpack_from(frame.end + "I", data, offset)[0]
        if not size and small == errno.E2BIG:
            size = first
        if not first <= size <= PAGE_SIZE:
            number = small if size < first else errno.E2BIG
            raise refuse(number, f"a structure of {size} bytes", address)
        if len(data) < min(size, found.size):
            raise refuse(errno.EFAULT, f"{name} is not all there", address)
        if size > found.size and any(frame.memory.read(address + found.size, size - found.size)):
            raise refuse(errno.E2BIG, "a structure with fields that are not known here", address)
        value: Structure = found.value(data[:size], frame.memory)
        value.given = size
        return value

    return decode


def _bpf_attr(frame: Frame, address: int) -> Structure | Address:
    from proctor.call.decode.layouts_data import BPF_COMMANDS

    size, command = frame.other("size"), frame.other("cmd")
    if size > PAGE_SIZE:
        raise refuse(errno.E2BIG, f"a structure of {size} bytes", address)
    name = BPF_COMMANDS[command] if 0 <= command < len(BPF_COMMANDS) else ""
    if not name:
        return Address(address)
    found = layout(f"bpf_{name}", frame.signature)
    data = frame.memory.read(address, min(size, found.size))
    value: Structure = found.value(data, frame.memory)
    value.given = size
    return value


def _landlock_rule(frame: Frame, address: int) -> Structure | Address:
    kinds = {1: "landlock_path_beneath_attr", 2: "landlock_net_port_attr"}
    name = kinds.get(frame.other("rule_type"))
    if name is None:
        return Address(address)
    found = layout(name, frame.signature)
    value: Structure = found.value(frame.memory.read(address, found.size), frame.memory)
    return value


DECODERS: Final[dict[str, Callable[[Frame, int], Any]]] = {
    "sigset": _sigset,
    "old_sigset": _old_sigset,
    "sigset_argpack": _argpack,
    "file_times": _times(False),
    "file_times64": _times(True),
    "timevals": _timevals,
    "cap_user_data": _capabilities,
    "sigevent": _sigevent,
    "siginfo": _siginfo,
    "file_handle": _file_handle,
    "landlock_ruleset_attr": _sized("landlock_ruleset_attr", 8),
    "landlock_rule": _landlock_rule,
    "xattr_args": _sized("xattr_args", 16),
    "file_attr": _sized("file_attr", 24),
    "sched_attr": _self_sized("sched_attr", 0, 48),
    "perf_event_attr": _self_sized("perf_event_attr", 4, 64),
    "mnt_id_req": _self_sized("mnt_id_req", 0, 24, errno.EINVAL),
    "bpf_attr": _bpf_attr,
}
