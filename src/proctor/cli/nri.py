"""``proctor nri``: a plugin of containerd's and CRI-O's NRI."""

from __future__ import annotations

import argparse
import socket

from proctor.cli.say import missing, say
from proctor.errors import ProctorError


def nri(options: argparse.Namespace) -> int:
    """Answer the runtime until it goes away; 1 then, for whoever starts us again.

    :raises PolicyError: a policy cannot be read, or is none.
    :raises ProctorError: the runtime cannot be reached, or refuses.
    """
    try:
        from proctor.agent.nri.plugin import Plugin
        from proctor.agent.policies import Book
    except ImportError as problem:
        raise missing(problem, "NRI needs", "nri") from None
    from proctor.policy.profile import base_profile

    book = Book(options.policy_dir, say)
    book.load()
    plugin = Plugin(
        book,
        options.listener,
        base=base_profile(options.base) if options.base is not None else None,
        killable=options.killable,
        tell=say,
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(options.socket)
        except OSError as problem:
            raise ProctorError(
                f"{options.socket}: {problem.strerror}; is NRI on in the runtime?"
            ) from None
        plugin.serve(sock, index=options.index)
    say("the runtime closed the connection")
    return 1
