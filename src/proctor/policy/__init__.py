"""Policies: rules in a TOML file, made into a filter and handlers.

``load(path)`` gives a :class:`Policy`; ``Policy.filter()`` and ``Policy.handlers()`` are made of the
same rules.  The format is described in ``docs/policy.md``.  Names are loaded when first used: a run
without a policy pays nothing for this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proctor.policy.check import warnings as warnings
    from proctor.policy.handlerfile import load_handlers as load_handlers
    from proctor.policy.loader import load as load
    from proctor.policy.loader import loads as loads
    from proctor.policy.policy import Policy as Policy
    from proctor.policy.rules import Reason as Reason

__all__ = ["Policy", "Reason", "load", "load_handlers", "loads", "warnings"]

_WHERE = {
    "Policy": "policy",
    "Reason": "rules",
    "load": "loader",
    "load_handlers": "handlerfile",
    "loads": "loader",
    "warnings": "check",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
