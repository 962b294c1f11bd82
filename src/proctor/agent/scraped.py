"""The HTTP server of metrics.  Whoever can reach its address may be anybody: containers in the host's network can."""

from __future__ import annotations

import socket
from collections.abc import Callable
from socketserver import ThreadingTCPServer
from threading import Lock
from typing import Any, Final

from prometheus_client import CollectorRegistry, MetricsHandler

from proctor.agent.settings import Place
from proctor.agent.sockets import peer_of
from proctor.kernel.threads import quiet_thread

#: Connections at a time, each of which has a thread; the oldest makes room for a further one.
MOST: Final = 16
#: Seconds that whoever connects may let us wait.
_PATIENCE: Final = 10.0


class _Server(ThreadingTCPServer):
    daemon_threads = True

    def __init__(
        self, sock: socket.socket, registry: CollectorRegistry, uids: frozenset[int] | None
    ) -> None:
        self._uids = uids
        self._lock = Lock()
        #: Those that are answered, the oldest first.
        self._open: dict[Any, None] = {}
        handler = type("Handler", (MetricsHandler,), {"registry": registry, "timeout": _PATIENCE})
        address = sock.getsockname()
        super().__init__(address, handler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether whoever asks may: of an address, everybody."""
        return self._uids is None or peer_of(request).uid in self._uids

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer it, in a thread."""
        with self._lock:
            self._open[request] = None
            if len(self._open) > MOST:
                oldest = next(iter(self._open))
                del self._open[oldest]
                try:
                    oldest.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it has gone by itself
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """It was answered."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has gone, or there are no more threads for us."""


def _listening(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, _, _, address = found[0]
    made = socket.socket(family, kind)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(MOST)
    except BaseException:
        made.close()
        raise
    return made


def serve(where: tuple[str, int] | Place, registry: CollectorRegistry) -> Callable[[], object]:
    """Answer on an address or a socket, from threads; returns what ends that.

    :raises OSError: the address cannot be had.
    :raises ProctorError: the socket cannot be had.
    """
    if isinstance(where, Place):
        server = _Server(where.listen(), registry, where.uids)
    else:
        server = _Server(_listening(*where), registry, None)
    quiet_thread(server.serve_forever, "proctor-metrics")

    def end() -> None:
        server.shutdown()
        server.server_close()

    return end
