"""A system-call supervisor for Linux: seccomp user notification, typed and race-free by default.

::

    import errno
    import proctor

    @proctor.on("mkdir", "mkdirat")
    def no_directories(call):
        return proctor.deny(errno.EROFS)

    proctor.run(["sh", "-c", "mkdir x || echo refused"], [no_directories])

Everything here is the public surface; names are loaded when first used, so that importing costs
little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor._version import VERSION as __version__

if TYPE_CHECKING:
    from proctor import families as families
    from proctor.call.call import Call as Call
    from proctor.call.caller import Caller as Caller
    from proctor.call.verdict import Answer as Answer
    from proctor.call.verdict import Deny as Deny
    from proctor.call.verdict import HandOver as HandOver
    from proctor.call.verdict import LetRun as LetRun
    from proctor.call.verdict import Perform as Perform
    from proctor.call.verdict import Verdict as Verdict
    from proctor.call.verdict import answer as answer
    from proctor.call.verdict import deny as deny
    from proctor.call.verdict import hand_over as hand_over
    from proctor.call.verdict import let_run as let_run
    from proctor.call.verdict import let_run_unsafe as let_run_unsafe
    from proctor.call.verdict import perform as perform
    from proctor.errors import AlreadyAnswered as AlreadyAnswered
    from proctor.errors import CallerInvisible as CallerInvisible
    from proctor.errors import CallError as CallError
    from proctor.errors import CallGone as CallGone
    from proctor.errors import CallOver as CallOver
    from proctor.errors import FilterError as FilterError
    from proctor.errors import LaunchError as LaunchError
    from proctor.errors import MemoryUnreadable as MemoryUnreadable
    from proctor.errors import MemoryUnwritable as MemoryUnwritable
    from proctor.errors import NestedListener as NestedListener
    from proctor.errors import NotPermitted as NotPermitted
    from proctor.errors import NotReceived as NotReceived
    from proctor.errors import NotResolved as NotResolved
    from proctor.errors import PolicyError as PolicyError
    from proctor.errors import ProctorError as ProctorError
    from proctor.errors import RacyVerdict as RacyVerdict
    from proctor.errors import TargetFdLimit as TargetFdLimit
    from proctor.errors import Unsupported as Unsupported
    from proctor.filter import actions as actions
    from proctor.filter.conditions import Condition as Condition
    from proctor.filter.rules import Filter as Filter
    from proctor.filter.rules import Rule as Rule
    from proctor.kernel.journal import Journal as Journal
    from proctor.kernel.launch import launch as launch
    from proctor.kernel.listener import Listener as Listener
    from proctor.kernel.memory import Memory as Memory
    from proctor.kernel.notification import Notification as Notification
    from proctor.kernel.target import Target as Target
    from proctor.observe.amount import Amount as Amount
    from proctor.observe.counters import Counters as Counters
    from proctor.observe.events import Outcome as Outcome
    from proctor.observe.events import outcomes as outcomes
    from proctor.observe.jsonlog import JsonLog as JsonLog
    from proctor.process.child import Process as Process
    from proctor.process.run import DEVNULL as DEVNULL
    from proctor.process.run import PIPE as PIPE
    from proctor.process.run import STDOUT as STDOUT
    from proctor.process.run import filter_for as filter_for
    from proctor.process.run import run as run
    from proctor.process.run import spawn as spawn
    from proctor.process.run_async import AsyncProcess as AsyncProcess
    from proctor.process.run_async import run_async as run_async
    from proctor.process.run_async import spawn_async as spawn_async
    from proctor.supervisor.container import Container as Container
    from proctor.supervisor.container import Quotas as Quotas
    from proctor.supervisor.handlers import Handler as Handler
    from proctor.supervisor.handlers import on as on
    from proctor.supervisor.ports import Later as Later
    from proctor.supervisor.supervisor import Supervisor as Supervisor

_ERRORS = (
    "AlreadyAnswered CallError CallGone CallOver CallerInvisible FilterError LaunchError "
    "MemoryUnreadable MemoryUnwritable NestedListener NotPermitted NotReceived NotResolved "
    "PolicyError ProctorError RacyVerdict TargetFdLimit Unsupported"
)
_WHERE: dict[str, str] = {
    name: module
    for module, names in {
        "proctor.process.child": "Process",
        "proctor.process.run": "DEVNULL PIPE STDOUT filter_for run spawn",
        "proctor.process.run_async": "AsyncProcess run_async spawn_async",
        "proctor.call.call": "Call",
        "proctor.call.caller": "Caller",
        "proctor.call.verdict": (
            "Answer Deny HandOver LetRun Perform Verdict "
            "answer deny hand_over let_run let_run_unsafe perform"
        ),
        "proctor.filter.conditions": "Condition",
        "proctor.filter.rules": "Filter Rule",
        "proctor.errors": _ERRORS,
        "proctor.kernel.journal": "Journal",
        "proctor.kernel.launch": "launch",
        "proctor.kernel.listener": "Listener",
        "proctor.kernel.memory": "Memory",
        "proctor.kernel.notification": "Notification",
        "proctor.kernel.target": "Target",
        "proctor.supervisor.container": "Container Quotas",
        "proctor.supervisor.handlers": "Handler on",
        "proctor.supervisor.ports": "Later",
        "proctor.observe.amount": "Amount",
        "proctor.observe.counters": "Counters",
        "proctor.observe.events": "Outcome outcomes",
        "proctor.observe.jsonlog": "JsonLog",
        "proctor.supervisor.supervisor": "Supervisor",
    }.items()
    for name in names.split()
}
#: Those that have another name where they are made, or are a module.
_RENAMED = {"actions": "proctor.filter.actions:", "families": "proctor.families:"}

__all__ = [*sorted({*_WHERE, *_RENAMED}), "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    module, _, attribute = (_RENAMED.get(name) or f"{_WHERE.get(name, '')}:{name}").partition(":")
    if not module:
        raise AttributeError(f"module 'proctor' has no attribute {name!r}")
    from importlib import import_module

    found = import_module(module)
    value: object = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
