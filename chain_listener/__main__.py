"""python -m chain_listener --config FILE: what the chain approved becomes a deployment. All wiring is here."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import Field

from chain_listener.anchoring import MOST_ENTRIES, AnchoredLog, Anchoring, OwnLog
from chain_listener.deploying import Deploying
from chain_listener.handovers import EpochKeeper, Handovers
from chain_listener.order_telling import OrderTelling
from chain_listener.orders import OrderOpening
from chain_listener.registry_log import RegistryLog
from chain_listener.rights import RightsKeeper
from chain_listener.staging import StagingPolicy
from gemel.adapters import key_files
from gemel.adapters.contract_abi import MAINTENANCE
from gemel.adapters.evm_anchors import EvmAnchors
from gemel.adapters.evm_elections import EvmElections
from gemel.adapters.evm_sharing import EvmSharing
from gemel.adapters.evm_suspensions import EvmSuspensions
from gemel.adapters.evm_upkeep import EvmUpkeep
from gemel.adapters.mosquitto_rights import MosquittoRights
from gemel.adapters.plant_file import read_plant
from gemel.adapters.secret_files import read_private
from gemel.errors import ConfigError
from gemel.exchange.deployment_log import DeploymentLog
from gemel.exchange.standings import Standings
from gemel.exchange.wanted_rights import WantedRights
from gemel.host.background import Background
from gemel.host.chain_party import ChainParty, ChainPartySettings, follow_chain, open_chain_party
from gemel.host.service import Host, run_configured
from gemel.host.settings import Seconds, Section
from gemel.ports import Anchors, ChainEvent
from gemel.wire.logs import DEPLOYMENT_LOG

Share = Annotated[float, Field(ge=0, le=1)]
_TOKEN_BYTES = 4096


class RightsSection(Section):
    """[rights]: the broker obeys the chain (chain_listener/rights.py); without it nobody touches the broker's rights.

    The listener must be the administrator of mosquitto's dynamic security (mosquitto/README.md).
    """

    plant_file: Path  # who else is at the broker (gemel/adapters/plant_file.py); read at the start
    every_s: Seconds = 60.0  # between looks where nothing happens


class RegistrySection(Section):
    """[registry]: the twin registry's API, whose roots over the log of reads go on chain; without it they do not."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    token_file: Path | None = None  # of any token, where the API asks for one
    ca_file: Path | None = None  # PEM, for a certificate authority of the plant

    def log(self) -> RegistryLog:
        """Raises ConfigError for files that cannot be read, or that others can."""
        token, tls = "", None
        if self.token_file is not None:
            path = key_files.find(self.token_file, os.environ)
            token = read_private(path, "registry: token_file", _TOKEN_BYTES).decode(errors="replace").strip()
        if self.ca_file is not None:
            try:
                tls = ssl.create_default_context(cafile=self.ca_file)
            except OSError as error:  # an SSLError, too
                raise ConfigError("registry", "ca_file", f"certificates that can be read ({error})") from error
        return RegistryLog(self.url.rstrip("/"), token, tls)


class ListenerSettings(ChainPartySettings):
    """State, trust, key and policy files, [bus], [chain]; how carefully models go out (chain_listener/staging.py)."""

    patience_s: Seconds = 120.0  # for the fleet to install; after that those that have it count
    canary_share: Annotated[float, Field(gt=0, le=1)] = 0.25  # of the active agents try it first; 1: nobody does
    canary_patience_s: Seconds = 300.0  # for canaries to install it, and to say how it does
    unhealthy_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the canaries may be unwell
    healthy_share: Share = 0.5  # of the canaries must be well when the patience ends
    rights: RightsSection | None = None
    registry: RegistrySection | None = None
    anchor_interval_s: Seconds = 600.0  # between two roots of a log on chain
    anchor_entries: Annotated[int, Field(ge=1, le=MOST_ENTRIES)] = 100  # that wait: sooner

    @property
    def staging(self) -> StagingPolicy:
        """How carefully models go out."""
        return StagingPolicy(
            canary_share=self.canary_share,
            canary_patience_s=self.canary_patience_s,
            unhealthy_share=self.unhealthy_share,
            healthy_share=self.healthy_share,
            patience_s=self.patience_s,
        )


