"""Memory as text: buffers, arrays, sets and messages, as far as a line for a log needs them.

What a handler decoded is not read again; the rest is read here, a little of it, and once.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from proctor.call import passwords
from proctor.call.decode import layouts, structures
from proctor.call.decode.values import Address
from proctor.errors import CallError, MemoryUnreadable
from proctor.records import NamedTuple
from proctor.syscalls import flags
from proctor.words import c_string

if TYPE_CHECKING:
    from proctor.call.decode.frame import Frame
    from proctor.syscalls.signatures import Arg

SHOWN: Final = 32  #: elements of an array, and bytes of data
#: Bytes that are read of one string of an array.
_STRING: Final = 128
#: Variables of an environment that are counted.
_VARIABLES: Final = 256
#: Messages of sendmmsg(2) that are read.
_MESSAGES: Final = 4


class Reader(NamedTuple):
    """One call while its line is written, and whether its memory may be read for that."""

    frame: Frame
    read: bool

    def try_to(self, address: int, work: Callable[[], str]) -> str:
        """What ``work`` makes of memory; the address and why where that cannot be read."""
        if not address or not self.read:
            return str(Address(address))
        try:
            return work()
        except (CallError, OSError) as error:
            return f"{address:#x} ({reason(error)})"


def reason(error: BaseException) -> str:
    """The errno of an error, or its kind."""
    code = getattr(error, "errno", None)
    return errno.errorcode.get(code, "?") if isinstance(code, int) else type(error).__name__


def value_text(value: Any) -> str:
    """One decoded value."""
    if isinstance(value, bytes):
        return c_string(value)
    if value is None:
        return "NULL"
    if type(value) is tuple:
        return _array([value_text(each) for each in value[:SHOWN]], len(value) > SHOWN)
    return str(value)


def peek(arg: Arg, address: int, reader: Reader) -> str:
    """What a ``pointer`` argument's family says of it: see :mod:`proctor.syscalls.signatures_data`."""
    shape = _SHAPES[arg.family or ""]
    number = reader.frame.number(arg.counted_by or "1")
    return reader.try_to(address, lambda: shape(reader, address, number))


def several(arg: Arg, address: int, reader: Reader) -> str:
    """Arguments that decode to more than a line needs: vectors, argv, arrays, message headers.

    What was decoded is taken; else only what is shown is read."""
    frame, family = reader.frame, arg.family or ""
    known = frame.values.get(arg.name)
    if arg.name == "envp":  # it holds secrets, and is nobody's whole interest
        return _variables(reader, address, known)
    if arg.role == "strings":
        return _strings(reader, address)
    if family == "msghdr":
        if known is not None:
            return _header(reader, known, len(known.iov))
        return _header(reader, *structures.message_header(frame, address, SHOWN))
    count = frame.number(arg.counted_by or "1")
    if arg.role == "iovec":
        if known is None and count > structures.UIO_MAXIOV:
            known = frame.value(arg)  # refused
        if known is None:
            width = frame.signature.word
            known = frame.memory.iovec(address, min(count, SHOWN), width=width)
        return _vector(reader, known, count, family == "data")
    if family == "mmsghdr":
        return _messages(reader, address, count, known)
    if known is not None:
        return value_text(known)
    return _elements(reader, family, address, count)


def data(reader: Reader, address: int, size: int) -> str:
    """The beginning of a buffer."""
    if size <= 0:
        return '""' if not size else str(Address(address))
    found = reader.frame.memory.read_some(address, min(size, SHOWN + 1))
    text = c_string(found, SHOWN)
    return text + "..." if SHOWN >= len(found) < size else text


def string(
    reader: Reader,
    address: int,
    limit: int = 1024,
    passed: Callable[[bytes, bool], bytes] = lambda text, _: text,
) -> str:
    """The beginning of a string.

    :param passed: what is shown of it, and whether there is more.
    :raises MemoryUnreadable: EFAULT, its memory ends before it does."""
    found = reader.frame.memory.read_some(address, limit + 1)
    end = found.find(b"\0")
    if end < 0 and len(found) <= limit:
        raise MemoryUnreadable(errno.EFAULT, "a string without an end", address)
    text = found[:end] if end >= 0 else found
    more = len(text) > limit
    return c_string(passed(text[:limit], more)) + ("..." if more else "")


