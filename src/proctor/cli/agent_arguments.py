"""The command line of the agent, and of the verbs that ask it."""

from __future__ import annotations

import argparse
from typing import Any, Final

from proctor.cli.parsing import Parser, absolute, duration, seconds, take, unicode, verb, whole
from proctor.words import quoted

#: Where an agent can be asked, if nobody says.
_CONTROL: Final = "/run/proctor/control.sock"


def _index(text: str) -> str:
    if not (len(text) == 2 and text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{quoted(text)}: two digits")
    return text


def nri(verbs: argparse._SubParsersAction[Parser]) -> None:
    """``proctor nri``."""
    parser = verbs.add_parser(
        "nri",
        help="give the containers of containerd or CRI-O their profiles",
        description="Register as an NRI plugin: containers that a policy of the directory is for are created "
        "with the seccomp profile that it needs, on top of the one that they have. containerd 2.2, CRI-O 1.34.",
    )
    needed: Any = {"required": True}
    take(
        parser,
        ("--policy-dir DIR", "as of proctor agent", needed),
        ("--listener SOCKET", "where the runtime finds the agent (its --oci)", {**needed, "type": absolute}),
        ("--socket PATH", "the runtime's", {"default": "/var/run/nri/nri.sock"}),
        ("--index NN", "order among plugins", {"type": _index, "default": "90"}),
        ("--base FILE", "the runtime's default profile, where it does not tell; docker-default: containers-common's"),
        ("--killable", "signals do not interrupt received calls: Linux 5.19, and runc 1.5 or crun 1.6"),
    )  # fmt: skip
    parser.set_defaults(verb=verb("nri"))


def agent(verbs: argparse._SubParsersAction[Parser]) -> None:
    """``proctor agent``."""
    parser = verbs.add_parser(
        "agent",
        help="supervise the containers of this machine",
        description="Answer the calls that container runtimes' seccomp profiles notify, by the policies "
        "of a directory, until SIGTERM. A socket is PATH[,uid=USER]...[,mode=OCTAL]"
        "[,owner=USER[:GROUP]]; root and whoever runs the agent may connect unless it says who.",
    )
    take(
        parser,
        ("--policy-dir DIR", "NAME.toml: policies; containers.toml: which container has which"),
        ("--oci SOCKET ...", "where OCI runtimes connect: listenerPath of their seccomp profiles; may be repeated"),
        ("--lxc SOCKET ...", "where LXC's monitors connect: lxc.seccomp.notify.proxy of containers; may be repeated"),
        ("--run SOCKET ...", "where proctor run --agent connects; may be repeated"),
        ("--deadline SECONDS", "deny what is not decided by then, where a policy does not say how long", {"type": seconds}),
        ("--answers DIR", "where it is kept what was answered to rules that ask, as rules: NAME.toml of policies, "
         "containers/ of containers"),
        ("--control SOCKET", f"where proctor ps and others ask ({_CONTROL}; none: nowhere)", {"default": _CONTROL}),
        ("--metrics HOST:PORT|SOCKET", "where Prometheus may ask for metrics: an address, or a socket as above"),
        ("--log FILE", "append one JSON object per call, container and trouble ('-': stderr; journal: systemd's); it may "
         "be rotated"),
        ("--no-spare", "keep no second monitor ready: it takes less memory, and the next one takes longer to take over"),
        ("--drain SECONDS", "at the end, wait so long for calls that are in flight (5)", {"type": duration, "default": 5.0}),
        ("--pid-file FILE", "written once it serves, removed at the end"),
        ("--upgrade", "have the agent that --control names replace its monitor by one of the program as it is on disk now, "
         "and wait until that serves"),
        ("--give-up SECONDS", "let all listeners go after so long without a monitor (60)",
         {"type": seconds, "default": 60.0}),
        ("--keeper", "who keeps listeners while a monitor is replaced: a parent of its own, the service manager, or "
         "nobody, and whoever waits for an answer then gets ENOSYS",
         {"choices": ("own", "systemd", "none"), "default": "own"}),
        ("--kept-by N", argparse.SUPPRESS, {"type": int}),
        ("--verbose", "tell each refusal on standard error, with its reason"),
    )  # fmt: skip
    parser.set_defaults(verb=verb("agent"))


def asking(verbs: argparse._SubParsersAction[Parser]) -> None:
    """``proctor ps`` and others."""
    ps = verbs.add_parser("ps", help="list the containers that an agent serves")
    ps.set_defaults(verb=verb("asking", "ps"))
    top = verbs.add_parser(
        "top",
        help="show what an agent's containers do, as it goes on",
        description="Calls in a second by policy, call and verdict, and what containers take, until Ctrl-C. "
        "Without a terminal: once, as JSON.",
    )
    take(
        top,
        ("--every SECONDS", "(2)", {"type": seconds, "default": 2.0}),
        ("--times N", "end after so many", {"type": whole}),
    )
    top.set_defaults(verb=verb("top"))
    why = verbs.add_parser(
        "why",
        help="say what was refused to a container, and why",
        description="What was refused to a container lately, with the rule that would let it through. "
        "Exit status 1 if nothing was.",
    )
    why.set_defaults(verb=verb("asking", "why"))
    logs = verbs.add_parser("logs", help="show an agent's log")
    logs.add_argument("-f", "--follow", action="store_true", help="and what comes")
    logs.add_argument("--file", help="in the place of the agent's own")
    logs.set_defaults(verb=verb("asking", "logs"))
    policy = verbs.add_parser("policy", help="ask an agent about policies")
    what = policy.add_subparsers(metavar="WHAT", required=True, prog="proctor policy")
    resolve = what.add_parser(
        "resolve",
        help="print the policy that holds for a container",
        description="Print the policy that holds for a container as it was taken, which its file may not be any "
        "more, and what of containers.toml chose it. Exit status 1 if it has none.",
    )
    resolve.set_defaults(verb=verb("asking", "resolve"))
    reload = what.add_parser(
        "reload",
        help="look for changed policies now",
        description="Have the agent look for changed policies now, and print what is wrong with them. Exit status 1 if "
        "something is.",
    )
    reload.set_defaults(verb=verb("asking", "reload"))
    for parser in (ps, top, why, logs, resolve, reload):
        socket = "--control PATH", "the agent's socket", {"default": _CONTROL}
        take(parser, ("--json", "as JSON"), socket)
    for parser in (why, resolve):
        parser.add_argument("container", type=unicode, help="its id, or the beginning of it")
    logs.add_argument("container", type=unicode, nargs="?", default="", help="of this one only")
