"""The HTTP server of metrics.  Whoever can reach its address may be anybody: containers in the host's network can."""

from __future__ import annotations

import socket
from collections.abc import Callable
from socketserver import ThreadingTCPServer
from threading import Lock
from typing import Any, Final

from prometheus_client import CollectorRegistry, MetricsHandler

from proctor.kernel.threads import quiet_thread

#: Connections at a time, each of which has a thread; the oldest makes room for a further one.
MOST: Final = 16
#: Seconds that whoever connects may let us wait.
_PATIENCE: Final = 10.0


class _Server(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = MOST

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = found[0]
        self._lock = Lock()
        #: Those that are answered, the oldest first.
        self._open: dict[Any, None] = {}
        handler = type("Handler", (MetricsHandler,), {"registry": registry, "timeout": _PATIENCE})
        super().__init__(address, handler)  # type: ignore[arg-type]

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


def serve(host: str, port: int, registry: CollectorRegistry) -> Callable[[], object]:
    """Answer on an address, from threads; returns what ends that.

    :raises OSError: the address cannot be had.
    """
    server = _Server(host, port, registry)
    quiet_thread(server.serve_forever, "proctor-metrics")

    def end() -> None:
        server.shutdown()
        server.server_close()

    return end
