"""Named tuples and typed dictionaries that cost little to declare: :class:`NamedTuple`, :class:`TypedDict`.

A seventh of the time in which ``proctor run`` starts went by making those of :mod:`typing`, which compile a
constructor and the annotations of each; most are never called, none looked at.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NamedTuple, TypedDict
else:
    from collections import _tuplegetter

    def _construct(cls, /, *values, **named):
        """The first construction: makes the constructor that is used from then on."""
        own = next(each for each in cls.__mro__ if "__match_args__" in vars(each))
        args = "".join(f", {name}" for name in own._fields)
        new = eval(  # as collections.namedtuple does; the names are those of a class statement
            f"lambda _cls{args}: _new(_cls, ({args[2:]},))", {"_new": tuple.__new__}
        )
        new.__name__, new.__qualname__ = "__new__", f"{own.__qualname__}.__new__"
        new.__defaults__ = tuple(own._field_defaults.values())
        own.__new__ = new
        return new(cls, *values, **named)

    class _Declared(type):
        """Takes annotations for fields, in what derives from :class:`NamedTuple` itself."""

        def __new__(cls, name, bases, space):
            if any(vars(base).get("_fields") == () for base in bases):
                fields = tuple(space["__annotations__"])
                defaults = {each: space[each] for each in fields if each in space}
                if tuple(defaults) != fields[len(fields) - len(defaults) :]:
                    raise TypeError(f"{name}: a field without default comes after one with it")
                space.setdefault("__doc__", f"{name}({', '.join(fields)})")
                for number, each in enumerate(fields):
                    space[each] = _tuplegetter(number, f"Alias for field number {number}")
                space |= {"__slots__": (), "__new__": _construct, "__match_args__": fields}
                space |= {"_fields": fields, "_field_defaults": defaults}
            return super().__new__(cls, name, bases, space)

    class NamedTuple(tuple, metaclass=_Declared):
        """As :class:`typing.NamedTuple`, for class statements with fields."""

        __slots__ = ()
        _fields = ()

        @classmethod
        def _make(cls, values):
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
            return made

        def _replace(self, /, **named):
            made = self._make(map(named.pop, self._fields, self))
            if named:
                kind = TypeError if sys.version_info >= (3, 13) else ValueError
                raise kind(f"Got unexpected field names: {list(named)!r}")
            return made

        __replace__ = _replace  # copy.replace(), Python 3.13

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            shown = map("%s=%r".__mod__, zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({', '.join(shown)})"

        def __getnewargs__(self):
            return tuple(self)

    class TypedDict:
        """What :class:`typing.TypedDict` says to a type checker; at run time a name, and those of its keys."""

        def __init_subclass__(cls, *, total=True):
            for base in cls.__bases__:
                cls.__annotations__ = getattr(base, "__annotations__", {}) | cls.__annotations__


__all__ = ["NamedTuple", "TypedDict"]
