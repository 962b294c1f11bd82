"""Launching a command that an agent serves: the other side of :mod:`proctor.agent.doors.launches`."""

from __future__ import annotations

import base64
import errno
import json
import os
import select
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from proctor.errors import ProctorError
from proctor.kernel import scm
from proctor.process.below import pass_on
from proctor.process.child import Process, spawn_served
from proctor.words import quoted

if TYPE_CHECKING:
    from proctor.kernel.plan import StrOrBytes
    from proctor.kernel.target import Target
    from proctor.supervisor.supervisor import Supervisor

#: Seconds in which an agent answers.
_PATIENCE: Final = 30.0
_LONGEST: Final = 1 << 18


class Served:
    """A command whose calls an agent answers: a :class:`~proctor.process.child.Serving`.

    :param path: of the agent's socket.
    :param id: what the agent is to call it.
    :param metadata, annotations: what its policy may be chosen by, too.
    :param delegate: calls and groups that supervisors below may decide about besides.
    :raises ProctorError: no agent is there, or it has no policy for the command.
    """

    serves = True

    def __init__(
        self,
        path: str,
        id: str,
        metadata: str = "",
        annotations: Mapping[str, str] | None = None,
        delegate: Sequence[str] = (),
    ) -> None:
        self._path = path
        self._alive = -1
        #: What the command inherits, so that supervisors in it register.
        self.way: socket.socket | None = None
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(_PATIENCE)
        try:
            try:
                self._sock.connect(path)
            except OSError as problem:
                other = problem.errno == errno.EPROTOTYPE
                raise ProctorError(
                    f"no agent launches at {path or quoted(path)}: {problem.strerror or problem}"
                    + ("; what is wanted is the socket of its --run" if other else "")
                ) from None
            hello = {"id": id, "metadata": metadata, "annotations": dict(annotations or {})}
            hello["delegate"] = list(delegate)
            #: Of the filter that the command's policy needs.
            self.program = base64.b64decode(self._ask(hello, "program"))
        except BaseException:
            self.close()
            raise

    def _ask(self, word: Mapping[str, Any], key: str, fds: Sequence[int] = ()) -> Any:
        try:
            scm.send(self._sock, json.dumps(word).encode(), fds)
        except BrokenPipeError:
            pass  # it has said why
        except OSError as problem:
            raise ProctorError(f"the agent at {self._path} is gone: {problem}") from None
        try:
            said, fds, _, _ = scm.receive(self._sock, _LONGEST)
        except OSError as problem:
            raise ProctorError(f"the agent at {self._path} does not answer: {problem}") from None
        if fds:
            self.way = socket.socket(fileno=fds[0])
        if not said:
            raise ProctorError(
                f"the agent at {self._path} does not answer us; who may launch is its --run"
            )
        try:
            answer = json.loads(said)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not answer.keys() & {"error", key}:
            raise ProctorError(f"what answers at {self._path} is no agent of this version")
        if key not in answer:
            raise ProctorError(f"the agent at {self._path} refuses: {answer['error']}")
        return answer[key]

    def begin(self, argv: Sequence[StrOrBytes]) -> None:
        """As :class:`~proctor.process.child.Serving`, also below."""

    def take(self, target: Target) -> None:
        """Bring its listener.

        :raises ProctorError: the agent does not want it."""
        if self.way is not None:
            self.way.close()
        self._alive, theirs = os.pipe2(os.O_CLOEXEC)
        listener = target.take_listener()
        try:
            self._ask({"pid": target.pid}, "served", [listener, theirs])
        finally:
            os.close(listener)  # while a copy is open, nobody notices that the agent is gone
            os.close(theirs)
        self._sock.close()

    def supervising(self) -> Supervisor:
        """See there."""
        raise ValueError("an agent answers the calls of this one")

    def wait(self, timeout: float | None) -> bool:
        """Until the agent, or whoever keeps its listeners, has let the listener go."""
        poll = select.poll()
        poll.register(self._alive, 0)  # only that it hangs up
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def close(self) -> None:
        """See there; what still runs is served all the same."""
        self._sock.close()
        if self.way is not None:
            self.way.close()
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1

    let_go = close


def spawn_by_agent(
    argv: Sequence[StrOrBytes],
    path: str,
    id: str = "",
    metadata: str = "",
    delegate: Sequence[str] | None = (),
    **options: Any,
) -> Process:
    """Start a command that the agent at ``path`` serves.

    :param id: what it is called there; by default its program's name and our process id.
    :param delegate: calls and groups about which supervisors in it may decide besides those that the agent's policy
        is about; None: none are taken in.
    :param options: as :func:`proctor.process.child.spawn_served` has them.
    :raises ProctorError: no agent is there, or it refuses.
    :raises LaunchError, NestedListener: as :func:`proctor.spawn`.
    """
    program = os.path.basename(os.fsencode(argv[0])).decode(errors="replace")  # any bytes but NUL
    name = id or f"{program or 'command'}-{os.getpid()}"
    served = Served(path, name, metadata, delegate=delegate or ())
    if delegate is not None and served.way is not None:
        served.way = socket.socket(fileno=pass_on(options, served.way))
    return spawn_served(argv, served.program, served, options)