def _options(reader: Reader, address: int, _: int) -> str:
    """mount's data: the kernel takes a page, or as much as there is of it."""
    found = reader.frame.memory.read_some(address, 1025)
    text, ends = found.partition(b"\0")[:2]
    shown = c_string(passwords.hidden(text[:1024]))
    return shown if ends else shown + "..."


def _option(reader: Reader, address: int, size: int) -> str:
    """A socket option of which nothing is known: mostly an int."""
    return _elements(reader, "i32", address, 1) if size == 4 else data(reader, address, size)


def _elements(reader: Reader, family: str, address: int, count: int) -> str:
    """An array of numbers or structures; where its memory ends early, the address of the rest."""
    frame = reader.frame
    number = layouts.number(family, frame.signature)
    size = (number or layouts.layout(family, frame.signature)).size
    taken = min(count, SHOWN)
    if taken <= 0:
        return "[]" if not count else str(Address(address))
    memory = frame.memory.read_some(address, taken * size)
    whole = len(memory) // size
    if not whole:
        return str(Address(address))
    if number is not None:
        parts = [str(n) for (n,) in number.iter_unpack(memory[: whole * size])]
    else:
        made = layouts.layout(family, frame.signature)
        parts = [
            str(made.value(memory[at : at + size], frame.memory))
            for at in range(0, whole * size, size)
        ]
    if whole < taken:
        parts.append(_ends(address + whole * size))
    return _array(parts, count > taken)


def _ends(address: int) -> str:
    """The rest of an array that cannot be read."""
    return f"... /* {address:#x} */"


def _array(parts: list[str], more: bool) -> str:
    return f"[{', '.join(parts)}{', ...' if more else ''}]"


def _longs(reader: Reader, found: bytes) -> tuple[int, ...]:
    word = reader.frame.signature.word
    count = len(found) // word
    code = "Q" if word == 8 else "I"
    return struct.unpack(f"{reader.frame.end}{count}{code}", found[: count * word])


