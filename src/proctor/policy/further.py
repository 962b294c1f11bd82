"""Conditions beyond registers: on the caller, and on what the call's memory holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from proctor.policy.globs import Glob
from proctor.policy.look import Look, Unresolved, What

if TYPE_CHECKING:
    from proctor.call.call import Call


def is_text(call: Call, argument: str) -> bool:
    """Whether the call goes on where a path leads nowhere: most file systems take their source for a text."""
    return (call.name, argument) == ("mount", "source")


class Pattern(Protocol):
    """A :class:`~proctor.policy.globs.Glob` or an
    :class:`~proctor.policy.addresses.AddressPattern`."""

    text: str

    def matches(self, seen: Any, /) -> bool: ...


class Memory:
    """What an argument leads to is matched by one of the patterns; NULL by no pattern but ``none``.

    :param key: as it was written in ``when``.
    :param argument: its name in the call's signature.
    """

    __slots__ = ("argument", "key", "patterns", "what")
    #: It looks at what the caller can still change (C110).
    reads_memory: Final = True

    def __init__(self, key: str, what: What, argument: str, patterns: tuple[Pattern, ...]) -> None:
        self.key = key
        self.what: What = what
        self.argument = argument
        self.patterns = patterns

    @property
    def looks_at_path(self) -> bool:
        """Whether where a path leads may decide."""
        named = any(getattr(each, "looks_at_path", False) for each in self.patterns)
        return self.what == "path" or (self.what == "address" and named)

    def programs(self) -> tuple[bytes, ...] | None:
        """The patterns for the native core (:meth:`proctor.policy.globs.Glob.program`); None where it
        is not a path that they are about, or it does not know them."""
        if self.what not in ("path", "text"):
            return None
        found = [each.program() if isinstance(each, Glob) else None for each in self.patterns]
        known = tuple(each for each in found if each is not None)
        return known if len(known) == len(found) else None

    def says_as_much_as(self, other: Memory) -> bool:
        """Whether the other one, perhaps under another key, holds where this one does."""
        mine, theirs = ({each.text for each in one.patterns} for one in (self, other))
        return (self.what, self.argument) == (other.what, other.argument) and mine <= theirs

    def holds(self, look: Look) -> bool:
        """:raises Unknowable: it cannot be decided."""
        try:
            seen = look.at(self.what, self.argument)
        except Unresolved:
            if is_text(look.call, self.argument):
                return False
            raise
        if seen is not None:
            for pattern in self.patterns:
                if pattern.matches(seen):
                    return True
        return seen is None and any(getattr(each, "none", False) for each in self.patterns)


class Identity:
    """The caller's effective user and group are among those listed.

    A thread's credentials cannot change while it waits for our answer, so this is not a race.

    :param wanted: (``uid`` or ``gid``, numbers): all must hold.
    """

    __slots__ = ("key", "wanted")
    #: See :class:`Memory`.
    reads_memory: Final = False

    def __init__(self, key: str, wanted: tuple[tuple[str, frozenset[int]], ...]) -> None:
        self.key = key
        self.wanted = wanted

    def holds(self, look: Look) -> bool:
        """:raises Unknowable: it cannot be decided."""
        return all(look.identity(which) in numbers for which, numbers in self.wanted)


class Ancestry:
    """The caller runs one of these programs, or comes of a process that does.

    :param patterns: of the programs' paths as the kernel names them.
    """

    __slots__ = ("key", "patterns")
    #: Programs are executed, and processes die, also while one of them waits.
    reads_memory: Final = True

    def __init__(self, key: str, patterns: tuple[Pattern, ...]) -> None:
        self.key = key
        self.patterns = patterns

    def holds(self, look: Look) -> bool:
        """:raises Unknowable: it cannot be decided."""
        return any(pattern.matches(each) for each in look.ancestors() for pattern in self.patterns)


Condition = Memory | Identity | Ancestry
