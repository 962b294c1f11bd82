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

    #: So many of a kind are made without a constructor of its own: to compile one takes as long as ten of these.
    _FEW = 8

    def _construct(cls, /, *values, **named):
        """Makes the first ones of a kind, and then the constructor that is used from then on."""
        own = _declared(cls)
        fields = own._fields
        if own._made < _FEW:
            own._made += 1
            rest, known = fields[len(values) :], own._field_defaults | named
            if len(values) <= len(fields) and known.keys() >= set(rest) >= named.keys():
                return tuple.__new__(cls, (*values, *[known[each] for each in rest]))
        return _compile(own)(cls, *values, **named)

    def _declared(cls):
        """Whose fields these are: itself, or what it derives from."""
        return next(each for each in cls.__mro__ if "__match_args__" in vars(each))

    def _compile(own):
        args = "".join(f", {name}" for name in own._fields)
        new = eval(  # as collections.namedtuple does; the names are those of a class statement
            f"lambda _cls{args}: _new(_cls, ({args[2:]},))", {"_new": tuple.__new__}
        )
        new.__name__, new.__qualname__ = "__new__", f"{own.__qualname__}.__new__"
        new.__defaults__ = tuple(own._field_defaults.values())
        own.__new__ = new
        return new

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
                space |= {"_fields": fields, "_field_defaults": defaults, "_made": 0}
            return super().__new__(cls, name, bases, space)

        @property
        def __signature__(cls):
            """There is none but that of the constructor, which is there for whoever asks."""
            if cls.__new__ is _construct:
                _compile(_declared(cls))
            raise AttributeError("__signature__")

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
