"""A seccomp profile as a container runtime gets it.

:mod:`proctor.filter.profiles.oci` reads and writes them; here is what they mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from proctor.errors import FilterError
from proctor.filter.actions import KILL_THREAD, Action, checked
from proctor.filter.profiles import exchange, order
from proctor.filter.rules import Filter, Rule
from proctor.kernel import abi
from proctor.syscalls import multiplex
from proctor.syscalls.architectures import ARCHITECTURES, canonical
from proctor.words import did_you_mean, quoted

#: Architectures the specification names, to ours; None where we have no table.
ARCHES: Final[dict[str, str | None]] = {
    **{f"SCMP_ARCH_{each.scmp}": each.name for each in ARCHITECTURES.values()},
    **dict.fromkeys(f"SCMP_ARCH_{name}" for name in ("PARISC", "PARISC64", "M68K", "SH", "SHEB")),
}
#: Our names to the specification's.
ARCH_WORDS: Final = {ours: word for word, ours in ARCHES.items() if ours}

_FLAG: Final = "SECCOMP_FILTER_FLAG_"


class Profile:
    """A seccomp profile as a runtime gets it: plain OCI, nothing left to expand.

    :param entries: ``syscalls``, in order; names and indexes as in the file.  Unlike the rules of
        a :class:`Filter` they have no order: see :meth:`filter`.
    :param architectures: OCI names (``SCMP_ARCH_X86``).
    :param flags: OCI names (``SECCOMP_FILTER_FLAG_LOG``).
    :param native: the architecture the profile is for, whether or not it is listed.
    """

    __slots__ = (
        "architectures",
        "default",
        "entries",
        "flags",
        "listener_metadata",
        "listener_path",
        "native",
    )

    def __init__(
        self,
        entries: Iterable[Rule],
        default: Action,
        *,
        architectures: Iterable[str] = (),
        flags: Iterable[str] = (),
        listener_path: str = "",
        listener_metadata: str = "",
        native: str | None = None,
    ) -> None:
        self.entries = tuple(entries)
        self.default = checked(default)
        self.architectures = tuple(architectures)
        self.flags = tuple(flags)
        self.listener_path = listener_path
        self.listener_metadata = listener_metadata
        self.native = canonical(native)
        for word in self.architectures:
            if word not in ARCHES:
                raise FilterError(unknown_word("architecture", word, ARCHES))
        for flag in self.flags:
            if flag.removeprefix(_FLAG) not in abi.FILTER_FLAGS or not flag.startswith(_FLAG):
                raise FilterError(
                    unknown_word("flag", flag, [_FLAG + name for name in abi.FILTER_FLAGS])
                )
        if listener_metadata and not listener_path:
            raise FilterError("listenerMetadata without listenerPath: nobody would receive it")

    @property
    def filter_flags(self) -> int:
        """``flags`` as the SECCOMP_FILTER_FLAG_* word for seccomp(2)."""
        word = 0
        for flag in self.flags:
            word |= abi.FILTER_FLAGS[flag.removeprefix(_FLAG)]
        return word

    @property
    def unknown(self) -> tuple[str, ...]:
        """Call names no architecture has; they are ignored, as the runtimes do."""
        names = (str(name) for entry in self.entries for name in entry.names)
        return tuple(dict.fromkeys(exchange.known(names)[1]))

    @property
    def arches(self) -> tuple[str, ...]:
        """Our names of the architectures: the native one, and the listed ones with a table."""
        listed = (ARCHES[word] for word in self.architectures)
        return tuple(dict.fromkeys((self.native, *(arch for arch in listed if arch))))

    def filter(self, foreign: Action = KILL_THREAD, x32: Action = KILL_THREAD) -> Filter:
        """The profile as a filter of ordered rules with the same actions.

        :param foreign: for architectures not listed; a runtime's is KILL_THREAD.
        :param x32: for x32 calls unless SCMP_ARCH_X32 is listed; likewise.
        """
        arches = self.arches
        rules: list[Rule] = []
        for entry in self.entries:
            have = tuple(
                name
                for name in entry.names
                if any(multiplex.callable_on(str(name), arch) for arch in arches)
            )
            if not have:
                continue
            indexes = [condition.arg for condition in entry.conditions]
            if len(set(indexes)) < len(indexes):
                # What runtimes make of several conditions on one argument.
                rules += [Rule(have, entry.action, (c,), entry.label) for c in entry.conditions]
            else:
                rules.append(Rule(have, entry.action, entry.conditions, entry.label))
        return Filter(
            order.ordered(rules, self.default, arches),
            self.default,
            arches,
            foreign,
            x32,
            strict=False,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Profile):
            return NotImplemented
        return self._compared() == other._compared()

    def _compared(self) -> tuple[object, ...]:
        """Everything but the entries' labels, which tell where in a file they stood."""
        entries = tuple(entry._replace(label="") for entry in self.entries)
        return (
            *(entries, self.default, self.architectures, self.flags, self.native),
            *(self.listener_path, self.listener_metadata),
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Profile({len(self.entries)} entries, default={self.default})"


def unknown_word(what: str, word: object, valid: Iterable[str]) -> str:
    """The message for a word that is not in a vocabulary, with the nearest that is."""
    return f"unknown {what} {quoted(str(word))}{did_you_mean(word, valid)}"
