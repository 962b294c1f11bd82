"""``proctor agent``: one monitor for the containers of this machine."""

from __future__ import annotations

import argparse
import grp
import os
import pwd
import socket
import sys
from typing import TYPE_CHECKING

from proctor.cli.say import finish, say, standard_error
from proctor.errors import ProctorError
from proctor.observe.events import ContainerAdded, ContainerEnded
from proctor.words import did_you_mean, quoted

if TYPE_CHECKING:
    from proctor.agent.keeping import Keeper
    from proctor.agent.settings import Place, Settings
    from proctor.observe.events import Observer
    from proctor.observe.jsonlog import JsonLog


def agent(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT: as the keeper of monitors, or as one of them.

    :raises PolicyError: a policy cannot be read, or is none.
    :raises ProctorError, OSError: a socket cannot be had.
    """
    try:
        import msgspec  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError as problem:
        raise ProctorError(
            f"{problem.name} is not installed, which the agent needs: pip install 'proctor[agent]'"
        ) from None
    from proctor.agent.settings import Settings, kept_sockets

    settings = Settings(
        policies=os.path.abspath(options.policy_dir),
        oci=[place(text) for text in options.oci or ()],
        lxc=[place(text, socket.SOCK_SEQPACKET) for text in options.lxc or ()],
        run=[place(text, socket.SOCK_SEQPACKET) for text in options.run or ()],
        control=None if options.control == "none" else place(options.control),
        metrics=None if options.metrics is None else _address(options.metrics),
        log="" if options.log in (None, "-", "journal") else os.path.abspath(options.log),
        deadline=options.deadline,
        answers=None if options.answers is None else os.path.abspath(options.answers),
    )
    if not (settings.oci or settings.lxc or settings.run):
        raise ProctorError(
            "where shall runtimes find it? proctor agent --oci /run/proctor/oci.sock"
        )
    if options.kept_by is None and options.keeper == "own":
        from proctor.agent.keeper import Keeper

        command = [sys.executable, "-P", "-m", "proctor", *options.arguments]
        keeper = Keeper(
            command,
            kept_sockets(settings),
            say,
            spare=not options.no_spare,
            give_up=options.give_up,
        )
        return keeper.run()
    return _monitor(settings, options)


def _monitor(settings: Settings, options: argparse.Namespace) -> int:
    from proctor.agent import serve
    from proctor.observe.tell import Teller

    observers: list[Observer] = [Teller(standard_error(), refusals=options.verbose)]
    if options.verbose:
        observers.append(_tell_containers)
    log = None if options.log is None else _log(options.log)
    if log is not None:
        observers.append(log)
    keeper: Keeper | None = None
    watchdog = None
    if options.kept_by is not None:
        from proctor.agent.keeping import KeptBy

        keeper = KeptBy(socket.socket(fileno=options.kept_by))
    elif options.keeper == "systemd":
        from proctor.agent.systemd import Store

        keeper = store = Store()
        if store.watchdog is not None:
            watchdog = store.watchdog, store.lives
    serve.run(settings, observers, say, keeper, watchdog)
    if log is not None:
        finish(log.writer)
    return 0


def _log(path: str) -> JsonLog:
    from proctor.agent.audit import Journal, LogFile
    from proctor.observe.jsonlog import JsonLog

    if path == "-":
        return JsonLog(standard_error())

    def broken(problem: OSError) -> None:
        say(f"--log {path}: {problem.strerror}; what comes now is not logged")

    try:
        return JsonLog(Journal(broken) if path == "journal" else LogFile(path, broken))
    except OSError as problem:
        raise ProctorError(f"--log {path or quoted(path)}: {problem.strerror}") from None


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ProctorError(f"--metrics {text}: HOST:PORT, as in 127.0.0.1:9464")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _tell_containers(event: ContainerAdded | ContainerEnded) -> None:
    if isinstance(event, ContainerAdded):
        say(f"served: container {quoted(event.container.name)}")
    else:
        say(f"{event.how}: container {quoted(event.container.name)}")


_tell_containers.events = (ContainerAdded, ContainerEnded)  # type: ignore[attr-defined]


def place(text: str, kind: int = socket.SOCK_STREAM) -> Place:
    """A socket as the command line has it: ``PATH[,uid=USER]...[,mode=OCTAL][,owner=USER[:GROUP]]``.

    Without ``uid`` root and our own user may connect.

    :raises ProctorError: in a sentence.
    """
    from proctor.agent.settings import Place

    path, *words = text.split(",")
    uids: set[int] = set()
    mode, owner = 0o600, None
    for word in words:
        key, _, value = word.partition("=")
        if key == "uid":
            uids.add(_user(value, text))
        elif key == "mode":
            mode = _mode(value, text)
        elif key == "owner":
            user, _, group = value.partition(":")
            owner = (_user(user, text), _group(group, text) if group else -1)
        else:
            raise ProctorError(
                f"{text}: {quoted(key)} is said of no socket{did_you_mean(key, ('uid', 'mode', 'owner'))}"
            )
    if not path.startswith("/"):
        raise ProctorError(f"{text}: runtimes want an absolute path")
    return Place(path, frozenset(uids or {0, os.geteuid()}), mode, owner, kind)


def _user(word: str, text: str) -> int:
    if word.isascii() and word.isdigit():
        return int(word)
    try:
        return pwd.getpwnam(word).pw_uid
    except KeyError:
        raise ProctorError(f"{text}: there is no user {quoted(word)}") from None


def _group(word: str, text: str) -> int:
    if word.isascii() and word.isdigit():
        return int(word)
    try:
        return grp.getgrnam(word).gr_gid
    except KeyError:
        raise ProctorError(f"{text}: there is no group {quoted(word)}") from None


def _mode(word: str, text: str) -> int:
    try:
        mode = int(word, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise ProctorError(f"{text}: mode={word}: give it in octal, as in mode=0660")
    return mode
