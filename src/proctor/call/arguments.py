"""The arguments of one call, by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.syscalls.signatures import Arg


class Args:
    """The arguments of one call by name: ``args.mode``, ``args["mode"]``, in the call's order.

    Decoded when read; iterating gives names, so listing reads no memory.
    """

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def _args(self) -> tuple[Arg, ...]:
        frame = self._call.frame
        return frame.signature.args if frame is not None else ()

    def __getattr__(self, name: str) -> Any:
        return self._call._by_name(name)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._call._by_name(name)
        except AttributeError as error:
            raise KeyError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return iter([a.name for a in self._args()])

    def __len__(self) -> int:
        return len(self._args())

    def __contains__(self, name: object) -> bool:
        return any(a.name == name for a in self._args())

    def keys(self) -> list[str]:
        """The names, in order."""
        return [a.name for a in self._args()]

    def number(self, name: str) -> int:
        """The argument as the plain number the kernel sees: width and sign as the kernel's.

        :raises MemoryUnreadable: it is one of socketcall's, which are in memory."""
        frame = self._call.frame
        arg = frame.settled(name) if frame is not None else None
        if frame is None or arg is None:
            raise KeyError(f"{self._call.name} has no argument {name!r}")
        return frame.register(arg)

    def __repr__(self) -> str:
        return f"<Args of {self._call!r}>"
