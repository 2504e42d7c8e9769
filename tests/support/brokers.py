"""Real brokers on free loopback ports, as async context managers that yield a url."""

from __future__ import annotations

import asyncio
import getpass
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from gemel.embedded.broker import embedded_broker as embedded
from tests.support.mosquitto import need_mosquitto
from tests.support.ports import free_port

__all__ = ["embedded_broker", "mosquitto"]


@asynccontextmanager
async def embedded_broker(port: int = 0) -> AsyncIterator[str]:
    async with embedded(port) as broker:
        yield broker.url


@asynccontextmanager
async def mosquitto(
    config_lines: Sequence[str] = ("allow_anonymous true",), port: int = 0, *, kill: bool = False
) -> AsyncIterator[str]:
    """`config_lines` follow the listener. `kill` ends it by SIGKILL, as a power cut would."""
    program, port = need_mosquitto(), port or free_port()
    with TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        lines = [
            f"listener {port} 127.0.0.1",
            "set_tcp_nodelay true",
            "log_dest none",
            f"user {getpass.getuser()}",
            *config_lines,
        ]
        config.write_text("\n".join(lines) + "\n")
        process = await asyncio.create_subprocess_exec(program, "-c", str(config))
        try:
            await _accepts(port, process)
            yield f"mqtt://127.0.0.1:{port}"
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            await process.wait()


async def _accepts(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(10):
        while True:
            assert process.returncode is None, "mosquitto refused its configuration"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            await writer.wait_closed()
            return
