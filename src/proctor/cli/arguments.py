"""The command line, parsed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from proctor._version import VERSION
from proctor.cli.parsing import Once, Parser, absolute, amount, take, unicode, verb
from proctor.words import did_you_mean


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse; ``verb`` is the function to call, ``trouble`` the exit status for a user's mistake."""
    parser = Parser(
        prog="proctor",
        description="Supervise the system calls of a program: see them, answer them, perform them.",
    )
    parser.add_argument("--version", action="version", version=f"proctor {VERSION}")
    verbs = parser.add_subparsers(metavar="VERB", required=True, prog="proctor")
    ours = _run, _check, _profile, _doctor
    # to describe them all takes longer than to understand one
    mine = [each for each in ours if argv and each.__name__ == f"_{argv[0]}"]
    for each in mine or ours:
        each(verbs)
    if not mine:
        from proctor.cli.agent_arguments import agent, asking, nri

        for each in (agent, nri, asking):
            each(verbs)
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        word = unknown[0]
        near = word[:1] == "-" and did_you_mean(word.partition("=")[0], options.parser.words())
        options.parser.error(f"no such option or argument: {word}{near or ''}")
    options.arguments = list(argv)
    return options


def _run(verbs: argparse._SubParsersAction[Parser]) -> None:
    run = verbs.add_parser(
        "run",
        help="run a command under supervision",
        usage="proctor run [options] -- COMMAND [ARGUMENT ...]",
        description="Run a command under supervision. Its exit status and fatal signals are passed "
        "on unchanged; 125 is proctor's own trouble, 126 and 127 say that the command could not be "
        "run, or was not found.",
    )
    once: Any = {"action": Once}
    text: Any = {"type": unicode}
    take(
        run,
        ("--policy FILE.toml", "rules: which calls, when, what then", once),
        ("--handlers FILE.py", "Python handlers (functions marked @proctor.on)", once),
        ("--agent SOCKET", "have an agent serve the command (its --run), by the policy that it has for it", once),
        ("--name NAME", "what the agent is to call it", text),
        ("--metadata TEXT", "what the agent chooses its policy by, too", text),
        ("--userns FIRST:COUNT", "in a new user namespace, as its root: mapped to you, or with --userns=FIRST:COUNT to "
         "COUNT ids of the host from FIRST on", {"nargs": "?", "const": True, "default": False}),
        ("--log FILE", "append one JSON object per supervised call ('-': stderr)"),
        ("--quiet", "tell neither refusals nor warnings on standard error"),
        ("--debug", "tell a mistake in a handler every time, with its traceback (otherwise once, then how often)"),
        ("--summary", "end with a table of what was done, and how long it took"),
        ("--no-wait", "end with the command, even if descendants of it still run (their supervised calls then fail with "
         "ENOSYS)"),
        ("--answers FILE", "where rules that ask keep the answers that hold for good, as rules"),
        ("--unattended", "nobody is at the terminal: rules that would ask there take their default at once"),
        ("--delegate CALL,... ...", "have proctor run in the command decide about these calls or groups of them, too; "
         "about what this one is notified of it may in any case; may be repeated"),
        ("--no-delegate", "take no proctor run in the command in"),
    )  # fmt: skip
    who = "who performs and decides", "In the place of what the policy's keys of these names say."
    count: Any = {"type": amount}
    take(
        run.add_argument_group(*who),
        ("--nested", "what is performed for callers that made a user namespace of their own: nothing, or what takes no "
         "right that its owner lacks", {"choices": ("deny", "allow")}),
        ("--cgroup", "whether what performs a call joins the caller's cgroup", {"choices": ("join", "ignore")}),
        ("--limit N", "most calls that are performed at a time", count),
        ("--workers N", "most threads for what may take long", count),
    )  # fmt: skip
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    run.set_defaults(verb=verb("run"), trouble=125)


def _check(verbs: argparse._SubParsersAction[Parser]) -> None:
    check = verbs.add_parser(
        "check",
        help="say what is doubtful about policies",
        description="Read policies and print what they probably do not mean. Exit status 0: "
        "nothing; 1: something; 2: one is no policy.",
    )
    check.add_argument("policies", metavar="FILE.toml", nargs="+")
    check.set_defaults(verb=verb("check"))


def _profile(verbs: argparse._SubParsersAction[Parser]) -> None:
    profile = verbs.add_parser(
        "profile",
        help="write a container runtime's seccomp profile for a policy",
        description="Print the profile that notifies what a policy needs, for containers that an agent "
        "serves by that policy.",
    )
    profile.add_argument("policy", metavar="FILE.toml")
    formats = "oci", "podman", "docker", "lxc", "spo", "nri", "oci-artifact"
    merge: Any = {"action": "append", "dest": "merge"}
    take(
        profile,
        ("--format", "oci: runc, crun, containerd; podman, docker: also CRI-O's; spo: Security Profiles Operator",
         {"default": "oci", "choices": formats}),
        ("--base FILE", "a profile that holds where the policy has no rule; docker-default: containers-common's"),
        ("--union FILE", "another profile: allow what it allows as well; runtime-spec's order of actions",
         {**merge, "type": partial(_merging, "union")}),
        ("--intersect FILE", "another profile: allow what it allows alone; in the order of what is said, with --union; "
         "runtime-spec's order of actions", {**merge, "type": partial(_merging, "intersect")}),
        ("--listener SOCKET", "where the runtime finds the agent", {"type": absolute}),
        ("--metadata TEXT", "what the runtime tells the agent", {"type": unicode}),
        ("--killable", "signals do not interrupt received calls: Linux 5.19, and runc 1.5 or crun 1.6"),
    )  # fmt: skip
    profile.set_defaults(verb=verb("profile"))


def _merging(how: str, file: str) -> tuple[str, str]:
    return how, file


def _doctor(verbs: argparse._SubParsersAction[Parser]) -> None:
    doctor = verbs.add_parser(
        "doctor",
        help="say what this kernel and machine can do",
        description="Try every feature proctor uses, and say yes, no, or why not. "
        "Exit status 1 if supervision cannot work here.",
    )
    take(doctor, ("--json", "as JSON"))
    doctor.set_defaults(verb=verb("doctor"))
