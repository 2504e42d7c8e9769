"""A socket that reads ahead of its reader: one call to the system for many small reads.

paho reads a packet in three calls (its kind, its length, the rest), and aiomqtt waits for the event loop after each
packet. Each call hands Python's lock to whoever waits for it, in a registry to the thread that commits. With what is
ahead in memory aiomqtt goes on reading without either, for it asks `pending` first, as it must with TLS.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike

READ_AHEAD_BYTES = 64 * 1024


class ReadAhead:
    """`socket`, whose bytes come in larger pieces than they are asked for. Errors are the socket's own."""

    def __init__(self, socket: SocketLike) -> None:
        self._socket, self._ahead = socket, memoryview(b"")

    def recv(self, buffer_size: int) -> bytes:
        """At most so many bytes; none at the end."""
        if not self._ahead:
            self._ahead = memoryview(self._socket.recv(max(buffer_size, READ_AHEAD_BYTES)))
        taken, self._ahead = self._ahead[:buffer_size], self._ahead[buffer_size:]
        return bytes(taken)

    def pending(self) -> int:
        """Bytes that can be had although the descriptor may say nothing of them."""
        held = self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0
        return len(self._ahead) + held

    def send(self, buffer: bytes | bytearray) -> int:
        """How many of the bytes went."""
        return self._socket.send(buffer)

    def close(self) -> None:
        """End it."""
        self._socket.close()

    def fileno(self) -> int:
        """Its file descriptor."""
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001  as sockets have it
        """Whether calls wait."""
        self._socket.setblocking(flag)
