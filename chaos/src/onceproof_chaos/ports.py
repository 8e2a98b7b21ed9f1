"""Ports for what a run starts."""

from __future__ import annotations

import contextlib
import random
import socket
from collections import deque
from typing import Final

_PORTS: Final = (20000, 30000)
_given: Final[deque[int]] = deque(maxlen=1000)
"""Ports lately given out: runs go on side by side, and a port is chosen long before it is used."""


def free_port() -> int:
    """A port that nothing listens on, from below those that the system gives to outgoing connections.

    A service is started long after its port was chosen, and one of its peers' connections would have it.
    """
    while True:
        port = random.randrange(*_PORTS)
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            _given.append(port)
            return port
