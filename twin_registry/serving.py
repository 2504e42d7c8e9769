"""uvicorn inside a service of ours: on a socket that is open before we say so, without its own signal handling."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import uvicorn
from fastapi import FastAPI

from gemel.errors import ConfigError

GRACE_S = 1  # for answers under way; live readers never end by themselves


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the host's (gemel/host/service.py)."""
        yield


class Tls(NamedTuple):
    """The server's certificate chain and its key, PEM files."""

    cert_file: Path
    key_file: Path


@contextlib.asynccontextmanager
async def served(app: FastAPI, host: str, port: int, tls: Tls | None = None) -> AsyncIterator[int]:
    """Serve for as long as the block lasts; yields the port.

    Raises ConfigError for a port that is taken, and for files that hold no certificate with its key.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=GRACE_S,
        ws="none",
        ssl_certfile=tls and tls.cert_file,
        ssl_keyfile=tls and tls.key_file,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError("settings", "api_cert_file", f"a certificate and its key ({error})") from error
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError("settings", "api_port", f"a free port, which {host}:{port} is not ({error})") from error
    with listener:
        server = _Server(config)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets=[listener]), name="api")
            try:
                yield listener.getsockname()[1]
            finally:
                server.should_exit = True
