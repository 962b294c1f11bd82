"""``proctor run``: a command under a policy and handlers."""

from __future__ import annotations

import argparse
import errno
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from proctor.cli import foreground, inherited
from proctor.cli.say import finish, give_up_output, say, standard_error
from proctor.errors import LaunchError, NestedListener, PolicyError, ProctorError
from proctor.given import MOST_ID, number
from proctor.observe.tell import Teller
from proctor.process.run import spawn
from proctor.words import quoted

if TYPE_CHECKING:
    from proctor.observe.events import Observer
    from proctor.observe.jsonlog import JsonLog
    from proctor.policy import Policy
    from proctor.policy.asking import Asks
    from proctor.process.child import Process
    from proctor.supervisor.handlers import Handler

_NOT_FOUND, _NOT_RUNNABLE = 127, 126


def run(options: argparse.Namespace) -> int:
    """Run the command; its exit status, or death by its signal."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        options.parser.error("what shall run? proctor run [options] -- COMMAND [ARGUMENT ...]")
    inherited.restore_environment()
    passed = inherited.take()
    extra: dict[str, Any] = {"die_with_monitor": True, "pass_fds": passed}
    extra["blocked_signals"] = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # as any wrapper does
    ignored = foreground.take_back_sigchld()
    if ignored is not None:
        extra["ignored_signals"] = ignored
    if options.userns is not False:  # an empty text is a mistake, not a no
        extra["userns"] = _id_range(options.userns)
    if options.agent is not None:
        return _by_agent(command, options, extra)
    if options.policy is None and (options.answers is not None or options.unattended):
        raise PolicyError(
            "--answers and --unattended are for rules that ask: they go with --policy"
        )
    if options.name is not None or options.metadata is not None:
        raise PolicyError("--name and --metadata are what an agent is told: they go with --agent")
    gc.disable()  # what is loaded from here on stays: to look it through again and again takes time
    handlers: list[Handler] = []
    if options.delegate:
        handlers.append(_delegated(options.delegate))
    if options.handlers is not None or options.policy is not None:
        foreground.divide(passed)
    if options.handlers is not None:
        from proctor.policy.handlerfile import doubts, load_handlers

        loaded = load_handlers(options.handlers)
        for warning in () if options.quiet else doubts(loaded):
            say(f"{options.handlers}: {warning}")
        handlers += loaded
    policy: Policy | None = None
    if options.policy is not None:
        from proctor.policy import load, warnings

        policy = load(options.policy)
        for warning in () if options.quiet else warnings(policy):
            say(f"{options.policy}: {warning}")
        extra["filter"] = policy.filter(extra_notify=handlers)
        handlers += policy.handlers(_asks(policy, options))
        extra |= policy.supervisor_options()
    if options.workers is not None:
        extra["workers"] = options.workers
    extra["alone"] = options.no_delegate
    performing = {name: getattr(options, name) for name in ("nested", "cgroup", "limit")}
    said = {name: value for name, value in performing.items() if value is not None}
    extra["performing"] = extra.get("performing", {}) | said
    teller = Teller(
        standard_error(),
        refusals=not options.quiet and options.log != "-",
        debug=options.debug,
    )
    observers: list[Observer] = [teller]
    log = None if options.log is None else _log(options.log)
    if log is not None:
        observers.append(log)
    summary = None
    if options.summary:
        from proctor.cli.summary import Summary

        summary = Summary()
        observers.append(summary)
    foreground.hold_signals()
    try:
        process = _spawn(command, handlers, observers=observers, **extra)
    except LaunchError as problem:
        return _not_launched(problem, options, _refusing_rule(policy, problem))
    if options.handlers is None:  # which may know one of them by its number
        inherited.give_up(passed)
    gc.freeze()
    gc.enable()
    try:
        code = foreground.wait(process, all_of_them=not options.no_wait)
    finally:
        process.close()
        teller.close()
        if summary is not None:
            standard_error().put(summary.text())
        if log is not None:
            finish(log.writer)
    try:
        sys.stdout.flush()  # what handlers printed
    except OSError as problem:
        say(f"standard output: {problem.strerror or problem}")
        give_up_output()
    finish()
    return foreground.end_like(code)


def _spawn(command: list[str], handlers: list[Handler], **extra: Any) -> Process:
    """Start it; below the supervisor above, if there is one."""
    try:
        return spawn(command, handlers, delegate=not extra.pop("alone"), **extra)
    except NestedListener:
        from proctor.process.above import above, spawn_below
        from proctor.process.neighbours import who_is_above

        said = "another seccomp listener already sits above this process"
        try:
            above()
        except ProctorError:
            raise ProctorError(f"{said}: {who_is_above()}") from None
        try:
            return spawn_below(command, handlers, **extra)
        except ProctorError as problem:
            if isinstance(problem, LaunchError):
                raise
            raise ProctorError(f"{said}: {problem}") from None


def _delegated(texts: list[str]) -> Handler:
    """Of calls about which supervisors below may ask, although nothing here is about them."""
    from proctor.supervisor.handlers import Handler

    return Handler(_names(texts), lambda call: None, label="--delegate")


def _names(texts: list[str]) -> list[str]:
    names = [name for text in texts for name in text.split(",") if name]
    if texts and not names:
        raise PolicyError(
            "--delegate wants system calls or groups of them: --delegate mount,mknodat"
        )
    return names


#: Options that say what an agent's policy says.
_AGENTS_OWN = (
    "policy", "handlers", "log", "summary", "quiet", "debug", "nested", "cgroup", "limit", "workers",
    "answers", "unattended",
)  # fmt: skip


def _by_agent(command: list[str], options: argparse.Namespace, extra: dict[str, Any]) -> int:
    """The same, served by an agent."""
    from proctor.agent.launching import spawn_by_agent

    for name in _AGENTS_OWN:
        if getattr(options, name):
            raise PolicyError(
                f"--{name} cannot go with --agent: the agent has policies and logs of its own"
            )
    foreground.divide(extra["pass_fds"])
    foreground.hold_signals()
    named = {"id": options.name or "", "metadata": options.metadata or ""}
    more = None if options.no_delegate else _names(options.delegate or [])
    passed = extra["pass_fds"]
    try:
        process = spawn_by_agent(command, options.agent, delegate=more, **named, **extra)
    except LaunchError as problem:
        return _not_launched(problem, options)
    inherited.give_up(passed)
    try:
        code = foreground.wait(process, all_of_them=not options.no_wait)
    finally:
        process.close()
    return foreground.end_like(code)


def _not_launched(problem: LaunchError, options: argparse.Namespace, why: str = "") -> int:
    """Say so; the exit status."""
    say(f"{problem}{why}")
    if problem.step != "execve":
        return int(options.trouble)
    return _NOT_FOUND if problem.errno == errno.ENOENT else _NOT_RUNNABLE


def _asks(policy: Policy, options: argparse.Namespace) -> Asks | None:
    """Who asks, if a rule does."""
    asking: list[Any] = [r.ruling.options for r in policy.rules if r.ruling.kind == "ask"]
    if not asking:
        return None
    from proctor.asking.asker import Asker
    from proctor.policy.asking import Asks

    if options.answers is not None:
        where = os.path.dirname(options.answers) or "."
        if not options.answers or not os.path.isdir(where):
            raise PolicyError(f"--answers {options.answers or quoted('')}: no place for a file")
    elif not options.quiet and any(x.remember == "always" for x in asking):
        say("no --answers: what is answered for good holds until this command ends")
    asker = Asker(unattended=options.unattended, trouble=say)
    return Asks(asker, lambda whose: options.answers if whose is policy else None)


def _log(path: str) -> JsonLog:
    from proctor.observe.jsonlog import JsonLog, to_file

    if path == "-":
        return JsonLog(standard_error(), containers=False)
    try:
        return JsonLog(
            to_file(
                path,
                lambda problem: say(
                    f"--log {path}: {problem.strerror}; what comes now is not logged"
                ),
            ),
            containers=False,
        )
    except OSError as problem:
        raise PolicyError(f"--log {path or quoted(path)}: {problem.strerror}") from None


def _refusing_rule(policy: Policy | None, problem: LaunchError) -> str:
    """Where it is the policy that refuses the command's own execve: by which rule."""
    if policy is None or problem.step != "execve":
        return ""
    from proctor.syscalls.architectures import native

    decision = policy.for_all(native(), "execve")
    if decision is None:
        return ""  # it depends on the path, and was told when it was decided
    ruling = decision.ruling
    if ruling.kind == "kill" or (ruling.kind == "deny" and ruling.value == problem.errno):
        return f" (by the policy: {decision.because}: {ruling})"
    return ""


def _id_range(text: bool | str) -> bool | list[tuple[int, int, int]]:
    if text is True:
        return True
    first, _, count = str(text).partition(":")
    if not (first.isascii() and first.isdigit() and count.isascii() and count.strip("0").isdigit()):
        raise PolicyError(
            f"--userns={text}: give the first id of the host and how many, as in --userns=100000:65536"
        )
    start, many = number(first, MOST_ID), number(count, MOST_ID + 1)
    if start is None or many is None or start + many > MOST_ID + 1:
        raise PolicyError(f"--userns={text}: user and group ids end at {MOST_ID}")
    if os.geteuid() != 0:
        raise PolicyError(
            f"--userns={text}: mapping ids other than your own takes root; --userns alone maps you"
        )
    return [(0, start, many)]
