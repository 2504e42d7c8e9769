"""Twins of further machines that the sources speak of: kept and published, with alerts and desired values, but not
diagnosed and not learned from.

There are at most `bound` of them. One more is refused: its readings are counted, and the first time it is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass

import structlog

from edge_agent.metrics import AgentMetrics
from edge_agent.sensing.decoding import Decoded
from edge_agent.sensing.intake import Intake
from edge_agent.sensing.mapping import PropertyMap
from edge_agent.sensing.values import Fault
from edge_agent.twinning.acting import DesiredDesk
from edge_agent.twinning.live import AGEING_S, LiveTwin
from gemel.errors import BusRefused
from gemel.ports import Bus, Clock

_log = structlog.get_logger("gemel.agent.further")


@dataclass(frozen=True, slots=True)
class _Kept:
    twin: LiveTwin
    intake: Intake
    desired: DesiredDesk


class FurtherTwins:
    """The twins by asset. `load` brings one from the disk, or a blank one; `load_desk` what is desired of it."""

    def __init__(
        self,
        bound: int,
        load: Callable[[str], Awaitable[LiveTwin]],
        load_desk: Callable[[LiveTwin], Awaitable[DesiredDesk]],
        *,
        properties: Mapping[str, PropertyMap],
        bus: Bus,
        clock: Clock,
        metrics: AgentMetrics,
    ) -> None:
        self._bound, self._load, self._load_desk, self._properties = bound, load, load_desk, properties
        self._bus, self._clock, self._metrics = bus, clock, metrics
        self._kept: dict[str, _Kept] = {}
        self._full = False
        self._beginning = asyncio.Lock()
        self._come: asyncio.Queue[_Kept] = asyncio.Queue()

    @property
    def assets(self) -> Sequence[str]:
        """Those that are kept, by name."""
        return sorted(self._kept)

    async def keep(self, assets: Sequence[str]) -> None:
        """Go on with those that were kept before."""
        if len(assets) > self._bound:
            _log.warning("max_assets was lowered", not_kept=list(assets[self._bound :]))
        for asset in assets[: self._bound]:
            await self._begin(asset)

    async def take(self, decoded: Decoded, now_ms: int, monotonic_s: float) -> None:
        """What a message says of a further asset."""
        kept = self._kept.get(decoded.asset)
        if kept is None:
            if not decoded.readings:
                return  # what nobody has read anything of yet needs no twin
            kept = await self._begin(decoded.asset)
            if kept is None:
                self._refuse(decoded.asset)
                return
        taken = kept.intake.take(kept.twin.now, decoded, now_ms, monotonic_s)
        kept.twin.become(taken.twin, since_s=monotonic_s)

    async def run(self) -> None:
        """Publish and age them for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._age(), name="age further twins")
            while True:
                kept = await self._come.get()
                asset = kept.twin.now.asset
                tasks.create_task(self._unless_refused(asset, kept.twin.run()), name=f"publish twin of {asset}")
                tasks.create_task(self._unless_refused(asset, kept.desired.run()), name=f"desired of {asset}")

    async def _begin(self, asset: str) -> _Kept | None:
        """None where there is no room for one more."""
        async with self._beginning:  # messages of several subscriptions may name one asset at once
            if asset in self._kept or len(self._kept) >= self._bound:
                return self._kept.get(asset)
            twin = await self._load(asset)
            now_ms, monotonic_s = self._clock.now_ms(), self._clock.monotonic_s()
            intake = Intake(self._properties, twin.now, now_ms, monotonic_s, self._metrics.reading)
            kept = _Kept(twin, intake, await self._load_desk(twin))
            self._kept[asset] = kept
            self._come.put_nowait(kept)
            _log.info("keeps a further twin", asset=asset, twins=len(self._kept), bound=self._bound)
            return kept

    def _refuse(self, asset: str) -> None:
        self._metrics.reading(Fault.OVER_BOUND)
        if not self._full:
            self._full = True
            event = "no twin for this asset: max_assets are kept; more of this kind are only counted"
            _log.error(event, asset=asset, max_assets=self._bound + 1)

    async def _unless_refused(self, asset: str, running: Coroutine[None, None, None]) -> None:
        """A broker that lets the agent keep no such twin costs this one, not the agent."""
        try:
            await running
        except* BusRefused as refusals:
            for refusal in refusals.exceptions:
                _log.error("the broker refuses a further asset", asset=asset, error=str(refusal))

    async def _age(self) -> None:
        linked = False
        while True:
            monotonic_s, returned = self._clock.monotonic_s(), self._bus.connected and not linked
            for kept in self._kept.values():
                kept.twin.become(kept.intake.tend(kept.twin.now, monotonic_s))
                if returned:
                    kept.twin.publish_again()  # the broker may have forgotten it
            linked = self._bus.connected
            await self._clock.sleep(AGEING_S)
