"""Memory as text: buffers, arrays, sets and messages, as far as a line for a log needs them.

What a handler decoded is not read again; the rest is read here, a little of it, and once.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from proctor.call.decode.values import Address
from proctor.call.strace.line import SHOWN, View, value_text
from proctor.errors import MemoryUnreadable
from proctor.words import c_string

if TYPE_CHECKING:
    from proctor.syscalls.signatures import Arg

#: Bytes that are read of one string of an array.
_STRING = 128
#: Variables of an environment that are counted.
_VARIABLES = 256
#: Messages of sendmmsg(2) that are read.
_MESSAGES = 4
#: Calls whose vectors hold what is written; the others' are about to be filled.
_WRITES = frozenset(("writev", "pwritev", "pwritev2", "vmsplice", "sendmsg", "sendmmsg"))
_CODES = {"i32": "i", "u32": "I", "i64": "q", "u16": "H"}


def shown(view: View, family: str, address: int) -> str:
    """What a ``pointer`` argument's family says of it: see :mod:`proctor.syscalls.signatures_data`."""
    kind, _, count = family.partition("*")
    if kind == "memory":
        return str(Address(address))
    number = view.number(count) if count else 1
    single = _SHAPES.get(kind)
    if single is not None:
        return view.try_to(address, lambda: single(view, address, number))
    if kind[0] == "=":
        return view.try_to(address, lambda: elements(view, kind[1:], address, 1)[1:-1])
    if not number and address:
        return "[]"
    return view.try_to(address, lambda: elements(view, kind, address, number))


def data(view: View, address: int, size: int) -> str:
    """The beginning of a buffer."""
    if size <= 0:
        return '""' if not size else str(Address(address))
    found = view.frame.memory.read_some(address, min(size, SHOWN + 1))
    text = c_string(found, SHOWN)
    return text + "..." if SHOWN >= len(found) < size else text


def string(view: View, address: int, _: int = 0, limit: int = 1024) -> str:
    """The beginning of a string.

    :raises MemoryUnreadable: EFAULT, its memory ends before it does."""
    found = view.frame.memory.read_some(address, limit + 1)
    end = found.find(b"\0")
    if end < 0 and len(found) <= limit:
        raise MemoryUnreadable(errno.EFAULT, "a string without an end", address)
    return c_string(found[:end] if end >= 0 else found, limit)


def _options(view: View, address: int, _: int) -> str:
    """mount's data: the kernel takes a page, or as much as there is of it."""
    try:
        return string(view, address)
    except MemoryUnreadable:
        return c_string(view.frame.memory.read_some(address, 1024)) + "..."


def elements(view: View, kind: str, address: int, count: int) -> str:
    """An array of numbers or structures; where its memory ends early, the address of the rest."""
    frame = view.frame
    if kind == "mmsghdr":
        return _messages(view, address, count)
    if kind == "long":
        kind = "i64" if view.signature.word == 8 else "i32"
    code = _CODES.get(kind)
    if code is not None:
        size = struct.calcsize("=" + code)
    else:
        from proctor.call.decode.layouts import layout

        made = layout(kind, frame.signature)
        size = made.size
    taken = min(count, SHOWN)
    if taken <= 0:
        return "[]" if not count else str(Address(address))
    memory = frame.memory.read_some(address, taken * size)
    whole = len(memory) // size
    if not whole:
        return str(Address(address))
    if code is not None:
        parts = [str(n) for n in struct.unpack_from(f"{frame.end}{whole}{code}", memory)]
    else:
        parts = [
            str(made.value(memory[i * size : (i + 1) * size], frame.memory)) for i in range(whole)
        ]
    if whole < taken:
        parts.append(_ends(address + whole * size))
    return _array(parts, count > taken)


def _ends(address: int) -> str:
    """The rest of an array that cannot be read."""
    return f"... /* {address:#x} */"


def _array(parts: list[str], more: bool) -> str:
    return f"[{', '.join(parts)}{', ...' if more else ''}]"


