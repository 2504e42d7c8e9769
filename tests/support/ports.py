"""Ports for tests."""

from __future__ import annotations

import secrets
import socket

# Below what Linux gives to outgoing connections (from 32,768 on): one of those may take a port before its service.
_LOWEST, _COUNT = 20_000, 12_000
_given: set[int] = set()


def free_port() -> int:
    """A port of the loopback that is free now, and given to nobody else in this process."""
    while True:
        port = _LOWEST + secrets.randbelow(_COUNT)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
