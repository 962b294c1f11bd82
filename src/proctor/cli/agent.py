"""``proctor agent``: one monitor for the containers of this machine."""

from __future__ import annotations

import argparse
import grp
import os
import pwd
from typing import TYPE_CHECKING

from proctor.cli.say import say, standard_error
from proctor.errors import ProctorError
from proctor.observe.events import ContainerAdded, ContainerEnded
from proctor.words import did_you_mean, quoted

if TYPE_CHECKING:
    from proctor.agent.serve import Place


def agent(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT.

    :raises PolicyError: a policy cannot be read, or is none.
    :raises ProctorError, OSError: a socket cannot be had.
    """
    try:
        from proctor.agent import serve
    except ImportError as problem:
        raise ProctorError(
            f"{problem.name} is not installed, which the agent needs: pip install 'proctor[agent]'"
        ) from None
    from proctor.observe.tell import Teller

    settings = serve.Settings(
        policies=options.policy_dir,
        oci=[place(text) for text in options.oci or ()],
        deadline=options.deadline,
    )
    if not settings.oci:
        raise ProctorError(
            "where shall runtimes find it? proctor agent --oci /run/proctor/oci.sock"
        )
    teller = Teller(standard_error(), refusals=options.verbose)
    serve.run(settings, [teller, *([_tell_containers] if options.verbose else [])], say)
    return 0


def _tell_containers(event: ContainerAdded | ContainerEnded) -> None:
    if isinstance(event, ContainerAdded):
        say(f"served: container {quoted(event.container.name)}")
    else:
        say(f"{event.how}: container {quoted(event.container.name)}")


_tell_containers.events = (ContainerAdded, ContainerEnded)  # type: ignore[attr-defined]


def place(text: str) -> Place:
    """A socket as the command line has it: ``PATH[,uid=USER]...[,mode=OCTAL][,owner=USER[:GROUP]]``.

    Without ``uid`` root and our own user may connect.

    :raises ProctorError: in a sentence.
    """
    from proctor.agent.serve import Place

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
    return Place(path, frozenset(uids or {0, os.geteuid()}), mode, owner)


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
