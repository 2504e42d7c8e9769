"""Reads a twin off the bus and describes it in the words of a standard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.errors import BusUnavailable
from gemel.ports import BusMessage
from gemel.twin import asset_shell, thing_description
from gemel.twin.state import Twin, from_json
from gemel.wire import topics

PATIENCE_S = 10.0

FORMATS: Mapping[str, Callable[[Twin, str], bytes]] = {
    "td": thing_description.to_json,
    "aas": lambda twin, _broker: asset_shell.to_json(twin),
}


async def read_twin(settings: BusSettings, site: str, asset: str) -> Twin:
    """The retained twin. Raises BusUnavailable where none comes, Malformed where it is none."""
    document: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def hear(message: BusMessage) -> None:
        if not document.done():
            document.set_result(message.payload)

    topic = topics.twin_state(topics.name(site, "site"), topics.name(asset, "asset"))
    async with MqttBus(settings) as bus:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await bus.subscribe(topic, hear)
                payload = await document
        except TimeoutError:
            raise BusUnavailable(f"no twin on {topic!r} within {PATIENCE_S:.0f} s") from None
    return from_json(payload)
