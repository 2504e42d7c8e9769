"""sd_notify(3): tell the service manager how we are. Nothing happens where none is listening."""

from __future__ import annotations

import os
import socket


def notify(message: str) -> None:
    """Send `message` ("READY=1", "STATUS=…") to $NOTIFY_SOCKET. Raises OSError where it cannot be reached."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # a name in Linux's abstract namespace
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.connect(address)
        manager.sendall(message.encode())


def watchdog_interval_s() -> float | None:
    """How often WATCHDOG=1 is due: half of what the manager allows, or None where it asks for none of us."""
    allowed_us = os.environ.get("WATCHDOG_USEC", "")
    if not allowed_us.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(allowed_us) / 1_000_000 / 2
