"""The command line, parsed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import import_module
from typing import Any, Final, NoReturn

from proctor._version import VERSION
from proctor.words import printable, quoted

#: Where an agent can be asked, if nobody says.
_CONTROL: Final = "/run/proctor/control.sock"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse; ``verb`` is the function to call, ``trouble`` the exit status for a user's mistake."""
    parser = _Parser(
        prog="proctor",
        description="Supervise the system calls of a program: see them, answer them, perform them.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"proctor {VERSION}")
    verbs = parser.add_subparsers(metavar="VERB", required=True, prog="proctor")
    all_of_them = _run, _check, _profile, _nri, _doctor, _agent, _ask
    # to describe them all takes longer than to understand one
    mine = [each for each in all_of_them if argv and each.__name__ == f"_{argv[0]}"]
    for each in mine or all_of_them:
        each(verbs)
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        options.parser.error(f"no such option or argument: {unknown[0]}")
    options.arguments = list(argv)
    return options


@cache
def _columns() -> int:
    """As shutil.get_terminal_size(), which takes a millisecond to load."""
    try:
        return int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        pass
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return 80


class _Help(argparse.HelpFormatter):
    """Made for each argument, whether help is wanted or not."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=(_columns() or 80) - 2)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints end with the verb's own exit status for trouble."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, **options)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(self.get_default("trouble") or 2, f"{self.prog}: error: {printable(message)}\n")


class _Once(argparse.Action):
    """An option that says which rules hold: of two the last would win, and the first be forgotten."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option} is given twice; put it all into one file")
        setattr(namespace, self.dest, values)


def _run(verbs: argparse._SubParsersAction[_Parser]) -> None:
    run = verbs.add_parser(
        "run",
        help="run a command under supervision",
        usage="proctor run [options] -- COMMAND [ARGUMENT ...]",
        description="Run a command under supervision. Its exit status and fatal signals are passed "
        "on unchanged; 125 is proctor's own trouble, 126 and 127 say that the command could not be "
        "run, or was not found.",
        allow_abbrev=False,
    )
    run.add_argument(
        "--policy",
        metavar="FILE.toml",
        action=_Once,
        help="rules: which calls, when, what then",
    )
    run.add_argument(
        "--handlers",
        metavar="FILE.py",
        action=_Once,
        help="Python handlers (functions marked @proctor.on)",
    )
    run.add_argument(
        "--agent",
        metavar="SOCKET",
        action=_Once,
        help="have an agent serve the command (its --run), by the policy that it has for it",
    )
    run.add_argument("--name", metavar="NAME", help="what the agent is to call it")
    run.add_argument("--metadata", metavar="TEXT", help="what the agent chooses its policy by, too")
    run.add_argument(
        "--userns",
        nargs="?",
        const=True,
        default=False,
        metavar="FIRST:COUNT",
        help="in a new user namespace, as its root: mapped to you, or with --userns=FIRST:COUNT to "
        "COUNT ids of the host from FIRST on",
    )
    run.add_argument(
        "--log", metavar="FILE", help="append one JSON object per supervised call ('-': stderr)"
    )
    run.add_argument(
        "--quiet", action="store_true", help="tell neither refusals nor warnings on standard error"
    )
    run.add_argument(
        "--debug",
        action="store_true",
        help="tell a mistake in a handler every time, with its traceback (otherwise once, then how "
        "often)",
    )
    run.add_argument(
        "--summary",
        action="store_true",
        help="end with a table of what was done, and how long it took",
    )
    run.add_argument(
        "--no-wait",
        action="store_true",
        help="end with the command, even if descendants of it still run (their supervised calls "
        "then fail with ENOSYS)",
    )
    run.add_argument(
        "--answers",
        metavar="FILE",
        help="where rules that ask keep the answers that hold for good, as rules",
    )
    run.add_argument(
        "--unattended",
        action="store_true",
        help="nobody is at the terminal: rules that would ask there take their default at once",
    )
    run.add_argument(
        "--delegate",
        action="append",
        metavar="CALL,...",
        help="have proctor run in the command decide about these calls or groups of them, too; about "
        "what this one is notified of it may in any case; may be repeated",
    )
    run.add_argument(
        "--no-delegate", action="store_true", help="take no proctor run in the command in"
    )
    more = run.add_argument_group(
        "who performs and decides", "In the place of what the policy's keys of these names say."
    )
    more.add_argument(
        "--nested",
        choices=("deny", "allow"),
        help="what is performed for callers that made a user namespace of their own: nothing, or "
        "what takes no right that its owner lacks",
    )
    more.add_argument(
        "--cgroup",
        choices=("join", "ignore"),
        help="whether what performs a call joins the caller's cgroup",
    )
    more.add_argument(
        "--limit", type=_whole, metavar="N", help="most calls that are performed at a time"
    )
    more.add_argument(
        "--workers", type=_whole, metavar="N", help="most threads for what may take long"
    )
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    run.set_defaults(verb=_verb("run"), trouble=125, parser=run)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{quoted(text)}: a whole number from 1 on")
    return int(text)


