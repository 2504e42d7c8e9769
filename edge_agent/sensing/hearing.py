"""One door for all that a plant says: plain messages by their topics, Sparkplug B by its sessions."""

from __future__ import annotations

from collections.abc import Iterator

from edge_agent.sensing.decoding import Decoder, Heard
from edge_agent.sensing.mapping import SPARKPLUG, SensorMap
from gemel.learning.task import Head


class Hearing:
    """Decodes every message of the mapping. `asset` is the agent's own."""

    def __init__(self, mapping: SensorMap, heads: tuple[Head, ...], asset: str) -> None:
        self._decoder = Decoder(mapping, heads, asset)
        self._sparkplug = None
        if mapping.sparkplug:
            from edge_agent.sensing.sparkplug import SparkplugHost  # noqa: PLC0415  protobuf, where it is needed

            self._sparkplug = SparkplugHost(mapping, asset, self._decoder.asset_called)

    def hear(self, topic: str, payload: bytes, now_ms: int, monotonic_s: float) -> Iterator[Heard]:
        """What `payload` says, part by part, each a few milliseconds' work: take all of them. Never an exception.

        `now_ms` is our clock, `monotonic_s` measures intervals.
        """
        if self._sparkplug is not None and topic.startswith(f"{SPARKPLUG}/"):
            yield from self._sparkplug.hear(topic, payload, now_ms, monotonic_s)
        else:
            yield Heard((self._decoder.decode(topic, payload, now_ms),))
