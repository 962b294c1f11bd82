"""The control socket: one JSON request in a line, one JSON answer in a line (docs/agent.md)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proctor.agent import dropping
from proctor.errors import ProctorError
from proctor.kernel import scm
from proctor.words import quoted

__all__ = ["ask"]

if TYPE_CHECKING:
    from proctor.agent.agent import Agent
    from proctor.agent.held import Held
    from proctor.agent.metrics import Metrics
    from proctor.agent.refusals import Refusals
    from proctor.agent.sockets import Peer

#: Seconds for a request to come, and its answer to be taken.
_PATIENCE: Final = 10.0
#: Most bytes of a request, and of an answer.
_LONGEST: Final = 1 << 16
_LONGEST_ANSWER: Final = 64 << 20
#: What is asked for, and what each answer has.
_ANSWERS: Final = {
    "ps": "containers", "top": "calls", "log": "log", "reload": "generation", "resolve": "policy",
    "upgrade": "replaced", "why": "refusals",
}  # fmt: skip


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked."""

    #: ``"ps"``, ``"top"``, ``"why"``, ``"resolve"``, ``"log"``, ``"reload"`` or ``"upgrade"``.
    do: str
    #: An id, or the beginning of one.
    container: str = ""


class Control:
    """Answers requests about an agent.

    :param metrics: counts calls.
    :param log: where its calls are logged; "" if they are not.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        agent: Agent,
        refusals: Refusals,
        metrics: Metrics,
        log: str,
    ) -> None:
        self._loop = loop
        self._agent = agent
        self._refusals = refusals
        self._metrics = metrics
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    def connected(self, sock: socket.socket, peer: Peer, name: str = "") -> None:
        """Take a new connection, which is ours from now on."""
        task = self._loop.create_task(self._serve(sock, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket, peer: Peer) -> None:
        try:
            line = await asyncio.wait_for(self._line(sock, peer), _PATIENCE)
            if line:
                answer = json.dumps(self.answer(line)).encode() + b"\n"
                await asyncio.wait_for(self._loop.sock_sendall(sock, answer), _PATIENCE)
        except (TimeoutError, OSError):
            pass  # too slow, or gone
        finally:
            dropping.drop(peer.uid, [sock.detach()])

    async def _line(self, sock: socket.socket, peer: Peer) -> bytes:
        """What comes up to the end of a line, or of all; nothing if that is too long.  Descriptors that come along are closed by
        those who may wait for it."""
        line = bytearray()
        while len(line) <= _LONGEST:
            readable = self._loop.create_future()
            self._loop.add_reader(sock, _is_there, readable)
            try:
                await readable
            finally:
                self._loop.remove_reader(sock)
            message = scm.receive(
                sock, _LONGEST, drop=lambda lost: dropping.drop(peer.uid, lost.fds)
            )
            dropping.drop(peer.uid, message.fds)
            line += message.data
            if not message.data or b"\n" in message.data:
                return bytes(line)
        return b""

    def answer(self, line: bytes) -> dict[str, Any]:
        """What is answered: an object, with ``error`` in it if there is no other answer."""
        try:
            request = msgspec.json.decode(line, type=Request)
            return {"monitor": os.getpid(), **self._do(request)}
        except (msgspec.MsgspecError, ProctorError) as problem:
            return {"error": str(problem)}

    def _do(self, request: Request) -> dict[str, Any]:
        if request.do == "ps":
            rows = [self._row(held) for held in self._agent.containers]
            return {"containers": rows}
        if request.do == "top":
            return self._top()
        if request.do == "log":
            return {"log": self._log}
        if request.do == "upgrade":
            self._agent.renew()
            return {"replaced": os.getpid()}
        if request.do == "reload":
            self._agent.refresh(settle=False)
            book = self._agent.book
            return {"generation": book.generation, "problems": book.problems}
        if request.do == "resolve":
            held = self._find(request.container)
            text = held.resolved.text
            return {"container": held.facts.id, **self._resolved(held), "text": text}
        if request.do == "why":
            return self._why(request.container)
        raise ProctorError(f"nothing here does {quoted(request.do)}")

    def _top(self) -> dict[str, Any]:
        rows = []
        for held in self._agent.containers:
            waiting, threads = self._agent.supervisor.taken(held.container)
            rows.append({**self._row(held), "waiting": waiting, "threads": threads})
        calls = [
            {"policy": policy, "call": call, "verdict": verdict, "count": count}
            for (policy, call, verdict), count in self._metrics.table().items()
        ]
        return {"time": time.time(), "calls": calls, "containers": rows}

    def _row(self, held: Held) -> dict[str, Any]:
        facts = held.facts
        refused = sum(each.times for each in self._refusals.of(held.container))
        return {
            "container": facts.id,
            "labels": dict(held.container.labels),
            "pid": facts.pid,
            "listeners": len(held.listeners) + held.connections,
            "since": held.since,
            "refused": refused,
            **self._resolved(held),
        }

    def _resolved(self, held: Held) -> dict[str, Any]:
        resolved = held.resolved
        policy = None if resolved.policy is None else resolved.policy.name
        return {"policy": policy, "why": resolved.why}

    def _find(self, id: str) -> Held:
        held = self._agent.containers
        found = [each for each in held if each.facts.id == id] or [
            each for each in held if id and each.facts.id.startswith(id)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise ProctorError(f"{quoted(id)} is the beginning of {len(found)} containers' ids")
        raise ProctorError(f"no container {quoted(id)} is served here")

    def _why(self, id: str) -> dict[str, Any]:
        try:
            held = self._find(id)
        except ProctorError:
            over = self._refusals.of_ended(id)
            if over is None:
                raise
            return {"container": id, "ended": True, "refusals": msgspec.to_builtins(over)}
        refusals = msgspec.to_builtins(self._refusals.of(held.container))
        return {
            "container": held.facts.id,
            "ended": False,
            "refusals": refusals,
            **self._resolved(held),
        }

    def close(self) -> None:
        """Answer nobody any more."""
        for task in list(self._tasks):
            task.cancel()


def _is_there(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


def ask(path: str, **request: str) -> dict[str, Any]:
    """Ask the agent at ``path``, from another process: what the verbs ``proctor ps``, ``why``... do.

        >>> ask("/nowhere/control.sock", do="ps")
        Traceback (most recent call last):
        ProctorError: no agent answers at /nowhere/control.sock: No such file or directory; ...

    :param request: what is asked (``do``), and about which ``container``.
    :raises ProctorError: nobody listens there, or the answer is an error.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE)
        try:
            sock.connect(path)
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as answers:
                line = answers.readline(_LONGEST_ANSWER)
        except (ConnectionResetError, BrokenPipeError):
            line = b""
        except OSError as problem:
            why = problem.strerror or problem
            raise ProctorError(
                f"no agent answers at {path or quoted(path)}: {why}; "
                "is proctor agent running, with that --control?"
            ) from None
    if not line.endswith(b"\n"):
        raise ProctorError(f"the agent at {path} does not answer us; who may ask is its --control")
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or not answer.keys() & {"error", _ANSWERS[request["do"]]}:
        raise ProctorError(f"what answers at {path} is no agent of this version")
    if "error" in answer:
        raise ProctorError(str(answer["error"]))
    return answer