def _check(verbs: argparse._SubParsersAction[_Parser]) -> None:
    check = verbs.add_parser(
        "check",
        help="say what is doubtful about policies",
        description="Read policies and print what they probably do not mean. Exit status 0: "
        "nothing; 1: something; 2: one is no policy.",
        allow_abbrev=False,
    )
    check.add_argument("policies", metavar="FILE.toml", nargs="+")
    check.set_defaults(verb=_verb("check"), trouble=2, parser=check)


def _profile(verbs: argparse._SubParsersAction[_Parser]) -> None:
    profile = verbs.add_parser(
        "profile",
        help="write a container runtime's seccomp profile for a policy",
        description="Print the profile that notifies what a policy needs, for containers that an agent "
        "serves by that policy.",
        allow_abbrev=False,
    )
    profile.add_argument("policy", metavar="FILE.toml")
    profile.add_argument(
        "--format",
        default="oci",
        choices=("oci", "podman", "lxc", "spo", "nri", "oci-artifact"),
        help="oci: runc, crun, containerd; podman: also Docker, CRI-O; spo: Security Profiles Operator",
    )
    profile.add_argument(
        "--base",
        metavar="FILE",
        help="a profile that holds where the policy has no rule; docker-default: containers-common's",
    )
    for how, help in (
        ("union", "allow what it allows as well"),
        ("intersect", "allow what it allows alone; in the order of what is said, with --union"),
    ):
        profile.add_argument(
            f"--{how}",
            metavar="FILE",
            action="append",
            dest="merge",
            type=partial(_merging, how),
            help=f"another profile: {help}; runtime-spec's order of actions",
        )
    profile.add_argument(
        "--listener", type=_text, metavar="SOCKET", help="where the runtime finds the agent"
    )
    profile.add_argument("--metadata", metavar="TEXT", help="what the runtime tells the agent")
    profile.add_argument(
        "--killable",
        action="store_true",
        help="signals do not interrupt received calls: Linux 5.19, and runc 1.5 or crun 1.6",
    )
    profile.set_defaults(verb=_verb("profile"), trouble=2, parser=profile)


def _merging(how: str, file: str) -> tuple[str, str]:
    return how, file


