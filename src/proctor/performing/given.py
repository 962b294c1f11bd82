"""What a rule says of how its calls are performed: :class:`Given`."""

from __future__ import annotations

from typing import Any, ClassVar, dataclass_transform

from proctor.words import toml


@dataclass_transform(frozen_default=True)
class Given:
    """Options: its annotated names, with their defaults; checked once, then immutable, and equal to what has the
    same values.

    Not of :mod:`dataclasses`, which takes as long to load and to make the classes of all families as the rest of
    performing does::

        class Options(Given):
            most: int = 8

            def check(self) -> None:
                if self.most < 1:
                    raise ValueError(f"most is a number from 1, not {self.most!r}")
    """

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = [name for name in vars(cls).get("__annotations__", ()) if name[0] != "_"]
        cls._fields = (*cls._fields, *own)

    def __init__(self, *values: Any, **named: Any) -> None:
        """
        :raises TypeError: a name that it has not, or too many values.
        :raises ValueError: a value that cannot be."""
        given = {**dict(zip(self._fields, values, strict=False)), **named}
        if len(given) < len(values) + len(named) or not given.keys() <= set(self._fields):
            raise TypeError(f"{type(self).__qualname__} has {', '.join(self._fields)}, each once")
        self.__dict__.update(given)
        self.check()

    def check(self) -> None:
        """
        :raises ValueError: a value cannot be so; a sentence."""

    def settle(self, name: str, value: Any) -> None:
        """For :meth:`check`: have a value in the place of the one that was given."""
        self.__dict__[name] = value

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is what it was given as")

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self._fields])

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        shown = [f"{name}={getattr(self, name)!r}" for name in self._fields]
        return f"{type(self).__qualname__}({', '.join(shown)})"


def would(**options: Any) -> str:
    """What lets a call through that its family refused by the rule's options, in parentheses."""
    return (
        f"({', '.join(f'{name} = {toml(value)}' for name, value in options.items())} would let it)"
    )
