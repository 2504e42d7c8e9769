"""The broker of a one-machine run: iotcore (rumqttd) in a child process, MQTT 5, loopback only.

    python -m gemel.embedded.broker [--port N]     prints "ready mqtt://127.0.0.1:PORT"; ends on SIGTERM, SIGINT,
                                                   or when the process that started it is gone

It has no rights and no TLS and keeps nothing across restarts: plants use mosquitto (mosquitto/). It ignores a
client's Receive Maximum (MAX_INFLIGHT bounds it instead), raises QoS 0 messages to the QoS of the subscription, and
does not send retained messages again when a session renews a subscription that it still has.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from iotcore import Broker

from gemel.errors import BusUnavailable, ConfigError

HOST = "127.0.0.1"
MAX_CONNECTIONS = 1000
MAX_INFLIGHT = 100  # unacknowledged messages to one client
MAX_PAYLOAD_BYTES = 2 * 1024 * 1024

# CONNECT: MQTT 5, clean start, keep-alive 10 s, no properties, client id "probe".
_CONNECT = b"\x10\x12\x00\x04MQTT\x05\x02\x00\x0a\x00\x00\x05probe"
_CONNACK = 0x20

_CONFIGURATION = f"""\
id = 0
[router]
id = 0
max_connections = {MAX_CONNECTIONS}
max_outgoing_packet_count = 200
max_segment_size = 8388608
max_segment_count = 16
[v5.1]
name = "gemel"
listen = "{HOST}:%d"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = {MAX_PAYLOAD_BYTES}
max_inflight_count = {MAX_INFLIGHT}
dynamic_filters = true
"""


class EmbeddedBroker:
    """A running broker. `url` is where clients find it."""

    def __init__(self, process: Broker, port: int) -> None:
        self._process, self.port = process, port
        self.url = f"mqtt://{HOST}:{port}"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return bool(self._process.is_running)


@asynccontextmanager
async def embedded_broker(port: int = 0) -> AsyncIterator[EmbeddedBroker]:
    """A broker that answers for as long as the block lasts. Port 0 takes a free one.

    The child watches a pipe from this process and ends with it, however that dies. Raises ConfigError for a port
    that is taken, BusUnavailable for a broker that does not come up.
    """
    port = port or _free_port()
    with tempfile.TemporaryDirectory(prefix="gemel-broker-") as folder:
        file = Path(folder) / "rumqttd.toml"
        file.write_text(_CONFIGURATION % port)
        process = Broker(config_path=str(file))
        try:
            try:
                await asyncio.to_thread(process.start)
                await _answers(port)
            except OSError as error:
                raise ConfigError("broker", "port", f"one that is free ({error})") from error
            except (RuntimeError, TimeoutError, asyncio.IncompleteReadError) as error:
                raise BusUnavailable(f"the embedded broker did not come up: {error}") from error
            yield EmbeddedBroker(process, port)
        finally:
            await asyncio.to_thread(process.stop)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


async def _answers(port: int) -> None:
    """Return once the broker accepts a CONNECT: a port that is open says little."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            writer.write(_CONNECT)
            answer = await reader.readexactly(4)
        finally:
            writer.close()
            await writer.wait_closed()
    if answer[0] != _CONNACK or answer[3] != 0:
        raise BusUnavailable(f"the embedded broker answered CONNECT with {answer.hex()}")


async def _serve(port: int) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    starter = os.getppid()
    async with embedded_broker(port) as broker:
        print(f"ready {broker.url}", flush=True)
        while not stop.is_set():
            if not broker.running:
                print("the broker's process ended by itself", file=sys.stderr)
                return 1
            if os.getppid() != starter:
                return 0
            try:
                async with asyncio.timeout(0.5):
                    await stop.wait()
            except TimeoutError:
                continue
    return 0


def main() -> int:
    """Run the broker from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gemel.embedded.broker", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    try:
        return asyncio.run(_serve(parser.parse_args().port))
    except (ConfigError, BusUnavailable) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