def _index(text: str) -> str:
    if not (len(text) == 2 and text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{quoted(text)}: two digits")
    return text


def _nri(verbs: argparse._SubParsersAction[_Parser]) -> None:
    nri = verbs.add_parser(
        "nri",
        help="give the containers of containerd or CRI-O their profiles",
        description="Register as an NRI plugin: containers that a policy of the directory is for are created "
        "with the seccomp profile that it needs, on top of the one that they have. containerd 2.2, CRI-O 1.34.",
        allow_abbrev=False,
    )
    nri.add_argument("--policy-dir", required=True, metavar="DIR", help="as of proctor agent")
    nri.add_argument(
        "--listener",
        required=True,
        type=_text,
        metavar="SOCKET",
        help="where the runtime finds the agent (its --oci)",
    )
    nri.add_argument(
        "--socket", default="/var/run/nri/nri.sock", metavar="PATH", help="the runtime's"
    )
    nri.add_argument("--index", type=_index, default="90", metavar="NN", help="order among plugins")
    nri.add_argument(
        "--base",
        metavar="FILE",
        help="the runtime's default profile, where it does not tell; docker-default: containers-common's",
    )
    nri.add_argument(
        "--killable",
        action="store_true",
        help="signals do not interrupt received calls: Linux 5.19, and runc 1.5 or crun 1.6",
    )
    nri.set_defaults(verb=_verb("nri"), trouble=2, parser=nri)


def _doctor(verbs: argparse._SubParsersAction[_Parser]) -> None:
    doctor = verbs.add_parser(
        "doctor",
        help="say what this kernel and machine can do",
        description="Try every feature proctor uses, and say yes, no, or why not. "
        "Exit status 1 if supervision cannot work here.",
        allow_abbrev=False,
    )
    doctor.add_argument("--json", action="store_true", help="as JSON")
    doctor.set_defaults(verb=_verb("doctor"), trouble=2, parser=doctor)


def _agent(verbs: argparse._SubParsersAction[_Parser]) -> None:
    agent = verbs.add_parser(
        "agent",
        help="supervise the containers of this machine",
        description="Answer the calls that container runtimes' seccomp profiles notify, by the policies "
        "of a directory, until SIGTERM. A socket is PATH[,uid=USER]...[,mode=OCTAL]"
        "[,owner=USER[:GROUP]]; root and whoever runs the agent may connect unless it says who.",
        allow_abbrev=False,
    )
    agent.add_argument(
        "--policy-dir",
        required=True,
        metavar="DIR",
        help="NAME.toml: policies; containers.toml: which container has which",
    )
    agent.add_argument(
        "--oci",
        action="append",
        metavar="SOCKET",
        help="where OCI runtimes connect: listenerPath of their seccomp profiles; may be repeated",
    )
    agent.add_argument(
        "--lxc",
        action="append",
        metavar="SOCKET",
        help="where LXC's monitors connect: lxc.seccomp.notify.proxy of containers; may be repeated",
    )
    agent.add_argument(
        "--run",
        action="append",
        metavar="SOCKET",
        help="where proctor run --agent connects; may be repeated",
    )
    agent.add_argument(
        "--deadline",
        type=_seconds,
        metavar="SECONDS",
        help="deny what is not decided by then, where a policy does not say how long",
    )
    agent.add_argument(
        "--answers",
        metavar="DIR",
        help="where it is kept what was answered to rules that ask, as rules: NAME.toml of policies, "
        "containers/ of containers",
    )
    agent.add_argument(
        "--control",
        default=_CONTROL,
        metavar="SOCKET",
        help=f"where proctor ps and others ask ({_CONTROL}; none: nowhere)",
    )
    agent.add_argument(
        "--metrics", metavar="HOST:PORT", help="where Prometheus may ask for metrics"
    )
    agent.add_argument(
        "--log",
        metavar="FILE",
        help="append one JSON object per call, container and trouble ('-': stderr; journal: systemd's); it may be "
        "rotated",
    )
    agent.add_argument(
        "--no-spare",
        action="store_true",
        help="keep no second monitor ready: it takes less memory, and the next one takes longer to take over",
    )
    agent.add_argument(
        "--give-up",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="let all listeners go after so long without a monitor (60)",
    )
    agent.add_argument(
        "--keeper",
        choices=("own", "systemd", "none"),
        default="own",
        help="who keeps listeners while a monitor is replaced: a parent of its own, the service manager, "
        "or nobody, and whoever waits for an answer then gets ENOSYS",
    )
    agent.add_argument("--kept-by", type=int, help=argparse.SUPPRESS)
    agent.add_argument(
        "--verbose",
        action="store_true",
        help="tell each refusal on standard error, with its reason",
    )
    agent.set_defaults(verb=_verb("agent"), trouble=2, parser=agent)


def _ask(verbs: argparse._SubParsersAction[_Parser]) -> None:
    ps = verbs.add_parser("ps", help="list the containers that an agent serves", allow_abbrev=False)
    ps.set_defaults(verb=_verb("asking", "ps"))
    top = verbs.add_parser(
        "top",
        help="show what an agent's containers do, as it goes on",
        description="Calls in a second by policy, call and verdict, and what containers take, until Ctrl-C. "
        "Without a terminal: once, as JSON.",
        allow_abbrev=False,
    )
    top.add_argument("--every", type=_seconds, default=2.0, metavar="SECONDS", help="(2)")
    top.add_argument("--times", type=_whole, metavar="N", help="end after so many")
    top.set_defaults(verb=_verb("top"))
    why = verbs.add_parser(
        "why",
        help="say what was refused to a container, and why",
        description="What was refused to a container lately, with the rule that would let it through. "
        "Exit status 1 if nothing was.",
        allow_abbrev=False,
    )
    why.set_defaults(verb=_verb("asking", "why"))
    logs = verbs.add_parser("logs", help="show an agent's log", allow_abbrev=False)
    logs.add_argument("-f", "--follow", action="store_true", help="and what comes")
    logs.add_argument("--file", help="in the place of the agent's own")
    logs.set_defaults(verb=_verb("asking", "logs"))
    policy = verbs.add_parser("policy", help="ask an agent about policies", allow_abbrev=False)
    what = policy.add_subparsers(metavar="WHAT", required=True, prog="proctor policy")
    resolve = what.add_parser(
        "resolve",
        help="print the policy that holds for a container",
        description="Print the policy that holds for a container as it was taken, which its file may not be any "
        "more, and what of containers.toml chose it. Exit status 1 if it has none.",
        allow_abbrev=False,
    )
    resolve.set_defaults(verb=_verb("asking", "resolve"))
    reload = what.add_parser("reload", help="look for changed policies now", allow_abbrev=False)
    reload.set_defaults(verb=_verb("asking", "reload"))
    for parser in (ps, top, why, logs, resolve):
        parser.add_argument("--json", action="store_true", help="as JSON")
    for parser in (why, resolve):
        parser.add_argument("container", help="its id, or the beginning of it")
    logs.add_argument("container", nargs="?", default="", help="of this one only")
    for parser in (ps, top, why, logs, resolve, reload):
        parser.add_argument(
            "--control", default=_CONTROL, metavar="PATH", help="the agent's socket"
        )
        parser.set_defaults(trouble=2, parser=parser)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: seconds, more than 0")
    return seconds


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def _verb(module: str, name: str = "") -> Callable[[argparse.Namespace], int]:
    """What a verb does, loaded when it is to."""

    def do(options: argparse.Namespace) -> int:
        status: int = getattr(import_module(f"proctor.cli.{module}"), name or module)(options)
        return status

    return do