def _descriptors(reader: Reader, address: int, count: int) -> str:
    """select's set of descriptors below ``count``."""
    if count < 0:
        return str(Address(address))
    count, word = min(count, 1024), reader.frame.signature.word
    size = -(-count // (word * 8)) * word
    return _bits(reader, reader.frame.memory.read(address, size) if size else b"", count)


def _processors(reader: Reader, address: int, size: int) -> str:
    found = reader.frame.memory.read(address, min(size, 128))
    return _bits(reader, found + bytes(-len(found) % 8), len(found) * 8)


def _bits(reader: Reader, found: bytes, count: int) -> str:
    width = reader.frame.signature.word * 8
    numbers = [
        at * width + bit
        for at, bits in enumerate(_longs(reader, found))
        for bit in range(width)
        if bits >> bit & 1 and at * width + bit < count
    ]
    cut = " ..." if len(numbers) > 2 * SHOWN else ""
    return f"[{' '.join(map(str, numbers[: 2 * SHOWN]))}{cut}]"


def _nodes(reader: Reader, address: int, count: int) -> str:
    """A mask of memory nodes, word by word."""
    word = reader.frame.signature.word
    words = min(-(-count // (word * 8)), SHOWN)
    if not words > 0:
        return str(Address(address))
    found = _longs(reader, reader.frame.memory.read(address, words * word))
    return _array([f"{each:#0{2 * word}x}" for each in found], False)


def _message(reader: Reader, address: int, size: int) -> str:
    """A System V message: its type, its text."""
    frame, word = reader.frame, reader.frame.signature.word
    (kind,) = structures.elements("long", address, 1, frame)
    text = reader.try_to(address + word, lambda: data(reader, address + word, size))
    return f"{{mtype={kind}, mtext={text}}}"


_SHAPES: Final[dict[str, Callable[[Reader, int, int], str]]] = {
    "data": data,
    "text": _options,
    "option": _option,
    "fdset": _descriptors,
    "cpuset": _processors,
    "nodemask": _nodes,
    "msgbuf": _message,
}


def _variables(reader: Reader, address: int, known: Any) -> str:
    """An environment: how many variables, no more."""
    end = ""
    if known is not None:
        count = len(known)
    else:
        memory, word = reader.frame.memory, reader.frame.signature.word
        words = _longs(reader, memory.read_some(address, _VARIABLES * word))
        if not words:
            raise MemoryUnreadable(errno.EFAULT, "an array without an end", address)
        count = words.index(0) if 0 in words else len(words)
        if count == len(words):
            end = ", unterminated" if count < _VARIABLES else " or more"
    return f"{address:#x} /* {count} var{'' if count == 1 else 's'}{end} */"


def _strings(reader: Reader, address: int) -> str:
    memory, word = reader.frame.memory, reader.frame.signature.word
    words = _longs(reader, memory.read_some(address, (SHOWN + 1) * word))
    pointers = words[: words.index(0)] if 0 in words else words
    parts = [
        reader.try_to(each, lambda each=each: _word(reader, each))  # type: ignore[misc]
        for each in pointers[:SHOWN]
    ]
    if 0 not in words and len(pointers) <= SHOWN:  # memory ended before the list did
        parts.append(_ends(address + len(pointers) * word))
    return _array(parts, len(pointers) > SHOWN)


def _word(reader: Reader, address: int) -> str:
    return string(reader, address, _STRING, passwords.word)


def _vector(reader: Reader, iov: Sequence[tuple[int, int]], count: int, sent: bool) -> str:
    """An array of ``count`` buffers, with what is in them where the call takes it from there."""
    parts = []
    for base, size in iov[:SHOWN]:
        text = str(Address(base))
        if sent and base and reader.read:
            try:
                text = data(reader, base, size)
            except MemoryUnreadable:
                pass
        parts.append(f"{{iov_base={text}, iov_len={size}}}")
    return _array(parts, count > SHOWN)


def _header(reader: Reader, message: structures.MessageHeader, count: int) -> str:
    """A ``struct msghdr`` that is sent."""
    to = value_text(message.address)
    if message.address is not None and message.namelen < 2:
        to = '""'
    parts = [f"msg_name={to}, msg_namelen={message.namelen}"]
    buffers = _vector(reader, message.iov, count, True) if message.iov else "NULL"
    parts.append(f"msg_iov={buffers}, msg_iovlen={count}")
    if message.controllen:
        at, size = message.control, message.controllen
        parts.append("msg_control=" + reader.try_to(at, lambda: _control(reader, at, size)))
    parts.append(f"msg_controllen={message.controllen}, msg_flags={message.flags}")
    return "{" + ", ".join(parts) + "}"


def _control(reader: Reader, address: int, size: int) -> str:
    """Control messages: descriptors and credentials that are passed."""
    frame, word = reader.frame, reader.frame.signature.word
    head = layouts.layout("cmsghdr", frame.signature)
    limit = min(size, 512)
    found = frame.memory.read(address, limit)
    parts: list[str] = []
    at = 0
    while at + head.size <= len(found) and len(parts) < SHOWN:
        length, level, kind = head.value(found[at:])
        if length < head.size:
            break
        body = found[at + head.size : at + length]
        socket = level == 1
        shown = flags.decode("ScmType", kind) if socket else kind
        text = f"cmsg_len={length}, cmsg_level={_named('SocketLevel', level)}, cmsg_type="
        text += f"{kind:#x}" if type(shown) is int else str(shown)
        if socket and kind == 1:
            numbers = struct.unpack_from(f"{frame.end}{len(body) // 4}i", body)
            text += f", cmsg_data={value_text(numbers)}"
        elif socket and kind == 2 and len(body) >= 12:
            text += f", cmsg_data={layouts.layout('ucred', frame.signature).value(body)}"
        elif body:
            text += f", cmsg_data={c_string(body, SHOWN)}"
        parts.append("{" + text + "}")
        at += length + -length % word
    return _array(parts, size > limit) if parts else str(Address(address))


def _named(family: str, number: int) -> str:
    found = flags.decode(family, number)
    return f"{number & 0xFFFFFFFF:#x}" if type(found) is int else str(found)


def _messages(reader: Reader, address: int, count: int, known: Any) -> str:
    """The array of sendmmsg(2)."""
    size = layouts.layout("mmsghdr", reader.frame.signature).size
    parts: list[str] = []
    for index in range(min(count, _MESSAGES)):
        at = address + index * size
        try:
            if known is not None:
                message, buffers = known[index], len(known[index].iov)
            else:
                message, buffers = structures.message_header(reader.frame, at, SHOWN)
        except MemoryUnreadable:
            if not parts:
                raise
            parts.append(_ends(at))
            break
        parts.append(f"{{msg_hdr={_header(reader, message, buffers)}}}")
    return _array(parts, count > _MESSAGES)
