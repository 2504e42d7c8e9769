"""One door for all that a plant says: plain messages by their topics, Sparkplug B by its sessions."""

from __future__ import annotations

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

    def hear(self, topic: str, payload: bytes, now_ms: int, monotonic_s: float) -> Heard:
        """What `payload` says; never an exception. `now_ms` is our clock, `monotonic_s` measures intervals."""
        if self._sparkplug is not None and topic.startswith(f"{SPARKPLUG}/"):
            return self._sparkplug.hear(topic, payload, now_ms, monotonic_s)
        return Heard((self._decoder.decode(topic, payload, now_ms),))