def _descriptors(view: View, address: int, count: int) -> str:
    """select's set of descriptors below ``count``."""
    if count < 0:
        return str(Address(address))
    count = min(count, 1024)
    word = view.signature.word
    size = -(-count // (word * 8)) * word
    found = view.frame.memory.read(address, size) if size else b""
    return _bits(view, found, count)


def _processors(view: View, address: int, size: int) -> str:
    found = view.frame.memory.read(address, min(size, 128))
    return _bits(view, found, len(found) * 8)


def _bits(view: View, found: bytes, count: int) -> str:
    word, order = view.signature.word, "little" if view.frame.end == "<" else "big"
    numbers: list[int] = []
    for at in range(0, len(found), word):
        bits = int.from_bytes(found[at : at + word], order)  # type: ignore[arg-type]
        numbers += [at * 8 + bit for bit in range(word * 8) if bits >> bit & 1]
    numbers = [number for number in numbers if number < count]
    cut = " ..." if len(numbers) > 2 * SHOWN else ""
    return f"[{' '.join(map(str, numbers[: 2 * SHOWN]))}{cut}]"


def _nodes(view: View, address: int, count: int) -> str:
    """A mask of memory nodes, word by word."""
    word = view.signature.word
    words = min(-(-count // (word * 8)), SHOWN)
    if not words > 0:
        return str(Address(address))
    code = "Q" if word == 8 else "I"
    found = struct.unpack(
        f"{view.frame.end}{words}{code}", view.frame.memory.read(address, words * word)
    )
    return _array([f"{each:#0{2 * word}x}" for each in found], False)


def _message(view: View, address: int, size: int) -> str:
    """A System V message: its type, its text."""
    word = view.signature.word
    kind = struct.unpack(
        view.frame.end + ("q" if word == 8 else "i"), view.frame.memory.read(address, word)
    )[0]
    text = view.try_to(address + word, lambda: data(view, address + word, size))
    return f"{{mtype={kind}, mtext={text}}}"


_SHAPES: dict[str, Callable[[View, int, int], str]] = {
    "data": data,
    "text": _options,
    "fdset": _descriptors,
    "cpuset": _processors,
    "nodemask": _nodes,
    "msgbuf": _message,
}


def pointed(view: View, arg: Arg, address: int) -> str:
    """Arguments that decode to more than a line needs: vectors, argv, message headers.

    What was decoded is taken; else only what is shown is read."""
    known = (view.call._values or {}).get(arg.name)
    if arg.role == "strings":
        if arg.name == "envp":  # it holds secrets, and is nobody's whole interest
            return view.try_to(address, lambda: _count(view, address, known))
        return view.try_to(address, lambda: _strings(view, address))
    if arg.role == "iovec":
        return view.try_to(address, lambda: _vector(view, arg, address, known))
    if known is not None:
        return header(view, known, len(known.iov))
    return view.try_to(address, lambda: header(view, *_header(view, address)))


def _header(view: View, address: int) -> tuple[Any, int]:
    from proctor.call.decode.structures import message_header

    return message_header(view.frame, address, SHOWN)


def _vector(view: View, arg: Arg, address: int, known: Any) -> str:
    count = view.number(arg.family or "")
    writes = view.call.name in _WRITES or (
        view.call.name == "process_vm_writev" and arg.name == "local_iov"
    )
    if known is None and count > 1024:
        known = view.call._by_name(arg.name)  # refused
    if known is None:
        known = view.frame.memory.iovec(address, min(count, SHOWN), width=view.signature.word)
    return vector(view, known, count, writes)


def _count(view: View, address: int, known: Any) -> str:
    """An environment: how many variables, no more."""
    end = ""
    if known is not None:
        count = len(known)
    else:
        word = view.signature.word
        found = view.frame.memory.read_some(address, _VARIABLES * word)
        words = [found[at : at + word] for at in range(0, len(found) - word + 1, word)]
        if not words:
            raise MemoryUnreadable(errno.EFAULT, "an array without an end", address)
        count = words.index(bytes(word)) if bytes(word) in words else len(words)
        if count == len(words):
            end = ", unterminated" if count < _VARIABLES else " or more"
    return f"{address:#x} /* {count} var{'' if count == 1 else 's'}{end} */"


def _strings(view: View, address: int) -> str:
    word, memory = view.signature.word, view.frame.memory
    found = memory.read_some(address, (SHOWN + 1) * word)
    pointers: list[int] = []
    for at in range(0, len(found) - word + 1, word):
        order = "little" if view.frame.end == "<" else "big"
        pointer = int.from_bytes(found[at : at + word], order)  # type: ignore[arg-type]
        if not pointer:
            break
        pointers.append(pointer)
    parts = [
        view.try_to(each, lambda each=each: string(view, each, limit=_STRING))  # type: ignore[misc]
        for each in pointers[:SHOWN]
    ]
    ended = len(pointers) < min(SHOWN + 1, len(found) // word)
    if not ended and len(pointers) <= SHOWN:  # memory ended before the list did
        parts.append(_ends(address + len(pointers) * word))
    return _array(parts, len(pointers) > SHOWN)


def vector(view: View, iov: Sequence[tuple[int, int]], count: int, writes: bool) -> str:
    """An array of ``count`` buffers, with what is in them where the call takes it from there."""
    parts = []
    for base, size in iov[:SHOWN]:
        text = str(Address(base))
        if writes and base and view.read:
            try:
                text = data(view, base, size)
            except MemoryUnreadable:
                pass
        parts.append(f"{{iov_base={text}, iov_len={size}}}")
    return _array(parts, count > SHOWN)


def header(view: View, message: Any, count: int) -> str:
    """A ``struct msghdr`` that is sent."""
    to = value_text(message.address)
    if message.address is not None and message.namelen < 2:
        to = '""'
    parts = [f"msg_name={to}, msg_namelen={message.namelen}"]
    buffers = vector(view, message.iov, count, True) if message.iov else "NULL"
    parts.append(f"msg_iov={buffers}, msg_iovlen={count}")
    if message.controllen:
        at = message.control
        parts.append("msg_control=" + view.try_to(at, lambda: _control(view, at, message)))
    parts.append(f"msg_controllen={message.controllen}, msg_flags={message.flags}")
    return "{" + ", ".join(parts) + "}"


def _control(view: View, address: int, message: Any) -> str:
    """Control messages: descriptors and credentials that are passed."""
    word, frame = view.signature.word, view.frame
    limit = min(message.controllen, 512)
    found = frame.memory.read(address, limit)
    parts: list[str] = []
    at, head = 0, word + 8
    while at + head <= len(found) and len(parts) < SHOWN:
        size, level, kind = struct.unpack_from(
            frame.end + ("Qii" if word == 8 else "Iii"), found, at
        )
        if size < head:
            break
        body = found[at + head : at + size]
        shown_level = view.word("SocketLevel", level)
        name = view.word("ScmType", kind) if level == 1 else f"{kind:#x}"
        text = f"cmsg_len={size}, cmsg_level={shown_level}, cmsg_type={name}"
        if level == 1 and kind == 1:
            numbers = struct.unpack_from(f"{frame.end}{len(body) // 4}i", body)
            text += f", cmsg_data={value_text(numbers)}"
        elif level == 1 and kind == 2 and len(body) >= 12:
            pid, uid, gid = struct.unpack_from(frame.end + "iII", body)
            text += f", cmsg_data={{pid={pid}, uid={uid}, gid={gid}}}"
        elif body:
            text += f", cmsg_data={c_string(body, SHOWN)}"
        parts.append("{" + text + "}")
        at += size + -size % word
    return _array(parts, message.controllen > limit) if parts else str(Address(address))


def _messages(view: View, address: int, count: int) -> str:
    """The array of sendmmsg(2)."""
    size = 64 if view.signature.word == 8 else 32
    parts: list[str] = []
    for index in range(min(count, _MESSAGES)):
        try:
            message = _header(view, address + index * size)
        except MemoryUnreadable:
            if not parts:
                raise
            parts.append(_ends(address + index * size))
            break
        parts.append(f"{{msg_hdr={header(view, *message)}}}")
    return _array(parts, count > _MESSAGES)
