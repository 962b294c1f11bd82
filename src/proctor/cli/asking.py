"""Verbs that ask a running agent: ``ps``, ``why``, ``logs``, ``policy``."""

from __future__ import annotations

import argparse
import json
import os
import select
import time
from collections.abc import Iterator
from typing import Any, Final

from proctor.cli.say import missing, say
from proctor.errors import ProctorError
from proctor.words import printable

#: Seconds between looks at a log that is followed.
_LOOK: Final = 0.2
#: Most rules that are remembered as shown.
_TIPS: Final = 4096
#: Most characters of a line of a log.
_LONGEST: Final = 16 << 20


def ask(options: argparse.Namespace, **request: str) -> dict[str, Any]:
    """Ask the agent that the options name.

    :raises ProctorError: nobody answers, or an error.
    """
    try:
        from proctor.agent import control
    except ImportError as problem:
        raise missing(problem, "the agent needs") from None
    return control.ask(options.control, **request)


def ps(options: argparse.Namespace) -> int:
    """Print the containers that are served."""
    rows = ask(options, do="ps")["containers"]
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    lines: list[tuple[str, ...]] = [
        ("CONTAINER", "POLICY", "LISTENERS", "REFUSED", "SINCE", "WHAT")
    ]
    for row in rows:
        labels = row["labels"]
        what = "/".join(labels[key] for key in ("namespace", "pod", "container") if key in labels)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["since"]))
        id = row["container"]
        lines.append(
            (id[:12] if len(id) == 64 else id, labels.get("policy") or "(none)",
             str(row["listeners"]), str(row["refused"]), since, what or labels["door"])
        )  # fmt: skip
    _table(lines)
    return 0


def _table(lines: list[tuple[str, ...]]) -> None:
    shown = [[printable(word) for word in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for line in shown:
        print(
            "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        )


def why(options: argparse.Namespace) -> int:
    """Say what was refused to a container lately, and what would let it through; 1 if nothing was."""
    found = ask(options, do="why", container=options.container)
    refusals = found["refusals"]
    if options.json:
        print(json.dumps(found, indent=2))
        return 0 if refusals else 1
    name = printable(found["container"])
    if not refusals:
        print(f"{name}: nothing was refused with a reason, as far as this monitor knows")
        return 1
    for each in refusals:
        times = "" if each["times"] == 1 else f" ({each['times']} times)"
        print(printable(f"{each['call']}: {each['verdict']}{times}"))
        _print_reason(each["reason"], each["tip"])
    if found.get("policy"):
        print(printable(f"{name} has the policy {found['policy']}"))
    return 0


def _print_reason(reason: str, tip: str) -> None:
    """The reason, in which the rule to add is one line, with the rule as a policy has it."""
    before, found, after = reason.partition(" ".join(tip.splitlines())) if tip else (reason, "", "")
    print(printable(f"    {before.rstrip()}"))
    for line in tip.splitlines() if found else ():
        print(printable(f"        {line}"))
    if after:
        print(printable(f"    {after.removeprefix('; ')}"))


def resolve(options: argparse.Namespace) -> int:
    """Print the policy that holds for a container, as it was taken; 1 if none does."""
    found = ask(options, do="resolve", container=options.container)
    if options.json:
        print(json.dumps(found, indent=2))
    elif found["policy"]:
        name = found["container"]
        print(printable(f"# {name} has the policy {found['policy']}: {found['why']}"))
        print(found["text"].rstrip("\n"))  # it was taken, so it is TOML: without control characters
    else:
        print(printable(f"none: {found['why']}"))
    return 0 if found["policy"] else 1


def reload(options: argparse.Namespace) -> int:
    """Have the agent look at its policies now, and print what is wrong with them; 1 if something is."""
    found = ask(options, do="reload")
    if options.json:
        print(json.dumps({"generation": found["generation"], "problems": found["problems"]}))
    else:
        for problem in found["problems"]:
            say(printable(problem))
    return 1 if found["problems"] else 0


def logs(options: argparse.Namespace) -> int:
    """Print the agent's log, a line for each call, or as it is."""
    path = options.file or ask(options, do="log")["log"]
    if not path:
        raise ProctorError("this agent keeps no log in a file; start it with --log FILE")
    tips: set[tuple[str, str]] = set()
    for line in _lines(path, follow=options.follow):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the rest of a disk that was full
        if not isinstance(record, dict):
            continue
        if options.container and not str(record.get("container", "")).startswith(options.container):
            continue
        print(
            line.rstrip("\n") if options.json else printable(_said(record, tips)),
            flush=options.follow,
        )
    return 0


def _said(record: dict[str, Any], tips: set[tuple[str, str]]) -> str:
    """A record in a line.

    :param tips: rules that were shown, and for whom: each is once, since a loop that is refused fills screens otherwise."""
    try:
        when = time.strftime("%H:%M:%S", time.localtime(record.get("time", 0)))
    except (TypeError, ValueError, OverflowError, OSError):
        when = "--:--:--"  # no record of ours
    head = f"{when} {record.get('container', '')}"
    if record.get("event") != "call":
        more = record.get("text") or record.get("how") or record.get("calls") or record.get("lines")
        return f"{head} {record.get('event')}" + (f": {more}" if more else "")
    verdict = " ".join(str(record[key]) for key in ("verdict", "errno") if key in record)
    reason = f": {record['reason']}" if "reason" in record else ""
    tip = str(record.get("tip", ""))
    known = (str(record.get("container", "")), tip)
    if tip and known in tips:
        reason = reason.partition("; would be allowed by")[0]
    elif len(tips) < _TIPS:
        tips.add(known)
    return f"{head} {record.get('call')}: {verdict}{reason}"


def _lines(path: str, *, follow: bool) -> Iterator[str]:
    """Whole lines of a file; of the one that takes its place, too.  Followed as long as somebody reads what we say."""
    reader = select.poll()
    reader.register(1, 0)  # only that it hangs up
    file = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115
    try:
        rest = ""
        while True:
            piece = file.readline(_LONGEST)
            if piece:
                rest += piece
                if len(rest) > _LONGEST:
                    raise ProctorError(
                        f"{path}: a line is longer than {_LONGEST} characters: no log"
                    )
                if rest.endswith("\n"):
                    yield rest
                    rest = ""
                continue
            if not follow:
                return
            if reader.poll(_LOOK * 1000):
                return  # as tail(1): the next line may be long in coming
            try:
                moved = not os.path.samestat(os.stat(path), os.fstat(file.fileno()))
            except OSError:
                continue  # not there yet
            if moved and not file.readline():
                file.close()
                file = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115
                rest = ""
    finally:
        file.close()