class HearsEvents(Protocol):
    """A part of the listener that is told each event of the chain."""

    async def on_event(self, event: ChainEvent) -> None:
        """Returns when its effect is durable."""


@asynccontextmanager
async def rights_keeper(
    host: Host[ListenerSettings], settings: RightsSection, opened: ChainParty
) -> AsyncIterator[RightsKeeper]:
    """The keeper of the broker's rights, ready to run."""
    party, calls, plant = opened.party, opened.calls, read_plant(settings.plant_file)
    sources = (opened.chain, EvmSharing(calls), EvmSuspensions(calls))
    wanted = WantedRights(*sources, party.trust, plant, host.clock)
    async with MosquittoRights(party.bus, party.keys.identity.address) as broker:
        yield RightsKeeper(wanted.read, broker, host.clock, host.metrics, settings.every_s)


def anchored_logs(settings: ListenerSettings, entries: DeploymentLog) -> list[AnchoredLog]:
    """Whose roots go on chain. Raises ConfigError."""
    return [OwnLog(entries), *([settings.registry.log()] if settings.registry is not None else [])]


def anchoring(host: Host[ListenerSettings], of: AnchoredLog, anchors: Anchors) -> Anchoring:
    """What anchors one log."""
    settings = host.settings

    def anchored(log: str, last: int) -> None:
        host.metrics.anchored_entries.labels(log).set(last)

    return Anchoring(of, anchors, host.clock, settings.anchor_interval_s, settings.anchor_entries, anchored)


async def main(host: Host[ListenerSettings]) -> None:
    """Wire and run until we are told to stop."""
    async with open_chain_party(host) as opened, AsyncExitStack() as stack, Background() as background:
        party = opened.party
        standings = Standings(party.post, party.electorates)
        await standings.listen()
        anchors = EvmAnchors(opened.calls)
        entries = await DeploymentLog.load(
            party.trust.task, party.records, host.clock, anchored=await anchors.anchored_entries(DEPLOYMENT_LOG)
        )
        deploying = Deploying(
            party.post, opened.chain, opened.agents, party.records, standings, host.settings.staging, entries
        )
        handovers = Handovers(party.post, party.records, party.electorates, standings)
        standings.on_heard = handovers.look
        await deploying.listen()
        orders = OrderOpening(
            party.post,
            opened.agents,
            EvmUpkeep(opened.calls),
            party.records,
            opened.calls.place.domain(MAINTENANCE),
            lambda outcome: host.metrics.maintenance_alerts.labels(outcome).inc(),
        )
        await orders.listen()
        telling = OrderTelling(party.bus, party.records, host.clock, orders.reopen)

        parts: list[HearsEvents] = [handovers, deploying, telling]
        if host.settings.rights is not None:
            keeper = await stack.enter_async_context(rights_keeper(host, host.settings.rights, opened))
            background.start(keeper.run(), "rights")
            parts.insert(0, keeper)  # it only takes note, and rights shall not wait for what others publish

        async def on_event(event: ChainEvent) -> None:
            for part in parts:
                await part.on_event(event)

        follow_chain(background, opened, on_event)
        background.start(deploying.run(), "deployments")
        background.start(handovers.run(), "handovers")
        background.start(EpochKeeper(party.post, EvmElections(opened.calls)).run(), "epochs")
        background.start(orders.run(), "maintenance orders")
        background.start(telling.run(), "orders told")
        for kept in anchored_logs(host.settings, entries):
            background.start(anchoring(host, kept, anchors).run(), f"anchors of {kept.name}")
        host.ready()
        await host.stopping.wait()


if __name__ == "__main__":
    run_configured("chain-listener", main, ListenerSettings)
