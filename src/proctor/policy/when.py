"""From a key of ``when`` to conditions on one system call of one architecture.

A key is the name of an argument in the call's signature (``mode``, ``flags``, ``fd``…), or one of
the words below where the call has no argument of that name:

``path``     the first path argument, whatever its name
``path_text``  its text as it was passed, not what it leads to; ``newpath_text``… likewise
``address``  the socket address
``type``     the file type in ``mode``: what mknod is asked to make
``device``   the device number
``access``   read, write or read-write: the access mode within open's flags
``caller``   a table on the caller: ``uid``, ``gid``
``parents``  the program that the caller runs, or one of those that it comes of
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from proctor.filter.conditions import ALWAYS, Alternatives
from proctor.policy.document import KeyPath, Source, Spec
from proctor.policy.further import Ancestry, Condition, Identity, Memory
from proctor.policy.globs import Glob, GlobError, Kind
from proctor.policy.look import What
from proctor.policy.numbers import Never, Numbers, judged
from proctor.policy.rules import Clause
from proctor.words import did_you_mean, one_of, quoted

if TYPE_CHECKING:
    from proctor.syscalls.signatures import Arg, Signature

#: The words, and what a call must have for each.
WORDS: Final = {
    "path": "path argument",
    "path_text": "path argument",
    "address": "socket address",
    "type": "file type and device number",
    "device": "device number",
    "access": "open flags in a register",
    "caller": "caller",
    "parents": "caller",
}

FILE_TYPES: Final[dict[str, int]] = {
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "regular": stat.S_IFREG,
    "directory": stat.S_IFDIR,
}
#: How arguments that are pointers are looked at.
_LOOKS: Final[dict[str, What]] = {
    "path": "path", "string": "text", "sockaddr": "address", "strings": "words",
}  # fmt: skip
ACCESS: Final = {"read": 0, "write": 1, "read-write": 2}
S_IFMT: Final = 0o170000
_ACCESS_MASK: Final = 3  # O_ACCMODE


class Builder(Numbers):
    """Turns one rule's ``when`` into a :class:`~proctor.policy.rules.Clause` for each call."""

    def __init__(self, source: Source, path: KeyPath, when: Mapping[str, Spec]) -> None:
        self.source = source
        self.path = path
        self.when = when
        self._strict = True

    def clause(self, signature: Signature, *, strict: bool = True) -> Clause | None:
        """The conditions for one call.

        :param strict: False for further architectures of a call that was built already: a number
            that does not fit there makes the condition fail there, not the policy.
        :returns: None if not strict and the conditions can never hold.
        :raises PolicyError: an argument that the call does not have, or a condition it cannot meet.
        """
        self._strict = strict
        found: Alternatives = ALWAYS
        further: list[Condition] = []
        try:
            for key in self.when:
                part = self.part(key, signature)
                if not isinstance(part, tuple):
                    further.append(part)
                    continue
                found = self._both(found, part)
                if not found:
                    self._never(
                        f"together with the other conditions this can never hold for {signature.name}"
                    )
        except Never:
            return None
        further.sort(key=lambda condition: condition.reads_memory)
        return Clause(found, tuple(further))

    def part(self, key: str, signature: Signature) -> Alternatives | Condition:
        """What one key of ``when`` asks of a call."""
        self._key = key
        self._call = signature.name
        self._abi = signature.abi
        arg = signature.arg(key)
        if arg is None:
            return self._word(key, self.when[key], signature)
        what = _LOOKS.get(arg.role)
        if what == "address" and self.when[key] in (0, "!= 0"):
            what = None  # whether there is one is in the register
        if what is None:
            return self._number(judged(arg, self._call, self.when[key]), self.when[key])
        return self._memory(arg, what)

    # Which condition a word asks for --------------------------------------------------------

    def _word(self, key: str, spec: Spec, signature: Signature) -> Alternatives | Condition:
        first = signature.first
        path, address, mode, dev = first("path"), first("sockaddr"), first("mode"), first("dev")
        flags = first("flags")
        if address is None:  # in a structure: sendmsg, sendmmsg
            headers = (arg for arg in signature.args if arg.family in ("msghdr", "mmsghdr"))
            address = next((arg for arg in headers if arg.role in ("struct", "array")), None)
        named = signature.arg(key.removesuffix("_text")) if key.endswith("_text") else None
        if key == "path" and path is not None:
            return self._memory(path, "path")
        if key == "path_text" and path is not None:
            return self._memory(path, "text")
        if named is not None and named.role == "path":
            return self._memory(named, "text")
        if key == "address" and address is not None:
            return self._memory(address, "address")
        if key == "type" and mode is not None and dev is not None:
            return self._file_type(mode, spec)
        if key == "device" and dev is not None:
            return self._device(dev, mode, spec)
        if key == "access" and flags is not None and flags.family == "OpenFlag":
            return self._access(flags, spec)
        if key == "caller":
            return self._caller(spec)
        if key == "parents":
            return self._ancestry(spec)
        names = [arg.name for arg in signature.args]
        have = f"it has {', '.join(names)}" if names else "it has none"
        call = f"{self._call} on {self._abi}"
        if key in WORDS:
            self._fail(f"{call} has no {WORDS[key]}, so no such condition; {have}")
        hint = did_you_mean(key, [*names, *WORDS]) or f"; {have}"
        if not self._strict:  # it has one elsewhere
            hint = f"; {have}. arches = [...] without {quoted(self._abi)} leaves such programs out"
        raise self._error(f'{call} has no argument "{key}"{hint}')

    # Words -------------------------------------------------------------------------------------

    def _file_type(self, mode: Arg, spec: Spec) -> Alternatives:
        kinds = []
        for each in self._words(spec, FILE_TYPES, "file type"):
            kinds.append(self._bits(mode, S_IFMT, FILE_TYPES[each]))
            if each == "regular":  # mknod(2): type zero means a regular file
                kinds.append(self._bits(mode, S_IFMT, 0))
        return self._any(kinds)

    def _access(self, flags: Arg, spec: Spec) -> Alternatives:
        return self._any(
            self._bits(flags, _ACCESS_MASK, ACCESS[each])
            for each in self._words(spec, ACCESS, "access mode")
        )

    def _words(self, spec: Spec, known: Mapping[str, int], what: str) -> list[str]:
        if isinstance(spec, Mapping):
            self._fail(f"expected {one_of(known)}, or a list of them")
        out = []
        for each in self._listed(spec):
            if not isinstance(each, str) or each not in known:
                hint = did_you_mean(str(each), known) or f"; there are {', '.join(known)}"
                self._fail(f'no {what} "{each}"{hint}')
            out.append(each)
        return out

    def _device(self, dev: Arg, mode: Arg | None, spec: Spec) -> Alternatives:
        if isinstance(spec, Mapping):
            self._fail('expected "MAJOR:MINOR" such as "1:3" or "5:*", or a list of them')
        if mode is not None and "type" not in self.when:
            self._fail(
                'a device number is one of char and one of block devices; add type = "char" (or "block")'
            )
        return self._any(self._bits(dev, *self._device_number(each)) for each in self._listed(spec))

    def _device_number(self, spec: int | str) -> tuple[int, int]:
        """(mask, value) in the encoding of the system call (new_encode_dev)."""
        major, colon, minor = str(spec).partition(":")
        if isinstance(spec, int) or not colon:
            self._fail(
                f'"{spec}" is not a device; write "MAJOR:MINOR" such as "1:3", with * for any'
            )
        mask = value = 0
        for text, limit, encode in ((major, 0xFFF, _major_bits), (minor, 0xFFFFF, _minor_bits)):
            if text == "*":
                continue
            if not (text.isascii() and text.isdigit()) or len(text) > 8 or int(text) > limit:
                self._fail(f'"{spec}": "{text}" is not a number from 0 to {limit}, nor *')
            mask |= encode(limit)
            value |= encode(int(text))
        return mask, value

    def _texts(self, spec: Spec) -> list[str]:
        patterns = [] if isinstance(spec, (int, Mapping)) else self._listed(spec)
        texts = [each for each in patterns if isinstance(each, str)]
        if not texts or len(texts) != len(patterns):
            self._fail("expected a pattern in a string, or a list of them")
        return texts

    def _memory(self, arg: Arg, what: What) -> Condition:
        texts = self._texts(self.when[self._key])
        if what == "address":
            return self._addresses(arg, texts)
        kind: Kind = what if arg.role in ("path", "strings") else "name"
        try:
            return Memory(self._key, what, arg.name, tuple(Glob(text, kind) for text in texts))
        except GlobError as error:
            self._fail(str(error))

    def _addresses(self, arg: Arg, texts: list[str]) -> Condition:
        from proctor.policy.addresses import AddressError, AddressPattern

        try:
            return Memory(self._key, "address", arg.name, tuple(map(AddressPattern, texts)))
        except AddressError as error:
            self._fail(str(error))

    def _ancestry(self, spec: Spec) -> Condition:
        texts = self._texts(spec)
        try:
            return Ancestry(self._key, tuple(map(Glob, texts)))
        except GlobError as error:
            self._fail(str(error))

    def _caller(self, spec: Spec) -> Condition:
        if not isinstance(spec, Mapping) or not spec:
            self._fail("expected a table with uid or gid: caller = { uid = 0 }")
        wanted = []
        for what, value in spec.items():
            if what not in ("uid", "gid"):
                hint = did_you_mean(what, ("uid", "gid")) or "; there are uid, gid"
                self._fail(f'no such fact "{what}" about the caller{hint}')
            numbers = []
            for each in self._listed(value):
                if not isinstance(each, int) or not 0 <= each < 0xFFFFFFFF:
                    self._fail(f'"{each}" is not a {what}: a number from 0 to {0xFFFFFFFE}')
                numbers.append(each)
            wanted.append((what, frozenset(numbers)))
        return Identity(self._key, tuple(wanted))


def _major_bits(major: int) -> int:
    return (major & 0xFFF) << 8


def _minor_bits(minor: int) -> int:
    return (minor & 0xFF) | (minor & 0xFFF00) << 12


def device_of(register: int) -> tuple[int, int]:
    """(major, minor) of a device number as system calls take it (new_decode_dev)."""
    return register >> 8 & 0xFFF, (register & 0xFF) | (register >> 12 & 0xFFF00)
