"""Threads that no signal finds."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Final

_ALL: Final = signal.valid_signals()


def quiet_thread(target: Callable[[], object], name: str) -> threading.Thread:
    """Start a daemon thread in which every signal is blocked from its first instruction.

    Threads that speak to a listener must not be interrupted: on most kernels a
    signal during ADDFD|SEND loses the descriptor (C074).  Python runs its signal handlers on the
    main thread anyway.

    :raises RuntimeError: there are no more threads for us.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where there is nothing but fakes
        thread.start()
        return thread
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # This may raise, too: it runs the Python handlers of signals that came before
        signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread
