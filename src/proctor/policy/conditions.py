"""Conditions that registers cannot decide: on paths, strings, socket addresses and the caller."""

from __future__ import annotations

from typing import Protocol

from proctor.policy.addresses import AddressPattern
from proctor.policy.globs import Glob
from proctor.policy.rules import CallView


class Condition(Protocol):
    """One condition.  ``argument`` is the key it was written under."""

    @property
    def argument(self) -> str: ...

    @property
    def reads_memory(self) -> bool:
        """Whether it looks at what the caller can still change (C110)."""
        ...

    def holds(self, view: CallView) -> bool:
        """:raises Unknowable: it cannot be decided."""
        ...


class PathCondition:
    """A path argument resolves to something that one of the patterns matches."""

    __slots__ = ("argument", "globs", "name")
    reads_memory = True

    def __init__(self, argument: str, name: str, globs: tuple[Glob, ...]) -> None:
        self.argument = argument
        #: The argument's own name in the signature: ``argument`` may be the word ``path``.
        self.name = name
        self.globs = globs

    def matches(self, path: bytes) -> bool:
        """Whether one pattern matches."""
        return any(glob.matches(path) for glob in self.globs)

    def holds(self, view: CallView) -> bool:
        path = view.path(self.name)
        return path is not None and self.matches(path)


class StringCondition:
    """A string argument that is not a path (a file-system type, a host name) matches a pattern."""

    __slots__ = ("argument", "globs", "name")
    reads_memory = True

    def __init__(self, argument: str, name: str, globs: tuple[Glob, ...]) -> None:
        self.argument = argument
        self.name = name
        self.globs = globs

    def holds(self, view: CallView) -> bool:
        text = view.string(self.name)
        return text is not None and any(glob.matches(text) for glob in self.globs)


class AddressCondition:
    """A socket address is one of those meant; a NULL pointer is none."""

    __slots__ = ("argument", "name", "patterns")
    reads_memory = True

    def __init__(self, argument: str, name: str, patterns: tuple[AddressPattern, ...]) -> None:
        self.argument = argument
        self.name = name
        self.patterns = patterns

    def holds(self, view: CallView) -> bool:
        address = view.address(self.name)
        return address is not None and any(pattern.matches(address) for pattern in self.patterns)


class IdentityCondition:
    """The caller's effective user and group are among those listed.

    A thread's credentials cannot change while it waits for our answer, so this is not a race.
    """

    __slots__ = ("argument", "wanted")
    reads_memory = False

    def __init__(self, argument: str, wanted: tuple[tuple[str, frozenset[int]], ...]) -> None:
        self.argument = argument
        #: (``uid`` or ``gid``, numbers): all must hold.
        self.wanted = wanted

    def holds(self, view: CallView) -> bool:
        return all(view.identity(what) in numbers for what, numbers in self.wanted)
