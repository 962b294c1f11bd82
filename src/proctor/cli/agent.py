"""``proctor agent``: one monitor for the containers of this machine."""

from __future__ import annotations

import argparse
import grp
import os
import pwd
import socket
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from proctor.cli.say import finish, missing, say, standard_error
from proctor.errors import ProctorError
from proctor.given import MOST_ID, number
from proctor.observe.events import ContainerAdded, ContainerEnded
from proctor.words import did_you_mean, quoted

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.agent.keeping import Keeper
    from proctor.agent.settings import Place, Settings
    from proctor.observe.events import Observer
    from proctor.observe.jsonlog import JsonLog

#: Seconds in which a new monitor takes over, and between looks whether it has.
_PATIENCE: Final = 30.0
_LOOK: Final = 0.1
#: Seconds after which a service ends that could not begin.
_PAUSE: Final = 1.0


def agent(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT: as the keeper of monitors, or as one of them.

    :raises PolicyError: a policy cannot be read, or is none.
    :raises ProctorError, OSError: a socket cannot be had.
    """
    try:
        import msgspec  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError as problem:
        raise missing(problem, "the agent needs") from None
    if options.upgrade:
        return _upgrade(options.control)
    if options.policy_dir is None:
        raise ProctorError("which policies shall hold? proctor agent --policy-dir DIR")
    from proctor.agent.settings import Settings, kept_sockets

    settings = Settings(
        policies=os.path.abspath(options.policy_dir),
        oci=[place(text) for text in options.oci or ()],
        lxc=[place(text, socket.SOCK_SEQPACKET) for text in options.lxc or ()],
        run=[place(text, socket.SOCK_SEQPACKET) for text in options.run or ()],
        control=None if options.control == "none" else place(options.control),
        metrics=None if options.metrics is None else _where(options.metrics),
        log="" if options.log in (None, "-", "journal") else os.path.abspath(options.log),
        deadline=options.deadline,
        drain=options.drain,
        answers=None if options.answers is None else os.path.abspath(options.answers),
    )
    if not (settings.oci or settings.lxc or settings.run):
        raise ProctorError(
            "where shall runtimes find it? proctor agent --oci /run/proctor/oci.sock"
        )
    pid = _PidFile(options.pid_file if options.kept_by is None else None)
    if options.kept_by is None and options.keeper == "own":
        from proctor.agent.keeper import Keeper

        command = [sys.executable, "-P", "-m", "proctor", *options.arguments]
        keeper = Keeper(
            command,
            kept_sockets(settings),
            say,
            spare=not options.no_spare,
            give_up=options.give_up,
            drain=options.drain,
            ready=pid.write,
        )
        with pid:
            return keeper.run()
    with pid:
        return _monitor(settings, options, pid.write)


class _PidFile:
    """Of the process that is to get signals: there once it serves, and gone with it.

    :raises ProctorError: when it is entered, it cannot be made.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path

    def __enter__(self) -> None:
        if self._path is not None:
            try:
                self._file = open(f"{self._path}.new", "w", opener=_anew)
            except OSError as problem:
                raise ProctorError(f"--pid-file {self._path}: {problem.strerror}") from None

    def write(self) -> None:
        """We serve."""
        if self._path is not None:
            with self._file:
                self._file.write(f"{os.getpid()}\n")
            os.rename(self._file.name, self._path)  # nobody reads half of it

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            with suppress(OSError):
                os.unlink(self._path if self._file.closed else self._file.name)
            self._file.close()


def _anew(path: str, flags: int) -> int:
    """Opens a file that is nobody else's."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)


def _upgrade(control: str) -> int:
    from proctor.agent.control import ask

    old = ask(control, do="upgrade")["replaced"]
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        with suppress(ProctorError):  # who answered was replaced just then
            new = ask(control, do="log")["monitor"]
            if new != old:
                say(f"monitor {new} has taken over from monitor {old}")
                return 0
        time.sleep(_LOOK)
    raise ProctorError(
        f"monitor {old} still serves after {_PATIENCE:g} seconds: what the agent tells on its standard error says why"
    )


def _monitor(settings: Settings, options: argparse.Namespace, ready: Callable[[], object]) -> int:
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
    try:
        left = serve.run(settings, observers, say, keeper, watchdog, ready)
    except (ProctorError, OSError):
        if options.keeper == "systemd":  # which starts the next one at once, again and again
            time.sleep(_PAUSE)
        raise
    if log is not None:
        finish(log.writer)
    if left and options.kept_by is not None:
        finish()
        # whoever is next waits for our end, and to take thousands of containers apart takes long
        os._exit(0)
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


def _where(text: str) -> tuple[str, int] | Place:
    if text.startswith("/"):
        return place(text)
    host, colon, digits = text.rpartition(":")
    port = number(digits, 65535)
    if not colon or port is None:
        raise ProctorError(f"--metrics {text}: HOST:PORT, as in 127.0.0.1:9464, or a socket's path")
    return host.removeprefix("[").removesuffix("]"), port


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
        raise ProctorError(
            f"{text}: an absolute path is wanted, which means the same to whoever connects"
        )
    return Place(path, frozenset(uids or {0, os.geteuid()}), mode, owner, kind)


def _user(word: str, text: str) -> int:
    if word.isascii() and word.isdigit():
        return _id(word, text)
    try:
        return pwd.getpwnam(word).pw_uid
    except KeyError:
        raise ProctorError(f"{text}: there is no user {quoted(word)}") from None


def _group(word: str, text: str) -> int:
    if word.isascii() and word.isdigit():
        return _id(word, text)
    try:
        return grp.getgrnam(word).gr_gid
    except KeyError:
        raise ProctorError(f"{text}: there is no group {quoted(word)}") from None


def _id(word: str, text: str) -> int:
    found = number(word, MOST_ID)
    if found is None:
        raise ProctorError(f"{text}: user and group ids end at {MOST_ID}")
    return found


def _mode(word: str, text: str) -> int:
    try:
        mode = int(word, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise ProctorError(f"{text}: mode={word}: give it in octal, as in mode=0660")
    return mode
